# SPDX-License-Identifier: GPL-2.0-or-later
"""What walks found in the heaps of one address space (`--heap-walk`).

The collector has followed malloc's chunk headers; here its words are only held against themselves:
a heap whose numbers do not add up, which no collector writes, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.trace.records import Walk, WalkedHeap

#: Of one address space so many walks are kept, and of each so many heaps, the largest.
MOST, MOST_HEAPS = 40, 100

_U64 = 1 << 64
_COUNTED = (
    "chunks", "used", "used_chunks", "free", "free_chunks", "largest_free", "free_resident",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sum:
    """Bytes of all heaps of a walk together; None unless all of them were walked to the end."""

    used: int | None
    free: int | None
    top: int | None
    free_resident: int | None
    top_resident: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """One walk: record `seq` at `t_ns`, which took `took_ns`. `heaps`: the largest of `total`,
    in the order of their addresses, the main heap first; `size` bytes in all.
    """

    seq: int
    t_ns: int
    why: str
    still: bool
    took_ns: int
    heaps: tuple[WalkedHeap, ...]
    total: int
    size: int
    resident: int
    sum: Sum


class Walks:
    """The walks of one address space: its last, the one at its peak, and some of the others."""

    __slots__ = ("kept", "total")

    def __init__(self) -> None:
        self.kept: list[Taken] = []
        self.total = 0

    @property
    def last(self) -> Taken | None:
        """The latest."""
        return self.kept[-1] if self.kept else None

    @property
    def peak(self) -> Taken | None:
        """The one that found the largest heaps, the first of these."""
        return max(self.kept, key=lambda w: w.size, default=None)

    def add(self, seq: int, t: int, record: Walk) -> None:
        """Keep what a record tells."""
        heaps = [h for h in record.heaps if is_sound(h)]
        if not heaps:
            return
        largest = sorted(heaps, key=lambda h: (h.kind != "main", h.base - h.end))[:MOST_HEAPS]
        total = len(heaps) + min(max(record.left_out, 0), _U64)
        whole = all(h.complete for h in heaps) and len(heaps) == total == len(record.heaps)
        self.total += 1
        self.kept.append(Taken(
            seq, t, record.why, record.still, min(max(record.took, 0), _U64),
            tuple(sorted(largest, key=lambda h: (h.kind != "main", h.base))), total,
            sum(h.end - h.base for h in heaps), sum(h.resident or 0 for h in heaps),
            _sum(heaps) if whole else Sum(None, None, None, None, None),
        ))  # fmt: skip
        if len(self.kept) > MOST:
            peak = self.peak
            kept = [w for i, w in enumerate(self.kept) if i % 2 == 0 or w is peak]
            self.kept = kept if kept[-1] is self.kept[-1] else [*kept, self.kept[-1]]


def _sum(heaps: list[WalkedHeap]) -> Sum:
    return Sum(
        sum(h.used or 0 for h in heaps),
        sum(h.free or 0 for h in heaps),
        sum(h.top[1] for h in heaps if h.top is not None),
        sum(h.free_resident or 0 for h in heaps),
        sum(h.top_resident or 0 for h in heaps),
    )


def is_sound(h: WalkedHeap) -> bool:
    """Whether the numbers of a heap can be true together."""
    for name in h.__struct_fields__:
        value = getattr(h, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, int) and not 0 <= n < _U64 for n in numbers):
            return False
    if h.kind not in ("main", "arena") or h.base >= h.end:
        return False
    within = [c for c in (h.top, h.pin) if c is not None]
    if any(not h.base <= at <= at + size <= h.end for at, size in within):
        return False
    counted = [getattr(h, name) for name in _COUNTED]
    if not h.complete:
        known = len(counted) - counted.count(None)
        return h.problem is not None and known in (0, len(counted))
    if None in counted or h.other is None or h.resident is None or h.problem is not None:
        return False
    top = 0 if h.top is None else h.top[1]
    return (
        (h.used or 0) + (h.free or 0) + top + h.other == h.end - h.base
        and (h.largest_free or 0) <= (h.free or 0)
        and (h.free_resident or 0) <= (h.free or 0)
        and (h.top_resident or 0) <= top
        and (h.below_pin or 0) <= (h.free or 0)
    )
