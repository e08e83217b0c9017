# SPDX-License-Identifier: GPL-2.0-or-later
"""The trim threshold beside the mmap threshold, what holds whatever was freed, and what excludes
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.conftest import LIBC

from memtrace.malloc.glibc import Layout, Settings, settings
from memtrace.malloc.threshold import Threshold
from memtrace.report import text
from memtrace.trace.records import Ext

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

    from memtrace.report.model import ProcessRow

DEFAULT = 131072
CHUNK = 135168
MIB = 1 << 20


def bounds(p: ProcessRow) -> tuple[int | None, int | None, int | None, int | None]:
    t = p.threshold
    return t.least, t.low, t.high, t.most


def trim(p: ProcessRow) -> tuple[int | None, int | None, int | None, int | None]:
    t = p.threshold.trim
    return t.initial, t.least, t.low, t.high


def told(scene: Scene) -> str:
    """The text report, on one line."""
    return " ".join(text.render(scene.report()).split())


def munmap(scene: Scene, length: int, word: int | None = None, inner: int = 0) -> int:
    """malloc(...), free; the trace tells the size words, or not."""
    a = scene.mmap(length)
    return scene.munmap(a, length, ext=None if word is None else Ext(freed=(word, inner)))


def test_a_rise_sets_it_to_twice_the_threshold(scene: Scene) -> None:
    scene.glibc()
    munmap(scene, CHUNK, CHUNK | 2)
    p = scene.process()
    assert bounds(p) == (CHUNK, CHUNK, CHUNK, CHUNK)
    assert trim(p) == (DEFAULT, 2 * CHUNK, 2 * CHUNK, 2 * CHUNK)
    (move,) = p.threshold.history
    assert (move.least, move.trim.low, move.trim.high, move.against) == (
        CHUNK, 2 * CHUNK, 2 * CHUNK, None,
    )  # fmt: skip


def test_a_free_of_unknown_size_may_have_been_an_aligned_chunks(scene: Scene) -> None:
    scene.glibc()
    munmap(scene, CHUNK)
    p = scene.process()
    assert bounds(p) == (DEFAULT, CHUNK, CHUNK, CHUNK)
    assert trim(p) == (DEFAULT, DEFAULT, 2 * CHUNK, 2 * CHUNK)
    assert "whether a freed chunk was an aligned one" in told(scene)


def test_an_aligned_chunk_raises_them_to_its_own_size(scene: Scene) -> None:
    # memalign(2 MiB, 1 MiB), freed
    scene.glibc()
    munmap(scene, 3149824, 3149824 | 2, 2 * MIB | 2)
    p = scene.process()
    assert bounds(p) == (2 * MIB, 2 * MIB, 2 * MIB, 2 * MIB)
    assert trim(p)[1:] == (4 * MIB, 4 * MIB, 4 * MIB)
    assert "whether a freed chunk was an aligned one" not in told(scene)


def test_an_aligned_chunk_no_larger_than_the_threshold_moves_nothing(scene: Scene) -> None:
    scene.glibc()
    munmap(scene, 3149824, 3149824 | 2, 100000 & ~15 | 2)
    p = scene.process()
    assert p.threshold.history == []
    assert trim(p)[1:] == (DEFAULT, DEFAULT, DEFAULT)


def test_a_chunk_of_just_the_threshold_moves_the_trim_threshold_alone(scene: Scene) -> None:
    # The size field is compared with its flag bit: 131072|2 > 131072.
    scene.glibc()
    seq = munmap(scene, 3149824, 3149824 | 2, DEFAULT | 2)
    p = scene.process()
    assert bounds(p)[1:3] == (DEFAULT, DEFAULT)
    assert trim(p)[2:] == (2 * DEFAULT, 2 * DEFAULT)
    assert [(m.seq, m.cause) for m in p.threshold.history] == [(seq, "freed-chunk")]


def test_a_chunk_too_large_to_raise_it_may_be_an_aligned_one_that_did(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    munmap(scene, 40 * MIB)
    assert bounds(scene.process()) == (DEFAULT, DEFAULT, DEFAULT, 32 * MIB)
    grown = scene.brk(20 * MIB)
    p = scene.process()
    assert [(s.verdict, s.reason) for s in p.heap.steps[1:]] == [("unknown", "aligned-or-mallopt")]
    (move,) = p.threshold.history
    assert (move.seq, move.cause, move.low, move.high) == (
        grown, "aligned-or-mallopt", DEFAULT, 32 * MIB,
    )  # fmt: skip
    assert move.against == 1


def test_with_its_size_the_same_growth_is_a_contradiction(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    munmap(scene, 40 * MIB, 40 * MIB | 2)
    scene.brk(20 * MIB)
    assert scene.process().heap.steps[-1].verdict == "contradiction"


@pytest.mark.parametrize(
    ("env", "version", "low", "high"),
    [
        ({"MALLOC_TRIM_THRESHOLD_": "1000"}, "2.36", 1000, 1000),
        ({"MALLOC_TOP_PAD_": "0"}, "2.36", DEFAULT, DEFAULT),
        ({"MALLOC_MMAP_THRESHOLD_": "4096"}, "2.43", DEFAULT, DEFAULT),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=0x40000"}, "2.41", 0x40000, 0x40000),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}, "2.41", DEFAULT, DEFAULT),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}, "2.36", None, None),
        ({"MALLOC_TRIM_THRESHOLD_": "64k"}, "", None, None),
    ],
)
def test_where_it_is_fixed(
    scene: Scene, env: dict[str, str], version: str, low: int | None, high: int | None
) -> None:
    scene.glibc(version, env=env)
    munmap(scene, 10 * MIB, 10 * MIB | 2)
    assert trim(scene.process())[2:] == (low, high)


def test_a_forked_child_has_it_and_an_exec_resets_it(scene: Scene) -> None:
    scene.glibc()
    munmap(scene, CHUNK, CHUNK | 2)
    scene.fork(2, 2).as_(2, 2)
    scene.query()
    child = scene.process(1)
    assert trim(child) == (2 * CHUNK,) * 4
    assert bounds(child) == (CHUNK,) * 4
    scene.glibc(mm=3, pid=2, old_mm=2)
    assert trim(scene.process(2)) == (DEFAULT,) * 4


def test_after_an_attach_it_may_stand_anywhere(scene: Scene) -> None:
    scene.attach([])
    assert trim(scene.process()) == (None, DEFAULT, DEFAULT, 64 * MIB)
    scene.mmap(200704)
    scene.seen(scene.seq, 200704 | 2).query()
    assert trim(scene.process()) == (None, DEFAULT, DEFAULT, 2 * 200688)


def test_a_contradiction_names_both_events_and_leaves_nothing(scene: Scene) -> None:
    scene.glibc()
    freed = munmap(scene, 3 * MIB, 3 * MIB | 2)
    scene.chunk(MIB)
    seq = scene.seq - 1
    p = scene.process()
    assert [(m.seq, m.cause, m.against) for m in p.threshold.history] == [
        (freed, "freed-chunk", None), (seq, "contradiction", freed),
    ]  # fmt: skip
    assert trim(p)[1:] == (0, 0, None)
    assert f"It excludes what #{freed} had set" in told(scene)


def test_without_a_move_a_contradiction_is_against_the_exec(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    seq = scene.brk(0x10C000)
    assert [(m.seq, m.against) for m in scene.process().threshold.history] == [(seq, 1)]


def test_in_a_child_it_is_against_the_fork(scene: Scene) -> None:
    scene.glibc()
    munmap(scene, CHUNK, CHUNK | 2)
    forked = scene.fork(2, 2).seq
    scene.as_(2, 2).brk(0x10C000)
    (move,) = scene.process(1).threshold.history
    assert (move.cause, move.against) == ("contradiction", forked)


def test_two_copies_of_libc_have_thresholds_of_their_own(scene: Scene) -> None:
    scene.glibc()
    scene.library(LIBC)  # once more, and the calls do not tell which of the two makes them
    scene.mmap(102400)
    p = scene.process()
    assert scene.region(scene.seq).verdict == "unknown"
    assert p.threshold.history == []


def test_sizes_that_the_type_does_not_hold_leave_it_open() -> None:
    env = {"MALLOC_TRIM_THRESHOLD_": "-1"}
    wide = settings(env, at_secure=False, version=(2, 36))
    assert (wide.trim, wide.threshold) == ((1 << 64) - 1, DEFAULT)
    narrow = settings(env, at_secure=False, version=(2, 36), i386=True)
    assert (narrow.trim, narrow.threshold) == (None, None)
    assert settings({"MALLOC_MMAP_MAX_": "-1"}, at_secure=False, version=(2, 36)).threshold is None


def test_i386_programs_had_a_lower_cap() -> None:
    env = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    old = settings(env, at_secure=False, version=(2, 34), i386=True)
    assert (old.threshold, old.fixed_by) == (DEFAULT, None)
    assert settings(env, at_secure=False, version=(2, 35), i386=True).threshold == 1000000


FREES = st.lists(
    st.tuples(st.integers(33, 9000), st.integers(0, 8000), st.booleans()), max_size=8
)  # fmt: skip


@given(frees=FREES, i386=st.booleans())
def test_both_intervals_hold_the_true_values(
    *, frees: list[tuple[int, int, bool]], i386: bool
) -> None:
    """Chunks of so many pages, that many of them before an aligned one; told, or not."""
    layout, t = Layout((2, 36), "i386" if i386 else ""), Threshold()
    t.configure(Settings())
    limit = (512 << 10) if i386 else 32 * MIB
    true, true_trim, plain = DEFAULT, DEFAULT, True
    for seq, (pages, offset, is_told) in enumerate(frees):
        length, moved = pages * 4096, min(offset, pages - 33) * 4096
        size = length - moved - (8 if i386 else 0)
        if true < size | 2 <= limit:  # __libc_free
            true, true_trim = size, 2 * size
        plain = plain and (is_told or not moved)
        t.freed(seq, 0, length, layout, word=size | 2 if is_told else None)
        assert t.floor is not None
        assert t.ceiling is not None
        assert t.floor <= true <= t.ceiling
        low, high = t.trim()
        assert (t.trim_floor() or 0) <= true_trim
        if plain:
            assert t.low == t.high == true
            assert low == high == true_trim
