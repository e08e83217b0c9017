# SPDX-License-Identifier: GPL-2.0-or-later
"""The mapped chunk that a munmap is about to give back, as free found it.

free raises the threshold to the size that stands in the chunk's header. A chunk of memalign's does
not begin where its mapping begins: `_int_memalign` asks for more, leaves the old header where it
is, and writes another one below the aligned address. There are few places for that one, so that its
absence can be told, too: what was written is in a page that is present.
"""

from __future__ import annotations

from collections.abc import Callable

from memtrace.trace.sizes import PAGE

#: The threshold is at least that while it moves (DEFAULT_MMAP_THRESHOLD_MIN), and at most that
#: (DEFAULT_MMAP_THRESHOLD_MAX).
LEAST, MOST, MOST_I386 = 128 * 1024, 32 << 20, 512 << 10

#: (address, length) -> the bytes there, b"" where the page was never written, None where it cannot
#: be told: it is swapped out, or was not read.
Read = Callable[[int, int], bytes | None]


def aligned_places(address: int, length: int, *, i386: bool, once: int = 0) -> list[int]:
    """Addresses of the two words of every header that an aligned chunk in the mapping may have;
    `once` it had that length: an mremap may have made it shorter than it was aligned to.

    >>> [hex(a) for a in aligned_places(0x7000, 0x3000, i386=False)]
    ['0x7030', '0x7070', '0x70f0', '0x71f0', '0x73f0', '0x77f0', '0x7ff0']
    """
    word = 4 if i386 else 8
    least = 4 * word  # MINSIZE
    chunk = address + (16 - 2 * word)
    places: list[int] = []
    alignment = 32
    while alignment < max(length, once):
        at = ((chunk + 2 * word + alignment - 1) & -alignment) - 2 * word
        if at - chunk < least:
            at += alignment
        if at + least <= address + length and at not in places:
            places.append(at)
        alignment *= 2
    return places


def freed_chunk(address: int, length: int, read: Read, *, i386: bool) -> tuple[int, int] | None:
    """The size words of the chunk at the start of the mapping, and of an aligned chunk inside it (0
    if there is none); None if the first is no header of a mapped chunk, or if it cannot be told.

    Args:
        address: of the mapping, a multiple of the page.
        length: in bytes.
        read: reads the target's memory.
        i386: whether its words are of 32 bits.
    """
    word = 4 if i386 else 8
    header = 16 - 2 * word
    page = read(address, PAGE)
    if not page or len(page) < PAGE:
        return None
    first = int.from_bytes(page[header + word : header + 2 * word], "little")
    if first & 7 != 2:
        return None
    inner = 0
    for at in aligned_places(address, length, i386=i386, once=first & ~7):
        offset = at - address
        if offset + 2 * word <= PAGE:
            data: bytes | None = page[offset : offset + 2 * word]
        else:
            data = read(at, 2 * word)
            if data is None:
                return None
        if not data:
            continue
        before = int.from_bytes(data[:word], "little")
        size = int.from_bytes(data[word : 2 * word], "little")
        # The words from the mapping's start to the chunk; flag 1 says huge page since 2.43.
        if (
            before & ~1 == offset
            and size & 7 == 2
            and (size & ~7) + offset in (length, length - 16)
        ):
            inner = size
    if not inner and (first & ~7) not in (length, length - 16, length - 8):
        return None
    return first, inner
