# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings about glibc's mmap threshold: it moved, it did not hold, it let the heap serve much."""

from __future__ import annotations

from memtrace.findings.facts import Facts
from memtrace.findings.finding import INFO, WARNING, Finding, Rule, seqs
from memtrace.malloc.glibc import DEFAULT_THRESHOLD
from memtrace.malloc.heap import Step
from memtrace.malloc.threshold import Move
from memtrace.trace.sizes import format_size, plural

_MALLOPT = "unless the program called mallopt, which leaves no record"
_UNLESS = (
    "unless the program called mallopt or the chunk was an aligned one (memalign): neither leaves "
    "a record"
)
#: Why a growth for a large request follows the rule, other than by a rise in this process.
_SERVED = {
    "inherited": "fork copied a threshold that had risen in the parent",
    "environ": "a MALLOC_ variable of the environment sets the threshold higher",
    "tunable": "GLIBC_TUNABLES sets the threshold higher",
    "mmap-max": "malloc had as many mappings as it may have (M_MMAP_MAX)",
    "mmap-failed": "the kernel had refused malloc's mmap just before",
}


def _large(f: Facts, reason: str) -> list[Step]:
    return [
        s
        for s in f.heap.steps
        if s.delta > 0
        and s.verdict == "explained"
        and s.reason == reason
        and s.chunk is not None
        and s.chunk.least >= DEFAULT_THRESHOLD
    ]


def _size(n: int) -> str:
    return f"{n // 1024:,} KiB" if n % 1024 == 0 and n < 10 << 20 else format_size(n)


# -- MT101 ----------------------------------------------------------------------------------------


def dynamic(f: Facts) -> Finding | None:
    """Frees raised the threshold, and what the heap served since."""
    t = f.threshold
    rises = [m for m in t.moves if m.cause == "freed-chunk"]
    if not f.glibc or not rises or t.high is None or t.first("contradiction") is not None:
        return None
    doubt = t.first("aligned-or-mallopt")
    if doubt is not None:
        return _doubted(rises[0], doubt)
    began = "" if t.initial is None else f" from {_size(t.initial)}"
    often = "" if len(rises) == 1 else f" ({t.rises:,} frees did, the last at #{rises[-1].seq})"
    stands = _size(t.high) + ("" if t.sure else " at most")
    text = (
        f"Freeing a mapped chunk at #{rises[0].seq} raised glibc's mmap threshold{began}{often}. "
        f"It stands at {stands}: what is smaller the heap serves now."
    )
    served = [s for s in _large(f, "dynamic-threshold") if s.seq > rises[0].seq]
    if served:
        text += f" {_cost(f, served)}"
    else:
        text += " No growth of the heap since then proves a request of 128 KiB or more."
    text += f" All this {_MALLOPT if t.sure else _UNLESS}."
    return Finding(
        rule="MT101",
        severity=WARNING if served else INFO,
        headline=f"the mmap threshold rose{began} to {'' if t.sure else 'at most '}{_size(t.high)}",
        message=text,
        evidence=seqs([m.seq for m in rises[:5]] + [s.seq for s in served[:10]]),
        remedy="MALLOC_MMAP_THRESHOLD_=131072 PROG ARGS...  (or mallopt(M_MMAP_THRESHOLD, 131072) "
        "in the program) keeps it at 128 KiB, and the trim threshold with it",
    )


def _cost(f: Facts, served: list[Step]) -> str:
    """What the heap got that would have been mappings, and why it may not go back."""
    least = "" if f.heap.all_steps else "At least "
    large = "requests of 128 KiB or more that would have been mappings"
    if len(served) == 1:
        large = "a request of 128 KiB or more that would have been a mapping"
    text = (
        f"{least}{plural(len(served), 'growth')} of the heap since then, "
        f"{format_size(sum(s.delta for s in served))} from #{served[0].seq} on, served {large} "
        f"before. A mapping goes back to the system when it is freed; the heap only from its top, "
        f"and only when "
    )
    trim = f.threshold.trim
    if trim:
        bound = "" if f.threshold.sure else " or more"
        text += f"{format_size(trim)}{bound} are free there (the trim threshold, which rose, too)."
    else:
        text += "as much is free there as the trim threshold says, which rose, too."
    h = f.heap
    if h.peak is not None and h.final is not None:
        text += f" The heap grew to {format_size(h.peak)} and ends with {format_size(h.final)}."
    return text


