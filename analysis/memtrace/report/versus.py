# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of two traces as text in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from memtrace.report import palette
from memtrace.report.cells import apart, both, pids, row, threshold
from memtrace.report.chosen import changed, chosen, rest
from memtrace.report.compared import Comparison, Pair, Setting
from memtrace.report.lines import clean, fit, fit_end, paragraph
from memtrace.report.terminal.blocks import (
    BAD,
    BOLD,
    Block,
    Cell,
    grid,
    heading,
    marked,
    paragraphs,
    severity,
    written,
)

_WIDTH = 80
_MESSAGE = 400


def render(c: Comparison, names: tuple[str, str], *, color: bool = False) -> str:
    """The whole text, a newline at its end.

    Args:
        c: the comparison.
        names: of the earlier trace and the later.
        color: use ANSI colours.
    """
    lines: list[Block] = [
        f"before   {fit_end(names[0], 70)}",
        f"after    {fit_end(names[1], 70)}",
        "",
    ]
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
    while lines and lines[-1] == "":
        lines.pop()
    return written(lines, color=color)


def _trust(c: Comparison, *, trusted: bool) -> list[Block]:
    """The sentences on those that can be trusted, or on the others, which come first."""
    out: list[Block] = []
    for name, text, whether in zip(("before", "after"), c.trust, c.trusted, strict=True):
        if whether == trusted:
            label, mark = f"trust {name:<7}", "" if trusted else "NOT to be trusted"
            said = paragraph(f"{mark}: {text}" if mark else text, _WIDTH, label)
            out += marked(said, BAD, len(label), len(label) + len(mark))
    return [*out, ""] if out else []


def _alone(c: Comparison, word: str, only: Mapping[str, int]) -> list[Block]:
    if not only:
        return []
    text = ", ".join(f"{clean(n)} ({k})" if k > 1 else clean(n) for n, k in only.items())
    out: list[Block] = [*paragraph(text, _WIDTH, f"only {word}:  "), ""]
    for p in c.alone:
        if p.side == word:
            out += [f"  {fit(p.name, 50)}   pid {p.pid}"]
            for x in p.findings:
                out += _finding(f"    {x.rule}  ", x.severity, x.title)
            out.append("")
    return out


def _settings(title: str, found: Sequence[Setting]) -> list[Block]:
    if not found:
        return []
    out: list[Block] = [heading(title, "", _WIDTH)]
    for s in found:
        before, after = apart(s)
        out += paragraph(f"{before}  to  {after}", _WIDTH, f"  {s.name}  ")
    return [*out, ""]


def _head(pair: Pair) -> list[Block]:
    name = fit(both(pair), 50)
    out = [*marked([f"{name}   {pids(pair)}"], BOLD, 0, len(name)), ""]
    for note in pair.notes:
        out += [*paragraphs([note], _WIDTH), ""]
    return out


def _pair(pair: Pair) -> list[Block]:
    out = _head(pair)
    out += _settings("differs by how it was started", pair.settings)
    rows: list[tuple[Cell, ...]] = [("", "before", "after", "change", "")]
    for x in pair.changes:
        if changed(x):
            name, *numbers = row(x)
            rows.append(((name, palette.terminal(x.group)), *numbers))
    if len(rows) > 1:
        out += [grid(rows, "<>>>>", _WIDTH), ""]
    else:
        out += ["  no number differs", ""]
    return [*out, *_threshold(pair), *_found(pair)]


def _threshold(pair: Pair) -> list[Block]:
    told = threshold(pair)
    if told is None:
        return []
    out: list[Block] = [heading("mmap threshold", "", _WIDTH)]
    for word, text in zip(("before", "after"), told, strict=True):
        out += paragraph(text, _WIDTH, f"  {word:<7}")
    return [*out, ""]


def _found(pair: Pair) -> list[Block]:
    out: list[Block] = []
    for word, found in (("appeared", pair.appeared), ("went", pair.went)):
        out += _block(
            line for x in found for line in _finding(f"  {word:<9}{x.rule}  ", x.severity, x.title)
        )
    for t in pair.changed:
        before, after = t.severities
        told = after if before == after else f"{before} to {after}"
        lines = _finding(f"  {'changed':<9}{t.rule}  ", told, t.titles[1], style=severity(after))
        for word, text in zip(("before", "after"), t.messages, strict=True):
            lines += paragraph(fit(text, _MESSAGE), _WIDTH, f"           {word:<7}")
        out += _block(lines)
    for why, every in groupby(pair.unseen, key=lambda x: x.why):
        lines = paragraphs([f"findings that are not comparable ({', '.join(why)})"], _WIDTH)
        for x in every:
            lines += _finding(f"  {x.side:<9}{x.rule}  ", x.severity, x.title)
        out += _block(lines)
    return out


def _finding(label: str, told: str, title: str, *, style: str | None = None) -> list[Block]:
    """A finding's line, the word on its severity in colour."""
    lines = paragraph(title, _WIDTH, f"{label}{told:<8} ")
    return marked(lines, style or severity(told), len(label), len(label) + len(told))


def _block(lines: Iterable[Block]) -> list[Block]:
    out = list(lines)
    return [*out, ""] if out else []
