# SPDX-License-Identifier: GPL-2.0-or-later
"""What the headers of musl's malloc prove of regions, of the break, and of whose malloc it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.conftest import HEAP, LD, MAPS
from tests.unit.malloc.test_allocators import ALONE, JEMALLOC, MUSL, holds, libc, looked
from tests.unit.malloc.test_older import line

from memtrace.trace.records import Lost

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

__all__ = ["looked"]

THEIRS: tuple[object, ...] = (
    "runtime-heap", "musl", "header", "not-applicable", "other-allocator", [],
)  # fmt: skip
META = HEAP + 0x1000 + 24
RAW = f"raw {MUSL}"


def row(scene: Scene, seq: int) -> tuple[object, ...]:
    r = scene.region(seq)
    return r.kind, r.owner, r.evidence, r.verdict, r.reason, r.candidates


def musl(scene: Scene) -> Scene:
    """A dynamic program with musl."""
    scene.exec(maps=[m.replace(LD, MUSL) for m in MAPS])
    libc(scene, "musl", MUSL, "1.2.3")
    return scene


def after(scene: Scene) -> Scene:
    """A record that brings the headers that were seen."""
    return scene.life(Lost(t=scene.seq * 1000, why="test", mm=99))


@pytest.mark.parametrize("length", [16384, 131072, 200020, 5000020])
def test_a_group_is_musls(looked: Scene, length: int) -> None:
    musl(looked).mmap(length, RAW)
    seq = looked.seq
    assert row(looked, seq)[:3] == ("unknown", None, "none")
    after(looked.seen(seq, META))
    assert row(looked, seq) == THEIRS
    p = looked.process()
    kind = p.kinds["runtime-heap"]
    assert (kind.count, kind.peak_bytes) == (1, -(-length // 4096) * 4096)
    assert "unknown" not in p.kinds  # nor was it counted so before


@pytest.mark.parametrize("length", [131072, 200020])
def test_no_header_proves_nothing(looked: Scene, length: int) -> None:
    musl(looked).mmap(length, RAW)
    seq = looked.seq
    after(looked.seen(seq, 0))
    assert row(looked, seq) == (
        "unknown", None, "none", "not-applicable", None, ["runtime-heap", "anon"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("length", "more"),
    [
        pytest.param(131072, {"prot": 0}, id="no access"),
        pytest.param(131072, {"at": 0x7E0000000000}, id="a hint"),
        pytest.param(131072, {"flags": 0x4022}, id="other flags"),
    ],
)
def test_it_maps_in_one_way(looked: Scene, length: int, more: dict[str, int]) -> None:
    musl(looked).mmap(length, RAW, **more)
    seq = looked.seq
    after(looked.seen(seq, META))
    assert row(looked, seq)[:2] == ("unknown", None)


def test_glibcs_malloc_and_its_callers_are_not_musls(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(200704)
    chunk = scene.seq
    scene.mmap(200020, "program")
    own = scene.seq
    after(scene.seen(chunk, META).seen(own, META))
    assert scene.region(chunk).kind == "unknown"  # two that contradict one another
    assert scene.region(chunk).owner is None
    assert scene.region(own).kind == "anon"
    assert scene.process().allocator.name == "glibc"


def test_an_unrounded_length_is_no_chunk_whatever_stands_there(scene: Scene) -> None:
    scene.exec()
    scene.mmap(0x21000 - 20, "inline")
    seq = scene.seq
    after(scene.seen(seq, 0x21002))
    assert scene.region(seq).kind == "unknown"
    assert scene.process().allocator.name == "unknown"


def test_a_static_program_that_holds_no_names(looked: Scene) -> None:
    looked.exec(maps=ALONE)
    looked.mmap(200020, "inline")
    seq = looked.seq
    looked.brk(0x2000, "inline")
    looked.seen(seq, META)
    looked.mmap(131072, "inline")
    p = looked.exit().process()
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")
    assert p.allocator.version is None
    assert p.allocator.evidence == f"the header of a mallocng group (#{seq})"
    assert p.allocator.own_rule is not None
    assert "mallocng" in p.allocator.own_rule
    assert row(looked, seq) == THEIRS
    assert row(looked, seq + 2)[0] == "unknown"


def test_another_malloc_may_serve_beside_it(looked: Scene) -> None:
    # The loader itself allocates by musl's own (`__libc_malloc`), whatever replaces malloc.
    musl(looked).library(JEMALLOC)
    holds(looked, JEMALLOC, "jemalloc")
    looked.mmap(16384, RAW)
    seq = looked.seq
    p = after(looked.seen(seq, META)).exit().process()
    assert row(looked, seq)[:3] == THEIRS[:3]
    assert p.allocator.name == "unknown"


# -- the break ----------------------------------------------------------------------------------


def steps(scene: Scene) -> list[tuple[str, str, str | None]]:
    return [(s.role, s.verdict, s.reason) for s in scene.process().heap.steps]


FOR_META = ("other-allocator", "not-applicable", "other-allocator")
OPEN = ("unknown", "not-applicable", None)


def test_a_growth_that_holds_a_meta_is_for_metadata(looked: Scene) -> None:
    musl(looked).brk(0x2000, RAW)
    looked.mmap(16384, RAW)
    assert steps(looked) == [OPEN]
    looked.seen(looked.seq, META)
    looked.brk(0x1000, RAW)  # by the same instruction
    looked.brk(0x1000, "inline")
    own = ("foreign-sbrk", "not-applicable", "foreign-sbrk")
    assert steps(looked) == [FOR_META, FOR_META, own]
    assert {r.verdict for r in looked.exit().process().regions if r.kind == "heap"} == {
        "not-applicable"
    }


@pytest.mark.parametrize(
    ("delta", "meta"),
    [
        pytest.param(0x2000, HEAP + 24, id="the guard's page"),
        pytest.param(0x2000, HEAP - 0x1000 + 24, id="below the heap"),
        pytest.param(0x2000, 0x7E0000000018, id="mapped elsewhere"),
        pytest.param(0x1800, HEAP + 0x1018, id="not to a page's end"),
        pytest.param(0x21000, HEAP + 0x20018, id="more than it asks for"),
    ],
)
def test_another_growth_is_not(looked: Scene, delta: int, meta: int) -> None:
    musl(looked).brk(delta, RAW)
    looked.mmap(16384, RAW)
    after(looked.seen(looked.seq, meta))
    assert steps(looked) == [OPEN]


def test_where_the_malloc_is_not_known_it_is_told_in_the_end(looked: Scene) -> None:
    looked.exec(maps=ALONE)
    looked.brk(0x2000, "inline")
    looked.mmap(16384, "inline")
    after(looked.seen(looked.seq, META))
    assert steps(looked) == [FOR_META]
    (heap,) = [r for r in looked.exit().process().regions if r.kind == "heap"]
    assert heap.verdict == "not-applicable"


def test_a_child_proves_its_own(looked: Scene) -> None:
    musl(looked).brk(0x2000, RAW)
    looked.mmap(16384, RAW)
    looked.seen(looked.seq, META)
    looked.fork(2).as_(2, 2)
    looked.mmap(200020, RAW)
    child = looked.seq
    after(looked.seen(child, META + 40))
    assert steps(looked) == [FOR_META]
    (r,) = [r for r in looked.process(1).regions if r.born_seq == child]
    assert (r.kind, r.owner, r.evidence) == THEIRS[:3]
    (old,) = [r for r in looked.process(1).regions if r.inherited and r.kind == "runtime-heap"]
    assert old.owner == "musl"


# -- an attach ----------------------------------------------------------------------------------

AT = 0x7D0000000000


def rows(scene: Scene) -> list[tuple[int, int, str, str | None, str]]:
    """What lies above `AT`, below the libraries."""
    return [
        (r.start - AT, r.bytes, r.kind, r.owner, r.evidence)
        for r in sorted(scene.process().regions, key=lambda r: r.start)
        if AT <= r.start < AT + 0x1000000
    ]


def test_groups_found_at_an_attach_are_cut_out_of_their_line(scene: Scene) -> None:
    maps = [line(AT, 0x50000)]
    scene.attach(maps, libc="", groups=[(AT + 0x10000, 0x4000, META), (AT + 0x14000, 0x1000, META)])
    musls = ("runtime-heap", "musl", "header")
    assert rows(scene) == [
        (0, 0x10000, "unknown", None, "none"),
        (0x10000, 0x4000, *musls),
        (0x14000, 0x1000, *musls),
        (0x15000, 0x3B000, "unknown", None, "none"),
    ]
    scene.munmap(AT + 0x10000, 0x4000, RAW)
    (r,) = [r for r in scene.process().regions if r.start == AT + 0x10000]
    assert (r.died_seq, r.verdict, r.reason) == (scene.seq, *FOR_META[1:])


@pytest.mark.parametrize(
    "group",
    [
        pytest.param((AT + 0x4F000, 0x2000), id="beyond its line"),
        pytest.param((AT + 8, 0x1000), id="not at a page"),
        pytest.param((AT, 20), id="no number of pages"),
        pytest.param((AT, 0), id="nothing"),
        pytest.param((AT, -0x1000), id="less"),
        pytest.param((AT + 0x100000, 0x1000), id="not to write to"),
    ],
)
def test_what_can_be_no_group(scene: Scene, group: tuple[int, int]) -> None:
    maps = [line(AT, 0x50000), line(AT + 0x100000, 0x1000, "r--p")]
    scene.attach(maps, libc="", groups=[(*group, META)])
    assert [r[:4] for r in rows(scene)] == [
        (0, 0x50000, "unknown", None), (0x100000, 0x1000, "unknown", None),
    ]  # fmt: skip


def test_a_group_and_a_chunk_are_not_one_another(scene: Scene) -> None:
    scene.attach([line(AT, 0x50000)], chunks=[(AT, 0x21002)], groups=[(AT, 0x21000, META)])
    assert [r[:3] for r in rows(scene)] == [
        (0, 0x21000, "malloc-chunk"), (0x21000, 0x2F000, "unknown"),
    ]  # fmt: skip


def test_a_static_program_is_known_by_a_group(looked: Scene) -> None:
    looked.attach([line(AT, 0x50000)], libc="", groups=[(AT, 0x4000, META)])
    looked.records[-1].maps = [m for m in looked.records[-1].maps if LD not in m]  # type: ignore[union-attr]
    p = looked.process()
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")
    assert p.allocator.evidence == "the header of a mallocng group (found at the attach)"


def test_a_dynamic_one_by_its_library(looked: Scene) -> None:
    maps = [line(AT, 0x50000), line(AT - 0x100000, 0x60000, "r-xp", MUSL, 50)]
    looked.attach(maps, libc="", groups=[(AT, 0x4000, META)])
    libc(looked, "musl", MUSL, "1.2.3")
    p = looked.process()
    assert [(a.name, a.version) for a in p.allocators] == [("musl", "1.2.3")]
