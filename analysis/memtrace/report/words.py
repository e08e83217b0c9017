# SPDX-License-Identifier: GPL-2.0-or-later
"""The sentences of the text report. Each states only what its values prove."""

from __future__ import annotations

import signal

from memtrace.report.lines import clean, plural, program
from memtrace.report.model import ProcessRow
from memtrace.trace.sizes import format_size, format_time

KINDS = {
    "heap": "small requests, by brk",
    "malloc-chunk": "large requests, by mmap",
    "main-arena": "malloc's heap without brk",
    "arena": "other threads' malloc",
    "stack": "the main thread's stack",
    "thread-stack": "other threads' stacks",
    "guard": "catches stack overflows",
    "tls": "thread-local variables",
    "library": "program and libraries",
    "file": "mapped files",
    "shared-file": "files mapped shared",
    "shared-anon": "shared by processes",
    "anon": "the program's own mmap",
    "loader": "zeroed data, by the loader",
    "vdso": "the kernel's own pages",
    "jit": "generated code",
    "runtime-heap": "of another allocator",
    "unknown": "no evidence what it is",
}

LABELLED = "labelled [heap]: at most that"


def gloss(p: ProcessRow, kind: str) -> str:
    """What a kind of this process's is, in a few words."""
    if kind == "heap" and p.heap.most_bytes is not None:
        return LABELLED
    return KINDS.get(kind, "")


def command(p: ProcessRow) -> str:
    """The program's name and arguments."""
    told = p.argv and not (p.assumed and p.argv[0].endswith("..."))  # strace -s has cut it off
    name = program(p.argv[0] if told else p.exe) or p.exe or f"process {p.pid}"
    return " ".join([name, *p.argv[1:]]).strip()  # setproctitle(3) pads it


def ending(p: ProcessRow) -> str:
    """How the process ended, as far as it was seen."""
    if p.running:
        return "still running"
    if p.exit is None:
        return "exec" if p.replaced else "" if p.died_seq is None else "ended"
    if "signal" in p.exit:
        number = p.exit["signal"]
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exit {p.exit['code']}"


def last(p: ProcessRow) -> str:
    """When the last values were true."""
    if p.replaced:
        return "at exec"
    return "at the end" if p.died_seq is None else "at exit"


def peak(p: ProcessRow) -> str:
    """What a peak is the peak of."""
    return f"peak{since(p)}"


def since(p: ProcessRow) -> str:
    """Since when there are records of it, if not since its birth."""
    if p.attached is None:
        return ""
    return " since the log begins" if p.assumed else " since the attach"


def attached(p: ProcessRow) -> str:
    """Where a process that was attached to stood."""
    a = p.attached
    if a is None:
        return ""
    if a.regions is None:
        return f"pid {p.pid} was there before the log begins; what it had mapped then is not known"
    text = f"pid {p.pid}, attached at #{a.seq}"
    if a.age_ns is not None:
        text += f", {age(a.age_ns)} after its start"
    text += f"; {plural(a.regions, 'region is', 'regions are')} older than the trace"
    return text + (f", {a.regions_gone:,} of them gone since" if a.regions_gone else "")


def age(ns: int) -> str:
    """A process's age.

    >>> age(1_190_000_000), age(7_260 * 10**9), age(93_780 * 10**9)
    ('1.19 s', '2 h 1 min', '1 d 2 h')
    """
    minutes = max(ns, 0) // (60 * 10**9)
    for big, small, size, most in (("d", "h", 24 * 60, 60), ("h", "min", 60, 1)):
        if minutes >= size:
            return f"{minutes // size:,} {big} {minutes % size // most} {small}"
    return f"{minutes} min" if minutes else format_time(max(ns, 0))


def untold(most: int) -> tuple[str, str]:
    """A heap that no call has told the end of: its size, and what is to be said of it."""
    if not most:
        return "0 B", "nothing of it is mapped"
    return (
        f"at most {format_size(most)}",
        "where the break stands is not known before the first brk",
    )


