# SPDX-License-Identifier: GPL-2.0-or-later
"""The heap's ledger: every move of the break, byte exact; `Judge` (judge.py) says what each was."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from memtrace.malloc.refused import Refusal
from memtrace.malloc.roles import REFUSED, SHRINK
from memtrace.malloc.sysmalloc import Span

if TYPE_CHECKING:
    from memtrace.malloc.judge import Judge
    from memtrace.malloc.threshold import Threshold
    from memtrace.malloc.walks import Taken
    from memtrace.space.address_space import AddressSpace
    from memtrace.space.calls import Change

#: Steps kept per process, the largest; and of refused growths so many, the first, however large.
STEPS = 10_000
REFUSALS = 1_000
#: What a refused growth is told of when nobody looked.
_UNTOLD = Refusal()


@dataclass(frozen=True, slots=True)
class Step:
    """A move of the break, or a refused one (`delta` 0, `asked` the break that was asked for).

    `delta` is new minus old break, `end` the break after. Not `exact`: the old break was known to
    the page only, and `delta` is counted from that page's end, as the pages that came or went tell;
    the true one is up to a page more.
    `role` is one of roles.py. `chunk`: of malloc's growths, the sizes of the chunk that made it
    grow, as the configured rule proves them. `cause`, `room` and `candidates` tell what refused it
    (`Refusal`). `after_malloc_trim`: of a shrink, the same thread's calls just before were
    malloc_trim's, which gave free pages of the heap back. `verdict` and `reason` are those of the
    report.
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
    role: str = "unknown"
    chunk: Span | None = None
    room: int | None = None
    candidates: tuple[str, ...] = ()
    after_malloc_trim: bool = False


