# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of two traces as text in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from memtrace.report.cells import apart, heading, pids, row, threshold
from memtrace.report.chosen import changed, chosen, rest
from memtrace.report.compared import Comparison, Pair, Setting
from memtrace.report.lines import clean, fit, fit_end, paragraph, table

_WIDTH = 80
_MESSAGE = 400


def render(c: Comparison, names: tuple[str, str]) -> str:
    """The whole text, a newline at its end.

    Args:
        c: the comparison.
        names: of the earlier trace and the later.
    """
    lines = [f"before   {fit_end(names[0], 70)}", f"after    {fit_end(names[1], 70)}", ""]
    for note in c.notes:
        lines += [*paragraph(note, _WIDTH), ""]
    lines += _trust(c, trusted=False)
    lines += _settings("differs by how it was recorded", c.recorded)
    lines += _settings("differs before anything ran", c.settings)
    if not c.pairs:
        lines += ["no process of one is in the other", ""]
    shown = chosen(c.pairs)
    for pair in shown.full:
        lines += _pair(pair)
    for pair in shown.findings:
        lines += [*_head(pair), *_found(pair)]
    for text in rest(shown):
        lines += [*paragraph(text, _WIDTH), ""]
    lines += _alone(c, "before", c.only_before) + _alone(c, "after", c.only_after)
    lines += _trust(c, trusted=True)
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _trust(c: Comparison, *, trusted: bool) -> list[str]:
    """The sentences on those that can be trusted, or on the others, which come first."""
    out = []
    for name, text, whether in zip(("before", "after"), c.trust, c.trusted, strict=True):
        if whether == trusted:
            mark = "" if trusted else "NOT to be trusted: "
            out += paragraph(mark + text, _WIDTH, f"trust {name:<7}")
    return [*out, ""] if out else []


def _alone(c: Comparison, word: str, only: Mapping[str, int]) -> list[str]:
    if not only:
        return []
    text = ", ".join(f"{clean(n)} ({k})" if k > 1 else clean(n) for n, k in only.items())
    out = [*paragraph(text, _WIDTH, f"only {word}:  "), ""]
    for p in c.alone:
        if p.side == word:
            out += [f"  {fit(p.name, 50)}   pid {p.pid}"]
            for x in p.findings:
                out += paragraph(x.title, _WIDTH, f"    {x.rule}  {x.severity:<8} ")
            out.append("")
    return out


def _settings(title: str, found: Sequence[Setting]) -> list[str]:
    if not found:
        return []
    out = [title]
    for s in found:
        before, after = apart(s)
        out += paragraph(f"{before}  to  {after}", _WIDTH, f"  {s.name}  ")
    return [*out, ""]


def _head(pair: Pair) -> list[str]:
    out = [f"{fit(heading(pair), 50)}   {pids(pair)}", ""]
    for note in pair.notes:
        out += [*paragraph(note, _WIDTH, "  "), ""]
    return out


def _pair(pair: Pair) -> list[str]:
    out = _head(pair)
    out += _settings("differs by how it was started", pair.settings)
    rows = [("", "before", "after", "change", "")]
    for _, every in groupby(pair.changes, key=lambda x: x.group):
        rows += [row(x) for x in every if changed(x)]
    if len(rows) > 1:
        out += [*(fit(x, _WIDTH) for x in table(rows, "<>>>>")), ""]
    else:
        out += ["  no number differs", ""]
    return [*out, *_threshold(pair), *_found(pair)]


def _threshold(pair: Pair) -> list[str]:
    told = threshold(pair)
    if told is None:
        return []
    out = ["mmap threshold"]
    for word, text in zip(("before", "after"), told, strict=True):
        out += paragraph(text, _WIDTH, f"  {word:<7}")
    return [*out, ""]


def _found(pair: Pair) -> list[str]:
    out: list[str] = []
    for word, found in (("appeared", pair.appeared), ("went", pair.went)):
        out += _block(
            line
            for x in found
            for line in paragraph(x.title, _WIDTH, f"  {word:<9}{x.rule}  {x.severity:<8} ")
        )
    for t in pair.changed:
        before, after = t.severities
        severity = after if before == after else f"{before} to {after}"
        lines = paragraph(t.titles[1], _WIDTH, f"  {'changed':<9}{t.rule}  {severity:<8} ")
        for word, text in zip(("before", "after"), t.messages, strict=True):
            lines += paragraph(fit(text, _MESSAGE), _WIDTH, f"           {word:<7}")
        out += _block(lines)
    for why, every in groupby(pair.unseen, key=lambda x: x.why):
        lines = paragraph(f"findings that are not comparable ({', '.join(why)})", _WIDTH, "  ")
        for x in every:
            lines += paragraph(x.title, _WIDTH, f"  {x.side:<9}{x.rule}  {x.severity:<8} ")
        out += _block(lines)
    return out


def _block(lines: Iterable[str]) -> list[str]:
    out = list(lines)
    return [*out, ""] if out else []
