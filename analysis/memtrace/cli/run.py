# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace run`: start a program, record it, leave as it left."""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from memtrace.cli.options import common, quiet
from memtrace.trace.errors import TargetError, UsageError
from memtrace.trace.sizes import PAGE, format_size, format_time

if TYPE_CHECKING:
    from memtrace.collect.recorder import Recording

_ENGINES = ("auto", "ptrace")
_LATER_ENGINES = ("bpf", "perf", "strace", "python-ptrace", "poll")


def _later(_: click.Context, param: click.Parameter, value: object) -> None:
    if value:
        raise UsageError(f"{param.opts[0]} is not in this version", hint="memtrace run --help")


def _engine(_: click.Context, __: click.Parameter, value: str) -> str:
    if value in _LATER_ENGINES:
        raise UsageError(
            f"the {value} engine is not in this version",
            hint="memtrace run --engine ptrace -- PROG",
        )
    if value not in _ENGINES:
        raise UsageError(
            f"there is no engine {value!r}", hint="memtrace run --engine ptrace -- PROG"
        )
    return value


@click.command(
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
    epilog="Exit status: the program's own; killed by a signal, memtrace dies of it too; "
    "125 memtrace failed, 126 not executable, 127 not found.",
)
@click.option("-o", "--output", "path", default="trace.json", show_default=True, metavar="FILE",
              help="The trace; .gz and .zst compress. An old one is kept as FILE.old.")  # fmt: skip
@click.option("--engine", default="auto", callback=_engine, metavar="auto|ptrace",
              help="How to trace; auto is ptrace, which needs no privilege.")  # fmt: skip
@click.option("--no-seccomp", is_flag=True,
              help="Stop at every system call instead of filtering in the kernel: slow, but "
              "programs that use CLONE_UNTRACED keep working.")  # fmt: skip
@click.option("--snapshots", metavar="every=100ms|every=N|off",
              help="How often to read the kernel's own map for verification (always at exec, fork "
              "and exit). Default: every 100 ms with at least 256 calls between.")  # fmt: skip
@click.option("--evidence", type=click.Choice(("full", "none")), default="full", show_default=True,
              help="Whether to record callers and chunk headers.")  # fmt: skip
@click.option("--low-overhead", is_flag=True, hidden=True, expose_value=False, callback=_later)
@click.option("--heap-walk", is_flag=True, hidden=True, expose_value=False, callback=_later)
@click.option(
    "--faults", is_flag=False, flag_value="1", hidden=True, expose_value=False, callback=_later
)
@click.option("--redact", is_flag=True, hidden=True, expose_value=False, callback=_later)
@click.option("--check", hidden=True, expose_value=False, callback=_later)
@common
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[--] PROG [ARGS]...")
def command(
    *,
    path: str,
    engine: str,
    no_seccomp: bool,
    snapshots: str | None,
    evidence: str,
    argv: tuple[str, ...],
) -> int:
    """Run a program and record every change it makes to its address space.

    Threads, children and what they exec are followed. Its input and output are left alone.
    """
    if not argv:
        raise UsageError("no program is named", hint="memtrace run -- PROG ARGS...")
    from memtrace.collect.options import Options, parse_snapshots
    from memtrace.collect.recorder import record

    fields: dict[str, Any] = parse_snapshots(snapshots)
    options = Options(**fields, evidence=evidence == "full", seccomp=not no_seccomp)
    recording = record(argv, path, options)
    if not quiet():
        sys.stderr.write(summary(argv, recording))
    if recording.result.error is not None:
        _incomplete(recording)
    return leave_as(recording.status)


def summary(argv: tuple[str, ...], r: Recording) -> str:
    """The few lines that `run` prints on stderr: how much, can I trust it, what next."""
    from memtrace.collect.ptrace import signal_name

    status, counts = r.status, r.result.counts
    how = (
        f"killed by {signal_name(os.WTERMSIG(status))}"
        if os.WIFSIGNALED(status)
        else f"exit {os.WEXITSTATUS(status)}"
    )
    name = click.unstyle(argv[0]).encode("ascii", "backslashreplace").decode()[-40:]
    calls = f"{counts.get('calls', 0):,} memory calls"
    lines = [f"memtrace  {name}  {how}  {format_time(r.duration_ns)}  {calls}"]
    if r.result.error is None:
        total, exact = counts["snapshots"], counts["exact"]
        lines.append(
            f"  heap peak {format_size(r.result.heap_peak)}, "
            f"mapped peak {format_size(r.result.vm_peak * PAGE)}, "
            f"resident peak {format_size(r.result.rss_peak * PAGE)}"
        )
        word = "exact" if total else "unverified"
        if exact < total or counts["lost"]:
            word = "NOT exact"
        lines.append(f"  {word}: {exact} of {total} kernel snapshots reproduced")
        size = format_size(r.result.bytes_written)
        lines.append(f"  wrote {r.path} ({size})    next: memtrace report {r.path}")
    return "\n".join(lines) + "\n"


def _incomplete(r: Recording) -> None:
    """The recording failed although the program ran: its own failure is still its status."""
    error = TargetError(
        f"the trace is incomplete: {r.result.error}",
        hint=f"df -h {os.path.dirname(os.path.abspath(r.path))}",
    )
    if r.status == 0:
        raise error
    sys.stderr.write(f"memtrace: {error.message}\n  try: {error.hint}\n")


def leave_as(status: int) -> int:
    """The program's exit code; killed by a signal, it takes this process along the same way."""
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number
