# SPDX-License-Identifier: GPL-2.0-or-later
"""The heap's ledger: roles, chunks, what was given back and why not, what refused a growth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.conftest import HEAP, LIBC, MAPS

from memtrace.malloc.roles import ROLES
from memtrace.report import json as report_json
from memtrace.report import text
from memtrace.trace.records import Ext, Libc

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

    from memtrace.report.model import ProcessRow, StepRow

CHUNK = 135168
DONTNEED = 4


def roles(p: ProcessRow) -> list[str]:
    return [s.role for s in p.heap.steps]


def reasons(p: ProcessRow) -> list[str | None]:
    return [s.reason for s in p.heap.steps]


def chunk(s: StepRow) -> tuple[int, int | None] | None:
    return None if s.chunk is None else (s.chunk.min, s.chunk.max)


def test_the_vocabulary_is_the_schemas() -> None:
    assert report_json.schema()["$defs"]["step"]["properties"]["role"]["enum"] == list(ROLES)


def test_two_growths_and_the_chunks_they_were_for(scene: Scene) -> None:
    # m100000 m131048
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(0x38000)
    p = scene.process()
    assert roles(p) == ["first-heap", "growth"]
    # align(nb + 128 KiB + 32 - top, 4096): of no top, and of 32 bytes at least; nb < T
    assert [chunk(s) for s in p.heap.steps] == [(32, 4064), (94224, 131056)]
    assert (p.heap.peak_seq, p.heap.trimmed_bytes) == (scene.seq, 0)


def test_a_risen_threshold_allows_larger_chunks(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    a = scene.mmap(CHUNK)
    scene.munmap(a, CHUNK)
    scene.brk(0x38000)
    assert chunk(scene.process().heap.steps[-1]) == (94224, CHUNK - 16)


def test_the_heap_itself_bounds_a_chunk_that_nothing_else_does(scene: Scene) -> None:
    # MALLOC_MMAP_MAX_=0: m1000000; its top was no larger than the heap
    scene.glibc(env={"MALLOC_MMAP_MAX_": "0"})
    scene.brk(0x21000)
    scene.brk(0x10C000)
    step = scene.process().heap.steps[-1]
    least, most = 0x10C000 - 4095 - 131072, 0x10C000 - 131072 - 32 + 0x21000
    assert step.chunk is not None
    assert least <= step.chunk.min < least + 16
    assert step.chunk.max == most // 16 * 16


def test_a_failed_mmap_frees_the_next_growth_of_the_threshold(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.call("mmap", [0, 1000 << 12, 3, 0x22, -1, 0], -12)
    scene.brk(0x408000)
    step = scene.process().heap.steps[-1]
    assert step.chunk is not None
    assert step.chunk.min < 1000 << 12 < (step.chunk.max or 0)


@pytest.mark.parametrize(("env", "first"), [
    ({"MALLOC_TOP_PAD_": "0"}, (32, 4064)),
    ({"MALLOC_TOP_PAD_": "1000000"}, (32, 3488)),
])  # fmt: skip
def test_top_pad_counts(scene: Scene, env: dict[str, str], first: tuple[int, int]) -> None:
    scene.glibc(env=env)
    pad = int(env["MALLOC_TOP_PAD_"])
    scene.brk(-(-(pad + 32 + 700) // 4096) * 4096)
    assert chunk(scene.process().heap.steps[0]) == first


def test_huge_pages_blur_the_chunk(scene: Scene) -> None:
    # hugetlb=1 rounds the end up to 2 MiB
    scene.glibc(env={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, start_brk=HEAP)
    scene.brk((2 << 20) - HEAP % (2 << 20))
    (step,) = scene.process().heap.steps
    assert step.role == "first-heap"
    assert step.chunk is not None
    assert (step.chunk.min, step.chunk.max) == (32, 131056)


def test_a_growth_by_less_than_the_pad_proves_that_it_is_another(scene: Scene) -> None:
    # mallopt(M_TOP_PAD, 0) makes no call
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(0x5000)
    scene.brk(0x38000)
    p = scene.process()
    assert roles(p) == ["first-heap", "unknown", "growth"]
    assert [s.verdict for s in p.heap.steps] == ["holds", "unknown", "holds"]
    assert [chunk(s) for s in p.heap.steps[1:]] == [None, None]


def test_a_contradiction_leaves_no_chunk_bounded(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(0x10C000)
    scene.brk(0x38000)
    p = scene.process()
    assert roles(p) == ["first-heap", "growth", "growth"]
    assert [chunk(s) is None for s in p.heap.steps] == [False, True, True]


def test_a_pair_tells_the_old_top(scene: Scene) -> None:
    # m100000 s4096 m100000: the second growth asks for the old top again
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(4096, by="sbrk")
    scene.brk(0x31000)
    scene.brk(0x9000)
    p = scene.process()
    assert roles(p) == ["first-heap", "foreign-sbrk", "growth", "alignment"]
    top = 0x9000
    least = 0x31000 - 4095 - 131072 - 32 + (top - 4095 - 15)
    assert chunk(p.heap.steps[2]) == (-(-least // 16) * 16, 0x31000 - 131072 - 32 + top)
    assert (100000 + 8 + 15) // 16 * 16 in range(least, 0x31000 - 131072 - 32 + top + 1)


def test_after_an_sbrk_of_nobody_known_a_second_growth_is_not_judged(scene: Scene) -> None:
    # 2.31: the frame of sbrk is not verified there
    scene.glibc("2.31")
    scene.brk(0x21000)
    scene.brk(4096, by="sbrk")
    scene.brk(0x31000)
    scene.brk(0x29000)  # the old top once more: no growth for a chunk
    p = scene.process()
    assert roles(p) == ["first-heap", "unknown", "growth", "unknown"]
    assert chunk(p.heap.steps[-1]) is None


def test_another_allocators_break(scene: Scene) -> None:
    path = "/usr/lib/libtcmalloc.so.4"
    scene.exec()
    scene.library(path)
    scene.library(LIBC)
    scene.life(Libc(t=10**6, mm=1, path=LIBC, version="2.36"))
    scene.brk(0x800000, by=path)
    assert roles(scene.process()) == ["other-allocator"]


# -- given back ------------------------------------------------------------------------------------


def heap_of(scene: Scene, growths: int) -> Scene:
    scene.glibc()
    for _ in range(growths):
        scene.brk(0x21000)
    return scene


def test_free_or_malloc_trim_gave_the_top_back(scene: Scene) -> None:
    heap_of(scene, 3).brk(-0x41000)  # leaves 128 KiB and 32 bytes, as free does
    p = scene.process()
    assert (roles(p)[-1], reasons(p)[-1]) == ("shrink", "trim")
    assert (p.heap.trimmed_bytes, p.heap.no_trim) == (0x41000, None)


def test_what_leaves_less_than_the_pad_is_not_free_as_configured(scene: Scene) -> None:
    heap_of(scene, 3).brk(-0x61000)
    p = scene.process()
    assert (roles(p)[-1], reasons(p)[-1]) == ("shrink", "malloc-trim-or-mallopt")
    assert p.heap.trimmed_bytes == 0x61000
    assert "malloc_trim/mallopt" in text.render(scene.report())


def test_nor_is_what_a_top_below_the_trim_threshold_gave(scene: Scene) -> None:
    env = {"MALLOC_TRIM_THRESHOLD_": "1000000"}
    scene.glibc(env=env)
    for _ in range(9):
        scene.brk(0x21000)
    scene.brk(-0x2000)
    scene.brk(-0xD8000)
    assert reasons(scene.process())[-2:] == ["malloc-trim-or-mallopt", "trim"]


def test_a_shrink_under_another_configuration_is_nobodys(scene: Scene) -> None:
    heap_of(scene, 3)
    scene.brk(0x5000)  # not padded
    scene.brk(-0x61000)
    assert reasons(scene.process())[-1] == "trim"


@pytest.mark.parametrize(("advice", "by", "tid", "after"), [
    (DONTNEED, "malloc", 1, True),
    (DONTNEED, "program", 1, False),
    (14, "malloc", 1, False),
    (DONTNEED, "malloc", 2, False),
])  # fmt: skip
def test_pages_given_back_just_before_show_malloc_trim(
    scene: Scene, *, advice: int, by: str, tid: int, after: bool
) -> None:
    # n40,100000 m24 F0,39 t0; a free may have come between, and have made the shrink
    heap_of(scene, 30)
    end = 30 * 0x21000
    scene.call("madvise", [HEAP + 0x1000, end - 0x21000, advice], 0, by=by, tid=tid)
    scene.brk(-0x1F000)
    p = scene.process()
    assert (roles(p)[-1], p.heap.steps[-1].after_malloc_trim) == ("shrink", after)
    assert p.heap.malloc_trims == (after or tid != 1)


def test_another_call_of_the_thread_ends_what_malloc_trim_did(scene: Scene) -> None:
    heap_of(scene, 30)
    for _ in range(2):
        for page in (1, 3):
            scene.call("madvise", [HEAP + page * 4096, 4096, DONTNEED], 0)
        scene.mmap(CHUNK)
    scene.brk(-0x1F000)
    p = scene.process()
    assert (roles(p)[-1], p.heap.steps[-1].after_malloc_trim) == ("shrink", False)
    assert p.heap.malloc_trims == 2


def test_a_programs_own_shrink_is_not_mallocs(scene: Scene) -> None:
    heap_of(scene, 3).brk(-0x41000, by="sbrk")
    p = scene.process()
    assert (roles(p)[-1], p.heap.trimmed_bytes, p.heap.shrunk_bytes) == ("foreign-sbrk", 0, 0x41000)


def test_a_heap_below_the_trim_threshold_could_not_shrink(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    a = scene.mmap(10 << 20)
    freed = scene.munmap(a, 10 << 20)
    scene.seen(scene.seq - 1, 10 << 20 | 2)
    scene.brk(0x500000)
    p = scene.process()
    # The trace does not tell whether it was an aligned chunk, which would raise it to less.
    assert (p.threshold.trim.low, p.threshold.trim.least) == (20 << 20, 131072)
    assert p.heap.no_trim is not None
    assert (p.heap.no_trim.reason, p.heap.no_trim.since_seq) == ("unknown", None)
    assert freed


def test_since_when_it_could_not(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    a = scene.mmap(10 << 20)
    freed = munmap_told(scene, a, 10 << 20, 10 << 20 | 2)
    scene.brk(0x500000)
    p = scene.process()
    assert p.heap.no_trim is not None
    assert (p.heap.no_trim.reason, p.heap.no_trim.since_seq) == ("below-trim-threshold", freed)
    scene.brk(20 << 20)
    p = scene.process()
    assert p.heap.no_trim is not None
    assert p.heap.no_trim.reason == "unknown"


def munmap_told(scene: Scene, address: int, length: int, word: int, inner: int = 0) -> int:
    return scene.munmap(address, length, ext=Ext(freed=(word, inner)))


def test_a_trim_threshold_of_the_environment_may_be_never(scene: Scene) -> None:
    scene.glibc(env={"MALLOC_TRIM_THRESHOLD_": "-1"})
    scene.brk(0x21000)
    p = scene.process()
    assert p.threshold.trim.low == p.threshold.trim.high == (1 << 64) - 1
    assert p.heap.no_trim is not None
    assert (p.heap.no_trim.reason, p.heap.no_trim.since_seq) == ("below-trim-threshold", None)
    told = " ".join(text.render(scene.report()).split())
    assert "free never gives the heap's free end back" in told


def test_a_heap_that_shrank_to_less_than_half_was_trimmed(scene: Scene) -> None:
    heap_of(scene, 9).brk(-0xE0000)
    assert scene.process().heap.no_trim is None


# -- refused ---------------------------------------------------------------------------------------


def refused(scene: Scene, rlimits: dict[str, int | None], **kw: Any) -> StepRow:
    scene.glibc(rlimits=rlimits)
    scene.brk(0x21000)
    scene.refused(0x31000, **kw)
    p = scene.process()
    assert (roles(p)[-1], chunk(p.heap.steps[-1])) == ("refused", None)
    return p.heap.steps[-1]


def test_a_mapping_in_the_way_and_how_far_it_is(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.mmap(4096, "program", prot=0, flags=0x32, at=0, ret=scene.brks[1] + 0x10000)
    scene.refused(0x10000)
    scene.brk(0xF000, by="sbrk")
    step = scene.process().heap.steps[1]
    # One page stays free.
    assert (step.cause, step.room, step.candidates) == ("next-mapping", 0xF000, [])
    told = " ".join(text.render(scene.report()).split())
    assert "a mapping is in the way; the break could have moved by 60 KiB" in told


def test_room_counts_from_the_byte_where_the_break_is(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(1, by="sbrk")
    scene.mmap(4096, "program", prot=0, flags=0x32, at=0, ret=HEAP + 0x31000)
    scene.refused(0x10000)
    assert scene.process().heap.steps[-1].room == 0xF000 - 1


def test_the_gap_below_a_stack_is_a_candidate(scene: Scene) -> None:
    # stack_guard_gap, 1 MiB unless the kernel was told otherwise
    stack = HEAP + 0x121000
    maps = [line for line in MAPS if "[stack]" not in line]
    maps.insert(2, f"{stack:x}-{stack + 0x21000:x} rw-p 00000000 00:00 0 [stack]")
    scene.glibc(maps=maps, start_stack=stack + 0x20000)
    scene.refused(0x21000)
    step = scene.process().heap.steps[-1]
    assert (step.cause, step.candidates[0], step.room) == (None, "stack-guard-gap", 0x20000)


@pytest.mark.parametrize(("limit", "cause"), [
    (0x21000 + 0x31000 - 1, "RLIMIT_DATA"), (0x51000, "RLIMIT_DATA"),
    (0x20000, None), (1 << 30, None), (None, None),
])  # fmt: skip
def test_the_data_limit_of_the_exec(scene: Scene, limit: int | None, cause: str | None) -> None:
    """0x20000: the heap is beyond it already, so that it was raised since."""
    step = refused(scene, {"DATA": limit})
    assert step.cause == cause
    assert ("RLIMIT_DATA" in step.candidates) == (cause is None)


def test_all_private_writable_memory_counts_as_data(scene: Scene) -> None:
    # 3 pages of the program's and the loader's data, the heap, and 100 that it mapped
    scene.glibc(rlimits={"DATA": (3 + 0x21 + 100 + 0x31) * 4096 - 1})
    scene.brk(0x21000)
    scene.mmap(100 * 4096, "program")
    scene.refused(0x31000)
    assert scene.process().heap.steps[-1].cause == "RLIMIT_DATA"


@pytest.mark.parametrize(("pages", "vm", "cause"), [
    (1000, 1000 - 0x31 + 1, "RLIMIT_AS"), (1000, 1000 - 0x31, None), (1000, 1001, None),
    (1000, None, None),
])  # fmt: skip
def test_the_address_space_limit(
    scene: Scene, pages: int, vm: int | None, cause: str | None
) -> None:
    assert refused(scene, {"AS": pages * 4096 + 5}, vm=vm).cause == cause


def test_a_machine_that_promises_anything_refuses_nothing(scene: Scene) -> None:
    assert "overcommit" in refused(scene, {}).candidates
    scene.header.overcommit = 1
    assert "overcommit" not in scene.process().heap.steps[-1].candidates


# -- other threads ---------------------------------------------------------------------------------


def test_another_thread_may_have_raised_the_threshold_before_its_munmap_is_seen(
    scene: Scene,
) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.mmap(1 << 20)
    scene.brk(0x38000)
    alone = scene.process().heap.steps[-1]
    scene.clone(7, None)
    scene.brk(0x38000)
    step = scene.process().heap.steps[-1]
    assert chunk(alone) == (94224, 131056)
    # The chunk of 1 MiB may be on its way to be freed; the heap itself bounds it then.
    assert step.chunk is not None
    assert (step.chunk.min, step.chunk.max) == (94224, 0x38000 - 131072 - 32 + 0x59000)


def test_a_fork_may_copy_a_threshold_that_another_thread_has_just_raised(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(1 << 20)
    scene.clone(7, None)
    forked = scene.fork(2, 2).seq
    scene.as_(2, 2).query()
    child = scene.process(1).threshold
    assert (child.low, child.high) == (131072, 1 << 20)
    assert [(m.seq, m.cause) for m in child.history] == [(forked, "possible-rise")]
    assert (child.trim.low, child.trim.high) == (131072, 2 << 20)


def test_a_fork_of_one_thread_copies_what_is_known(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(1 << 20)
    scene.fork(2, 2).as_(2, 2).query()
    child = scene.process(1).threshold
    assert (child.low, child.high, child.history) == (131072, 131072, [])


def test_with_other_threads_the_trim_threshold_of_before_counts(scene: Scene) -> None:
    scene.glibc()
    for _ in range(9):
        scene.brk(0x21000)
    a = scene.mmap(10 << 20)
    munmap_told(scene, a, 10 << 20, 10 << 20 | 2)
    scene.brk(-0x40000)
    assert reasons(scene.process())[-1] == "malloc-trim-or-mallopt"
    scene.clone(7, None)
    scene.brk(-0x40000)
    assert reasons(scene.process())[-2:] == ["malloc-trim-or-mallopt", "trim"]


def test_where_malloc_may_not_map_what_it_would_map_comes_from_the_heap(scene: Scene) -> None:
    scene.glibc(env={"MALLOC_MMAP_MAX_": "1"})
    scene.brk(0x21000)
    scene.mmap(CHUNK)
    scene.brk(0x29000)
    steps = scene.process().heap.steps
    assert [(s.verdict, s.reason) for s in steps] == [("holds", None), ("explained", "mmap-max")]
    assert steps[1].chunk is not None
    assert (steps[1].chunk.max or 0) > 131072


def test_the_first_growth_that_the_kernel_grants_is_not_mallocs_first(scene: Scene) -> None:
    # What a mapping refused came from elsewhere; the arena holds that.
    scene.glibc()
    scene.refused(0x21000)
    scene.mmap(1 << 20)
    scene.brk(0x39000)
    p = scene.process()
    assert roles(p) == ["refused", "growth"]
    assert [r.kind for r in p.regions if r.born_seq == scene.seq - 1] == ["main-arena"]


def test_a_main_arena_in_pieces_may_not_align_what_it_gets(scene: Scene) -> None:
    # s16 after a refused growth: sysmalloc asks once for each of the next two requests.
    scene.glibc()
    scene.brk(0x21000)
    scene.refused(0x21000)
    scene.mmap(1 << 20)
    scene.brk(16, by="sbrk")
    scene.brk(0x39000)
    scene.brk(0x39000)
    assert roles(scene.process())[-2:] == ["growth", "unknown"]


def test_a_chunk_after_a_refused_alignment_is_no_main_arena(scene: Scene) -> None:
    # s16 m100000 m200000: of two growths malloc does without the second
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(16, by="sbrk")
    scene.brk(0x21000)
    scene.refused(0x5FF0)
    scene.mmap(1 << 20)
    r = scene.region(scene.seq)
    assert (r.kind, r.candidates) == ("unknown", ["malloc-chunk", "main-arena"])


def test_huge_pages_round_the_size_of_a_growth_and_then_its_end(scene: Scene) -> None:
    # hugetlb=1 until 2.42, where the machine has them for those who ask: m1
    huge = 2 << 20
    start = HEAP + 0x5000
    scene.glibc(env={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, start_brk=start)
    scene.brk(huge)
    scene.call("madvise", [HEAP + 0x6000, huge - 0x1000, 14], 0)
    scene.brk(huge - 0x5000)
    scene.brk(huge)
    p = scene.process()
    assert p.threshold.history == []
    assert [(s.role, s.verdict) for s in p.heap.steps] == [
        ("first-heap", "explained"), ("unknown", "holds"), ("growth", "explained"),
    ]  # fmt: skip
    assert [chunk(s) for s in p.heap.steps] == [(32, 131056), None, (32, 131056)]


def test_a_break_that_is_put_back_asks_for_no_alignment(scene: Scene) -> None:
    # s4096 s-4096 n8,60000: the top ends at the break again
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(0x1000, by="sbrk")
    scene.brk(-0x1000, by="sbrk")
    scene.brk(0x2C000)
    scene.brk(0x2C000)
    p = scene.process()
    assert roles(p) == ["first-heap", "foreign-sbrk", "foreign-sbrk", "growth", "growth"]
    assert {s.verdict for s in p.heap.steps[3:]} == {"holds"}
