# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of two traces as text in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from memtrace.report import words
from memtrace.report.comparison import Change, Comparison, Number, Pair, Setting, Stand, Told
from memtrace.report.lines import clean, fit, paragraph, plural, table
from memtrace.trace.sizes import format_size

_WIDTH = 80
#: Pairs of processes that are shown.
SHOWN = 3
_STANDS = 6


def render(c: Comparison, names: tuple[str, str]) -> str:
    """The whole text, a newline at its end.

    Args:
        c: the comparison.
        names: of the earlier trace and the later.
    """
    lines = [f"before   {fit(names[0], 70)}", f"after    {fit(names[1], 70)}", ""]
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
        mark = "" if trusted else "NOT to be trusted: "
        lines += paragraph(mark + text, _WIDTH, f"trust {name:<7}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _settings(title: str, found: Sequence[Setting]) -> list[str]:
    if not found:
        return []
    out = [title]
    for s in found:
        out += paragraph(f"{setting(s.before)}  to  {setting(s.after)}", _WIDTH, f"  {s.name}  ")
    return [*out, ""]


def setting(value: str | None) -> str:
    """The value of a setting."""
    return "not set" if value is None else clean(value) or "''"


def _pair(pair: Pair) -> list[str]:
    same = pair.before == pair.after
    who = f"pid {pair.before}" if same else f"pid {pair.before} and {pair.after}"
    out = [f"{fit(pair.name, 50)}   {who}", ""]
    out += _settings("differs by how it was started", pair.settings)
    rows = [("", "before", "after", "change", "")]
    for group, every in groupby(pair.changes, key=lambda x: x.group):
        changed = [x for x in every if x.before != x.after]
        rows += [row(group, x) for x in changed]
    if len(rows) > 1:
        out += [*(fit(x, _WIDTH) for x in table(rows, "<>>>>")), ""]
    else:
        out += ["  no number differs", ""]
    out += _threshold(pair)
    for word, found in (("appeared", pair.appeared), ("went", pair.went)):
        out += _findings(word, found)
    note = logged(pair)
    return [*out, *paragraph(note, _WIDTH, "  "), ""] if note else out


def logged(pair: Pair) -> str:
    """What to think of findings where one side alone is an imported log's; else nothing."""
    if pair.logged[0] == pair.logged[1] or not (pair.appeared or pair.went):
        return ""
    word = "before" if pair.logged[0] else "after"
    return (
        f"{word} is an imported log, without callers and chunk headers: a finding that it does not "
        f"have may hold of it all the same"
    )


def row(group: str, x: Change) -> tuple[str, str, str, str, str]:
    """A number's name, what it was and is, the change, and how large that is."""
    name = f"{group} {x.name}" + (" (advisory)" if x.advisory else "")
    change = relative = ""
    if x.before is not None and x.after is not None:
        delta = x.after - x.before
        change = ("+" if delta > 0 else "") + _number(delta, x.unit)
        relative = _relative(x.before, x.after)
    return name, _number(x.before, x.unit), _number(x.after, x.unit), change, relative


def _number(n: Number | None, unit: str) -> str:
    if n is None:
        return "unknown"
    return format_size(round(n)) if unit == "bytes" else f"{n:,}"


def _relative(before: Number, after: Number) -> str:
    """`-12%`, `x3.0`; nothing where there was nothing."""
    if not before or not after:
        return ""
    if after >= 2 * before:
        return f"x{after / before:.1f}"
    return f"{(after - before) / before:+.0%}"


def _threshold(pair: Pair) -> list[str]:
    told = threshold(pair)
    if told is None:
        return []
    out = ["mmap threshold"]
    for word, text in zip(("before", "after"), told, strict=True):
        out += paragraph(text, _WIDTH, f"  {word:<7}")
    return [*out, ""]


def threshold(pair: Pair) -> tuple[str, str] | None:
    """How the threshold moved in each; None where it is the same."""
    one, two = pair.threshold
    if [(s.low, s.high, s.cause) for s in one] == [(s.low, s.high, s.cause) for s in two]:
        return None
    return _stands(one), _stands(two)


def _stands(stands: Sequence[Stand]) -> str:
    shown = list(stands[:_STANDS])
    text = ", ".join(_stand(s) for s in shown) or "not glibc's: there is none"
    more = len(stands) - len(shown)
    return text + (f", and {more:,} more moves to {_bounds(stands[-1])}" if more > 0 else "")


def _stand(s: Stand) -> str:
    return _bounds(s) if s.seq is None else f"#{s.seq} {_bounds(s)} ({s.cause})"


def _bounds(s: Stand) -> str:
    return words.interval(s.low, s.high)


def _findings(word: str, found: Sequence[Told]) -> list[str]:
    out = []
    for x in found:
        out += paragraph(x.title, _WIDTH, f"  {word:<9}{x.rule}  {x.severity:<8} ")
    return [*out, ""] if out else []
