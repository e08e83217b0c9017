# SPDX-License-Identifier: GPL-2.0-or-later
"""A baseline: the numbers of an earlier run, which a later one is not to exceed.

It is a trace, or the small file that `--update-baseline` writes, one metric a line so that a change
of it can be reviewed. Only numbers of which more is worse are held against it (`Metric.cost`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from shlex import quote

import msgspec

from memtrace.check.budget import FIRST, MOST, TREE, Limit, Number, Tolerance
from memtrace.check.judge import Verdict, measured, verdict
from memtrace.report.lines import clean
from memtrace.report.metrics import Metric, find
from memtrace.report.model import ProcessRow, Report
from memtrace.trace.errors import UsageError

FORMAT = "memtrace-baseline/1"
#: A size may always differ by this much, whatever its tolerance: 4 KiB more on 12 are no 33 %.
FLOOR = 16 << 10
#: Variables that set how malloc works, beside MALLOC_*.
SETTINGS = ("GLIBC_TUNABLES", "LD_PRELOAD", "PYTHONMALLOC")


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one run, and what they depend on.

    Attributes:
        program: the first process's name.
        allocator: its malloc and that's version, `glibc 2.36`.
        environment: the variables that set how malloc works; None: not known.
        page_size: in bytes.
        metrics: of the first process.
        tree: sums over all processes, if there are several.
    """

    format: str = FORMAT
    program: str
    allocator: str
    environment: dict[str, str] | None
    page_size: int
    metrics: dict[str, int | float]
    tree: dict[str, int | float] = {}


def of_report(report: Report) -> Baseline:
    """What a report says, as a baseline.

    Raises:
        UsageError: it has no process.
    """
    rows = list(report.processes)
    if not rows:
        raise UsageError(
            "the trace holds no process, so it is no baseline",
            hint="memtrace run -o trace.json -- PROG ARGS...",
        )
    first = rows[0]
    return Baseline(
        program=first.program,
        allocator=first.allocator.label,
        environment=_settings(first.environment),
        page_size=report.page_size,
        metrics=_held(first.metrics.items()),
        tree=_held(_sums(rows)) if len(rows) > 1 else {},
    )


def _settings(environment: Mapping[str, str] | None) -> dict[str, str] | None:
    if environment is None:
        return None
    return {
        name: value
        for name, value in environment.items()
        if name in SETTINGS or name.startswith("MALLOC_")
    }


def _held(metrics: Iterable[tuple[str, Number]]) -> dict[str, Number]:
    found = ((name, value, find(name)) for name, value in metrics)
    return {n: v for n, v, metric in found if metric is not None and metric.cost}


def _sums(rows: Sequence[ProcessRow]) -> Iterable[tuple[str, Number]]:
    for name in sorted({name for p in rows for name in p.metrics}):
        metric = find(name)
        values = [None if metric is None else measured(p, metric) for p in rows]
        known = [v for v in values if v is not None]
        if metric is not None and metric.summed and len(known) == len(values):
            yield name, sum(known)


def encode(baseline: Baseline) -> str:
    """The file's text."""
    return json.dumps(msgspec.to_builtins(baseline), indent=2, ensure_ascii=True) + "\n"


def decode(data: bytes, shown: str) -> tuple[Baseline, dict[tuple[str, str], int]]:
    """A file's baseline, and the line of each of its metrics, by (`metrics` or `tree`, name).

    Args:
        data: what `looks_like` takes.
        shown: the file's name in messages.

    Raises:
        UsageError: it is of another format, or damaged.
    """
    hint = f"memtrace check trace.json --update-baseline {quote(shown)}"
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as e:
        raise UsageError(f"{shown} is no baseline: {e}", hint=hint) from None
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        known = f"its format is {found!r}" if isinstance(found, str) else "it has no format"
        raise UsageError(f"{shown} is no baseline: {known}, not {FORMAT!r}", hint=hint)
    try:
        baseline = msgspec.convert(value, Baseline)
    except msgspec.ValidationError as e:
        raise UsageError(f"{shown} is a damaged baseline: {e}", hint=hint) from None
    for name, number in (*baseline.metrics.items(), *baseline.tree.items()):
        if find(name) is None or not 0 <= number <= MOST:
            raise UsageError(f"{shown} is a damaged baseline: {clean(name)} = {number}", hint=hint)
    if not baseline.metrics:
        raise UsageError(f"{shown} holds no number, so every trace would pass", hint=hint)
    lines: dict[tuple[str, str], int] = {}
    part = ""
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        key = line.strip().partition(":")[0].strip('"')
        if key in ("metrics", "tree"):
            part = key
        elif part:
            lines.setdefault((part, key), number)
    return baseline, lines


