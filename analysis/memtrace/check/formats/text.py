# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a check as a table in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memtrace.check.budget import FIRST
from memtrace.check.judge import Verdict, value
from memtrace.check.result import Result, place, word
from memtrace.report.lines import clean, fit, paragraph
from memtrace.report.terminal.blocks import BAD, GOOD, WARN, Block, Cell, grid, marked, written

_WIDTH = 80
_EVIDENCE = 4


def render(r: Result, *, color: bool = False) -> str:
    """The whole text, a newline at its end; `color`: with ANSI colours."""
    rows: list[tuple[Cell, ...]] = [("limit", "measured", "allowed", "", "")]
    rows += [_row(v) for v in r.verdicts]
    lines: list[Block] = [fit(f"{r.trace}: {r.program}", _WIDTH)]
    lines += [grid(rows, "<>><<", _WIDTH)] if r.verdicts else []
    for text in _whose(r.verdicts):
        lines += paragraph(text, _WIDTH, "  ", "    ")
    label = "  trust  " if r.trusted else "  NOT TRUSTED  "
    lines += marked(paragraph(r.trust, _WIDTH, label), "" if r.trusted else BAD, 0, len(label))
    for note in r.notes:
        lines += paragraph(note, _WIDTH, "  note   ")
    where = ", ".join(dict.fromkeys(clean(place(v)) for v in [*r.failed, *r.unknown]))
    lines += paragraph(r.summary + (f"   {where}" if where else ""), _WIDTH, "", "  ")
    return written(lines, color=color)


def _whose(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Which process a number is of, where that is not plain, and what a number leaves out."""
    of: dict[str, list[str]] = {}
    for v in verdicts:
        if v.who and v.limit.scope == FIRST:
            of.setdefault(v.who, []).append(v.limit.name)
        elif v.who and v.ok is not True:
            yield f"{v.limit.name}: {v.who}"
    for who, names in of.items():
        yield f"measured in {who}: {', '.join(names)}"
    for v in verdicts:
        if v.limit.metric.only:
            yield f"{v.limit.name} counts only {v.limit.metric.only}"


def _row(v: Verdict) -> tuple[Cell, ...]:
    allowed = v.bound.replace("at most ", "").replace("at least ", "≥ ")
    style = {True: GOOD, False: BAD if v.limit.gate else WARN, None: WARN}[v.ok]
    return fit(v.limit.name, 34), v.number, allowed, (word(v), style), _more(v)


def _more(v: Verdict) -> str:
    if v.ok is False and v.evidence:
        shown = " ".join(f"#{seq}" for seq in v.evidence[:_EVIDENCE])
        left = len(v.evidence) - _EVIDENCE
        return shown + (f" +{left}" if left > 0 else "")
    if v.baseline is not None:
        same = v.measured == v.baseline
        return "" if same else f"was {value(v.baseline, v.limit.metric)}"
    most = v.limit.max
    if v.ok and most and v.measured is not None and v.limit.min is None:
        return f"{v.measured / most:.0%} used"
    return ""
