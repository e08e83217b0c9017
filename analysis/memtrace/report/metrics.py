# SPDX-License-Identifier: GPL-2.0-or-later
"""Every metric of a report: its unit and what it counts. They are the vocabulary of budgets.

`calls.NAME` stands for one metric per system call. A name may drop its unit: `heap.peak` is
`heap.peak_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from textwrap import wrap

#: What is counted if a call has this name.
_CALLS = "calls."
_UNIT = "_bytes"
#: How the family is listed.
FAMILY = "calls.NAME"
#: The calls that a trace records (those of a process's life are records of their own).
_RECORDED = (
    "arch_prctl", "brk", "io_destroy", "io_setup", "madvise", "map_shadow_stack", "mlock", "mlock2",
    "mlockall", "mmap", "mprotect", "mremap", "mseal", "munlock", "munlockall", "munmap",
    "personality", "pkey_mprotect", "prctl", "process_madvise", "remap_file_pages", "shmat",
    "shmdt",
)  # fmt: skip
#: Of these only some operations are recorded: the others change no address space.
_PARTLY = {
    "arch_prctl": "ARCH_MAP_VDSO_*",
    "prctl": "PR_SET_MM, PR_SET_VMA, PR_SET_THP_DISABLE",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a report may hold.

    Attributes:
        name: as in the report's `metrics`.
        unit: `bytes` or `count`.
        meaning: in a few words.
        advisory: it depends on the machine and its load more than on the program (resident memory,
            page faults): a budget of it is reported, and fails nothing unless it says so.
        summed: whether its sum over several processes means something.
        cost: whether more of it is worse, so that a baseline holds it down.
        only: the operations that are counted, if not all that the name stands for.
    """

    name: str
    unit: str
    meaning: str
    advisory: bool = False
    summed: bool = True
    cost: bool = True
    only: str = ""


_ALL = (
    Metric("arenas.count", "count", "heaps of thread arenas ever"),
    Metric("arenas.reserved_bytes", "bytes", "address space reserved by arenas at the end"),
    Metric("calls.failed", "count", "memory calls that the kernel refused"),
    Metric("calls.total", "count", "memory calls"),
    Metric("chunks.alive_at_exit", "count", "malloc's mapped chunks alive at the end"),
    Metric("chunks.final_bytes", "bytes", "malloc's mapped chunks at the end"),
    Metric("chunks.mapped", "count", "chunks that the process mapped itself"),
    Metric("chunks.peak_bytes", "bytes", "malloc's mapped chunks, the most at one time"),
    Metric("churn.pairs", "count", "mappings unmapped whole soon after their mmap"),
    Metric("growth.over_threshold", "count",
           "growths of the heap for a request at or above the threshold as it stood at the start"),
    Metric("heap.final_bytes", "bytes", "extent of the heap at the end"),
    Metric("heap.grown_bytes", "bytes", "sum of all growths of the heap"),
    Metric("heap.growths", "count", "growths of the heap"),
    Metric("heap.growths_over_128k", "count", "growths for a request of 128 KiB or more"),
    Metric("heap.peak_bytes", "bytes", "extent of the heap, the largest"),
    Metric("heap.refused", "count", "growths of the heap that the kernel refused"),
    Metric("heap.shrinks", "count", "shrinks of the heap", cost=False),
    Metric("heap.shrunk_bytes", "bytes", "sum of all shrinks of the heap", cost=False),
    Metric("maps.peak", "count", "lines of /proc/PID/maps, the most at a moment it was read"),
    Metric("memory.major_faults", "count", "page faults that read from disk", advisory=True),
    Metric("memory.minor_faults", "count", "page faults that did not", advisory=True),
    Metric("memory.rss_peak_bytes", "bytes", "resident memory, the most seen", advisory=True),
    Metric("memory.vm_peak_bytes", "bytes", "address space, the most at one time"),
    Metric("regions.total", "count", "regions ever"),
    Metric("regions.unknown", "count", "regions whose kind has no evidence"),
    Metric("threshold.high_bytes", "bytes", "the threshold's upper bound at the end",
           summed=False, cost=False),
    Metric("threshold.low_bytes", "bytes", "the threshold's lower bound at the end",
           summed=False, cost=False),
    Metric("threshold.rises", "count", "frees proven to have raised the threshold"),
    Metric("trust.checksum_mismatches", "count", "sizes of statm that nothing explains"),
    Metric("trust.drift", "count", "snapshots not reproduced, and calls that contradict the map"),
    Metric("trust.lost", "count", "`lost` records of the process"),
    Metric("trust.snapshots", "count", "kernel maps compared", cost=False),
)  # fmt: skip

