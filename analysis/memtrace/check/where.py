# SPDX-License-Identifier: GPL-2.0-or-later
"""Where in a TOML file each key stands: what a message and an annotation point to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

from memtrace.report.lines import clean

_AT_MOST = 2_000  # lines of one statement


@dataclass(frozen=True, slots=True)
class Where:
    """The place of a table: `file` as it was named, `lines` of each key below `root` in it.

    What is in no file (a test's marker) has no lines.
    """

    file: str
    root: tuple[str, ...] = ()
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def line(self, path: tuple[str, ...]) -> int:
        """The line of a key, or of the nearest table around it; 0 if unknown."""
        whole = (*self.root, *path)
        for n in range(len(whole), 0, -1):
            if whole[:n] in self.lines:
                return self.lines[whole[:n]]
        return 0

    def text(self, path: tuple[str, ...]) -> str:
        """`memtrace.toml:7`."""
        line, file = self.line(path), clean(self.file)
        return f"{file}:{line}" if line else file


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    r"""The first line of every key and table of a TOML document.

    A statement is as many lines as tomllib needs to take it, so that both read the same.

    Args:
        text: valid TOML.

    >>> lines_of('[a]\nb.c = 1\n')
    {('a',): 1, ('a', 'b'): 2, ('a', 'b', 'c'): 2}
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    lines = text.replace("\r\n", "\n").split("\n")
    i = 0
    while i < len(lines):
        value, used = _statement(lines, i)
        head = lines[i].lstrip()
        if head.startswith("["):
            table = _header(value)
            for n in range(1, len(table) + 1):
                found.setdefault(table[:n], i + 1)
        else:
            for path in _paths(value):
                found.setdefault(table + path, i + 1)
        i += used
    return found


def _statement(lines: list[str], i: int) -> tuple[object, int]:
    for n in range(1, min(len(lines) - i, _AT_MOST) + 1):
        try:
            return tomllib.loads("\n".join(lines[i : i + n])), n
        except tomllib.TOMLDecodeError:
            continue
    return {}, 1


def _header(value: object) -> tuple[str, ...]:
    path: tuple[str, ...] = ()
    while isinstance(value, list | dict) and value:
        if isinstance(value, list):
            value = value[0]
            continue
        key, value = next(iter(value.items()))
        path = (*path, key)
    return path


def _paths(value: object) -> list[tuple[str, ...]]:
    """Every path of keys, the short ones first."""
    if not isinstance(value, dict):
        return []
    found: list[tuple[str, ...]] = []
    for key, below in value.items():
        found.append((key,))
        found += [(key, *path) for path in _paths(below)]
    return found
