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
from fractions import Fraction

from memtrace.check.amounts import MOST, Number, Tolerance, example, parse_number, parse_tolerance
from memtrace.check.where import Where
from memtrace.report.lines import clean
from memtrace.report.metrics import Metric, find, nearest
from memtrace.trace.errors import UsageError

FIRST, TREE, PROCESS = "first", "tree", "process"
_KEYS = ("max", "min", "tolerance", "gate")


@dataclass(frozen=True, slots=True)
class Limit:
    """What one line of a budget allows.

    Attributes:
        key: the metric as the budget spells it.
        metric: what it limits.
        max, min: in the metric's unit, both ends allowed; None: no such limit.
        tolerance: by how much either may be passed, and a baseline's number; None: not said.
        gate: whether it fails a check; False: it only informs.
        scope: `first`, `tree` or `process`; `glob` of the program's name for the last.
        file, line: where it stands; line 0: in no file.
    """

    key: str
    metric: Metric
    max: Number | None
    min: Number | None
    tolerance: Tolerance | None
    gate: bool
    scope: str
    glob: str
    file: str
    line: int

    @property
    def highest(self) -> Number | None:
        """The most that is allowed, tolerance included; a whole number."""
        return None if self.max is None else math.floor(self.max + self._slack(self.max))

    @property
    def lowest(self) -> Number | None:
        """The least, likewise."""
        return None if self.min is None else math.ceil(self.min - self._slack(self.min))

    def _slack(self, limit: Number) -> Fraction:
        return (self.tolerance or Tolerance()).of(limit)

    @property
    def limits(self) -> bool:
        """Whether there is anything that can pass it; a tolerance alone is for a baseline."""
        return self.max is not None or self.min is not None

    @property
    def name(self) -> str:
        """As people name it: `heap.peak`, `tree heap.peak`, `process "gcc*" heap.peak`."""
        before = {FIRST: "", TREE: "tree "}.get(self.scope, f'process "{clean(self.glob)}" ')
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
    return f"{clean(x.file)}:{x.line}" if x.line else clean(x.file)


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
            f"{where.text(path)}: {_dotted(path)} is a table of limits, not {value!r}",
            hint='[budget.tree] or [budget.process."gcc*"], and limits below it',
        )
    if not value:
        raise UsageError(
            f"{where.text(path)}: {_dotted(path)} limits nothing",
            hint="heap.growths = 10   below it, or leave the table out",
        )
    return value


def _dotted(path: tuple[str, ...]) -> str:
    return clean(".".join(path))


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
    most = None if "max" not in said else parse_number(said["max"], metric, key, at)
    least = None if "min" not in said else parse_number(said["min"], metric, key, at)
    gate = said.get("gate", not metric.advisory)
    if not isinstance(gate, bool):
        raise UsageError(f"{at}: gate is true or false, not {gate!r}", hint="gate = true")
    if most is not None and least is not None and least > most:
        raise UsageError(
            f"{at}: {key} cannot be {said['min']} or more and {said['max']} or less",
            hint=f"{key} = {{ min = {_toml(said['max'])}, max = {_toml(said['min'])} }}",
        )
    slack = None
    if "tolerance" in said:
        slack = parse_tolerance(said["tolerance"], metric, key, at)
    made = Limit(
        key=key, metric=metric, max=most, min=least, tolerance=slack,
        gate=gate, scope=scope[0], glob=scope[1], file=where.file, line=where.line(path),
    )  # fmt: skip
    if made.scope == PROCESS and not made.limits:
        raise UsageError(
            f"{at}: a baseline holds nothing by name, so a tolerance of {key} alone limits nothing",
            hint=f"{key} = {{ max = {example(metric)}, tolerance = {_toml(said['tolerance'])} }}",
        )
    _refuse_vain(made, at)
    return made


def _refuse_vain(x: Limit, at: str) -> None:
    """A limit that no number can pass is none."""
    less = "" if x.tolerance is None else " less its tolerance"
    if x.lowest is not None and x.lowest <= 0:
        raise UsageError(
            f"{at}: {x.key} is never below 0, so min{less} limits nothing that can be",
            hint=f"{x.key} = {{ min = 1 }}, or leave min out",
        )
    if x.highest is not None and x.highest >= MOST:
        more = "" if x.tolerance is None else " with its tolerance"
        raise UsageError(
            f"{at}: {x.key} is never above 2**64, so max{more} limits nothing that can be",
            hint=f"{x.key} = {{ max = 10 }}",
        )


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
