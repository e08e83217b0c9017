# SPDX-License-Identifier: GPL-2.0-or-later
"""The details of one process, section by section."""

from __future__ import annotations

from rich.text import Text

from memtrace.malloc.series import Series
from memtrace.report import palette, words
from memtrace.report.chart import chart
from memtrace.report.lines import columns, fit, paragraph
from memtrace.report.model import ProcessRow, Report
from memtrace.report.terminal import arenas, heap, inside, regions, threshold
from memtrace.report.terminal.blocks import (
    BOLD,
    Block,
    Cell,
    extent,
    grid,
    heading,
    marked,
    severity,
)
from memtrace.trace.sizes import format_size

_EVIDENCE = 8


#: In place of a chart that takes more time than all else.
UNDRAWN = "memtrace report TRACE --chart draws it, in one more reading"


def details(
    report: Report, p: ProcessRow, series: Series | None, width: int, *, undrawn: bool = False
) -> list[Block]:
    """All that is shown of a process.

    Args:
        report: it is of.
        p: the process.
        series: of its address space; None: there is no chart.
        width: columns.
        undrawn: say that a chart could be had.
    """
    clock = report.trace.clock
    out: list[Block] = []
    if len(report.processes) > 1:
        title = f"── process {p.pid}, born #{p.born_seq} "
        name = fit(words.command(p), width - columns(title) - 4)
        line = f"{title}{name} "
        out += [Text(line + "─" * max(width - columns(line), 0), BOLD), ""]
    return [
        *out,
        *_findings(p, width),
        *_kinds(p, width),
        *_chart(series, clock, width, undrawn=undrawn),
        *heap.section(p, clock, report.page_size, width),
        *inside.section(p, width),
        *threshold.section(p, width),
        *regions.section(p, width),
        *arenas.section(p, width),
        *_calls(p, width),
    ]


def _findings(p: ProcessRow, width: int) -> list[Block]:
    if not p.findings:
        return []
    note = f"what each means: memtrace explain {p.findings[0].rule}"
    out: list[Block] = [heading("findings", note, width)]
    for x in p.findings:
        label = f"  {x.rule}  "
        lines = paragraph(x.message, width, f"{label}{x.severity:<7}  ", " " * 9)
        end = len(label) + len(x.severity)
        out += marked(lines, severity(x.severity), len(label), end)
        if x.evidence:
            shown = " ".join(f"#{seq}" for seq in x.evidence[:_EVIDENCE])
            more = len(x.evidence) - _EVIDENCE
            shown += f" and {more} more" if more > 0 else ""
            out += paragraph(shown, width, " " * 9 + "evidence  ", " " * 19)
        out += paragraph(x.remedy, width, " " * 9 + "try       ", " " * 19)
    return [*out, ""]


def _kinds(p: ProcessRow, width: int) -> list[Block]:
    """The table; where its last column has no room for the words on each kind they follow it, and
    where the sizes have none, counts and then peaks are left out: never a part of a number.
    """
    if not p.kinds:
        return []
    end = words.last(p)
    # Memory that may not be accessed is address space only: worth a column where there is some.
    apart = any(k.committed_bytes not in (None, k.final_bytes) for k in p.kinds.values())
    read = any(k.resident_bytes is not None for k in p.kinds.values())
    committed, resident = ["committed"] if apart else [], ["resident"] if read else []
    rows: list[tuple[Cell, ...]] = [
        ("kind", "count", "peak", end, *committed, *resident, "what it is")
    ]
    for name, k in p.kinds_by_size():
        sizes = [k.committed_bytes] * apart + [k.resident_bytes] * read
        rows.append((
            (name, palette.terminal(name)), f"{k.count:,}", format_size(k.peak_bytes),
            format_size(k.final_bytes),
            *("unknown" if n is None else format_size(n) for n in sizes),
            words.gloss(p, name),
        ))  # fmt: skip
    note = {
        (False, False): "count: regions ever; peak: the most at one time",
        (True, False): "peak: the most at one time; committed: may be accessed",
        (False, True): f"peak: the most at one time; resident: in memory {end}",
        (True, True): f"committed: may be accessed; resident: in memory {end}",
    }[apart, read]
    head = heading("memory by kind", note, width)
    align = "<" + ">" * (len(rows[0]) - 2) + "<"
    table = grid(rows, align)
    if extent(table) <= width:
        return [head, table, ""]
    glosses = "; ".join(f"{row[0][0]}: {row[-1]}" for row in rows[1:] if row[-1])
    for without in ((), (1,), (1, 2)):
        table = grid(
            [[c for i, c in enumerate(row[:-1]) if i not in without] for row in rows],
            align[: -1 - len(without)],
        )
        if extent(table) <= width:
            break
    return [head, table, *paragraph(glosses, width, "  "), ""]


def _chart(series: Series | None, clock: str, width: int, *, undrawn: bool) -> list[Block]:
    if undrawn:
        return [heading("malloc over time", UNDRAWN, width), ""]
    if series is None or len(series.moments) <= 1:
        return []
    made = chart(series, clock, width - 4)
    if made is None:
        return []
    legend: list[tuple[str, str] | str] = []
    for kind, sign, name in made.layers:
        legend += [", " if legend else "   ", (f"{sign} {name}", palette.terminal(kind))]
    lines = (
        Text.assemble("  ", *((text, palette.terminal(kind)) for kind, text in spans))
        for spans in made.lines
    )
    return [Text.assemble(("malloc over time", BOLD), *legend), *lines, ""]


def _calls(p: ProcessRow, width: int) -> list[Block]:
    if not p.calls:
        return []
    rows = [("call", "count", "failed")]
    rows += [
        (fit(n, 30), f"{c.count:,}", f"{c.failed:,}" if c.failed else "")
        for n, c in p.calls_by_count()
    ]
    total = p.calls_total
    failed = sum(c.failed for c in p.calls.values())
    rows.append(("total", f"{total:,}", f"{failed:,}" if failed else ""))
    note = "failed: refused by the kernel"
    return [heading("system calls", note, width), grid(rows, "<>>", width), ""]
