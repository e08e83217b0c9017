# SPDX-License-Identifier: GPL-2.0-or-later
"""The marker, as a function: its signature and docstring are the help of `pytest --markers`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from memtrace.check.budget import Limit


def memtrace(
    *,
    tree: Mapping[str, object] | None = None,
    process: Mapping[str, Mapping[str, object]] | None = None,
    **limits: object,
) -> dict[str, object]:
    """Hold every program that the test starts (with subprocess, or memtrace.run) against a budget.

    heap_peak="2 MiB" is `heap.peak = "2 MiB"` of a memtrace.toml, calls_mmap=dict(max=40) a table.
    A maximum is held against each process that comes of a program, a minimum has to be reached by
    one; `tree` limits the sum over these processes, `process` those of a name. The test process
    itself is not measured.
    """
    table: dict[str, object] = _dotted(limits)
    if tree is not None:
        table["tree"] = _dotted(tree)
    if process is not None:
        table["process"] = {glob: _dotted(below) for glob, below in process.items()}
    return table


def _dotted(limits: Mapping[str, object]) -> dict[str, object]:
    """`heap_peak` is `heap.peak`: the first part of a metric's name is one word."""
    return {name.replace("_", ".", 1): value for name, value in limits.items()}


def line() -> str:
    """What `pytest --markers` shows."""
    words = " ".join((memtrace.__doc__ or "").split())
    return f"memtrace(*, tree=None, process=None, **limits): {words}"


def limits_of(where: str, marks: Iterable[pytest.Mark]) -> list[Limit]:
    """The limits of a test's markers: of its own, its class's, its module's. Of two for the same
    metric the closer one counts.

    Args:
        where: the test.
        marks: the closest first.

    Raises:
        UsageError: one cannot be meant.
    """
    from memtrace.trace.errors import UsageError

    found: dict[tuple[str, str, str], Limit] = {}
    for mark in marks:
        for x in _limits(where, mark.args, mark.kwargs):
            found.setdefault((x.scope, x.glob, x.metric.name), x)
    if found and not any(x.gate for x in found.values()):
        (first, *_) = found.values()
        raise UsageError(
            f"{where}: {first.name} depends on the machine more than on the program, and fails no "
            "test unless that is asked for",
            hint=f"{first.key.replace('.', '_', 1)}=dict(max=..., gate=True)",
        )
    return list(found.values())


def _limits(where: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[Limit]:
    from memtrace.check.budget import parse_table
    from memtrace.check.where import Where
    from memtrace.trace.errors import UsageError

    example = '@pytest.mark.memtrace(heap_peak="2 MiB")'
    if args:
        raise UsageError(f"{where}: limits are named, {args[0]!r} is not", hint=example)
    try:
        made: Callable[..., dict[str, object]] = memtrace
        table = made(**kwargs)
    except (TypeError, AttributeError):
        raise UsageError(
            f"{where}: tree and process are dicts of limits",
            hint='tree={"heap_peak": "2 MiB"}, process={"gcc*": {"heap_peak": "2 MiB"}}',
        ) from None
    if not table:
        raise UsageError(f"{where}: the marker limits nothing", hint=example)
    limits = parse_table(table, Where(where))
    for x in limits:
        if not x.limits:
            raise UsageError(
                f"{where}: a tolerance of {x.name} alone limits nothing: a marker has no baseline",
                hint=f"{x.key.replace('.', '_', 1)}=dict(max=10, tolerance=1)",
            )
    return limits
