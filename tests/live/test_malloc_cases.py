# SPDX-License-Identifier: GPL-2.0-or-later
"""What malloc does with the threshold, and what must be said of it: the driver does it, each fact
of the report is exact. glibc 2.36, 64-bit. The operations are drv.c's (m131049: malloc(131049)).

A chunk of malloc has `chunk_size(request)` bytes; T is the threshold (`mp_.mmap_threshold`).
"""

from __future__ import annotations

import pytest
from tests.live.driving import GLIBC, Drive, Driven, chunks, grown, kinds, moves, region_at, steps
from tests.live.truth import chunk_size

from memtrace.report.model import ProcessRow

T = 131072
FIRST = (0x21000, "holds", None)


def assert_glibc(p: ProcessRow) -> None:
    a = p.allocator
    assert (a.name, a.version, a.rule) == ("glibc", GLIBC, "mmap-threshold")


def assert_chunk(d: Driven, index: int, verdict: str = "holds", reason: str | None = None) -> None:
    """Block `index` is a mapped chunk to the report, as it is in truth."""
    told = d.block(index)
    assert told["mapped"]
    (r,) = [r for r in chunks(d.process) if r.start == told["map_start"]]
    assert (r.evidence, r.verdict, r.reason) == ("header", verdict, reason)
    assert (r.bytes, r.peak_bytes, r.moves) == (told["map_length"], told["map_length"], 0)
    length = told["map_length"]
    assert r.request is not None
    assert (r.request.min, r.request.max) == (length - 4119, length - 24)
    assert r.request.min <= told["request"] <= r.request.max


def test_1_a_request_below_the_threshold_begins_the_heap(drv: Drive) -> None:
    d = drv("m131048")
    assert_glibc(d.process)
    assert steps(d.process) == [FIRST]
    assert chunks(d.process) == []
    assert not d.block(0)["mapped"]
    assert moves(d.process) == []


def test_2_requests_below_the_threshold_make_the_heap_grow(drv: Drive) -> None:
    d = drv("m100000 m131048")
    assert steps(d.process) == [FIRST, (0x38000, "holds", None)]
    assert chunks(d.process) == []


def test_3_a_request_at_the_threshold_is_mapped(drv: Drive) -> None:
    d = drv("m100000 m131049")
    assert steps(d.process) == [FIRST]
    (r,) = chunks(d.process)
    assert r.request is not None
    assert (r.bytes, r.request.min, r.request.max) == (135168, 131049, 135144)
    assert_chunk(d, 1)


def test_4_the_first_request_finds_the_heap_of_the_tcache(drv: Drive) -> None:
    d = drv("m131049")
    assert steps(d.process) == [FIRST]
    assert chunks(d.process) == []
    assert not d.block(0)["mapped"]  # though its chunk is T
    assert chunk_size(131049) == T


def test_4_the_first_request_that_the_first_heap_does_not_hold(drv: Drive) -> None:
    assert chunks(drv("m134472").process) == []
    d = drv("m134473")
    assert steps(d.process) == [FIRST]
    assert_chunk(d, 0)


def test_5_the_free_of_a_mapped_chunk_moves_the_threshold(drv: Drive) -> None:
    d = drv("m100000 m131049 f1 m131049 m135144 m135145")
    dynamic = ("explained", "dynamic-threshold")
    assert steps(d.process) == [FIRST, (0x38000, *dynamic), (0x21000, *dynamic)]
    freed, fresh = chunks(d.process)
    assert (freed.bytes, freed.verdict, fresh.bytes, fresh.verdict) == (
        135168, "holds", 139264, "holds",
    )  # fmt: skip
    t = d.process.threshold
    assert (t.initial, t.low, t.high, t.fixed_by) == (T, 135168, 135168, None)
    assert moves(d.process) == [(135168, 135168, "freed-chunk")]
    assert t.history[0].seq == freed.died_seq
    (unmapped,) = d.traced.calls("munmap", ret=0, args=[freed.start, 135168])
    assert unmapped["seq"] == freed.died_seq
    assert d.process.metrics["threshold.rises"] == 1
    assert_chunk(d, 4)


