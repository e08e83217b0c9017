# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings of traces written by hand: about the threshold, the heap, and calls that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from memtrace.malloc import heap
from memtrace.malloc.churn import NEAR
from memtrace.report import text
from memtrace.trace.records import Ext, Snap, Walk, WalkedHeap
from memtrace.trace.sizes import format_size

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

    from memtrace.report.model import Finding

PAGE = 4096
BIG, BIGGER = 200704, 303104
FIRST = 0x21000
MIB = 1 << 20


def found(scene: Scene, index: int = 0) -> dict[str, Finding]:
    return {f.rule: f for f in scene.process(index).findings}


def chunk(scene: Scene, length: int = BIG) -> tuple[int, int]:
    """A mapped chunk, its header seen: (address, seq of the mmap)."""
    address = scene.mmap(length)
    seq = scene.seq
    scene.seen(seq, length | 2)
    return address, seq


def raised(scene: Scene, length: int = BIG, *, told: bool = True) -> int:
    """The threshold rises; the seq of the munmap that raised it. `told`: the trace has the size of
    the chunk that was freed.
    """
    scene.glibc()
    scene.brk(FIRST)
    address, _ = chunk(scene, length)
    scene.query()
    ext = Ext(freed=(length | 2, 0)) if told else None
    return scene.munmap(address, length, ext=ext)


# -- MT101 ----------------------------------------------------------------------------------------


def test_a_rise_alone_is_a_note(scene: Scene) -> None:
    seq = raised(scene)
    finding = found(scene)["MT101"]
    assert (finding.severity, finding.evidence) == ("info", [seq])
    assert "from 128 KiB" in finding.title
    assert "No growth of the heap since then proves" in finding.message


def test_a_growth_that_was_a_mapping_before_is_its_cost(scene: Scene) -> None:
    seq = raised(scene)
    scene.brk(0x21000)
    # G - 4096 - 131072 - 16 = 131072: nb of 131,072 bytes or more.
    cost = scene.brk(131072 * 2 + PAGE + 16 + PAGE - 16)
    finding = found(scene)["MT101"]
    assert (finding.severity, finding.evidence) == ("warning", [seq, cost])
    assert "1 growth of the heap since then" in finding.message
    assert "only when 392 KiB are free there (the trim threshold" in finding.message
    grown = format_size(scene.brks[1] - 0x1000000)
    assert f"The heap grew to {grown} and ends with {grown}." in finding.message


def test_of_more_steps_than_are_kept_no_number_is_stated_for_all(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heap, "STEPS", 8)
    raised(scene, 8 * MIB)
    for _ in range(20):
        scene.brk(0x49000)
    finding = found(scene)["MT101"]
    assert "At least 8 growths of the heap since then" in finding.message
    assert "MT109" not in found(scene)


def test_a_refused_growth_is_kept_however_small(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heap, "STEPS", 8)
    monkeypatch.setattr(heap, "REFUSALS", 2)
    scene.glibc()
    scene.brk(FIRST)
    for _ in range(20):
        scene.brk(0x2000, by="sbrk")
    refused = [scene.refused(PAGE) for _ in range(3)]
    findings = found(scene)
    assert findings["MT109"].evidence == refused[:2]
    assert "refused 3 growths" in findings["MT109"].message
    assert "At least 5 moves of the break" in findings["MT110"].message
    assert " in all" not in findings["MT110"].message
    assert len(scene.process().heap.steps) == 8


def test_a_growth_just_below_is_none(scene: Scene) -> None:
    raised(scene)
    scene.brk(131072 * 2)  # proves 126,992 bytes
    assert found(scene)["MT101"].severity == "info"


def test_a_size_that_the_trace_tells_is_not_at_most(scene: Scene) -> None:
    raised(scene)
    finding = found(scene)["MT101"]
    assert finding.title == "the mmap threshold rose from 128 KiB to 196 KiB"
    assert "memalign" not in finding.message


