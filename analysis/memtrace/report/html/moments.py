# SPDX-License-Identifier: GPL-2.0-or-later
"""Which moments of a trace the page shows: few enough to draw, and every peak among them.

Each is a true state, never an average. Calls are put in buckets of equal size; of each bucket stay
the first and last change, and the moments of the least and the most of every measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memtrace.malloc.tags import CARVED, Cuts
from memtrace.replay.observer import Observer

if TYPE_CHECKING:
    from memtrace.malloc.tags import Kinds
    from memtrace.replay.process import Process
    from memtrace.space.address_space import Piece
    from memtrace.space.calls import Change
    from memtrace.space.compare import Comparison
    from memtrace.trace.records import Call, Fork, Snap, Start

MASK = CARVED - 1
#: What the timeline stacks, from the bottom up.
LAYERS = ("heap", "chunks", "arenas", "other")
_LAYER = {"heap": 0, "malloc-chunk": 1, "main-arena": 2, "arena": 2}


@dataclass(frozen=True, slots=True)
class State:
    """The bytes of each layer after the record `seq`; `rss` as read at that call, None if not."""

    seq: int
    t: int
    layers: tuple[int, ...]
    rss: int | None

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.layers)


@dataclass(slots=True)
class Line:
    """The states of one process that stay, in order; `thinned`: others are left out."""

    states: list[State] = field(default_factory=list)
    thinned: bool = False
    most_pieces: int = 0


class Curve(Observer):
    """Draws the line of every process wanted.

    Args:
        page: page size in bytes.
        kinds: of the regions.
        buckets: mm -> how many calls make a bucket.
    """

    def __init__(self, page: int, kinds: Kinds, buckets: Mapping[int, int]) -> None:
        self.lines: dict[int, Line] = {}
        self._page, self._kinds, self._buckets = page, kinds, buckets
        self._cuts = Cuts(page)
        self._now: dict[int, list[int]] = {}
        self._open: dict[int, list[State]] = {}
        self._calls: dict[int, int] = {}

    def born(self, p: Process, seq: int, t: int, record: Start | Fork) -> None:
        """See `Observer`."""
        if p.mm not in self._buckets:
            return
        self._cuts.born(p, seq, t, record)
        self.lines[p.mm], self._open[p.mm], self._calls[p.mm] = Line(), [], 0
        self._count(p)
        rss = getattr(record, "rss", None)
        self._keep(p, seq, t, None if rss is None else max(rss, 0))

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        """See `Observer`."""
        if p.mm not in self._buckets:
            return
        if change is not None:
            now = self._now[p.mm]
            for piece in change.removed:
                now[self._layer(p.mm, piece)] -= piece[1] - piece[0]
            for piece in change.added:
                now[self._layer(p.mm, piece)] += piece[1] - piece[0]
        if change is not None or call.rss is not None:
            self._keep(p, seq, t, call.rss)
        self._calls[p.mm] += 1
        if self._calls[p.mm] % self._buckets[p.mm] == 0:
            self._close(p.mm)

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """See `Observer`."""
        if p.mm in self._buckets:
            self._count(p)
            self._keep(p, seq, t, snap.rss)

    def died(self, p: Process, seq: int, t: int) -> None:
        """See `Observer`."""
        if p.mm in self._buckets:
            last = max(seq - 1, p.born_seq) if p.died_seq is not None else seq
            self._keep(p, last, t, None)
            self._close(p.mm)

    def _layer(self, mm: int, piece: Piece) -> int:
        layer = _LAYER.get(self._kinds.of(mm, piece[3]), 3)
        return 3 if layer == 2 and not piece[2].accessible else layer

    def _count(self, p: Process) -> None:
        now = self._now[p.mm] = [0] * len(LAYERS)
        pieces = 0
        for piece in p.space.pieces():
            now[self._layer(p.mm, piece)] += piece[1] - piece[0]
            pieces += 1
        line = self.lines[p.mm]
        line.most_pieces = max(line.most_pieces, pieces)

    def _keep(self, p: Process, seq: int, t: int, rss: int | None) -> None:
        line = self.lines[p.mm]
        line.most_pieces = max(line.most_pieces, len(p.space))
        bytes_ = None if rss is None else rss * self._page
        opened = self._open[p.mm]
        if opened and opened[-1].seq == seq:
            opened.pop()
        opened.append(State(seq, t, tuple(self._now[p.mm]), bytes_))

    def _close(self, mm: int) -> None:
        opened, line = self._open[mm], self.lines[mm]
        kept = extremes(opened)
        line.thinned = line.thinned or len(kept) < len(opened)
        line.states += kept
        self._open[mm] = []


def extremes(states: list[State]) -> list[State]:
    """The first and last, and those with the least and the most of each measure, in order."""
    if len(states) <= 4:
        return states
    at = {0, len(states) - 1}
    measures = [[s.layers[i] for s in states] for i in range(len(LAYERS))]
    measures.append([s.total for s in states])
    for values in measures:
        at.add(values.index(max(values)))
        at.add(values.index(min(values)))
    read = [i for i, s in enumerate(states) if s.rss is not None]
    if read:
        at.add(max(read, key=lambda i: states[i].rss or 0))
    return [states[i] for i in sorted(at)]


def pick(line: Line, most: int, wanted: Iterable[int] = ()) -> list[int]:
    """The records after which the map is shown: at most `most`, in order.

    First, last and peaks of the whole line come first, then what is `wanted` (the evidence of
    findings), then states spread evenly.
    """
    states = line.states
    if len(states) <= most:
        return [s.seq for s in states]
    known = {s.seq for s in states}
    chosen = dict.fromkeys(s.seq for s in (states[0], states[-1]))
    chosen.update(dict.fromkeys(s.seq for s in extremes(states)))
    first, last = states[0].seq, states[-1].seq
    chosen.update(dict.fromkeys(s for s in wanted if first <= s <= last))
    out = list(chosen)[:most]
    room = most - len(out)
    spread = sorted(known - set(out))
    if room > 0 and spread:
        step = max(len(spread) / room, 1.0)
        out += [spread[int(i * step)] for i in range(min(room, len(spread)))]
    return sorted(set(out))
