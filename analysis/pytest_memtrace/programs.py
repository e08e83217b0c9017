# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that a test starts, each with a trace of its own."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memtrace.starting import Own, command, refusal

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
        if self.lost:
            raise UsageError(
                f"nothing was recorded of {self.name}: {refusal() or 'no trace was written'}",
                hint="memtrace doctor",
            )
        return read(str(self.trace))

    @property
    def lost(self) -> bool:
        """Whether it should have been traced, and there is no trace."""
        return self.trace is not None and not self.trace.exists()

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
        stdout, stderr: what it wrote; what is no UTF-8 stands there as an escape.
    """

    returncode: int = 0
    stdout: str = ""
    stderr: str = ""


class Memtrace:
    """The fixture `memtrace`: starts programs and tells what they did with memory.

    Args:
        folder: where traces go.
        test: whose they are, for their names.
        kept: whether they stay there.
    """

    def __init__(self, folder: Path, test: str, *, kept: bool) -> None:
        self._folder, self._stem, self.kept = folder, stem(test), kept
        self.begin()

    def begin(self) -> None:
        """The test starts, perhaps once more."""
        self.programs: list[Program] = []
        self._numbers = itertools.count(1)

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
            timeout: seconds, after which it and all its processes are killed.

        Raises:
            subprocess.TimeoutExpired: it took longer.
            MemtraceError: it could not be traced.
        """
        words = tuple(os.fspath(a) for a in argv)
        trace = self._new()
        process = Own(
            [*command(trace), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=env, cwd=cwd, encoding="utf-8", errors="backslashreplace",
        )  # fmt: skip
        process.args = words
        with process:
            try:
                out, err = process.communicate(input or "", timeout)
            except BaseException:
                process.kill()
                self.programs.append(Program(words, trace))
                raise
        done = Ended(words, trace, returncode=process.returncode, stdout=out, stderr=err)
        self.programs.append(done)
        if done.lost:
            from memtrace.trace.errors import TargetError

            said = err.strip().splitlines() or [f"exit status {process.returncode}"]
            why = said[0].removeprefix("memtrace: ")
            raise TargetError(f"{done.name} was not traced: {why}", hint="memtrace doctor")
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

    def refused(self) -> str:
        """Why the kernel has let none of these be traced; "" if it was not the kernel."""
        return refusal() if any(p.lost for p in self.programs) else ""

    def started(self, argv: Sequence[str]) -> Path:
        """A program is going to be traced; returns its trace."""
        trace = self._new()
        self.programs.append(Program(tuple(argv), trace))
        return trace

    def withdraw(self, trace: Path) -> None:
        """That program was not started."""
        self.programs[:] = [p for p in self.programs if p.trace != trace]

    def untraced(self, argv: Sequence[str], why: str) -> None:
        """A program has been started without."""
        self.programs.append(Program(tuple(argv), None, why))

    def _new(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._stem}-{next(self._numbers)}.json"
        path.unlink(missing_ok=True)  # of an earlier session: what it tells is not of this one
        return path


def stem(test: str) -> str:
    """The names of a test's traces begin so: readable, and no other test's.

    >>> stem("test_it.py::test_a[x/y]")
    'test_it.py_test_a_x_y-89ae5adb'
    """
    readable = re.sub(r"[^\w.-]+", "_", test, flags=re.ASCII).strip("_")[-100:]
    digest = hashlib.sha256(test.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{readable}-{digest[:8]}"
