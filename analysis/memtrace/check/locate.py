# SPDX-License-Identifier: GPL-2.0-or-later
"""Which file holds the budget, and what it says."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from shlex import quote

from memtrace.check.budget import PROCESS, TREE, Limit, parse_table
from memtrace.check.where import Where, lines_of
from memtrace.report.lines import clean
from memtrace.trace.errors import UsageError

NAME = "memtrace.toml"
_PROJECT = "pyproject.toml"
_OWN, _SHARED = ("budget",), ("tool", "memtrace", "budget")
_ROOTS = {NAME: (_OWN,), _PROJECT: (_SHARED,)}


def find(folder: Path) -> Path | None:
    """The nearest file with a budget, from `folder` upwards: memtrace.toml before pyproject.toml,
    which counts only where it has a table of memtrace's.

    Raises:
        UsageError: one on the way cannot be used: what it would say is not known.
    """
    for here in (folder, *folder.parents):
        if _is_there(here / NAME):
            return here / NAME
        project = here / _PROJECT
        if _is_there(project) and _table(_load(project)[0], _SHARED[:-1]) is not None:
            return project
    return None


def _is_there(path: Path) -> bool:
    """Whether a name is there; what has it must be a file."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as e:
        raise _unreadable(str(path), (e.strerror or str(e)).lower()) from None
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        raise _unreadable(str(path), "it is a link to nothing") from None
    except OSError as e:
        raise _unreadable(str(path), (e.strerror or str(e)).lower()) from None
    if not regular:
        raise _unreadable(str(path), "it is no file")
    return True


def _unreadable(shown: str, why: str) -> UsageError:
    return UsageError(
        f"cannot read the budget {clean(shown)}: {why}", hint=f"ls -ld {quote(clean(shown))}"
    )


def read(path: Path, shown: str, *, alone: bool = True) -> list[Limit]:
    """The limits of a file: of its `[budget]` or `[tool.memtrace.budget]`.

    Args:
        path: the file.
        shown: its name in messages.
        alone: nothing else is held against the trace, so that it has to limit something.

    Raises:
        UsageError: it cannot be read, is no TOML, has no such table, another beside it, or one
            that cannot be meant, or nothing could ever exceed it.
    """
    document, text = _load(path, shown)
    lines = lines_of(text)
    roots = _ROOTS.get(path.name, (_OWN, _SHARED))
    root = next((r for r in roots if _table(document, r) is not None), roots[0])
    _refuse_others(document, root, Where(shown, (), lines))
    table, where = _table(document, root), Where(shown, root, lines)
    if table is None:
        name = ".".join(root)
        raise UsageError(
            f"{clean(shown)} has no table [{name}]",
            hint=f"printf '[{name}]\\nheap.peak = \"2 MiB\"\\n' >> {quote(clean(shown))}",
        )
    if not isinstance(table, Mapping):
        raise UsageError(
            f"{where.text(())}: {'.'.join(root)} is a table of limits",
            hint=f"[{'.'.join(root)}] and limits below it",
        )
    limits = parse_table(table, where)
    if alone and not any(x.limits for x in limits):
        raise UsageError(
            f"{where.text(())}: [{'.'.join(root)}] limits nothing, so every trace would pass",
            hint='heap.peak = "2 MiB"   below it',
        )
    return limits


def _refuse_others(document: Mapping[str, object], root: tuple[str, ...], where: Where) -> None:
    """What stands beside the budget is a budget that was misspelt or misplaced: nothing else has
    a place there.
    """
    beside = _table(document, root[:-1])
    if not isinstance(beside, Mapping):
        return
    for key in beside:
        if key == root[-1]:
            continue
        at, name = where.text((*root[:-1], key)), clean(".".join((*root[:-1], key)))
        known = ".".join(root)
        hint = f"[{known}]"
        if key in (TREE, PROCESS):
            hint = f"[{known}.{key}{'' if key == TREE else '.NAME'}]"
        elif get_close_matches(key.lower(), (root[-1],), n=1, cutoff=0.6):
            hint = f"[{known}], if that was meant"
        raise UsageError(f"{at}: memtrace knows no {name}, only [{known}]", hint=hint)


def _table(document: Mapping[str, object], root: tuple[str, ...]) -> object | None:
    value: object = document
    for key in root:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _load(path: Path, shown: str = "") -> tuple[dict[str, object], str]:
    shown = shown or str(path)
    named = quote(clean(shown))
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text), text
    except FileNotFoundError:
        raise UsageError(
            f"there is no budget {clean(shown)}",
            hint=f"printf '[budget]\\nheap.peak = \"2 MiB\"\\n' > {named}",
        ) from None
    except OSError as e:
        raise _unreadable(shown, (e.strerror or str(e)).lower()) from None
    except UnicodeDecodeError:
        raise UsageError(f"{clean(shown)} is not UTF-8, as TOML is", hint=f"file {named}") from None
    except ValueError as e:  # TOMLDecodeError, and numbers too long for Python
        raise UsageError(
            f"{clean(shown)} is no TOML: {clean(str(e))}", hint=f"${{EDITOR:-vi}} {named}"
        ) from None
    except RecursionError:
        raise UsageError(
            f"{clean(shown)} is nested too deeply", hint=f"${{EDITOR:-vi}} {named}"
        ) from None
