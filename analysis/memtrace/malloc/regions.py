# SPDX-License-Identifier: GPL-2.0-or-later
"""Region lifetimes, and how much memory each kind held over time.

One region is one birth: an mmap, a line of the map an exec, an attach or a fork began with, a
growth of the heap from nothing. Its pages carry its tag (`AddressSpace`), so that it stays one
region through splits, mprotect and mremap until its last byte is gone, and two neighbours that the
kernel shows as one line stay two.

A kind may be proven only after the birth. The account of the kinds waits for it, in order, so that
each kind's peak is its own; a wait too long is ended by counting the region as what it is then.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from memtrace.malloc.tags import Tags
from memtrace.space.address_space import Piece

#: Rows of regions kept per process, the largest.
ROWS = 10_000
_WAITING = 20_000


class Region:
    """One region. Sizes are bytes, `bytes` of it are mapped now; the evidence key is `born_seq`.

    `start`, `end`: the extent at birth, once dead the last one; of the living the address space
    knows. `length`: bytes at birth. `t_low`: the threshold's lower bound at birth; `t_high` its
    upper one where the bounds are apart because frees were not seen. `settled`: the kind may be
    counted, in `sum`; if not, it may be after `until` calls. `site`: where in the C library the
    mmap returned to; `libc`: which copy of it, where there are several and that is told. `older`:
    than the trace, found at an attach, as is a forked child's copy. `resized`: by an mremap, also
    one before the fork; `stuck`: the kernel refused one. `unrounded`: the length asked for was no
    number of pages, so that it is no chunk of glibc's.
    """

    # What stays as it is here for most regions is no store per birth.
    born_t = moves = counted = 0
    until = 1 << 62
    died_seq: int | None = None
    prot: int | None = None
    flags: int | None = None
    path = ""
    owner: str | None = None
    evidence = "none"
    kind = verdict = "unknown"
    candidates: tuple[str, ...] = ()
    reason: str | None = None
    settled = True
    locked = inherited = no_arena = older = resized = stuck = unrounded = False
    site: tuple[str, int] | None = None
    libc: tuple[str, int] | None = None
    t_low: int | None = None
    t_high: int | None = None
    counted_as: str | None = None
    sum: Kind | None = None

    def __init__(
        self, tag: int, start: int, end: int, born_seq: int, tid: int | None, call: str = ""
    ) -> None:
        self.tag = tag
        self.start = start
        self.end = end
        self.length = self.bytes = self.peak = end - start
        self.born_seq = born_seq
        self.tid = tid
        self.call = call

    def copy(self, seq: int) -> Region:
        """The forked child's region, born by the fork `seq` with as many bytes."""
        r = Region(self.tag, self.start, self.end, seq, None, self.call)
        r.length = r.bytes = r.peak = self.bytes
        r.kind, r.evidence, r.path = self.kind, self.evidence, self.path
        r.verdict, r.t_low = self.verdict, self.t_low
        for name in _SELDOM:
            value = getattr(self, name)
            if value != getattr(Region, name):
                setattr(r, name, value)
        r.inherited = True
        return r


#: What a child's region has of its mother's, if that is out of the ordinary.
_SELDOM = (
    "prot", "flags", "owner", "candidates", "reason", "no_arena", "older", "t_high", "libc",
    "resized", "stuck",
)  # fmt: skip


class Kind:
    """What one kind of region adds up to.

    `count` regions ever, `older` of them than the trace, `born` neither inherited nor older;
    `alive` now with `bytes`; most ever `peak` bytes, and `most` alive.
    """

    __slots__ = ("alive", "born", "bytes", "count", "most", "older", "peak")

    def __init__(self) -> None:
        self.count = self.alive = self.bytes = self.peak = self.born = self.older = self.most = 0


