# SPDX-License-Identifier: GPL-2.0-or-later
"""What a move of the break was, and whether it follows glibc's rule.

A growth that glibc's `sysmalloc` made proves how large the chunk was at least (sysmalloc.py), and
that it was smaller than T, because it was not mapped. A shrink is `systrim`'s: free calls it where
the top reaches the trim threshold, and leaves top_pad in the top; malloc_trim leaves what it is
told to. So no shrink is proven to be free's. Where free, as configured, would have left another
end, it is malloc_trim's, or mallopt has changed what was configured. The madvise calls by which
malloc_trim gives free pages back (`mtrim`) prove that it was called, not that it made the shrink
that follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from memtrace.malloc import roles, sysmalloc
from memtrace.malloc.caller import ALLOCATOR, LIBC, LIBRARY, PROGRAM, UNKNOWN, Caller
from memtrace.malloc.glibc import DEFAULT_THRESHOLD, DEFAULT_TOP_PAD, Layout, Settings
from memtrace.malloc.refused import Refusal, refusal
from memtrace.malloc.sysmalloc import HUGE, Span
from memtrace.malloc.threshold import Threshold

if TYPE_CHECKING:
    from memtrace.malloc.heap import Heap
    from memtrace.space.address_space import AddressSpace
    from memtrace.trace.records import Start

_SMALLEST = 132 << 10  # of the mappings that malloc makes by default


class Ruling(NamedTuple):
    """What is said of a step; see `Step`."""

    verdict: str
    reason: str | None
    role: str
    chunk: Span | None = None


#: Of the moves of the break that are not malloc's, by who made them.
_OTHERS = {
    "allocator": Ruling("not-applicable", "other-allocator", roles.OTHER),
    "foreign": Ruling("not-applicable", "foreign-sbrk", roles.FOREIGN),
    "elsewhere": Ruling("not-applicable", None, roles.UNKNOWN),
}


@dataclass(slots=True)
class Judge:
    """What is known at a brk call that decides what is said of it.

    `glibc`: the process's malloc is glibc's. `mmap_failed`: this thread's call just before was an
    mmap of malloc's of so many bytes, and failed; 0: it was not. `chunks`: malloc's mapped chunks
    alive, with other threads the most there ever were, for one may have been freed since this one
    looked; `unseen` bytes may hold more of them. `vm`: pages mapped after the call. `several`:
    there are other threads, which may have raised T by a free whose munmap is to come: for a chunk
    of `in_flight` bytes at most. `advised`: this thread's malloc_trim gave free pages of the heap
    back just before. `other`: the process's malloc is another one, and no glibc is there.
    """

    caller: Caller
    glibc: bool
    layout: Layout
    settings: Settings
    threshold: Threshold
    start: Start
    mmap_failed: int = 0
    chunks: int = 0
    unseen: int = 0
    vm: int | None = None
    several: bool = False
    in_flight: int = 0
    advised: bool = False
    other: bool = False

    def _whose(self) -> str:
        """Answer "malloc", "foreign" (somebody else's sbrk or brk), "allocator", "elsewhere" (the
        one or the other of these two) or "unknown".
        """
        c = self.caller
        if c.who == ALLOCATOR:
            return "allocator"
        if (c.owner or c.outer_owner or "glibc") != "glibc" and c.outer != ALLOCATOR:
            # A file that holds an allocator's code among its own.
            return "elsewhere" if self.other or c.who != UNKNOWN else "unknown"
        if c.who in (PROGRAM, LIBRARY):
            return "unknown" if c.mallocs else "foreign"
        if c.who != LIBC:
            return "elsewhere" if self.other else "unknown"
        if c.outer == LIBC:
            return "malloc"
        if c.outer == ALLOCATOR and c.outer_owner in ("jemalloc", "tcmalloc", "mimalloc"):
            return "allocator"
        # Without call frame information sbrk's frame is known for 2.36 only; elsewhere the word may
        # be anything.
        known = c.framed or self.layout.version == (2, 36)
        if c.outer in (PROGRAM, LIBRARY, ALLOCATOR) and known and not c.mallocs:
            return "foreign"
        return "unknown"

    def perhaps_malloc(self) -> bool:
        """Whether it may have been malloc's call."""
        return self._whose() in ("malloc", "unknown")

    def refused(self, space: AddressSpace, old: int, asked: int) -> Refusal:
        """Why the kernel refused a growth."""
        return refusal(space, self.start, old, asked, self.vm)

    # -- shrinks --------------------------------------------------------------------------------

    def shrink(self, heap: Heap, end: int) -> Ruling:
        """A shrink to `end` (`systrim`)."""
        whose = self._whose()
        if whose == "malloc" and self.glibc:
            reason = "trim" if self._perhaps_by_free(heap, end) else "malloc-trim-or-mallopt"
            return Ruling("explained", reason, roles.SHRINK)
        return self._not_mallocs(heap, whose)

    def _perhaps_by_free(self, heap: Heap, end: int) -> bool:
        """Whether free may have left this end of the heap: its top had the trim threshold's size at
        least, and keeps top_pad + MINSIZE + 1 bytes, or up to a page more.
        """
        if heap.brk is None or heap.start is None or not self._as_configured(heap):
            return True
        kept = self.settings.top_pad + self.layout.least + 1
        if end - heap.start < kept:
            return False  # there is not as much
        floor = self.threshold.trim_floor()
        if floor is not None and self.several and self.settings.trim is not None:
            floor = min(floor, self.settings.trim)  # T rose while this thread was on its way
        rounded = self.layout.page if heap.rounded else 0  # what the break before may be off
        return (
            floor is None
            or heap.brk - end + rounded + kept + self._unit(heap.brk - end, end) - 1 >= floor
        )

    # -- growths --------------------------------------------------------------------------------

    def growth(self, heap: Heap, seq: int, t: int, tid: int, old: int, size: int) -> Ruling:
        """A growth by `size` bytes from the break `old` (`sysmalloc`)."""
        whose = self._whose()
        before, heap.last_growth = heap.last_growth, (tid, size)
        second, heap.second = heap.second, False
        if whose != "malloc" or not self.glibc:
            return self._not_mallocs(heap, whose)
        huge = second is False and self._huge_end(before, old, size)
        if huge or (second is not False and before is not None and before[0] == tid):
            if second and before is not None:
                self._tell_first(heap, before[1], size)
                return Ruling("explained", "alignment", roles.ALIGNMENT)
            # The second of two, or one like any other: where both follow the rule, it does.
            fits = self._least(size, old + size) < DEFAULT_THRESHOLD
            return Ruling("holds" if fits else "unknown", None, roles.UNKNOWN)
        first, heap.own = heap.own is False, True
        if heap.pair and heap.left == old:
            heap.pair = False  # whoever moved it has put it back
        heap.left = old + size
        # The first chunk's memory is aligned to 16, the end to a page (`front_misalign`): in i386
        # programs that takes a second growth wherever the break was.
        header = 8 if self.layout.i386 else 16
        if heap.pair or old % self.layout.page or (first and (old + header) % 16):
            # A main arena in pieces does without (`set_noncontiguous`).
            heap.pair, heap.second = False, None if heap.scattered else True
        elif heap.pair is None:
            heap.pair, heap.second = False, None
        return self._malloc_grew(heap, seq, t, old, size, first=first)

    @staticmethod
    def _not_mallocs(heap: Heap, whose: str) -> Ruling:
        """The break moved, not by malloc or not surely: its next growth comes in two, or may."""
        ruling = _OTHERS.get(whose)
        if ruling is not None:
            heap.pair = heap.own
            return ruling
        if not heap.pair and heap.own is not False:
            heap.pair = None
        return Ruling("unknown", None, roles.UNKNOWN)

    def _malloc_grew(
        self, heap: Heap, seq: int, t: int, old: int, size: int, *, first: bool
    ) -> Ruling:
        # Where the kernel has refused a growth, a mapping may have been the first.
        role = roles.FIRST if first and not heap.scattered else roles.GROWTH
        if size <= self.settings.top_pad and self.settings.certain:
            heap.unpadded = True  # mallopt, or it is no growth of malloc's
            return Ruling("unknown", None, roles.UNKNOWN)
        top = self._top(heap, old, first=first)
        chunk = self._served(size, old + size, top)
        verdict, reason = self._rule(heap, seq, t, size, top)
        if verdict == "contradiction" or not self._as_configured(heap):
            chunk = None
        return Ruling(verdict, reason, role, chunk)

    def _as_configured(self, heap: Heap) -> bool:
        """Whether no evidence speaks against what was configured."""
        t = self.threshold
        known = self.settings.certain and self.layout.known
        return known and not (heap.unpadded or t.contradicted or t.doubted)

    def _top(self, heap: Heap, old: int, *, first: bool) -> Span:
        """How large the top was."""
        if first:
            return Span(0, 0)
        # A main arena in pieces asks for everything anew.
        least = 0 if heap.scattered else self.layout.least
        return Span(least, None if heap.start is None else old - heap.start)

    def _served(self, size: int, end: int, top: Span) -> Span | None:
        below = self.threshold.ceiling
        if self._may_not_map():
            below = None
        elif below is not None and self.threshold.fixed_by is None:
            below = max(below, self.in_flight)
        return self._formula(size, end, top, below)

    def _formula(self, size: int, end: int, top: Span, below: int | None) -> Span | None:
        return sysmalloc.served(
            size,
            top_pad=self.settings.top_pad,
            minsize=self.layout.least,
            unit=self._unit(size, end),
            top=top,
            below=below,
        )

    def _may_not_map(self) -> bool:
        """Whether a chunk of T or more may have come from the heap."""
        return bool(self.mmap_failed) or self._maps(self.unseen) >= self.settings.mmap_max

    def _maps(self, unseen: int = 0) -> int:
        """How many mapped chunks malloc has, at most so many if `unseen` bytes may hold more."""
        return self.chunks + unseen // _SMALLEST

    def _unit(self, size: int, end: int) -> int:
        """What a growth was rounded up to, at most: hugetlb=1 asks for huge pages where the machine
        has them for those who ask. Its size was until 2.42, its end is since.
        """
        huge = self.settings.hugetlb == 1 and not (size % HUGE and end % HUGE)
        return HUGE if huge else self.layout.page

    def _huge_end(self, before: tuple[int, int] | None, old: int, size: int) -> bool:
        """Whether the growth may be the second of two that brings the end to a huge page's, after
        one whose size was rounded up to huge pages. Between them is an madvise (`madvise_thp`).
        """
        rounded = before is not None and not before[1] % HUGE
        return (
            self.settings.hugetlb == 1 and rounded and bool(old % HUGE) and not (old + size) % HUGE
        )

    def _tell_first(self, heap: Heap, size: int, second: int) -> None:
        """The second of two growths tells the old top of the first (`correction`)."""
        chunk = heap.steps[-1].chunk if heap.steps else None
        if chunk is None or heap.steps[-1].role != roles.GROWTH or heap.scattered:
            return
        top = sysmalloc.old_top(second, self.layout.page, self.layout.least)
        heap.first_of_two(self._served(size, heap.steps[-1].end, top))

    # -- the rule -------------------------------------------------------------------------------

    def _rule(self, heap: Heap, seq: int, t: int, size: int, top: Span) -> tuple[str, str | None]:
        """Hold a growth by malloc from a top like that against the threshold rule."""
        threshold = self.threshold
        if threshold.low is None or not self.settings.certain:
            return "unknown", None
        end = (heap.brk or 0) + size
        least = self._least(size, end)
        if (
            self._may_not_map()
            and not threshold.contradicted
            and not self._below(threshold.low, size, end, top)
        ):
            verdict, reason = self._unmapped(size, end, top)
        else:
            verdict, reason = self._against(size, least)
        if verdict == "contradiction":
            cause = threshold.above(seq, t, least)
            if cause != verdict:
                verdict, reason = "unknown", cause
        elif verdict == "measured":
            threshold.grew(seq, t, least)
            verdict = "unknown"
            heap.over_default += 1
        elif verdict != "unknown":
            heap.over_default += least >= DEFAULT_THRESHOLD
            heap.over_initial += threshold.initial is not None and least >= threshold.initial
        return verdict, reason

    def _below(self, low: int, size: int, end: int, top: Span) -> bool:
        """Whether the growth was for a chunk smaller than `low`, wherever T stands."""
        chunk = self._formula(size, end, top, None)
        return chunk is not None and chunk.most is not None and chunk.most < low

    def _unmapped(self, size: int, end: int, top: Span) -> tuple[str, str | None]:
        """The verdict where malloc may have had to take a chunk of T or more from the heap."""
        if self.mmap_failed:
            least, most = self.layout.chunk(self.mmap_failed)
            chunk = self._formula(size, end, top, most + 1)
            fits = chunk is not None and (chunk.most or 0) >= least
            return ("explained", "mmap-failed") if fits else ("unknown", None)
        if self._maps() >= self.settings.mmap_max and not self.several:
            return "explained", "mmap-max"
        return "unknown", None

    def _least(self, size: int, end: int) -> int:
        """T > nb >= this: what a growth alone proves, whatever the old top was."""
        return size - self._unit(size, end) - self.settings.top_pad - 16

    def _against(self, size: int, least: int) -> tuple[str, str | None]:
        """The verdict of a growth that proves a chunk of `least` bytes; "measured" if it can only
        tell where the threshold is.
        """
        s, threshold = self.settings, self.threshold
        if threshold.contradicted:
            return "unknown", None
        if threshold.high is not None and least >= threshold.high:
            racing = self.threshold.fixed_by is None and least < self.in_flight
            return ("unknown" if racing else "contradiction"), None
        pages = size - self.layout.page - s.top_pad - 16
        if threshold.high is not None and pages >= threshold.high:
            return "explained", "hugetlb"  # were it rounded up to pages
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
        known = self.settings.hugetlb or self.several
        return ("unknown" if known else "measured"), None
