# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of two traces as text in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from memtrace.report import palette
from memtrace.report.comparison import Comparison, Pair, Setting, Told
from memtrace.report.lines import clean, fit, paragraph, plural
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
from memtrace.report.versus_words import SHOWN, logged, row, setting, threshold

_WIDTH = 80


def render(c: Comparison, names: tuple[str, str], *, color: bool = False) -> str:
    """The whole text, a newline at its end.

    Args:
        c: the comparison.
        names: of the earlier trace and the later.
        color: use ANSI colours.
    """
    lines: list[Block] = [f"before   {fit(names[0], 70)}", f"after    {fit(names[1], 70)}", ""]
    lines += _settings("differs before anything ran", c.settings)
    if not c.pairs:
        lines += ["no process of one is in the other", ""]
    for pair in c.pairs[:SHOWN]:
        lines += _pair(pair)
    if len(c.pairs) > SHOWN:
        lines += [f"and {plural(len(c.pairs) - SHOWN, 'more pair')} of processes", ""]
    for word, only in (("before", c.only_before), ("after", c.only_after)):
        if only:
            text = ", ".join(f"{clean(n)} ({k})" if k > 1 else clean(n) for n, k in only.items())
            lines += [*paragraph(text, _WIDTH, f"only {word}:  "), ""]
    for name, text, trusted in zip(("before", "after"), c.trust, c.trusted, strict=True):
        label, mark = f"trust {name:<7}", "" if trusted else "NOT to be trusted"
        said = paragraph(f"{mark}: {text}" if mark else text, _WIDTH, label)
        lines += marked(said, BAD, len(label), len(label) + len(mark))
    return written(lines, color=color)


def _settings(title: str, found: Sequence[Setting]) -> list[Block]:
    if not found:
        return []
    out: list[Block] = [heading(title, "", _WIDTH)]
    for s in found:
        out += paragraph(f"{setting(s.before)}  to  {setting(s.after)}", _WIDTH, f"  {s.name}  ")
    return [*out, ""]


def _pair(pair: Pair) -> list[Block]:
    same = pair.before == pair.after
    who = f"pid {pair.before}" if same else f"pid {pair.before} and {pair.after}"
    name = fit(pair.name, 50)
    out = [*marked([f"{name}   {who}"], BOLD, 0, len(name)), ""]
    out += _settings("differs by how it was started", pair.settings)
    rows: list[tuple[Cell, ...]] = [("", "before", "after", "change", "")]
    for group, every in groupby(pair.changes, key=lambda x: x.group):
        for x in every:
            if x.before != x.after:
                name, *numbers = row(group, x)
                rows.append(((name, palette.terminal(group)), *numbers))
    if len(rows) > 1:
        out += [grid(rows, "<>>>>", _WIDTH), ""]
    else:
        out += ["  no number differs", ""]
    out += _threshold(pair)
    for word, found in (("appeared", pair.appeared), ("went", pair.went)):
        out += _findings(word, found)
    note = logged(pair)
    return [*out, *paragraphs([note], _WIDTH), ""] if note else out


def _threshold(pair: Pair) -> list[Block]:
    told = threshold(pair)
    if told is None:
        return []
    out: list[Block] = [heading("mmap threshold", "", _WIDTH)]
    for word, text in zip(("before", "after"), told, strict=True):
        out += paragraph(text, _WIDTH, f"  {word:<7}")
    return [*out, ""]


def _findings(word: str, found: Sequence[Told]) -> list[Block]:
    out: list[Block] = []
    for x in found:
        label = f"  {word:<9}{x.rule}  "
        lines = paragraph(x.title, _WIDTH, f"{label}{x.severity:<8} ")
        out += marked(lines, severity(x.severity), len(label), len(label) + len(x.severity))
    return [*out, ""] if out else []