class Regions:
    """All regions of one address space, alive and dead; `older` of them than the trace, of which
    `older_gone` are dead.

    Args:
        tags: takes the kinds of the dead.

    Attributes:
        most: rows kept, the largest regions.
    """

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self.most = ROWS
        self.alive: dict[int, Region] = {}
        self._serial = 0
        self.kinds: dict[str, Kind] = {}
        self.total = 0
        self.older = 0
        self.older_gone = 0
        self._dead: list[tuple[int, int, Region]] = []
        self._waiting: deque[tuple[Region, int]] = deque()

    # -- what happens ---------------------------------------------------------------------------

    def born(self, r: Region) -> None:
        """A new region, its kind decided as far as it is known."""
        self.alive[r.tag] = r
        self.total += 1
        if r.older:
            self.older += 1
        if r.settled and not self._waiting:
            self._count(r, r.bytes)
        else:
            self._wait(r, r.bytes)

    def shift(
        self, removed: Sequence[Piece], added: Sequence[Piece], seq: int
    ) -> tuple[list[Piece], list[Region], list[Region]]:
        """Follow a change of the map.

        Returns:
            The births as one piece each (bytes in its tag's pieces may be fewer than its extent),
            the regions that died, those that changed size or place.
        """
        alive = self.alive
        if not removed and len(added) == 1 and added[0][3] not in alive:
            return [added[0]], [], []
        deltas: dict[int, int] = {}
        extents: dict[int, tuple[int, int]] = {}
        for s, e, _, tag in removed:
            deltas[tag] = deltas.get(tag, 0) - (e - s)
            known = extents.get(tag)
            extents[tag] = (s, e) if known is None else (min(known[0], s), max(known[1], e))
        births: dict[int, Piece] = {}
        for s, e, attr, tag in added:
            deltas[tag] = deltas.get(tag, 0) + (e - s)
            if tag not in alive:
                before = births.get(tag, (s, e, attr, tag))
                births[tag] = min(before[0], s), max(before[1], e), before[2], tag
        died, changed = [], []
        for tag, delta in deltas.items():
            r = alive.get(tag)
            if r is None:
                if delta <= 0:  # came and went within the call
                    births.pop(tag, None)
                continue
            if delta:
                last = r.bytes
                r.bytes = last + delta
                self._move(r, delta)
                if r.bytes <= 0:
                    r.start, r.end = extents[tag]
                    self._die(r, seq, last)
                    died.append(r)
                    continue
                if r.bytes > r.peak:
                    r.peak = r.bytes
            changed.append(r)
        return list(births.values()), died, changed

    def unmapped(self, piece: Piece, seq: int) -> Region | None:
        """One piece of the map is gone: `shift`, of that alone; the region if it died."""
        start, end, _, tag = piece
        r = self.alive.get(tag)
        if r is None:
            return None
        size, last = end - start, r.bytes
        kind = r.sum
        if kind is None or self._waiting:
            self._move(r, -size)
        else:
            counted = r.counted = r.counted - size
            kind.bytes -= size
            if not counted:
                kind.alive -= 1
        if size < last:
            r.bytes = last - size
            return None
        r.start, r.end = start, end
        self._die(r, seq, last)
        return r

    def grown(self, r: Region, delta: int) -> None:
        """A region's size changed without a call (stack growth)."""
        r.bytes += delta
        r.peak = max(r.peak, r.bytes)
        self._move(r, delta)

    def carve(self, r: Region, part: Region) -> None:
        """Part `r`: `part`, retagged in the map already, was never what `r` is."""
        size = part.bytes
        if not r.settled:
            for i, (waiting, delta) in enumerate(self._waiting):
                if waiting is r:
                    self._waiting[i] = (r, delta - size)
                    break
            r.bytes -= size
            r.peak -= size
        else:
            r.bytes -= size
            self._move(r, -size)
        self.born(part)

    def never_more(self, r: Region, most: int) -> None:
        """`r`, all of its kind, was found with what is not of it: it had at most so many bytes."""
        r.length, r.peak = min(r.length, most), min(r.peak, most)
        if r.sum is not None:
            r.sum.peak = min(r.sum.peak, most)

    def settle(self, r: Region) -> None:
        """The kind is final: account for it."""
        if not r.settled:
            r.settled = True
            if self._waiting and self._waiting[0][0] is r:
                self._drain()

    def become(self, r: Region, kind: str, evidence: str, owner: str | None = None) -> None:
        """The kind is proven now."""
        r.kind, r.evidence, r.owner, r.candidates = kind, evidence, owner, ()
        if r.counted_as is not None and r.counted_as != kind:
            self._recount(r)
        self.settle(r)

    def expire(self, calls: int) -> None:
        """So many calls were made: what has waited long enough for a proof is what it is."""
        waiting = self._waiting
        while waiting and waiting[0][0].until <= calls:
            waiting[0][0].settled = True
            self._drain()

    def finish(self) -> None:
        """Nothing more will be proven."""
        for r, _ in self._waiting:
            r.settled = True
        self._drain()

    # -- what there is --------------------------------------------------------------------------

    def alive_of(self, kind: str) -> int:
        """How many regions of a kind live now, those not accounted for yet among them."""
        k = self.kinds.get(kind)
        n = 0 if k is None else k.alive
        for r in {id(r): r for r, _ in self._waiting}.values():
            n += r.kind == kind and r.tag in self.alive
            n -= r.counted_as == kind and r.counted > 0
        return n

    def most_of(self, kind: str) -> int:
        """How many of a kind lived at one time, at most: those not accounted for yet may be."""
        k = self.kinds.get(kind)
        return (0 if k is None else k.most) + len(self._waiting)

    def rows(self) -> list[Region]:
        """The largest regions that lived, at most `most`, largest first, then by birth."""
        everything = [r for _, _, r in self._dead]
        everything += self.alive.values()
        everything.sort(key=lambda r: (-r.peak, r.born_seq, r.start))
        return everything[: self.most]

    # -- inside ---------------------------------------------------------------------------------

    def _die(self, r: Region, seq: int, last: int) -> None:
        tag, dead = r.tag, self._dead
        del self.alive[tag]
        r.died_seq = seq
        r.bytes = last  # the map knows it no more: the row shows its last size
        if r.older:
            self.older_gone += 1
        if not r.settled:
            self.settle(r)
        self._tags.note(tag, r.kind)
        if len(dead) < self.most:
            self._serial += 1
            heapq.heappush(dead, (r.peak, -self._serial, r))
        elif r.peak > dead[0][0]:
            self._serial += 1
            heapq.heapreplace(dead, (r.peak, -self._serial, r))

    def _move(self, r: Region, delta: int) -> None:
        if r.settled and not self._waiting:
            self._count(r, delta)
        else:
            self._wait(r, delta)

    def _wait(self, r: Region, delta: int) -> None:
        """Count it once those before it are counted."""
        waiting = self._waiting
        waiting.append((r, delta))
        if len(waiting) > _WAITING:
            waiting[0][0].settled = True
            self._drain()

    def _drain(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0].settled:
            self._count(*waiting.popleft())

    def _count(self, r: Region, delta: int) -> None:
        k = r.sum
        if k is None:  # the first time
            kind = r.counted_as = r.kind
            k = self.kinds.get(kind)
            if k is None:
                k = self.kinds[kind] = Kind()
            r.sum = k
            k.count += 1
            alive = k.alive = k.alive + 1
            if alive > k.most:
                k.most = alive
            if r.older:
                k.older += 1
            elif not r.inherited:
                k.born += 1
        counted = r.counted = r.counted + delta
        held = k.bytes = k.bytes + delta
        if held > k.peak:
            k.peak = held
        if not counted:
            k.alive -= 1

    def _recount(self, r: Region) -> None:
        """Move what was counted under another kind."""
        old = self.kinds[r.counted_as or r.kind]
        new = self.kinds.setdefault(r.kind, Kind())
        r.counted_as, r.sum = r.kind, new
        for k, sign in ((old, -1), (new, 1)):
            k.count += sign
            k.alive += sign if r.counted else 0
            k.born += 0 if r.inherited or r.older else sign
            k.older += sign if r.older else 0
            k.bytes += sign * r.counted
            if r.older and r.counted == r.length == r.peak:
                k.peak += sign * r.counted  # it was there all the time, and all of it
        new.peak = max(new.peak, new.bytes)
        new.most = max(new.most, new.alive)