def perhaps_arenas(p: ProcessRow) -> bool:
    """Whether older regions may be arenas, and no walk has looked."""
    return not p.walks and any(
        r.older and r.kind == "unknown" and "arena" in r.candidates for r in p.regions
    )


def perhaps_chunks(p: ProcessRow) -> str:
    """What the chunks stated may leave out: older regions without a header that was found."""
    n = sum(r.older and r.kind == "unknown" and "malloc-chunk" in r.candidates for r in p.regions)
    return f"; {plural(n, 'older region')} may hold more" if n and p.allocator.rule else ""


def allocator(p: ProcessRow) -> str:
    """The malloc's name."""
    if p.allocator.name == "unknown":
        return "malloc unknown"
    return clean(p.allocator.label)


def interval(low: int | None, high: int | None) -> str:
    """A threshold."""
    if low is None or (not low and high is None):
        return "unknown"
    if high is None:
        return f"{format_size(low)} or more"
    if low == high:
        return _exact(low)
    return f"{_exact(low)} to {_exact(high)}" if low else f"at most {_exact(high)}"


def _exact(n: int) -> str:
    text = format_size(n)
    if n % 1024 == 0:
        return f"{n // 1024:,} KiB" if "." in text else text
    return f"{n:,} B"


def start(p: ProcessRow) -> str:
    """Where the threshold's first value comes from."""
    t = p.threshold
    if p.inherited and p.threshold_inherited:
        return "copied from the parent by fork, already moved there"
    if t.first is not None:
        known = "copied from the parent by fork; there," if p.inherited else "glibc's rule;"
        return (
            f"{known} frees before the attach are in no record: it may have risen from 128 KiB as "
            f"far as that"
        )
    if t.initial is None and p.env_lost and p.assumed:
        return "the log does not show the environment, which may have set it"
    if t.initial is None and p.env_lost:
        twice = "a setting stands in the environment twice"
        if p.attached is None and not p.inherited:  # the environment is as execve was given it
            return f"{twice}: which counts is not known"
        written = "the program has written over its environment"
        return f"{written}, or {twice}: what that set is not known"
    if t.initial is None:
        return "the recorded settings do not say where it stands"
    where = {"environ": "a MALLOC_ variable of the environment", "tunable": "GLIBC_TUNABLES"}
    if t.fixed_by is None:
        return "glibc's default; nothing in the environment sets it"
    name = where.get(t.fixed_by, "the huge page setting")
    if p.attached is not None:
        # /proc/PID/environ is memory of the program's, where it may write.
        name += ", unless the program wrote that there itself, or called mallopt, before the attach"
    if t.initial == 128 * 1024:
        return f"glibc's default; fixed there by {name}"
    if p.attached is not None:
        return f"set and fixed by {name}"
    return f"set by {name}, which also fixes it"


def further(p: ProcessRow) -> list[str]:
    """The thresholds of further copies of glibc."""
    return [
        f"a further copy of glibc ({clean(a.evidence)}) has a malloc and a threshold of its own: "
        f"{interval(a.threshold.low, a.threshold.high)} {last(p)}"
        for a in p.allocators
        if a.threshold is not None
    ]


def standing(p: ProcessRow) -> str:
    """What the last value rests on."""
    t = p.threshold
    if t.low is None:
        return "nothing here bounds it"
    if any(m.cause != "freed-chunk" for m in t.history):
        return "what the evidence leaves"
    judged = sum(r.kind == "malloc-chunk" and r.verdict != "unknown" for r in p.regions)
    judged += sum(s.verdict in ("holds", "explained") and s.reason != "trim" for s in p.heap.steps)
    if not judged and t.first is not None:
        return "no mapping or growth since then narrows it"
    if not judged:
        return "as configured; no mapping or growth could be held against it"
    text = f"{plural(judged, 'mapping and growth', 'mappings and growths')} fit it"
    if perhaps_aligned(p):
        text += "; it is lower if a freed chunk was an aligned one (memalign)"
    return text


