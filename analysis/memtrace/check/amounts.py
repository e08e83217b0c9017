# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers, sizes and tolerances as a budget writes them: whole numbers, and exact fractions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from memtrace.report.metrics import Metric
from memtrace.trace.errors import UsageError
from memtrace.trace.sizes import parse_size

Number = int | float

#: Nothing that is counted is more; and a tolerance of more than this many times is a mistake.
MOST, _TIMES = 2**64, 1_000

_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", re.ASCII)
_COUNT = re.compile(r"\s*-?[0-9]+\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By how much a limit may be passed: a fraction of it, and as much again in its unit."""

    relative: Fraction = Fraction(0)
    absolute: int = 0

    def of(self, limit: Number) -> Fraction:
        """In the limit's unit."""
        return abs(Fraction(limit)) * self.relative + self.absolute


def parse_tolerance(value: object, metric: Metric, key: str, at: str) -> Tolerance:
    """`"5%"` of the limit, or a number in the metric's unit.

    Raises:
        UsageError: it is neither, or below 0.
    """
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return Tolerance(relative=parse_percent(value, at))
    return Tolerance(absolute=parse_number(value, metric, key, at, word="tolerance = "))


def parse_percent(text: str, at: str) -> Fraction:
    """`5%` as a twentieth.

    Raises:
        UsageError: it is no percentage, or below 0.
    """
    found = _PERCENT.fullmatch(text)
    percent = Fraction(-1) if found is None or len(text) > _TIMES else Fraction(found[1])
    if not 0 <= percent <= _TIMES * 100:
        raise UsageError(f"{at}: {text!r} is no percentage", hint='write it as "5%"')
    return percent / 100


def parse_number(value: object, metric: Metric, key: str, at: str, word: str = "") -> int:
    """In the metric's unit.

    Args:
        value: what the budget says.
        metric: of which.
        key: as the budget spells it.
        at: where it stands.
        word: what of a limit it is, for the messages.

    Raises:
        UsageError: it is no number of the kind that the metric has.
    """
    if isinstance(value, str):
        return _with_unit(value, metric, key, at, word)
    hint = f"{key} = {example(metric)}"
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        raise UsageError(f"{at}: {key} is limited by a number, not {value!r}", hint=hint)
    if value < 0:
        raise UsageError(
            f"{at}: {key} is never below 0, so {value} limits nothing that can be", hint=hint
        )
    if value > MOST:
        raise UsageError(
            f"{at}: {key} is never above 2**64, so this limits nothing that can be", hint=hint
        )
    if value != int(value):
        what = "bytes" if metric.unit == "bytes" else "a count"
        near = 'a share is a text: tolerance = "5%"' if word else hint
        raise UsageError(f"{at}: {word}{value}: {key} is {what}, a whole number", hint=near)
    return int(value)


def _with_unit(text: str, metric: Metric, key: str, at: str, word: str) -> int:
    if metric.unit == "bytes":
        try:
            return parse_number(parse_size(text), metric, key, at, word)
        except ValueError:
            raise UsageError(
                f"{at}: {text!r} is no size",
                hint=f"{key} = {example(metric)}   (B, KiB, MiB, GiB)",
            ) from None
    if _COUNT.fullmatch(text) is None or len(text) > _TIMES:
        raise UsageError(
            f"{at}: {key} is a count and has no unit, but {text!r} was given",
            hint=f"{key} = {example(metric)}",
        )
    return parse_number(int(text), metric, key, at, word)


def example(metric: Metric) -> str:
    """A limit as one could write it."""
    return '"2 MiB"' if metric.unit == "bytes" else "10"
