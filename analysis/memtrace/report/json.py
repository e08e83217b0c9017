# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as JSON."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from memtrace.report.model import TEXT_ONLY, Report


def render(report: Report, *, indent: int = 2) -> bytes:
    """The report as UTF-8 JSON with a final newline; `indent` 0 for one line."""
    raw = msgspec.json.encode(plain(report))
    return (msgspec.json.format(raw, indent=indent) if indent else raw) + b"\n"


def plain(value: Any) -> Any:
    """The report as dicts and lists, without the fields that only the text shows."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in _fields(type(value))}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value


@cache
def _fields(cls: type[Any]) -> tuple[str, ...]:
    hidden = TEXT_ONLY.get(cls, ())
    return tuple(f for f in cls.__struct_fields__ if f not in hidden)


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every report satisfies."""
    text = files("memtrace.report").joinpath("report.schema.json").read_bytes()
    loaded: dict[str, Any] = msgspec.json.decode(text)
    return loaded
