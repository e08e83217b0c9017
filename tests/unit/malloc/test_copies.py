# SPDX-License-Identifier: GPL-2.0-or-later
"""Two copies of glibc in one process: each has a malloc and a threshold of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.conftest import LIBC

from memtrace.trace.records import Libc

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

OTHER = "/opt/libc.so.6"
SMALL, MIDDLE, LARGE = 200704, 409600, 802816


class Two:
    """A scene with two copies of glibc 2.36; the calls after `outer` or `inner` are that one's."""

    def __init__(self, scene: Scene, path: str) -> None:
        self.scene, self.path = scene, path
        scene.glibc()
        self.bases = [self._last_base()]
        scene.brk(0x21000)
        scene.library(path)
        self.seq = scene.seq
        if path != LIBC:
            self.seq -= 1  # the record follows the first mapping of the file
            scene.life(Libc(t=10**6, mm=1, path=path, version="2.36"))
        self.bases.append(self._last_base())

    def _last_base(self) -> int:
        return self.scene.top

    @property
    def outer(self) -> Scene:
        self.scene.base = self.bases[0] if self.path == LIBC else None
        return self.scene

    @property
    def inner(self) -> Scene:
        self.scene.base = self.bases[1] if self.path == LIBC else None
        return self.scene

    @property
    def by(self) -> str:
        """The inner malloc."""
        return "malloc" if self.path == LIBC else f"raw {OTHER}"


@pytest.fixture(params=[LIBC, OTHER], ids=["the same file", "another file"])
def two(scene: Scene, request: pytest.FixtureRequest) -> Two:
    return Two(scene, request.param)


def test_each_copy_is_listed(two: Two) -> None:
    p = two.scene.exit().process()
    assert [a.name for a in p.allocators] == ["glibc", "glibc"]
    assert p.allocator == p.allocators[0]
    assert p.allocator.threshold is None
    inner = p.allocators[1].threshold
    assert inner is not None
    assert (inner.initial, inner.low, inner.high) == (131072, 131072, 131072)


def test_a_free_moves_the_threshold_of_its_own_copy(two: Two) -> None:
    a = two.inner.mmap(LARGE, two.by)
    two.inner.munmap(a, LARGE, two.by)
    two.outer.mmap(SMALL)
    born = two.scene.seq
    p = two.scene.exit().process()
    assert (p.threshold.low, p.threshold.high, p.threshold.history) == (131072, 131072, [])
    inner = p.allocators[1].threshold
    assert inner is not None
    assert (inner.low, inner.high) == (LARGE, LARGE)
    (r,) = [r for r in p.regions if r.born_seq == born]
    assert (r.kind, r.verdict) == ("malloc-chunk", "holds")


def test_the_outer_ones_free_leaves_the_inner_one_alone(two: Two) -> None:
    a = two.outer.mmap(LARGE)
    two.outer.munmap(a, LARGE)
    two.inner.mmap(SMALL, two.by)
    born = two.scene.seq
    p = two.scene.exit().process()
    assert (p.threshold.low, p.threshold.high) == (LARGE, LARGE)
    (r,) = [r for r in p.regions if r.born_seq == born]
    assert (r.kind, r.verdict) == ("malloc-chunk", "holds")


def test_a_chunk_below_its_own_copys_threshold_speaks_against_it_alone(two: Two) -> None:
    a = two.inner.mmap(LARGE, two.by)
    two.inner.munmap(a, LARGE, two.by)
    a = two.inner.mmap(MIDDLE, two.by)
    born = two.scene.seq
    two.scene.seen(born, MIDDLE | 2).query()
    p = two.scene.exit().process()
    (r,) = [r for r in p.regions if r.born_seq == born]
    assert (r.kind, r.verdict, r.reason) == ("malloc-chunk", "unknown", "aligned-or-mallopt")
    assert (p.threshold.low, p.threshold.history) == (131072, [])
    inner = p.allocators[1].threshold
    assert inner is not None
    assert [m.cause for m in inner.history] == ["freed-chunk", "aligned-or-mallopt"]


def test_an_inner_copys_heap_is_a_mapping(two: Two) -> None:
    two.inner.mmap(1 << 20, two.by)
    born = two.scene.seq
    r = two.scene.region(born)
    assert (r.kind, r.candidates) == ("unknown", ["malloc-chunk", "main-arena"])
    two.scene.seen(born, 0).query()
    r = two.scene.region(born)
    assert (r.kind, r.evidence, r.verdict, r.reason) == (
        "main-arena", "caller", "explained", "inner-libc",
    )  # fmt: skip


def test_a_megabyte_of_the_outer_copy_is_a_chunk(two: Two) -> None:
    two.outer.mmap(1 << 20)
    r = two.scene.region(two.scene.seq)
    assert (r.kind, r.verdict) == ("malloc-chunk", "holds")


def test_a_forked_child_has_its_own_of_both(two: Two) -> None:
    a = two.inner.mmap(LARGE, two.by)
    two.inner.munmap(a, LARGE, two.by)
    two.scene.fork(2)
    two.scene.as_(2, 2)
    b = two.inner.mmap(LARGE + SMALL, two.by)
    two.inner.munmap(b, LARGE + SMALL, two.by)
    report = two.scene.exit().report()
    parent, child = report.processes
    found = [p.allocators[1].threshold for p in (parent, child)]
    assert [None if t is None else t.low for t in found] == [LARGE, LARGE + SMALL]
    assert child.threshold.low == 131072


def test_calls_that_do_not_tell_the_copy_move_neither_for_certain(scene: Scene) -> None:
    two = Two(scene, LIBC)
    a = scene.mmap(LARGE)  # no base
    scene.munmap(a, LARGE)
    p = scene.exit().process()
    assert (p.threshold.low, p.threshold.high) == (131072, LARGE)
    inner = p.allocators[1].threshold
    assert inner is not None
    assert (inner.low, inner.high) == (131072, LARGE)
    assert two.bases[0] != two.bases[1]
