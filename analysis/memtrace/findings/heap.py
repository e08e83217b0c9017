# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings about the break: it never went down, it could not go up, others moved it."""

from __future__ import annotations

from memtrace.findings.facts import Facts, InsideFacts
from memtrace.findings.finding import INFO, WARNING, Finding, Rule, seqs
from memtrace.malloc.allocator import NO_RULE
from memtrace.malloc.heap import Step
from memtrace.malloc.roles import FOREIGN as SBRK
from memtrace.trace.sizes import format_size, plural

#: A heap that ends smaller than this is not worth a word: some 132 KiB stay in any case.
SMALLEST = 256 << 10
#: One that could give nothing back is a warning from this size on; or so much free below what pins
#: its top.
LARGE = 4 << 20
#: Free below what pins the top, of the heap: 1 / PINNED at least.
PINNED = 4
#: Walks of the end.
_ENDS = {"exit": "At exit", "exec": "Before the exec", "detach": "At the end"}

#: What sets the trim threshold; a tunable wins over the variable.
_TRIM = {
    False: "MALLOC_TRIM_THRESHOLD_=131072",
    True: "GLIBC_TUNABLES=glibc.malloc.trim_threshold=131072",
}

# -- MT103 ---------------------------------------------------------------------------------------


def never_shrank(f: Facts) -> Finding | None:
    """The heap grew, and most of it stayed."""
    h = f.heap
    size = h.final if h.final is not None else h.grown  # where it begins may not be known
    if h.growths < 2 or f.allocator.rule == NO_RULE or size < SMALLEST:
        return None
    growths = [s for s in h.steps if s.delta > 0]
    kept = _Kept(f, size, [s.seq for s in (growths[:3] + growths[-2:])])
    found = kept.below_the_trim_threshold() or kept.inside()
    return found if found is not None or h.shrinks else kept.unknown()


class _Kept:
    """What is said of a heap that stayed: how much, and why."""

    def __init__(self, f: Facts, size: int, growths: list[int]) -> None:
        self.f, self.size, self.growths = f, size, growths
        since = " since the log begins" if f.assumed else " since the attach"
        self.where = ("" if f.whole else " as far as recorded") + (since if f.attached else "")
        grew = f"grew {plural(f.heap.growths, 'time')}"
        if f.heap.shrinks:
            self.what = f"{grew} and shrank {plural(f.heap.shrinks, 'time')}{self.where}"
        else:
            self.what = f"{grew} and never shrank{self.where}"
        ends = "it ends with" if f.heap.final is not None else "it grew by"
        self.said = f"The heap {self.what}; {ends} {format_size(size)}."
        self.short = "never shrank" if not f.heap.shrinks else "kept most of its peak"

    def below_the_trim_threshold(self) -> Finding | None:
        """Proven: no free can have given anything back."""
        f, no_trim = self.f, self.f.heap.no_trim
        if (
            no_trim is None
            or no_trim.reason != "below-trim-threshold"
            or not f.whole
            or not f.glibc
        ):
            return None
        since, trim = no_trim.since, f.threshold.trim
        when = f"Since #{since} the" if since is not None else "The"
        large = "" if trim is None else f", {format_size(trim)} at the end"
        return Finding(
            rule="MT103",
            severity=WARNING if self.size >= LARGE else INFO,
            headline=f"the heap {self.short} ({format_size(self.size)}): "
            "the trim threshold is above it",
            message=f"{self.said} {when} heap was at no time as large as the trim threshold"
            f"{large}, and free gives back only when the free top of the heap is (unless the "
            f"program set it by mallopt, which leaves no record).{self._free()}",
            evidence=seqs(
                [*self.growths, *([] if since is None else [since])]
                + ([f.inside.seq] if self._free() and f.inside is not None else [])
            ),
            remedy=f"{_TRIM[f.threshold.fixed_by == 'tunable']} PROG ARGS...  fixes the trim "
            f"threshold, and keeps the mmap threshold from moving",
        )

    def _free(self) -> str:
        """What a walk of the end found free, "" if there was none."""
        walk = self.f.inside
        if walk is None or walk.why not in _ENDS:
            return ""
        return (
            f" {_ENDS[walk.why]} (#{walk.seq}) {format_size(walk.top)} were free at its top, and "
            f"{format_size(walk.free)} below that."
        )

    def inside(self) -> Finding | None:
        """What a walk of the heap shows at the end."""
        walk = self.f.inside
        if walk is None or walk.why not in _ENDS:
            return None
        at = f"{self.said} {_ENDS[walk.why]} (#{walk.seq})"
        if walk.pin is None or PINNED * walk.free < walk.size:
            return None if self.f.heap.shrinks else self._in_use(at)
        address, size = walk.pin
        return Finding(
            rule="MT103",
            severity=WARNING if _much(walk) else INFO,
            headline=f"the heap {self.short}: {format_size(walk.free)} are free below a chunk of "
            f"{format_size(size)} at its top",
            message=f"{at} {format_size(walk.free)} of its {format_size(walk.size)} were free, but "
            f"below the chunk of {format_size(size)} at {address:#x}, which is in use, or kept for "
            f"reuse by malloc's caches: as long as it is, only what lies above it, "
            f"{format_size(walk.top)}, can go back by lowering the break.",
            evidence=seqs([*self.growths, walk.seq]),
            remedy="call malloc_trim(0) in the program after a phase that frees much: it gives "
            "back whole free pages below the top, too",
        )

    def _in_use(self, at: str) -> Finding:
        walk = self.f.inside
        assert walk is not None  # noqa: S101 - its only caller has looked
        return Finding(
            rule="MT103",
            severity=INFO,
            headline=f"the heap {self.what}",
            message=f"{at} {format_size(walk.used)} of its {format_size(walk.size)} were in use "
            f"(or kept for reuse by malloc's caches), {format_size(walk.free)} free below the top, "
            f"{format_size(walk.top)} free at the top.",
            evidence=seqs([*self.growths, walk.seq]),
            remedy="valgrind --tool=massif PROG ARGS...  shows who holds the memory",
        )

    def unknown(self) -> Finding:
        """Nothing tells why."""
        return Finding(
            rule="MT103",
            severity=INFO,
            headline=f"the heap {self.what}",
            message=f"{self.said} Why is not known: nothing may have been freed, or what is free "
            f"does not reach the top of the heap, from where alone free gives back.",
            evidence=seqs(self.growths),
            remedy="memtrace run --heap-walk -- PROG ARGS...  looks into the heap at its end",
        )


