# SPDX-License-Identifier: GPL-2.0-or-later
"""The header of a mallocng group: held against what `alloc_group` and `malloc` write."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import pytest

from memtrace.collect.mallocng import groups, meta_of

PAGE = 4096
GROUP, AREA = 0x7F0000000000, 0x1001000


@dataclass(frozen=True)
class Image:
    """A group at `GROUP`, its meta in slot `slot` of the area, as musl's meta.h lays them out."""

    i386: bool = False
    length: int = 200020
    slot: int = 3
    mem: int = GROUP
    avail: int = 0b0110
    freed: int = 0b1000
    last: int = 3
    freeable: int = 1
    sizeclass: int = 63
    maplen: int = 49
    nslots: int | None = None
    offset: int = 0

    @property
    def meta(self) -> int:
        area, size = (16, 24) if self.i386 else (24, 40)
        return AREA + area + size * self.slot + self.offset

    def page(self) -> bytes:
        word = self.last | self.freeable << 5 | self.sizeclass << 6 | self.maplen << 12
        parts = (0, AREA + 24, self.mem, self.avail, self.freed, word)
        nslots = self.nslots
        if self.i386:
            head = struct.pack("<QII", 0x5EC8E7, 0, 170 if nslots is None else nslots)
            meta = struct.pack("<6I", *(p & 0xFFFFFFFF for p in parts))
        else:
            head = struct.pack("<QQI", 0x5EC8E7, 0, 101 if nslots is None else nslots)
            meta = struct.pack("<3Q2IQ", *parts)
        at = self.meta - AREA
        return (head.ljust(at, b"\0") + meta).ljust(PAGE, b"\0")[:PAGE]

    def found(self) -> int:
        def read(address: int, size: int) -> bytes | None:
            return self.page() if (address, size) == (AREA, PAGE) else None

        address = 0x40000000 if self.i386 else GROUP
        first = self.meta.to_bytes(4 if self.i386 else 8, "little") + bytes([3]) + bytes(15)
        return meta_of(address, self.length, first[:16], read, i386=self.i386)


NATIVE = Image()
NARROW = Image(i386=True, mem=0x40000000)


@pytest.mark.parametrize("image", [NATIVE, NARROW])
@pytest.mark.parametrize(
    "change",
    [
        {}, {"slot": 0}, {"slot": 100}, {"length": 49 * PAGE}, {"length": 48 * PAGE + 1},
        {"sizeclass": 0}, {"sizeclass": 47}, {"avail": 0, "freed": 0}, {"last": 31},
    ],
)  # fmt: skip
def test_a_group(image: Image, change: dict[str, int]) -> None:
    of = replace(image, **change)  # type: ignore[arg-type]
    assert of.found() == of.meta


@pytest.mark.parametrize("image", [NATIVE, NARROW])
@pytest.mark.parametrize(
    "change",
    [
        {"mem": GROUP + 16}, {"mem": 0}, {"maplen": 48}, {"maplen": 50}, {"maplen": 0},
        {"length": 49 * PAGE + 1}, {"length": 48 * PAGE}, {"freeable": 0}, {"sizeclass": 48},
        {"sizeclass": 62}, {"nslots": 100}, {"nslots": 0}, {"freed": 0b0100}, {"offset": 8},
        {"offset": 4}, {"offset": 1},
    ],
)  # fmt: skip
def test_all_of_it_must_agree(image: Image, change: dict[str, int]) -> None:
    assert replace(image, **change).found() == 0  # type: ignore[arg-type]


def test_a_slot_lies_in_its_page() -> None:
    assert replace(NATIVE, slot=101).found() == 0
    assert replace(NARROW, slot=170).found() == 0


@pytest.mark.parametrize("word", [0, 24, 4095, PAGE, PAGE + 8, PAGE + 25, 2**64 - 1, 0x21002])
def test_another_word_costs_no_look(word: int) -> None:
    def read(address: int, size: int) -> bytes | None:
        raise AssertionError(address, size)

    first = word.to_bytes(8, "little") + bytes(8)
    assert meta_of(GROUP, PAGE, first, read, i386=False) == 0


@pytest.mark.parametrize("page", [None, b"", bytes(PAGE - 1)])
def test_a_page_that_is_not_there_proves_nothing(page: bytes | None) -> None:
    first = NATIVE.meta.to_bytes(16, "little")
    assert meta_of(GROUP, NATIVE.length, first, lambda _a, _n: page, i386=False) == 0


def test_at_an_attach_groups_are_chained_as_far_as_they_reach() -> None:
    first, second = NATIVE, replace(NATIVE, mem=GROUP + 49 * PAGE, slot=4, maplen=2, sizeclass=9)
    size = 24 + 40 * 5
    area = first.page()[: second.meta - AREA] + second.page()[second.meta - AREA : size]
    memory = {AREA: area.ljust(PAGE, b"\0")}
    heads = {GROUP: first.meta, GROUP + 49 * PAGE: second.meta, GROUP + 51 * PAGE: 5}

    def read(address: int, size: int) -> bytes | None:
        if address in heads:
            return heads[address].to_bytes(8, "little") + bytes(8)
        return memory.get(address, b"")

    both = [(GROUP, 49 * PAGE, first.meta), (GROUP + 49 * PAGE, 2 * PAGE, second.meta)]
    assert list(groups([(GROUP, GROUP + 60 * PAGE)], read)) == both
    assert list(groups([(GROUP, GROUP + 51 * PAGE)], read)) == both
    assert list(groups([(GROUP, GROUP + 50 * PAGE)], read)) == both[:1]
    assert list(groups([(GROUP, GROUP + 48 * PAGE)], read)) == []
    assert list(groups([(GROUP + PAGE, GROUP + 60 * PAGE)], read)) == []
    assert list(groups([(GROUP, GROUP + 49 * PAGE)], lambda _a, _n: None)) == []
