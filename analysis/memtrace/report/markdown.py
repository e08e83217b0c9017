# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as Markdown: for a comment, an issue or a job's summary.

Nothing of the trace is markup in it: names are escaped, and mentions broken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memtrace.report import words
from memtrace.report.lines import fit, plural
from memtrace.report.model import ProcessRow, Report
from memtrace.trace.sizes import format_size

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")
_DETAILED = 3
_EVIDENCE = 8
_ENTRY = 80


def text(value: str) -> str:
    r"""Text that stays what it is, in one line: no markup, no HTML, no mention.

    >>> print(text("a|b <c>"))
    a\|b \<c\>
    """
    return _SPECIAL.sub(r"\\\1", fit(value, 2000)).replace("@", "@\u200b")


def render(report: Report) -> str:
    """The report as Markdown that ends with a newline."""
    rows = list(report.processes)
    largest = sorted(rows, key=lambda p: (-p.own_bytes, p.born_seq))[:_DETAILED]
    argv = " ".join(report.argv) or "no program"
    lines = [f"## memtrace: {text(fit(argv, _ENTRY))}", ""]
    if not rows:
        lines += ["This trace holds no process.", ""]
    for p in sorted(largest, key=lambda p: p.born_seq):
        lines += _process(p, named=len(rows) > 1)
    if len(rows) > len(largest):
        lines += [
            f"And {plural(len(rows) - len(largest), 'smaller process', 'smaller processes')}.",
            "",
        ]
    lines += [f"Trust: {text(report.trust)}"]
    lines += [f"- {text(problem)}" for problem in report.problems[:3]]
    return "\n".join(lines) + "\n"


def _process(p: ProcessRow, *, named: bool) -> list[str]:
    out = []
    if named:
        out += [f"### {text(fit(words.command(p), _ENTRY))} (pid {p.pid})", ""]
    out += [f"malloc: {text(p.allocator.label)}; {text(words.ending(p))}", ""]
    if p.findings:
        for x in p.findings:
            seqs = ", ".join(f"record {seq}" for seq in x.evidence[:_EVIDENCE])
            where = f" ({seqs})" if seqs else ""
            out.append(f"- **{x.rule}** {x.severity}: {text(x.message)}{where}")
            if x.remedy:
                out.append(f"  - try: {text(x.remedy)}")
        out.append("")
    out += _kinds(p)
    if p.calls:
        out += table(
            ("call", "count", "failed"),
            [(text(n), f"{c.count:,}", f"{c.failed:,}") for n, c in p.calls_by_count()],
        )
    return out


def _kinds(p: ProcessRow) -> list[str]:
    rows = [
        (text(n), f"{k.count:,}", format_size(k.peak_bytes), format_size(k.final_bytes))
        for n, k in p.kinds_by_size()
    ]
    return table(("kind", "regions", "peak", "at the end"), rows) if rows else []


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, its first column words, the others numbers; an empty line after it."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]
