# SPDX-License-Identifier: GPL-2.0-or-later
"""Heaps of thread arenas: what they reserve, open and give back; and how many there may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memtrace.report import text

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

    from memtrace.report.model import ArenaRow

BASE = 0x7E0000000000
MIB = 1 << 20


def reserve(scene: Scene, base: int = BASE, by: str = "malloc", size: int = 64 * MIB) -> int:
    """alloc_new_heap, where the kernel happened to place it aligned; the mmap's number."""
    scene.mmap(2 * size, by, prot=0, flags=0x22, ret=base)
    seq = scene.seq
    scene.munmap(base + size, size, by)
    scene.call("mprotect", [base, 135168, 3], 0, by=by)
    return seq


def told(scene: Scene) -> str:
    """The text report, on one line."""
    return " ".join(text.render(scene.report()).split())


def only(scene: Scene) -> ArenaRow:
    (row,) = scene.process().arenas
    return row


def test_who_reserved_it_and_when(scene: Scene) -> None:
    scene.glibc()
    scene.tid = 7
    seq = reserve(scene)
    a = only(scene)
    assert (a.base, a.born_seq, a.died_seq, a.tid, a.arena) == (BASE, seq, None, 7, None)
    assert (a.reserved_bytes, a.committed_bytes, a.shrinks) == (64 * MIB, 135168, 0)


def test_what_it_gives_back_and_that_growing_back_is_not_seen(scene: Scene) -> None:
    scene.glibc()
    reserve(scene)
    scene.call("mprotect", [BASE + 135168, 0x100000, 3], 0)
    assert "unknown" not in told(scene).partition("thread arenas malloc")[2].partition("system")[0]
    scene.call("madvise", [BASE + 0x40000, 0x80000, 4], 0)
    a = only(scene)
    assert (a.committed_bytes, a.committed_peak_bytes) == (None, 135168 + 0x100000)
    assert (a.shrinks, a.given_back_bytes) == (1, 0x80000)
    assert "growing back makes no system call" in told(scene)


def test_without_overcommit_what_is_open_stays_known(scene: Scene) -> None:
    # shrink_heap maps the tail anew, PROT_NONE
    scene.glibc()
    reserve(scene)
    scene.call("mmap", [BASE + 0x10000, 135168 - 0x10000, 0, 0x32, -1, 0], BASE + 0x10000)
    a = only(scene)
    assert (a.committed_bytes, a.committed_peak_bytes) == (0x10000, 135168)
    assert (a.shrinks, a.given_back_bytes) == (1, 135168 - 0x10000)


def test_an_empty_heap_is_unmapped_and_stays_in_the_list(scene: Scene) -> None:
    scene.glibc()
    reserve(scene)
    reserve(scene, BASE - 256 * MIB)
    seq = scene.munmap(BASE, 64 * MIB)
    gone, there = scene.process().arenas
    assert (gone.died_seq, gone.committed_bytes, gone.given_back_bytes) == (seq, 0, 135168)
    assert there.died_seq is None
    assert "2 heaps of thread arenas, 1 of them unmapped since" in told(scene)
    assert "reserved at the end: 64 MiB" in told(scene)


