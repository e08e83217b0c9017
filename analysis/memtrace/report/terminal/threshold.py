# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the mmap threshold stood, and what moved it."""

from __future__ import annotations

from memtrace.report import ledger, words
from memtrace.report.lines import columns, paragraph, plural
from memtrace.report.model import ProcessRow
from memtrace.report.terminal.blocks import Block, heading, paragraphs


def section(p: ProcessRow, width: int) -> list[Block]:
    """The section of a process; why there is none to state, if there is none."""
    t = p.threshold
    note = "requests of this size or more get a mapping of their own"
    out: list[Block] = [heading("mmap threshold", note, width)]
    if p.allocator.name != "glibc":
        return [*out, *paragraphs([words.no_threshold(p)], width), ""]
    first = (t.initial, t.initial) if t.first is None else (t.first.min, t.first.max)
    birth = "attach" if p.attached is not None and not p.assumed else "start"
    rows = [(birth, words.interval(*first), words.start(p))]
    moves = t.history
    shown = moves if len(moves) <= 10 else [*moves[:5], *moves[-4:]]
    before = ""
    for m in shown:
        why = "likewise" if m.cause == before and m.against is None else ledger.move(m)
        rows.append((f"#{m.seq}", words.interval(m.low, m.high), why))
        before = m.cause
    if len(moves) > len(shown):
        rows.append(("...", "", plural(len(moves) - len(shown), "more move")))
    end = words.last(p)
    rows.append((end, words.interval(t.low, t.high), words.standing(p)))
    size = max(columns(r[1]) for r in rows)
    room = max(10, *(columns(r[0]) + 2 for r in rows))
    for when, value, why in rows:
        out += paragraph(why, width, f"  {when:<{room}}{value:>{size}}  ")
    trim = ledger.trim(p)
    notes = [*([] if trim is None else [trim]), *words.further(p)]
    return [*out, *paragraphs(notes, width), ""]