class NoTrim(NamedTuple):
    """Why the heap kept what it had.

    `reason`: "below-trim-threshold": since record `since` (None: ever) the heap was smaller than
    the trim threshold, which its free top must reach; "pinned": by the walk `since`, a chunk in use
    lies so near its end that the top is too small for free to give anything back; "unknown".
    """

    reason: str
    since: int | None = None


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
        over_initial: likewise, for a chunk of the threshold at the birth or more.
        refused: growths that the kernel refused.
        peak_seq: the growth that reached the peak; None: the heap was born with it.
        trimmed_bytes: what malloc gave back.
        malloc_trims: how often malloc_trim was seen to give free pages back, at least.
        scattered: malloc may use more than one piece of memory as its main arena: a growth was
            refused (`sysmalloc_mmap_fallback`), or was before the trace.
        unpadded: malloc grew by less than the configured top_pad: it is not what was configured.
        steps: in order; when there were more than `most_steps`, the largest, and the first
            `REFUSALS` refused growths.
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
    over_initial: int = 0
    steps_total: int = 0
    most_steps: int = field(default_factory=lambda: STEPS)
    steps: list[Step] = field(default_factory=list)
    last_growth: tuple[int, int] | None = (
        None  # tid, bytes: set while that thread made no other call
    )
    own: bool | None = False  # malloc has grown it before; None: not known
    pair: bool | None = False  # malloc's next growth comes in two
    second: bool | None = False  # the growth just made was the first of two
    left: int | None = None  # the break as malloc left it
    older: bool = False
    loose: bool = False
    blind: bool = False
    rounded: bool = False
    first: int | None = None
    peak_seq: int | None = None
    trimmed_bytes: int = 0
    malloc_trims: int = 0
    scattered: bool = False
    unpadded: bool = False
    _level: int | None = None  # below this the top was not trimmed since `_level_seq`
    _level_seq: int | None = None
    _highest: int = 0  # the largest extent since then
    verdicts: set[str] = field(default_factory=set)

    @classmethod
    def begin(cls, space: AddressSpace, *, older: bool = False) -> Heap:
        """The heap as a new address space has it, or as an attach found it."""
        start, brk = space.start_brk, space.brk
        heap = cls(start, brk)
        if older:
            heap.older, heap.loose, heap.own, heap.pair = True, space.brk_by_label, None, None
            heap.scattered = True
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
        if len(self.steps) > 2 * self.most_steps:
            self.trim_steps()

    def trim_steps(self) -> None:
        """Keep the largest steps, and the first refused growths, in order."""
        if len(self.steps) <= self.most_steps:
            return
        refused = [s for s in self.steps if s.role == REFUSED and s.asked > s.end][:REFUSALS]
        first = {s.seq for s in refused}
        rest = [s for s in self.steps if s.seq not in first]
        rest.sort(key=lambda s: -(abs(s.delta) or abs(s.asked - s.end)))
        rest = rest[: self.most_steps - len(refused)]
        self.steps = sorted(refused + rest, key=lambda s: s.seq)

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
        refusal = _UNTOLD
        self._levelled(judge.threshold, old)
        if delta > 0:
            self.growths += 1
            self.grown_bytes += delta
            verdict, reason, role, chunk = judge.growth(self, seq, t, tid, old, delta)
        elif delta < 0:
            self.shrinks += 1
            self.shrunk_bytes -= delta
            verdict, reason, role, chunk = judge.shrink(self, ret)
            if role == SHRINK:
                self.pair, self.left = False, ret  # systrim: the top ends at the break
                self.trimmed_bytes -= delta
        else:
            verdict, reason, role, chunk = "unknown", None, REFUSED, None
            if asked > old:
                self.refused += 1
                self.scattered = self.scattered or judge.perhaps_malloc()
                refusal = judge.refused(space, old, asked)
        if tid != (self.last_growth or (0,))[0] or delta <= 0:
            self.other_call(tid)
        self.brk = ret
        if self.start is not None and ret - self.start > self.peak:
            self.peak, self.peak_seq = ret - self.start, seq
        if self.start is not None:
            self._highest = max(self._highest, ret - self.start)
        if delta:
            self.verdicts.add(verdict)
        step = Step(
            seq, t, tid, delta, ret, asked, refusal.cause, verdict, reason, not loose, role,
            None if loose else chunk, refusal.room, refusal.candidates, judge.advised and delta < 0,
        )  # fmt: skip
        self.note(step)
        return step

    def first_of_two(self, chunk: Span | None) -> None:
        """The growth before was the first of two, and the second tells more of its chunk."""
        if self.steps and chunk is not None:
            self.steps[-1] = replace(self.steps[-1], chunk=chunk)

    def _levelled(self, threshold: Threshold, brk: int) -> None:
        """Note how large the heap is when the trim threshold moves."""
        level = threshold.trim_floor()
        if level != self._level:
            self._level_seq = None if self._level is None else threshold.since
            self._level = level
            self._highest = 0 if self.start is None else brk - self.start

    def no_trim(
        self, threshold: Threshold, walk: Taken | None = None, least: int = 0
    ) -> NoTrim | None:
        """Why malloc kept most of the heap's largest extent; None: it did not, or it is not known
        to be malloc's.

        Args:
            threshold: at the end.
            walk: the last of the heap; None: there was none.
            least: of a top this large free gives a page back (`systrim`), if it trims.
        """
        final = self.final()
        if final is None or not self.own or 2 * final <= self.peak:
            return None
        self._levelled(threshold, final + (self.start or 0))
        if self._level is not None and self._highest < self._level:
            return NoTrim("below-trim-threshold", self._level_seq)
        if walk is not None and walk.still and self._is_pinned(walk, least):
            return NoTrim("pinned", walk.seq)
        return NoTrim("unknown")

    def _is_pinned(self, walk: Taken, least: int) -> bool:
        """Whether the walk found the heap as it is now, and above a chunk in use less than free
        needs to give anything back.
        """
        main = next((h for h in walk.heaps if h.kind == "main"), None)
        if main is None or not main.complete or main.end != self.brk or main.pin is None:
            return False
        needs = max(least, self._level or 0)
        return main.top is not None and self._level is not None and main.top[1] < needs

    def perhaps_second(self, tid: int) -> bool:
        """Whether this thread's next growth may be the second of two."""
        return self.second is not False and (self.last_growth or (0,))[0] == tid

    def other_call(self, tid: int) -> None:
        """The thread made another call: its next growth does not belong to the one before."""
        if self.last_growth is not None and self.last_growth[0] == tid:
            self.second = False

    def fork(self) -> Heap:
        """The child's: the extent, no steps."""
        child = Heap(self.start, self.brk)
        child.peak = max(self.final() or 0, 0)
        child.own, child.pair, child.left = self.own, self.pair, self.left
        child.older, child.loose = self.older, self.loose
        child.scattered, child.unpadded = self.scattered, self.unpadded
        return child
