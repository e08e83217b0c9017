# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings about the break: it never went down, it could not go up, others moved it."""

from __future__ import annotations

from memtrace.findings.facts import Facts
from memtrace.findings.finding import INFO, WARNING, Finding, Rule, seqs
from memtrace.malloc.allocator import NO_RULE
from memtrace.malloc.heap import Step
from memtrace.trace.sizes import format_size, plural

#: A heap that ends smaller than this is not worth a word: some 132 KiB stay in any case.
SMALLEST = 256 << 10
#: One that could give nothing back is a warning from this size on.
LARGE = 1 << 20
#: The default trim threshold, DEFAULT_TRIM_THRESHOLD.
_TRIM = 128 << 10
#: systrim leaves MINSIZE and a byte beyond M_TOP_PAD, and gives back whole pages.
_LEAST_TRIM = 4096 + 33

# -- MT103 ----------------------------------------------------------------------------------------


def never_shrank(f: Facts) -> Finding | None:
    """The heap grew and never gave anything back."""
    h = f.heap
    if h.growths < 2 or h.shrinks or f.allocator.rule == NO_RULE:
        return None
    size = h.final if h.final is not None else h.grown  # where it begins may not be known
    if size < SMALLEST:
        return None
    recorded = "" if f.whole else " as far as recorded"
    since = " since the attach" if f.attached and not f.assumed else ""
    since = " since the log begins" if f.attached and f.assumed else since
    text = f"The heap grew {h.growths:,} times and never shrank{recorded}{since}; "
    text += "it ends with " if h.final is not None else "it grew by "
    text += f"{format_size(size)}."
    growths = [s for s in h.steps if s.delta > 0]
    evidence = [s.seq for s in (growths[:3] + growths[-2:])]
    bound = _could_not_trim(f)
    if bound is not None:
        seq, trim = bound
        when = f"Since #{seq} the" if seq > f.born_seq else "The"
        text += (
            f" {when} heap was at no time large enough for free to give anything back: that takes "
            f"a free top as large as the trim threshold, {format_size(trim)} at the end (unless "
            f"the program set it by mallopt, or freed an aligned chunk: neither leaves a record)."
        )
        return Finding(
            rule="MT103",
            severity=WARNING if size >= LARGE else INFO,
            headline=f"the heap never shrank ({format_size(size)}): the trim threshold is above it",
            message=text,
            evidence=seqs([*evidence, *([seq] if seq > f.born_seq else [])]),
            remedy="MALLOC_TRIM_THRESHOLD_=131072 PROG ARGS...  fixes the trim threshold, and the "
            "mmap threshold with it",
        )
    text += (
        " Why is not known: nothing may have been freed, or what is free does not reach the top of "
        "the heap, from where alone free gives back."
    )
    return Finding(
        rule="MT103",
        severity=INFO,
        headline=f"the heap grew {h.growths:,} times and never shrank{recorded}{since}",
        message=text,
        evidence=seqs(evidence),
        remedy="gdb -p PID -batch -ex 'call (int)malloc_trim(0)'  if resident memory falls then, "
        "free memory was held below the top",
    )


def _could_not_trim(f: Facts) -> tuple[int, int] | None:
    """Since when (seq), and by which trim threshold at least, no free can have shrunk the heap;
    None where that is not proven up to the end.

    free trims when the top is as large as the trim threshold (`_int_free`, `systrim`), and the top
    is never larger than the heap.
    """
    t, h = f.threshold, f.heap
    known = f.glibc and f.whole and h.exact and h.all_steps and not f.attached
    if not known or h.final is None or not f.settings.certain:
        return None
    if t.fixed_by is not None or t.inherited or any(m.cause != "freed-chunk" for m in t.moves):
        return None
    extent, trim = h.final - h.grown + h.shrunk, _TRIM
    least = f.settings.top_pad + _LEAST_TRIM
    since: int | None = f.born_seq if extent < max(trim, least) else None
    events = [(s.seq, s.delta, 0) for s in h.steps] + [(m.seq, 0, m.low or 0) for m in t.moves]
    for seq, delta, low in sorted(events):
        extent += delta
        trim = max(trim, 2 * low)
        if extent >= max(trim, least):
            since = None
        elif since is None:
            since = seq
    return None if since is None else (since, trim)


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

How it is decided. Two growths at least, no shrink, and {SMALLEST >> 10} KiB or more at the end.
The cause "the trim threshold is higher than the heap" is proven when from some record on the
heap was at no time as large as the trim threshold, which follows from the recorded frees
(unless mallopt was called or a freed chunk was an aligned one, which leaves no record): from
{LARGE >> 20} MiB on that makes it a warning. It is not looked for in a trace with gaps, or
after an attach. What pins the top only a look into the heap tells; without one the cause is not
known, and the finding says so.

