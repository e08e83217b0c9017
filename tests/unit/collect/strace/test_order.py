# SPDX-License-Identifier: GPL-2.0-or-later
"""A call that took pages proves that an unmap of them, still in flight, had freed them."""

from __future__ import annotations

import pytest
from tests.unit.collect.strace.telling import BASE, Lines, Told

from memtrace.collect.abi import INDEX
from memtrace.collect.strace.order import claimed, freed

MMAP, MUNMAP, MREMAP, BRK = (INDEX[n] for n in ("mmap", "munmap", "mremap", "brk"))
THREAD = 0x10100  # CLONE_VM | CLONE_THREAD
PAGE = 4096


def two_threads(lines: Lines) -> list:  # type: ignore[type-arg]
    return [lines.exec(1), lines.fork(1, 2, THREAD), lines.mmap(1, BASE, 4)]


def calls(told: Told) -> list[tuple[int, int]]:
    return [(tid, index) for tid, _, index, *_ in told.rows]


def racy(lines: Lines) -> list:  # type: ignore[type-arg]
    return [
        *two_threads(lines),
        lines.enter(1, "munmap", [BASE, 4 * PAGE]),
        lines.mmap(2, BASE + PAGE),
        lines.mmap(2, BASE - PAGE),
        lines.munmap(1, BASE, 4),
        lines.end(2), lines.end(1),
    ]  # fmt: skip


def test_the_unmap_goes_before_the_call_that_got_its_pages() -> None:
    told = Told(racy(Lines()))
    assert calls(told) == [(1, MMAP), (1, MUNMAP), (2, MMAP), (2, MMAP)]


def test_without_the_rule_the_log_order_stays() -> None:
    told = Told(racy(Lines()), reorder=False)
    assert calls(told) == [(1, MMAP), (2, MMAP), (2, MMAP), (1, MUNMAP)]


def test_a_call_that_took_other_pages_does_not_wait() -> None:
    lines = Lines()
    told = Told([
        *two_threads(lines), lines.enter(1, "munmap", [BASE, 4 * PAGE]),
        lines.mmap(2, BASE + 4 * PAGE), lines.munmap(1, BASE, 4), lines.end(2), lines.end(1),
    ])  # fmt: skip
    assert calls(told) == [(1, MMAP), (2, MMAP), (1, MUNMAP)]


def test_a_call_may_wait_for_two() -> None:
    lines = Lines()
    told = Told([
        *two_threads(lines), lines.fork(1, 3, THREAD), lines.mmap(3, BASE + 4 * PAGE, 4),
        lines.enter(1, "munmap", [BASE, 4 * PAGE]),
        lines.enter(3, "munmap", [BASE + 4 * PAGE, 4 * PAGE]),
        lines.mmap(2, BASE, 8), lines.munmap(3, BASE + 4 * PAGE, 4), lines.munmap(1, BASE, 4),
        lines.end(3), lines.end(2), lines.end(1),
    ])  # fmt: skip
    assert calls(told)[2:] == [(3, MUNMAP), (1, MUNMAP), (2, MMAP)]


def test_an_mremap_frees_its_old_place_and_waits_for_its_new_one() -> None:
    lines = Lines()
    told = Told([
        *two_threads(lines), lines.fork(1, 3, THREAD),
        lines.mmap(2, BASE + 8 * PAGE, 4),
        lines.enter(2, "mremap", [BASE + 8 * PAGE, 4 * PAGE, 4 * PAGE, 1, 0]),
        lines.enter(1, "munmap", [BASE, 4 * PAGE]),
        lines.mmap(3, BASE + 8 * PAGE, 4),
        lines.call(2, "mremap", [BASE + 8 * PAGE, 4 * PAGE, 4 * PAGE, 1, 0], BASE),
        lines.munmap(1, BASE, 4),
        lines.end(3), lines.end(2), lines.end(1),
    ])  # fmt: skip
    assert calls(told)[2:] == [(1, MUNMAP), (2, MREMAP), (3, MMAP)]