def _much(walk: InsideFacts) -> bool:
    """A program that ends has freed much as a rule: that alone is no fault."""
    return walk.free >= LARGE or (walk.free >= SMALLEST and 10 * walk.free >= 9 * walk.size)


NEVER_SHRANK = Rule(
    "MT103",
    "the heap never shrank",
    never_shrank,
    f"""\
free gives the heap back from its top only, and only when the free top is as large as the trim
threshold: 128 KiB, or twice the mmap threshold once that has risen (MT101). Some 130 KiB stay in
any case. One live block at the top, or small freed blocks that malloc keeps for reuse there, hold
all that is free below. A heap that never shrinks is no fault of itself: a program that frees
nothing before it ends shows the same.

How it is decided. Two growths at least, and {SMALLEST >> 10} KiB or more at the end. The cause
"the trim threshold is above it" is proven when from some record on the heap was at no time as
large as the trim threshold, which follows from the recorded frees (unless mallopt was called):
from {LARGE >> 20} MiB on that makes it a warning. It is not looked for in a trace with gaps. What
pins the top is proven by a walk of the heap at its end (memtrace run --heap-walk): 1/{PINNED} of
the heap or more is free below the last chunk in use. That is a warning where it is
{LARGE >> 20} MiB or
more, or nine tenths of the heap: most programs have freed much when they end. What malloc's
caches keep counts as in use. A heap that shrank at times is named only where one of these is
proven. Else the cause is not known, and the finding says so.

What to do. If resident memory matters, try in the running program
    gdb -p PID -batch -ex 'call (int)malloc_trim(0)'
and look at its VmRSS in /proc/PID/status before and after. If it falls, the memory was free and
held: call malloc_trim(0) after a phase that frees much, or fix the thresholds:
    MALLOC_TRIM_THRESHOLD_=131072 PROG ARGS...

See it live.
    memtrace run -o t.json -- build/samples/rss-stays
    memtrace report t.json
    memtrace run --heap-walk -o t.json -- build/samples/heap-pinned
    memtrace report t.json
""",
)

# -- MT109 ----------------------------------------------------------------------------------------

#: What refuses a growth of the heap, and what to look at.
_REFUSED = {
    "next-mapping": (
        "a mapping is in the way",
        "memtrace maps TRACE --at SEQ  shows what lies above the heap",
    ),
    "RLIMIT_DATA": (
        "the recorded RLIMIT_DATA excludes it",
        "ulimit -d unlimited  in the shell that starts it",
    ),
    "RLIMIT_AS": (
        "the recorded RLIMIT_AS excludes it",
        "ulimit -v unlimited  in the shell that starts it",
    ),
}
_CANDIDATES = {
    "stack-guard-gap": "the gap below a stack (stack_guard_gap)",
    "RLIMIT_MEMLOCK": "RLIMIT_MEMLOCK (after mlockall)",
    "overcommit": "what the machine can promise (vm.overcommit_memory)",
    "max-map-count": "the number of mappings (vm.max_map_count)",
}
_ASK = "ulimit -d; ulimit -v; cat /proc/sys/vm/overcommit_memory /proc/sys/vm/max_map_count"


