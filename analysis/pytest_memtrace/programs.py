# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that a test starts: each under `memtrace run`, with a trace of its own.

memtrace runs as a process of its own between the test and the program, because the test process may
have threads; the program's streams, status and death by signal come through it unchanged.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memtrace.report.model import Report

Argv = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Program:
    """A program that was started.

    Attributes:
        argv: what was started.
        trace: its trace; None: it was not traced, because of `why`.
    """

    argv: tuple[str, ...]
    trace: Path | None
    why: str = ""

    @cached_property
    def report(self) -> Report:
        """What its trace shows.

        Raises:
            MemtraceError: it was not traced, or the trace cannot be read.
        """
        from memtrace.report.build import read
        from memtrace.trace.errors import UsageError

        if self.trace is None:
            raise UsageError(f"{self.name} was not traced: {self.why}")
        if not self.trace.exists():
            raise UsageError(f"nothing was recorded of {self.name}", hint="memtrace doctor")
        return read(str(self.trace))

    @property
    def name(self) -> str:
        """For messages."""
        from memtrace.report.lines import fit

        return fit(" ".join(self.argv), 60)


@dataclass(frozen=True)
class Ended(Program):
    """One that `memtrace.run` has seen to its end.

    Attributes:
        returncode: -N: killed by signal N.
        stdout, stderr: what it wrote.
    """

    returncode: int = 0
    stdout: str = ""
    stderr: str = ""


class Memtrace:
    """The fixture `memtrace`: starts programs and tells what they did with memory.

    Args:
        folder: where traces go.
        name: of the test, for their names.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.programs: list[Program] = []

    def run(
        self,
        argv: Argv,
        *,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
    ) -> Report:
        """Run a program to its end and report on it; `last` has its status and output.

        Args:
            argv: program and arguments.
            input: for its standard input, which is empty otherwise.
            env: its environment, as for subprocess.run.
            cwd: its working directory.
            timeout: seconds.

        Raises:
            subprocess.TimeoutExpired: it took longer.
            MemtraceError: it could not be traced.
        """
        words = tuple(os.fspath(a) for a in argv)
        trace = self._new()
        process = _Own(
            [*command(trace), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=env, cwd=cwd, text=True,
        )  # fmt: skip
        with process:
            try:
                out, err = process.communicate(input or "", timeout)
            except BaseException:
                process.kill()
                raise
        done = Ended(words, trace, returncode=process.returncode, stdout=out, stderr=err)
        self.programs.append(done)
        if not trace.exists():
            from memtrace.trace.errors import TargetError

            said = err.strip().splitlines() or [f"exit status {process.returncode}"]
            raise TargetError(f"{done.name} was not traced: {said[0]}", hint="memtrace doctor")
        return done.report

    @property
    def last(self) -> Ended:
        """The program that `run` has run last: `returncode`, `stdout`, `stderr`, `trace`.

        Raises:
            LookupError: there is none.
        """
        for program in reversed(self.programs):
            if isinstance(program, Ended):
                return program
        raise LookupError("memtrace.run has run nothing")

    def _new(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{self._name}-{len(self.programs) + 1}.json"

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meanwhile every program that is started with subprocess is traced."""
        before = subprocess.Popen.__init__

        def init(popen: subprocess.Popen[Any], *args: Any, **kw: Any) -> None:
            if popen.__class__ is _Own:
                before(popen, *args, **kw)
            else:
                before(popen, *self._traced(args, kw), **kw)

        subprocess.Popen.__init__ = init  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            subprocess.Popen.__init__ = before  # type: ignore[method-assign]

    def _traced(self, args: tuple[Any, ...], kw: dict[str, Any]) -> tuple[Any, ...]:
        """Popen's arguments, so that memtrace is between; `kw` is changed."""
        given = kw.pop("args") if "args" in kw else args[0]
        text = isinstance(given, str | bytes | os.PathLike)
        words = [given] if text else list(given)
        shown = tuple(os.fsdecode(os.fspath(w)) for w in words)
        # args, bufsize, executable, ..., shell: the third and the ninth.
        shell = kw.get("shell", args[8] if len(args) > 8 else False)
        if kw.get("executable") or (len(args) > 2 and args[2]):
            self.programs.append(Program(shown, None, "its file and its name differ (executable=)"))
            return (given, *args[1:])
        if shell:
            words = ["/bin/sh", "-c", *words]
            kw["shell"] = False
            args = args[:8]  # what follows is given by name in practice
        trace = self._new()
        self.programs.append(Program(shown, trace))
        return ([*command(trace), *words], *args[1:])


class _Own(subprocess.Popen[str]):
    """Started by the fixture itself."""


def command(trace: Path) -> list[str]:
    """What stands before a program's argv."""
    return [sys.executable, "-P", "-m", "memtrace", "run", "-q", "-o", str(trace), "--"]
