# SPDX-License-Identifier: GPL-2.0-or-later
"""What changed between two moments of one process, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace.replay.difference import Fate, Sum, sums
from memtrace.report import palette
from memtrace.report.lines import clean, columns, fit_end, program
from memtrace.report.terminal.blocks import Block, Cell, extent, grid, heading, written
from memtrace.trace.sizes import format_moment, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memtrace.replay.moment import State

#: Regions shown unless all are wanted.
SHOWN = 20
#: Columns of a path, at most.
_PATH = 40


def render(
    before: State,
    after: State,
    fates: Sequence[Fate],
    clock: str,
    *,
    every: str | None,
    width: int,
    color: bool = False,
) -> str:
    """The whole text.

    Args:
        before: the earlier moment.
        after: the later one.
        fates: what became of each region.
        clock: how exact the trace's times are.
        every: the command that shows every region, where only those are shown that changed most;
            None: all are.
        width: columns to fit in.
        color: use ANSI colours.
    """
    old, new = before.process.space.total, after.process.space.total
    assumed = before.process.space.assumed or after.process.space.assumed
    least = "at least " if assumed else ""
    lines: list[Block] = [
        f"pid {after.process.pid}   {_moment(before, clock)} to {_moment(after, clock)}",
        f"mapped   {least}{format_size(old)} to {least}{format_size(new)}: {_signed(new - old)}",
    ]
    if assumed:
        lines.append("what was mapped before the log begins counts from the call that proves it")
    if before.process is not after.process and before.process.mm != after.process.mm:
        lines.append(_replaced(before, after))
    if not fates:
        return written([*lines, "", "no region has changed"], color=color)
    lines += ["", _sums(sums(list(fates)), new - old)]
    shown = list(fates) if every is None else list(fates[:SHOWN])
    lines += ["", heading("regions, the largest change first", "", width), _regions(shown, width)]
    if len(shown) < len(fates):
        lines.append(f"  and {len(fates) - len(shown):,} more: {every}")
    return written(lines, color=color)


def _moment(state: State, clock: str) -> str:
    at = "" if clock == "none" else f" ({format_moment(state.t, clock)})"
    return f"#{state.seq}{at}"


def _replaced(before: State, after: State) -> str:
    argv = after.process.start.argv
    what = f": {clean(program(argv[0]))}" if argv else ""
    return (
        f"another address space since #{after.process.born_seq}{what}; nothing of the one before "
        f"(mm {before.process.mm}) is left"
    )


def _sums(by: dict[str, Sum], total: int) -> Block:
    rows: list[tuple[Cell, ...]] = [
        ("kind", "born", "", "gone", "", "grown", "shrunk", "re-protected", "change")
    ]
    for kind, s in by.items():
        rows.append((
            (kind, palette.terminal(kind)),
            *_counted(s.born, s.born_bytes), *_counted(s.gone, s.gone_bytes),
            _bytes(s.grown_bytes), _bytes(s.shrunk_bytes), _bytes(s.protected_bytes),
            _signed(s.delta) if s.delta else "0 B",
        ))  # fmt: skip
    rows.append(("all", "", "", "", "", "", "", "", _signed(total)))
    return grid(rows, "<>>>>>>>>")


def _counted(count: int, size: int) -> tuple[str, str]:
    return (f"{count:,}", format_size(size)) if count else ("-", "")


def _bytes(size: int) -> str:
    return format_size(size) if size else "-"


def _signed(size: int) -> str:
    return f"+{format_size(size)}" if size > 0 else format_size(size)


def _regions(fates: Sequence[Fate], width: int) -> Block:
    """A line of each, as wide as there is room, but a file's name is there whole."""
    rows: list[tuple[Cell, ...]] = []
    for f in fates:
        there = f.there
        rows.append((
            _signed(f.delta) if f.delta else "0 B", (f.kind, palette.terminal(f.kind)),
            f"{there.start:x}-{there.end:x}",
            _perms(f), _what(f), "",
        ))  # fmt: skip
    used = extent(grid([(*r[:5], "|") for r in rows], "><<<<<"))
    room = min(width - used + 1, _PATH)
    for i, f in enumerate(fates):
        path = clean(f.there.path)
        name = columns(path.rpartition("/")[2])
        rows[i] = *rows[i][:5], fit_end(path, max(room, min(name + 1, _PATH)))
    return grid(rows, "><<<<<")


def _perms(f: Fate) -> str:
    before = f.before.perms if f.before else None
    after = f.after.perms if f.after else None
    if before is None or after is None or before == after:
        return after or before or ""
    return f"{before} to {after}"


def _what(f: Fate) -> str:
    if f.before is None:
        return "born"
    if f.after is None:
        return "gone"
    words = []
    if f.delta:
        words.append("grown" if f.delta > 0 else "shrunk")
    if f.moved:
        words.append(f"moved from {f.before.start:x}")
    if f.shifted:
        words.append(f"{format_size(f.shifted)} shifted")
    if f.protected:
        words.append(f"{format_size(f.protected)} re-protected")
    return ", ".join(words)
