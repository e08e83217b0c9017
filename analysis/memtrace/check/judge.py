# SPDX-License-Identifier: GPL-2.0-or-later
"""A report held against limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from memtrace.check.amounts import Number
from memtrace.check.budget import FIRST, TREE, Limit
from memtrace.check.evidence import evidence
from memtrace.check.measure import (
    Measured,
    each,
    first_process,
    largest,
    name_of,
    name_within,
    total,
    unknown,
)
from memtrace.report.lines import clean
from memtrace.report.metrics import Metric
from memtrace.report.model import ProcessRow, Report
from memtrace.trace.sizes import format_size


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one limit.

    Attributes:
        limit: the limit.
        measured: the metric's value; None: the trace does not tell it.
        ok: whether the limit is kept; None: not known.
        evidence: records behind the number, at most 20.
        who: the process it is about, `gcc (pid 12)`; of a sum, what leaves it unknown; "" for a
            first process that has been one program only.
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
        """One line: `heap.peak 3.01 MiB, at most 2 MiB`; with what a name does not count."""
        who = f" in {self.who}" if self.who else ""
        before = self.baseline
        then = "" if before is None else f"; {value(before, self.limit.metric)} before"
        return f"{self.limit.name} {self.number}{who}, {self.bound}{then}{self._counted}"

    @property
    def title(self) -> str:
        """What is limited, and of whom: `heap.peak (gcc (pid 12))`."""
        who = f" ({self.who})" if self.who else ""
        return f"{self.limit.name}{who}{self._counted}"

    @property
    def _counted(self) -> str:
        only = self.limit.metric.only
        return f" (counts only {only})" if only else ""

    @property
    def _exact(self) -> bool:
        """Whether three digits would not tell the number from its limit."""
        if self.ok is not False or self.measured is None:
            return False
        x = self.limit
        ends = [e for e in (x.highest, x.lowest) if e is not None]
        return any(abs(self.measured - e) * 100 < self.measured for e in ends)


def judge(report: Report, limits: Sequence[Limit], *, every: bool = False) -> list[Verdict]:
    """What becomes of each limit, in their order; one of `[budget.process]` once for each process
    that it is for, and once as unknown if there is none. Tolerances of a baseline only
    (`Limit.limits`) are left out.

    Args:
        report: of a trace.
        limits: a budget.
        every: hold a limit of no table of its own against every process, not only the first: a
            maximum against each, and a minimum is kept if one reaches it.
    """
    rows = list(report.processes)
    return [v for x in limits if x.limits for v in _verdicts(rows, x, every=every)]


def _verdicts(rows: list[ProcessRow], x: Limit, *, every: bool) -> Iterator[Verdict]:
    if x.scope == TREE:
        number, missing = total(rows, x.metric)
        yield verdict(x, number, (), missing)
    elif x.scope == FIRST:
        values = each(rows if every else first_process(rows), x.metric)
        yield _of_several(x, values, every=every) if values else verdict(x, None, ())
    else:
        matching = [p for p in rows if fnmatchcase(p.program, x.glob)]
        for m in each(matching, x.metric):
            yield _of(x, m, "" if m.of is None else name_of(m.of))
        if not matching:
            yield verdict(x, None, (), f"no process named {clean(x.glob)}")


def _of_several(x: Limit, values: list[Measured], *, every: bool) -> Verdict:
    """One verdict of several address spaces.

    Args:
        x: the limit.
        values: what its maximum is held against; the worst is told.
        every: they are processes, one of which has to reach a minimum, and not the programs that
            one process has been, of which the last has to.
    """
    most, gap = largest(values), unknown(values)
    least, lacks = (most, gap) if every else (values[-1], None)
    spaces = [m.of for m in values if m.of is not None]

    def told(m: Measured) -> Verdict:
        if m.of is None or not every:
            return _of(x, m, "" if m.of is None else name_within(m.of, spaces))
        return _of(x, m, name_of(m.of) if len(values) > 1 else "")

    if x.highest is not None and most.value is not None and most.value > x.highest:
        return told(most)
    if x.lowest is not None and least.value is not None and least.value < x.lowest:
        return told(lacks or least)
    if x.highest is not None:
        return told(gap or most)
    return told(gap if gap is not None and least.of is None else least)


def _of(x: Limit, m: Measured, who: str) -> Verdict:
    """The verdict of one address space."""
    return verdict(x, m.value, () if m.of is None else evidence(x.metric, m.of), who)


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
