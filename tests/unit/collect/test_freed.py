# SPDX-License-Identifier: GPL-2.0-or-later
"""The chunk that a munmap gives back: plain, aligned, or none; held against `_int_memalign`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.collect.freed import Read, aligned_places, freed_chunk
from memtrace.trace.sizes import PAGE, round_up

BASE = 0x7F0000000000


@dataclass(frozen=True)
class Build:
    """A glibc: its word, and whether the last two words of a chunk count (they do up to 2.42)."""

    word: int
    counts: int  # bytes of the mapping that the size does not count

    @property
    def chunk(self) -> int:
        """Bytes from the mapping to the chunk."""
        return 16 - 2 * self.word


OLD, NEW, I386 = Build(8, 0), Build(8, 16), Build(4, 0)


def allocated(
    build: Build, address: int, request: int, alignment: int
) -> tuple[int, dict[int, int], int, int]:
    """malloc(request) or memalign(alignment, request) mapped at `address`, as sysmalloc and
    _int_memalign do it: the length, the words written, the size words of both headers (0: none).
    """
    w = build.word
    least = 4 * w
    nb = max(least, round_up(request + w, 16))
    if alignment > 16:
        nb = max(least, round_up(nb + alignment + least + w, 16))
    length = round_up(nb + 16, PAGE)
    p = address + build.chunk
    size = length - build.chunk - build.counts
    words = {p: build.chunk, p + w: size | 2}
    mem = p + 2 * w
    if alignment <= 16 or mem % alignment == 0:
        return length, words, size | 2, 0
    brk = round_up(mem, alignment) - 2 * w
    if brk - p < least:
        brk += alignment
    lead = brk - p
    words[brk], words[brk + w] = build.chunk + lead, (size - lead) | 2
    return length, words, size | 2, (size - lead) | 2


def reader(build: Build, words: dict[int, int]) -> Read:
    """Memory in which nothing but the words was ever written."""

    def read(address: int, size: int) -> bytes:
        assert address // PAGE == (address + size - 1) // PAGE, "more than a page"
        if not any(a // PAGE == address // PAGE for a in words):
            return b""
        page = bytearray(PAGE)
        for a, value in words.items():
            if a // PAGE == address // PAGE:
                page[a % PAGE : a % PAGE + build.word] = value.to_bytes(build.word, "little")
        return bytes(page[address % PAGE : address % PAGE + size])

    return read


@given(
    st.sampled_from([OLD, NEW, I386]),
    st.integers(0, 1 << 20),
    st.integers(1, 8 << 20),
    st.integers(0, 23),
)
def test_every_chunk_is_told(build: Build, page: int, request: int, power: int) -> None:
    address = (BASE if build.word == 8 else 0x40000000) + page * PAGE
    length, words, first, inner = allocated(build, address, request, 1 << power)
    found = freed_chunk(address, length, reader(build, words), i386=build.word == 4)
    assert found == (first, inner)


def test_a_program_that_writes_what_looks_like_a_header_gets_both_told() -> None:
    length, words, first, _ = allocated(OLD, BASE, 200_000, 1)
    at = aligned_places(BASE, length, i386=False)[3]
    words |= {at: at - BASE, at + 8: (length - (at - BASE)) | 2}
    assert freed_chunk(BASE, length, reader(OLD, words), i386=False) == (first, words[at + 8])


@pytest.mark.parametrize("word", [0, 5, 200_704, 200_704 | 7, 1 << 40 | 2, 4096 | 2])
def test_what_has_no_header_is_no_chunk(word: int) -> None:
    read = reader(OLD, {BASE: 0, BASE + 8: word})
    assert freed_chunk(BASE, 200_704, read, i386=False) is None


def test_memory_never_touched_is_no_chunk() -> None:
    assert freed_chunk(BASE, 200_704, reader(OLD, {}), i386=False) is None


def test_nothing_is_told_where_a_page_cannot_be_read() -> None:
    length, words, _, _ = allocated(OLD, BASE, 200_000, 1)
    read = reader(OLD, words)

    def swapped(address: int, size: int) -> bytes | None:
        return read(address, size) if address < BASE + PAGE else None

    assert freed_chunk(BASE, length, swapped, i386=False) is None


def test_a_chunk_that_realloc_has_resized_is_told_by_its_own_header() -> None:
    # mremap_chunk writes the new size where the chunk is, and leaves the mapping's start alone.
    length, words, first, inner = allocated(OLD, BASE, 1 << 20, 1 << 16)
    at = max(words) - 8
    grown = length + 5 * PAGE
    words[at + 8] = (grown - (at - BASE)) | 2
    found = freed_chunk(BASE, grown, reader(OLD, words), i386=False)
    assert found == (first, (inner & ~7) + 5 * PAGE | 2)


def test_an_aligned_chunk_of_huge_pages_is_told() -> None:
    """Since 2.43 the lowest bit of the word before the size says that the chunk is of such."""
    length, words, first, inner = allocated(NEW, BASE, 4 << 20, 1 << 16)
    words[max(words) - 8] |= 1
    assert freed_chunk(BASE, length, reader(NEW, words), i386=False) == (first, inner)
