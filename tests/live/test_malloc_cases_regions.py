# SPDX-License-Identifier: GPL-2.0-or-later
"""What is a chunk of malloc and what only looks like one: arenas, stacks, the program's own
mappings; chunks that move, that are aligned, that a child inherits. glibc 2.36, 64-bit.
"""

from __future__ import annotations

import os
from typing import Any

from tests.live.driving import Drive, Driven, chunks, kinds, moves, of_kind, region_at, steps
from tests.live.tracing import cli
from tests.live.truth import MINSIZE, chunk_size

T = 131072
ARENA = 64 << 20
STACK = 8 << 20
MAP_STACK = 0x20000
FIRST = (0x21000, "holds", None)
DIRECT = ("anon", "caller", "not-applicable", "direct-call")


def calls_of(d: Driven, tid: int) -> list[dict[str, Any]]:
    return d.traced.calls(tid=tid)


def test_16_a_thread_allocates_from_an_arena_of_its_own(drv: Drive) -> None:
    d = drv("thr1,100000,3,1")
    p = d.process
    told = [o for o in d.ops if o["op"] == "thr"]
    (tid,) = {o["tid"] for o in told}
    assert tid != p.pid
    mine = calls_of(d, tid)
    assert not [e for e in mine if e["call"] == "brk"]
    opened = [e["args"] for e in mine if e["call"] == "mprotect"]
    base = told[0]["ptr"] & -ARENA
    assert [(a[0] - base, a[1]) for a in opened] == [
        (0, 135168), (135168, 69632), (135168 + 69632, 98304),
    ]  # fmt: skip
    (r,) = of_kind(p, "arena")
    assert (r.start, r.bytes, r.tid) == (base, ARENA, tid)
    assert (r.evidence, r.verdict, r.reason) == ("caller", "holds", None)
    (a,) = p.arenas
    assert (a.base, a.tid, a.reserved_bytes) == (base, tid, ARENA)
    assert a.committed_peak_bytes == 135168 + 69632 + 98304
    # Freed: the pages went by madvise, and what grows back makes no call.
    assert next(e["args"][0] - base for e in mine if e["call"] == "madvise") == 135168
    assert a.committed_bytes is None
    (stack,) = of_kind(p, "thread-stack")
    assert (stack.bytes, stack.evidence, stack.verdict) == (STACK, "caller", "not-applicable")
    assert all(region_at(p, o["ptr"]) is r for o in told)
    assert chunks(p) == []
    assert moves(p) == []


def test_17_an_arena_has_as_many_heaps_as_it_takes(drv: Drive) -> None:
    d = drv("thr1,120000,1200,1")
    p = d.process
    rows = of_kind(p, "arena")
    bases = {o["ptr"] & -ARENA for o in d.ops if o["op"] == "thr"}
    assert {r.start for r in rows} == bases
    assert len(rows) == 3
    assert [r.died_seq is not None for r in rows].count(True) == 2
    assert {(r.evidence, r.verdict) for r in rows} == {("caller", "holds")}
    assert {r.bytes for r in rows} == {ARENA}
    assert len(p.arenas) == 3
    assert all(a.committed_peak_bytes <= ARENA for a in p.arenas)
    total = sum(a.committed_peak_bytes for a in p.arenas)
    assert 1200 * chunk_size(120000) <= total < 1200 * chunk_size(120000) + 3 * 200_000
    # What is reserved is counted apart from what is there: one heap is left, and shrunk.
    assert p.metrics["arenas.reserved_bytes"] == ARENA
    assert sorted(str(a.committed_bytes) for a in p.arenas) == ["0", "0", "None"]
    assert chunks(p) == []


