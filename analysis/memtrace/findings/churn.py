# SPDX-License-Identifier: GPL-2.0-or-later
"""MT105: mappings of one size that come and go at once."""

from __future__ import annotations

from memtrace.findings.facts import PAIRS, Facts
from memtrace.findings.finding import WARNING, Finding, Rule, seqs
from memtrace.malloc.churn import NEAR, Pairs
from memtrace.malloc.glibc import THRESHOLD_MAX, THRESHOLD_MAX_I386
from memtrace.trace.sizes import format_size, format_time, plural

#: Of all memory calls the pairs' are at least so many percent.
PERCENT = 10
#: Half of the pairs lived less than that, where the trace has times; in nanoseconds.
SHORT = 1 << 27


def churn(f: Facts) -> Finding | None:
    """Pairs of mmap and munmap of one size."""
    found = [
        p
        for p in f.churn
        if p.kind in ("malloc-chunk", "anon", "unknown")
        and p.pairs >= PAIRS
        and 200 * p.pairs >= PERCENT * f.calls
        and (not f.timed or p.half_ns <= SHORT)
    ]
    if not found:
        return None
    p = found[0]
    share = 200 * p.pairs // max(f.calls, 1)
    lived = f"; at least half of them lived less than {format_time(p.half_ns)}" if f.timed else ""
    text = (
        f"{p.pairs:,} mappings of {format_size(p.length)} were {_made(p)} and unmapped again "
        f"within {NEAR} records, #{p.first[0]} and #{p.first[1]} the first{lived}. Their calls are "
        f"{share} % of all memory calls. Each pair is two system calls, and each page touched "
        f"between them a page fault and the zeroing of a page."
    )
    if len(found) > 1:
        text += f" {plural(len(found) - 1, 'other size does', 'other sizes do')} the same."
    malloc, most = p.kind == "malloc-chunk" and f.glibc, _most(f)
    if malloc:
        text += _threshold(f, p, most)
        remedy = "reuse the block in the program" + _settings(f, p, most)
    else:
        told = p.kind == "anon" and not f.assumed  # else no caller is in the trace
        who = "memtrace events TRACE" if told else "strace -k -f -e trace=mmap PROG ARGS..."
        remedy = f"reuse the mapping in the program: {who} shows who makes it"
    return Finding(
        rule="MT105",
        severity=WARNING,
        headline=f"{p.pairs:,} pairs of mmap and munmap of {format_size(p.length)}",
        message=text,
        evidence=seqs([*p.first, p.last]),
        remedy=remedy,
    )


def _made(p: Pairs) -> str:
    return {"malloc-chunk": "mapped by malloc", "anon": "mapped by the program itself"}.get(
        p.kind, "mapped (by whom no evidence tells)"
    )


def _most(f: Facts) -> int:
    """A chunk larger than that raises no threshold, and releases before 2.35 take none higher."""
    return THRESHOLD_MAX_I386 if f.i386 else THRESHOLD_MAX


def _settings(f: Facts, p: Pairs, most: int) -> str:
    """What makes the heap serve the block, and keep it: a threshold that is set sets the trim
    threshold to nothing higher, and the free top would go back at each turn (`systrim`).
    """
    if p.length >= most:
        return ""
    t, threshold, trim = f.threshold, p.length + 4096, 4 * (p.length + 4096)
    if _doubted(f):
        return (
            f"; if it calls mallopt, give that M_MMAP_THRESHOLD {threshold} and M_TRIM_THRESHOLD "
            f"{trim}, or nothing"
        )
    if t.fixed_by == "tunable":  # wins over the variable of the same meaning
        setting = (
            f"set glibc.malloc.mmap_threshold={threshold} and "
            f"glibc.malloc.trim_threshold={trim} in GLIBC_TUNABLES,"
        )
    else:
        setting = f"MALLOC_MMAP_THRESHOLD_={threshold} MALLOC_TRIM_THRESHOLD_={trim} PROG ARGS... "
    return f"; or {setting} so that the heap serves it, and keeps it in between"


def _doubted(f: Facts) -> bool:
    t = f.threshold
    return t.first("contradiction") is not None or t.first("aligned-or-mallopt") is not None


def _threshold(f: Facts, p: Pairs, most: int) -> str:
    t = f.threshold
    if _doubted(f):
        return " The threshold did not rise as the first free should have made it (MT101, MT111)."
    if t.fixed_by is not None and p.length < most:
        return (
            " The threshold is fixed by the environment; left to itself it would have risen at the "
            "first free, and the heap would serve the rest (unless the blocks are aligned ones, of "
            "memalign)."
        )
    if p.length >= most:
        return f" No free raises the threshold to more than {format_size(most)}."
    if t.rises and t.sure and t.high is not None and t.high < p.length:
        return (
            f" Their frees raised the threshold no further than to {format_size(t.high)}: the "
            f"blocks are aligned ones (memalign, posix_memalign, aligned_alloc), for which malloc "
            f"asks for more than it keeps, so that each is mapped again."
        )
    return ""


CHURN = Rule(
    "MT105",
    "mappings of one size come and go at once",
    churn,
    f"""\
A block that is allocated and freed in a loop, large enough to be mapped: each turn is an mmap, a
munmap, and for each page touched a fault and a page to zero. glibc's dynamic threshold exists to
stop that: the first free raises the threshold, and the heap serves the rest. So it happens where
the threshold is fixed (by the environment or by mallopt), where blocks are larger than 32 MiB or
aligned (memalign: malloc asks for more than it keeps, and the threshold rises to what it keeps),
under other allocators, or where the program calls mmap itself.

How it is decided. A pair is a private anonymous mapping that one munmap took away whole within
{NEAR} records after its mmap. The finding needs {PAIRS} pairs of one size and kind whose calls
are at least {PERCENT} % of the process's memory calls, at least half of which lived less than
{format_time(SHORT)} (not asked of a trace without times). Records of other threads and processes
count as distance, so that busy traces show fewer pairs than there are, never more. The metric
churn.pairs counts all pairs.

What to do. Keep the buffer and use it again. Or leave the threshold to itself: unset
MALLOC_MMAP_THRESHOLD_ and the like. Or set it above the size, and the trim threshold to four times
that: without it, the free top of the heap goes back at each turn, and brk is called as often as
mmap was. For blocks of 256 KiB:
    MALLOC_MMAP_THRESHOLD_=270336 MALLOC_TRIM_THRESHOLD_=1081344 PROG ARGS...
The price of higher thresholds is MT101's.

See it live.
    memtrace run -o t.json -- build/samples/mmap-churn
    memtrace report t.json
""",
)