def test_6_free_memory_serves_any_size(drv: Drive) -> None:
    d = drv("n10,100000 m1 F0,9 m200000 m400000 m600000")
    assert [s.verdict for s in d.process.heap.steps] == ["holds"] * 6
    assert all(s.delta in (0x21000, 0x30000, 0x31000) for s in d.process.heap.steps)
    (r,) = chunks(d.process)
    assert r.bytes == 602112
    assert_chunk(d, 13)
    assert not d.block(11)["mapped"]
    assert not d.block(12)["mapped"]
    last = [o["break_after"] for o in d.ops][-3:]
    assert last == [d.process.heap.end] * 3


def test_7_top_pad_freezes_the_threshold(drv: Drive) -> None:
    d = drv("m1 m200000 f1 m200000", env={"MALLOC_TOP_PAD_": "0"})
    assert steps(d.process) == [(0x1000, "holds", None)]
    assert [(r.bytes, r.verdict) for r in chunks(d.process)] == 2 * [(200704, "holds")]
    t = d.process.threshold
    assert (t.initial, t.low, t.high, t.fixed_by) == (T, T, T, "environ")
    assert moves(d.process) == []


@pytest.mark.parametrize(
    "env",
    [
        {"MALLOC_MMAP_THRESHOLD_": "131072"}, {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_MAX_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.top_pad=131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"},
    ],
    ids=["threshold", "trim", "max", "tunable-pad", "tunable-trim"],
)  # fmt: skip
def test_7_so_does_each_of_the_four_settings(drv: Drive, env: dict[str, str]) -> None:
    d = drv("m1 m200000 f1 m200000", env=env)
    assert [r.bytes for r in chunks(d.process)] == [200704, 200704]
    source = "tunable" if "GLIBC_TUNABLES" in env else "environ"
    t = d.process.threshold
    assert (t.low, t.high, t.fixed_by, moves(d.process)) == (T, T, source, [])


@pytest.mark.parametrize(
    "env",
    [
        {"MALLOC_ARENA_MAX": "1"}, {"MALLOC_PERTURB_": "85"}, {"MALLOC_ARENA_TEST": "1"},
        {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"},
        {"GLIBC_TUNABLES": "glibc.malloc.mxfast=0"},
    ],
    ids=["arena-max", "perturb", "arena-test", "tcache", "mxfast"],
)  # fmt: skip
def test_7_no_other_setting_does(drv: Drive, env: dict[str, str]) -> None:
    d = drv("m100000 m200000 f1 m200000", env=env)
    assert [r.bytes for r in chunks(d.process)] == [200704]
    t = d.process.threshold
    assert (t.low, t.high, t.fixed_by) == (200704, 200704, None)
    assert steps(d.process)[1][1:] == ("explained", "dynamic-threshold")


def test_8_mmap_max_sends_everything_to_the_heap(drv: Drive) -> None:
    d = drv("m100000 m1000000 f1", env={"MALLOC_MMAP_MAX_": "0"})
    assert steps(d.process) == [
        FIRST, (0x10C000, "explained", "mmap-max"), (-0xF4000, "explained", "trim"),
    ]  # fmt: skip
    assert chunks(d.process) == []
    assert d.process.threshold.fixed_by == "environ"
    assert d.process.heap.shrunk_bytes == 0xF4000


def test_9_the_same_by_mallopt_is_a_contradiction_without_a_cause(drv: Drive) -> None:
    d = drv("o-4,0 m100000 m1000000")  # M_MMAP_MAX
    assert steps(d.process) == [FIRST, (0x10C000, "contradiction", None)]
    t = d.process.threshold
    assert t.fixed_by is None
    assert moves(d.process) == [(0, None, "contradiction")]
    assert t.history[0].seq == d.process.heap.steps[1].seq
    # The trace cannot tell why: nothing in the report names mallopt as the cause.
    assert "mallopt" not in repr((d.process.heap, d.process.threshold, d.process.regions))


def test_9_a_threshold_lowered_by_mallopt_is_one_as_well(drv: Drive) -> None:
    d = drv("o-3,4096 m1 m100000 m100000")  # M_MMAP_THRESHOLD
    (small,) = chunks(d.process)
    assert (small.bytes, small.verdict, small.reason) == (102400, "contradiction", None)
    assert small.evidence == "header"
    ((low, high, cause),) = moves(d.process)
    assert (low, cause) == (0, "contradiction")
    assert high is not None
    assert 4096 <= high < T


def test_9_a_threshold_raised_by_mallopt_is_one_as_well(drv: Drive) -> None:
    d = drv("o-3,8388608 m100000 m1000000")
    assert steps(d.process) == [FIRST, (0x10C000, "contradiction", None)]


def test_10_a_threshold_of_the_environment(drv: Drive) -> None:
    d = drv("m1 m100000 m100000", env={"MALLOC_MMAP_THRESHOLD_": "4096"})
    assert not d.block(1)["mapped"]
    (r,) = chunks(d.process)
    assert r.bytes == 102400
    assert_chunk(d, 2, "explained", "environ")
    t = d.process.threshold
    assert (t.initial, t.low, t.high, t.fixed_by) == (4096, 4096, 4096, "environ")
    assert steps(d.process) == [FIRST]


def test_10_a_threshold_of_a_tunable_wins_over_its_alias(drv: Drive) -> None:
    tunables = "glibc.malloc.mmap_threshold=0x2000"
    env = {"MALLOC_MMAP_THRESHOLD_": "4096", "GLIBC_TUNABLES": tunables}
    d = drv("m1 m100000 m100000", env=env)
    assert_chunk(d, 2, "explained", "tunable")
    t = d.process.threshold
    assert (t.initial, t.low, t.high, t.fixed_by) == (8192, 8192, 8192, "tunable")


def test_18b_every_mapped_chunk_alive_is_counted_at_the_exit(drv: Drive) -> None:
    d = drv("m100000 n5,200000 f1 f3")
    assert d.process.metrics["chunks.mapped"] == 5
    assert d.process.metrics["chunks.alive_at_exit"] == 3
    told = [d.block(i)["map_length"] for i in (2, 4, 5)]
    assert d.process.metrics["chunks.final_bytes"] == sum(told)


def test_the_largest_mapping_that_still_raises_the_threshold(drv: Drive) -> None:
    # A mapping of exactly 32 MiB: its size field, flag and all, is over the maximum.
    d = drv("m100000 m33554400 f1 m33554400 m200000")
    assert [r.bytes for r in chunks(d.process)] == [32 << 20, 32 << 20, 200704]
    assert moves(d.process) == []
    d = drv("m100000 m33550304 f1 m33550304")
    assert moves(d.process) == [((32 << 20) - 4096, (32 << 20) - 4096, "freed-chunk")]
    (freed,) = chunks(d.process)
    assert freed.bytes == (32 << 20) - 4096
    assert [s.verdict for s in grown(d.process)] == ["holds", "explained"]


def test_two_chunks_that_the_kernel_shows_as_one_are_two(drv: Drive) -> None:
    d = drv("m100000 m200000 m200000 m200000")
    rows = chunks(d.process)
    assert [r.bytes for r in rows] == 3 * [200704]
    assert rows[1].end == rows[0].start  # neighbours: one line of /proc/PID/maps
    for i in (1, 2, 3):
        assert region_at(d.process, d.block(i)["ptr"]) is rows[i - 1]
        assert_chunk(d, i)


def test_what_setvbuf_asks_for_is_no_mapping_of_its_own(drv: Drive) -> None:
    # 24: a FILE's buffer is malloc's since 2.23, and setvbuf(NULL) gives a size to ignore
    d = drv("m100000 i1000 i200000")
    assert kinds(d.process) == {"heap"}