def test_18_there_are_eight_arenas_for_each_processor(drv: Drive) -> None:
    d = drv("thr24,1000,3,0")
    p = d.process
    # One more than arena_test, 8, can always be there (`arena_get2`); one is the main arena.
    expected = min(24, max(8 * os.sysconf("SC_NPROCESSORS_ONLN"), 9) - 1)
    assert len(p.arenas) == p.metrics["arenas.count"] == expected
    bases = {o["ptr"] & -ARENA for o in d.ops if o["size_field"] & 4}
    assert {a.base for a in p.arenas} == bases
    assert len(of_kind(p, "thread-stack")) == 24
    assert {r.verdict for r in of_kind(p, "arena")} == {"holds"}


def test_18_or_none_where_the_environment_says_so(drv: Drive) -> None:
    d = drv("thr24,1000,3,0", env={"MALLOC_ARENA_MAX": "1"})
    p = d.process
    assert p.arenas == []
    assert of_kind(p, "arena") == []
    assert all(not o["size_field"] & 4 for o in d.ops if o["op"] == "thr")
    t = p.threshold
    assert (t.low, t.high, t.fixed_by) == (T, T, None)  # arena_max freezes nothing


def test_19_a_chunk_moves_and_shrinks(drv: Drive) -> None:
    d = drv("m100000 m200000 r1,300000 r1,50000000 r1,1000")
    p = d.process
    assert steps(p) == [FIRST]
    (r,) = chunks(p)
    assert len(d.traced.calls("mremap")) == 3
    assert (r.moves, r.bytes) == (3, 4096)
    assert r.peak_bytes == d.ops[3]["map_length"]
    assert (r.start, r.bytes) == (d.ops[4]["map_start"], d.ops[4]["map_length"])
    assert (r.evidence, r.verdict, r.reason) == ("header", "explained", "mremap-shrink")
    assert moves(p) == []


def test_19_one_that_grows_holds(drv: Drive) -> None:
    d = drv("m100000 m200000 r1,300000 r1,5000000")
    (r,) = chunks(d.process)
    assert (r.moves, r.verdict, r.reason) == (2, "holds", None)
    assert r.bytes == d.ops[-1]["map_length"]


def test_19_a_block_of_the_heap_that_grows_out_of_it(drv: Drive) -> None:
    d = drv("m1000 r0,100000 r0,200000 r0,400000")
    (r,) = chunks(d.process)
    assert d.ops[2]["mapped"]
    assert not d.ops[1]["mapped"]
    assert (r.moves, r.evidence, r.verdict) == (1, "header", "holds")
    assert r.request is not None
    assert r.request.min <= 200000 <= r.request.max  # that is what it was mapped for
    assert r.bytes == d.ops[3]["map_length"]


def test_19_the_threshold_is_raised_by_the_free_not_by_the_mremap(drv: Drive) -> None:
    d = drv("m100000 m200000 r1,300000 f1 m250000")
    p = d.process
    length = d.ops[2]["map_length"]
    assert moves(p) == [(length, length, "freed-chunk")]
    assert steps(p)[1][1:] == ("explained", "dynamic-threshold")
    assert len(chunks(p)) == 1


def test_20_an_aligned_chunk_is_asked_for_with_its_alignment(drv: Drive) -> None:
    d = drv("m100000 a2097152,1048576")
    (r,) = chunks(d.process)
    told = d.block(1)
    assert told["map_length"] == r.bytes == 3149824
    assert r.evidence == "header"
    assert r.request is not None
    # It bounds what malloc was asked for: the chunk, the alignment and MINSIZE (_int_memalign).
    asked = chunk_size(1048576) + 2097152 + MINSIZE
    assert r.request.min <= asked <= r.request.max
    text = cli("report", d.traced.path).stdout
    assert "3145728" not in text  # nothing says that 3 MiB were requested
    assert "3149824" not in text


def test_20_its_free_raises_the_threshold_to_less_than_its_length(drv: Drive) -> None:
    d = drv("m100000 a4096,200000 f1 m201000")
    size = d.ops[2]["old_chunk"]
    assert size == 204800 - 4080  # the aligned chunk begins at the next page, less its header
    assert moves(d.process) == [(size, size, "freed-chunk")]
    _, fresh = chunks(d.process)
    assert (fresh.bytes, fresh.verdict, fresh.reason) == (204800, "holds", None)


