# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory each kind had over time, as few true states as tell it.

A pass of its own, after the one that has proven what each region was: kinds are final here, for a
region's header may be read long after its birth. Of a long trace states are left out, but never one
in which anything was at its most or least among its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    from memtrace.trace.records import Call, Fork, Snap, Start

#: Groups of neighbouring states, of each of which at most 16 are kept.
_GROUPS = 128
_KEPT = 2 * 16 * _GROUPS
_HEAP, _CHUNK, _ARENA = "heap", "malloc-chunk", "arena"


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """The state after a record.

    Attributes:
        seq: the record; `t_ns` its time, None in a trace without times.
        bytes: mapped of each of `Series.kinds`.
        opened: of thread arenas, bytes that may be accessed.
        rss: bytes resident, as read at that call; None: not read.
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
    """

    kinds: list[str]
    moments: list[Moment]
    thinned: bool

    def of(self, *kinds: str) -> list[int]:
        """The bytes of these kinds together at each moment."""
        places = [i for i, kind in enumerate(self.kinds) if kind in kinds]
        return [sum(m.bytes[i] for i in places) for m in self.moments]

    def malloc(self) -> list[int]:
        """What malloc holds at each moment: heap, mapped chunks, opened arenas."""
        return [n + m.opened for n, m in zip(self.of(_HEAP, _CHUNK), self.moments, strict=True)]


#: A state while it is collected: seq, t, bytes by kind, opened, rss.
_State = tuple[int, int, dict[str, int], int, int | None]


class _Line:
    """The states of one address space."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.opened = 0
        self.states: list[_State] = []
        self.thinned = False

    def change(self, pieces: Iterable[Piece], sign: int, kind: Callable[[int], str]) -> None:
        """Pieces that came, or went."""
        sizes = dict(self.sizes)  # those of the states before stay as they are
        for start, end, attr, tag in pieces:
            name, size = kind(tag), sign * (end - start)
            sizes[name] = sizes.get(name, 0) + size
            if name == _ARENA and attr.accessible:
                self.opened += size
        self.sizes = sizes

    def note(self, seq: int, t: int, rss: int | None) -> None:
        """The state after a record, if anything is new."""
        states = self.states
        if states:
            last = states[-1]
            if last[2] == self.sizes and last[3] == self.opened and rss in (None, last[4]):
                return
            if rss is None:
                rss = last[4]
        states.append((seq, t, self.sizes, self.opened, rss))
        if len(states) > _KEPT:
            self.states = thin(states)
            self.thinned = True


def thin(states: list[_State]) -> list[_State]:
    """Of each group of neighbours the first, the last, and those where anything was at its most or
    least.
    """
    first, last = states[0][0], states[-1][0]
    groups: dict[int, list[_State]] = {}
    for s in states:
        groups.setdefault((s[0] - first) * _GROUPS // (last - first + 1), []).append(s)
    kept: dict[int, _State] = {}
    for group in groups.values():
        for s in (group[0], group[-1]):
            kept[s[0]] = s
        for measure in _MEASURES:
            for s in (max(group, key=measure), min(group, key=measure)):
                kept[s[0]] = s
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
    lambda s: s[4] or 0,
)


class Curves(Observer):
    """Collects the series of address spaces.

    Args:
        kinds: what each region was.
        page: bytes.
        mms: the address spaces wanted; None: all.
    """

    def __init__(self, kinds: Kinds, page: int, mms: Iterable[int] | None = None) -> None:
        self._kinds, self._page = kinds, page
        self._wanted = None if mms is None else frozenset(mms)
        self._lines: dict[int, _Line] = {}

    def series(self, *, timed: bool) -> dict[int, Series]:
        """By address space, when the pass is over.

        Args:
            timed: the trace's records have times.
        """
        return {mm: _series(line, timed=timed) for mm, line in self._lines.items()}

    def _kind(self, mm: int) -> Callable[[int], str]:
        return lambda tag: self._kinds.of(mm, tag & (CARVED - 1))

    def born(self, p: Process, seq: int, t: int, record: Start | Fork) -> None:
        """See `Observer`."""
        if self._wanted is None or p.mm in self._wanted:
            self._lines[p.mm] = _Line()
            self._whole(p, seq, t)

    def _whole(self, p: Process, seq: int, t: int) -> None:
        line = self._lines[p.mm]
        line.sizes, line.opened = {}, 0
        line.change(p.space.pieces(), 1, self._kind(p.mm))
        line.note(seq, t, None)

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        """See `Observer`."""
        line = self._lines.get(p.mm)
        if line is None:
            return
        if change is not None:
            kind = self._kind(p.mm)
            line.change(change.removed, -1, kind)
            line.change(change.added, 1, kind)
        line.note(seq, t, None if call.rss is None else call.rss * self._page)

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """See `Observer`."""
        if p.mm in self._lines and (comparison.grown or comparison.drift is not None):
            self._whole(p, seq, t)


def _series(line: _Line, *, timed: bool) -> Series:
    states = thin(line.states) if line.thinned else line.states
    kinds = sorted({kind for s in states for kind, size in s[2].items() if size})
    moments = [
        Moment(seq, t if timed else None, [sizes.get(k, 0) for k in kinds], opened, rss)
        for seq, t, sizes, opened, rss in states
    ]
    return Series(kinds, moments, line.thinned)
