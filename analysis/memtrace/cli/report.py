# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace report`: what a trace shows, as text, JSON or a page."""

from __future__ import annotations

import os
import shutil
import sys
from shlex import quote
from typing import TYPE_CHECKING

import click

from memtrace.cli.options import coloured, common, trace_argument, warn
from memtrace.cli.output import ascii_only, same_file, write_file
from memtrace.cli.progress import reading
from memtrace.trace.errors import UsageError
from memtrace.trace.sidecar import is_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memtrace.malloc.series import Series
    from memtrace.malloc.tags import Kinds
    from memtrace.replay.book import Book
    from memtrace.report.model import Report

#: To read, for programs, a page to look at, for comments.
FORMATS = ("text", "json", "html", "md")
#: Those that show states over time, which takes another pass.
_AGAIN = ("text", "html")


@click.command(short_help="What a trace shows: heap, regions, threshold.")
@trace_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="To read, for programs, a page to look at, or Markdown for comments.",
)
@click.option("-o", "--output", metavar="FILE", help="Write it to FILE.")
@click.option(
    "--chart/--no-chart",
    default=None,
    help="Draw malloc over time in the text; of a trace over 1 MiB it takes another reading, and is"
    " drawn only if asked for.",
)
@click.option("--pid", type=int, metavar="PID", help="Only the entries of this process.")
@common
def command(
    trace: str, form: str, output: str | None, pid: int | None, *, chart: bool | None
) -> None:
    """Report what TRACE shows.

    How the heap grew, what each region is for, where the threshold stood, and whether all that can
    be trusted.
    """
    from memtrace.report.build import of_process, read, read_both
    from memtrace.trace.sidecar import is_large

    if output is not None and same_file(output, trace):
        raise UsageError(
            f"the report would overwrite {trace}", hint=f"memtrace report {quote(trace)}"
        )
    if form == "html" and not is_file(trace) and os.path.exists(trace):
        raise UsageError(
            f"{trace} can be read but once, and the page needs more: record it to a file",
            hint="memtrace report trace.json --format html -o report.html",
        )
    with reading(trace):
        # What is drawn over time is read again, by the same book.
        both = read_both(trace) if form in _AGAIN else None
        report = read(trace) if both is None else both[0]
    if pid is not None:
        report = of_process(report, pid)
    if pid is not None and not report.processes:
        raise UsageError(f"no process {pid} in {trace}", hint=f"memtrace report {quote(trace)}")
    if form == "json":
        from memtrace.report import json

        data: Iterable[bytes] = json.stream(report)
    elif form == "md":
        from memtrace.report import markdown

        data = [markdown.render(report).encode("utf-8", "replace")]
    elif form == "html":
        with reading(trace):
            data = [_page(trace, report, both).encode("utf-8", "replace")]
    else:
        from memtrace.report import lines, text
        from memtrace.report.build import series_of

        def series(mms: list[int]) -> Mapping[int, Series] | None:
            if both is None or chart is False:
                return {}
            if chart is None and is_large(trace):
                return None  # it would take longer than all else from the cache
            with reading(trace):
                return series_of(*both[1:], mms)

        width = shutil.get_terminal_size().columns
        stream = sys.stdout if output is None else None
        plain = output is None and ascii_only()
        with lines.spelled(plain):
            shown = text.render(report, series=series, color=coloured(stream), width=width)
        shown = lines.plain(shown) if plain else shown
        data = [shown.encode("utf-8", "replace")]
    if output is None:
        for part in data:
            click.echo(part, nl=False, color=True)
    else:
        write_file(output, data)
    if report.exactness in ("incomplete", "drift"):
        warn(report.trust)


def _page(trace: str, report: Report, both: tuple[Report, Book, Kinds] | None) -> str:
    """The HTML report; the trace is read again for it."""
    from memtrace.report.html.gather import gather
    from memtrace.report.html.page import render

    if both is None:  # it was a file just now
        raise UsageError(f"{trace} is no file any more", hint=f"memtrace report {quote(trace)}")
    return render(gather(trace, report, both[2]))
