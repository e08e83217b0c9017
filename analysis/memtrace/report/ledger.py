# SPDX-License-Identifier: GPL-2.0-or-later
"""The text report's sentences about the heap's steps, both thresholds, and thread arenas."""

from __future__ import annotations

from memtrace.malloc.glibc import DEFAULT_THRESHOLD
from memtrace.report.lines import plural
from memtrace.report.model import ArenaLimitRow, Bounds, MoveRow, NoTrimRow, ProcessRow, StepRow
from memtrace.trace.sizes import format_size

CAUSES = {
    "freed-chunk": "freeing a mapped chunk raised it (glibc's dynamic threshold)",
    "possible-rise": "a mapped chunk may have been freed here, and that may have raised it",
    "contradiction": (
        "a mapping or growth here does not follow the rule as configured; why is unknown (mallopt "
        "makes no system call)"
    ),
    "aligned-or-mallopt": (
        "a mapping or growth here does not fit: a chunk freed before was an aligned one "
        "(memalign), or mallopt was called"
    ),
    "at-least": "freeing a mapped chunk raised it to that, unless it was higher before",
    "at-most": "a chunk was mapped: it was no higher",
    "above": "the heap served a request: it was higher, unless mallopt padded the growth",
}

_REASONS = {
    "dynamic-threshold": "threshold had risen",
    "inherited": "inherited threshold",
    "environ": "as the environment",
    "tunable": "as GLIBC_TUNABLES",
    "hugetlb": "by huge pages",
    "mmap-max": "no mapping allowed",
    "mmap-failed": "mmap had failed",
    "top-pad": "as M_TOP_PAD pads",
    "alignment": "alignment, 2nd of 2",
    "trim": "free end given back",
    "malloc-trim-or-mallopt": "malloc_trim/mallopt",
    "foreign-sbrk": "sbrk, not malloc's",
    "other-allocator": "other allocator's",
    "aligned-or-mallopt": "memalign or mallopt",
}
_VERDICTS = {
    "holds": "fits the rule",
    "contradiction": "CONTRADICTS the rule",
    "unknown": "not known",
}
_REFUSED = {
    "next-mapping": "a mapping is in the way",
    "RLIMIT_DATA": "it would be over the recorded RLIMIT_DATA",
    "RLIMIT_AS": "it would be over the recorded RLIMIT_AS",
}
_LIMITS = {
    "stack-guard-gap": "the gap below a stack",
    "RLIMIT_DATA": "RLIMIT_DATA",
    "RLIMIT_AS": "RLIMIT_AS",
    "RLIMIT_MEMLOCK": "RLIMIT_MEMLOCK after mlockall",
    "overcommit": "what the machine can promise (vm.overcommit_memory)",
    "max-map-count": "vm.max_map_count",
}


def step(s: StepRow) -> str:
    """Why the break moved, or did not."""
    if s.role == "refused":
        return "refused" if s.asked > s.end else "refused shrink"
    if s.role == "first-heap" and s.verdict in ("holds", "explained"):
        return "malloc's first heap"
    if s.reason == "dynamic-threshold" and not proves_large(s):
        return "fits, as it has risen"  # so it might before
    return _REASONS.get(s.reason or "", "") or _VERDICTS.get(s.verdict, s.verdict)


def proves_large(s: StepRow) -> bool:
    """Whether the growth served a request that the default threshold would have mapped."""
    return s.chunk is not None and s.chunk.min >= DEFAULT_THRESHOLD


def chunk(s: StepRow) -> str:
    """The size of the chunk that made malloc grow the heap, as far as it is proven."""
    return "" if s.chunk is None else _between(s.chunk)


def _between(chunk: Bounds) -> str:
    low = format_size(chunk.min)
    if chunk.max is None:
        return f"{low} or more"
    high = format_size(chunk.max)
    value, _, unit = low.partition(" ")
    same = unit == high.rpartition(" ")[2]
    return high if low == high else f"{value if same else low} to {high}"


