# SPDX-License-Identifier: GPL-2.0-or-later
"""What musl's malloc writes where it has mapped a group of slots, or one allocation alone.

mallocng (musl 1.2.1 and later) begins each with the address of its `struct meta`, whose `mem`
points back (`alloc_group`, and `malloc` from MMAP_THRESHOLD on). Two pointers to one another may be
in any program's data. There is more: `maplen` is the mapping's length in pages, and the meta is a
slot of a `struct meta_area`, which begins its page and says how many slots fill it (`alloc_meta`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from memtrace.trace.sizes import PAGE

#: Of sizeclass, 6 bits: the last class of slots, and that of an allocation alone.
_LAST_CLASS, _ALONE = 47, 63
_FREEABLE = 1 << 5
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


def meta_of(address: int, length: int, first: bytes, read: Read, *, i386: bool) -> int:
    """The address of the meta of the group that a mapping begins with; 0: there is none, or it
    cannot be told.

    Args:
        address: of the mapping.
        length: as asked of mmap, in bytes.
        first: the bytes at its beginning, 8 at least.
        read: reads the target's memory.
        i386: whether its words are of 32 bits.
    """
    abi = _I386 if i386 else _NATIVE
    meta = int.from_bytes(first[: abi.word], "little")
    # Any other word than an address of a slot costs nothing more.
    if meta < PAGE or (meta % PAGE - abi.area) % abi.meta or meta % PAGE < abi.area:
        return 0
    if meta % PAGE + abi.meta > PAGE:
        return 0
    page = meta & -PAGE
    data = read(page, PAGE)
    if not data or len(data) < PAGE:
        return 0
    mem, avail, freed, word = abi.tail.unpack_from(data, meta - page + 2 * abi.word)
    slots = int.from_bytes(data[abi.nslots : abi.nslots + 4], "little")
    sizeclass = word >> 6 & 63
    whole = (
        mem == address
        and word >> 12 == -(-length // PAGE)
        and word & _FREEABLE
        and slots == (PAGE - abi.area) // abi.meta
        and (sizeclass <= _LAST_CLASS or sizeclass == _ALONE)
        and not avail & freed
    )
    return meta if whole else 0
