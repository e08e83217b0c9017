# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace events`: every record of a trace, decoded, one line each."""

from __future__ import annotations

import sys
from shlex import quote
from typing import TYPE_CHECKING

import click

from memtrace.cli.options import common, trace_argument, warn
from memtrace.cli.progress import read_for
from memtrace.report.decoded import COLUMNS, LIFE, Events, headers_of, no_process
from memtrace.report.lines import clean
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

_BATCH = 1000


@click.command(short_help="Every recorded call, decoded, one line each.")
@trace_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "jsonl", "csv")),
    default="text",
    show_default=True,
    help="Lines to read, JSON objects, or a table.",
)
@click.option("--pid", type=int, metavar="PID", help="Only of this process.")
@click.option("--call", "call", metavar="NAME", help="Only this system call, or record.")
@common
def command(trace: str, form: str, pid: int | None, call: str | None) -> None:
    """Print every record of TRACE in the order it was applied, one line each."""
    shown = form == "csv" and sys.stdout.isatty()
    for text in read_for(trace, _lines(trace, form, pid, call)):
        if shown:  # a table is data, but a terminal would obey what stands in a path
            text = "".join(clean(line) + "\n" for line in text.split("\n")[:-1])  # noqa: PLW2901
        click.echo(text, nl=False, color=True)  # else click cuts sequences out


def _lines(trace: str, form: str, pid: int | None, call: str | None) -> Iterator[str]:
    """The lines, many at a time; at the end it may be that there are none to be had."""
    headers = headers_of(trace)
    with Trace(trace) as opened:
        _known(opened, call)
        events = Events(opened, headers)
        line = {"text": events.text, "jsonl": events.jsonl, "csv": events.csv}[form]
        batch = [",".join(COLUMNS) + "\n"] if form == "csv" else []
        for text in events.lines(line, pid, call):
            batch.append(text)
            if len(batch) >= _BATCH:
                yield "".join(batch)
                batch.clear()
        yield "".join(batch)
        if pid is not None and pid not in events.pids:
            raise no_process(pid, trace, events.pids)
        if not opened.complete:
            warn("the trace is incomplete: see memtrace verify")


def _known(trace: Trace, call: str | None) -> None:
    if call is not None and call not in trace.header.calls and call not in LIFE:
        raise UsageError(
            f"a trace holds no call named {call!r}",
            hint=f"memtrace events {quote(str(trace.path))} --call mmap",
        )
