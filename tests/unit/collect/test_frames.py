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
from memtrace.collect.frames import Frames, frame

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


LIBC_32 = Path("/lib32/libc.so.6")


def needs_32_bit() -> Path:
    """The C library of 32-bit programs."""
    if not LIBC_32.exists():
        pytest.skip("no 32-bit C library is installed (gcc-multilib)")
    return LIBC_32


def told(path: str | Path, word: int = 8) -> dict[int, int | None]:
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
                    ours = cfa.expr is None and cfa.reg == (7 if word == 8 else 4)
                    found[line["pc"]] = cfa.offset - word if ours else None
    return found


def ours(path: str | Path, addresses: list[int], word: int = 8) -> dict[int, int | None]:
    with open(path, "rb") as f:
        elf = Elf(f.fileno())
        loads = [s for s in elf.segments if s.type == 1]

        def place(address: int) -> int:
            (s,) = [s for s in loads if s.address <= address < s.address + s.size]
            return address - s.address + s.offset

        return {a: frame(elf, place(a) + 1, word).back for a in addresses}


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


@pytest.mark.parametrize("word", [8, 4])
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2"])
def test_every_place_of_a_small_library(tmp_path: Path, level: str, word: int) -> None:
    if word == 4:
        needs_32_bit()
    made = build(tmp_path, level, *(["-m32"] if word == 4 else []))
    expected = told(made, word)
    assert len({v for v in expected.values() if v is not None}) > 1
    assert None in expected.values()  # a frame that is told by another register, or by none
    assert ours(made, list(expected), word) == expected
    assert set(ours(made, list(expected), 12 - word).values()) == {None}


@pytest.mark.parametrize("word", [8, 4])
def test_this_machines_libc(word: int) -> None:
    path = this_libc() if word == 8 else needs_32_bit()
    expected = told(path, word)
    addresses = sorted(expected)[::97]
    assert len(addresses) > 100
    found = ours(path, addresses, word)
    assert {a: v for a, v in found.items() if v is not None} == {
        a: v for a in addresses if (v := expected[a]) is not None and v >= 0
    }


WRAPPERS = """
    .text
f:  .cfi_startproc
    push %ebx
    .cfi_adjust_cfa_offset 4
    mov $0x5b, %eax
    call *%gs:0x10
a:  mov $0x2d, %eax
    call g
b:  call *%eax
c:  call *8(%esp)
d:  call *0x1234(,%eax,4)
e:  call *0x1234(%ebx)
h:  call *(%esi)
i:  jmp *%eax
j:  .cfi_endproc
g:  .cfi_startproc
    ret
k:  .cfi_endproc
    .globl a, b, c, d, e, f, g, h, i, j, k
"""


def test_what_a_wrapper_loads_and_where_calls_end(tmp_path: Path) -> None:
    needs_32_bit()
    made = tmp_path / "a.so"
    subprocess.run(
        ["gcc", "-m32", "-x", "assembler", "-shared", "-nostdlib", "-o", made, "-"],
        input=WRAPPERS.encode(), check=True,
    )  # fmt: skip
    with made.open("rb") as f:
        symbols: Any = ELFFile(f).get_section_by_name(".dynsym")
        at = {s.name: s["st_value"] for s in symbols.iter_symbols() if s.name}
        elf = Elf(f.fileno())
        (load,) = [s for s in elf.segments if s.type == 1 and s.flags & 1]
        found = {n: frame(elf, v - load.address + load.offset, 4) for n, v in at.items()}
    assert [n for n in sorted(found) if found[n].called] == ["a", "b", "c", "d", "e", "h", "i"]
    assert found["a"].loads == {0x5B}
    assert found["b"].loads == found["j"].loads == {0x5B, 0x2D}
    assert found["k"].loads == set()
    assert (found["a"].back, found["k"].back) == (4, 0)


def test_a_file_without_tables_tells_nothing(tmp_path: Path) -> None:
    made = build(tmp_path, "-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
    with made.open("rb") as f:
        elf = Elf(f.fileno())
        assert {frame(elf, place, 8).back for place in range(1, 0x3000, 7)} == {None}


def test_it_is_asked_of_the_mapped_file_alone(tmp_path: Path) -> None:
    made = build(tmp_path, "-O1")
    (at, back) = next((a, b) for a, b in sorted(told(made).items()) if b)
    with made.open("rb") as f:
        (s,) = [s for s in Elf(f.fileno()).segments if s.type == 1 and s.flags & 1]
    place, ino = at - s.address + s.offset + 1, made.stat().st_ino
    frames = Frames()
    assert frames.at(os.getpid(), "fe:00", ino, str(made), place, 8).back == back
    assert frames.at(os.getpid(), "fe:00", ino + 1, str(made), place, 8).back is None
    assert frames.at(os.getpid(), "fe:00", ino, "/nowhere", place, 8).back == back  # remembered
    assert frames.at(os.getpid(), "fe:01", ino, "/nowhere", place, 8).back is None


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
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
            found = frame(elf, place, 8).back
            assert found is None or found >= 0
