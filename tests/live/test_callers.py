# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose mmap it was: malloc's is proven by its caller only where the call itself is seen."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.live.tracing import Traced, cli

from memtrace.trace.reader import Trace
from memtrace.trace.records import Call

# The thread's function ends in a jump to mmap: the word at the stack pointer is then in libc
# (start_thread), and the shape is malloc's to the last flag. Nobody touches the page.
TAIL = r"""
#include <pthread.h>
#include <sys/mman.h>
static void *body(void *unused) { return mmap(0, 135168, 3, 0x22, -1, 0); }
int main(void) {
    pthread_t thread;
    void *mapped;
    pthread_create(&thread, 0, body, 0);
    pthread_join(thread, &mapped);
    return mapped == MAP_FAILED;
}
"""


def of_size(done: Traced, size: int) -> list[dict[str, Any]]:
    """The regions of malloc's shape that are neither heap nor stack."""
    regions = json.loads(cli("report", done.path, "--format", "json").stdout)["processes"][0][
        "regions"
    ]
    return [r for r in regions if r["peak_bytes"] == size and r["kind"] not in {"heap", "stack"}]


def test_a_jump_to_mmap_proves_no_malloc(tmp_path: Path, run: Callable[..., Traced]) -> None:
    source, program = tmp_path / "tail.c", tmp_path / "tail"
    source.write_text(TAIL)
    subprocess.run(["gcc", "-O2", "-pthread", source, "-o", program], check=True)
    done = run(program)
    assert done.returncode == 0
    (region,) = of_size(done, 135168)
    assert (region["kind"], region["evidence"]) == ("unknown", "none")
    assert "malloc-chunk" in region["candidates"]


def test_the_call_in_malloc_is_seen(sample: Callable[..., Traced]) -> None:
    done = sample("direct-mmap")
    chunk, mine = sorted(of_size(done, 135168), key=lambda r: r["kind"], reverse=True)
    assert (chunk["kind"], mine["kind"]) == ("malloc-chunk", "anon")
    with Trace(str(done.path)) as trace:
        for seq, _, record in trace.records():
            if seq == chunk["born_seq"]:
                assert isinstance(record, Call)
                site = trace.decoder.site(record)
    assert site is not None
    assert site.direct is True


# The same of the break: the thread's function ends in a jump to sbrk.
GROWS = r"""
#include <pthread.h>
#include <unistd.h>
static void *body(void *unused) { return sbrk(4096); }
int main(void) {
    pthread_t thread;
    void *old;
    pthread_create(&thread, 0, body, 0);
    pthread_join(thread, &old);
    return old == (void *)-1;
}
"""


def test_a_jump_to_sbrk_is_not_malloc(tmp_path: Path, run: Callable[..., Traced]) -> None:
    source, program = tmp_path / "tail.c", tmp_path / "tail"
    source.write_text(GROWS)
    subprocess.run(["gcc", "-O2", "-pthread", source, "-o", program], check=True)
    done = run(program)
    assert done.returncode == 0
    heap = json.loads(cli("report", done.path, "--format", "json").stdout)["processes"][0]["heap"]
    steps = [(s["delta"], s["verdict"], s["role"]) for s in heap["steps"]]
    assert steps[-1] == (4096, "unknown", "unknown")
    assert [s[1:] for s in steps[:-1]] in ([], [("holds", "first-heap")])
