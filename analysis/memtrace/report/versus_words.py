# SPDX-License-Identifier: GPL-2.0-or-later
"""What the comparison of two traces says of a number, a setting, the threshold: in every format."""

from __future__ import annotations

from collections.abc import Sequence

from memtrace.report import words
from memtrace.report.comparison import Change, Number, Pair, Stand
from memtrace.report.lines import clean
from memtrace.trace.sizes import format_size

#: Pairs of processes that are shown.
SHOWN = 3
_STANDS = 6


def setting(value: str | None) -> str:
    """The value of a setting."""
    return "not set" if value is None else clean(value) or "''"


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
