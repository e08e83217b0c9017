# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as text in 80 columns: how much, is it odd, can I trust it; then the details.

Every number has the number of its record behind it (`#18`; `memtrace events` shows the record).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from memtrace.malloc.series import Series
from memtrace.report import tree, words
from memtrace.report.lines import fit, plural
from memtrace.report.model import ProcessRow, Report
from memtrace.report.terminal.blocks import Block, Cell, extent, grid, heading, paragraphs, written
from memtrace.report.terminal.opening import opening, trust
from memtrace.report.terminal.process import details

_DETAILED = 3

#: The series of address spaces, asked for those that are described; None: it would take long.
Source = Callable[[list[int]], Mapping[int, Series] | None]


def render(
    report: Report, *, series: Source = lambda _: {}, color: bool = False, width: int = 80
) -> str:
    """The report as text that ends with a newline.

    Args:
        report: what `build` made.
        series: of the address spaces that are described; without one there is no chart.
        color: use ANSI colours.
        width: columns; less than 60 is taken as 60, more than 80 as 80.
    """
    return written(_blocks(report, series, min(max(width, 60), 80)), color=color)


def _blocks(report: Report, source: Source, width: int) -> list[Block]:
    if not report.processes:
        return [*_empty(report, width), *trust(report, width)]
    weights, attached = [], None  # each row is made anew when it is asked for: once is enough
    spaces: list[tree.Space] = []
    grave: dict[str, list[tuple[int, int]]] = {}
    for i, p in enumerate(report.processes):
        own = p.own_bytes  # its own memory largest first
        weights.append((-own, p.born_seq, i))
        spaces.append(tree.space(p, own))
        for rule in sorted({x.rule for x in p.findings if x.severity != "info"}):
            grave.setdefault(rule, []).append((p.mm, p.pid))
        if attached is None and p.attached is not None:
            attached = i
    order = [i for _, _, i in sorted(weights)]
    if attached is not None:  # the one that was asked about, however small
        order.remove(attached)
        order.insert(0, attached)
    shown = [report.processes[i] for i in order[:_DETAILED]]
    main, *others = shown  # which the opening is about
    shown = [main, *sorted(others, key=lambda p: p.born_seq)]
    curves = source([p.mm for p in shown])
    elsewhere = {
        rule: pids
        for rule, places in sorted(grave.items())
        if (pids := [pid for mm, pid in places if mm != main.mm])
    }
    out = opening(report, main, elsewhere, width)
    if len(report.processes) > 1:
        out += _processes(spaces, shown, width)
    for p in shown:
        series = None if curves is None else curves.get(p.mm)
        out += details(report, p, series, width, undrawn=curves is None and p is shown[0])
    out.append(heading("what this trace cannot know", "", width))
    return [*out, *paragraphs(words.unseen(shown), width, "  - ")]


def _empty(report: Report, width: int) -> list[Block]:
    command = fit(" ".join(report.argv) or "a trace", width - 2)
    return [command, "", "  nothing was recorded: the trace holds no process", ""]


def _processes(spaces: Sequence[tree.Space], shown: list[ProcessRow], width: int) -> list[Block]:
    rows, hidden = tree.rows(spaces, [p.mm for p in shown])
    cells: list[tuple[Cell, ...]] = [("process", "born", "mapped", "heap", "calls", "end")]
    cells += [r.cells for r in rows]
    room = width - extent(grid(cells, "<>>>><")) - 2
    programs = ["program", *(r.program(room) for r in rows)]
    table = [(*row, program) for row, program in zip(cells, programs, strict=True)]
    note = "who forked whom; → an exec, which begins a new space"
    out: list[Block] = [heading("processes", note, width), grid(table, "<>>>><<", width)]
    if hidden:
        out.append(f"  and {plural(hidden, 'smaller one')}")
    note = "* described below. One process alone: memtrace report TRACE --pid PID"
    return [*out, *paragraphs([note], width), ""]
