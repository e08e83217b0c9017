# SPDX-License-Identifier: GPL-2.0-or-later
"""The arenas of a process's other threads."""

from __future__ import annotations

from memtrace.report import ledger
from memtrace.report.model import ProcessRow
from memtrace.report.terminal.blocks import Block, grid, heading, paragraphs
from memtrace.trace.sizes import format_size

_LISTED = 15


def section(p: ProcessRow, width: int) -> list[Block]:
    """The section of a process, [] if it has none."""
    if not p.arenas:
        return []
    rows = [("base", "thread", "opened", "opened now", "given back", "reserved", "gone")]
    for a in p.arenas[:_LISTED]:
        now = "unknown" if a.committed_bytes is None else format_size(a.committed_bytes)
        rows.append((
            f"{a.base:x}", "" if a.tid is None else str(a.tid),
            format_size(a.committed_peak_bytes), now, format_size(a.given_back_bytes),
            format_size(a.reserved_bytes), "" if a.died_seq is None else f"#{a.died_seq}",
        ))  # fmt: skip
    first, *others = ledger.arenas(p)
    out = [
        heading("thread arenas", "malloc's memory for threads other than the first", width),
        *paragraphs([first], width),
        grid(rows, "<>>>>>>", width),
    ]
    if len(p.arenas) > _LISTED:
        out.append(f"  and {len(p.arenas) - _LISTED:,} more")
    return [*out, *paragraphs(others, width), ""]