def test_the_next_heap_at_a_hint(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(64 * MIB, at=BASE, prot=0, flags=0x22, ret=BASE)
    scene.call("mprotect", [BASE, 135168, 3], 0)
    assert only(scene).base == BASE


@pytest.mark.parametrize("by", ["malloc", ""])
def test_a_heap_of_an_i386_program_has_a_mebibyte(scene: Scene, by: str) -> None:
    scene.glibc(abi="i386")
    base = 0xF0000000
    scene.mmap(2 * MIB, by, prot=0, flags=0x22, ret=base - 0x80000)
    seq = scene.seq
    scene.munmap(base - 0x80000, 0x80000, by)
    scene.munmap(base + MIB, 0x80000, by)
    scene.call("mprotect", [base, 135168, 3], 0, by=by)
    a = only(scene)
    assert (a.base, a.reserved_bytes, a.committed_bytes) == (base, MIB, 135168)
    r = scene.region(seq)
    assert (r.kind, r.bytes) == ("arena", MIB)
    assert "each reserves 1 MiB" in told(scene)


def test_two_mebibytes_are_no_arena_of_a_64_bit_program(scene: Scene) -> None:
    scene.glibc()
    scene.mmap(2 * MIB, prot=0, flags=0x22)
    assert scene.region(scene.seq).kind == "unknown"
    assert scene.process().arenas == []


def test_an_attach_finds_the_heaps_of_an_i386_program(scene: Scene) -> None:
    maps = [
        "f0000000-f0021000 rw-p 00000000 00:00 0",
        "f0021000-f0100000 ---p 00000000 00:00 0",
    ]
    scene.attach(maps, abi="i386")
    (r,) = [r for r in scene.process().regions if r.start == 0xF0000000]
    assert (r.bytes, r.candidates) == (MIB, ["arena", "anon"])


def test_a_child_has_copies(scene: Scene) -> None:
    scene.glibc()
    scene.tid = 7
    reserve(scene)
    scene.call("madvise", [BASE + 0x10000, 0x1000, 4], 0)
    forked = scene.fork(2, 2).seq
    scene.as_(2, 2).query()
    (a,) = scene.process(1).arenas
    assert (a.born_seq, a.tid, a.shrinks, a.given_back_bytes) == (forked, None, 0, 0)


LIMITS: list[tuple[dict[str, Any], str, int | None, int | None, str | None]] = [
    ({}, "2.41", 2, 16, "cpus-online"),
    ({}, "2.31", 4, 32, "cpus-online"),
    ({}, "2.36", 2, 16, "cpus-allowed"),
    ({}, "2.38", 2, 16, "cpus-allowed"),
    ({}, "2.39", 2, 16, "cpus-online"),
    ({}, "2.36", None, None, None),
    # The limit is looked at when there are more than arena_test: one more can be there.
    ({}, "2.41", 1, 9, "cpus-online"),
    ({"env": {"MALLOC_ARENA_TEST": "40"}}, "2.41", 2, 41, "cpus-online"),
    ({"env": {"MALLOC_ARENA_MAX": "1"}}, "2.41", 2, 1, "environ"),
    ({"env": {"GLIBC_TUNABLES": "glibc.malloc.arena_max=3", "MALLOC_ARENA_MAX": "1"}},
     "2.36", 2, 3, "tunable"),
    ({"env": {"MALLOC_ARENA_MAX": "3"}, "at_secure": True}, "2.41", 2, 16, "cpus-online"),
    ({"env": {"MALLOC_ARENA_MAX": "3"}, "at_secure": None}, "2.41", 2, None, None),
    ({"env": {"MALLOC_ARENA_MAX": "0"}}, "2.41", 2, None, None),
    ({"env": {"MALLOC_ARENA_MAX": "3x"}}, "2.41", 2, 16, "cpus-online"),
    ({"env": {"MALLOC_ARENA_MAX": "3x"}}, "2.36", 2, 3, "environ"),
    ({"env_lost": True}, "2.41", 2, None, None),
    ({"abi": "i386"}, "2.41", 2, 4, "cpus-online"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "version", "cpus", "most", "reason"), LIMITS)
def test_how_many_there_may_be(
    scene: Scene, facts: dict[str, Any], version: str, cpus: int | None, most: int | None,
    reason: str | None,
) -> None:  # fmt: skip
    scene.header.cpus_online = cpus
    scene.glibc(version, **facts)
    limit = scene.process().arena_limit
    assert (limit.max, limit.reason, limit.cpus) == (most, reason, cpus)


def test_another_malloc_has_no_such_limit(scene: Scene) -> None:
    scene.header.cpus_online = 2
    scene.exec()
    assert scene.process().arena_limit.max is None


def test_the_limit_and_its_reason_in_words(scene: Scene) -> None:
    scene.header.cpus_online = 2
    scene.glibc("2.41")
    reserve(scene)
    assert (
        "1 heap of thread arenas; malloc makes at most 16 arenas, the main one counted (by 2 CPUs "
        "online; a cgroup's quota does not count)"
    ) in told(scene)
