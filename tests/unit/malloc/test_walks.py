# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of walks, and which of their words are believed."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from memtrace.malloc.walks import MOST, MOST_HEAPS, Walks, is_sound
from memtrace.trace.records import Walk, WalkedHeap

PAGE = 4096
HEAP = WalkedHeap(
    kind="main", base=0x10000, end=0x20000, first=0x10000, walked=0x20000, complete=True, chunks=4,
    used=0x1000, used_chunks=3, free=0xE000, free_chunks=1, largest_free=0xE000,
    top=(0x1F000, 0x1000), pin=(0x1EFE0, 0x20), below_pin=0xE000, other=0, resident=0x10000,
    free_resident=0xD000, top_resident=0,
)  # fmt: skip
BROKEN = WalkedHeap(kind="arena", base=1 << 26, end=(1 << 26) + PAGE, problem="no chunk there")
PARTLY = replace(HEAP, complete=False, problem="no time", top=None, pin=None, other=None)


def arena(number: int, pages: int) -> WalkedHeap:
    return WalkedHeap(
        kind="arena", base=number << 26, end=(number << 26) + pages * PAGE, complete=True, chunks=1,
        used=pages * PAGE, used_chunks=1, free=0, free_chunks=0, largest_free=0, other=0,
        resident=PAGE, free_resident=0,
    )  # fmt: skip


def walk(*heaps: WalkedHeap, **fields: Any) -> Walk:
    return Walk(
        **{"t": 1, "mm": 1, "pid": 1, "tid": 1, "why": "peak", "heaps": list(heaps), **fields}
    )


@pytest.mark.parametrize("heap", [HEAP, BROKEN, PARTLY, arena(1, 3)])
def test_what_a_collector_writes_is_sound(heap: WalkedHeap) -> None:
    assert is_sound(heap)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "attic"}, {"end": 0x10000}, {"used": 0x1010}, {"free": -1}, {"other": 16},
        {"other": None}, {"resident": None}, {"chunks": None}, {"largest_free": 0xF000},
        {"free_resident": 0xF000}, {"top_resident": 0x2000}, {"below_pin": 0xF000},
        {"top": (0x1F000, 0x2000)}, {"top": None}, {"pin": (0, 16)}, {"end": 1 << 70},
        {"problem": "x"}, {"complete": False}, {"complete": False, "problem": "x", "used": None},
    ],
)  # fmt: skip
def test_what_cannot_be_is_left_out(fields: dict[str, Any]) -> None:
    heap = replace(HEAP, **fields)
    assert not is_sound(heap)
    walks = Walks()
    walks.add(1, 1, walk(heap))
    assert (walks.kept, walks.total) == ([], 0)
    walks.add(1, 1, walk(heap, arena(1, 3)))
    (kept,) = walks.kept
    assert kept.heaps == (arena(1, 3),)
    assert kept.sum.used is None  # of all heaps there were: not known


def test_sums_are_of_all_heaps_or_unknown() -> None:
    walks = Walks()
    walks.add(7, 8, walk(arena(2, 1), HEAP, arena(1, 3), why="exit", still=True, took=5))
    w = walks.last
    assert w is not None
    assert (w.seq, w.t_ns, w.why, w.still, w.took_ns, w.total) == (7, 8, "exit", True, 5, 3)
    assert w.heaps == (HEAP, arena(1, 3), arena(2, 1))
    assert (w.size, w.resident) == (0x10000 + 4 * PAGE, 0x10000 + 2 * PAGE)
    assert (w.sum.used, w.sum.free, w.sum.top) == (0x1000 + 4 * PAGE, 0xE000, 0x1000)
    assert (w.sum.free_resident, w.sum.top_resident) == (0xD000, 0)
    for more in ({"left_out": 1}, {"heaps": [HEAP, BROKEN]}, {"heaps": [HEAP, PARTLY]}):
        walks.add(9, 9, walk(HEAP, **more))
        assert walks.kept[-1].sum.used is None
    assert walks.kept[-3].total == 2


def test_the_largest_heaps_are_kept_and_the_main_one() -> None:
    walks = Walks()
    many = [arena(i, i) for i in range(1, MOST_HEAPS + 21)]
    walks.add(1, 1, walk(*many, HEAP))
    (w,) = walks.kept
    assert w.total == MOST_HEAPS + 21
    assert w.heaps == (HEAP, *many[21:])
    assert w.sum.used == 0x1000 + PAGE * sum(range(1, MOST_HEAPS + 21))


@pytest.mark.parametrize("peak", [1, 2, 77, 298, 299])
def test_of_many_walks_the_peak_and_the_last_are_kept(peak: int) -> None:
    walks = Walks()
    for seq in range(300):
        walks.add(seq, seq, walk(arena(1, 2 if seq == peak else 1)))
        assert walks.last is not None
        assert walks.last.seq == seq
        assert len(walks.kept) <= MOST
    assert walks.peak is not None
    assert walks.peak.seq == peak
    assert walks.total == 300
    seqs = [w.seq for w in walks.kept]
    assert seqs == sorted(set(seqs))
    assert len(seqs) >= MOST // 2


def test_no_walks() -> None:
    walks = Walks()
    assert (walks.last, walks.peak) == (None, None)