def test_20_so_does_that_of_one_that_was_made_shorter(drv: Drive) -> None:
    d = drv("m100000 a2097152,1000000 r1,200000 f1")
    assert d.ops[2]["map_length"] < d.ops[1]["map_length"]
    size = d.ops[3]["old_chunk"]
    t = d.process.threshold
    assert t.low is not None
    assert t.high is not None
    assert t.low <= size <= t.high


def test_19_a_realloc_that_cannot_grow_its_chunk_raises_nothing(drv: Drive) -> None:
    # mremap is refused, malloc finds free memory in the heap, and the chunk is unmapped by realloc.
    d = drv("m100000 m200000 n10,100000 m24 F2,11 v0 r1,300000")
    assert [e["ret"] for e in d.traced.calls("mremap")] == [-12]
    assert d.traced.calls("munmap")[-1]["args"] == [d.block(1)["map_start"], 200704]
    t = d.process.threshold
    assert t.low == T
    assert t.high in (T, 200704)
    assert [cause for _, _, cause in moves(d.process)] in ([], ["possible-rise"])


def test_21_a_mapping_of_the_program_itself(drv: Drive) -> None:
    d = drv("m100000 M500000 U")
    assert d.traced.calls("mmap")[-1]["args"][1] == 500000  # no multiple of the page
    (r,) = of_kind(d.process, "anon")
    assert (r.kind, r.evidence, r.verdict, r.reason) == DIRECT
    assert r.request is None
    assert chunks(d.process) == []
    assert moves(d.process) == []  # its munmap is no free


def test_22_two_mappings_alike_and_only_one_is_a_chunk(drv: Drive) -> None:
    d = drv("m100000 M135168 m131049 U")
    own, mine = (d.traced.calls("mmap")[i] for i in (-2, -1))
    assert own["args"] == mine["args"]
    (direct,) = of_kind(d.process, "anon")
    (chunk,) = chunks(d.process)
    assert (direct.born_seq, chunk.born_seq) == (own["seq"], mine["seq"])
    assert (direct.kind, direct.evidence, direct.verdict, direct.reason) == DIRECT
    assert (chunk.evidence, chunk.verdict) == ("header", "holds")
    assert moves(d.process) == []


def test_22_without_evidence_neither_is_called_anything(drv: Drive) -> None:
    d = drv("m100000 M135168 m131049 U", options=("--evidence", "none"))
    rows = [r for r in d.process.regions if r.bytes == 135168 and r.kind not in ("heap", "stack")]
    assert len(rows) == 2
    for r in rows:
        assert (r.kind, r.evidence, r.verdict) == ("unknown", "none", "unknown")
        assert {"malloc-chunk", "anon"} <= set(r.candidates)
        assert r.request is None
    assert chunks(d.process) == []


def test_23_a_small_stack_is_as_long_as_the_smallest_chunk(drv: Drive) -> None:
    d = drv("stk131072")
    (made,) = [e for e in d.traced.calls("mmap") if e["args"][3] & MAP_STACK]
    assert made["args"][1] == 135168
    (stack,) = of_kind(d.process, "thread-stack")
    assert (stack.bytes, stack.evidence, stack.verdict) == (131072, "caller", "not-applicable")
    (guard,) = of_kind(d.process, "guard")
    assert guard.bytes == 4096
    assert chunks(d.process) == []


def test_24_buffers_of_stdio_lie_in_the_heap(drv: Drive) -> None:
    d = drv("m100000 i1000 i200000")
    assert kinds(d.process) == {"heap"}
    assert steps(d.process) == [FIRST]


