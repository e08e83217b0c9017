# SPDX-License-Identifier: GPL-2.0-or-later
"""A baseline: the numbers of an earlier run, which a later one is not to exceed.

It is a trace, or the small file that `--update-baseline` writes, one metric a line so that a change
of it can be reviewed. Only numbers of which more is worse are held against it (`Metric.cost`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from memtrace.check.amounts import Number, Tolerance
from memtrace.check.budget import FIRST, TREE, Limit
from memtrace.check.judge import Verdict, verdict
from memtrace.check.measure import each, first_process, largest, name_within, total, unknown, worst
from memtrace.report.metrics import Metric, find
from memtrace.report.model import ProcessRow, Report
from memtrace.trace.errors import TraceFormatError
from memtrace.trace.sizes import plural

FORMAT = "memtrace-baseline/2"
#: A size may always differ by this much, unless a budget says by how much: 4 KiB more on 12 are no
#: 33 %.
FLOOR = 16 << 10
#: A map may always differ by so many lines: neighbours merge or not, as addresses fall.
_LINES = 8
#: Variables that set how malloc works, beside MALLOC_*.
SETTINGS = ("GLIBC_TUNABLES", "LD_PRELOAD", "PYTHONMALLOC")


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """A program that the first process was.

    Attributes:
        program: its name.
        exe: the name of its file, without the folder: that differs from machine to machine.
        argv: as it was started.
        abi: "" for that of the machine.
        allocator: its malloc and that's version, `glibc 2.36`.
        environment: the variables that set how malloc works; None: not known.
        threads: it had several, so that counts differ from run to run.
    """

    program: str
    exe: str
    argv: list[str]
    abi: str
    allocator: str
    environment: dict[str, str] | None
    threads: bool = False


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one run, and what they depend on.

    Attributes:
        programs: those of the first process, one after the other.
        machine: `x86_64`; "" if the trace does not tell.
        page_size: in bytes.
        redacted: names are the trace's own.
        log: it was an imported one, which may have left out calls.
        metrics: of the first process, the worst of its programs; None: one of them does not tell.
        tree: sums over all processes, likewise.
    """

    format: str = FORMAT
    programs: list[Ran]
    machine: str
    page_size: int
    redacted: bool = False
    log: bool = False
    metrics: dict[str, int | float | None]
    tree: dict[str, int | float | None] = {}


def of_report(report: Report) -> Baseline:
    """What a report says, as a baseline.

    Raises:
        TraceFormatError: it has no process.
    """
    rows = list(report.processes)
    if not rows:
        raise TraceFormatError(
            "the trace holds no process, so it is no baseline",
            hint="memtrace run -o trace.json -- PROG ARGS...",
        )
    first = first_process(rows)
    return Baseline(
        programs=[_ran(p) for p in first],
        machine=report.machine,
        page_size=report.page_size,
        redacted=report.recording.redacted,
        log=any(p.assumed for p in rows),
        metrics={m.name: worst(first, m) for m in _held(first)},
        tree={m.name: total(rows, m)[0] for m in _held(rows) if m.summed},
    )


def untold(baseline: Baseline) -> str:
    """What it does not hold, because a program or a process does not tell it; "" if nothing."""
    names = [name for name, value in baseline.metrics.items() if value is None]
    sums = sum(v is None and name not in names for name, v in baseline.tree.items())
    return ", ".join(names + [f"{plural(sums, 'sum')} over all processes"] * bool(sums))


def _ran(p: ProcessRow) -> Ran:
    environment = p.environment
    return Ran(
        program=p.program,
        exe=p.exe.rpartition("/")[2],
        argv=list(p.argv),
        abi=p.begun.abi,
        allocator=p.allocator.label,
        environment=None if environment is None else {
            name: value
            for name, value in environment.items()
            if name in SETTINGS or name.startswith("MALLOC_")
        },
        threads="thread-stack" in p.kinds or bool(p.arenas),
    )  # fmt: skip


def _held(rows: Iterable[ProcessRow]) -> Iterator[Metric]:
    """Every metric of these that a baseline holds."""
    for name in sorted({name for p in rows for name in p.metrics}):
        metric = find(name)
        if metric is not None and metric.cost:
            yield metric


def compare(
    report: Report,
    old: Baseline,
    limits: Sequence[Limit],
    tolerance: Tolerance,
    place: tuple[str, Mapping[tuple[str, str], int]],
) -> list[Verdict]:
    """Each number of the baseline, and what it is now.

    Args:
        report: of the later run.
        old: the baseline.
        limits: a budget; its tolerances count for these metrics.
        tolerance: for the others; sizes may always differ by `FLOOR`.
        place: the baseline's file, and the line of each metric in it.
    """
    rows = list(report.processes)
    first = first_process(rows)
    own = {(x.scope, x.metric.name): x for x in limits}
    found = []
    for scope, part, values, of in (
        (FIRST, "metrics", old.metrics, first), (TREE, "tree", old.tree, rows),
    ):  # fmt: skip
        current = {m.name for m in _held(of)}
        names = [*values, *sorted(n for n in current if n.startswith("calls.") and n not in values)]
        for metric in map(find, names if values else ()):
            if metric is None or not metric.cost:
                continue
            line = place[1].get((part, metric.name), 0)
            was = values.get(metric.name, None if old.log else 0)
            if was is None or (
                scope == TREE and len(rows) == 1 and was == old.metrics.get(metric.name)
            ):
                continue  # not known then; or the same number once more
            x = _limit(metric, scope, was, own.get((scope, metric.name)), tolerance, (
                place[0], line
            ))  # fmt: skip
            now, who = total(of, metric) if scope == TREE else _worst(of, metric, x)
            found.append(verdict(x, now, (), who, baseline=was))
    return found


def _worst(first: Sequence[ProcessRow], metric: Metric, x: Limit) -> tuple[Number | None, str]:
    """The largest of the first process's programs, and which has it, if it has been several."""
    values = each(first, metric)
    most, gap = largest(values), unknown(values)
    over = x.highest is not None and most.value is not None and most.value > x.highest
    told = most if over or gap is None else gap
    return told.value, "" if told.of is None else name_within(told.of, first)


def _limit(
    metric: Metric, scope: str, most: Number, own: Limit | None, tolerance: Tolerance,
    place: tuple[str, int],
) -> Limit:  # fmt: skip
    """A baseline's number as a limit."""
    allowed, gate = tolerance, not metric.advisory
    if metric.unit == "bytes" and allowed.of(most) < FLOOR:
        allowed = Tolerance(absolute=FLOOR)
    if metric.name == "maps.peak" and allowed.of(most) < _LINES:
        allowed = Tolerance(absolute=_LINES)
    if own is not None:
        gate = own.gate
        allowed = allowed if own.tolerance is None else own.tolerance
    return Limit(
        key=metric.name, metric=metric, max=most, min=None, tolerance=allowed, gate=gate,
        scope=scope, glob="", file=place[0], line=place[1],
    )  # fmt: skip
