# SPDX-License-Identifier: GPL-2.0-or-later
"""Where glibc's mmap threshold stands, as an interval over time.

What is stated, and what is not. The interval follows from the recorded configuration and from the
recorded frees of mapped chunks. Two things leave no mark in system calls: a call of mallopt, and
whether a freed chunk came from the memalign family (it then raises T to less than its length). The
interval is the one without them, and every mapped chunk and every growth of the heap is held
against it: evidence that excludes it is a contradiction, which widens the interval to what the
evidence alone proves and names no cause.

Of a process that was attached to, the frees before are in no record: T may stand anywhere from the
default to the maximum. What is recorded narrows that: a mapped chunk, a growth of the heap, a free.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from memtrace.malloc.glibc import THRESHOLD_MAX, THRESHOLD_MAX_I386, Layout, Settings

#: Moves kept per process.
KEEP = 1000


@dataclass(frozen=True, slots=True)
class Move:
    """A change of the interval, at record `seq`.

    `cause`: `freed-chunk` (the munmap of a mapped chunk raised it), `possible-rise` (it may have:
    an earlier one did not, or did less than it should; or what was unmapped may have been no
    chunk), `contradiction` (evidence excludes the interval before; what moved the threshold is
    unknown), `aligned-or-mallopt` (a mapping below it: a freed chunk was an aligned one, or mallopt
    was called). Where frees before an attach were not seen, what narrows the interval: `at-least`
    (the free of a mapped chunk, which raised it unless it was higher), `at-most` (a mapped chunk),
    `above` (a growth of the heap).
    """

    seq: int
    t_ns: int
    low: int | None
    high: int | None
    cause: str


@dataclass(slots=True)
class Threshold:
    """The interval [low, high] of T in bytes of chunk size; both None while nothing is known.

    Attributes:
        initial: T at the birth of the address space (configured, default, or inherited).
        floor: what T is at least even if every freed chunk was an aligned one.
        inherited: T was copied from the parent, already moved.
        doubted: a free did not raise it to its chunk's length, so the next may not either.
        rises: how often a free raised it.
        unseen: frees before an attach are in no record.
        proven: what frees since then prove it to be at least.
        perhaps: the last record that may have raised it or not.
        first: the interval at the birth, where frees before were not seen.
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

    def configure(self, s: Settings, *, seen: bool = True, i386: bool = False) -> None:
        """Take the value that the environment gives; not `seen`: the program has run before."""
        self.initial = self.low = self.high = self.floor = s.threshold
        self.fixed_by = s.fixed_by
        if not seen and s.threshold is not None and s.fixed_by is None:
            self.unseen, self.initial = True, None
            self.high = THRESHOLD_MAX_I386 if i386 else THRESHOLD_MAX
            self.first = s.threshold, self.high

    def forget(self) -> None:
        """Another allocator: there is no such threshold."""
        self.initial = self.low = self.high = self.floor = self.fixed_by = None

    def fork(self) -> Threshold:
        """The child's copy, at its birth."""
        moved = self.inherited or bool(self.rises) or self.contradicted
        initial = self.low if self.low == self.high else None
        child = Threshold(
            initial, self.low, self.high, self.floor, self.fixed_by, moved,
            self.contradicted, self.doubted, 0, self.unseen, self.proven, self.perhaps,
        )  # fmt: skip
        if self.unseen and self.low is not None and self.high is not None:
            child.first = self.low, self.high
        return child

    @property
    def moved(self) -> bool:
        """Whether it is not where the configuration put it."""
        return bool(self.rises) or self.inherited

    def freed(self, seq: int, t: int, length: int, layout: Layout, *, sure: bool = True) -> None:
        """The munmap of a mapped chunk of `length` bytes by free (`__libc_free`, `munmap_chunk`).

        `sure` False: it may have been the chunk of another copy of libc.
        """
        if self.fixed_by is not None or self.low is None:
            return
        low = layout.raised(self.low, length)[0]
        high = None if self.high is None else layout.raised(self.high, length)[1]
        if (
            self.contradicted or self.doubted or not sure
        ):  # the threshold may as well be frozen, or another one
            low, self.perhaps = self.low, seq
        if (low, high) == (self.low, self.high):
            return
        cause = "possible-rise"
        if low != self.low:
            raised = not self.unseen or (self.high is not None and low > self.high)
            cause = "freed-chunk" if raised else "at-least"
            self.rises += raised
            self.proven = low
        self.low, self.high = low, high
        self._note(Move(seq, t, low, high, cause))

    def perhaps_freed(self, seq: int, t: int, length: int, layout: Layout) -> None:
        """The munmap of `length` bytes that may have been a mapped chunk, or not malloc's."""
        if self.fixed_by is not None or self.low is None or self.high is None:
            return
        high = layout.raised(self.high, length)[1]
        self.perhaps = seq
        if high != self.high:
            self.high = high
            self._note(Move(seq, t, self.low, high, "possible-rise"))

    @property
    def unsure(self) -> bool:
        """Whether it may have risen without a record that says so."""
        return self.doubted or (self.perhaps is not None and self.low != self.high)

    def mapped(self, seq: int, t: int, value: int) -> None:
        """A chunk of at most `value` bytes was mapped at `seq`: T was not above that."""
        if not self.unseen or self.contradicted or self.low is None or self.high is None:
            return
        if self.perhaps is not None and self.perhaps > seq:
            return  # its header is seen now; it may have risen since it was mapped
        high = max(value, self.low)
        if high < self.high:
            self.high = high
            self._note(Move(seq, t, self.low, high, "at-most"))

    def grew(self, seq: int, t: int, value: int) -> None:
        """The heap served a chunk of `value` bytes at least: T is above that."""
        if not self.unseen or self.contradicted or self.doubted or self.low is None:
            return
        if value >= self.low:
            self.low = value + 1
            self.floor = max(self.floor or 0, self.low)
            self._note(Move(seq, t, self.low, self.high, "above"))

    def at_most(self, seq: int, t: int, value: int) -> str:
        """Evidence that T was at most `value`: "fits", "aligned-or-mallopt" or "contradiction"."""
        if self.low is None or value >= self.low:
            return "fits"
        cause = "contradiction"
        if self.floor is not None and value >= self.floor and not self.contradicted:
            cause = "aligned-or-mallopt"
            self.doubted = True
            self.low, self.high = self.floor, value
        else:
            self.contradicted = True
            self.low = self.floor = 0
            self.high = value
        self._note(Move(seq, t, self.low, self.high, cause))
        return cause

    def above(self, seq: int, t: int, value: int) -> bool:
        """Evidence that T was above `value`; False when that excludes the interval."""
        if self.low is None or self.high is None or value < self.high:
            return True
        self.contradicted = True
        # That T is above the value follows only while malloc may map at all: M_MMAP_MAX may be 0.
        self.low = self.floor = 0
        self.high = None
        self._note(Move(seq, t, 0, None, "contradiction"))
        return False

    def _note(self, move: Move) -> None:
        if len(self.history) < KEEP:
            self.history.append(move)
