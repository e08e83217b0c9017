# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory each kind had over time, as few true states as tell it.

A pass of its own, after the one that has proven what each region was: kinds are final here, for a
region's header may be read long after its birth. Of a long trace states are left out, but never one
in which anything was at its most or least among its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from memtrace.malloc.tags import CARVED, Kinds
from memtrace.replay.observer import Observer

if TYPE_CHECKING:
    from memtrace.replay.process import Process
    from memtrace.space.address_space import Piece
    from memtrace.space.calls import Change
    from memtrace.space.compare import Comparison
    from memtrace.trace.records import Call, Fork, LifeRecord, Snap, Start, Unknown

#: Groups of neighbouring states, of each of which at most 16 are kept.
GROUPS = 128
_HEAP, _CHUNK, _ARENA = "heap", "malloc-chunk", "arena"


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """The state after a record.

    Attributes:
        seq: the record; `t_ns` its time, None in a trace without times.
        bytes: mapped of each of `Series.kinds`.
        opened: of thread arenas, bytes that may be accessed.
        rss: bytes resident, as read at that record; None: not read there.
    """

    seq: int
    t_ns: int | None
    bytes: list[int]
    opened: int
    rss: int | None


class Series(msgspec.Struct, frozen=True, array_like=True):
    """One address space over time.

    Attributes:
        kinds: every kind that it ever had, sorted.
        moments: in order; the first is its birth, the last its last change.
        thinned: whether states are left out.
        pieces: the most parts that its map ever had.
        last: the last record of its life and that one's time, None in a trace without times.
    """

    kinds: list[str]
    moments: list[Moment]
    thinned: bool
    pieces: int
    last: tuple[int, int | None]

    def of(self, *kinds: str) -> list[int]:
        """The bytes of these kinds together at each moment."""
        places = [i for i, kind in enumerate(self.kinds) if kind in kinds]
        return [sum(m.bytes[i] for i in places) for m in self.moments]


#: A state while it is collected: seq, t, bytes by kind, opened, rss.
_State = tuple[int, int, dict[str, int], int, int | None]


class _Line:
    """The states of one address space, in not many more than `groups` * 32."""

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.sizes: dict[str, int] = {}
        self.opened = self.pieces = 0
        self.states: list[_State] = []
        self.rss: int | None = None  # the last one read
        self.thinned = False
        self.last = (0, 0)

    def change(self, pieces: Iterable[Piece], sign: int, kind: Callable[[int], str]) -> None:
        """Pieces that came, or went."""
        sizes = dict(self.sizes)  # those of the states before stay as they are
        for start, end, attr, tag in pieces:
            name, size = kind(tag), sign * (end - start)
            sizes[name] = sizes.get(name, 0) + size
            if name == _ARENA and attr.accessible:
                self.opened += size
        self.sizes = sizes

    def note(self, seq: int, t: int, rss: int | None, *, changed: bool) -> None:
        """The state after a record, if the map has changed or anything else is new."""
        states = self.states
        if not changed and rss in (None, self.rss):
            return
        if rss is not None:
            self.rss = rss
        states.append((seq, t, self.sizes, self.opened, rss))
        if len(states) > 32 * self.groups:
            self.states = thin(states, self.groups)
            self.thinned = True


