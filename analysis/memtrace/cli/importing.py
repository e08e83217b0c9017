# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace import`: a strace log as a trace."""

from __future__ import annotations

import sys
from shlex import quote
from typing import TYPE_CHECKING

import click

from memtrace.cli.exits import to_stderr
from memtrace.cli.options import coloured, common, quiet
from memtrace.cli.output import same_file
from memtrace.cli.record import printable, styled
from memtrace.trace.errors import UsageError
from memtrace.trace.sizes import format_moment, format_size

if TYPE_CHECKING:
    from memtrace.collect.strace.importing import Imported


@click.command(
    short_help="A strace log as a trace.",
    epilog="Record with: strace -f -ttt -T -y -e trace=%memory,%process,prctl -o LOG PROG",
)
@click.option("-o", "--output", "path", default="trace.json", show_default=True, metavar="FILE",
              help="The trace; .gz and .zst compress. An old one is kept as FILE.old.")  # fmt: skip
@click.option("--redact", is_flag=True,
              help="Keep arguments, environment, paths and other names out of it.")  # fmt: skip
@common
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
def command(*, path: str, redact: bool, logs: tuple[str, ...]) -> None:
    """Make a trace of LOG, which strace -f has written; - is standard input.

    Of a log in many files (strace -ff), LOG is what their names begin with, their folder, or all of
    them.

    No line that may matter is dropped in silence: what cannot be read is counted and shown. A log
    holds no map of the kernel, so that the trace cannot be verified.
    """
    from memtrace.collect.strace.importing import import_log

    for log in logs:
        if same_file(path, log):
            where = quote(f"{log}.trace.json")
            raise UsageError(
                f"the trace would replace {log}", hint=f"memtrace import -o {where} {quote(log)}"
            )
    done = import_log(logs, path, redact=redact)
    if not quiet():
        to_stderr(summary(logs[0], path, done, color=coloured(sys.stderr)))


def summary(log: str, path: str, r: Imported, *, color: bool = False) -> str:
    """The lines that `import` prints on stderr: how much, can I trust it, what next.

    Args:
        log: its name.
        path: of the trace.
        r: what was found in the log.
        color: use ANSI colours.
    """
    from memtrace.collect.strace.recognise import RECORD

    took = "" if r.duration_ns is None else f"{format_moment(r.duration_ns, r.clock)}  "
    spaces = f"{r.processes:,} address space" + ("s" if r.processes != 1 else "")
    name = "standard input" if log == "-" else printable(log)
    heap = (
        ""
        if r.heap_peak is None
        else f", heap peak {styled(format_size(r.heap_peak), color=color, bold=True)}"
    )
    lines = [
        f"memtrace  {name}  {took}{r.counts['calls']:,} memory calls",
        f"  {spaces}{heap}",
        f"  {styled('unverified', color=color, fg='yellow')}: no kernel snapshots in this log",
    ]
    if r.unnamed:
        lines.append("  the process is called 0: no line tells its number (strace -f -o does)")
    if r.reason:
        lines.append(f"  incomplete: {r.reason}")
    lines += [f"    {printable_line(text)}" for text in r.unreadable]
    if r.reason:
        lines.append(f"  next time: {RECORD}")
    size = format_size(r.bytes_written)
    lines.append(f"  wrote {path} ({size})    next: memtrace report {quote(path)}")
    return "\n".join(lines) + "\n"


def printable_line(text: str) -> str:
    """A line of a log for a terminal, at most 100 columns of it."""
    shown = click.unstyle(text).encode("ascii", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
    return shown if len(shown) <= 100 else shown[:97] + "..."
