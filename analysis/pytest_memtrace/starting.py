# SPDX-License-Identifier: GPL-2.0-or-later
"""How a program is started so that memtrace records it: between the test and the program.

memtrace is a process of its own there, because the test process may have threads. The program's
streams, status and death by signal come through it unchanged. What cannot be started that way is
started as it is, and is known as a program that was not traced.
"""

from __future__ import annotations

import functools
import inspect
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

#: A test may put something else in its place.
_POPEN = subprocess.Popen
_SIGNATURE = inspect.signature(_POPEN.__init__)

RENAMED = "its file and its name differ (executable=)"
UNSEEN = "there was no such program when it was looked for"


class Own(subprocess.Popen[str]):
    """memtrace itself, started by the plugin."""


class Log(Protocol):
    """Who is told of each program that is started."""

    def started(self, argv: Sequence[str]) -> Path:
        """It is going to be traced; returns its trace."""

    def withdraw(self, trace: Path) -> None:
        """It was not started after all."""

    def untraced(self, argv: Sequence[str], why: str) -> None:
        """It has been started without."""


def _bootstrap() -> str:
    """Isolated, so that what a test sets for its program (env=, cwd=) does not change memtrace;
    PYTHONPATH as this process has got it may be where memtrace is.
    """
    paths = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    paths += [p for p in sys.path if p.endswith("-packages")]  # a user's own, too
    return f"import sys; sys.path += {paths!r}; from memtrace.cli.main import main; main()"


#: What runs memtrace.
MEMTRACE = (sys.executable, "-I", "-c", _bootstrap())


def command(trace: Path) -> list[str]:
    """What stands before a program's argv."""
    return [*MEMTRACE, "run", "-q", "-o", os.path.abspath(trace), "--"]


@functools.cache
def refusal() -> str:
    """Why nothing can be traced here; "" if it is not for the kernel."""
    doctor = [*MEMTRACE, "doctor", "-q"]
    with Own(doctor, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, encoding="utf-8") as asked:
        said, _ = asked.communicate()
    reason, _, remedy = said.partition("  try: ")
    if asked.returncode != 1:
        return ""
    return " ".join(reason.split()) + (f" (try: {remedy.strip()})" if remedy else "")


def exists(program: str, env: Mapping[Any, Any] | None, folder: str) -> bool:
    """Whether exec would find it: with a slash from its working directory, otherwise in PATH."""
    places = [""] if "/" in program else os.get_exec_path(env)
    paths = (os.path.join(folder, os.fsdecode(place), program) for place in places)
    return any(os.path.isfile(p) and os.access(p, os.X_OK) for p in paths)


@contextmanager
def watching(log: Log) -> Iterator[None]:
    """Meanwhile every program is traced that is started with subprocess, os.posix_spawn or
    os.system.
    """
    on = True
    init = _POPEN.__init__
    before = (os.posix_spawn, os.posix_spawnp, os.system)

    def popen(it: subprocess.Popen[Any], *args: Any, **kw: Any) -> None:
        if on and not isinstance(it, Own):
            _popen(log, init, it, *args, **kw)
        else:
            init(it, *args, **kw)

    def spawner(spawn: Callable[..., int]) -> Callable[..., int]:
        def spawned(path: Any, argv: Any, env: Any, **kw: Any) -> int:
            words = [os.fsdecode(os.fspath(a)) for a in argv]
            if not on or tuple(words[: len(MEMTRACE)]) == MEMTRACE:  # of Popen
                return spawn(path, argv, env, **kw)
            return _spawn(log, spawn, path, words, env, **kw)

        return spawned

    def system(command: Any) -> int:
        return _system(log, before[2], command) if on else before[2](command)

    _POPEN.__init__ = popen  # type: ignore[method-assign,assignment]
    os.posix_spawn, os.posix_spawnp = spawner(before[0]), spawner(before[1])
    os.system = system
    try:
        yield
    finally:
        on = False  # a test may have kept one of them, to put it back later
        _POPEN.__init__ = init  # type: ignore[method-assign]
        os.posix_spawn, os.posix_spawnp, os.system = before


def _popen(
    log: Log, init: Callable[..., None], popen: subprocess.Popen[Any], *args: Any, **kw: Any
) -> None:
    call = _SIGNATURE.bind(popen, *args, **kw)
    given, said = call.arguments["args"], call.arguments.get
    words = [given] if isinstance(given, str | bytes | os.PathLike) else list(given)
    shown = [os.fsdecode(os.fspath(w)) for w in words]
    if said("shell"):
        shell = said("executable") or "/bin/sh"
        argv, why = [shell, "-c", *words], ""
    else:
        argv, why = _named(words, said("executable"))
    if argv and not why:
        file, folder = os.fsdecode(os.fspath(argv[0])), os.fsdecode(said("cwd") or "")
        why = "" if exists(file, said("env"), folder) else UNSEEN
    if not argv or why:
        init(popen, *args, **kw)  # raises, if there is nothing to start
        log.untraced(shown, why)
        return
    trace = log.started(shown)
    call.arguments["args"] = [*command(trace), *argv]
    call.arguments["shell"] = False
    call.arguments["executable"] = None
    try:
        init(*call.args, **call.kwargs)
    except BaseException:
        log.withdraw(trace)
        raise
    popen.args = given


def _named(words: list[Any], executable: Any) -> tuple[list[Any], str]:
    """What to run, and why that is not traced: its file has another name than it is given."""
    if not executable or not words:
        return words, ""
    why = _renamed(executable, words[0])
    return (words if why else [executable, *words[1:]]), why


def _renamed(file: Any, name: Any) -> str:
    """Why it is not traced, if its file has another name than it is given; else ""."""
    one, two = (os.path.basename(os.fsdecode(os.fspath(x))) for x in (file, name))
    return "" if one == two else RENAMED


def _spawn(
    log: Log, spawn: Callable[..., int], path: Any, words: list[str], env: Any, **kw: Any
) -> int:
    file = os.fsdecode(os.fspath(path))
    why = _renamed(file, words[0]) if words else RENAMED
    if not why and not exists(file, env, ""):
        why = UNSEEN
    if why:
        pid = spawn(path, words, env, **kw)
        log.untraced(words, why)
        return pid
    traced = [*command(log.started(words)), file, *words[1:]]
    return spawn(sys.executable, traced, env, **kw)


def _system(log: Log, system: Callable[..., int], command_line: Any) -> int:
    line = os.fsdecode(os.fspath(command_line))
    traced = shlex.join([*command(log.started([line])), "/bin/sh", "-c", line])
    return system(os.fsencode(f"exec {traced}"))
