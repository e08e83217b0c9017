# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in malloc's heaps, as walks found it: rows of the report."""

from __future__ import annotations

from memtrace.malloc.walks import Taken
from memtrace.report.model import ChunkRow, WalkedHeapRow, WalkRow
from memtrace.trace.records import WalkedHeap


def walk_row(w: Taken, *, timed: bool) -> WalkRow:
    """A walk as the report has it."""
    return WalkRow(
        seq=w.seq,
        t_ns=w.t_ns if timed else None,
        why=w.why,
        still=w.still,
        took_ns=w.took_ns,
        heaps=[_heap_row(h) for h in w.heaps],
        heaps_total=w.total,
        bytes=w.size,
        resident_bytes=w.resident,
        used_bytes=w.sum.used,
        free_bytes=w.sum.free,
        top_bytes=w.sum.top,
        free_resident_bytes=w.sum.free_resident,
        top_resident_bytes=w.sum.top_resident,
    )


def _heap_row(h: WalkedHeap) -> WalkedHeapRow:
    return WalkedHeapRow(
        kind=h.kind,
        base=h.base,
        end=h.end,
        opened_bytes=h.opened,
        arena=h.arena,
        first=h.first,
        searched=h.searched,
        walked=h.walked,
        complete=h.complete,
        problem=h.problem,
        chunks=h.chunks,
        used_bytes=h.used,
        used_chunks=h.used_chunks,
        free_bytes=h.free,
        free_chunks=h.free_chunks,
        largest_free_bytes=h.largest_free,
        top=None if h.top is None else ChunkRow(address=h.top[0], bytes=h.top[1]),
        pin=None if h.pin is None else ChunkRow(address=h.pin[0], bytes=h.pin[1]),
        below_pin_bytes=h.below_pin,
        other_bytes=h.other,
        resident_bytes=h.resident,
        free_resident_bytes=h.free_resident,
        top_resident_bytes=h.top_resident,
    )
