# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace run`: start a program, record it, leave as it left."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memtrace.cli.exits import to_stderr
from memtrace.cli.options import coloured, common, quiet
from memtrace.cli.output import same_file
from memtrace.cli.record import can_walk, incomplete, printable, recorded, recording
from memtrace.trace.errors import UsageError
from memtrace.trace.sizes import format_time

if TYPE_CHECKING:
    from memtrace.check.budget import Limit
    from memtrace.collect.options import Options
    from memtrace.collect.recorder import Recording

    Recorder = Callable[[Sequence[str], str, Options], Recording]


@click.command(
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
    epilog="Exit status: the program's own; killed by a signal, memtrace dies of it too; "
    "2 usage, 125 memtrace failed, 126 not executable, 127 not found.",
)
@click.option("--no-seccomp", is_flag=True,
              help="Stop at every system call instead of filtering in the kernel: slow, but "
              "leaves the program without a filter and without no_new_privs.")  # fmt: skip
@click.option("--check", "budget", metavar="FILE",
              help="Hold the trace against the budget in FILE, as memtrace check does: the exit "
              "status is then 1 over budget, 3 not to be trusted, but a failing program's own.",
              )  # fmt: skip
@recording
@common
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[--] PROG [ARGS]...")
def command(  # noqa: PLR0913 - one for each option
    *,
    path: str,
    engine: str,
    no_seccomp: bool,
    snapshots: str | None,
    evidence: str,
    redact: bool,
    heap_walk: bool,
    budget: str | None,
    argv: tuple[str, ...],
) -> int:
    """Run a program and record every change it makes to its address space.

    Threads, children and what they exec are followed. Its input and output are left alone.
    """
    if not argv:
        raise UsageError("no program is named", hint="memtrace run -- PROG ARGS...")
    from memtrace.collect.options import Options, parse_snapshots

    limits = [] if budget is None else _limits(budget, path)
    fields: dict[str, Any] = parse_snapshots(snapshots)
    options = Options(
        **fields, evidence=evidence == "full", seccomp=not no_seccomp, redact=redact,
        heap_walk=heap_walk and can_walk("run", engine),
    )  # fmt: skip
    done = _RECORDERS[engine]()(argv, path, options)
    if not quiet():
        to_stderr(summary(argv, done, color=coloured(sys.stderr)) + "".join(withheld(argv, done)))
        to_stderr("".join(f"memtrace: {note}\n" for note in done.notes))
    if done.result.error is not None:
        _incomplete(done, done.result.error)
    if budget is not None:
        status = _judge(path, limits)
        if done.status == 0:
            return status
    return leave_as(done.status)


def _limits(budget: str, path: str) -> list[Limit]:
    """What a budget says: a mistake in it is told before the program is started, and that the
    trace could not be read again.
    """
    from memtrace.check.locate import read

    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(
            f"--check reads the trace when it is written, and {path} is no file to be read again",
            hint=f"memtrace run --check {shlex.quote(budget)} -o trace.json -- PROG ARGS...",
        )
    if same_file(path, budget):
        raise UsageError(
            f"the trace would overwrite {path}",
            hint=f"memtrace run --check {shlex.quote(budget)} -o trace.json -- PROG ARGS...",
        )
    return read(Path(budget), budget)


def _judge(path: str, limits: list[Limit]) -> int:
    """Hold the trace just made against a budget; the text goes to stderr."""
    from memtrace.cli.check import judged, rendered
    from memtrace.cli.progress import reading
    from memtrace.report.build import read

    with reading(path):
        report = read(path)
    result = judged(report, path, limits, lenient=False)
    if result.status or not quiet():
        to_stderr(rendered(result, "text", color=coloured(sys.stderr)))
    return result.status


def _by_ptrace() -> Recorder:
    from memtrace.collect.recorder import record

    return record


def _by_strace() -> Recorder:
    from memtrace.collect.strace.recording import record

    return record


def _by_python_ptrace() -> Recorder:
    from memtrace.collect.debugging import record

    return record


#: Each engine's `record`, imported when it is wanted.
_RECORDERS: dict[str, Callable[[], Recorder]] = {
    "ptrace": _by_ptrace,
    "strace": _by_strace,
    "python-ptrace": _by_python_ptrace,
}


def summary(argv: tuple[str, ...], r: Recording, *, color: bool = False) -> str:
    """The few lines that `run` prints on stderr: how much, can I trust it, what next.

    Args:
        argv: the program.
        r: what was recorded of it.
        color: use ANSI colours.
    """
    from memtrace.collect.ptrace import signal_name

    status, counts = r.status, r.result.counts
    how = (
        f"killed by {signal_name(os.WTERMSIG(status))}"
        if os.WIFSIGNALED(status)
        else f"exit {os.WEXITSTATUS(status)}"
    )
    name = printable(argv[0])
    calls = f"{counts.get('calls', 0):,} memory calls"
    head = f"memtrace  {name}  {how}  {format_time(r.duration_ns)}  {calls}"
    return "\n".join([head, *recorded(r.result, r.path, color=color)]) + "\n"


def withheld(argv: tuple[str, ...], r: Recording) -> Iterator[str]:
    """One line for each program that ran without its privilege, and what to type for one that has
    it: a tracer with CAP_SYS_PTRACE takes nothing away.
    """
    user = f"--reuid={os.getuid()} --regid={os.getgid()} --init-groups"
    for exe, which in r.withheld.items():
        yield (
            f"memtrace: {click.unstyle(exe)} is {' and '.join(which)} and ran without that "
            "privilege, because the kernel withholds it from a traced program\n"
        )
    if r.withheld:
        command = click.unstyle(shlex.join(argv))
        yield f"  try: sudo memtrace run -- setpriv {user} {command}\n"


def _incomplete(r: Recording, error: str) -> None:
    """Its own failure is still the program's status."""
    failed = incomplete(r.path, error)
    if r.status == 0:
        raise failed
    to_stderr(f"memtrace: {failed.message}\n  try: {failed.hint}\n")


def leave_as(status: int) -> int:
    """The program's exit code; killed by a signal, it takes this process along the same way."""
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number