def thin(states: list[_State], groups: int = GROUPS) -> list[_State]:
    """Of each group of neighbours the first, the last, and those where anything was at its most or
    least.
    """
    first, last = states[0][0], states[-1][0]
    parts: dict[int, list[_State]] = {}
    for s in states:
        parts.setdefault((s[0] - first) * groups // (last - first + 1), []).append(s)
    kept: dict[int, _State] = {}
    for part in parts.values():
        extremes = [part[0], part[-1]]
        for measure in _MEASURES:
            extremes += max(part, key=measure), min(part, key=measure)
        read = [s for s in part if s[4] is not None]
        if read:
            extremes += max(read, key=_rss), min(read, key=_rss)
        kept.update((s[0], s) for s in extremes)
    return [kept[seq] for seq in sorted(kept)]


def _size(s: _State, kind: str) -> int:
    return s[2].get(kind, 0)


def _malloc(s: _State) -> int:
    return _size(s, _HEAP) + _size(s, _CHUNK) + s[3]


_MEASURES: tuple[Callable[[_State], int], ...] = (
    lambda s: sum(s[2].values()),
    lambda s: _size(s, _HEAP),
    lambda s: _size(s, _CHUNK),
    itemgetter(3),
    _malloc,
    lambda s: sum(s[2].values()) - _size(s, _HEAP) - _size(s, _CHUNK) - _size(s, _ARENA),
)


def _rss(s: _State) -> int:
    return s[4] or 0


class Curves(Observer):
    """Collects the series of address spaces.

    Args:
        kinds: what each region was.
        page: bytes.
        wanted: the address spaces wanted, and into how many groups each is parted at most.

    Attributes:
        backwards: the time of a record was before that of one before it.
    """

    def __init__(self, kinds: Kinds, page: int, wanted: Mapping[int, int]) -> None:
        self._kinds, self._page, self._wanted = kinds, page, wanted
        self._lines: dict[int, _Line] = {}
        self._last = (0, 0)  # of all records: what is not of one address space ends it all the same
        self.backwards = False

    def series(self, *, timed: bool) -> dict[int, Series]:
        """By address space, when the pass is over.

        Args:
            timed: the trace's records have times.
        """
        return {mm: _series(line, timed=timed) for mm, line in self._lines.items()}

    def _kind(self, mm: int) -> Callable[[int], str]:
        return lambda tag: self._kinds.of(mm, tag & (CARVED - 1))

    def _reach(self, seq: int, t: int) -> None:
        if t < self._last[1]:
            self.backwards = True
        self._last = seq, t

    def born(self, p: Process, seq: int, t: int, record: Start | Fork) -> None:
        """See `Observer`."""
        self._reach(seq, t)
        if p.mm in self._wanted:
            self._lines[p.mm] = _Line(self._wanted[p.mm])
            rss = getattr(record, "rss", None)
            self._whole(p, seq, t, None if rss is None else max(rss, 0))

    def _whole(self, p: Process, seq: int, t: int, rss: int | None) -> None:
        line = self._lines[p.mm]
        line.sizes, line.opened, line.pieces = {}, 0, max(line.pieces, len(p.space))
        line.change(p.space.pieces(), 1, self._kind(p.mm))
        line.note(seq, t, None if rss is None else rss * self._page, changed=True)

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        """See `Observer`."""
        self._reach(seq, t)
        line = self._lines.get(p.mm)
        if line is None:
            return
        if change is not None:
            kind = self._kind(p.mm)
            line.change(change.removed, -1, kind)
            line.change(change.added, 1, kind)
            line.pieces = max(line.pieces, len(p.space))
        rss = None if call.rss is None else call.rss * self._page
        line.note(seq, t, rss, changed=change is not None)

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """See `Observer`."""
        line = self._lines.get(p.mm)
        if line is None:
            return
        if comparison.grown or comparison.drift is not None:
            self._whole(p, seq, t, snap.rss)
        elif snap.rss is not None:
            line.note(seq, t, snap.rss * self._page, changed=False)

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        """See `Observer`."""
        self._reach(seq, t)

    def died(self, p: Process, seq: int, t: int) -> None:
        """See `Observer`."""
        line = self._lines.get(p.mm)
        if line is not None:
            ended = p.died_seq is not None and self._last[0] >= seq
            line.last = (seq - 1, t) if ended else self._last


def _series(line: _Line, *, timed: bool) -> Series:
    states = thin(line.states, line.groups) if line.thinned else line.states
    kinds = sorted({kind for s in states for kind, size in s[2].items() if size})
    moments = [
        Moment(seq, t if timed else None, [sizes.get(k, 0) for k in kinds], opened, rss)
        for seq, t, sizes, opened, rss in states
    ]
    seq, t = max(line.last, states[-1][:2])
    return Series(kinds, moments, line.thinned, line.pieces, (seq, t if timed else None))
