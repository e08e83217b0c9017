# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of two traces as Markdown; what `markdown` says of names holds here, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memtrace.report.comparison import Comparison, Pair, Setting
from memtrace.report.lines import fit, plural
from memtrace.report.markdown import table, text
from memtrace.report.versus_words import SHOWN, logged, row, setting, threshold

_NAME = 80


def render(c: Comparison, names: tuple[str, str]) -> str:
    """The comparison as Markdown that ends with a newline.

    Args:
        c: the comparison.
        names: of the earlier trace and the later.
    """
    before, after = (text(fit(name, _NAME)) for name in names)
    lines = [f"## memtrace diff: {before} to {after}", ""]
    lines += _settings("Differs before anything ran", c.settings)
    if not c.pairs:
        lines += ["No process of one is in the other.", ""]
    for pair in c.pairs[:SHOWN]:
        lines += _pair(pair)
    if len(c.pairs) > SHOWN:
        lines += [f"And {plural(len(c.pairs) - SHOWN, 'more pair')} of processes.", ""]
    lines += _alone("before", c.only_before) + _alone("after", c.only_after)
    for word, trust, trusted in zip(("before", "after"), c.trust, c.trusted, strict=True):
        mark = "" if trusted else "**not to be trusted**: "
        lines.append(f"- Trust {word}: {mark}{text(trust)}")
    return "\n".join(lines) + "\n"


def _settings(title: str, found: Sequence[Setting]) -> list[str]:
    if not found:
        return []
    rows = [(text(s.name), text(setting(s.before)), text(setting(s.after))) for s in found]
    return [f"{title}:", "", *table(("setting", "before", "after"), rows)]


def _alone(word: str, only: Mapping[str, int]) -> list[str]:
    if not only:
        return []
    every = ", ".join(f"{text(name)} ({n})" if n > 1 else text(name) for name, n in only.items())
    return [f"Only {word}: {every}", ""]


def _pair(pair: Pair) -> list[str]:
    pids = f"{pair.before}" if pair.before == pair.after else f"{pair.before} and {pair.after}"
    out = [f"### {text(fit(pair.name, _NAME))} (pid {pids})", ""]
    out += _settings("Differs by how it was started", pair.settings)
    cells = [row(x.group, x) for x in pair.changes if x.before != x.after]
    rows = [(text(name), *numbers) for name, *numbers in cells]
    if rows:
        out += table(("", "before", "after", "change", "relative"), rows)
    else:
        out += ["No number differs.", ""]
    told = threshold(pair)
    if told is not None:
        out += [
            "mmap threshold:",
            "",
            f"- before: {text(told[0])}",
            f"- after: {text(told[1])}",
            "",
        ]
    findings = [
        f"- {word} **{x.rule}** {x.severity}: {text(x.title)}"
        for word, found in (("appeared", pair.appeared), ("went", pair.went))
        for x in found
    ]
    note = logged(pair)
    out += [*findings, ""] if findings else []
    return [*out, f"{note[:1].upper()}{note[1:]}.", ""] if note else out
