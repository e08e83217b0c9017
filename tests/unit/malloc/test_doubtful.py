# SPDX-License-Identifier: GPL-2.0-or-later
"""What random programs have shown to be said and not true (tests/live/test_ground_truth.py), made
small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

T = 131072


def test_where_malloc_may_not_map_a_growth_does_not_hold(scene: Scene) -> None:
    # MALLOC_MMAP_MAX_=0, m133562: the growth may be of a chunk above the threshold
    scene.glibc(env={"MALLOC_MMAP_MAX_": "0"})
    scene.brk(0x21000)
    scene.brk(0x29000)
    first, second = scene.exit().process().heap.steps
    assert first.verdict == "holds"  # of a chunk below 4 KiB
    assert (second.verdict, second.reason) in (("unknown", None), ("explained", "mmap-max"))


def test_a_thread_may_have_seen_the_threshold_before_it_rose(scene: Scene) -> None:
    # One thread frees while another one is on its way to mmap: the trace holds the munmap first.
    scene.glibc()
    scene.brk(0x21000)
    scene.clone(2, None)
    a = scene.mmap(204800)
    scene.seen(scene.seq, 204800 | 2)
    scene.mmap(139264, tid=2)
    scene.munmap(a, 204800)
    late = scene.mmap(139264, tid=2)
    scene.seen(scene.seq, 139264 | 2)
    scene.brk(0x21000)
    p = scene.exit().process()
    assert (p.threshold.low, p.threshold.high) == (204800, 204800)
    (r,) = [r for r in p.regions if r.start == late]
    assert (r.kind, r.verdict in ("unknown", "holds"), r.reason) == ("malloc-chunk", True, None)


def test_a_thread_may_have_seen_the_threshold_that_a_later_record_tells(scene: Scene) -> None:
    # free raises the threshold before its munmap: the growth of another thread may come in between.
    scene.glibc()
    scene.brk(0x21000)
    scene.clone(2, None)
    a = scene.mmap(1 << 20)
    scene.seen(scene.seq, (1 << 20) | 2)
    scene.brk(0xA0000, tid=2)  # a chunk of 516 KiB at least
    scene.munmap(a, 1 << 20)
    p = scene.exit().process()
    assert p.heap.steps[1].verdict != "contradiction"
    assert p.threshold.low is not None
    assert p.threshold.low <= 1 << 20
    assert p.threshold.high == 1 << 20


def test_in_one_thread_there_is_no_such_doubt(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    a = scene.mmap(1 << 20)
    scene.seen(scene.seq, (1 << 20) | 2)
    scene.brk(0xA0000)
    scene.munmap(a, 1 << 20)
    assert scene.exit().process().heap.steps[1].verdict == "contradiction"


def test_free_may_end_in_a_jump_to_munmap(scene: Scene) -> None:
    # glibc 2.31: munmap_chunk ends in a jump, and the word at the stack pointer is free's caller.
    scene.glibc("2.31")
    scene.brk(0x21000)
    a = scene.mmap(204800)
    scene.seen(scene.seq, 204800 | 2)
    scene.munmap(a, 204800, by="program")
    scene.brk(0x50000)  # a chunk above 128 KiB
    p = scene.exit().process()
    assert (p.threshold.low, p.threshold.high) == (T, 204800)
    assert [m.cause for m in p.threshold.history] == ["possible-rise"]
    assert p.heap.steps[1].verdict == "unknown"
    bounds = p.heap.steps[1].chunk
    assert bounds is not None
    assert bounds.max is not None
    assert bounds.max < 204800


def test_a_realloc_that_cannot_move_its_chunk_frees_it_without_a_rise(scene: Scene) -> None:
    # __libc_realloc: mremap_chunk fails, malloc finds free memory, munmap_chunk.
    scene.glibc()
    scene.brk(0x21000)
    a = scene.mmap(200704)
    scene.seen(scene.seq, 200704 | 2)
    scene.call("mremap", [a, 200704, 303104, 1], -12)
    scene.munmap(a, 200704)
    t = scene.exit().process().threshold
    assert t.low == T
    assert t.high in (T, 200704)


def test_a_thread_may_have_found_all_mappings_taken_that_another_frees(scene: Scene) -> None:
    # MALLOC_MMAP_MAX_=1: the growth is of a thread that looked while the chunk was there.
    scene.glibc(env={"MALLOC_MMAP_MAX_": "1"})
    scene.brk(0x21000)
    scene.clone(2, None)
    a = scene.mmap(204800)
    scene.seen(scene.seq, 204800 | 2)
    scene.munmap(a, 204800)
    scene.brk(0xD0000, tid=2)
    step = scene.exit().process().heap.steps[-1]
    assert (step.delta, step.verdict, step.reason) == (0xD0000, "unknown", None)


def test_one_thread_alone_knows_that_it_may_map_again(scene: Scene) -> None:
    scene.glibc(env={"MALLOC_MMAP_MAX_": "1"})
    scene.brk(0x21000)
    a = scene.mmap(204800)
    scene.seen(scene.seq, 204800 | 2)
    scene.munmap(a, 204800)
    scene.brk(0xD0000)
    step = scene.exit().process().heap.steps[-1]
    assert (step.delta, step.verdict) == (0xD0000, "contradiction")


def test_a_header_that_comes_late_does_not_undo_what_has_moved_since(scene: Scene) -> None:
    """That T was lower at the mapping says nothing of what a free has made of it since."""
    scene.glibc().brk(0x21000)
    a = scene.mmap(802816)
    scene.seen(scene.seq, 802816 | 2).munmap(a, 802816)
    scene.mmap(135168, "thread")  # from another place in libc: only its header tells
    born = scene.seq
    b = scene.mmap(3002368)
    scene.seen(scene.seq, 3002368 | 2).munmap(b, 3002368)
    scene.seen(born, 135168 | 2).mmap(8192, "program")
    p = scene.exit().process()
    assert born in [m.seq for m in p.threshold.history]
    assert p.threshold.high is None or p.threshold.high >= 3002368
