# SPDX-License-Identifier: GPL-2.0-or-later
"""What `memtrace check --baseline FILE` reads, a trace or a baseline, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from memtrace.trace.errors import TraceFormatError, UsageError

if TYPE_CHECKING:
    from memtrace.check.amounts import Tolerance
    from memtrace.check.baseline import Baseline
    from memtrace.check.budget import Limit
    from memtrace.check.judge import Verdict
    from memtrace.report.model import Report

_HEAD = 64
#: What to think of counts that went up, of a program whose threads race.
THREADS = (
    "the program has threads, so its counts of calls, arenas and churn differ from run to run: "
    'give each a tolerance in the budget, as in calls.munmap = { tolerance = "30%" }'
)


@dataclass(frozen=True, slots=True)
class Loose:
    """What is let pass: `force`, that the runs are of different programs or settings, and
    `incomplete`, what is not to be trusted.
    """

    force: bool
    incomplete: bool


def against(
    report: Report,
    trace: str,
    path: str,
    limits: list[Limit],
    tolerance: Tolerance,
    loose: Loose,
) -> tuple[list[Verdict], list[str]]:
    """What became of a baseline's numbers, and what makes them hard to compare.

    Raises:
        TraceFormatError: the baseline is a trace that cannot be trusted.
        UsageError: it is missing, damaged, or one of something else.
    """
    from memtrace.check.baseline import compare, of_report, untold
    from memtrace.check.comparable import differences

    old, lines, doubt = _read(trace, path)
    if doubt and not (loose.force or loose.incomplete):
        raise TraceFormatError(
            f"the baseline {path} is not to be trusted: {doubt}",
            hint=f"memtrace verify {quote(path)}",
        )
    new = of_report(report)
    apart = differences(old, new)
    if apart and not loose.force:
        raise UsageError(
            f"{path} is no baseline of this trace: {'; '.join(apart)}",
            hint=f"memtrace check {quote(trace)} --baseline {quote(path)} --force",
        )
    notes = [f"the baseline is not to be trusted: {doubt}"] if doubt else []
    found = compare(report, old, limits, tolerance, (path, lines))
    notes += apart
    if missing := untold(old):
        notes.append(f"the baseline does not tell: {missing}")
    counts = any(v.ok is False and v.limit.metric.unit == "count" for v in found)
    if counts and any(p.threads for p in (*old.programs, *new.programs)):
        notes.append(THREADS)
    return found, notes


def _read(trace: str, path: str) -> tuple[Baseline, dict[tuple[str, str], int], str]:
    """The baseline, the lines of its numbers, and why it is not to be trusted."""
    from memtrace.check.baseline import of_report
    from memtrace.check.stored import decode, looks_like
    from memtrace.report.build import read

    try:
        with open(path, "rb") as f:
            stored = looks_like(f.read(_HEAD))
        data = Path(path).read_bytes() if stored else b""
    except OSError as e:
        raise UsageError(
            f"cannot read the baseline {path}: {(e.strerror or str(e)).lower()}",
            hint=f"memtrace check {quote(trace)} --update-baseline {quote(path)}",
        ) from None
    if stored:
        return *decode(data, path), ""
    try:
        earlier = read(path)
    except TraceFormatError as e:
        raise UsageError(
            f"{path} is neither a baseline nor a trace: {e.message}",
            hint=f"memtrace check {quote(trace)} --update-baseline {quote(path)}",
        ) from e
    return of_report(earlier), {}, "" if earlier.exactness == "exact" else earlier.trust
