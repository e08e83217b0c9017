# SPDX-License-Identifier: GPL-2.0-or-later
"""A budget: limits of metrics, as a TOML table or a test's marker states them.

One metric a line, a number or a size with a unit as its maximum, or a table with any of `max`,
`min`, `tolerance` and `gate`:

    heap.peak = "2 MiB"
    "calls.mmap" = { max = 40, tolerance = 2 }

at the top of the table for the first process, under `tree` for the sum over all, under
`process."glob"` for each process whose program's name matches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from memtrace.check.where import Where
from memtrace.report.metrics import Metric, find, nearest
from memtrace.trace.errors import UsageError
from memtrace.trace.sizes import parse_size

FIRST, TREE, PROCESS = "first", "tree", "process"
_KEYS = ("max", "min", "tolerance", "gate")

#: Nothing that is counted is more; and a tolerance of more than this many times is a mistake.
MOST, _TIMES = 2**64, 1_000

Number = int | float


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By how much a limit may be passed: a fraction of it, and as much again in its unit."""

    relative: float = 0.0
    absolute: Number = 0

    def of(self, limit: Number) -> Number:
        """In the limit's unit."""
        return abs(limit) * self.relative + self.absolute


@dataclass(frozen=True, slots=True)
class Limit:
    """What one line of a budget allows.

    Attributes:
        key: the metric as the budget spells it.
        metric: what it limits.
        max, min: in the metric's unit, both ends allowed; None: no such limit.
        tolerance: by how much either may be passed, and a baseline's number.
        gate: whether it fails a check; False: it only informs.
        scope: `first`, `tree` or `process`; `glob` of the program's name for the last.
        file, line: where it stands; line 0: in no file.
    """

    key: str
    metric: Metric
    max: Number | None
    min: Number | None
    tolerance: Tolerance
    gate: bool
    scope: str
    glob: str
    file: str
    line: int

    @property
    def highest(self) -> Number | None:
        """The most that is allowed, tolerance included; a whole number."""
        return None if self.max is None else math.floor(self.max + self.tolerance.of(self.max))

    @property
    def lowest(self) -> Number | None:
        """The least, likewise."""
        return None if self.min is None else math.ceil(self.min - self.tolerance.of(self.min))

    @property
    def name(self) -> str:
        """As people name it: `heap.peak`, `tree heap.peak`, `process "gcc*" heap.peak`."""
        before = {FIRST: "", TREE: "tree "}.get(self.scope, f'process "{self.glob}" ')
        return before + self.metric.name.removesuffix("_bytes")


def parse_table(table: Mapping[str, object], where: Where) -> list[Limit]:
    """The limits of a budget, in its order.

    Args:
        table: the `[budget]` table.
        where: its place.

    Raises:
        UsageError: a metric or unit that there is not, a limit that nothing can meet, or one given
            twice; the message names file and line.
    """
    limits = sorted(_scopes(table, where), key=lambda x: x.line)
    seen: dict[tuple[str, str, str], Limit] = {}
    for x in limits:
        before = seen.setdefault((x.scope, x.glob, x.metric.name), x)
        if before is not x:
            spelled = f"{before.key} and {x.key} are" if before.key != x.key else f"{x.key} is"
            raise UsageError(
                f"{_place(x)}: {spelled} the same metric, limited twice", hint="keep one of both"
            )
    return limits


def _place(x: Limit) -> str:
    return f"{x.file}:{x.line}" if x.line else x.file


def _scopes(table: Mapping[str, object], where: Where) -> Iterator[Limit]:
    for key, value in table.items():
        if key == TREE:
            yield from _limits(_table(value, (key,), where), where, (key,), (TREE, ""))
        elif key == PROCESS:
            for glob, below in _table(value, (key,), where).items():
                path = (key, glob)
                yield from _limits(_table(below, path, where), where, path, (PROCESS, glob))
        else:
            yield from _limits({key: value}, where, (), (FIRST, ""))


def _table(value: object, path: tuple[str, ...], where: Where) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{where.text(path)}: {'.'.join(path)} is a table of limits, not {value!r}",
            hint='[budget.tree] or [budget.process."gcc*"], and limits below it',
        )
    return value


def _limits(
    table: Mapping[str, object], where: Where, path: tuple[str, ...], scope: tuple[str, str],
    name: tuple[str, ...] = (),
) -> Iterator[Limit]:  # fmt: skip
    for key, value in table.items():
        here, metric = (*path, key), (*name, key)
        if isinstance(value, Mapping) and not _is_limit(value, ".".join(metric)):
            yield from _limits(value, where, here, scope, metric)
        else:
            yield _limit(".".join(metric), value, where, here, scope)


