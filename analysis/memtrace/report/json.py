# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from operator import attrgetter
from typing import Any

import msgspec

from memtrace.report.model import TEXT_ONLY, Report
from memtrace.report.rows import Rows

_SCALARS = frozenset((int, str, float, bool, type(None)))


def render(report: Report, *, indent: int = 2) -> bytes:
    """The report as UTF-8 JSON with a final newline; `indent` 0 for one line."""
    return b"".join(stream(report, indent=indent))


def stream(report: Report, *, indent: int = 2) -> Iterator[bytes]:
    """The same, process by process: of a trace with very many the whole is very large."""
    empty = _text(plain(msgspec.structs.replace(report, processes=[])), indent)
    head, tail = empty.rsplit(b"[]", 1)
    yield head + b"["
    between, last = b"", b""
    margin = b"\n" + b" " * indent if indent else b""
    for p in report.processes:
        text = _text(plain(p), indent)
        if indent:  # a line break within a string is written as an escape
            text = text.replace(b"\n", margin + b" " * indent)
            yield between + margin + b" " * indent + text
        else:
            yield between + text
        between, last = b",", margin
    yield last + b"]" + tail + b"\n"


def _text(value: Any, indent: int) -> bytes:
    raw = msgspec.json.encode(value)
    return msgspec.json.format(raw, indent=indent) if indent else raw


def plain(value: Any) -> Any:
    """The report as dicts and lists, without the fields that only the text shows."""
    if isinstance(value, msgspec.Struct):
        fields, values = _fields(type(value))
        return {
            name: v if v.__class__ in _SCALARS else plain(v)
            for name, v in zip(fields, values(value), strict=True)
        }
    if isinstance(value, list | Rows):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value


@cache
def _fields(cls: type[Any]) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """The names that JSON shows, and what gets their values."""
    hidden = TEXT_ONLY.get(cls, ())
    names = tuple(f for f in cls.__struct_fields__ if f not in hidden)
    return names, attrgetter(*names) if len(names) > 1 else _one(names[0])


def _one(name: str) -> Callable[[Any], tuple[Any, ...]]:
    return lambda value: (getattr(value, name),)


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every report satisfies."""
    text = files("memtrace.report").joinpath("report.schema.json").read_bytes()
    loaded: dict[str, Any] = msgspec.json.decode(text)
    return loaded
