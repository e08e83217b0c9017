# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: a metric of one address space, of a process over all its execs, of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memtrace.check.amounts import Number
from memtrace.report.lines import clean
from memtrace.report.metrics import Metric
from memtrace.report.model import ProcessRow
from memtrace.trace.sizes import plural

#: Number of an absent metric of which the report knows that nothing of the kind ever was.
_NONE = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric's value, None if the trace does not tell it, and the address space that has it, or
    that does not tell it; no address space: it is a sum, or there was none.
    """

    value: Number | None
    of: ProcessRow | None = None


def first_process(rows: Sequence[ProcessRow]) -> list[ProcessRow]:
    """The address spaces of the process that the trace begins with, one for each program that it
    has been: `env`, a shell or the interpreter of a script is the first of several.
    """
    found: list[ProcessRow] = []
    for p in rows:
        if found and p.pid != found[0].pid:
            continue
        if found and p.inherited:  # its number was given to a later process
            break
        found.append(p)
    return found


def measured(p: ProcessRow, metric: Metric) -> Number | None:
    """A metric of an address space; None: the trace does not tell it."""
    found = p.metrics.get(metric.name)
    if found is None and metric.name.startswith("calls."):
        # Every call that was made is counted under its name; a log may have left some out.
        return None if p.assumed else _NONE
    return found


def each(spaces: Sequence[ProcessRow], metric: Metric) -> list[Measured]:
    """A metric of each."""
    return [Measured(measured(p, metric), p) for p in spaces]


def largest(values: Sequence[Measured]) -> Measured:
    """The largest that is known, the first of equal ones."""
    known = [m for m in values if m.value is not None]
    return max(known, key=lambda m: m.value or 0, default=Measured(None))


def unknown(values: Sequence[Measured]) -> Measured | None:
    """The first that is not known; None: all are."""
    return next((m for m in values if m.value is None), None)


def worst(spaces: Sequence[ProcessRow], metric: Metric) -> Number | None:
    """The largest of all; None if one is not known."""
    values = each(spaces, metric)
    return None if unknown(values) else largest(values).value


def total(rows: Sequence[ProcessRow], metric: Metric) -> tuple[Number | None, str]:
    """The sum over all, and which processes leave it unknown."""
    values = each(rows, metric)
    missing = [m.of for m in values if m.value is None and m.of is not None]
    if missing or not values:
        more = plural(len(missing) - 1, "other") if len(missing) > 1 else ""
        return None, f"{name_of(missing[0])}{more and ' and ' + more}" if missing else ""
    return sum(m.value or 0 for m in values), ""


def name_within(p: ProcessRow, spaces: Sequence[ProcessRow]) -> str:
    """One of the programs that a process has been: `words`; "" if it has been no other."""
    if len(spaces) == 1:
        return ""
    alike = [q.mm for q in spaces if q.program == p.program]
    which = f" ({alike.index(p.mm) + 1} of {len(alike)})" if len(alike) > 1 else ""
    return clean(p.program) + which


def name_of(p: ProcessRow) -> str:
    """A process for people: `gcc (pid 12)`."""
    return f"{clean(p.program)} (pid {p.pid})"