def _doubted(rise: Move, doubt: Move) -> Finding:
    text = (
        f"A mapped chunk freed at #{rise.seq} should have raised glibc's mmap threshold to its "
        f"size, but a chunk mapped at #{doubt.seq} is smaller. Either the freed one was an aligned "
        f"one (memalign), which raises it to less, or the program called mallopt. Both leave no "
        f"record; which of them it was is not known."
    )
    return Finding(
        rule="MT101",
        severity=INFO,
        headline="the mmap threshold did not rise as far as a free should have raised it",
        message=text,
        evidence=seqs([rise.seq, doubt.seq]),
        remedy="MALLOC_MMAP_THRESHOLD_=131072 PROG ARGS...  fixes it from the start",
    )


DYNAMIC = Rule(
    "MT101",
    "the mmap threshold moved",
    dynamic,
    """\
glibc's malloc gives a large request a mapping of its own. "Large" begins at 128 KiB, but only
begins there: when the program frees such a mapping, glibc raises the threshold to its size (up to
32 MiB; 512 KiB for i386), and the trim threshold to twice that. Later requests of that size come
from the heap. A freed mapping goes back to the system at once; the heap goes back only from its
top, and now only when twice the raised threshold is free there. A program that once freed 10 MiB
keeps up to 20 MiB of free heap.

How it is decided. The finding needs one munmap by free of a mapped chunk larger than the
threshold was (evidence: that munmap), under glibc, without any setting that freezes the
threshold. It is a warning when a later growth of the heap proves a request of 128 KiB or more
(the report's "chunk" of a step: what malloc's formula for growing the heap leaves possible). Else
it is a note. mallopt and memalign leave no record; where a later mapping contradicts the rise,
the finding says that instead, and where the evidence excludes the rule it is not made (see
MT111).

What to do. Fix the threshold, which also keeps the trim threshold:
    MALLOC_MMAP_THRESHOLD_=131072 PROG ARGS...
    GLIBC_TUNABLES=glibc.malloc.mmap_threshold=131072 PROG ARGS...
or mallopt(M_MMAP_THRESHOLD, 131072) first thing in main(). The price: each large block costs two
system calls and new zeroed pages again (see MT105).

See it live.
    memtrace run -o t.json -- build/samples/threshold-moves
    memtrace report t.json
""",
)


# -- MT102 ----------------------------------------------------------------------------------------


def large_growth(f: Facts) -> Finding | None:
    """The heap served requests of 128 KiB or more although no free in this process raised T."""
    found = {reason: steps for reason in _SERVED if (steps := _large(f, reason))}
    if not f.glibc or not found:
        return None
    steps = [s for some in found.values() for s in some]
    why = "; ".join(f"{_SERVED[r]} ({_those(some)})" for r, some in found.items())
    text = (
        f"{plural(len(steps), 'growth')} of the heap, {format_size(sum(s.delta for s in steps))} "
        f"in all, served requests of 128 KiB or more. The rule of 128 KiB would have mapped them; "
        f"here {why}."
    )
    return Finding(
        rule="MT102",
        severity=INFO,
        headline=f"the heap served requests of 128 KiB or more ({plural(len(steps), 'growth')})",
        message=text,
        evidence=seqs([s.seq for s in steps]),
        remedy="memtrace explain malloc-and-the-kernel  tells when the heap serves large requests",
    )


def _those(steps: list[Step]) -> str:
    more = f" and {len(steps) - 1:,} more" if len(steps) > 1 else ""
    return f"#{steps[0].seq}{more}"


