# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace attach`: record a process that runs already, and leave it as it was."""

from __future__ import annotations

import os
import select
import shutil
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from memtrace.cli.exits import to_stderr
from memtrace.cli.options import coloured, common, quiet
from memtrace.cli.record import can_walk, incomplete, printable, recorded, recording
from memtrace.trace.sizes import format_size, format_time

if TYPE_CHECKING:
    from memtrace.collect.attaching import Attached, Progress


class _Line:
    """The one line that is rewritten on a terminal while the attach lasts."""

    def __init__(self) -> None:
        self.on = sys.stderr.isatty() and not quiet()
        self._shown = False
        self._told = False

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        if not quiet():
            self._write(f"memtrace: {text}\n")

    def watch(self, p: Progress) -> None:
        """Rewrite it; the first time, say what was attached to."""
        name = printable(p.name)
        threads = f"{p.threads} {'thread' if p.threads == 1 else 'threads'}"
        if not self._told:
            self._told = True
            size = f"{format_size(p.mapped)} mapped, {format_size(p.resident)} resident"
            self.say(f"attached to {p.pid} ({name}), {threads}, {size}; Ctrl-C detaches")
        if not self.on:
            return
        several = f"  {p.processes} processes" if p.processes > 1 else ""
        text = (
            f"{p.elapsed_ns / 1e9:5.0f} s  {p.calls:,} memory calls  "
            f"mapped {format_size(p.mapped)}  resident {format_size(p.resident)}{several}"
            f"  {threads}"
        )
        self._write("\r" + text[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        self._shown = True

    def clear(self) -> None:
        """Take it away."""
        if self._shown:
            self._shown = False
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        # The target stands still while this process waits: for a terminal after ^S, a full pipe.
        if not _takes_output():
            return
        to_stderr(text)


def _takes_output(ms: int = 0) -> bool:
    """Whether stderr takes a line now, or within some milliseconds; or is not to be had."""
    try:
        poll = select.poll()
        poll.register(sys.stderr, select.POLLOUT)
        return bool(poll.poll(ms))
    except (OSError, ValueError):
        return True


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0, also after Ctrl-C and when the process ends meanwhile; 125 it cannot "
    "be attached to (memtrace doctor PID says why); 2 usage.",
)
@click.argument("pid", metavar="PID")
@click.option("--for", "duration", metavar="30s", help="Detach after this time.")
@recording
@common
def command(
    *,
    pid: str,
    duration: str | None,
    path: str,
    engine: str,
    snapshots: str | None,
    evidence: str,
    redact: bool,
    heap_walk: bool,
) -> NoReturn:
    """Record a running process until Ctrl-C (or SIGTERM, or --for), then let it run on.

    All its threads are traced, and the children it starts from now on. While attached, every system
    call it makes costs some 20 us more. What it had mapped before is known, not how it came about.
    """
    if engine == "strace":
        from memtrace.collect.strace.attaching import record_attached
    else:
        from memtrace.collect.attaching import record_attached
    from memtrace.collect.options import Options, parse_for, parse_pid, parse_snapshots

    number = parse_pid(pid)
    for_ns = None if duration is None else parse_for(duration)
    fields: dict[str, Any] = parse_snapshots(snapshots)
    options = Options(
        **fields,
        evidence=evidence == "full",
        redact=redact,
        heap_walk=heap_walk and can_walk("attach", engine),
    )
    line = _Line()
    attached = record_attached(number, path, options, for_ns=for_ns, say=line.say, watch=line.watch)
    line.clear()
    if not quiet():
        while not _takes_output(1):
            attached.serve()
        to_stderr(summary(attached, color=coloured(sys.stderr)))
    if attached.result.error is not None:
        raise incomplete(attached.path, attached.result.error)
    attached.serve()
    # Whoever was left asleep is let go by the end of this process, and until then stands still if
    # it wakes up: not for as long as the interpreter takes to end.
    os._exit(0)


def summary(a: Attached, *, color: bool = False) -> str:
    """The few lines that `attach` prints on stderr at its end; `color`: with ANSI colours."""
    from memtrace.collect.ptrace import signal_name

    if a.status is None:
        how = "ended" if a.ended else "detached, it runs on"
    elif os.WIFSIGNALED(a.status):
        how = f"killed by {signal_name(os.WTERMSIG(a.status))}"
    else:
        how = f"exit {os.WEXITSTATUS(a.status)}"
    calls = f"{a.result.counts.get('calls', 0):,} memory calls"
    name = printable(a.argv[0] if a.argv else "")
    head = f"memtrace  {name} ({a.pid})  {how}  {format_time(a.duration_ns)}  {calls}"
    return "\n".join([head, *recorded(a.result, a.path, color=color)]) + "\n"
