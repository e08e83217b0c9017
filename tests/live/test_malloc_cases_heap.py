# SPDX-License-Identifier: GPL-2.0-or-later
"""When the heap shrinks and when it does not, whose growth it is, and what malloc does where it may
not grow: the driver does it, each fact of the report is exact. glibc 2.36, 64-bit.
"""

from __future__ import annotations

from tests.live.driving import Drive, chunks, moves, of_kind, steps

T = 131072
FIRST = (0x21000, "holds", None)
GROWTH = (0x21000, "holds", None)
MADV_DONTNEED = 4


def test_11_freed_upwards_the_heap_shrinks(drv: Drive) -> None:
    d = drv("n400,1000 F0,399")
    p = d.process
    assert steps(p) == [FIRST, GROWTH, GROWTH, (-0x41000, "explained", "trim")]
    assert p.heap.start is not None
    assert p.heap.end == p.heap.start + 0x22000
    assert (p.heap.growths, p.heap.shrinks, p.heap.final_bytes) == (3, 1, 0x22000)
    assert p.heap.peak_bytes == 3 * 0x21000
    assert p.metrics["chunks.alive_at_exit"] == 0


def test_11_freed_downwards_cached_chunks_pin_the_heap(drv: Drive) -> None:
    d = drv("n400,1000 B0,399")
    p = d.process
    assert steps(p) == [FIRST, GROWTH, GROWTH]
    assert p.heap.final_bytes == p.heap.peak_bytes == 3 * 0x21000
    assert p.heap.shrinks == 0


def test_12_one_small_block_pins_the_heap(drv: Drive) -> None:
    d = drv("n400,1000 m24 F0,399")
    p = d.process
    assert steps(p) == [FIRST, GROWTH, GROWTH]
    pin = d.block(400)
    assert pin["chunk"] == 32
    assert p.heap.end == d.ops[-1]["break_after"]
    assert p.heap.end is not None
    assert p.heap.end - pin["ptr"] < 0x21000  # it lies near the top


def test_13_malloc_trim_gives_back_pages_and_a_little_of_the_break(drv: Drive) -> None:
    d = drv("n40,100000 m24 F0,39 t0")
    p = d.process
    advised = d.traced.calls("madvise")
    assert [(e["args"][1], e["args"][2]) for e in advised] == [(3993600, MADV_DONTNEED)]
    last = p.heap.steps[-1]
    assert last.delta < 0
    assert last.delta == d.ops[-1]["break_after"] - d.ops[-1]["break_before"]
    assert advised[0]["seq"] < last.seq
    assert last.after_malloc_trim
    assert p.heap.final_bytes is not None
    assert p.heap.final_bytes > 3993600  # the pages went, their addresses stayed
    assert [s.verdict for s in p.heap.steps[:-1]] == ["holds"] * 21
    assert (last.verdict, last.reason) == ("explained", "trim")
    before, after = ([e["rss"] for e in d.traced.calls() if e["seq"] == s] for s in
                     (advised[0]["seq"] - 1, last.seq))  # fmt: skip
    assert after[0] <= before[0]


def test_13_a_free_after_a_malloc_trim_that_kept_the_top(drv: Drive) -> None:
    # malloc_trim with a large pad gives back pages, but not the break; the frees after it do.
    d = drv("n10,100000 m24 n10,100000 F0,9 t100000000 F11,20")
    (told,) = [o for o in d.ops if o["op"] == "t"]
    assert told["break_before"] == told["break_after"]
    assert d.traced.calls("madvise")
    shrunk = [s for s in d.rows[0]["heap"]["steps"] if s["delta"] < 0]
    assert shrunk
    assert {s["reason"] for s in shrunk} == {"trim"}


def test_14_somebody_elses_sbrk_makes_the_next_growth_a_pair(drv: Drive) -> None:
    d = drv("m100000 s4096 m100000")
    first, foreign, growth, pair = steps(d.process)
    assert first == FIRST
    assert foreign == (4096, "not-applicable", "foreign-sbrk")
    assert growth == (0x31000, "holds", None)
    assert pair[1:] == ("explained", "alignment")
    assert d.process.heap.end == d.ops[-1]["break_after"]
    assert sum(s[0] for s in steps(d.process)) == d.process.heap.final_bytes


def test_14_so_does_one_that_leaves_the_break_within_a_page(drv: Drive) -> None:
    d = drv("m100000 s100 m100000")
    first, foreign, growth, pair = steps(d.process)
    assert (first, foreign) == (FIRST, (100, "not-applicable", "foreign-sbrk"))
    assert (growth[1:], pair[1:]) == (("holds", None), ("explained", "alignment"))
    assert (growth[0] + pair[0] + 100) % 4096 == 0


def test_14_the_system_call_by_the_program_itself_is_foreign_too(drv: Drive) -> None:
    d = drv("m100000 b8192")
    assert steps(d.process)[1] == (8192, "not-applicable", "foreign-sbrk")


def test_15_where_the_break_may_not_grow_malloc_maps_its_heap(drv: Drive) -> None:
    d = drv("m100000 brkfail n20,100000")
    p = d.process
    told = {o["n"]: o for o in d.ops}
    assert told[2]["op"] == "brkfail"
    assert steps(p) == [FIRST, *6 * [(0, "unknown", None)]]
    assert {s.cause for s in p.heap.steps[1:]} == {"next-mapping"}
    assert p.metrics["heap.refused"] == 6
    more = of_kind(p, "main-arena")
    assert [r.bytes for r in more] == [1048576, *5 * [233472]]
    assert {(r.evidence, r.verdict, r.reason) for r in more} == {
        ("sequence", "explained", "brk-failed")
    }
    assert chunks(p) == []
    t = p.threshold
    assert (t.low, t.high, moves(p)) == (T, T, [])
    # Each block of the driver that is not in the heap lies in one of them.
    outside = [
        o["ptr"] for o in d.ops
        if o["op"] == "m" and not p.heap.start <= o["ptr"] < p.heap.end
    ]  # fmt: skip
    assert len(outside) >= 19
    assert all(any(r.start <= ptr < r.end for r in more) for ptr in outside)


def test_15_a_large_request_is_still_a_chunk(drv: Drive) -> None:
    d = drv("m100000 brkfail m100000 m200000 m2000000")
    assert [r.bytes for r in of_kind(d.process, "main-arena")] == [1048576]
    assert not d.block(2)["mapped"]  # there was room for it
    (r,) = chunks(d.process)
    assert (r.bytes, r.evidence, r.verdict) == (2002944, "header", "holds")


def test_15_refused_by_a_limit(drv: Drive) -> None:
    d = drv("m100000 d200000 m100000 m120000")
    refused = [s for s in d.process.heap.steps if not s.delta]
    assert len(refused) >= 1
    assert all(s.cause != "next-mapping" for s in refused)  # nothing is in the way
    assert chunks(d.process) == []


def test_12_the_walk_names_the_chunk_that_pins_the_top(drv: Drive) -> None:
    d = drv("n400,1000 m24 F0,399", options=("--heap-walk",))
    (walk,) = d.rows[0]["walks"][-1]["heaps"]
    pin = d.block(400)
    assert walk["pin"]["address"] == pin["ptr"] - 16
    assert walk["pin"]["bytes"] == 32
    assert walk["free_bytes"] > 0.95 * (walk["free_bytes"] + walk["used_bytes"])
