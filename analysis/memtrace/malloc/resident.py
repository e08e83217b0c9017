# SPDX-License-Identifier: GPL-2.0-or-later
"""How many bytes of each kind of region were in memory when the map was last read.

The kernel counts by line of its map, and merges neighbours of different makers into one line. What
such a line has in memory is parted where the trace says which of its pages are there, or where
either all or none are; else it is not known for any of its kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from memtrace.trace.mapping import parse_line

if TYPE_CHECKING:
    from memtrace.trace.records import Snap

#: Bounds and the kind of a part of the map; None: of no region.
Part = tuple[int, int, str | None]


class Look(NamedTuple):
    """A snapshot that tells what is in memory, its number, and how many calls came before it."""

    seq: int
    calls: int
    snap: Snap


def resident_by_kind(snap: Snap, parts: Iterable[Part], page: int) -> dict[str, int | None] | None:
    """Bytes in memory by kind, None for a kind of which it is not known.

    Args:
        snap: with `resident`.
        parts: of the replayed map at that moment, in order of addresses.
        page: bytes.

    Returns:
        None if the snapshot does not tell, or contradicts itself.
    """
    if snap.resident is None or len(snap.resident) != len(snap.maps):
        return None
    found: dict[str, int | None] = {}
    runs = {entry[0]: entry[1:] for entry in snap.present if entry}
    within = _within(parts)
    for i, (line, pages) in enumerate(zip(snap.maps, snap.resident, strict=True)):
        mapping = parse_line(line)
        start, end = mapping.start, mapping.end
        if not 0 <= pages * page <= end - start:
            return None
        mine = within(start, end)
        if sum(high - low for low, high, _ in mine) < end - start:
            mine.append((start, start, None))
        kinds = {kind for _, _, kind in mine}
        if not pages or kinds == {None}:
            held: Iterable[tuple[str | None, int | None]] = ((kind, 0) for kind in kinds)
        elif len(kinds) == 1:
            held = ((kind, pages * page) for kind in kinds)
        elif pages * page == end - start:
            held = ((kind, high - low) for low, high, kind in mine)
        elif i in runs and sum(runs[i][1::2]) == pages:
            held = _parted(mine, start, runs[i], page)
        else:
            held = ((kind, None) for kind in kinds)
        for kind, size in held:
            if kind is not None:
                sofar = found.get(kind, 0)
                found[kind] = None if sofar is None or size is None else sofar + size
    return found


def _within(parts: Iterable[Part]) -> Callable[[int, int], list[Part]]:
    """Asked range by range upwards: the parts of a range, cut to it."""
    rest = iter(parts)
    ahead: list[Part] = []

    def of(start: int, end: int) -> list[Part]:
        out: list[Part] = []
        while True:
            part = ahead.pop() if ahead else next(rest, None)
            if part is None:
                return out
            low, high, kind = part
            if low < end and high > start:
                out.append((max(low, start), min(high, end), kind))
            if high > end:
                ahead.append(part)
            if high >= end:
                return out

    return of


def _parted(
    parts: Iterable[Part], start: int, runs: Sequence[int], page: int
) -> Iterator[tuple[str | None, int]]:
    """Bytes of each part that lie in the runs of present pages."""
    spans = [
        (start + first * page, start + (first + count) * page)
        for first, count in zip(runs[::2], runs[1::2], strict=False)
    ]
    for low, high, kind in parts:
        yield kind, sum(max(min(high, e) - max(low, s), 0) for s, e in spans)
