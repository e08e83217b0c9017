# SPDX-License-Identifier: GPL-2.0-or-later
"""The heap's ledger, both thresholds and arenas, of real processes that tell what they did."""

from __future__ import annotations

import os

import pytest
from tests.live.driving import Drive, needs_32_bit

T = 131072
MIB = 1 << 20


@pytest.mark.parametrize(
    ("form", "size"), [("", 64 * MIB), ("static", 64 * MIB), ("i386", MIB), ("i386-static", MIB)]
)
def test_the_heaps_of_thread_arenas(drv: Drive, form: str, size: int) -> None:
    if "i386" in form:
        needs_32_bit()
    # A thread that allocates 3 MiB and frees it again.
    p = drv("m100000 thr1,100000,30,1", form).process
    assert p.arenas
    calls = 1 if size == 64 * MIB else 3
    assert len(p.arenas) >= calls
    for a in p.arenas:
        assert (a.base % size, a.reserved_bytes) == (0, size)
        assert 0 < a.committed_peak_bytes <= size
        assert a.tid != p.pid
        assert a.committed_bytes == (None if a.died_seq is None else 0)
        assert a.given_back_bytes > 0
    # One stays: the arena of a thread that has ended is kept for the next.
    assert sum(a.died_seq is None for a in p.arenas) == 1


def test_the_limit_is_by_the_cpus_that_are_online(drv: Drive) -> None:
    cpus = os.sysconf("SC_NPROCESSORS_ONLN")
    limit = drv("m1").process.arena_limit
    assert (limit.max, limit.cpus) == (max(8 * cpus, 9), cpus)
    limit = drv("m1", env={"MALLOC_ARENA_MAX": "3"}).process.arena_limit
    assert (limit.max, limit.reason) == (3, "environ")


@pytest.mark.parametrize(("ops", "pinned"), [
    ("n400,1000 m24 F0,399", True), ("n40,100000 m24 F0,39", True), ("n400,1000 F0,399", False),
])  # fmt: skip
def test_a_walk_tells_what_pins_the_top(drv: Drive, *, ops: str, pinned: bool) -> None:
    kept = drv(ops, options=("--heap-walk",)).process.heap.no_trim
    assert (kept is not None and kept.reason == "pinned") == pinned


def test_a_heap_below_a_raised_trim_threshold_keeps_everything(drv: Drive) -> None:
    # The mapped block raises the trim threshold to 20 MiB: 5 MiB of free heap stay.
    d = drv("m100000 m10485760 f1 n50,100000 F2,51")
    p, freed = d.process, d.block(1)
    assert p.heap.shrinks == 0
    assert p.threshold.trim.low == p.threshold.trim.high == 2 * freed["chunk"]
    (move,) = p.threshold.history
    assert p.heap.no_trim is not None
    assert (p.heap.no_trim.reason, p.heap.no_trim.since_seq) == ("below-trim-threshold", move.seq)


def test_mallopt_is_told_by_both_records(drv: Drive) -> None:
    # M_MMAP_MAX is -4
    p = drv("m100000 m200000 f1 o-4,0 m1000000").process
    first, second = p.threshold.history
    assert (first.cause, second.cause, second.against) == (
        "freed-chunk",
        "contradiction",
        first.seq,
    )
    assert p.heap.steps[-1].seq == second.seq
    assert (p.threshold.trim.low, p.threshold.trim.high) == (0, None)
