# SPDX-License-Identifier: GPL-2.0-or-later
"""A baseline's file: written, and read with the line of each number."""

from __future__ import annotations

import json
from shlex import quote

import msgspec

from memtrace.check.amounts import MOST
from memtrace.check.baseline import FORMAT, Baseline
from memtrace.report.lines import clean
from memtrace.report.metrics import find
from memtrace.trace.errors import UsageError


def encode(baseline: Baseline) -> str:
    """The file's text."""
    return json.dumps(msgspec.to_builtins(baseline), indent=2, ensure_ascii=True) + "\n"


def decode(data: bytes, shown: str) -> tuple[Baseline, dict[tuple[str, str], int]]:
    """A file's baseline, and the line of each of its metrics, by (`metrics` or `tree`, name).

    Args:
        data: what `looks_like` takes.
        shown: the file's name in messages.

    Raises:
        UsageError: it is of another format, or damaged.
    """
    hint = f"memtrace check trace.json --update-baseline {quote(clean(shown))}"
    shown = clean(shown)
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as e:
        raise UsageError(f"{shown} is no baseline: {e}", hint=hint) from None
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        known = f"its format is {found!r}" if isinstance(found, str) else "it has no format"
        raise UsageError(f"{shown} is no baseline: {known}, not {FORMAT!r}", hint=hint)
    try:
        baseline = msgspec.convert(value, Baseline)
    except msgspec.ValidationError as e:
        raise UsageError(f"{shown} is a damaged baseline: {clean(str(e))}", hint=hint) from e
    for name, number in (*baseline.metrics.items(), *baseline.tree.items()):
        if find(name) is None or not (number is None or 0 <= number <= MOST):
            raise UsageError(f"{shown} is a damaged baseline: {clean(name)} = {number}", hint=hint)
    for part, values in (("metrics", baseline.metrics), ("tree", baseline.tree)):
        if all(n is None for n in values.values()):
            raise UsageError(
                f"{shown} holds no number under {part}, so every trace would pass", hint=hint
            )
    return baseline, _lines(data)


def _lines(data: bytes) -> dict[tuple[str, str], int]:
    lines: dict[tuple[str, str], int] = {}
    part = ""
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        key = line.strip().partition(":")[0].strip('"')
        if key in ("metrics", "tree"):
            part = key
        elif part:
            lines.setdefault((part, key), number)
    return lines


def looks_like(head: bytes) -> bool:
    """Whether a file that begins like this is an object, as a baseline is and a trace is not."""
    return head.lstrip().startswith(b"{")
