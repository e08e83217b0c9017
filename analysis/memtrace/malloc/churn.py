# SPDX-License-Identifier: GPL-2.0-or-later
"""Mappings that come and go at once: each costs two system calls, a fault per page and the zeroing
of the page, where a block of the heap would cost none.

A pair is a private anonymous mapping that one munmap took away whole within `NEAR` records after
its mmap. Records of other threads and processes count, so that what is told is what is proven to
be near, never more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from memtrace.malloc.regions import Region

#: Records between the mmap and the munmap of a pair, at most.
NEAR = 64
#: Sizes told apart per process; pairs of further ones are only counted.
_SIZES = 1024
_KINDS = frozenset({"malloc-chunk", "anon", "unknown", "runtime-heap"})


class Pairs(NamedTuple):
    """Pairs of one size and kind.

    `first`: the mmap and the munmap of the first, `last` the munmap of the last. `half_ns`: at
    least half of them lived less than that (a power of two).
    """

    kind: str
    owner: str | None
    length: int
    pairs: int
    first: tuple[int, int]
    last: int
    half_ns: int


class _Tally:
    """What pairs of one size add up to; `lives` counts them by the bit length of their life."""

    __slots__ = ("count", "first", "last", "lives")

    def __init__(self, born: int, died: int) -> None:
        self.count = 0
        self.first = born, died
        self.last = died
        self.lives = [0] * 65


class Churn:
    """The pairs of one address space."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, str, str | None], _Tally] = {}
        self._others = 0

    @property
    def pairs(self) -> int:
        """How many in all."""
        return self._others + sum(y.count for y in self._of.values())

    def gone(self, seq: int, t: int, r: Region) -> None:
        """A region whose mmap is near was unmapped, its last part or all of it."""
        length, kind = r.length, r.kind
        if r.bytes != length or kind not in _KINDS or r.call != "mmap" or r.moves or r.path:
            return
        tally = self._of.get((length, kind, r.owner))
        if tally is None:
            if len(self._of) >= _SIZES:
                self._others += 1
                return
            tally = self._of[length, kind, r.owner] = _Tally(r.born_seq, seq)
        tally.count += 1
        tally.last = seq
        bits = (t - r.born_t).bit_length()
        tally.lives[bits if bits < 64 else 64] += 1

    def most(self, count: int) -> tuple[Pairs, ...]:
        """The sizes of at least so many pairs, most pairs first."""
        found = [
            Pairs(kind, owner, length, y.count, y.first, y.last, _half(y))
            for (length, kind, owner), y in self._of.items()
            if y.count >= count
        ]
        return tuple(sorted(found, key=lambda p: (-p.pairs, -p.length, p.kind)))


def _half(tally: _Tally) -> int:
    seen = 0
    for bits, n in enumerate(tally.lives):
        seen += n
        if 2 * seen >= tally.count:
            return 1 << bits
    return 1 << 64
