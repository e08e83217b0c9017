# SPDX-License-Identifier: GPL-2.0-or-later
"""A bar on stderr while a trace is read for longer than a second.

How far a pass is, the kernel knows: the offset of the descriptor that the trace is read through.
Nothing on the way of the pass counts for it, and a short pass never loads what draws the bar.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from memtrace.cli.options import quiet

#: Seconds after which the bar appears, and between two looks at how far it is.
AFTER, EVERY = 1.0, 0.25

_T = TypeVar("_T")


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Meanwhile the trace is read; the bar is gone afterwards.

    Only on a terminal, and not with `-q`.
    """
    if quiet() or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    shown = threading.Thread(target=_show, args=(path, over), daemon=True)
    shown.start()
    try:
        yield
    finally:
        over.set()
        shown.join()


def read_for(path: str, parts: Iterable[_T], *, to_file: bool = False) -> Iterator[_T]:
    """The parts of an output, meanwhile the trace is read for them.

    The bar is gone before the first part, lest it stands among what a person reads on the same
    terminal, or in a pager: only what goes to a file has it to the end.

    Args:
        path: the trace.
        parts: made while it is read.
        to_file: they go to a file other than stdout.
    """
    rest = iter(parts)
    with reading(path):
        first = list(islice(rest, 1))
        if to_file or _stdout_is_file():
            yield from first
            yield from rest
            return
    yield from first
    yield from rest


def _stdout_is_file() -> bool:
    """Whether nobody can look at stdout: it is no terminal, and no pipe, behind which there may
    be one.
    """
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
        return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not sys.stdout.isatty())
    except (OSError, ValueError, AttributeError):
        return False


def _show(path: str, over: threading.Event) -> None:
    if over.wait(AFTER):
        return
    try:
        size, same = os.stat(path).st_size, os.path.realpath(path)
    except OSError:
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("reading {task.description}"), BarColumn(), TaskProgressColumn())
    console = Console(stderr=True, highlight=False)
    name = Path(path).name.encode("ascii", "backslashreplace").decode().replace("[", "\\[")
    with suppress(OSError, ValueError), Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name[-40:] if name.isprintable() else "the trace", total=size or None)
        while not over.wait(EVERY):
            bar.update(task, completed=_offset(same))


def _offset(path: str) -> int:
    """How far a file is read that this process has open; 0 if it has not."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError, ValueError):
            if os.readlink(f"/proc/self/fd/{name}") == path:
                with open(f"/proc/self/fdinfo/{name}", "rb") as f:
                    return int(f.readline().split()[1])  # "pos:\t4096"
    return 0
