# SPDX-License-Identifier: GPL-2.0-or-later
"""The largest regions of a process, a line each."""

from __future__ import annotations

from memtrace.report import palette, words
from memtrace.report.lines import columns, fit, fit_end, plural
from memtrace.report.model import ProcessRow, RegionRow
from memtrace.report.terminal.blocks import Block, Cell, extent, grid, heading
from memtrace.trace.sizes import format_size

_LISTED = 15
#: Kinds of the program's own files, its loader and stack.
_BELONGINGS = ("library", "vdso", "loader", "stack")


def section(p: ProcessRow, width: int) -> list[Block]:
    """The section of a process, [] if it has no region that is its own doing."""
    own = [r for r in p.regions if r.kind not in _BELONGINGS]
    if not own:
        return []
    rows: list[tuple[Cell, ...]] = [("address", "peak", "kind", "proven by", "born", "gone")]
    rows += [_region(r) for r in own[:_LISTED]]
    room = max(width - extent(grid(rows, "<><<>>")) - 2, 1)
    labelled = p.heap.most_bytes is not None
    notes = [
        "",
        *(
            fit(words.LABELLED, room) if labelled and r.kind == "heap" else _about(r, room)
            for r in own[:_LISTED]
        ),
    ]
    note = "without the program's own files, its loader and stack"
    if p.attached is not None:
        note = "older: than the trace; without libraries and the main stack"
    out: list[Block] = [
        heading("largest regions", note, width),
        grid([(*row, about) for row, about in zip(rows, notes, strict=True)], "<><<>><", width),
    ]
    if len(own) > _LISTED:
        out.append(f"  and {p.regions_total - _LISTED - (len(p.regions) - len(own)):,} more")
    return [*out, ""]


def _region(r: RegionRow) -> tuple[Cell, ...]:
    return (
        f"{r.start:x}",
        format_size(r.peak_bytes),
        (r.kind, palette.terminal(r.kind)),
        r.evidence if r.kind != "unknown" else "-",
        "fork" if r.inherited else "older" if r.older else f"#{r.born_seq}",
        "" if r.died_seq is None else f"#{r.died_seq}",
    )


def _about(r: RegionRow, room: int) -> str:
    """What else is to be said of a region, in `room` columns."""
    if r.owner is not None:
        return fit(r.owner, room)
    if r.path:
        return fit_end(r.path.rpartition("/")[2] or r.path, room)
    if r.kind == "unknown" and r.candidates:
        return _one_of(r.candidates, room)
    if r.moves:
        return fit(plural(r.moves, "mremap"), room)
    if r.populated:
        return fit("paged in at once", room)
    return fit("contradicts the threshold", room) if r.verdict == "contradiction" else ""


def _one_of(candidates: list[str], room: int) -> str:
    """Candidates with a question mark, whole words as far as there is room."""
    for n in range(len(candidates), 0, -1):
        text = " or ".join(candidates[:n]) + ("?" if n == len(candidates) else ", …?")
        if columns(text) <= room:
            return text
    return fit("…?", room)
