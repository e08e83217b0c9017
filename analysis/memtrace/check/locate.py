# SPDX-License-Identifier: GPL-2.0-or-later
"""Which file holds the budget, and what it says."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from memtrace.check.budget import Limit, parse_table
from memtrace.check.where import Where, lines_of
from memtrace.trace.errors import UsageError

NAME = "memtrace.toml"
_PROJECT = "pyproject.toml"
_ROOTS = {NAME: ("budget",), _PROJECT: ("tool", "memtrace", "budget")}


def find(folder: Path) -> Path | None:
    """The nearest file with a budget, from `folder` upwards: memtrace.toml before pyproject.toml,
    which counts only where it has the table.

    Raises:
        UsageError: a pyproject.toml on the way is no TOML.
    """
    for here in (folder, *folder.parents):
        if (here / NAME).is_file():
            return here / NAME
        project = here / _PROJECT
        if project.is_file() and _table(_load(project)[0], _ROOTS[_PROJECT]) is not None:
            return project
    return None


def read(path: Path, shown: str, *, alone: bool = True) -> list[Limit]:
    """The limits of a file: of its `[budget]` or `[tool.memtrace.budget]`.

    Args:
        path: the file.
        shown: its name in messages.
        alone: nothing else is held against the trace, so that it has to limit something.

    Raises:
        UsageError: it cannot be read, is no TOML, has no such table or one that cannot be meant,
            or nothing could ever exceed it.
    """
    document, text = _load(path, shown)
    roots = [_ROOTS[path.name]] if path.name in _ROOTS else list(_ROOTS.values())
    for root in roots:
        table = _table(document, root)
        if table is None:
            continue
        where = Where(shown, root, lines_of(text))
        if not isinstance(table, Mapping):
            raise UsageError(
                f"{where.text(())}: {'.'.join(root)} is a table of limits",
                hint=f"[{'.'.join(root)}] and limits below it",
            )
        limits = parse_table(table, where)
        if alone and all(x.max is None and x.min is None for x in limits):
            raise UsageError(
                f"{where.text(())}: [{'.'.join(root)}] limits nothing, so every trace would pass",
                hint='heap.peak = "2 MiB"   below it',
            )
        return limits
    raise UsageError(
        f"{shown} has no table [{'.'.join(roots[0])}]",
        hint=f"printf '[{'.'.join(roots[0])}]\\nheap.peak = \"2 MiB\"\\n' >> {quote(shown)}",
    )


def _table(document: Mapping[str, object], root: tuple[str, ...]) -> object | None:
    value: object = document
    for key in root:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _load(path: Path, shown: str = "") -> tuple[dict[str, object], str]:
    shown = shown or str(path)
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text), text
    except FileNotFoundError:
        raise UsageError(
            f"there is no budget {shown}",
            hint=f"printf '[budget]\\nheap.peak = \"2 MiB\"\\n' > {quote(shown)}",
        ) from None
    except OSError as e:
        raise UsageError(
            f"cannot read the budget {shown}: {(e.strerror or str(e)).lower()}",
            hint=f"ls -ld {quote(shown)}",
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{shown} is not UTF-8, as TOML is", hint=f"file {quote(shown)}") from None
    except ValueError as e:  # TOMLDecodeError, and numbers too long for Python
        raise UsageError(
            f"{shown} is no TOML: {e}", hint=f"${{EDITOR:-vi}} {quote(shown)}"
        ) from None
