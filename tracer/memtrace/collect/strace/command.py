# SPDX-License-Identifier: GPL-2.0-or-later
"""The strace that is installed here, and how to call it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from memtrace.collect.abi import CALLS
from memtrace.trace.errors import TargetError

#: Before it: no `-X`, no `?` before a call that it may not know.
OLDEST = (5, 0)
_SECCOMP_BPF = (5, 3)
_INSTALL = "apt install strace"
#: What is not recorded, and tells of lives: the kernel's own record of an end is a line anyway.
_LIVES = ("exit", "exit_group")
#: A thread's first calls, which glibc makes before any other (start_thread). Under a filter strace
#: stops a task's first call twice, because it does not know yet that the task has it: that must
#: not be a call whose order matters.
_FIRST = ("set_robust_list", "rseq")


@dataclass(frozen=True, slots=True)
class Strace:
    """An installed strace: its file and its version."""

    path: str
    version: tuple[int, int]

    def command(self, output: str, *, seccomp: bool, leaves: bool = False) -> list[str]:
        """The arguments up to the program or the `-p`.

        Every tracee (-f), numbers as the kernel got them (-X raw), and of paths no more than a
        name's length: /proc tells the rest. Signals do not reach it (-I4), which are meant for the
        program, unless one is to make it leave.

        Args:
            output: the file that it is to write to.
            seccomp: with a filter in the kernel, so that no other call stops (since 5.3).
            leaves: SIGINT makes it detach.
        """
        filtered = seccomp and self.version >= _SECCOMP_BPF
        calls = (*CALLS, *_LIVES, *_FIRST, "old_mmap", "mmap2", "ipc")
        # A filter of the program's own may hide calls from strace's.
        names = ",".join(f"?{name}" for name in (*calls, *(["seccomp"] if filtered else [])))
        words = [
            self.path,
            "-f",
            "-X",
            "raw",
            "-I2" if leaves else "-I4",
            "-s",
            "256",
            "-e",
            f"trace={names}",
        ]
        if filtered:
            words.append("--seccomp-bpf")
        return [*words, "-o", output]


def find() -> Strace:
    """The strace in PATH.

    Raises:
        TargetError: there is none, or it is too old.
    """
    path = shutil.which("strace")
    if path is None:
        raise TargetError(
            "the strace engine needs strace, and there is none in PATH", hint=_INSTALL
        )
    try:
        text = subprocess.run(
            [path, "-V"], capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as e:
        raise TargetError(f"{path} does not run: {e}", hint=f"{path} -V") from e
    return Strace(path, version_of(path, text))


def version_of(path: str, text: bytes) -> tuple[int, int]:
    r"""(major, minor) from what `strace -V` prints.

    Raises:
        TargetError: too old, or not strace's words.

    >>> version_of("strace", b"strace -- version 6.1\nCopyright ...")
    (6, 1)
    """
    found = re.match(rb"strace -- version (\d+)\.(\d+)", text)
    if found is None:
        raise TargetError(f"{path} does not say its version like strace", hint=f"{path} -V")
    version = int(found[1]), int(found[2])
    if version < OLDEST:
        raise TargetError(
            f"strace {version[0]}.{version[1]} is too old: the strace engine needs "
            f"{OLDEST[0]}.{OLDEST[1]} or later",
            hint="memtrace run -- PROG ARGS..., or memtrace import LOG of a log made with it",
        )
    return version


def program(words: Sequence[str]) -> list[str]:
    """What comes behind the options, the program and its arguments."""
    return ["--", *words]
