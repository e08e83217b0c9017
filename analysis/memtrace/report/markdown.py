# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as Markdown: for a comment, an issue or a job's summary.

Nothing of the trace is markup in it: names are escaped, mentions broken, and words that GitHub or
GitLab would make links, signs or formulas of stand in code spans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memtrace.report import words
from memtrace.report.lines import fit, plural
from memtrace.report.model import ProcessRow, Report
from memtrace.trace.sizes import format_size

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")
#: Addresses, issues and commits, emoji, formulas: what links or changes though it is escaped.
_LIVE = re.compile(
    r"://|www\.|mailto:|xmpp:|[#!%&~]\d|\bGH-\d|\b[0-9a-f]{7,40}\b|:[\w+-]+:|\$", re.IGNORECASE
)
_FORMULA = re.compile(r"(?<=\$)(?=`)|(?<=`)(?=\$)")
_DETAILED = 3
_EVIDENCE = 8
_ENTRY = 80


def text(value: str) -> str:
    r"""Text that stays what it is, in one line: no markup, no HTML, no mention.

    >>> print(text("a|b <c>"))
    a\|b \<c\>
    """
    return " ".join(_word(word) for word in fit(value, 2000).split(" "))


def _word(word: str) -> str:
    core = word.rstrip(",.;")
    if _LIVE.search(core) is None:
        return _escaped(word)
    end = _escaped(word[len(core) :])
    # A dollar sign beside a backtick begins or ends a formula, in a code span, too.
    core = _FORMULA.sub("\u200b", core)
    # A bar in a code span would end a table's cell, or show its backslash elsewhere.
    return r"\|".join(part and code(part) for part in core.split("|")) + end


def _escaped(value: str) -> str:
    return _SPECIAL.sub(r"\\\1", value).replace("@", "@\u200b")


def code(value: str) -> str:
    """Text of one line as a code span, whatever backticks are in it.

    >>> print(code("a`b"), code("`"), code("$x$"))
    ``a`b`` `` ` `` ` $x$ `
    """
    longest = max((len(run) for run in re.findall("`+", value)), default=0)
    fence = "`" * (longest + 1)
    # A space is taken off again; a dollar sign beside the fence would begin a formula.
    space = " " if value.strip() and (value[:1] in "`$ " or value[-1:] in "`$ ") else ""
    return f"{fence}{space}{value}{space}{fence}"


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> list[str]:
    """A table, its first columns words, the others numbers; an empty line after it.

    Args:
        head: the heads of the columns.
        rows: cells.
        words: how many columns hold words.
    """
    numbers = len(head) - words
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * words + " ---: |" * numbers]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]
