# SPDX-License-Identifier: GPL-2.0-or-later
"""Where glibc's mmap threshold and its trim threshold stand, as intervals over time.

What is stated, and what is not. The interval follows from the recorded configuration and from the
recorded frees of mapped chunks. Two things leave no mark in system calls: a call of mallopt, and,
where the trace does not tell the size of a freed chunk, whether that came from the memalign family
(it then raises T to less than its length). The interval is the one without them, and every mapped
chunk and every growth of the heap is held against it: evidence that excludes it is a contradiction,
which widens the interval to what the evidence alone proves and names no cause. What holds even if
each freed chunk of unknown size was an aligned one stands beside it (`floor`, `ceiling`).

free raises T before it unmaps the chunk, and malloc looks at T before it maps one: with other
threads, what a record shows may follow the T of another moment. Such evidence decides nothing.

The trim threshold is set to twice T whenever a free raises T (`__libc_free`). No shrink of the heap
contradicts it: malloc_trim makes any.

Of a process that was attached to, the frees before are in no record: T may stand anywhere from the
default to the maximum. What is recorded narrows that: a mapped chunk, a growth of the heap, a free.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from memtrace.malloc.glibc import (
    DEFAULT_THRESHOLD,
    THRESHOLD_MAX,
    THRESHOLD_MAX_I386,
    Layout,
    Settings,
)

#: Moves kept per process, and of those what excludes the rule even if there are more.
KEEP = 1000
_EXCLUDING = frozenset({"contradiction", "aligned-or-mallopt"})

#: An interval [low, high] in bytes: high None: no upper bound; both None: nothing is known.
Bounds = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Move:
    """A change of the interval, at record `seq`.

    `cause`: `freed-chunk` (the munmap of a mapped chunk raised it), `possible-rise` (it may have:
    an earlier one did not, or did less than it should; or what was unmapped may have been no
    chunk), `contradiction` (evidence excludes the interval before; what moved the threshold is
    unknown), `aligned-or-mallopt` (a mapping below it, or a growth above: a freed chunk was an
    aligned one, or mallopt was called). Where frees before an attach were not seen, what narrows
    the interval: `at-least` (the free of a mapped chunk, which raised it unless it was higher),
    `at-most` (a mapped chunk), `above` (a growth of the heap).
    `floor`, `trim`: of `Threshold`, after it. `against`: the record that had set the interval which
    this one excludes; None for a cause that excludes nothing.
    """

    seq: int
    t_ns: int
    low: int | None
    high: int | None
    cause: str
    floor: int | None = None
    trim: Bounds = (None, None)
    against: int | None = None


@dataclass(slots=True)
class Threshold:
    """The interval [low, high] of T in bytes of chunk size; both None while nothing is known.

    Attributes:
        initial: T at the birth of the address space (configured, default, or inherited).
        floor: what T is at least even if every freed chunk of unknown size was an aligned one.
        ceiling: what T is at most then; None: no upper bound.
        inherited: T was copied from the parent, already moved.
        doubted: a free did not raise it to its chunk's length, so the next may not either.
        rises: how often a free raised it.
        unseen: frees before an attach are in no record.
        proven: what frees since then prove it to be at least.
        perhaps: the last record that may have raised it or not.
        first: the interval at the birth, where frees before were not seen.
        trim_initial: the trim threshold at the birth; None when it is unknown.
        since: the record that set the interval: the last move, or the birth.
    """

    initial: int | None = None
    low: int | None = None
    high: int | None = None
    floor: int | None = None
    fixed_by: str | None = None
    inherited: bool = False
    contradicted: bool = False
    doubted: bool = False
    rises: int = 0
    unseen: bool = False
    proven: int = 0
    perhaps: int | None = None
    first: tuple[int, int] | None = None
    history: list[Move] = field(default_factory=list)
    ceiling: int | None = None
    trim_initial: int | None = None
    since: int = 0
    _trim: int | None = None  # as configured
    _risen: bool = False  # surely, by a free
    _perhaps_risen: bool = False
    _last_free: int = 0  # the last record that may have raised it, wherever it stood

    def configure(self, s: Settings, *, seen: bool = True, i386: bool = False) -> None:
        """Take the value that the environment gives; not `seen`: the program has run before."""
        self.initial = self.low = self.high = self.floor = self.ceiling = s.threshold
        self.fixed_by = s.fixed_by
        self._trim = self.trim_initial = s.trim
        if not seen and s.threshold is not None and s.fixed_by is None:
            self.unseen, self._perhaps_risen = True, True
            self.initial = self.trim_initial = None
            self.high = self.ceiling = THRESHOLD_MAX_I386 if i386 else THRESHOLD_MAX
            self.first = s.threshold, self.high

    def forget(self) -> None:
        """Another allocator: there is no such threshold."""
        self.initial = self.low = self.high = self.floor = self.ceiling = self.fixed_by = None
        self._trim = self.trim_initial = None

    def fork(self) -> Threshold:
        """The child's copy, at its birth."""
        moved = self.inherited or bool(self.rises) or self.contradicted
        initial = self.low if self.low == self.high else None
        child = Threshold(
            initial, self.low, self.high, self.floor, self.fixed_by, moved,
            self.contradicted, self.doubted, 0, self.unseen, self.proven, self.perhaps,
            ceiling=self.ceiling, since=self.since, _trim=self._trim,
            _risen=self._risen, _perhaps_risen=self._perhaps_risen,
        )  # fmt: skip
        if self.unseen and self.low is not None and self.high is not None:
            child.first = self.low, self.high
        low, high = child.trim()
        child.trim_initial = low if low == high else None
        return child

    def low_since(self, seq: int) -> int | None:
        """The lowest `low` that there has been since record `seq`."""
        low = self.low
        if low is None or not self.history or self.history[-1].seq <= seq:
            return low
        if len(self.history) >= KEEP:
            return 0
        for m in reversed(self.history):
            low = min(low, m.low or 0)
            if m.seq <= seq:
                return low
        first = self.initial if self.first is None else self.first[0]
        return min(low, first or 0)

    def _floor_at(self, seq: int) -> int | None:
        """The `floor` at record `seq`, or less."""
        for m in reversed(self.history):
            if m.seq <= seq:
                return m.floor
        return self.initial if self.first is None else self.first[0]

    @property
    def moved(self) -> bool:
        """Whether it is not where the configuration put it."""
        return bool(self.rises) or self.inherited

    # -- the trim threshold ---------------------------------------------------------------------

    def trim(self) -> Bounds:
        """The interval of the trim threshold: twice T once a free has raised that."""
        if self._trim is None or (self.low is None and self.fixed_by is None):
            return None, None
        if self.contradicted or self.doubted:
            return 0, None  # mallopt may have set it
        if self.fixed_by is not None or self.low is None:
            return self._trim, self._trim
        least = 2 * self.low if self._risen or self.low > DEFAULT_THRESHOLD else self._trim
        if self.high is None:
            return least, None
        rose = self._risen or self._perhaps_risen or self.high > DEFAULT_THRESHOLD
        return least, 2 * self.high if rose else self._trim

    def trim_floor(self) -> int | None:
        """What the trim threshold is at least even if every freed chunk of unknown size was an
        aligned one.
        """
        low = self.trim()[0]
        if low is None or self.fixed_by is not None or self._trim is None:
            return low
        if self.contradicted or self.doubted or self.floor is None:
            return 0
        if self.floor <= DEFAULT_THRESHOLD:
            return min(low, self._trim)
        return min(low, 2 * self.floor)

    # -- what moves it --------------------------------------------------------------------------

    def freed(
        self,
        seq: int,
        t: int,
        length: int,
        layout: Layout,
        *,
        sure: bool = True,
        word: int | None = None,
    ) -> None:
        """The munmap of a mapped chunk of `length` bytes by free (`__libc_free`, `munmap_chunk`).

        `sure` False: it may have been the chunk of another copy of libc. `word`: the chunk's size
        field, None where the trace does not tell it.
        """
        if self.fixed_by is not None or self.low is None:
            return
        self._last_free = seq
        least = self.low if word is None or self.floor is None else min(self.low, self.floor)
        if length <= least and sure and not (self.contradicted or self.doubted):
            return  # it is no larger than the threshold, whatever it was
        before = self.low, self.high, self.trim()
        if word is not None:
            low = layout.raised_by(self.low, word)
            high = None if self.high is None else layout.raised_by(self.high, word)
            could = self.low < word <= layout.raises_to
            surely = could and self.high is not None and self.high < word
        else:
            low = layout.raised(self.low, length)[0]
            high = None if self.high is None else layout.raised(self.high, length)[1]
            could, surely = low != self.low or high != self.high, False
        if (
            self.contradicted or self.doubted or not sure
        ):  # the threshold may as well be frozen, or another one
            low, self.perhaps, surely = self.low, seq, False
        elif word is not None and self.floor is not None:
            self.floor = layout.raised_by(self.floor, word)
        self._rise_ceiling(high, length, layout, word)
        self._risen, self._perhaps_risen = self._risen or surely, self._perhaps_risen or could
        self.low, self.high = low, high
        if before == (low, high, self.trim()):
            return
        cause = "possible-rise"
        if low != before[0] or surely:
            raised = not self.unseen or surely or (before[1] is not None and low > before[1])
            cause = "freed-chunk" if raised else "at-least"
            self.rises += raised
            self.proven = low
        self._note(seq, t, cause)

    def _rise_ceiling(
        self, high: int | None, length: int, layout: Layout, word: int | None
    ) -> None:
        """A chunk that is too large to raise it may be an aligned one that is not."""
        if self.ceiling is None or high is None:
            self.ceiling = None
        elif word is not None:
            self.ceiling = layout.raised_by(self.ceiling, word)
        else:
            self.ceiling = max(high, self.ceiling, min(length, layout.raises_to))

    def perhaps_freed(self, seq: int, t: int, length: int, layout: Layout) -> None:
        """The munmap of `length` bytes that may have been a mapped chunk, or not malloc's."""
        if self.fixed_by is not None or self.low is None or self.high is None:
            return
        high = layout.raised(self.high, length)[1]
        self.perhaps = self._last_free = seq
        self._rise_ceiling(high, length, layout, None)
        if high != self.high:
            self.high = high
            self._note(seq, t, "possible-rise")

    def copied(self, seq: int, t: int, length: int, layout: Layout) -> None:
        """A fork copied it while other threads ran: they may have raised it for a chunk of at most
        `length` bytes that they had not unmapped yet.
        """
        self.perhaps_freed(seq, t, length, layout)
        self._perhaps_risen = True

    @property
    def unsure(self) -> bool:
        """Whether it may have risen without a record that says so."""
        return self.doubted or (self.perhaps is not None and self.low != self.high)

    # -- what narrows or excludes it ------------------------------------------------------------

    def mapped(self, seq: int, t: int, value: int) -> None:
        """A chunk of at most `value` bytes was mapped at `seq`: T was not above that."""
        if not self.unseen or self.contradicted or self.low is None or self.high is None:
            return
        if self.perhaps is not None and self.perhaps > seq:
            return  # its header is seen now; it may have risen since it was mapped
        high = max(value, self.low)
        if high < self.high:
            self.high = high
            if self.ceiling is not None:
                self.ceiling = min(self.ceiling, high)
            self._note(seq, t, "at-most")

    def grew(self, seq: int, t: int, value: int) -> None:
        """The heap served a chunk of `value` bytes at least: T is above that."""
        if not self.unseen or self.contradicted or self.doubted or self.low is None:
            return
        if value >= self.low:
            self.low = value + 1
            self.floor = max(self.floor or 0, self.low)
            self._note(seq, t, "above")

    def at_most(self, seq: int, t: int, value: int) -> str:
        """Evidence that T was at most `value`: "fits", "aligned-or-mallopt" or "contradiction"."""
        if self.low is None or value >= self.low:
            return "fits"
        cause, floor, high = "contradiction", self.floor, value
        if self._last_free > seq:  # its header is seen now; T may have risen since it was mapped
            floor = self._floor_at(seq)
            high = max(value, self.high or value)
        if floor is not None and value >= floor and not self.contradicted:
            cause = "aligned-or-mallopt"
            self.doubted = True
            self.low = self.floor
        else:
            self.contradicted = True
            self.low = self.floor = 0
        self.high = self.ceiling = high
        self._note(seq, t, cause)
        return cause

    def above(self, seq: int, t: int, value: int) -> str:
        """Evidence that T was above `value`: "fits", "aligned-or-mallopt" or "contradiction"."""
        if self.low is None or self.high is None or value < self.high:
            return "fits"
        if not self.contradicted and (self.ceiling is None or value < self.ceiling):
            self.doubted = True
            self.low, self.high = self.floor, self.ceiling
            self._note(seq, t, "aligned-or-mallopt")
            return "aligned-or-mallopt"
        self.contradicted = True
        # That T is above the value follows only while malloc may map at all: M_MMAP_MAX may be 0.
        self.low = self.floor = 0
        self.high = self.ceiling = None
        self._note(seq, t, "contradiction")
        return "contradiction"

    def _note(self, seq: int, t: int, cause: str) -> None:
        excluding = cause in _EXCLUDING
        against, self.since = (self.since if excluding else None), seq
        if len(self.history) < KEEP or excluding:
            self.history.append(
                Move(seq, t, self.low, self.high, cause, self.floor, self.trim(), against)
            )
