# SPDX-License-Identifier: GPL-2.0-or-later
"""What of each kind was in memory at the end, in programs that know what they have touched."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.live.tracing import cli, command, environment

from memtrace.report.build import read
from memtrace.report.model import ProcessRow
from memtrace.trace.mapping import parse_maps

PAGE = 4096
#: A chunk of malloc's, and a mapping of the program's own that the kernel merges with it.
SOURCE = r"""
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int main(void)
{
    char *chunk = malloc(1 << 20);
    memset(chunk, 1, 10 * 4096 - 16);
    char *own = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(own + 3 * 4096, 1, 5 * 4096);
    volatile char *zeros = own + 100 * 4096;
    char sum = *zeros;  /* the page of zeros: there, and no part of the RSS */
    return sum;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resident")
    source = folder / "resident.c"
    source.write_text(SOURCE)
    # Not optimised: the compiler knows what malloc and memset do.
    subprocess.run(["gcc", "-O0", source, "-o", folder / "resident"], check=True)
    return folder / "resident"


def traced(path: Path, *argv: object) -> ProcessRow:
    subprocess.run(command(path, [str(a) for a in argv], "-q"), env=environment(), check=False)
    return read(str(path)).processes[0]


def last_snapshot(path: Path) -> dict[str, Any]:
    found: list[Any] = json.loads(path.read_text())
    snaps: list[dict[str, Any]] = [
        r for r in found if isinstance(r, dict) and r.get("rec") == "snap"
    ]
    return snaps[-1]


def test_neighbours_of_two_kinds(program: Path, tmp_path: Path) -> None:
    p = traced(tmp_path / "t.json", program)
    chunk, own = p.kinds["malloc-chunk"], p.kinds["anon"]
    last = last_snapshot(tmp_path / "t.json")
    size = chunk.final_bytes + own.final_bytes
    assert any(m.end - m.start >= size for m in parse_maps(last["maps"])), (
        "they are not merged here"
    )
    assert (chunk.resident_bytes, own.resident_bytes) == (10 * PAGE, 5 * PAGE)


def test_all_kinds_together_are_the_rss(tmp_path: Path) -> None:
    for argv in (["true"], ["/usr/bin/python3", "-c", "x = b'1' * 50_000_000"]):
        p = traced(tmp_path / "t.json", *argv)
        last = last_snapshot(tmp_path / "t.json")
        assert p.memory.resident_seq is not None
        sizes = [k.resident_bytes for k in p.kinds.values()]
        # The kernel keeps the RSS of each CPU apart (`percpu_counter`), and the vdso in none.
        assert abs(sum(s or 0 for s in sizes) - last["rss"] * PAGE) <= 64 * PAGE, argv
        assert None not in sizes, argv


def test_what_an_exec_has_replaced(tmp_path: Path) -> None:
    traced(tmp_path / "t.json", "env", "true")
    before, after = json.loads(cli("report", tmp_path / "t.json", "--format", "json").stdout)[
        "processes"
    ]
    assert before["memory"]["resident_seq"] is None
    assert {k["resident_bytes"] for k in before["kinds"].values()} == {None}
    assert after["memory"]["resident_seq"] is not None
    assert after["kinds"]["stack"]["resident_bytes"] > 0


def test_as_memtrace_leaves(tmp_path: Path) -> None:
    program = "import time; x = b'1' * 50_000_000; print(1, flush=True); time.sleep(60)"
    with subprocess.Popen(["/usr/bin/python3", "-c", program], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.read(1)
        cli("attach", running.pid, "--for", "0.2s", "-o", tmp_path / "t.json")
        running.kill()
    p = read(str(tmp_path / "t.json")).processes[0]
    assert p.kinds["malloc-chunk"].resident_bytes in range(50_000_000, 53_000_000)