def test_28_a_child_inherits_the_threshold_and_an_exec_ends_it(drv: Drive) -> None:
    d = drv("m100000 m2000000 f1 fork m500000 exec m500000")
    parent, child, after = d.processes
    assert moves(parent) == [(2002944, 2002944, "freed-chunk")]
    assert child.ppid == parent.pid
    assert steps(child) == [(0x92000, "explained", "inherited")]
    t = child.threshold
    assert (t.initial, t.low, t.high, moves(child)) == (2002944, 2002944, 2002944, [])
    assert chunks(child) == []
    assert after.pid == child.pid
    assert steps(after) == [FIRST]
    (r,) = chunks(after)
    assert (r.bytes, r.evidence, r.verdict) == (503808, "header", "holds")
    assert (after.threshold.initial, after.threshold.low, after.threshold.high) == (T, T, T)
    told = [o for o in d.ops if o["op"] == "m" and o["request"] == 500000]
    assert [o["mapped"] for o in told] == [False, True]


def test_28_a_childs_own_frees_are_its_own(drv: Drive) -> None:
    d = drv("m100000 m200000 m300000 fork f1 m200000 f2 m250000")
    parent, child = d.processes
    assert moves(parent) == []
    assert (parent.threshold.low, parent.threshold.high) == (T, T)
    assert moves(child) == [(200704, 200704, "freed-chunk"), (303104, 303104, "freed-chunk")]
    assert [s.reason for s in child.heap.steps] == 2 * ["dynamic-threshold"]
    assert parent.metrics["chunks.alive_at_exit"] == 2
    assert child.metrics["chunks.alive_at_exit"] == 0


def test_30_a_reservation_is_no_memory_and_populating_is(drv: Drive) -> None:
    d = drv("m100000 M50000000 P50000000 m50000000 x1 U")
    told = {o["op"] + str(o["n"]): o for o in d.ops}
    rss = {e["seq"]: e["rss"] for e in d.traced.calls()}
    mmaps = {e["ret"]: e["seq"] for e in d.traced.calls("mmap")}
    plain, populated = mmaps[told["M2"]["ptr"]], mmaps[told["P3"]["ptr"]]
    chunk = mmaps[told["m4"]["map_start"]]
    seqs = sorted(rss)

    def change(seq: int) -> int:
        """Bytes that came between the call before and this one's end."""
        came: int = rss[seq] - rss[seqs[seqs.index(seq) - 1]]
        return came

    little = 100 * 4096
    assert change(plain) < little
    assert change(populated) >= 50_000_000
    assert change(chunk) < little
    last = max(seqs)  # the munmap of what was populated, after the chunk was written
    assert d.traced.calls("munmap")[-1]["seq"] == last
    peak = d.process.memory.rss_peak_bytes
    assert peak is not None
    assert peak >= 100_000_000


def test_30_what_is_there_at_once_is_said(drv: Drive) -> None:
    d = drv("m100000 M50000 P50000 L M60000")
    plain, populated, locked = of_kind(d.process, "anon")
    rows = {r["born_seq"]: r for r in d.rows[0]["regions"]}
    assert [rows[r.born_seq]["populated"] for r in (plain, populated, locked)] == [
        False, True, True,
    ]  # fmt: skip


def test_30_what_is_there_at_once_is_told_by_the_calls(drv: Drive) -> None:
    d = drv("m100000 M500000 P500000 L M500000")
    told = cli("events", d.traced.path).stdout.splitlines()
    mmaps = {e["ret"]: e["seq"] for e in d.traced.calls("mmap")}
    lines = {int(line.split()[0]): line for line in told if line.split()[0].isdigit()}
    plain, populated, locked = (mmaps[o["ptr"]] for o in d.ops if "length" in o)
    assert "MAP_POPULATE" in lines[populated]
    assert "MAP_POPULATE" not in lines[plain] + lines[locked]
    (lock,) = d.traced.calls("mlockall")
    assert plain < populated < lock["seq"] < locked
    assert "MCL_FUTURE" in lines[lock["seq"]]
    rss = {e["seq"]: e["rss"] for e in d.traced.calls()}
    assert rss[plain] - rss[plain - 1] < 100_000
    assert rss[populated] - rss[plain] >= 500_000
    assert rss[locked] - rss[lock["seq"]] >= 500_000
