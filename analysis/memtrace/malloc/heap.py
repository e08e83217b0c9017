# SPDX-License-Identifier: GPL-2.0-or-later
"""The heap's ledger: every move of the break, byte exact, held against glibc's rule.

A growth G that glibc's sysmalloc made proves nb >= G - page - top_pad - MINSIZE + 16, and nb < T,
because it was not mapped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from memtrace.malloc.caller import ALLOCATOR, LIBC, LIBRARY, PROGRAM, Caller
from memtrace.malloc.glibc import DEFAULT_THRESHOLD, DEFAULT_TOP_PAD, Settings, Version
from memtrace.malloc.threshold import Threshold
from memtrace.space.address_space import AddressSpace
from memtrace.space.calls import Change
from memtrace.trace.sizes import round_up

#: Steps kept per process, the largest.
STEPS = 10_000
_HUGE = 2 << 20
_SMALLEST = 132 << 10  # of the mappings that malloc makes by default


@dataclass(frozen=True, slots=True)
class Step:
    """A move of the break, or a refused one (`delta` 0, `asked` the break that was asked for).

    `delta` is new minus old break, `end` the break after. Not `exact`: the old break was known to
    the page only, and `delta` is counted from that page's end, as the pages that came or went tell;
    the true one is up to a page more.
    `cause` names what refused it: `next-mapping` when a mapping is in the way, else None. `verdict`
    and `reason` are those of the report.
    """

    seq: int
    t_ns: int
    tid: int
    delta: int
    end: int
    asked: int
    cause: str | None
    verdict: str
    reason: str | None
    exact: bool = True


@dataclass(slots=True)
class Heap:
    """One address space's break. `start` and `brk` are None while unknown.

    Attributes:
        older: it was there before the trace (an attach), or is a copy of such a one.
        loose: no call has told the break: `brk` is where the kernel's [heap] line ended, which
            proves neither that the heap goes that far nor that it ends there (`seed`).
        blind: the first call seen may have moved it: from where is not known, so it is no step.
        rounded: a break known to the page has gone into `peak` and the sums; they are less than a
            page off.
        first: bytes at the birth, None while loose.
        peak: the largest extent, brk - start, in bytes.
        over_default: growths that prove a request of 128 KiB or more was served by the heap.
        refused: growths that the kernel refused.
        steps: in order; when there were more than `STEPS`, the largest.
    """

    start: int | None = None
    brk: int | None = None
    peak: int = 0
    growths: int = 0
    shrinks: int = 0
    refused: int = 0
    grown_bytes: int = 0
    shrunk_bytes: int = 0
    over_default: int = 0
    steps_total: int = 0
    steps: list[Step] = field(default_factory=list)
    last_growth: tuple[int, int] | None = (
        None  # tid, bytes: set while that thread made no other call
    )
    own: bool | None = False  # malloc has grown it before; None: not known
    pair: bool | None = False  # malloc's next growth comes in two
    second: bool | None = False  # the growth just made was the first of two
    older: bool = False
    loose: bool = False
    blind: bool = False
    rounded: bool = False
    first: int | None = None
    verdicts: set[str] = field(default_factory=set)

    @classmethod
    def begin(cls, space: AddressSpace, *, older: bool = False) -> Heap:
        """The heap as a new address space has it, or as an attach found it."""
        start, brk = space.start_brk, space.brk
        heap = cls(start, brk)
        if older:
            heap.older, heap.loose, heap.own, heap.pair = True, space.brk_by_label, None, None
        if start is not None and brk is not None and not heap.loose:
            heap.first = heap.peak = max(brk - start, 0)
        return heap

    def final(self) -> int | None:
        """Bytes between the start of the heap and the break."""
        if self.start is None or self.brk is None or self.loose:
            return None
        return self.brk - self.start

    def end(self) -> int | None:
        """The break."""
        return None if self.loose else self.brk

    def most(self) -> int | None:
        """While no call has told the break: the bytes that the heap has at most, as far as it is
        mapped; for no page above the kernel's label is the heap's (`vma_is_initial_heap`).
        """
        if not self.loose or self.start is None or self.brk is None:
            return None
        return max(self.brk - self.start, 0)

    def note(self, step: Step) -> None:
        """Add a step to the ledger."""
        self.steps_total += 1
        self.steps.append(step)
        if len(self.steps) > 2 * STEPS:
            self.trim_steps()

    def trim_steps(self) -> None:
        """Keep the largest steps only, in order."""
        if len(self.steps) > STEPS:
            largest = sorted(self.steps, key=lambda s: -(abs(s.delta) or abs(s.asked - s.end)))
            self.steps = sorted(largest[:STEPS], key=lambda s: s.seq)

    def moved(
        self, seq: int, t: int, tid: int, asked: int, ret: int, space: AddressSpace, judge: Judge,
        change: Change | None = None,
    ) -> Step | None:  # fmt: skip
        """One brk call, and what it changed; the step it was, None for a query."""
        old = self.brk
        if old is None and self.older:
            self.brk = ret  # where it begins no call tells; whether it moved is not known
            self.blind = asked == ret
            return None
        if old is None or (self.start is None and not self.older):
            # The first answer tells where the heap is.
            self.start = space.start_brk if space.start_brk is not None else ret
            self.brk = ret
            self.peak = max(self.peak, ret - self.start)
            return None
        loose, self.loose = self.loose, False
        if loose:
            before = None if change is None else change.brk_from
            # Without a page that came or went it tells the break, not whether that moved.
            self.brk = old = ret if before is None else before
            loose = before not in (None, self.start)
            if self.start is not None:
                self.first = self.peak = max(old - self.start, 0)
        if ret == old and (asked == old or 0 <= asked < (self.start or old)):
            return None
        self.rounded = self.rounded or loose
        delta = ret - old
        cause: str | None = None
        if delta > 0:
            self.growths += 1
            self.grown_bytes += delta
            verdict, reason = judge.growth(self, seq, t, tid, old, delta)
        elif delta < 0:
            self.shrinks += 1
            self.shrunk_bytes -= delta
            verdict, reason = judge.shrink()
            if reason == "trim":
                self.pair = False  # systrim: the top ends at the break
        else:
            verdict, reason = "unknown", None
            if asked > old:
                self.refused += 1
                if not space.is_free(round_up(old), round_up(asked) + 4096):
                    cause = "next-mapping"
        if tid != (self.last_growth or (0,))[0] or delta <= 0:
            self.other_call(tid)
        self.brk = ret
        if self.start is not None:
            self.peak = max(self.peak, ret - self.start)
        if delta:
            self.verdicts.add(verdict)
        step = Step(seq, t, tid, delta, ret, asked, cause, verdict, reason, not loose)
        self.note(step)
        return step

    def other_call(self, tid: int) -> None:
        """The thread made another call: its next growth does not belong to the one before."""
        if self.last_growth is not None and self.last_growth[0] == tid:
            self.second = False

    def fork(self) -> Heap:
        """The child's: the extent, no steps."""
        child = Heap(self.start, self.brk)
        child.peak = max(self.final() or 0, 0)
        child.own, child.pair = self.own, self.pair
        child.older, child.loose = self.older, self.loose
        return child


