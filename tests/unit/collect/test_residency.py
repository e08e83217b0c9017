# SPDX-License-Identifier: GPL-2.0-or-later
"""What smaps and pagemap say of a map, as fields of a snapshot."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from memtrace.collect.residency import residency

LINES = [
    b"00001000-00003000 r-xp 00000000 fe:00 12                          /bin/a b\r",
    b"00003000-00007000 rw-p 00000000 00:00 0 ",
    b"00008000-0000c000 rw-p 00000000 00:00 0                           [heap]",
    b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0           [vsyscall]",
]
RAW = b"".join(line + b"\n" for line in LINES)
PRESENT, EXCLUSIVE = 1 << 63, 1 << 56


def smaps(*kilobytes: int, lines: list[bytes] = LINES) -> bytes:
    about = b"Size: 8 kB\nRss:  %d kB\nPss: 0 kB\nVmFlags: rd ex\n"
    return b"".join(
        line + b"\n" + about % size for line, size in zip(lines, kilobytes, strict=True)
    )


@pytest.fixture
def pagemap(tmp_path: Path) -> Iterator[int]:
    entries = [0] * 16
    entries[3] = PRESENT  # of zeros: it is there, and mapped by others, too
    entries[4] = entries[6] = PRESENT | EXCLUSIVE
    path = tmp_path / "pagemap"
    path.write_bytes(struct.pack("<16Q", *entries))
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_pages_of_each_line_and_where_a_nameless_one_has_them(pagemap: int) -> None:
    assert residency(RAW, smaps(8, 8, 4, 0), pagemap) == {
        "resident": [2, 2, 1],
        "present": [[1, 1, 1, 3, 1]],
    }


def test_all_present_pages_are_in_memory(pagemap: int) -> None:
    assert residency(RAW, smaps(8, 12, 4, 0), pagemap)["present"] == [[1, 0, 2, 3, 1]]


@pytest.mark.parametrize("size", [0, 4, 16])
def test_nothing_to_tell_or_not_to_be_told(pagemap: int, size: int) -> None:
    assert residency(RAW, smaps(8, size, 4, 0), pagemap) == {"resident": [2, size // 4, 1]}


def test_of_two_moments(pagemap: int) -> None:
    other = [LINES[0], LINES[1].replace(b"7000", b"6000"), *LINES[2:]]
    assert residency(RAW, smaps(8, 8, 4, 0, lines=other), pagemap) == {}
    assert residency(RAW, smaps(8, 8, 4, lines=LINES[:3]), pagemap) == {}
    assert residency(RAW, b"", pagemap) == {}


def test_no_pagemap() -> None:
    assert residency(RAW, smaps(8, 8, 4, 0), -1) == {"resident": [2, 2, 1]}
