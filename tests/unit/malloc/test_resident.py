# SPDX-License-Identifier: GPL-2.0-or-later
"""Resident pages of the kernel's lines, parted among the kinds that lie in each."""

from __future__ import annotations

import pytest

from memtrace.malloc.resident import Part, resident_by_kind
from memtrace.trace.records import Snap

PAGE = 0x1000
#: A chunk and the program's own mapping, which the kernel shows as one line; then a stack.
PARTS: list[Part] = [
    (0x10000, 0x14000, "malloc-chunk"),
    (0x14000, 0x1A000, "anon"),
    (0x20000, 0x28000, "stack"),
]
MAPS = ["10000-1a000 rw-p 00000000 00:00 0", "20000-28000 rw-p 00000000 00:00 0 [stack]"]


def snap(resident: list[int] | None, *present: list[int], maps: list[str] = MAPS) -> Snap:
    return Snap(
        t=0, mm=1, pid=1, tid=1, why="exit", maps=maps, resident=resident, present=list(present)
    )


def by_kind(s: Snap, parts: list[Part] = PARTS) -> dict[str, int | None] | None:
    return resident_by_kind(s, parts, PAGE)


@pytest.mark.parametrize(
    ("pages", "runs", "expected"),
    [
        (0, [], (0, 0)),
        (10, [], (4, 6)),
        # Pages 3 to 6 of the line: one of the chunk, three of the other.
        (4, [0, 3, 4], (1, 3)),
        (3, [0, 0, 1, 8, 2], (1, 2)),
        (4, [], (None, None)),  # whose they are is not told
        (4, [1, 3, 4], (None, None)),  # told of another line
        (5, [0, 3, 4], (None, None)),  # not as many as the kernel counts
    ],
)
def test_a_line_of_two_kinds(
    pages: int, runs: list[int], expected: tuple[int | None, int | None]
) -> None:
    found = by_kind(snap([pages, 2], *([runs] if runs else [])))
    assert found is not None
    sizes = tuple(None if n is None else n * PAGE for n in expected)
    assert (found["malloc-chunk"], found["anon"]) == sizes
    assert found["stack"] == 2 * PAGE


def test_one_unknown_line_makes_the_kind_unknown() -> None:
    maps = [*MAPS, "30000-32000 rw-p 00000000 00:00 0"]
    parts: list[Part] = [*PARTS, (0x30000, 0x32000, "anon")]
    found = by_kind(snap([4, 2, 1], maps=maps), parts)
    assert found == {"malloc-chunk": None, "anon": None, "stack": 2 * PAGE}


def test_a_part_that_belongs_to_no_region() -> None:
    parts: list[Part] = [(0x10000, 0x14000, "malloc-chunk"), PARTS[2]]
    assert by_kind(snap([4, 2]), parts) == {"malloc-chunk": None, "stack": 2 * PAGE}
    assert by_kind(snap([4, 2]), [(0x10000, 0x1A000, None), PARTS[2]]) == {"stack": 2 * PAGE}


@pytest.mark.parametrize("resident", [None, [1], [1, 2, 3], [11, 0], [-1, 0]])
def test_what_cannot_be_is_not_told(resident: list[int] | None) -> None:
    assert by_kind(snap(resident)) is None


@pytest.mark.parametrize("runs", [[], [0], [0, 3], [0, 1 << 70, 4], [7, 0, 4]])
def test_runs_that_cannot_be(runs: list[int]) -> None:
    found = by_kind(snap([4, 0], runs))
    assert found is not None
    assert found["stack"] == 0
    assert None in (found["malloc-chunk"], found["anon"]) or runs == [0, 1 << 70, 4]