@dataclass(slots=True)
class Judge:
    """What is known at a brk call that decides its verdict.

    `glibc`: the process's malloc is glibc's. `mmap_failed`: this thread's call just before was an
    mmap of malloc's, and failed. `chunks`: malloc's mapped chunks alive; `unseen` bytes may hold
    more of them.
    """

    caller: Caller
    glibc: bool
    version: Version | None
    settings: Settings
    threshold: Threshold
    mmap_failed: bool = False
    chunks: int = 0
    unseen: int = 0

    def _whose(self) -> str:
        """Answer "malloc", "foreign" (somebody else's sbrk or brk), "allocator" or "unknown"."""
        c = self.caller
        if c.who == ALLOCATOR:
            return "allocator"
        if c.who in (PROGRAM, LIBRARY):
            return "foreign"
        if c.who != LIBC:
            return "unknown"
        if c.outer == LIBC:
            return "malloc"
        if c.outer == ALLOCATOR and c.outer_owner in ("jemalloc", "tcmalloc", "mimalloc"):
            return "allocator"
        # The frame of sbrk is verified for 2.36 only; elsewhere the word may be anything.
        if c.outer in (PROGRAM, LIBRARY, ALLOCATOR) and self.version == (2, 36):
            return "foreign"
        return "unknown"

    def shrink(self) -> tuple[str, str | None]:
        """The verdict of a shrink (`systrim`)."""
        whose = self._whose()
        if whose == "malloc" and self.glibc:
            return "explained", "trim"
        if whose == "allocator":
            return "not-applicable", "other-allocator"
        if whose == "foreign":
            return "not-applicable", "foreign-sbrk"
        return "unknown", None

    def growth(
        self, heap: Heap, seq: int, t: int, tid: int, old: int, size: int
    ) -> tuple[str, str | None]:
        """The verdict of a growth by `size` bytes from the break `old` (`sysmalloc`)."""
        whose = self._whose()
        before, heap.last_growth = heap.last_growth, (tid, size)
        second, heap.second = heap.second, False
        if whose == "allocator":
            heap.pair = heap.own
            return "not-applicable", "other-allocator"
        if whose == "foreign":
            heap.pair = heap.own
            return "not-applicable", "foreign-sbrk"
        if whose != "malloc" or not self.glibc:
            return "unknown", None
        if second is not False and before is not None and before[0] == tid:
            if second:
                return "explained", "alignment"
            # The second of two, or one like any other: where both follow the rule, it does.
            return ("holds" if self._least(size) < DEFAULT_THRESHOLD else "unknown"), None
        heap.own = True
        if heap.pair or old % 4096:
            heap.pair, heap.second = False, True
        elif heap.pair is None:
            heap.pair, heap.second = False, None
        return self._rule(heap, seq, t, size)

    def _rule(self, heap: Heap, seq: int, t: int, size: int) -> tuple[str, str | None]:
        """Hold a growth by malloc against the threshold rule."""
        if self.threshold.low is None or not self.settings.certain:
            return "unknown", None
        least = self._least(size)
        verdict, reason = self._against(least, (heap.brk or 0) + size)
        if verdict == "contradiction":
            self.threshold.above(seq, t, least)
        elif verdict == "measured":
            self.threshold.grew(seq, t, least)
            verdict = "unknown"
            heap.over_default += 1
        elif verdict != "unknown" and least >= DEFAULT_THRESHOLD:
            heap.over_default += 1
        return verdict, reason

    def _least(self, size: int) -> int:
        """T > nb >= this: what a growth alone proves."""
        return size - 4096 - self.settings.top_pad - 16

    def _against(self, least: int, end: int) -> tuple[str, str | None]:
        """The verdict of a growth to `end` that proves a chunk of `least` bytes; "measured" if it
        can only tell where the threshold is.
        """
        s, threshold = self.settings, self.threshold
        if threshold.contradicted:
            return "unknown", None
        if threshold.high is not None and least >= threshold.high:
            if self.mmap_failed:
                return "explained", "mmap-failed"
            if self.chunks >= s.mmap_max:
                return "explained", "mmap-max"
            if s.hugetlb == 1 and not end & (_HUGE - 1):
                return "explained", "hugetlb"
            if self.chunks + self.unseen // _SMALLEST >= s.mmap_max:
                return "unknown", None
            return "contradiction", None
        if threshold.unseen and not threshold.doubted:
            return self._unseen(least)
        if threshold.unsure:  # whether it ever rose is not known
            fits = threshold.low is not None and least < threshold.low
            return ("holds" if fits else "unknown"), None
        if threshold.rises:
            return "explained", "dynamic-threshold"
        if threshold.inherited:
            return "explained", "inherited"
        if least >= DEFAULT_THRESHOLD:
            return "explained", threshold.fixed_by
        if s.top_pad > DEFAULT_TOP_PAD:
            return "explained", "top-pad"
        return "holds", None

    def _unseen(self, least: int) -> tuple[str, str | None]:
        """The verdict where T may have risen before the attach."""
        if least < DEFAULT_THRESHOLD:
            return "holds", None  # wherever T stands
        if least < self.threshold.proven:
            return "explained", "dynamic-threshold"
        known = self.mmap_failed or self.settings.hugetlb or self.chunks >= self.settings.mmap_max
        return ("unknown" if known else "measured"), None