def _is_limit(value: Mapping[str, object], name: str) -> bool:
    """Whether a table says what a metric may be, rather than continuing its name."""
    return find(name) is not None or bool(value.keys() & set(_KEYS)) or not value


def _limit(
    key: str, value: object, where: Where, path: tuple[str, ...], scope: tuple[str, str]
) -> Limit:
    at = where.text(path)
    metric = find(key)
    if metric is None:
        near = nearest(key)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else "memtrace report trace.json --format json, its metrics"
        )
        raise UsageError(f"{at}: there is no metric {key!r}", hint=hint)
    if scope[0] == TREE and not metric.summed:
        raise UsageError(
            f"{at}: the sum of {key} over processes means nothing",
            hint=f"limit it for one process: [budget] or [budget.process.GLOB], {key} = ...",
        )
    said = value if isinstance(value, Mapping) else {"max": value}
    for word in said:
        if word not in _KEYS:
            raise UsageError(
                f"{at}: a limit has no {word!r}", hint=f'{key} = {{ max = 1, tolerance = "5%" }}'
            )
    if not said.keys() & {"max", "min", "tolerance"}:
        raise UsageError(f"{at}: {key} has no limit", hint=f"{key} = {{ max = 1 }}")
    most = None if "max" not in said else _number(said["max"], metric, key, at)
    least = None if "min" not in said else _number(said["min"], metric, key, at)
    gate = said.get("gate", not metric.advisory)
    if not isinstance(gate, bool):
        raise UsageError(f"{at}: gate is true or false, not {gate!r}", hint="gate = true")
    if most is not None and least is not None and least > most:
        raise UsageError(
            f"{at}: {key} cannot be {said['min']} or more and {said['max']} or less",
            hint=f"{key} = {{ min = {_toml(said['max'])}, max = {_toml(said['min'])} }}",
        )
    return Limit(
        key=key, metric=metric, max=most, min=least,
        tolerance=parse_tolerance(said.get("tolerance", 0), metric, key, at),
        gate=gate, scope=scope[0], glob=scope[1], file=where.file, line=where.line(path),
    )  # fmt: skip


def parse_tolerance(value: object, metric: Metric, key: str, at: str) -> Tolerance:
    """`"5%"` of the limit, or a number in the metric's unit.

    Raises:
        UsageError: it is neither, or below 0.
    """
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return Tolerance(relative=parse_percent(value, at))
    return Tolerance(absolute=_number(value, metric, key, at))


def parse_percent(text: str, at: str) -> float:
    """`5%` as 0.05.

    Raises:
        UsageError: it is no percentage, or below 0.
    """
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not text.strip().endswith("%") or not 0 <= percent <= _TIMES * 100:
        raise UsageError(f"{at}: {text!r} is no percentage", hint='write it as "5%"')
    return percent / 100


def _number(value: object, metric: Metric, key: str, at: str) -> Number:
    """In the metric's unit."""
    if isinstance(value, str):
        return _with_unit(value, metric, key, at)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        raise UsageError(
            f"{at}: {key} is limited by a number, not {value!r}", hint=f"{key} = {_example(metric)}"
        )
    if value < 0:
        raise UsageError(
            f"{at}: {key} is never below 0, so {value} limits nothing that can be",
            hint=f"{key} = {_example(metric)}",
        )
    if value > MOST:
        raise UsageError(
            f"{at}: {key} is never above 2**64, so this limits nothing that can be",
            hint=f"{key} = {_example(metric)}",
        )
    return value


def _with_unit(text: str, metric: Metric, key: str, at: str) -> Number:
    if metric.unit == "bytes":
        try:
            return _number(parse_size(text), metric, key, at)
        except ValueError:
            raise UsageError(
                f"{at}: {text!r} is no size",
                hint=f"{key} = {_example(metric)}   (B, KiB, MiB, GiB)",
            ) from None
    try:
        return _number(int(text), metric, key, at)
    except ValueError:
        raise UsageError(
            f"{at}: {key} is a count and has no unit, but {text!r} was given",
            hint=f"{key} = {_example(metric)}",
        ) from None


def _example(metric: Metric) -> str:
    return '"2 MiB"' if metric.unit == "bytes" else "10"


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