What to do. If resident memory matters, try in the running program
    gdb -p PID -batch -ex 'call (int)malloc_trim(0)'
If it falls, the memory was free and held: call malloc_trim(0) after a phase that frees much, or fix
the thresholds: MALLOC_TRIM_THRESHOLD_=131072 PROG ARGS...

See it live.
    memtrace run -o t.json -- build/samples/rss-stays
    memtrace report t.json
    memtrace run -o t.json -- build/samples/heap-pinned
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
}
_ASK = "ulimit -d; ulimit -v; cat /proc/sys/vm/overcommit_memory"


def refused(f: Facts) -> Finding | None:
    """The kernel refused to move the break up."""
    steps = [s for s in f.heap.steps if not s.delta and s.asked > s.end]
    if not f.heap.refused or not steps:
        return None
    first = steps[0]
    causes = {s.cause for s in steps}
    cause = _REFUSED.get(first.cause or "", ("", ""))
    why = (
        f"There {cause[0]}."
        if cause[0].startswith("is")
        else f"{cause[0].capitalize()}."
        if cause[0]
        else "No mapping was in the way; which limit it was is not known."
    )
    if len(causes) > 1:
        why += " Others of them had another cause, or none that is known."
    text = (
        f"The kernel refused {plural(f.heap.refused, 'growth')} of the heap, the first at "
        f"#{first.seq}: {format_size(first.asked - first.end)} more than its "
        f"{_extent(f, first)}. {why}"
    )
    if f.fallbacks and f.glibc:
        text += (
            f" glibc's malloc went on with {plural(len(f.fallbacks), 'mapping')} in its place, of "
            f"1 MiB or more each as a rule, the first at #{min(f.fallbacks)}; they do not follow "
            f"the mmap threshold."
        )
    return Finding(
        rule="MT109",
        severity=WARNING,
        headline=f"{plural(f.heap.refused, 'growth')} of the heap refused by the kernel"
        + (f": {cause[0]}" if cause[0] and len(causes) == 1 else ""),
        message=text,
        evidence=seqs([s.seq for s in steps[:8]] + list(f.fallbacks[:4])),
        remedy=(cause[1] or _ASK).replace("SEQ", str(first.seq)),
    )


def _extent(f: Facts, s: Step) -> str:
    return "extent" if f.heap.start is None else format_size(s.end - f.heap.start)


REFUSED = Rule(
    "MT109",
    "the kernel refused a growth of the heap",
    refused,
    """\
brk answered with the old break: the kernel did not move it up. malloc goes on without a heap: it
maps at least 1 MiB at a time, which becomes part of its main arena (kind main-arena), is never
unmapped, and does not follow the mmap threshold.

How it is decided. The call's answer is less than what it asked for, and that is above the break.
Any refused growth makes the finding. The cause is stated when the replayed map proves it: a mapping
lies in the way (one free page must stay between). Otherwise it is a limit: RLIMIT_DATA
(ulimit -d), RLIMIT_AS (ulimit -v), strict overcommit, or the number of mappings.

What to do. For a mapping in the way: memtrace maps TRACE --at SEQ shows it, and memtrace events who
made it. A position that is fixed (MAP_FIXED, a hint near the program) is the usual reason. For a
limit: raise it.

See it live.
    memtrace run -o t.json -- build/samples/break-rules
    memtrace report t.json
""",
)

# -- MT110 ----------------------------------------------------------------------------------------


def foreign(f: Facts) -> Finding | None:
    """Somebody else than malloc moved the break."""
    steps = [s for s in f.heap.steps if s.reason == "foreign-sbrk"]
    if not steps:
        return None
    net = sum(s.delta for s in steps)
    text = (
        f"{plural(len(steps), 'move')} of the break, first at #{steps[0].seq}, came from sbrk or "
        f"brk called outside malloc, {format_size(net)} in all."
    )
    if f.glibc and len(steps) < f.heap.growths + f.heap.shrinks and net > 0:
        text += (
            " malloc cannot use that memory, nor give back what lies below it: its part of the "
            "heap ends there, and begins anew above."
        )
    return Finding(
        rule="MT110",
        severity=INFO,
        headline=f"sbrk was called outside malloc ({plural(len(steps), 'move')} of the break)",
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
caller) lies in the text of the program or of a library that is no C library and no known allocator.
One such move makes the note. Without callers (an imported log) it is not made.

What to do. Use mmap for memory of one's own.

See it live.
    memtrace run -o t.json -- build/samples/heap-foreign
    memtrace report t.json
""",
)
