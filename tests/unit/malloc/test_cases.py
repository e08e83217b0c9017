# SPDX-License-Identifier: GPL-2.0-or-later
"""What programs do and what must be said about it; glibc 2.36, 64-bit, unless a test says so.

The comments name what the traced program would have done (m131049: malloc(131049)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.conftest import LIBC, MAPS

from memtrace.trace.records import Ext, Libc

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

    from memtrace.report.model import ProcessRow

MIB = 1 << 20
CHUNK = 135168  # the smallest mapping of malloc's defaults


def verdicts(process: ProcessRow) -> list[tuple[int, str, str | None]]:
    return [(s.delta, s.verdict, s.reason) for s in process.heap.steps]


def test_a_request_below_the_threshold_starts_the_heap(scene: Scene) -> None:
    scene.glibc().query()
    scene.brk(0x21000)
    p = scene.exit().process()
    assert verdicts(p) == [(0x21000, "holds", None)]
    assert p.heap.growths == 1
    assert p.heap.peak_bytes == p.heap.final_bytes == 0x21000
    assert p.kinds["heap"].count == 1
    assert "malloc-chunk" not in p.kinds


def test_two_growths_below_the_threshold_hold(scene: Scene) -> None:
    # m100000 m131048
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(0x38000)
    p = scene.exit().process()
    assert verdicts(p) == [(0x21000, "holds", None), (0x38000, "holds", None)]
    assert p.threshold.history == []


def test_a_chunk_has_the_interval_of_its_request(scene: Scene) -> None:
    # m100000 m131049
    scene.glibc()
    scene.brk(0x21000)
    scene.mmap(CHUNK)
    r = scene.region(scene.seq)
    assert (r.kind, r.evidence, r.verdict) == ("malloc-chunk", "caller", "holds")
    assert r.request is not None
    assert (r.request.min, r.request.max) == (131049, 135144)


def test_a_freed_chunk_moves_the_threshold(scene: Scene) -> None:
    # m100000 m131049 f1 m131049 m135144 m135145
    scene.glibc()
    scene.brk(0x21000)
    a = scene.mmap(CHUNK)
    freed = scene.munmap(a, CHUNK)
    scene.brk(0x38000)
    scene.brk(0x21000)
    scene.mmap(139264)
    p = scene.exit().process()
    assert p.threshold.initial == 131072
    assert (p.threshold.low, p.threshold.high) == (135168, 135168)
    assert [(m.seq, m.low, m.cause) for m in p.threshold.history] == [
        (freed, 135168, "freed-chunk")
    ]
    assert verdicts(p) == [
        (0x21000, "holds", None),
        (0x38000, "explained", "dynamic-threshold"),
        (0x21000, "explained", "dynamic-threshold"),
    ]
    assert p.metrics["threshold.rises"] == 1
    assert p.metrics["chunks.mapped"] == 2
    assert p.metrics["chunks.alive_at_exit"] == 1
    assert p.kinds["malloc-chunk"].peak_bytes == 139264


def test_top_pad_zero_freezes_the_threshold(scene: Scene) -> None:
    # MALLOC_TOP_PAD_=0: m1 m200000 f1 m200000
    scene.glibc(env={"MALLOC_TOP_PAD_": "0"})
    scene.brk(0x1000)
    a = scene.mmap(200704)
    scene.munmap(a, 200704)
    scene.mmap(200704)
    p = scene.exit().process()
    assert verdicts(p) == [(0x1000, "holds", None)]
    assert (p.threshold.low, p.threshold.high, p.threshold.fixed_by) == (131072, 131072, "environ")
    assert p.threshold.history == []


def test_mmap_max_zero_sends_everything_to_the_heap(scene: Scene) -> None:
    # MALLOC_MMAP_MAX_=0: m100000 m1000000 f1
    scene.glibc(env={"MALLOC_MMAP_MAX_": "0"})
    scene.brk(0x21000)
    scene.brk(0x10C000)
    scene.brk(-0xF4000)
    p = scene.exit().process()
    assert verdicts(p)[1:] == [
        (0x10C000, "explained", "mmap-max"),
        (-0xF4000, "explained", "trim"),
    ]
    assert p.heap.shrunk_bytes == 0xF4000


def test_the_same_growth_without_a_setting_is_a_contradiction(scene: Scene) -> None:
    # mallopt(M_MMAP_MAX, 0), which leaves no trace: m100000 m1000000
    scene.glibc()
    scene.brk(0x21000)
    seq = scene.brk(0x10C000)
    p = scene.exit().process()
    assert verdicts(p)[1] == (0x10C000, "contradiction", None)
    (move,) = p.threshold.history
    assert (move.seq, move.cause, move.high) == (seq, "contradiction", None)
    # T may have moved, or malloc may map no more: nothing is left of the interval.
    assert (move.low, p.threshold.low, p.threshold.high) == (0, 0, None)
    assert p.metrics["heap.growths_over_128k"] == 0


def test_a_failed_mapping_explains_the_growth_after_it(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.call("mmap", [0, 1000 << 12, 3, 0x22, -1, 0], -12)
    scene.brk(0x408000)
    assert verdicts(scene.process())[1] == (0x408000, "explained", "mmap-failed")
    scene.call("mmap", [0, 1000 << 12, 3, 0x22, -1, 0], -12, by="program")
    scene.brk(0x408000)
    assert verdicts(scene.process())[2] == (0x408000, "contradiction", None)


def test_after_a_refusal_malloc_gives_up_and_the_next_growth_is_for_another_chunk(
    scene: Scene,
) -> None:
    # n10,60000 malloc(1 << 46): mmap, brk and mmap fail; n1,60000
    scene.glibc()
    scene.brk(0x21000)
    for _ in range(3):
        scene.brk(0x2C000)
    scene.call("mmap", [0, (1 << 46) + 4096, 3, 0x22, -1, 0], -12)
    scene.refused(1 << 46)
    scene.call("mmap", [0, (1 << 46) + (1 << 20), 3, 0x22, -1, 0], -12)
    scene.brk(0x2B000)
    step = scene.process().heap.steps[-1]
    assert (step.verdict, step.reason) == ("holds", None)
    assert step.chunk is not None
    assert step.chunk.max == 131056


def test_a_growth_is_not_explained_by_a_failed_mapping_of_a_chunk_too_large_for_it(
    scene: Scene,
) -> None:
    scene.glibc()
    scene.brk(0x21000)
    for _ in range(3):
        scene.brk(0x2C000)
    scene.call("mmap", [0, 8 << 20, 3, 0x22, -1, 0], -12)
    scene.brk(0x2B000)
    assert verdicts(scene.process())[-1] == (0x2B000, "unknown", None)


def test_a_lower_threshold_of_the_environment_explains_small_chunks(scene: Scene) -> None:
    # MALLOC_MMAP_THRESHOLD_=4096: m1 m100000 m100000
    scene.glibc(env={"MALLOC_MMAP_THRESHOLD_": "4096"})
    scene.brk(0x21000)
    scene.mmap(102400)
    r = scene.region(scene.seq)
    assert (r.kind, r.verdict, r.reason) == ("malloc-chunk", "explained", "environ")
    assert scene.process().threshold.low == 4096


def test_a_small_chunk_without_a_setting_is_a_contradiction(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.chunk(102400)
    seq = scene.seq - 1
    r = scene.region(seq)
    assert (r.kind, r.verdict) == ("malloc-chunk", "contradiction")
    t = scene.process().threshold
    assert (t.initial, t.low, t.high) == (131072, 0, 102400 - 16)
    assert (t.history[0].seq, t.history[0].cause) == (seq, "contradiction")


def test_a_mapping_below_a_raised_threshold_may_be_an_aligned_chunks_doing(scene: Scene) -> None:
    scene.glibc()
    a = scene.mmap(3149824)
    scene.munmap(a, 3149824)
    scene.chunk(1052672)
    r = scene.region(scene.seq - 1)
    assert (r.verdict, r.reason) == ("unknown", "aligned-or-mallopt")
    t = scene.process().threshold
    assert (t.low, t.high) == (131072, 1052672 - 16)


def test_a_chunk_is_mapped_where_no_heap_of_an_arena_can_be_opened(scene: Scene) -> None:
    # RLIMIT_DATA: new_heap's mprotect fails, so that it unmaps what it reserved, twice
    scene.glibc()
    scene.brk(0x21000)
    base, heap = 0x7E0000000000, 64 << 20
    for _ in range(2):
        scene.call("mmap", [0, 2 * heap, 0, 0x4022, -1, 0], base)
        scene.munmap(base + heap, heap)
        scene.call("mprotect", [base, 135168, 3], -12)
        scene.munmap(base, heap)
    scene.chunk(4096)
    r = scene.region(scene.seq - 1)
    assert (r.kind, r.verdict, r.reason) == ("malloc-chunk", "explained", "no-arena")
    assert scene.process().threshold.history == []


def test_what_libc_maps_for_itself_says_nothing_of_the_threshold(scene: Scene) -> None:
    # assert(0): the message is kept in a page of its own, right before the program dies
    scene.glibc()
    scene.brk(0x21000)
    scene.mmap(4096)
    born = scene.seq
    scene.seen(born, 0).query()
    p = scene.process()
    assert (p.threshold.low, p.threshold.high, p.threshold.history) == (131072, 131072, [])
    (r,) = [r for r in p.regions if r.born_seq == born]
    assert (r.kind, r.verdict, r.candidates) == ("unknown", "unknown", ["malloc-chunk", "anon"])


def test_a_header_tells_of_the_threshold_as_it_was_when_the_chunk_was_mapped(scene: Scene) -> None:
    # mallopt(M_MMAP_THRESHOLD) in one thread; another frees before the first one's next call
    scene.glibc()
    a = scene.chunk(MIB)
    scene.clone(2, 0x7FFFF000).mmap(102400)
    born = scene.seq
    scene.as_(1, 2).munmap(a, MIB, ext=Ext(freed=(MIB | 2, 0)))
    scene.as_(1, 1).seen(born, 102400 | 2).query()
    t = scene.process().threshold
    assert (t.low, t.high) == (0, MIB)


@pytest.mark.parametrize(
    ("version", "length", "raised"),
    [
        ("2.36", 33554432, None),  # 32 MiB with its flag bit is above the limit
        ("2.36", 33554432 - 4096, 33554432 - 4096),
        ("2.43", 33554432, 33554432 - 16),
        ("2.43", 135168, 135152),
    ],
)
def test_the_size_that_raises_depends_on_the_version(
    scene: Scene, version: str, length: int, raised: int | None
) -> None:
    scene.glibc(version)
    a = scene.mmap(length)
    scene.munmap(a, length)
    t = scene.process().threshold
    assert (t.low, t.high) == ((raised, raised) if raised else (131072, 131072))


def test_a_shrink_by_free_and_none_when_pinned(scene: Scene) -> None:
    # n400,1000 F0,399
    scene.glibc()
    for _ in range(3):
        scene.brk(0x21000)
    scene.brk(-0x41000)
    p = scene.exit().process()
    assert verdicts(p)[-1] == (-0x41000, "explained", "trim")
    assert p.heap.final_bytes == 0x22000
    assert p.heap.peak_bytes == 0x63000
    assert p.heap.grown_bytes - p.heap.shrunk_bytes == 0x22000


def test_a_foreign_sbrk_and_the_pair_of_growths_after_it(scene: Scene) -> None:
    # m100000 s4096 m100000
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(4096, by="sbrk")
    scene.brk(0x31000)
    scene.brk(0x9000)
    assert verdicts(scene.process())[1:] == [
        (4096, "not-applicable", "foreign-sbrk"),
        (0x31000, "holds", None),
        (0x9000, "explained", "alignment"),
    ]


def test_the_frame_of_sbrk_is_believed_only_where_it_was_verified(scene: Scene) -> None:
    scene.glibc("2.31")
    scene.brk(4096, by="sbrk")
    assert verdicts(scene.process()) == [(4096, "unknown", None)]


def test_a_refused_heap_makes_a_main_arena_and_no_chunk(scene: Scene) -> None:
    scene.glibc()
    end = scene.brks[1]
    scene.mmap(4096, "program", prot=0, flags=0x32, at=end + 0x22000, ret=end + 0x22000)
    scene.brk(0x21000)
    seq = scene.refused(0x21000)
    scene.mmap(1 << 20)
    r = scene.region(scene.seq)
    assert (r.kind, r.evidence, r.verdict, r.reason) == (
        "main-arena", "sequence", "explained", "brk-failed",
    )  # fmt: skip
    p = scene.process()
    (step,) = [s for s in p.heap.steps if s.seq == seq]
    assert (step.delta, step.asked, step.cause) == (0, end + 0x42000, "next-mapping")
    assert p.calls["brk"].failed == p.metrics["heap.refused"] == 1
    assert p.threshold.low == 131072


def test_a_refusal_without_a_mapping_in_the_way_has_no_stated_cause(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.refused(1 << 30)
    step = scene.process().heap.steps[-1]
    assert (step.delta, step.cause, step.verdict) == (0, None, "unknown")


def test_a_header_beats_the_sequence(scene: Scene) -> None:
    # The program's own sbrk failed, then malloc mapped a chunk as ever.
    scene.glibc()
    scene.refused(1 << 40, by="sbrk")
    a = scene.mmap(2 << 20)
    born = scene.seq
    assert scene.region(born).candidates == ["malloc-chunk", "main-arena"]
    scene.seen(born, (2 << 20) | 2)
    scene.munmap(a, 2 << 20)
    assert (scene.region(born).kind, scene.region(born).evidence) == ("malloc-chunk", "header")
    assert scene.process().threshold.low == 2 << 20


def test_a_thread_has_a_stack_a_guard_and_an_arena(scene: Scene) -> None:
    # A thread that allocates: allocate_stack, then arena.c's alloc_new_heap.
    scene.glibc()
    scene.brk(0x21000)
    stack = scene.mmap(0x801000, prot=0, flags=0x20022)
    stack_seq = scene.seq
    scene.call("mprotect", [stack + 0x1000, 0x800000, 3], 0)
    guard_seq = scene.seq
    scene.clone(7, stack + 0x800F00)
    base = 0x7E0000000000
    low = base - 0x3000000
    scene.tid = 7
    scene.mmap(1 << 27, prot=0, flags=0x4022, ret=low)
    arena_seq = scene.seq
    scene.munmap(low, base - low)
    scene.munmap(base + (64 << 20), low + (1 << 27) - base - (64 << 20))
    scene.call("mprotect", [base, 135168, 3], 0)
    scene.call("mprotect", [base + 135168, 69632, 3], 0)
    p = scene.process()
    (arena,) = p.arenas
    assert (arena.base, arena.tid, arena.reserved_bytes) == (base, 7, 64 << 20)
    assert arena.committed_bytes == arena.committed_peak_bytes == 135168 + 69632
    r = scene.region(arena_seq)
    assert (r.kind, r.bytes, r.peak_bytes, r.start) == ("arena", 64 << 20, 1 << 27, base)
    assert r.verdict == "holds"
    s = scene.region(stack_seq)
    assert (s.kind, s.evidence, s.start, s.bytes) == (
        "thread-stack",
        "caller",
        stack + 4096,
        8 << 20,
    )
    g = scene.region(guard_seq)
    assert (g.kind, g.evidence, g.start, g.bytes) == ("guard", "sequence", stack, 4096)
    assert p.kinds["thread-stack"].peak_bytes == 8 << 20
    assert p.kinds["guard"].peak_bytes == 4096
    assert all(step.tid != 7 for step in p.heap.steps)
    assert p.heap.growths == 1


def test_an_arena_that_shrank_by_madvise_has_no_known_size(scene: Scene) -> None:
    scene.glibc()
    base = 0x7E0000000000
    scene.mmap(1 << 27, prot=0, flags=0x22, ret=base)
    scene.munmap(base + (64 << 20), 64 << 20)
    scene.call("mprotect", [base, 0x100000, 3], 0)
    scene.call("madvise", [base + 0x80000, 0x80000, 4], 0)
    (arena,) = scene.process().arenas
    assert (arena.committed_bytes, arena.committed_peak_bytes) == (None, 0x100000)


def test_an_arena_in_a_static_program_is_proven_by_the_sequence(scene: Scene) -> None:
    scene.exec()
    base = 0x7E0000000000
    scene.mmap(1 << 27, by="", prot=0, flags=0x22, ret=base - 0x1000000)
    seq = scene.seq
    scene.munmap(base - 0x1000000, 0x1000000, by="")
    scene.munmap(base + (64 << 20), 0x3000000, by="")
    scene.call("mprotect", [base, 135168, 3], 0, by="")
    r = scene.region(seq)
    assert (r.kind, r.evidence) == ("arena", "sequence")


def test_a_reservation_that_nothing_follows_is_no_arena(scene: Scene) -> None:
    scene.exec()
    scene.mmap(1 << 27, by="", prot=0, flags=0x22)
    seq = scene.seq
    scene.query()
    r = scene.region(seq)
    assert (r.kind, r.candidates) == ("unknown", ["arena", "anon"])
    assert scene.process().arenas == []


def test_realloc_keeps_one_region_through_its_moves(scene: Scene) -> None:
    # m100000 m200000 r1,300000 r1,50000000 r1,1000
    scene.glibc()
    scene.brk(0x21000)
    a = scene.mmap(200704)
    seq = scene.seq
    scene.call("mremap", [a, 200704, 303104, 1], 0x7D0000000000)
    scene.call("mremap", [0x7D0000000000, 303104, 50003968, 1], 0x7C0000000000)
    scene.call("mremap", [0x7C0000000000, 50003968, 4096, 1], 0x7C0000000000)
    r = scene.region(seq)
    assert (r.start, r.bytes, r.peak_bytes, r.moves) == (0x7C0000000000, 4096, 50003968, 3)
    assert (r.kind, r.verdict, r.reason) == ("malloc-chunk", "explained", "mremap-shrink")
    assert scene.process().threshold.history == []


def test_what_the_program_maps_itself_is_not_mallocs(scene: Scene) -> None:
    # M500000 and M135168: the second has a chunk's shape, its caller says otherwise
    scene.glibc()
    scene.mmap(500000, "program")
    odd = scene.seq
    a = scene.mmap(CHUNK, "program")
    own = scene.seq
    scene.mmap(CHUNK)
    chunk = scene.seq
    for seq in (odd, own):
        r = scene.region(seq)
        assert (r.kind, r.evidence, r.verdict, r.reason) == (
            "anon", "caller", "not-applicable", "direct-call",
        )  # fmt: skip
        assert r.request is None
    assert scene.region(chunk).kind == "malloc-chunk"
    scene.munmap(a, CHUNK, by="program")
    assert scene.process().threshold.low == 131072


def test_without_caller_and_header_a_chunks_shape_stays_unknown(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(CHUNK, by="")
    r = scene.region(scene.seq)
    assert (r.kind, r.evidence, r.candidates) == ("unknown", "none", ["malloc-chunk", "anon"])
    assert (r.verdict, r.request) == ("unknown", None)


@pytest.mark.parametrize(
    ("version", "word", "kind"),
    [
        ("2.36", CHUNK | 2, "malloc-chunk"),
        ("2.36", CHUNK - 16 | 2, "unknown"),
        ("2.43", CHUNK - 16 | 2, "malloc-chunk"),
        ("2.43", CHUNK | 2, "unknown"),
        ("2.36", CHUNK | 1, "unknown"),  # an arena's first chunk
        ("2.36", 0, "unknown"),
    ],
)
def test_a_header_proves_a_chunk_in_its_versions_layout(
    scene: Scene, version: str, word: int, kind: str
) -> None:
    scene.glibc(version)
    scene.mmap(CHUNK, by="")
    seq = scene.seq
    scene.seen(seq, word).query()
    assert scene.region(seq).kind == kind


def test_a_header_in_a_static_program_proves_glibc(scene: Scene) -> None:
    scene.exec()
    a = scene.mmap(CHUNK, by="")
    seq = scene.seq
    scene.seen(seq, CHUNK | 2)
    scene.munmap(a, CHUNK, by="")
    p = scene.process()
    assert (p.allocator.name, p.allocator.version) == ("glibc", None)
    assert scene.region(seq).verdict == "holds"
    # which of both layouts: unknown, so is the size that T took
    assert (p.threshold.low, p.threshold.high) == (CHUNK - 16, CHUNK)


def test_a_static_programs_free_moves_the_threshold(scene: Scene) -> None:
    scene.exec(maps=["400000-500000 r-xp 00000000 fe:00 1 /bin/prog"])
    a = scene.mmap(CHUNK, by="inline")
    seq = scene.seq
    scene.seen(seq, CHUNK | 2)
    scene.munmap(a, CHUNK, by="inline")
    assert scene.region(seq).evidence == "header"
    assert scene.process().threshold.high == CHUNK


def test_a_static_programs_thread_stack_is_proven_by_the_clone(scene: Scene) -> None:
    scene.exec(maps=["400000-500000 r-xp 00000000 fe:00 1 /bin/prog"])
    stack = scene.mmap(0x801000, "inline", prot=0, flags=0x20022)
    seq = scene.seq
    scene.call("mprotect", [stack + 0x1000, 0x800000, 3], 0, by="inline")
    scene.clone(7, stack + 0x800F00)
    r = scene.region(seq)
    assert (r.kind, r.evidence, r.bytes) == ("thread-stack", "sequence", 8 << 20)
    kinds = scene.process().kinds
    assert (kinds["thread-stack"].peak_bytes, kinds["guard"].peak_bytes) == (8 << 20, 4096)


def test_a_childs_threshold_is_its_parents(scene: Scene) -> None:
    # fork after T was raised: the child's request for 500000 by brk
    scene.glibc()
    a = scene.mmap(503808)
    scene.munmap(a, 503808)
    scene.fork(2, 2).as_(2, 2)
    scene.brk(0x9B000)
    scene.exec(3, pid=2, old_mm=2)
    scene.library("/lib/libc.so.6")
    p = scene.process(1)
    assert verdicts(p) == [(0x9B000, "explained", "inherited")]
    assert p.threshold.initial == p.threshold.low == 503808
    assert p.threshold.history == []
    assert p.heap.growths == 1
    assert scene.process(2).threshold.low is None  # its libc is not identified in this trace


def test_a_forked_child_starts_without_steps_but_with_the_extent(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.mmap(CHUNK)
    scene.fork(2, 2)
    child = scene.process(1)
    assert child.heap.steps == []
    assert (child.heap.growths, child.heap.final_bytes, child.heap.peak_bytes) == (
        0,
        0x21000,
        0x21000,
    )
    assert child.kinds["malloc-chunk"].count == 1
    assert child.metrics["chunks.mapped"] == 0
    assert child.metrics["chunks.alive_at_exit"] == 1
    assert {r.born_seq for r in child.regions} == {child.born_seq}


@pytest.mark.parametrize("library", ["jemalloc.so.2", "tcmalloc_minimal.so.4", "mimalloc.so.2.0"])
def test_another_malloc_has_no_threshold(scene: Scene, library: str) -> None:
    path = f"/usr/lib/lib{library}"
    name = library.partition(".")[0].partition("_")[0]
    scene.exec()
    scene.library(path)
    scene.library("/lib/libc.so.6")
    scene.life(Libc(t=10**6, mm=1, path="/lib/libc.so.6", version="2.36"))
    scene.mmap(5 << 20, path)
    seq = scene.seq
    p = scene.process()
    assert p.allocator.name == name
    assert p.allocator.rule == "not-applicable"
    assert (p.threshold.initial, p.threshold.low, p.threshold.high) == (None, None, None)
    r = scene.region(seq)
    assert (r.kind, r.owner, r.verdict, r.reason) == (
        "runtime-heap", name, "not-applicable", "other-allocator",
    )  # fmt: skip


def test_pythons_arenas_are_its_own(scene: Scene) -> None:
    python = "/usr/bin/python3.11"
    maps = [line.replace("/bin/prog", python) for line in scene_maps()]
    scene.glibc(exe=python, maps=maps)
    scene.mmap(1 << 20, python)
    r = scene.region(scene.seq)
    assert (r.kind, r.owner, r.evidence) == ("runtime-heap", "pymalloc", "caller")
    scene.mmap(4 << 20, python)
    assert scene.region(scene.seq).kind == "anon"
    scene.mmap(1 << 20, python)
    assert scene.region(scene.seq).owner == "pymalloc"
    # The module mmap may be of the same file: mmap.mmap(-1, 1 << 20, flags=MAP_PRIVATE|...).
    scene.mmap(1 << 20, f"{python} elsewhere")
    r = scene.region(scene.seq)
    assert (r.kind, r.owner, r.candidates) == ("unknown", None, ["runtime-heap", "anon"])


def scene_maps() -> list[str]:
    return [
        "400000-401000 r-xp 00000000 fe:00 1 /bin/prog",
        "7ff000000000-7ff000020000 r-xp 00000000 fe:00 2 /lib/ld-linux-x86-64.so.2",
    ]


def test_the_loaders_memory_is_the_loaders(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(8192, "loader")
    assert (scene.region(scene.seq).kind, scene.region(scene.seq).evidence) == ("loader", "caller")
    scene.mmap(40000, "loader", prot=1, flags=2, file="/etc/ld.so.cache")
    assert scene.region(scene.seq).kind == "file"


def test_a_kind_of_every_mapping(scene: Scene) -> None:
    scene.glibc()
    expected = {}
    for flags, file, kind in [
        (0x21, "", "shared-anon"), (0x22, "", "anon"), (0x1, "/tmp/f", "shared-file"),
        (0x2, "/tmp/f", "file"),
    ]:  # fmt: skip
        scene.mmap(4096, "program", flags=flags, file=file)
        expected[scene.seq] = kind
    assert {seq: scene.region(seq).kind for seq in expected} == expected
    kinds = scene.process().kinds
    assert {k for k in kinds if k in ("stack", "vdso", "loader", "library")} == {
        "stack", "vdso", "loader", "library",
    }  # fmt: skip


def test_a_split_mapping_lives_until_its_last_byte(scene: Scene) -> None:
    scene.glibc()
    a = scene.mmap(0x10000, "program")
    seq = scene.seq
    scene.munmap(a + 0x4000, 0x4000, "program")
    assert (scene.region(seq).bytes, scene.region(seq).died_seq) == (0xC000, None)
    assert (scene.region(seq).start, scene.region(seq).end) == (a, a + 0x10000)
    scene.munmap(a, 0x4000, "program")
    last = scene.munmap(a + 0x8000, 0x8000, "program")
    r = scene.region(seq)
    assert (r.bytes, r.peak_bytes, r.died_seq, r.start) == (0x8000, 0x10000, last, a + 0x8000)


def test_a_second_libc_makes_a_megabyte_ambiguous(scene: Scene) -> None:
    scene.glibc()
    scene.library(LIBC)  # once more, and the calls do not tell which of the two makes them
    scene.mmap(1 << 20)
    r = scene.region(scene.seq)
    assert (r.kind, r.candidates) == ("unknown", ["malloc-chunk", "main-arena"])
    scene.mmap(CHUNK)
    assert scene.region(scene.seq).kind == "malloc-chunk"


def test_an_inline_system_call_is_no_evidence_for_the_program(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(64 << 10, "inline")
    r = scene.region(scene.seq)
    assert (r.kind, r.candidates) == ("unknown", ["anon", "runtime-heap"])


def test_each_kinds_peak_is_its_own(scene: Scene) -> None:
    # B is proven only after A is gone: the peak of chunks was both.
    scene.glibc()
    a = scene.mmap(CHUNK)
    scene.mmap(2 * CHUNK, by="")
    seq = scene.seq
    scene.munmap(a, CHUNK)
    scene.seen(seq, 2 * CHUNK | 2).query()
    p = scene.process()
    assert p.kinds["malloc-chunk"].peak_bytes == 3 * CHUNK
    assert p.kinds["malloc-chunk"].final_bytes == 2 * CHUNK
    assert "unknown" not in p.kinds


def test_musls_loader_is_its_malloc_and_proves_nothing(scene: Scene) -> None:
    # Debian's musl: the interpreter is .../libc.so, which also holds malloc
    musl = "/usr/lib/x86_64-linux-musl/libc.so"
    scene.exec(maps=[line.replace("/lib/ld-linux-x86-64.so.2", musl) for line in MAPS])
    scene.mmap(200704, by=f"raw {musl}")
    r = scene.region(scene.seq)
    assert (r.kind, r.evidence, r.verdict) == ("unknown", "none", "unknown")


def test_a_thread_whose_stack_lies_inside_a_runtimes_heap_makes_it_no_stack(scene: Scene) -> None:
    # Go: the first stacks of threads are carved from the 4 MiB it committed of its heap
    scene.exec()
    heap = scene.mmap(4 << 20, by="inline", at=0xC000000000, flags=0x32, ret=0xC000000000)
    seq = scene.seq
    scene.clone(7, heap + 0x8000)
    assert scene.region(seq).kind == "unknown"
    assert "thread-stack" not in scene.process().kinds


def test_a_jump_to_mmap_from_a_thread_function_is_no_chunk(scene: Scene) -> None:
    # void *f(void *x) { return mmap(0, 200704, 3, 0x22, -1, 0); } with -O2: the word at the stack
    # pointer is start_thread's, in libc
    scene.glibc()
    scene.mmap(CHUNK)
    chunk = scene.seq
    scene.seen(chunk, CHUNK | 2)
    scene.mmap(200704, by="thread")
    r = scene.region(scene.seq)
    assert (r.kind, r.evidence, r.candidates) == ("unknown", "none", ["malloc-chunk", "anon"])
    assert scene.region(chunk).evidence == "header"


def test_a_second_place_of_malloc_is_proven_by_its_own_header(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(CHUNK)
    scene.seen(scene.seq, CHUNK | 2)
    scene.mmap(200704, by="thread")
    seq = scene.seq
    scene.seen(seq, 200704 | 2).query()
    scene.mmap(CHUNK, by="thread")
    assert (scene.region(seq).kind, scene.region(seq).verdict) == ("malloc-chunk", "holds")
    p = scene.process()
    assert p.kinds["malloc-chunk"].count == 3
    assert p.kinds["malloc-chunk"].peak_bytes == 2 * CHUNK + 200704


def test_a_page_without_a_header_is_no_chunk_whatever_the_caller(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(200704, by="thread")
    seq = scene.seq
    scene.seen(seq, 0).query()
    p = scene.process()
    assert scene.region(seq).kind == "unknown"
    assert "malloc-chunk" not in {n for n, k in p.kinds.items() if k.count or k.peak_bytes}
    assert p.kinds["unknown"].peak_bytes == 200704


def test_what_the_program_unmaps_was_not_mallocs(scene: Scene) -> None:
    scene.glibc()
    a = scene.mmap(200704, by="thread")
    seq = scene.seq
    scene.munmap(a, 200704, by="program")
    p = scene.process()
    assert scene.region(seq).kind == "unknown"
    assert "malloc-chunk" not in {n for n, k in p.kinds.items() if k.count or k.peak_bytes}
    assert p.threshold.low == 131072


def test_a_library_read_as_data_is_a_file(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(65536, by="program", prot=1, flags=2, file=LIBC)
    r = scene.region(scene.seq)
    assert (r.kind, r.evidence) == ("file", "caller")


def test_a_heap_of_another_allocator_is_not_judged(scene: Scene) -> None:
    scene.glibc()
    seq = scene.brk(0x1000, by="sbrk")
    assert verdicts(scene.process()) == [(0x1000, "not-applicable", "foreign-sbrk")]
    assert scene.region(seq).verdict == "not-applicable"


def test_a_library_mapped_by_nobody_known_was_never_a_file(scene: Scene) -> None:
    # 1 MiB read-only first, the text over its middle next, as every loader does it
    scene.exec()
    base = scene.mmap(1 << 20, by="", prot=1, flags=2, file="/lib/x.so")
    scene.call("mmap", [base + 0x1000, 0x1000, 5, 0x12, 3, 0x1000], base + 0x1000,
               by="", file="/lib/x.so")  # fmt: skip
    kinds = scene.exit().process().kinds
    assert kinds["library"].peak_bytes >= 1 << 20
    assert "file" not in {n for n, k in kinds.items() if k.count or k.peak_bytes}


def test_a_growth_after_a_doubted_rise_is_not_explained_by_it(scene: Scene) -> None:
    # mallopt(M_MMAP_THRESHOLD, 131072) freezes it and leaves no trace: m200000 f1 m200000 m100000;
    # then a growth that only a risen threshold, or a padded top, allows
    scene.glibc()
    scene.brk(0x21000)
    a = scene.mmap(212992)
    scene.munmap(a, 212992)
    scene.chunk(200704)
    scene.brk(0x31000)
    scene.brk(0x43000)  # 0x43000 - 4096 - 128 KiB - 16 = 139248, above 128 KiB
    p = scene.process()
    assert (p.threshold.low, p.threshold.high) == (131072, 200688)
    assert verdicts(p) == [
        (0x21000, "holds", None), (0x31000, "holds", None), (0x43000, "unknown", None),
    ]  # fmt: skip


@pytest.mark.parametrize(("setting", "over"), [("1048576", 0), ("65536", 1)])
def test_a_growth_is_over_the_threshold_as_it_was_set(
    scene: Scene, setting: str, over: int
) -> None:
    scene.glibc(env={"MALLOC_MMAP_THRESHOLD_": setting, "MALLOC_MMAP_MAX_": "0"})
    scene.brk(0x21000)
    scene.brk(0xA0000)  # for some 500,000 to 655,000 bytes
    p = scene.exit().process()
    assert p.metrics["heap.growths_over_128k"] == 1
    assert p.metrics["growth.over_threshold"] == over


def test_over_what_is_unknown_where_the_threshold_is(scene: Scene) -> None:
    scene.exec(maps=MAPS)
    scene.brk(0x21000)
    assert "growth.over_threshold" not in scene.exit().process().metrics