def perhaps_aligned(p: ProcessRow) -> bool:
    """Whether a chunk that was freed may have been an aligned one: the trace does not tell its
    size, and the threshold would be another then.
    """
    t = p.threshold
    return (t.low, t.high) != (t.least, t.most)


def no_threshold(p: ProcessRow) -> str:
    """Why no value is given."""
    if p.allocator.name == "unknown":
        return f"not stated: which malloc this process uses is not known: {p.allocator.evidence}"
    own = p.allocator.own_rule
    return f"does not apply: {allocator(p)} has no such rule" + (f"; its own: {own}" if own else "")


def oddities(p: ProcessRow) -> list[str]:
    """What a person should look at, a line each; the notes among the findings in one line."""
    out = [f"{x.rule}  {x.title}" for x in p.findings if x.severity != "info"]
    if p.verification.drift:
        out.append(f"the replayed map was wrong at #{p.verification.drift[0].seq}")
    notes = [x.rule for x in p.findings if x.severity == "info"]
    if notes:
        stands = "" if out else "nothing stands out; "
        out.append(f"{stands}{plural(len(notes), 'note')} below: {', '.join(notes)}")
    return out


def elsewhere(found: dict[str, list[int]]) -> str:
    """What other address spaces have, notes left out: rule -> the processes, in order of birth."""
    said = []
    for rule, pids in found.items():
        more = f" and {len(pids) - 1:,} more" if len(pids) > 1 else ""
        said.append(f"{rule} in process {pids[0]}{more}")
    return f"elsewhere in this trace: {', '.join(said)}"


def unseen(shown: list[ProcessRow]) -> list[str]:
    """The limits of what was said above."""
    out = [
        "requests that malloc served from memory it already had: they make no system call",
        "which code asked malloc for memory, and how much of a region is in use"
        + (
            ""
            if any(p.walks for p in shown)
            else " (--heap-walk tells it of the heaps of glibc's malloc)"
        ),
    ]
    if any(p.assumed for p in shown):
        out.insert(0, "which mappings are malloc's: the log has no callers and no chunk headers")
        out.insert(0, "calls that strace was told not to write (-e, -P, -b, -Z)")
        out.insert(
            0,
            "what was mapped without a call in the log: by execve the program, its interpreter, "
            "its stack and the vdso; pages that calls prove to have been there are named [assumed]",
        )
    older = sum(p.attached.regions or 0 for p in shown if p.attached is not None)
    if any(p.attached is not None and not p.assumed for p in shown):
        text = f"what happened before the attach: what made the {plural(older, 'older region')}"
        peaks = "what the peaks were until then"
        if any(p.attached is not None and p.allocator.name == "glibc" for p in shown):
            moved = "which frees and calls of mallopt moved the threshold"
            out.insert(0, f"{text}, {peaks}, and {moved}")
        else:
            out.insert(0, f"{text}, and {peaks}")
    if any(perhaps_aligned(p) for p in shown):
        out.append(
            "calls of mallopt, and whether a freed chunk was an aligned one (memalign): neither "
            "leaves a mark, so the threshold stated is the one without them"
        )
    elif any(p.allocator.name == "glibc" for p in shown):
        out.append(
            "calls of mallopt: they leave no mark, so what is stated of thresholds and sizes is "
            "what holds without them"
        )
    if any(a.committed_bytes is None for p in shown for a in p.arenas):
        out.append("how much of a thread arena is open after it shrank: growing back makes no call")
    if any(s.cause is None and s.asked > s.end for p in shown for s in p.heap.steps):
        out.append("why a growth of the heap was refused, where no recorded limit excludes it")
    unknown = sum(p.kinds["unknown"].count for p in shown if "unknown" in p.kinds)
    if unknown:
        text = f"what {plural(unknown, 'region is', 'regions are')} for: no evidence was recorded"
        if any(perhaps_arenas(p) for p in shown):
            text += " (attach --heap-walk tells which are thread arenas)"
        out.append(text)
    if all(p.assumed for p in shown):
        out.append("resident memory: the log has no page counts")
    else:
        out.append("resident memory between the recorded moments, and per region")
    return out