def refused(f: Facts) -> Finding | None:
    """The kernel refused to move the break up."""
    steps = [s for s in f.heap.steps if not s.delta and s.asked > s.end]
    if not f.heap.refused or not steps:
        return None
    first = steps[0]
    causes = {s.cause for s in steps}
    cause, remedy = _REFUSED.get(first.cause or "", ("", _ASK))
    if cause:
        why = f"{cause[0].upper()}{cause[1:]}."
        if first.cause != "next-mapping":
            why += " The limit is that of the exec or attach; setrlimit leaves no record."
    else:
        named = ", ".join(_CANDIDATES.get(c, c) for c in first.candidates)
        why = f"The cause is not known{f'; it may be {named}' if named else ''}."
    if len(causes) > 1:
        why += " Others of them have another cause, or none that is known."
    text = (
        f"The kernel refused {plural(f.heap.refused, 'growth')} of the heap, the first at "
        f"#{first.seq}: {format_size(first.asked - first.end)} more than its "
        f"{_extent(f, first)}. {why}"
    )
    if f.fallbacks and f.glibc:
        text += (
            f" glibc's malloc went on with {plural(len(f.fallbacks), 'mapping')} in its place, "
            f"{format_size(sum(size for _, size in f.fallbacks))}, the first at "
            f"#{f.fallbacks[0][0]}; {'they do' if len(f.fallbacks) > 1 else 'it does'} not follow "
            f"the mmap threshold."
        )
    return Finding(
        rule="MT109",
        severity=WARNING,
        headline=f"{plural(f.heap.refused, 'growth')} of the heap refused by the kernel"
        + (f": {cause}" if cause and len(causes) == 1 else ""),
        message=text,
        evidence=seqs([s.seq for s in steps[:8]] + [seq for seq, _ in f.fallbacks[:4]]),
        remedy=remedy.replace("SEQ", str(first.seq)),
    )


def _extent(f: Facts, s: Step) -> str:
    return "extent" if f.heap.start is None else format_size(s.end - f.heap.start)


REFUSED = Rule(
    "MT109",
    "the kernel refused a growth of the heap",
    refused,
    """\
brk answered with the old break: the kernel did not move it up. malloc goes on without it: it maps
1 MiB or more at a time (glibc 2.35 to 2.37: the first time, then as much as it needs), which
becomes part of its main arena (kind main-arena), is never unmapped, and does not follow the mmap
threshold.

How it is decided. The call's answer is less than what it asked for, and that is above the break.
Any refused growth makes the finding. The cause is stated when it is proven: a mapping lies in the
way (one free page must stay between), or a recorded limit excludes the growth: RLIMIT_DATA
(ulimit -d), RLIMIT_AS (ulimit -v). Otherwise it is named what else it may have been: strict
overcommit, the number of mappings, the gap below a stack.

What to do. For a mapping in the way: memtrace maps TRACE --at SEQ shows it, and memtrace events
who made it. A position that is fixed (MAP_FIXED, a hint near the program) is the usual reason.
For a limit: raise it.

See it live.
    memtrace run -o t.json -- build/samples/break-rules
    memtrace report t.json
""",
)

# -- MT110 ----------------------------------------------------------------------------------------


def foreign(f: Facts) -> Finding | None:
    """Somebody else than malloc moved the break."""
    steps = [s for s in f.heap.steps if s.role == SBRK]
    if not steps:
        return None
    net = sum(s.delta for s in steps)
    least = "" if f.heap.all_steps else "at least "
    text = (
        f"{least}{plural(len(steps), 'move')} of the break, first at #{steps[0].seq}, came from "
        f"sbrk or brk called outside malloc"
    )
    text = text[0].upper() + text[1:]
    text += "." if least else f", {format_size(net)} in all."
    if f.glibc and len(steps) < f.heap.growths + f.heap.shrinks and net > 0:
        text += (
            " malloc cannot use that memory, nor give back what lies below it: its part of the "
            "heap ends there, and begins anew above."
        )
    return Finding(
        rule="MT110",
        severity=INFO,
        headline=f"sbrk was called outside malloc ({least}{plural(len(steps), 'move')} of the "
        f"break)",
        message=text,
        evidence=seqs([s.seq for s in steps]),
        remedy="memtrace events TRACE --call brk  shows who called; mmap serves such uses better",
    )


FOREIGN = Rule(
    "MT110",
    "somebody else than malloc moved the break",
    foreign,
    """\
The break belongs to whoever calls brk. When a program or a library moves it itself, malloc finds
the heap changed: it cannot use the foreign part, puts two small fence chunks before it, begins anew
above it, and can never again give back what lies below. malloc's next growth after that comes as a
pair, the second for alignment.

How it is decided. The call's caller (the word at the stack pointer, and for sbrk the caller's
caller) lies in the text of the program or of a library that is no C library and no known
allocator. One such move makes the note. Without callers (an imported log) it is not made.

What to do. Use mmap for memory of one's own.

See it live.
    memtrace run -o t.json -- build/samples/heap-foreign
    memtrace report t.json
""",
)
