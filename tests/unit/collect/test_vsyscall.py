# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose call it was in a 32-bit program: through the vdso and glibc's functions, by code and tables
alone.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.collect import vsyscall
from memtrace.collect.frames import Frame
from memtrace.collect.vsyscall import Where, read, unwind

VDSO = 0xF7FC35EA
SHARED, WRAPPER, MALLOC, CALLER = 0xF7E15DB2, 0xF7E1C8B7, 0xF7D96DD9, 0xF7D97000
PROGRAM = 0x08049123
LIBC, PROG = ("fe:00", 1), ("fe:00", 2)
MMAP2, BRK = 192, 45
POPS = bytes.fromhex("5d5a59c39090eb03")  # pop %ebp; pop %edx; pop %ecx; ret

#: What the tables say of the places: as glibc 2.36 has them.
CODE = {
    SHARED: (Frame(12, frozenset(), True), LIBC),
    WRAPPER: (Frame(28, frozenset({22, MMAP2}), True), LIBC),
    MALLOC: (Frame(60, frozenset(), True), LIBC),
    CALLER: (Frame(44, frozenset(), True), LIBC),
    PROGRAM: (Frame(16, frozenset(), True), PROG),
}


def stack(*values: int | bytes, code: bytes = POPS) -> bytes:
    """What was read at an entry: words, and bytes of anything between them."""
    return code + b"".join(v if isinstance(v, bytes) else struct.pack("<I", v) for v in values)


SAVED, TWELVE = bytes(12), b"\x11" * 12
THROUGH_SHARED = stack(SAVED, SHARED, TWELVE, WRAPPER, bytes(28), MALLOC, bytes(60), PROGRAM)


def test_through_the_vdso_and_the_shared_function() -> None:
    assert unwind(THROUGH_SHARED, VDSO, MMAP2, CODE.get) == (WRAPPER, MALLOC, PROGRAM)


def test_through_the_vdso_alone() -> None:
    frames = CODE | {WRAPPER: (Frame(4, frozenset({BRK}), True), LIBC)}
    data = stack(SAVED, WRAPPER, 1, CALLER, bytes(44), PROGRAM)
    assert unwind(data, VDSO, BRK, frames.get) == (WRAPPER, CALLER, PROGRAM)


def test_a_call_of_its_own() -> None:
    frames = CODE | {WRAPPER: (Frame(4, frozenset({BRK}), False), LIBC)}  # int $0x80
    data = stack(1, CALLER, bytes(44), PROGRAM, code=b"\x90" * 8)
    assert unwind(data, WRAPPER, BRK, frames.get) == (WRAPPER, CALLER, PROGRAM)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({SHARED: None}, Where(VDSO), id="what the vdso returns to is no code"),
        pytest.param({SHARED: Frame(12)}, Where(VDSO), id="no call ends there"),
        pytest.param({SHARED: Frame(None, called=True)}, Where(SHARED), id="no tables"),
        pytest.param({WRAPPER: None}, Where(SHARED), id="the shared function returns to no code"),
        pytest.param({WRAPPER: Frame(28, frozenset({MMAP2}))}, Where(SHARED), id="nor to a call"),
        pytest.param({WRAPPER: Frame(28, frozenset({90}), True)}, Where(SHARED), id="another call"),
        pytest.param({WRAPPER: Frame(None, frozenset({MMAP2}), True)}, Where(WRAPPER), id="frame"),
        pytest.param({MALLOC: None}, Where(WRAPPER), id="the wrapper returns to no code"),
        pytest.param({MALLOC: Frame(60)}, Where(WRAPPER), id="the wrapper was not called there"),
        pytest.param({MALLOC: Frame(None, called=True)}, Where(WRAPPER, MALLOC), id="its caller"),
        pytest.param({PROGRAM: Frame(1)}, Where(WRAPPER, MALLOC), id="its caller's caller"),
    ],
)
def test_what_is_not_told_is_not_guessed(change: dict[int, Frame | None], expected: Where) -> None:
    ((at, frame),) = change.items()
    frames: dict[int, Any] = dict(CODE)
    frames[at] = None if frame is None else (frame, CODE[at][1])
    assert unwind(THROUGH_SHARED, VDSO, MMAP2, frames.get) == expected


def test_the_wrapper_is_in_the_file_of_its_shared_function() -> None:
    """A program's function that puts the number into eax and calls syscall(2) is no wrapper: who
    called it says nothing.
    """
    frames = CODE | {WRAPPER: (CODE[WRAPPER][0], PROG)}
    assert unwind(THROUGH_SHARED, VDSO, MMAP2, frames.get) == Where(SHARED)


@pytest.mark.parametrize("code", ["", "5d5a59", "5d5c59c3", "9090c300", "5d5a59cd80c3"])
def test_other_code_without_a_file_tells_nothing(code: str) -> None:
    data = stack(THROUGH_SHARED[8:], code=bytes.fromhex(code).ljust(8, b"\0"))
    assert unwind(data, VDSO, MMAP2, CODE.get) == Where(VDSO)


@pytest.mark.parametrize("size", range(8, len(THROUGH_SHARED)))
def test_a_stack_that_ends(size: int) -> None:
    found = unwind(THROUGH_SHARED[:size], VDSO, MMAP2, CODE.get)
    whole = [(VDSO, 0, 0), (SHARED, 0, 0), (WRAPPER, 0, 0), (WRAPPER, MALLOC, 0)]
    assert found in whole


@given(st.binary(max_size=248), st.integers(0, 2**32 - 1), st.data())
def test_any_stack_gives_an_answer(data: bytes, ip: int, draw: st.DataObject) -> None:
    told: dict[int, tuple[Frame, tuple[str, int]] | None] = {}

    def look(address: int) -> tuple[Frame, tuple[str, int]] | None:
        if address not in told:
            frames = st.builds(
                Frame, st.none() | st.integers(0, 300), st.just(frozenset({BRK})), st.booleans()
            )
            told[address] = draw.draw(st.none() | st.tuples(frames, st.just(LIBC)))
        return told[address]

    for address in unwind(data, ip, BRK, look)[1:]:
        assert not address or ((frame := told[address]) is not None and frame[0].called)


class Memory:
    """An Mm of which only memory is asked."""

    def __init__(self, pieces: dict[int, bytes]) -> None:
        self.pieces = pieces

    def bytes_at(self, address: int, size: int) -> bytes:
        return self.pieces.get(address, b"")[:size]


def test_what_is_read_fits_a_message() -> None:
    mm: Any = Memory({1: POPS * 9, 2: os.urandom(1000)})
    assert len(read(mm, 1, 2)) <= 255
    assert read(mm, 1, 2) == POPS + mm.pieces[2][: vsyscall._STACK]
    assert read(mm, 5, 2)[:8] == bytes(8)
    assert read(mm, 1, 5) == b""
