# SPDX-License-Identifier: GPL-2.0-or-later
"""The address space's regions at chosen moments, exactly; kept as what changed from one to the
next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from memtrace.replay.observer import Observer
from memtrace.report.html.moments import MASK
from memtrace.report.lines import clean

if TYPE_CHECKING:
    from memtrace.malloc.tags import Kinds
    from memtrace.replay.process import Process
    from memtrace.space.calls import Change
    from memtrace.space.compare import Comparison
    from memtrace.trace.records import Call, Fork, LifeRecord, Snap, Start, Unknown

#: Addresses are told in these, so that all of 64 bits are exact numbers in JavaScript.
UNIT = 4096
_PATH = 200
#: Characters of all paths of a process; those after them are only told to be there.
_PATHS = 300_000

#: start, end, pages mapped of it, number of its largest part's permissions, pages with any access.
Place = tuple[int, int, int, int, int]
#: A moment: its record, time, and the regions by tag.
Shown = tuple[int, int, dict[int, Place]]


class _One:
    """One process's."""

    def __init__(self, moments: Sequence[int], entries: int) -> None:
        self.left = list(reversed(moments))
        self.entries = entries
        self.moments: list[Shown] = []
        self.born: dict[int, int] = {}
        self.seen: dict[int, tuple[int, str, int]] = {}
        #: The last record that brought mappings without a call: the birth, a snapshot.
        self.given = 0


class Maps(Observer):
    """Reads the maps at the moments wanted.

    Args:
        kinds: of the regions.
        chosen: mm -> records, in order.
        entries: mm -> how many entries may be kept.
    """

    def __init__(
        self, kinds: Kinds, chosen: Mapping[int, Sequence[int]], entries: Mapping[int, int]
    ) -> None:
        self._kinds = kinds
        self._of = {mm: _One(seqs, entries[mm]) for mm, seqs in chosen.items()}
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def born(self, p: Process, seq: int, t: int, record: Start | Fork) -> None:
        """See `Observer`."""
        one = self._of.get(p.mm)
        if one is not None:
            one.given = seq
            self._reach(one, p, seq, t)

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        """See `Observer`."""
        one = self._of.get(p.mm)
        if one is None:
            return
        if change is not None:
            for piece in change.added:
                one.born.setdefault(piece[3] & MASK, seq)
        self._reach(one, p, seq, t)

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """See `Observer`."""
        one = self._of.get(p.mm)
        if one is not None:
            if comparison.grown or comparison.drift is not None:
                one.given = seq
            self._reach(one, p, seq, t)

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        """See `Observer`."""
        one = None if p is None else self._of.get(p.mm)
        if p is not None and one is not None:
            self._reach(one, p, seq, t)

    def died(self, p: Process, seq: int, t: int) -> None:
        """See `Observer`."""
        one = self._of.get(p.mm)
        if one is not None and one.left:  # the last state of all: nothing of it changed since
            last = one.left[0]
            one.left = []
            self._take(one, p, last, t)

    def _reach(self, one: _One, p: Process, seq: int, t: int) -> None:
        if one.left and one.left[-1] <= seq:
            at = seq
            while one.left and one.left[-1] <= seq:
                at = one.left.pop()
            self._take(one, p, at, t)

    def _take(self, one: _One, p: Process, seq: int, t: int) -> None:
        found: dict[int, Place] = {}
        largest: dict[int, int] = {}  # pages of the part whose permissions stand for the region
        for start, end, attr, tag in p.space.pieces():
            tag &= MASK  # noqa: PLW2901 - a guard in a stack counts to it
            low, high = start // UNIT, end // UNIT
            pages = high - low
            perms, opened = self._name(attr.perms), pages if attr.accessible else 0
            was = found.get(tag)
            if was is None:
                found[tag], largest[tag] = (low, high, pages, perms, opened), pages
                if tag not in one.seen:
                    kind = self._name(self._kinds.of(p.mm, tag))
                    path = p.space.path_of(attr)
                    one.seen[tag] = (kind, path, one.born.get(tag, one.given))
            else:
                if pages > largest[tag]:
                    largest[tag] = pages
                else:
                    perms = was[3]
                found[tag] = (was[0], high, was[2] + pages, perms, was[4] + opened)
        one.born = {}
        if one.moments and one.moments[-1][0] == seq:
            one.moments.pop()
        one.moments.append((seq, t, found))

    def _name(self, text: str) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.names)
            self.names.append(text)
        return number

    def of(self, mm: int, *, timed: bool) -> dict[str, Any]:
        """The maps of one process, each as its difference from the one before."""
        one = self._of.get(mm)
        if one is None:
            return {"moments": [], "regions": [], "names": []}
        moments, largest = one.moments, _largest(one)
        encoded, count = _encode(moments, largest, timed=timed)
        while count > one.entries and len(moments) > 2:
            moments = [m for i, m in enumerate(moments) if i % 2 == 0 or i == len(moments) - 1]
            encoded, count = _encode(moments, largest, timed=timed)
        used = {entry[0] for m in encoded for entry in m["set"]}
        paths: list[str] = []
        number: dict[str, int] = {}
        written, room = 0, min(_PATHS, 8 * one.entries)
        regions = []
        for tag, (kind, path, born) in one.seen.items():
            if tag in used:
                shown = clean(path[:_PATH])[:_PATH]
                shown += "…" if len(shown) < len(path) else ""
                if shown not in number and written + len(shown) > room:
                    shown = "…"
                if shown not in number:
                    written += len(shown)
                    number[shown] = len(paths)
                    paths.append(shown)
                regions.append([tag, kind, number[shown], born])
        return {"moments": encoded, "regions": regions, "paths": paths, "names": self.names}


def _largest(one: _One) -> frozenset[int]:
    """The regions that are shown, the same at every moment: of one that is left out here and not
    there it would look as if it had come or gone.
    """
    sizes: dict[int, int] = {}
    for _, _, found in one.moments:
        for tag, place in found.items():
            sizes[tag] = max(sizes.get(tag, 0), place[2])
    order = sorted(sizes, key=lambda tag: -sizes[tag])
    return frozenset(order[: max(one.entries // 2, 200)])


def _encode(
    moments: Sequence[Shown], shown: frozenset[int], *, timed: bool
) -> tuple[list[dict[str, Any]], int]:
    out: list[dict[str, Any]] = []
    before: dict[int, Place] = {}
    count = 0
    for seq, t, every in moments:
        found = {tag: place for tag, place in every.items() if tag in shown}
        new = [[tag, *place] for tag, place in found.items() if before.get(tag) != place]
        gone = [tag for tag in before if tag not in found]
        count += len(new) + (len(gone) + 3) // 4
        out.append({"seq": seq, "t": t if timed else None, "set": new, "gone": gone})
        if len(found) < len(every):
            pages = sum(place[2] for tag, place in every.items() if tag not in shown)
            out[-1]["rest"] = [len(every) - len(found), pages]
        before = found
    return out, count