def notes(p: ProcessRow) -> list[str]:
    """What is to be said below the heap's steps."""
    heap, out = p.heap, []
    if any(s.chunk is not None for s in heap.steps):
        out.append(
            "chunk: what malloc needed for one request, as far as the growth proves it; it asks "
            "for a pad more, less the free end that it has"
        )
    refused: dict[str | None, list[StepRow]] = {}
    for s in heap.steps:
        if s.role == "refused" and s.asked > s.end:
            refused.setdefault(s.cause, []).append(s)
    out += [_refusal(steps) for steps in refused.values()]
    if heap.trimmed_bytes:
        out.append(f"malloc gave {format_size(heap.trimmed_bytes)} back in all")
    if heap.no_trim is not None and not any(x.rule == "MT103" for x in p.findings):
        out += _kept(heap.no_trim)
    return out


def _kept(why: NoTrimRow) -> list[str]:
    """Why free could give nothing back, [] if that is not known."""
    if why.reason == "pinned":
        text = f"at #{why.since_seq} a chunk in use lay so near the end of the heap"
        return [f"{text} that free could give nothing back"]
    if why.reason != "below-trim-threshold":
        return []
    when = "at no time" if why.since_seq is None else f"since #{why.since_seq} at no time"
    return [f"{when} was the heap as large as the trim threshold: free could give nothing back"]


def _refusal(steps: list[StepRow]) -> str:
    """Why the kernel refused growths."""
    s = steps[0]
    text = f"{plural(len(steps), 'growth')} refused, first #{s.seq}: "
    if s.cause is None:
        limits = ", ".join(_LIMITS[c] for c in s.candidates)
        return f"{text}by one of {limits}"
    text += _REFUSED[s.cause]
    if s.cause == "next-mapping" and s.room is not None:
        text += f"; the break could have moved by {format_size(s.room)}"
    return text


def move(m: MoveRow) -> str:
    """Why the threshold moved."""
    text = CAUSES[m.cause]
    return text if m.against is None else f"{text}. It excludes what #{m.against} had set"


def trim(p: ProcessRow) -> str | None:
    """Where the trim threshold stands; None: nothing is known of it."""
    t = p.threshold.trim
    if t.low is None:
        return None
    now = _span(t.low, t.high)
    if t.initial is not None and (t.low, t.high) != (t.initial, t.initial):
        now = f"{_span(t.initial, t.initial)} at the start, {now} at the end"
    text = f"trim threshold: {now}"
    if t.low and t.low == t.high and t.low >= 1 << 31:
        return f"{text}: free never gives the heap's free end back"
    return f"{text}. free gives the heap's free end back when it is that large"


def _span(low: int, high: int | None) -> str:
    if high is None:
        return f"{format_size(low)} or more" if low else "unknown, for mallopt may have set it"
    return format_size(low) if low == high else f"{format_size(low)} to {format_size(high)}"


def arenas(p: ProcessRow) -> list[str]:
    """How many heaps of thread arenas there are, of how many, and what they hold."""
    rows = p.arenas
    now = [a for a in rows if a.died_seq is None]
    gone = f", {len(rows) - len(now):,} of them unmapped since" if len(now) < len(rows) else ""
    text = f"{plural(len(rows), 'heap')} of thread arenas{gone}"
    bound = _limit(p.arena_limit)
    out = [text + (f"; {bound}" if bound else "")]
    reserved = format_size(sum(a.reserved_bytes for a in now))
    opened = format_size(sum(a.committed_peak_bytes for a in rows))
    back = format_size(sum(a.given_back_bytes for a in rows))
    out.append(
        f"reserved at the end: {reserved} of address space, which costs no memory until it is "
        f"opened; opened: {opened}, each at its peak; given back: {back}"
    )
    if any(a.committed_bytes is None for a in rows):
        out.append("unknown: it has shrunk, and growing back makes no system call")
    return out


def _limit(limit: ArenaLimitRow) -> str:
    """How many arenas there may be, and why."""
    if limit.max is None:
        return ""
    most = f"malloc makes at most {limit.max:,} arenas, the main one counted"
    if limit.reason in ("environ", "tunable"):
        where = "MALLOC_ARENA_MAX" if limit.reason == "environ" else "GLIBC_TUNABLES"
        return f"{most} ({where})"
    cpus = plural(limit.cpus or 0, "CPU")
    allowed = limit.reason == "cpus-allowed"
    may = ", fewer if the process may not run on all" if allowed else ""
    return f"{most} (by {cpus} online{may}; a cgroup's quota does not count)"
