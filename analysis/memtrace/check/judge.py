# SPDX-License-Identifier: GPL-2.0-or-later
"""A report held against limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from memtrace.check.budget import FIRST, TREE, Limit, Number
from memtrace.check.evidence import evidence
from memtrace.report.lines import clean
from memtrace.report.metrics import Metric
from memtrace.report.model import ProcessRow, Report
from memtrace.trace.sizes import format_size

#: Number of an absent metric of which the report knows that nothing of the kind ever was.
_NONE = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one limit.

    Attributes:
        limit: the limit.
        measured: the metric's value; None: the trace does not tell it.
        ok: whether the limit is kept; None: not known.
        evidence: records behind the number, at most 20.
        who: the process it is about, `gcc (pid 12)`; "" for the first process or the sum.
        baseline: the number of the baseline that is the limit; None: the limit is a budget's.
    """

    limit: Limit
    measured: Number | None
    ok: bool | None
    evidence: tuple[int, ...] = ()
    who: str = ""
    baseline: Number | None = None

    @property
    def fails(self) -> bool:
        """Over budget, and it counts."""
        return self.ok is False and self.limit.gate

    @property
    def unknown(self) -> bool:
        """Not known, and it counts."""
        return self.ok is None and self.limit.gate

    @property
    def bound(self) -> str:
        """The limit as text, tolerance included; once passed, only the side that was."""
        x, metric = self.limit, self.limit.metric
        most = least = ""
        if x.highest is not None:
            most = f"at most {value(x.highest, metric, self._exact)}"
        if x.lowest is not None:
            least = f"at least {value(x.lowest, metric, self._exact)}"
        if self.ok is False and most and least:
            over = self.measured is not None and x.highest is not None and self.measured > x.highest
            return most if over else least
        return " and ".join(part for part in (least, most) if part)

    @property
    def number(self) -> str:
        """What was measured, as text."""
        if self.measured is None:
            return "unknown"
        return value(self.measured, self.limit.metric, self._exact)

    @property
    def text(self) -> str:
        """One line: `heap.peak 3.01 MiB, at most 2 MiB`."""
        who = f" in {self.who}" if self.who else ""
        before = self.baseline
        then = "" if before is None else f"; {value(before, self.limit.metric)} before"
        return f"{self.limit.name} {self.number}{who}, {self.bound}{then}"

    @property
    def _exact(self) -> bool:
        """Whether three digits would not tell the number from its limit."""
        if self.ok is not False or self.measured is None:
            return False
        x = self.limit
        ends = [e for e in (x.highest, x.lowest) if e is not None]
        return any(abs(self.measured - e) * 100 < self.measured for e in ends)


def judge(report: Report, limits: Sequence[Limit]) -> list[Verdict]:
    """What becomes of each limit, in their order; one of `[budget.process]` once for each process
    that it is for, and once as unknown if there is none. Tolerances of a baseline only
    (`Limit.max` and `min` None) are left out.
    """
    rows = list(report.processes)
    found: list[Verdict] = []
    for x in limits:
        if x.max is not None or x.min is not None:
            found += _verdicts(rows, x)
    return found


def _verdicts(rows: list[ProcessRow], x: Limit) -> Iterator[Verdict]:
    if x.scope == TREE:
        values = [measured(p, x.metric) for p in rows]
        known = [v for v in values if v is not None]
        total = sum(known) if len(known) == len(values) and values else None
        yield verdict(x, total, ())
    elif x.scope == FIRST:
        first = rows[0] if rows else None
        if first is None:
            yield verdict(x, None, ())
        else:
            yield verdict(x, measured(first, x.metric), evidence(x.metric, first))
    else:
        matching = [p for p in rows if fnmatchcase(p.program, x.glob)]
        for p in matching:
            who = f"{clean(p.program)} (pid {p.pid})"
            yield verdict(x, measured(p, x.metric), evidence(x.metric, p), who)
        if not matching:
            yield verdict(x, None, (), f"no process named {x.glob}")


def measured(p: ProcessRow, metric: Metric) -> Number | None:
    """A metric of a process; None: the trace does not tell it."""
    found = p.metrics.get(metric.name)
    if found is None and metric.name.startswith("calls."):
        # Every call that was made is counted under its name; a log may have left some out.
        return None if p.assumed else _NONE
    return found


def verdict(
    x: Limit,
    number: Number | None,
    seqs: tuple[int, ...],
    who: str = "",
    baseline: Number | None = None,
) -> Verdict:
    """What becomes of a limit when its metric is `number`."""
    if number is None:
        return Verdict(x, None, None, (), who, baseline)
    over = x.highest is not None and number > x.highest
    under = x.lowest is not None and number < x.lowest
    return Verdict(x, number, not (over or under), seqs, who, baseline)


def value(n: Number, metric: Metric, exact: bool = False) -> str:  # noqa: FBT001, FBT002 - of a text
    """A number in the metric's unit, as people read it; `exact`: every byte."""
    if metric.unit == "bytes":
        return f"{round(n):,} B" if exact else format_size(round(n))
    return f"{n:,}" if isinstance(n, int) else f"{n:,.{12 if exact else 4}g}"