#: By name; the family `calls.NAME` is not among them: see `find`.
METRICS = {m.name: m for m in _ALL}


def find(name: str) -> Metric | None:
    """The metric of this name, with its unit or without; None if there is none.

    >>> find("heap.peak").name, find("calls.mmap").unit, find("heap.peek")
    ('heap.peak_bytes', 'count', None)
    """
    found = METRICS.get(name) or METRICS.get(name + _UNIT)
    if found is None and name.startswith(_CALLS):
        call = name[len(_CALLS) :]
        if call in _RECORDED:
            only = _PARTLY.get(call, "")
            meaning = f"calls of {call}" + (f" with {only}; others are not recorded" * bool(only))
            return Metric(name, "count", meaning, only=only)
    return found


def names() -> dict[str, str]:
    """Every name as budgets have it, without the unit, and its meaning; the family of calls too."""
    found = {name.removesuffix(_UNIT): m.meaning for name, m in METRICS.items()}
    return dict(sorted({**found, FAMILY: "calls of one system call"}.items()))


def explained(name: str) -> str | None:
    """What a metric is and how it is budgeted; None if there is none of this name.

    >>> explained("heap.peak").splitlines()[0]
    'heap.peak (metric)'
    """
    plain = name.strip().lower()
    wanted = "calls.mmap" if plain == FAMILY.lower() else plain
    metric = find(wanted)
    if metric is None:
        return None
    title = FAMILY if wanted != plain else metric.name.removesuffix(_UNIT)
    meaning = "calls of one system call" if title == FAMILY else metric.meaning
    stored = FAMILY if title == FAMILY else metric.name
    has = f"Unit: {metric.unit}; memtrace report --format json has it as {stored}."
    text = [f"{meaning[:1].upper()}{meaning[1:]}. {has}"]
    if metric.advisory:
        text.append(
            "It is advisory: it depends on the machine and its load as well, so that a limit is "
            "shown and fails nothing, unless it says gate = true."
        )
    else:
        text.append("It is not advisory: a limit that is passed fails memtrace check.")
    if metric.summed:
        text.append("[budget.tree] limits its sum over all processes.")
    else:
        text.append("A sum over processes means nothing: [budget.tree] cannot limit it.")
    text.append(
        "More of it is worse, so that a baseline holds it down."
        if metric.cost
        else "More of it is not worse: a baseline leaves it alone."
    )
    example = f"    [budget]\n    {metric.name.removesuffix(_UNIT)} = {_limit(metric)}\n"
    filled = "\n".join(wrap(" ".join(text), 80, break_on_hyphens=False, break_long_words=False))
    return f"{title} (metric)\n\n{filled}\n\nIn memtrace.toml:\n\n{example}"


def _limit(metric: Metric) -> str:
    """A limit as it may stand in a budget."""
    value = '"2 MiB"' if metric.unit == "bytes" else "10"
    if metric.advisory:
        return f"{{ max = {value}, gate = true }}"
    if not metric.cost:
        return f"{{ min = {value} }}"
    return "0" if metric.name.startswith("trust.") else value


def nearest(name: str) -> list[str]:
    """Names that may have been meant, the likeliest first, at most three.

    >>> nearest("heap.peek")[0]
    'heap.peak'
    """
    names = [n.removesuffix(_UNIT) for n in METRICS] + [_CALLS + c for c in _RECORDED]
    tails = {n.partition(".")[2]: n for n in names}
    found = get_close_matches(name, names, n=3, cutoff=0.6)
    found += [tails[t] for t in get_close_matches(name, tails, n=2, cutoff=0.75)]
    return list(dict.fromkeys(found))[:3]
