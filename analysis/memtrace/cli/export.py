# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace export`: a trace in the forms that other programs read."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

import click

from memtrace.cli.options import common, trace_argument, warn
from memtrace.cli.output import same_file, write_file
from memtrace.cli.progress import read_for
from memtrace.report.decoded import COLUMNS, Events, headers_of, no_process
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORMS = ("perfetto", "csv", "jsonl", "parquet")
_LATER = ("folded", "speedscope")
_TABLES = ("events", "regions", "heap_steps")
_BATCH = 1000


class _Form(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A form, with a sentence for those that come later."""

    name = "form"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what there is not."""
        if value in _LATER:
            raise UsageError(
                f"the {value} export is not in this version", hint="memtrace export --help"
            )
        if value not in _FORMS:
            self.fail(f"{value!r} is none of {', '.join(_FORMS)}", param, ctx)
        return value


@click.command(short_help="A trace for other programs: Perfetto, tables.")
@trace_argument
@click.option(
    "--to",
    "form",
    type=_Form(),
    required=True,
    metavar=f"[{'|'.join(_FORMS)}]",
    help="A timeline for ui.perfetto.dev, or a table.",
)
@click.option("-o", "--output", metavar="FILE", help="Write it to FILE, not to stdout.")
@click.option(
    "--table",
    type=click.Choice(_TABLES),
    help="Which table: every record (the default), region, or step of the heap.",
)
@click.option("--pid", type=int, metavar="PID", help="Only of this process.")
@common
def command(trace: str, form: str, output: str | None, table: str | None, pid: int | None) -> None:
    """Write TRACE in a form that other programs read.

    perfetto is a timeline of counters and regions that ui.perfetto.dev opens; csv, jsonl and
    parquet are tables.
    """
    if output is not None and same_file(output, trace):
        raise UsageError(
            f"the export would overwrite {trace}",
            hint=f"memtrace export {quote(trace)} --to {form} -o other.{form}",
        )
    if form == "perfetto" and table is not None:
        raise UsageError(
            "--table is for tables, and perfetto is a timeline",
            hint=f"memtrace export {quote(trace)} --to csv --table {table}",
        )
    if form == "parquet" and output is None:
        raise UsageError(
            "parquet is no text: it needs a file",
            hint=f"memtrace export {quote(trace)} --to parquet -o trace.parquet",
        )
    said: list[str] = []
    data = read_for(
        trace, _data(trace, form, table or "events", pid, said), to_file=output is not None
    )
    if output is None:
        for part in data:
            click.echo(part, nl=False)
    else:
        write_file(output, data)
    for text in said:
        warn(text)


def _data(trace: str, form: str, table: str, pid: int | None, said: list[str]) -> Iterator[bytes]:
    """What is written, made when it is asked for; `said` takes what there is to be warned of."""
    if form == "perfetto":
        from memtrace.report import perfetto

        yield from perfetto.stream(trace, pid, said)
    elif form == "parquet":
        from memtrace.report import frames

        yield from frames.parquet(trace, table, pid, said)
    elif table == "events":
        yield from _events(trace, form, pid, said)
    else:
        from memtrace.report import tables

        yield from tables.lines(trace, table, form, pid, said)


def _events(trace: str, form: str, pid: int | None, said: list[str]) -> Iterator[bytes]:
    """What `memtrace events` prints."""
    headers = headers_of(trace)
    with Trace(trace) as opened:
        events = Events(opened, headers)
        line = {"jsonl": events.jsonl, "csv": events.csv}[form]
        batch = [",".join(COLUMNS) + "\n"] if form == "csv" else []
        for text in events.lines(line, pid, None):
            batch.append(text)
            if len(batch) >= _BATCH:
                yield "".join(batch).encode("utf-8", "backslashreplace")
                batch.clear()
        yield "".join(batch).encode("utf-8", "backslashreplace")
        if pid is not None and pid not in events.pids:
            raise no_process(pid, trace, events.pids)
        if not opened.complete:
            said.append("the trace is incomplete: see memtrace verify")