def test_a_size_that_the_trace_does_not_tell_may_be_less(scene: Scene) -> None:
    raised(scene, told=False)
    finding = found(scene)["MT101"]
    assert finding.title == "the mmap threshold rose from 128 KiB to at most 196 KiB"
    assert "memalign" in finding.message


def test_before_the_rise_there_is_none(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    chunk(scene)
    assert "MT101" not in found(scene)


def test_a_chunk_no_larger_than_the_threshold_raises_nothing(scene: Scene) -> None:
    scene.glibc(env={"MALLOC_MMAP_THRESHOLD_": "131072"})
    scene.brk(FIRST)
    address, _ = chunk(scene)
    scene.munmap(address, BIG)
    assert "MT101" not in found(scene)


def test_a_free_that_did_not_raise_it_is_said_with_both_records(scene: Scene) -> None:
    seq = raised(scene, told=False)
    _, below = chunk(scene, 135168)
    finding = found(scene)["MT101"]
    assert finding.severity == "info"
    assert finding.evidence == [seq, below]
    assert "did not rise" in finding.title
    assert "not known" in finding.message


# -- MT102, MT111 ---------------------------------------------------------------------------------


def test_a_large_growth_by_a_setting(scene: Scene) -> None:
    scene.glibc(env={"MALLOC_MMAP_MAX_": "0"})
    scene.brk(FIRST)
    seq = scene.brk(0x10C000)
    finding = found(scene)["MT102"]
    assert (finding.severity, finding.evidence) == ("info", [seq])
    assert "M_MMAP_MAX" in finding.message
    assert "MT111" not in found(scene)


def test_a_contradiction_names_both_records_and_no_cause(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    seq = scene.brk(0x10C000)
    finding = found(scene)["MT111"]
    assert finding.evidence == [1, seq]
    assert "cause is unknown" in finding.message
    assert not {"MT101", "MT102"} & set(found(scene))


def test_a_contradiction_after_a_rise_takes_the_rise_back(scene: Scene) -> None:
    seq = raised(scene)
    at = scene.brk(0x400000)
    findings = found(scene)
    assert "MT101" not in findings
    assert findings["MT111"].evidence == [seq, at]


def test_what_a_trace_lost_may_be_the_cause(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    scene.lost()
    scene.brk(0x10C000)
    assert "what this trace has lost" in found(scene)["MT111"].message


# -- MT103 ----------------------------------------------------------------------------------------


def test_a_heap_that_only_grows(scene: Scene) -> None:
    scene.glibc()
    first, second = scene.brk(FIRST), scene.brk(FIRST)
    finding = found(scene)["MT103"]
    assert finding.severity == "info"
    assert finding.evidence == [first, second]
    assert "not known" in finding.message


@pytest.mark.parametrize("steps", [(FIRST,), (FIRST, 0x1E000), (FIRST, FIRST, -PAGE)])
def test_a_heap_that_is_small_or_shrank(scene: Scene, steps: tuple[int, ...]) -> None:
    scene.glibc()
    for delta in steps:
        scene.brk(delta)
    assert "MT103" not in found(scene)


def test_a_free_that_surely_raised_it_and_did_not_is_a_contradiction(scene: Scene) -> None:
    seq = raised(scene)
    _, below = chunk(scene, 135168)
    findings = found(scene)
    assert "MT101" not in findings
    assert findings["MT111"].evidence == [seq, below]


def grown_below_the_trim_threshold(scene: Scene, total: int, *, told: bool = True) -> None:
    raised(scene, 8 * MIB, told=told)
    size = FIRST
    while size < total:
        scene.brk(FIRST)
        size += FIRST


def test_a_heap_below_the_trim_threshold_could_give_nothing_back(scene: Scene) -> None:
    grown_below_the_trim_threshold(scene, 5 * MIB)
    finding = found(scene)["MT103"]
    assert finding.severity == "warning"
    assert "16 MiB" in finding.message
    assert "At exit" not in finding.message
    seq = walked(scene)
    finding = found(scene)["MT103"]
    assert f"At exit (#{seq}) 4 KiB were free at its top, and 5" in finding.message
    assert finding.evidence[-1] == seq
    assert finding.remedy.startswith("MALLOC_TRIM_THRESHOLD_=131072 PROG")


def test_what_a_tunable_sets_a_tunable_changes(scene: Scene) -> None:
    scene.glibc(env={"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=33554432"})
    for _ in range(8):
        scene.brk(FIRST)
    remedy = found(scene)["MT103"].remedy
    assert remedy.startswith("GLIBC_TUNABLES=glibc.malloc.trim_threshold=131072 PROG")


def test_a_chunk_of_unknown_size_proves_no_trim_threshold(scene: Scene) -> None:
    grown_below_the_trim_threshold(scene, 2 * MIB, told=False)
    finding = found(scene)["MT103"]
    assert finding.severity == "info"
    assert "not known" in finding.message


def walked(scene: Scene, why: str = "exit", **kw: Any) -> int:
    """A walk of the main heap, of which 1 KiB is in use at the top."""
    size = scene.brks[1] - 0x1000000
    main: dict[str, Any] = {
        "kind": "main", "base": 0x1000000, "end": scene.brks[1], "first": 0x1000000,
        "complete": True, "chunks": 3, "used_chunks": 1, "free_chunks": 1, "other": 0,
        "top": (scene.brks[1] - PAGE, PAGE), "pin": (scene.brks[1] - PAGE - 1024, 1024),
        "used": 1024, "free": size - 1024 - PAGE, "largest_free": size - 1024 - PAGE,
        "below_pin": size - 1024 - PAGE, "resident": size, "free_resident": 0, "top_resident": 0,
        "walked": scene.brks[1],
    }  # fmt: skip
    main |= kw.pop("heap", {})
    record = Walk(t=1000, mm=1, pid=1, tid=1, why=why, still=kw.pop("still", True),
                  heaps=[WalkedHeap(**main)])  # fmt: skip
    scene.life(record)
    return scene.seq


def test_what_pins_the_heap_is_named_by_a_walk(scene: Scene) -> None:
    scene.glibc()
    growths = [scene.brk(FIRST) for _ in range(4)]
    seq = walked(scene)
    finding = found(scene)["MT103"]
    assert finding.severity == "warning"
    assert finding.evidence == [*growths[:3], growths[-1], seq]
    assert f"the chunk of 1 KiB at {scene.brks[1] - PAGE - 1024:#x}" in finding.message
    assert "523 KiB of its 528 KiB were free" in finding.message
    assert "not known" not in finding.message


@pytest.mark.parametrize(
    ("growths", "free", "severity"),
    [
        (4, 0.95, "warning"),  # nothing else is there
        (4, 0.8, "info"),  # as any program that ends may have it
        (60, 0.5, "info"),
        (64, 0.5, "warning"),  # 4 MiB
    ],
)
def test_what_is_free_when_a_program_ends_is_no_fault_but_much_is(
    scene: Scene, growths: int, free: float, severity: str
) -> None:
    scene.glibc()
    for _ in range(growths):
        scene.brk(FIRST)
    size = growths * FIRST
    n = int(size * free) & -16
    used = size - PAGE - n
    walked(scene, heap={"used": used, "free": n, "largest_free": n, "below_pin": n})
    assert found(scene)["MT103"].severity == severity


def test_a_heap_in_use_is_not_pinned(scene: Scene) -> None:
    scene.glibc()
    for _ in range(4):
        scene.brk(FIRST)
    size = 4 * FIRST
    free = size // 4 - 16
    used = size - PAGE - free
    walked(scene, heap={"used": used, "free": free, "largest_free": free, "below_pin": free})
    finding = found(scene)["MT103"]
    assert finding.severity == "info"
    assert "in use" in finding.message
    assert "below the chunk" not in finding.message


@pytest.mark.parametrize(
    ("why", "still", "complete"),
    [("peak", True, True), ("exit", False, True), ("exit", True, False)],
)
def test_a_walk_that_is_not_of_the_end_as_it_stood_proves_nothing(
    scene: Scene, why: str, *, still: bool, complete: bool
) -> None:
    scene.glibc()
    for _ in range(4):
        scene.brk(FIRST)
    broken = {} if complete else {"complete": False, "problem": "a header does not hold"}
    walked(scene, why, still=still, heap=broken)
    assert "not known" in found(scene)["MT103"].message


def test_a_heap_that_shrank_is_named_only_where_a_cause_is_proven(scene: Scene) -> None:
    scene.glibc()
    for _ in range(4):
        scene.brk(FIRST)
    scene.brk(-PAGE)
    assert "MT103" not in found(scene)
    walked(scene)
    finding = found(scene)["MT103"]
    assert "kept most of its peak" in finding.title
    assert "grew 4 times and shrank 1 time" in finding.message


def test_a_heap_above_the_trim_threshold_may_be_held_by_anything(scene: Scene) -> None:
    grown_below_the_trim_threshold(scene, 16 * MIB)
    finding = found(scene)["MT103"]
    assert finding.severity == "info"
    assert "not known" in finding.message


def test_what_a_trace_lost_may_have_been_a_shrink(scene: Scene) -> None:
    grown_below_the_trim_threshold(scene, 2 * MIB)
    scene.lost()
    finding = found(scene)["MT103"]
    assert finding.severity == "info"
    assert "as far as recorded" in finding.message


def test_another_mallocs_heap_is_not_glibcs(scene: Scene) -> None:
    scene.exec()
    scene.library("/lib/libtcmalloc.so.4")
    for _ in range(4):
        scene.brk(0x100000, by="/lib/libtcmalloc.so.4")
    assert "MT103" not in found(scene)


# -- MT109, MT110 ---------------------------------------------------------------------------------


def test_a_refused_growth_and_what_stands_in_for_it(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    scene.call("mmap", [0x1000000 + 0x40000, PAGE, 0, 0x100022, -1, 0], 0x1040000, by="program")
    refused = scene.refused(FIRST)
    scene.mmap(MIB)
    fallback = scene.seq
    finding = found(scene)["MT109"]
    assert finding.severity == "warning"
    assert finding.evidence == [refused, fallback]
    assert "mapping is in the way" in finding.message
    assert "went on with 1 mapping in its place, 1 MiB," in finding.message
    assert f"--at {refused}" in finding.remedy


def test_a_refused_growth_of_unknown_cause(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    scene.refused(FIRST)
    finding = found(scene)["MT109"]
    assert "not known" in finding.message
    assert "vm.overcommit_memory" in finding.message
    assert "ulimit" in finding.remedy


def test_a_refused_growth_over_a_recorded_limit(scene: Scene) -> None:
    scene.glibc(rlimits={"DATA": 2 * FIRST})
    scene.brk(FIRST)
    scene.refused(2 * FIRST)
    finding = found(scene)["MT109"]
    assert finding.title.endswith("RLIMIT_DATA excludes it")
    assert "setrlimit leaves no record" in finding.message


def test_a_query_is_no_refusal(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    scene.query()
    assert "MT109" not in found(scene)


def test_sbrk_beside_malloc(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    seq = scene.brk(PAGE, by="sbrk")
    finding = found(scene)["MT110"]
    assert (finding.severity, finding.evidence) == ("info", [seq])


def test_a_break_moved_by_nobody_known_is_nobodys(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    scene.brk(PAGE, by="")
    assert "MT110" not in found(scene)


# -- MT105, MT107, MT108 --------------------------------------------------------------------------


def turn(scene: Scene, apart: int = 1, by: str = "program") -> None:
    address = scene.mmap(BIG, by)
    for _ in range(apart - 1):
        scene.call("madvise", [address, PAGE, 4], 0, by=by)
    scene.munmap(address, BIG, by)


def test_pairs_are_counted_as_far_apart_as_that(scene: Scene) -> None:
    scene.glibc()
    turn(scene)
    turn(scene, NEAR)
    turn(scene, NEAR + 1)
    address = scene.mmap(2 * BIG, "program")
    scene.munmap(address, BIG, "program")  # a part, then the rest
    scene.munmap(address + BIG, BIG, "program")
    scene.mmap(BIG, "program")  # never gone
    assert scene.process().metrics["churn.pairs"] == 2


def test_a_hundred_pairs_are_a_finding(scene: Scene) -> None:
    scene.glibc()
    for _ in range(99):
        turn(scene)
    assert "MT105" not in found(scene)
    turn(scene)
    assert "100 mappings of 196 KiB" in found(scene)["MT105"].message


def lines(count: int) -> list[str]:
    return [f"{i * 0x2000:x}-{i * 0x2000 + 0x1000:x} rw-p 00000000 00:00 0" for i in range(count)]


def snap(scene: Scene, maps: list[str], why: str = "enomem") -> None:
    scene.life(Snap(t=1000, mm=1, pid=1, tid=1, why=why, maps=maps))


@pytest.mark.parametrize("between", [False, True])
def test_only_the_map_right_after_a_refusal_counts(scene: Scene, *, between: bool) -> None:
    scene.header.max_map_count = 20
    scene.glibc()
    at = scene.call("mmap", [0, PAGE, 3, 0x22, -1, 0], -12, by="program")
    if between:
        scene.mmap(PAGE, "program", flags=0x21)
    snap(scene, lines(21))
    findings = found(scene)
    if between:
        assert "MT107" not in findings
        assert "number of mappings" not in findings["MT113"].message
    else:
        assert findings["MT107"].evidence == [at]


@pytest.mark.parametrize(
    ("prot", "low", "size", "proven"),
    [
        (1, 0x12000, 0x1000, True),  # in the middle
        (1, 0x10000, 0x1000, True),  # at its start, and what is before it is not alike
        (1, 0x10000, 0x8000, False),  # all of it: no split
        (1, 0x17000, 0x1000, False),  # at its end: the border to what is alike moves
    ],
)
def test_only_what_must_split_a_mapping_is_refused_by_a_full_map(
    scene: Scene, prot: int, low: int, size: int, *, proven: bool
) -> None:
    maps = [
        "8000-9000 rw-p 00000000 00:00 0",
        "10000-18000 rw-p 00000000 00:00 0",
        "18000-19000 r--p 00000000 00:00 0",
        "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
    ]
    scene.header.max_map_count = 3
    scene.exec(maps=maps)
    scene.call("mprotect", [low, size, prot], -12, by="program")
    snap(scene, maps)
    assert ("that alone refuses" in found(scene)["MT107"].message) is proven


def test_a_munmap_is_refused_for_a_hole_only(scene: Scene) -> None:
    maps = ["10000-18000 rw-p 00000000 00:00 0"]
    for low, proven in ((0x12000, True), (0x10000, False), (0x17000, False)):
        scene.records.clear()
        scene.header.max_map_count = 1
        scene.exec(maps=maps)
        scene.call("munmap", [low, 0x1000], -12, by="program")
        snap(scene, maps)
        assert ("that alone refuses" in found(scene)["MT107"].message) is proven, hex(low)


def test_chunks_alive_at_the_exit_and_not_elsewhere(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    _, seq = chunk(scene, 2 * MIB)
    scene.query()
    assert "MT108" not in found(scene)  # still running
    scene.exit()
    assert found(scene)["MT108"].evidence == [seq]


def test_an_inherited_chunk_is_the_parents(scene: Scene) -> None:
    scene.glibc()
    scene.brk(FIRST)
    chunk(scene, 2 * MIB)
    scene.query()
    scene.fork(2).as_(2, 2).exit()
    assert "MT108" not in found(scene, 1)


# -- whole and not --------------------------------------------------------------------------------


def test_an_incomplete_trace_says_so_with_each_finding(scene: Scene) -> None:
    raised(scene)
    scene.brk(0x400000)
    scene.complete = False
    findings = scene.process().findings
    assert findings
    assert all(f.message.endswith("this trace is incomplete.") for f in findings)


def test_an_address_space_without_anything(scene: Scene) -> None:
    scene.exec(maps=[], start_brk=0, start_stack=0)
    assert not scene.process().findings


# -- MT104, MT112 ---------------------------------------------------------------------------------


def test_arenas_that_fork_copied_are_their_parents(scene: Scene) -> None:
    scene.glibc()
    for i in range(8):
        base = 0x700000000000 + (i << 26)
        scene.mmap(2 << 26, prot=0, flags=0x4022, ret=base)
        scene.munmap(base + (1 << 26), 1 << 26)
        scene.call("mprotect", [base, FIRST, 3], 0)
    scene.fork(2)
    scene.as_(2, 2).exit()
    assert "MT104" in found(scene)
    assert "MT104" not in found(scene, 1)


def test_what_a_runtime_had_at_one_time_is_no_sum_of_all_lives(scene: Scene) -> None:
    python = "/usr/lib/libpython3.11.so.1.0"
    scene.glibc()
    scene.library(python)
    kept = scene.mmap(MIB, by=python)
    for _ in range(5):
        scene.munmap(scene.mmap(MIB, by=python), MIB, by=python)
    finding = found(scene)["MT112"]
    assert "6 regions, at most 2 MiB at one time, belong to pymalloc" in finding.message
    assert scene.process().kinds["runtime-heap"].peak_bytes == 2 * MIB
    assert kept


ARENA = 0x700000000000


def attached_to_arenas(scene: Scene, count: int = 8) -> None:
    """A program that has had arenas for long."""
    lines = []
    for base in range(ARENA, ARENA + (count << 26), 1 << 26):
        lines.append(f"{base:x}-{base + FIRST:x} rw-p 00000000 00:00 0")
        lines.append(f"{base + FIRST:x}-{base + (1 << 26):x} ---p 00000000 00:00 0")
    scene.attach(lines)


def test_what_a_walk_shows_to_be_arenas_are_arenas(scene: Scene) -> None:
    attached_to_arenas(scene)
    assert "MT104" not in found(scene)
    heaps = [
        WalkedHeap(
            kind="arena", base=base, end=base + FIRST, opened=FIRST, arena=base, first=base + 0x8C0,
            walked=base + FIRST, complete=True, chunks=1, used=1024, used_chunks=1, free=0,
            free_chunks=0, largest_free=0, top=(base + PAGE, FIRST - PAGE), below_pin=0,
            other=PAGE - 1024, resident=PAGE, free_resident=0, top_resident=0,
        )
        for base in range(ARENA, ARENA + (8 << 26), 1 << 26)
    ]  # fmt: skip
    broken = replace(heaps[0], complete=False, problem="a header does not hold")
    scene.life(Walk(t=1000, mm=1, pid=1, tid=1, why="attach", heaps=[broken, *heaps[1:]]))
    assert "MT104" not in found(scene)
    assert scene.process().kinds["arena"].count == 7
    scene.life(Walk(t=1000, mm=1, pid=1, tid=1, why="detach", heaps=heaps))
    finding = found(scene)["MT104"]
    assert finding.title == f"thread arenas reserve 512 MiB and opened {format_size(8 * FIRST)}"
    assert finding.evidence == [scene.seq - 1, scene.seq]
    process = scene.process()
    assert {(a.reserved_bytes, a.committed_peak_bytes, a.tid) for a in process.arenas} == {
        (64 * MIB, FIRST, None)
    }
    (row,) = [r for r in process.regions if r.start == ARENA]
    assert (row.kind, row.evidence, row.older) == ("arena", "header", True)
    assert process.kinds["arena"].peak_bytes == 8 * 64 * MIB


def test_a_walk_that_is_not_there_is_named_as_what_would_tell(scene: Scene) -> None:
    attached_to_arenas(scene)
    printed = " ".join(text.render(scene.report()).split())
    assert "(attach --heap-walk tells which are thread arenas)" in printed
