# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace maps`: the map of a process at a moment."""

from __future__ import annotations

import click

from memtrace.cli.options import common, trace_argument, warn
from memtrace.replay.moment import state_at
from memtrace.report.lines import clean
from memtrace.trace.mapping import format_mapping


@click.command(short_help="The map of a process at a moment.")
@trace_argument
@click.option(
    "--at",
    "when",
    required=True,
    metavar="WHEN",
    help="An event's number (the state after it), a time (1.5s, 20ms), start, peak or end.",
)
@click.option("--pid", type=int, metavar="PID", help="Of this process, not of the first.")
@common
def command(trace: str, when: str, pid: int | None) -> None:
    """Print the map of a process at a moment of TRACE, in the syntax of /proc/PID/maps.

    Lines are merged canonically: neighbours with the same permissions and backing are one.
    """
    state = state_at(trace, when, pid)
    lines = [clean(format_mapping(m)) + "\n" for m in state.process.space.mappings()]
    click.echo("".join(lines), nl=False)
    for text in state.cautions():
        warn(text)