def test_an_unmap_that_never_returns_goes_first_and_is_proven_for_what_was_taken() -> None:
    lines = Lines()
    told = Told([
        *two_threads(lines), lines.enter(1, "munmap", [BASE, 4 * PAGE]),
        lines.mmap(2, BASE + PAGE), lines.end(2),
        # what the parser tells at the end of the log
        lines.munmap(1, BASE, 4, ret=None),
    ])  # fmt: skip
    assert calls(told) == [(1, MMAP), (1, MUNMAP), (2, MMAP)]
    row = [c for c in told.contents if isinstance(c, tuple)][1]
    assert row[6] is None
    assert row[7] is not None
    assert row[7].x == (BASE + PAGE, BASE + 2 * PAGE, [])


def test_other_address_spaces_are_not_concerned() -> None:
    lines = Lines()
    told = Told([
        *two_threads(lines), lines.fork(1, 5), lines.enter(1, "munmap", [BASE, 4 * PAGE]),
        lines.mmap(5, BASE + PAGE), lines.munmap(1, BASE, 4),
        lines.end(5), lines.end(2), lines.end(1),
    ])  # fmt: skip
    assert calls(told)[1:] == [(5, MMAP), (1, MUNMAP)]


@pytest.mark.parametrize(("call", "args", "brk", "pages"), [
    ("munmap", [BASE, 100], None, (BASE, BASE + PAGE)),
    ("mremap", [BASE, PAGE, 2 * PAGE], None, (BASE, BASE + PAGE)),
    ("mremap", [BASE, 0, PAGE], None, None),
    ("brk", [0x5001], 0x7001, (0x6000, 0x8000)),
    ("brk", [0], 0x7001, None),
    ("brk", [0x9000], 0x7001, None),
    ("brk", [0x5000], None, None),
    ("shmdt", [BASE], None, (BASE, BASE + PAGE)),
    ("mmap", [BASE, PAGE, 3, 0x32, -1, 0], None, None),
])  # fmt: skip
def test_what_a_call_frees(
    call: str, args: list[int], brk: int | None, pages: tuple[int, int] | None
) -> None:
    assert freed(call, args, brk) == pages


@pytest.mark.parametrize(("call", "args", "ret", "brk", "pages"), [
    ("mmap", [0, 100, 3, 0x22, -1, 0], BASE, None, (BASE, BASE + PAGE)),
    ("mmap", [BASE, 100, 3, 0x100022, -1, 0], BASE, None, (BASE, BASE + PAGE)),
    ("mmap", [BASE, 100, 3, 0x32, -1, 0], BASE, None, None),
    ("mmap", [0, 100, 3, 0x22, -1, 0], -12, None, None),
    ("mmap", [0, 100, 3, 0x22, -1, 0], None, None, None),
    ("mremap", [BASE, PAGE, 3 * PAGE, 1], BASE, None, (BASE + PAGE, BASE + 3 * PAGE)),
    ("mremap", [BASE, 3 * PAGE, PAGE, 1], BASE, None, None),
    ("mremap", [BASE, PAGE, PAGE, 1], 0x5000, None, (0x5000, 0x6000)),
    ("mremap", [BASE, PAGE, PAGE, 3, 0x5000], 0x5000, None, None),
    ("brk", [0x9000], 0x9000, 0x7001, (0x8000, 0x9000)),
    ("brk", [0x9000], 0x7001, 0x7001, None),
    ("shmat", [1, 0, 0], BASE, None, (BASE, BASE + PAGE)),
    ("shmat", [1, BASE, 0o40000], BASE, None, None),
])  # fmt: skip
def test_what_a_call_takes(
    call: str, args: list[int], ret: int | None, brk: int | None, pages: tuple[int, int] | None
) -> None:
    assert claimed(call, args, ret, brk) == pages
