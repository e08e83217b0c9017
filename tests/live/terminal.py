# SPDX-License-Identifier: GPL-2.0-or-later
"""`Terminal`: an interactive bash on a terminal of its own, to be typed to and read from.

The shell is a session leader with job control. `memtrace` is a command there that runs a program
under `memtrace run` into `Terminal.trace`.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, Self

from tests.live.tracing import PATIENCE, Traced, environment, state_of, until

_COMMAND = """#!/bin/sh
exec {python} -m memtrace run -o {trace} $MEMTRACE_OPTIONS -- "$@"
"""
_PROMPT = r"<(\d+)>% "


class Terminal:
    """Use as a context manager; at the end the terminal is hung up, and all on it is killed.

    Args:
        folder: where the shell works, and where `memtrace` and the trace are put.
        options: options of every `memtrace run`.
    """

    def __init__(self, folder: Path, *options: str, rows: int = 24) -> None:
        self.trace = folder / "t.json"
        command = folder / "bin" / "memtrace"
        command.parent.mkdir()
        command.write_text(_COMMAND.format(python=sys.executable, trace=self.trace))
        command.chmod(0o755)
        env = environment({
            "PATH": f"{command.parent}:{os.environ['PATH']}", "PS1": "<$?>% ", "TERM": "xterm",
            "MEMTRACE_OPTIONS": " ".join(["-q", *options]), "LESS": "", "LC_ALL": "C",
        })  # fmt: skip
        self.master, self._slave = os.openpty()
        self.resize(rows)
        self._unread = ""
        self.shell = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=self._slave, stdout=self._slave, stderr=self._slave, env=env, cwd=folder,
        )  # fmt: skip
        self.prompt()
        self.command("ulimit -c 0; set +o history")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        left = [pid for pid in self.processes() if pid != self.shell.pid]
        self.shell.kill()
        self.shell.wait(PATIENCE)
        for pid in left:
            with_kill(pid)

    def hang_up(self) -> None:
        """Close the terminal, as when its window is closed."""
        for fd in (self.master, self._slave):
            if fd >= 0:
                os.close(fd)
        self.master = self._slave = -1

    def resize(self, rows: int, columns: int = 80) -> None:
        """Set the window's size; the foreground group gets SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def modes(self) -> list[Any]:
        """The terminal's settings, as termios has them."""
        return termios.tcgetattr(self._slave)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def expect(self, pattern: str) -> str:
        """Read until a pattern has appeared; returns all that was shown up to it."""
        end = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self._unread, re.DOTALL)) is None:
            ready = select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, f"no {pattern!r} in {self._unread!r}"
            self._unread += os.read(self.master, 1 << 16).decode("utf-8", "replace")
        shown, self._unread = self._unread[: found.end()], self._unread[found.end() :]
        return shown

    def prompt(self) -> int:
        """Read until the shell's next prompt; returns `$?`."""
        found = re.search(_PROMPT + r"\Z", self.expect(_PROMPT))
        assert found is not None
        return int(found[1])

    def command(self, line: str) -> str:
        """Type a command and read what it shows until the prompt is back."""
        self.type(line + "\n")
        return self.expect(_PROMPT)

    def status(self, line: str) -> int:
        """Type a command and wait for its end; returns `$?`."""
        self.type(line + "\n")
        return self.prompt()

    def expect_job(self, state: str) -> None:
        """Ask the shell for its jobs until there is one in that state."""
        until(lambda: [True] if state in self.command("jobs") else [])

    def processes(self) -> dict[int, str]:
        """The processes of this terminal's session: pid and name."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = stat.read_text().partition(" (")[2].rpartition(") ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(rest.split()[3]) == self.shell.pid and rest[0] not in "ZX":
                found[int(stat.parent.name)] = name
        return found

    def process(self, name: str, states: str = "RSDTt") -> int:
        """The pid of a program on this terminal, once it is there in one of these states."""

        def ask() -> list[int]:
            return [p for p, n in self.processes().items() if n == name and state_of(p) in states]

        return until(ask)[0]

    def traced(self) -> Traced:
        """The trace of the last `memtrace run`."""
        return Traced(self.trace, 0, b"", "", [])


def with_kill(pid: int) -> None:
    """SIGKILL to a process that may be gone."""
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return
