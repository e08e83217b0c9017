# SPDX-License-Identifier: GPL-2.0-or-later
"""What musl's malloc writes where it has mapped a group of slots, or one allocation alone.

mallocng (musl 1.2.1 and later) begins each with the address of its `struct meta`, whose `mem`
points back (`alloc_group`, and `malloc` from MMAP_THRESHOLD on). Two pointers to one another may be
in any program's data. There is more: `maplen` is the mapping's length in pages, and the meta is a
slot of a `struct meta_area`, which begins its page and says how many slots fill it (`alloc_meta`).
Free clears the meta before it unmaps (`free_meta`): what is freed before its thread makes another
call is not told.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from memtrace.trace.sizes import PAGE

#: Of sizeclass, 6 bits: the last class of slots, and that of an allocation alone.
_LAST_CLASS, _ALONE = 47, 63
_FREEABLE = 1 << 5
#: Groups found at an attach.
_MOST = 100_000
#: (address, length) -> the bytes there; b"" or None where no page is present.
Read = Callable[[int, int], bytes | None]


class _Abi(NamedTuple):
    """Sizes in bytes, and what is read: of `struct meta` mem, avail_mask, freed_mask and the word
    with last_idx, freeable, sizeclass and maplen; of `struct meta_area` nslots.
    """

    word: int
    area: int
    meta: int
    tail: struct.Struct
    nslots: int


_NATIVE = _Abi(8, 24, 40, struct.Struct("<QIIQ"), 16)
_I386 = _Abi(4, 16, 24, struct.Struct("<IIII"), 12)


class Group(NamedTuple):
    """A group, or one allocation alone: the address of its meta, and its pages."""

    meta: int
    pages: int


def group_at(address: int, first: bytes, read: Read, *, i386: bool) -> Group | None:
    """The group that begins at an address; None: there is none, or it cannot be told.

    Args:
        address: of a page.
        first: the bytes there, 8 at least.
        read: reads the target's memory.
        i386: whether its words are of 32 bits.
    """
    abi = _I386 if i386 else _NATIVE
    meta = int.from_bytes(first[: abi.word], "little")
    offset = meta % PAGE - abi.area
    # Any other word than an address of a slot costs nothing more.
    if meta < PAGE or offset < 0 or offset % abi.meta or meta % PAGE + abi.meta > PAGE:
        return None
    page = meta & -PAGE
    data = read(page, PAGE)
    if not data or len(data) < PAGE:
        return None
    mem, avail, freed, word = abi.tail.unpack_from(data, meta - page + 2 * abi.word)
    slots = int.from_bytes(data[abi.nslots : abi.nslots + 4], "little")
    sizeclass = word >> 6 & 63
    whole = (
        mem == address
        and word & _FREEABLE
        and slots == (PAGE - abi.area) // abi.meta
        and (sizeclass <= _LAST_CLASS or sizeclass == _ALONE)
        and not avail & freed
    )
    return Group(meta, word >> 12) if whole else None


def meta_of(address: int, length: int, first: bytes, read: Read, *, i386: bool) -> int:
    """The address of the meta of the group that is all of a mapping of `length` bytes, as asked of
    mmap; 0: there is none, or it cannot be told.
    """
    group = group_at(address, first, read, i386=i386)
    return 0 if group is None or group.pages != -(-length // PAGE) else group.meta


def groups(mappings: Iterable[tuple[int, int]], read: Read) -> Iterator[tuple[int, int, int]]:
    """(address, bytes, address of its meta) of every group at a mapping's start and, because the
    kernel merges neighbours, chained from there.

    Args:
        mappings: address ranges, half open.
        read: reads the target's memory, of a 64-bit process.
    """
    found = 0
    for low, high in mappings:
        at = low
        while at < high and found < _MOST:
            group = group_at(at, read(at, 16) or b"", read, i386=False)
            if group is None or not group.pages or at + group.pages * PAGE > high:
                break
            yield at, group.pages * PAGE, group.meta
            found += 1
            at += group.pages * PAGE
