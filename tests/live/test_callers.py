# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose mmap it was: malloc's is proven by its caller only where the call itself is seen."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.live.driving import Drive, chunks, needs_32_bit, of_kind, steps
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


PAIRED = "explained", "alignment"


def of_size(done: Traced, size: int) -> list[dict[str, Any]]:
    """The regions of malloc's shape that are neither heap nor stack."""
    regions = json.loads(cli("report", done.path, "--format", "json").stdout)["processes"][0][
        "regions"
    ]
    return [r for r in regions if r["peak_bytes"] == size and r["kind"] not in {"heap", "stack"}]


def built(folder: Path, text: str, width: str) -> Path:
    """A program of that source, of 64 or 32 bits (-m64, -m32)."""
    if width == "-m32":
        needs_32_bit()
    source, program = folder / "tail.c", folder / "tail"
    source.write_text(text)
    options = ["-O2", "-pthread", "-fno-pie", "-no-pie", width]
    subprocess.run(["gcc", *options, source, "-o", program], check=True)
    return program


def test_a_jump_to_mmap_proves_no_malloc(tmp_path: Path, run: Callable[..., Traced]) -> None:
    done = run(built(tmp_path, TAIL, "-m64"))
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


@pytest.mark.parametrize("width", ["-m64", "-m32"])
def test_a_jump_to_sbrk_is_not_malloc(
    tmp_path: Path, run: Callable[..., Traced], width: str
) -> None:
    done = run(built(tmp_path, GROWS, width))
    assert done.returncode == 0
    heap = json.loads(cli("report", done.path, "--format", "json").stdout)["processes"][0]["heap"]
    steps = [(s["delta"], s["verdict"], s["role"]) for s in heap["steps"]]
    assert steps[-1] == (4096, "unknown", "unknown")
    made = [s[1:] for s in steps[:-1]]
    assert made in ([], [("holds", "first-heap")], [("holds", "first-heap"), PAIRED])


# twalk calls a function of the program's that ends in a jump to brk: two return addresses in libc.
WALKS = r"""
#define _GNU_SOURCE
#include <search.h>
#include <unistd.h>
static char *end;
static int order(const void *a, const void *b) { return (a > b) - (a < b); }
static void grow(const void *node, VISIT when, int depth) { brk(end += 200704); }
int main(void) {
    static int keys[100];
    void *root = 0;
    for (int i = 0; i < 100; i++) tsearch(&keys[i], &root, order);
    end = sbrk(0);
    twalk(root, grow);
    return 0;
}
"""


@pytest.mark.parametrize("width", ["-m64", "-m32"])
def test_a_jump_to_brk_is_not_malloc(
    tmp_path: Path, run: Callable[..., Traced], width: str
) -> None:
    done = run(built(tmp_path, WALKS, width))
    assert done.returncode == 0
    heap = json.loads(cli("report", done.path, "--format", "json").stdout)["processes"][0]["heap"]
    foreign = [s for s in heap["steps"] if s["delta"] == 200704]
    assert len(foreign) > 150
    assert {s["verdict"] for s in foreign} <= {"not-applicable", "unknown"}


@pytest.mark.parametrize("form", ["", "i386"])
def test_of_two_mappings_of_one_shape_each_has_its_own_caller(drv: Drive, form: str) -> None:
    if form:
        needs_32_bit()
    p = drv("m100000 M135168 m131053", form).process
    (chunk,) = chunks(p)
    (mine,) = [r for r in of_kind(p, "anon") if r.bytes == chunk.bytes]
    assert (mine.evidence, mine.verdict) == ("caller", "not-applicable")
    assert chunk.born_seq > mine.born_seq


def test_each_growth_of_an_i386_heap_has_its_caller(drv: Drive) -> None:
    needs_32_bit()
    p = drv("m100000 s4096 m100000", "i386").process
    assert [s[1:] for s in steps(p)] == [
        ("holds", None),
        ("explained", "alignment"),  # the first chunk's address is no multiple of 16
        ("not-applicable", "foreign-sbrk"),
        ("holds", None),
        ("explained", "alignment"),
    ]


# The places of a call that goes through the vdso: mapped, moved, changed and unmapped by main.
CALLS = r"""
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    char *p = mmap(0, 12288, 3, 0x22, -1, 0);
    p = mremap(p, 12288, 16384, MREMAP_MAYMOVE);
    mprotect(p, 4096, 1);
    munmap(p, 16384);
    brk(0);
    syscall(SYS_munmap, 0x5000, 20480);
    return 0;
}
"""


def test_the_callers_of_i386_wrappers_are_where_they_return_to(
    tmp_path: Path, run: Callable[..., Traced]
) -> None:
    program = built(tmp_path, CALLS, "-m32")
    done = run(program)
    names = ["mmap", "mremap", "mprotect", "munmap", "brk", "munmap"]
    with Trace(str(done.path)) as trace:
        calls = [r for _, _, r in trace.records() if isinstance(r, Call)][-len(names) :]
        sites = [trace.decoder.site(call) for call in calls]
        assert [trace.header.calls[call.call] for call in calls] == names
        found: list[tuple[str, int]] = []
        for site in sites:
            assert site is not None
            ip, ret = trace.decoder.place(site.ip), trace.decoder.place(site.ret)
            assert ip is not None
            assert ip[0] is not None
            assert Path(ip[0].path).name == "libc.so.6"
            if ret is not None:
                assert ret[0] is not None
                found.append((ret[0].path, ret[1]))
    # syscall(2) does not know which call it makes, and main is not in its file.
    assert len(found) == len(names) - 1
    assert {path for path, _ in found} == {str(program)}
    returns = [at for _, at in found]
    assert returns == sorted(returns)  # main calls them in this order
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", program], check=True, capture_output=True, text=True
    ).stdout
    lines = [line.split("\t") for line in text.splitlines() if line.startswith(" ")]
    called = {
        int(after[0].strip(" :"), 16): line[-1].split("<")[-1].split("@")[0]
        for line, after in itertools.pairwise(lines)
        if line[-1].startswith("call")
    }
    base = 0x8048000
    assert [called.get(base + at) for at in returns] == names[:5]