def looks_like(head: bytes) -> bool:
    """Whether a file that begins like this is an object, as a baseline is and a trace is not."""
    return head.lstrip().startswith(b"{")


def differences(old: Baseline, new: Baseline) -> list[str]:
    """What makes the numbers of both incomparable, one sentence each."""
    found = []
    if old.program != new.program:
        found.append(f"the program is {clean(new.program)}, and was {clean(old.program)}")
    if old.allocator != new.allocator:
        found.append(f"malloc is {clean(new.allocator)}'s, and was {clean(old.allocator)}'s")
    if old.page_size != new.page_size:
        found.append(f"a page has {new.page_size} bytes, and had {old.page_size}")
    if old.environment is None or new.environment is None:
        if old.environment is not new.environment:
            which = "now" if new.environment is None else "then"
            found.append(f"the environment is not known of {which}")
        return found
    for name in sorted(old.environment.keys() | new.environment.keys()):
        before, now = old.environment.get(name), new.environment.get(name)
        if before != now:
            found.append(f"{name} is {_shown(now)}, and was {_shown(before)}")
    return found


def _shown(value: str | None) -> str:
    return "not set" if value is None else f"'{clean(value)}'"


def compare(
    report: Report,
    old: Baseline,
    limits: Sequence[Limit],
    tolerance: float,
    place: tuple[str, Mapping[tuple[str, str], int]],
) -> list[Verdict]:
    """Each number of the baseline, and what it is now.

    Args:
        report: of the later run.
        old: the baseline.
        limits: a budget; its tolerances count for these metrics.
        tolerance: for the others, as a fraction.
        place: the baseline's file, and the line of each metric in it.
    """
    rows = list(report.processes)
    first, now = rows[0].metrics if rows else {}, dict(_sums(rows))
    own = {(x.scope, x.metric.name): x for x in limits}
    found = []
    for scope, part, values, current in (
        (FIRST, "metrics", old.metrics, first),
        (TREE, "tree", old.tree, now),
    ):
        names = [*values, *(n for n in current if n.startswith("calls.") and n not in values)]
        for name in names if values else ():
            metric = find(name)
            if metric is None or not metric.cost:
                continue
            x = _limit(metric, scope, values.get(name, 0), own.get((scope, name)), tolerance, (
                place[0], place[1].get((part, name), 0)
            ))  # fmt: skip
            value = current.get(name, 0 if name.startswith("calls.") else None)
            found.append(verdict(x, value, (), baseline=values.get(name, 0)))
    return found


def _limit(
    metric: Metric, scope: str, most: Number, own: Limit | None, tolerance: float,
    place: tuple[str, int],
) -> Limit:  # fmt: skip
    """A baseline's number as a limit."""
    allowed = Tolerance(relative=tolerance)
    gate = not metric.advisory
    if own is not None:
        gate = own.gate
        if own.tolerance != Tolerance():
            allowed = own.tolerance
    if metric.unit == "bytes" and allowed.of(most) < FLOOR:
        allowed = Tolerance(absolute=FLOOR)
    return Limit(
        key=metric.name, metric=metric, max=most, min=None, tolerance=allowed, gate=gate,
        scope=scope, glob="", file=place[0], line=place[1],
    )  # fmt: skip
