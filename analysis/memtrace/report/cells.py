# SPDX-License-Identifier: GPL-2.0-or-later
"""The words and numbers of a comparison, the same in text and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from memtrace.report import words
from memtrace.report.compared import Change, Number, Pair, Setting, Stand
from memtrace.report.lines import clean, fit
from memtrace.trace.sizes import format_size

_STANDS = 6
#: Columns of one value of a setting.
_VALUE = 160
_AROUND = 24


def both(pair: Pair) -> str:
    """Which program it is, or which two."""
    if pair.by == "first":
        return f"{pair.was} and {pair.name}, different programs"
    if pair.by == "order":
        return f"{pair.was} and {pair.name}, paired by order"
    return pair.name


def pids(pair: Pair) -> str:
    """Their numbers."""
    same = pair.before == pair.after
    return f"pid {pair.before}" if same else f"pid {pair.before} and {pair.after}"


def apart(s: Setting) -> tuple[str, str]:
    """Both values of a setting, cleaned; of long ones what is around the difference.

    >>> apart(Setting("x", None, ""))
    ('not set', "''")
    """
    before, after = _value(s.before), _value(s.after)
    if s.before is None or s.after is None or max(len(before), len(after)) <= _VALUE:
        return fit(before, _VALUE), fit(after, _VALUE)
    start = max(_alike(before, after) - _AROUND, 0)
    end = max(_alike(before[start:][::-1], after[start:][::-1]) - _AROUND, 0)
    return _part(before, start, end), _part(after, start, end)


def _alike(one: str, two: str) -> int:
    """How many characters both begin with."""
    for n, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            return n
    return min(len(one), len(two))


def _part(text: str, start: int, end: int) -> str:
    cut = ("…" if start else "") + text[start : len(text) - end] + ("…" if end else "")
    return fit(cut, _VALUE)


def _value(value: str | None) -> str:
    return "not set" if value is None else clean(value) or "''"


def row(x: Change) -> tuple[str, str, str, str, str]:
    """A number's name, what it was and is, the change, and how large that is."""
    name = f"{x.group} {x.name}" + (" (advisory)" if x.advisory else "")
    change = relative = ""
    if x.before is not None and x.after is not None:
        if x.comparable:
            delta = x.after - x.before
            change = ("+" if delta > 0 else "") + _number(delta, x.unit)
            relative = percent(x.before, x.after)
        else:
            change = "not comparable"
    before, after = (
        ("≥ " if least else "") + _number(n, x.unit)
        for n, least in zip((x.before, x.after), x.least, strict=True)
    )
    return name, before, after, change, relative


def _number(n: Number | None, unit: str) -> str:
    if n is None:
        return "unknown"
    return format_size(round(n)) if unit == "bytes" else f"{n:,}"


def percent(before: Number, after: Number) -> str:
    """The change in words; nothing where there was nothing, or where it rounds to what it is not.

    >>> percent(100, 88), percent(100, 300), percent(1000, 1001), percent(65530, 23)
    ('-12%', 'x3.0', '', '')
    """
    if not before or not after:
        return ""
    if after >= 2 * before:
        return f"x{after / before:.1f}"
    rounded = round(100 * (after - before) / before)
    return "" if rounded == 0 or abs(rounded) == 100 else f"{rounded:+d}%"


def threshold(pair: Pair) -> tuple[str, str] | None:
    """How the threshold moved in each; None where it is the same."""
    one, two = pair.threshold
    if [(s.low, s.high, s.cause) for s in one] == [(s.low, s.high, s.cause) for s in two]:
        return None
    first, second = (
        (_since(limits) if any(s.low is not None for s in stands) else "") + _stands(stands)
        for limits, stands in zip(pair.limits, (one, two), strict=True)
    )
    return first, second


def _since(limits: Sequence[str]) -> str:
    if "attached" in limits:
        return "since the attach: "
    return "as far as recorded: " if {"cut", "gaps"} & set(limits) else ""


def _stands(stands: Sequence[Stand]) -> str:
    shown = list(stands[:_STANDS])
    text = ", ".join(_stand(s) for s in shown) or "not glibc's: there is none"
    more = len(stands) - len(shown)
    return text + (f", and {more:,} more moves to {_bounds(stands[-1])}" if more > 0 else "")


def _stand(s: Stand) -> str:
    return _bounds(s) if s.seq is None else f"#{s.seq} {_bounds(s)} ({s.cause})"


def _bounds(s: Stand) -> str:
    return words.interval(s.low, s.high)
