# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of two traces as Markdown; what `markdown` says of names holds here, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memtrace.report.cells import apart, both, pids, row, threshold
from memtrace.report.chosen import changed, chosen, rest
from memtrace.report.compared import Comparison, Pair, Setting
from memtrace.report.lines import fit
from memtrace.report.markdown import table, text

_NAME = 80
_MESSAGE = 400


def render(c: Comparison, names: tuple[str, str]) -> str:
    """The comparison as Markdown that ends with a newline.

    Args:
        c: the comparison.
        names: of the earlier trace and the later.
    """
    before, after = (text(fit(name, _NAME)) for name in names)
    lines = [f"## memtrace diff: {before} to {after}", ""]
    for note in c.notes:
        lines += [f"{_sentence(note)}", ""]
    lines += _trust(c, trusted=False)
    lines += _settings("Differs by how it was recorded", c.recorded)
    lines += _settings("Differs before anything ran", c.settings)
    if not c.pairs:
        lines += ["No process of one is in the other.", ""]
    shown = chosen(c.pairs)
    for pair in shown.full:
        lines += _pair(pair)
    for pair in shown.findings:
        lines += [*_head(pair), *_found(pair)]
    for sentence in rest(shown):
        lines += [_sentence(sentence), ""]
    lines += _alone(c, "before", c.only_before) + _alone(c, "after", c.only_after)
    lines += _trust(c, trusted=True)
    while not lines[-1]:
        lines.pop()
    return "\n".join(lines) + "\n"


def _sentence(value: str) -> str:
    return f"{text(value[:1].upper() + value[1:])}."


def _trust(c: Comparison, *, trusted: bool) -> list[str]:
    out = []
    for word, trust, whether in zip(("before", "after"), c.trust, c.trusted, strict=True):
        if whether == trusted:
            mark = "" if trusted else "**not to be trusted**: "
            out.append(f"- Trust {word}: {mark}{text(trust)}")
    return [*out, ""] if out else []


def _settings(title: str, found: Sequence[Setting]) -> list[str]:
    if not found:
        return []
    rows = [(text(s.name), *(text(value) for value in apart(s))) for s in found]
    return [f"{title}:", "", *table(("setting", "before", "after"), rows, words=3)]


def _alone(c: Comparison, word: str, only: Mapping[str, int]) -> list[str]:
    if not only:
        return []
    every = ", ".join(f"{text(name)} ({n})" if n > 1 else text(name) for name, n in only.items())
    found = [
        f"- {text(fit(p.name, _NAME))} (pid {p.pid}) **{x.rule}** {x.severity}: {text(x.title)}"
        for p in c.alone
        if p.side == word
        for x in p.findings
    ]
    return [f"Only {word}: {every}", "", *found, *([""] if found else [])]


def _head(pair: Pair) -> list[str]:
    out = [f"### {text(fit(both(pair), _NAME))} ({pids(pair)})", ""]
    for note in pair.notes:
        out += [_sentence(note), ""]
    return out


def _pair(pair: Pair) -> list[str]:
    out = _head(pair)
    out += _settings("Differs by how it was started", pair.settings)
    cells = [row(x) for x in pair.changes if changed(x)]
    rows = [(text(name), *numbers) for name, *numbers in cells]
    if rows:
        out += table(("", "before", "after", "change", "relative"), rows)
    else:
        out += ["No number differs.", ""]
    told = threshold(pair)
    if told is not None:
        out += ["mmap threshold:", "", f"- before: {text(told[0])}", f"- after: {text(told[1])}"]
        out.append("")
    return [*out, *_found(pair)]


def _found(pair: Pair) -> list[str]:
    out = [
        f"- {word} **{x.rule}** {x.severity}: {text(x.title)}"
        for word, found in (("appeared", pair.appeared), ("went", pair.went))
        for x in found
    ]
    for t in pair.changed:
        before, after = t.severities
        severity = after if before == after else f"{before} to {after}"
        out.append(f"- changed **{t.rule}** {severity}: {text(t.titles[1])}")
        for word, message in zip(("before", "after"), t.messages, strict=True):
            out.append(f"  - {word}: {text(fit(message, _MESSAGE))}")
    out += [
        f"- not comparable ({', '.join(x.why)}), {x.side} **{x.rule}** {x.severity}: "
        f"{text(x.title)}"
        for x in pair.unseen
    ]
    return [*out, ""] if out else []
