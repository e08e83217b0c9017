# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a return address is, by a file's call frame information; held against pyelftools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.collect.test_libc import this_libc

from memtrace.collect.elf import Elf, NotElfError
from memtrace.collect.frames import Frames, return_address

SOURCE = """
extern long use(long);
void alloca_of(unsigned long n) { char *p = __builtin_alloca(n); use((long)p); }
long plain(long a) { return a + 1; }
long pushes(long a, long b, long c) { return use(a) + use(b) * use(c); }
long branches(long a) {
    long s = 0;
    for (long i = 0; i < a; i++) { if (use(i)) return s; s += use(a); }
    return use(s);
}
"""


def told(path: str | Path) -> dict[int, int | None]:
    """Address of each place where the rules change -> where the return address is from there on."""
    found: dict[int, int | None] = {}
    with open(path, "rb") as f:
        elf: Any = ELFFile(f)
        entries = elf.get_dwarf_info().EH_CFI_entries()
        for entry in entries:
            if isinstance(entry, FDE):
                try:
                    lines = entry.get_decoded().table
                except ValueError:
                    continue  # an instruction that pyelftools does not know
                for line in lines:
                    cfa = line["cfa"]
                    ours = cfa.expr is None and cfa.reg == 7
                    found[line["pc"]] = cfa.offset - 8 if ours else None
    return found


def ours(path: str | Path, addresses: list[int]) -> dict[int, int | None]:
    with open(path, "rb") as f:
        elf = Elf(f.fileno())
        loads = [s for s in elf.segments if s.type == 1]

        def place(address: int) -> int:
            (s,) = [s for s in loads if s.address <= address < s.address + s.size]
            return address - s.address + s.offset

        return {a: return_address(elf, place(a) + 1) for a in addresses}


def build(folder: Path, *options: str) -> Path:
    made = folder / "a.so"
    words: list[str | Path] = [
        "gcc",
        "-x",
        "c",
        "-shared",
        "-fPIC",
        "-nostdlib",
        *options,
        "-o",
        made,
        "-",
    ]
    subprocess.run(words, input=SOURCE.encode(), check=True)
    return made


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2"])
def test_every_place_of_a_small_library(tmp_path: Path, level: str) -> None:
    made = build(tmp_path, level)
    expected = told(made)
    assert len({v for v in expected.values() if v is not None}) > 1
    assert None in expected.values()  # a frame that is told by another register, or by none
    assert ours(made, list(expected)) == expected


def test_this_machines_libc() -> None:
    expected = told(this_libc())
    addresses = sorted(expected)[::97]
    assert len(addresses) > 100
    found = ours(this_libc(), addresses)
    assert {a: v for a, v in found.items() if v is not None} == {
        a: expected[a] for a in addresses if expected[a] is not None
    }


def test_a_file_without_tables_tells_nothing(tmp_path: Path) -> None:
    made = build(tmp_path, "-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
    with made.open("rb") as f:
        elf = Elf(f.fileno())
        assert {return_address(elf, place) for place in range(1, 0x3000, 7)} == {None}


def test_it_is_asked_of_the_mapped_file_alone(tmp_path: Path) -> None:
    made = build(tmp_path, "-O1")
    (at, back) = next((a, b) for a, b in sorted(told(made).items()) if b)
    with made.open("rb") as f:
        (s,) = [s for s in Elf(f.fileno()).segments if s.type == 1 and s.flags & 1]
    place, ino = at - s.address + s.offset + 1, made.stat().st_ino
    frames = Frames()
    assert frames.offset(os.getpid(), "fe:00", ino, str(made), place) == back
    assert frames.offset(os.getpid(), "fe:00", ino + 1, str(made), place) is None
    assert frames.offset(os.getpid(), "fe:00", ino, "/nowhere", place) == back  # remembered
    assert frames.offset(os.getpid(), "fe:01", ino, "/nowhere", place) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_broken_tables_give_an_answer(tmp_path: Path, data: st.DataObject) -> None:
    made = tmp_path / "a.so"
    if not made.exists():
        build(tmp_path, "-O1")
    whole = bytearray(made.read_bytes())
    with made.open("rb") as f:
        elf = Elf(f.fileno())
        tables = next(s for s in elf.segments if s.type == 0x6474E550)
        code = next(s for s in elf.segments if s.type == 1 and s.flags & 1)
    for _ in range(data.draw(st.integers(1, 4))):
        at = tables.offset + data.draw(st.integers(0, tables.size + 300))
        if at < len(whole):
            whole[at] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.so"
    broken.write_bytes(whole)
    with broken.open("rb") as f:
        try:
            elf = Elf(f.fileno())
        except NotElfError:
            return
        for place in range(code.offset + 1, code.offset + code.size, 5):
            found = return_address(elf, place)
            assert found is None or found >= 0
