# SPDX-License-Identifier: GPL-2.0-or-later
"""What of each kind may be accessed, and what is address space only."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.live.tracing import cli, command, environment

from memtrace.report.build import read
from memtrace.report.model import ProcessRow

MIB = 1 << 20
#: Maps 64 MiB to be used, 128 MiB of no access; opens 16 MiB of these, and closes 8 of those.
PROGRAM = f"""
import ctypes, mmap
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
libc.mmap(None, {64 * MIB}, 3, flags, -1, 0)
none = libc.mmap(None, {128 * MIB}, 0, flags, -1, 0)
libc.mprotect(none, {16 * MIB}, 3)
libc.mprotect(none + {8 * MIB}, {8 * MIB}, 0)
"""


def traced(path: Path, program: str) -> ProcessRow:
    argv = command(path, ["/usr/bin/python3", "-c", program], "-q")
    subprocess.run(argv, env=environment(), check=True)
    return read(str(path)).processes[0]


def test_no_access_is_reserved_and_not_committed(tmp_path: Path) -> None:
    without = PROGRAM.split("libc.mmap(None", maxsplit=1)[0]
    one, two = traced(tmp_path / "a.json", without), traced(tmp_path / "b.json", PROGRAM)

    def sums(p: ProcessRow) -> tuple[int, int]:
        rows = p.kinds.values()
        return sum(k.final_bytes for k in rows), sum(k.committed_bytes or 0 for k in rows)

    (reserved, committed), (more, usable) = sums(one), sums(two)
    # Python's own heap may differ by a little from run to run.
    assert abs(more - reserved - 192 * MIB) <= MIB
    assert abs(usable - committed - 72 * MIB) <= MIB
    assert "committed" in cli("report", tmp_path / "b.json").stdout


def test_it_is_what_the_last_map_shows(tmp_path: Path) -> None:
    p = traced(tmp_path / "t.json", PROGRAM)
    maps = cli("maps", tmp_path / "t.json", "--at", "end").stdout.splitlines()
    sizes = [(x.split()[1], [int(a, 16) for a in x.split()[0].split("-")]) for x in maps]
    # The vsyscall page is no mapping, and is left out.
    usable = sum(e - s for perms, (s, e) in sizes if perms[:3] != "---")
    assert sum(k.committed_bytes or 0 for k in p.kinds.values()) == usable
    assert sum(k.final_bytes for k in p.kinds.values()) == sum(e - s for _, (s, e) in sizes)
