# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a check as Markdown: for a job's summary or a comment."""

from __future__ import annotations

from memtrace.check.judge import Verdict
from memtrace.check.result import Result, place, word
from memtrace.report.markdown import text


def render(r: Result) -> str:
    """A heading, a table of all limits, and what to know of the trace."""
    mark = {0: "passed", 1: "over budget"}.get(r.status, "not to be trusted")
    lines = [f"### memtrace: {text(r.program)} {mark}", "", text(r.summary), ""]
    if r.verdicts:
        lines += ["| limit | measured | allowed | | where |", "| --- | ---: | ---: | --- | --- |"]
        lines += [_row(v) for v in r.verdicts]
        lines.append("")
    lines.append(f"Trust: {text(r.trust)}")
    lines += [f"\nNote: {text(note)}" for note in r.notes]
    return "\n".join(lines) + "\n"


def _row(v: Verdict) -> str:
    state = f"**{word(v)}**" if v.fails or v.unknown else word(v)
    records = "".join(f" #{seq}" for seq in v.evidence[:5]) if v.ok is False else ""
    cells = (text(v.title), v.number, v.bound, state, text(place(v) + records))
    return "| " + " | ".join(cells) + " |"
