# SPDX-License-Identifier: GPL-2.0-or-later
"""What forked children have of their parents' accounts, and what keeping it costs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from tests import hostile
from tests.hostile import LOW, PAGE, begun, call, mmap

from memtrace.report import json as report_json
from memtrace.report import text as report_text
from memtrace.report.build import build
from memtrace.report.model import ProcessRow, RegionRow
from memtrace.trace.reader import Trace
from memtrace.trace.records import Exit, Fork, Gone, Lost

A, B = LOW, LOW + 16 * PAGE


def fork(parent: int, child: int) -> Fork:
    return Fork(t=20, pid=parent, tid=parent, mm=parent, child=child, child_mm=child)


def rows(path: Path, *records: hostile.Record) -> dict[int, ProcessRow]:
    """By mm."""
    with Trace(hostile.write(path, [begun(), *records])) as trace:
        return {p.mm: p for p in build(trace).processes}


def at(p: ProcessRow, address: int) -> RegionRow | None:
    return next((r for r in p.regions if r.start == address), None)


def test_a_child_has_what_there_was_at_its_fork(tmp_path: Path) -> None:
    """Whoever of the family does something first, and also if nobody does."""
    every = rows(
        tmp_path / "t.json",
        mmap(A),  # 2
        fork(1, 2),  # 3: does nothing before it has a child
        fork(1, 3),  # 4: never does anything
        call("munmap", [A, PAGE]),  # 5
        mmap(B),  # 6
        fork(1, 4),  # 7
        fork(2, 5),  # 8: of the idle child
        call("munmap", [A, PAGE], mm=2, tid=2),  # 9
        fork(2, 6),  # 10
        call("munmap", [A, PAGE], mm=5, tid=5),  # 11
    )
    lives = {
        mm: {(r.born_seq, r.died_seq) for r in p.regions if r.start == A} for mm, p in every.items()
    }
    assert lives == {
        1: {(2, 5)}, 2: {(3, 9)}, 3: {(4, None)}, 4: set(), 5: {(8, 11)}, 6: set(),
    }  # fmt: skip
    assert {mm for mm, p in every.items() if at(p, B)} == {1, 4}
    assert [every[mm].regions_total for mm in (2, 3, 4, 5, 6)] == [3, 3, 3, 3, 2]


def test_a_drift_of_an_idle_child_ends_what_it_had(tmp_path: Path) -> None:
    """Its account is begun after the map has become the kernel's: as it was before."""
    other = hostile.line(B, B + PAGE)
    every = rows(
        tmp_path / "t.json",
        mmap(A, 2 * PAGE),
        fork(1, 2),
        hostile.snap(20, [hostile.CODE, other, hostile.STACK], mm=2),  # 4
    )
    gone, new = at(every[2], A), at(every[2], B)
    assert gone is not None
    assert (gone.born_seq, gone.died_seq, gone.peak_bytes) == (3, 4, 2 * PAGE)
    assert new is not None
    assert (new.born_seq, new.died_seq) == (4, None)
    assert every[2].regions_total == 4


def test_what_is_told_of_a_process_after_its_end(tmp_path: Path) -> None:
    every = rows(
        tmp_path / "t.json",
        fork(1, 2),
        Gone(t=20, mm=2),
        Exit(t=20, pid=2, tid=2, mm=2, code=7),
        Lost(t=20, why="x", mm=2, count=3),
        hostile.END,
    )
    assert every[2].exit == {"code": 7}
    assert every[2].metrics["trust.lost"] == 1
    assert {p.exactness for p in every.values()} == {"incomplete"}


def test_many_children_cost_little_more_than_their_rows(tmp_path: Path) -> None:
    """Each of 50 has 1,000 regions, about 1 MB as values."""
    path = hostile.write(tmp_path / "t.json", hostile.wide_forks(50))
    tracemalloc.start()
    try:
        with Trace(path) as trace:
            report = build(trace)
        assert report_text.render(report)
        written = sum(len(part) for part in report_json.stream(report))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written > 50 * 1000 * 400
    assert peak < 20 << 20
