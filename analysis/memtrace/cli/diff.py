# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace diff`: what changed between two moments of a trace, or between two traces."""

from __future__ import annotations

import shutil
import sys
from shlex import quote
from typing import TYPE_CHECKING

import click

from memtrace.cli.options import coloured, common, trace_argument, warn
from memtrace.cli.output import ascii_only
from memtrace.cli.progress import reading
from memtrace.trace.errors import UsageError

if TYPE_CHECKING:
    from memtrace.report.compared import Comparison

#: Of two traces: to read, for programs, for comments.
FORMATS = ("text", "json", "md")


@click.command(short_help="What changed between two moments, or two traces.")
@trace_argument
@click.argument("other", required=False, metavar="[OTHER]")
@click.option(
    "--at",
    "moments",
    multiple=True,
    metavar="WHEN",
    help="Twice: an event's number (the state after it), a time (1.5s, 20ms), start, peak or end.",
)
@click.option("--pid", type=int, metavar="PID", help="Of this process, not of the first.")
@click.option("--all", "everything", is_flag=True, help="Every region, not only the largest.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True,
              help="Of two traces: to read, for programs, or Markdown for comments.")  # fmt: skip
@common
def command(
    *,
    trace: str,
    other: str | None,
    moments: tuple[str, ...],
    pid: int | None,
    everything: bool,
    form: str,
) -> None:
    """Show what changed between two moments of TRACE, or from TRACE to OTHER.

    Of two moments of a process's map: which regions were born, went, grew, shrank, moved or got
    other permissions, by kind and bytes; the earlier one first, in whatever order they are named.
    Of two traces: what differs before anything ran, then heap, kinds, calls, threshold, and the
    findings that appeared, went or changed.
    """
    if other is not None:
        _traces(trace, other, form, alone=bool(moments) or pid is not None or everything)
        return
    if form != "text":
        raise UsageError(
            "two moments are compared as text only", hint=f"memtrace diff {quote(trace)} OTHER.json"
        )
    from memtrace.malloc.tags import CARVED, Cuts
    from memtrace.replay.difference import difference, replaced
    from memtrace.replay.moment import kept_first, of_pid, parse_when, state_at
    from memtrace.report.build import read_book
    from memtrace.report.difference import render
    from memtrace.report.lines import plain, spelled

    if len(moments) != 2:
        raise UsageError(
            f"two moments are needed, {len(moments) or 'none'} given",
            hint=f"memtrace diff {quote(trace)} --at start --at end",
        )

    def remedy(when: str, pid: int | None) -> str:
        other = "end" if when == "start" else "start"
        return f"memtrace diff {quote(trace)} --at {other} --at {when}" + of_pid(pid)

    for when in moments:
        parse_when(when, trace, remedy)
    asked = "".join(f" --at {quote(when)}" for when in moments) + of_pid(pid)
    with reading(trace):
        found = read_book(trace, pid)
    if found is None:
        raise UsageError(
            f"{trace} can be read but once, and two moments need more",
            hint=kept_first(trace, f"memtrace diff trace.json{asked}"),
        )
    book, kinds = found
    cuts = [Cuts(book.outline.page_size)]
    one, two = (
        state_at(trace, when, pid, book=book, observers=cuts, remedy=remedy) for when in moments
    )
    if one.seq > two.seq:
        one, two = two, one
    before, after = one.process, two.process
    if before.mm == after.mm:
        fates = difference(
            before.space, after.space, lambda tag: kinds.of(after.mm, tag), CARVED - 1
        )
    else:
        fates = replaced(
            before.space,
            after.space,
            (lambda tag: kinds.of(before.mm, tag), lambda tag: kinds.of(after.mm, tag)),
            CARVED - 1,
        )
    width = shutil.get_terminal_size().columns
    every = None if everything else f"memtrace diff {quote(trace)}{asked} --all"
    with spelled(ascii_only()):
        text = render(
            one, two, fates, book.outline.clock,
            every=every, width=max(width, 100), color=coloured(sys.stdout),
        )  # fmt: skip
    click.echo(plain(text) if ascii_only() else text, nl=False, color=True)
    said = [s.cautions(f"the map at #{s.seq}") for s in (one, two)]
    for text in dict.fromkeys(said[0] + said[1]):
        warn(text)


def _traces(trace: str, other: str, form: str, *, alone: bool) -> None:
    """Compare two traces, the earlier one first."""
    from memtrace.report import lines
    from memtrace.report.build import read
    from memtrace.report.comparison import compare

    if alone:
        raise UsageError(
            "--at, --pid and --all are for two moments of one trace",
            hint=f"memtrace diff {quote(trace)} {quote(other)}",
        )
    with reading(trace):
        before = read(trace)
    with reading(other):
        after = read(other)
    found = compare(before, after)
    plain = form == "text" and ascii_only()
    with lines.spelled(plain):
        shown = rendered(found, (trace, other), form, color=coloured(sys.stdout))
    shown = lines.plain(shown) if plain else shown
    click.echo(shown, nl=False, color=True)
    for name, text, trusted in zip((trace, other), found.trust, found.trusted, strict=True):
        if not trusted:
            warn(f"{name}: {text}")


def rendered(found: Comparison, names: tuple[str, str], form: str, *, color: bool = False) -> str:
    """A comparison in one of `FORMATS`, a newline at its end; text may have ANSI colours."""
    if form == "json":
        import msgspec

        return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
    if form == "md":
        from memtrace.report import versus_markdown

        return versus_markdown.render(found, names)
    from memtrace.report import versus

    return versus.render(found, names, color=color)