LARGE_GROWTH = Rule(
    "MT102",
    "a large request was served by the heap",
    large_growth,
    """\
"Above 128 KiB malloc calls mmap" is only the default, and only for requests that no free memory of
malloc's can serve. This note says which growths of the heap prove a request of 128 KiB or more,
and why that follows the rule all the same: a setting of the environment, a threshold that was
inherited by fork, mappings used up (M_MMAP_MAX), an mmap that the kernel had refused.

How it is decided. A growth by glibc's malloc proves how large the chunk was at least (the
report's "chunk" of a step; sysmalloc adds M_TOP_PAD and rounds up to pages). Growths since a rise
of the threshold in this process are MT101's. Growths whose cause is not known make no finding
here.

What to do. Nothing, if the setting is meant. Else remove it: the report's "mmap threshold"
section names what sets it.

See it live.
    MALLOC_MMAP_MAX_=0 memtrace run -o t.json -- build/samples/threshold-moves
    memtrace report t.json
""",
)


# -- MT111 ----------------------------------------------------------------------------------------


def contradicted(f: Facts) -> Finding | None:
    """Evidence excludes the threshold as configured."""
    t = f.threshold
    at = t.first("contradiction")
    if not f.glibc or at is None:
        return None
    before = [m for m in t.moves if m.seq < at.seq]
    low, high = (before[-1].low, before[-1].high) if before else (t.initial, t.initial)
    set_by = before[-1].seq if before else at.against or f.born_seq
    since = f"#{set_by}" if before else f"the start (#{set_by})"
    stood = "" if low is None or high is None else f" ({_interval(low, high)})"
    grew = any(s.seq == at.seq for s in f.heap.steps)
    if grew:
        what = "the heap grew by more than a request below it needs, with top_pad as configured"
    else:
        what = "a mapping or a growth of the heap does not follow it"
    causes = "mallopt makes no system call, and may be why"
    if grew:
        causes += " (M_MMAP_THRESHOLD, M_MMAP_MAX, M_TOP_PAD)"
    if not f.whole:
        causes += "; so may be what this trace has lost"
    text = (
        f"As configured, and as the recorded frees moved it, the mmap threshold stood since "
        f"{since}{stood}. At #{at.seq} {what}. The cause is unknown: {causes}. From there on only "
        f"what the evidence itself proves is said of the threshold."
    )
    return Finding(
        rule="MT111",
        severity=WARNING,
        headline=f"the threshold rule as configured is contradicted at #{at.seq}; "
        "the cause is unknown",
        message=text,
        evidence=seqs([set_by, at.seq]),
        remedy="grep the program and its libraries for mallopt: nm -D PROG | grep mallopt",
    )


def _interval(low: int, high: int) -> str:
    return _size(low) if low == high else f"{_size(low)} to {_size(high)}"


CONTRADICTED = Rule(
    "MT111",
    "the threshold rule is contradicted",
    contradicted,
    """\
A mapping that malloc made is smaller than the threshold can have been, or the heap grew by more
than a request below the threshold can need. Then the threshold (or, for a growth, top_pad or
M_MMAP_MAX) was not what the environment and the recorded frees say. Both events are named: the last
one that the old value rests on, and the one that excludes it. What moved the threshold is not
known: mallopt makes no system call and leaves no record, and memtrace does not guess.

How it is decided. Each mapped chunk (proven by its header or its caller) and each growth by
malloc is held against the interval in which the threshold must lie. What has another lawful cause
is not counted: a shrinking realloc, an arena that could not be had, an mmap that had failed,
M_MMAP_MAX. One contradiction is enough; after it nothing is held against the old value any more.

What to do. Look for mallopt, in the program and in the libraries it loads:
    nm -D PROG | grep mallopt
    gdb -batch -ex 'break mallopt' -ex run -ex backtrace --args PROG ARGS...

See it live.
    memtrace run -o t.json -- build/samples/mallopt-hidden
    memtrace report t.json
""",
)
