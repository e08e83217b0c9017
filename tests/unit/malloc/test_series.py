# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory by kind over time: true states, and none of the peaks lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import hostile
from tests.unit.reading import read_series

from memtrace.malloc import series as module
from memtrace.malloc.series import thin
from memtrace.report import build
from memtrace.report.build import read

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

STORED = sorted((Path(__file__).resolve().parents[2] / "data/glibc").glob("*.json.gz"))
#: The guard is cut out of a thread's stack by the calls that follow; here it counts to the stack.
STACKS = {"guard", "thread-stack"}


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.name)
def test_a_series_has_the_reports_peaks_and_ends(path: Path) -> None:
    found = read_series(str(path))
    for p in read(str(path)).processes:
        series = found[p.mm]
        for kind, row in p.kinds.items():
            if kind in STACKS:
                continue
            sizes = series.of(kind)
            assert (max(sizes, default=0), sizes[-1] if sizes else 0) == (
                row.peak_bytes, row.final_bytes,
            ), kind  # fmt: skip
        seqs = [m.seq for m in series.moments]
        assert seqs == sorted(set(seqs))


def test_a_child_begins_as_its_parent_was_and_goes_its_own_way(scene: Scene) -> None:
    scene.glibc().query()
    scene.brk(132 << 10)
    scene.fork(2)
    scene.as_(2, 2)
    scene.brk(68 << 10)
    scene.as_(1, 1)
    scene.exit()
    found = read_series(str(scene.write()))
    parent, child = found[1], found[2]
    assert parent.of("heap")[-1] == 132 << 10
    assert [parent.of("heap")[-1], *child.of("heap")][1:] == [132 << 10, 200 << 10]


def test_only_what_is_wanted(scene: Scene) -> None:
    scene.glibc().query()
    scene.fork(2)
    assert set(read_series(str(scene.write()), [2])) == {2}


_SIZES = st.integers(0, 1 << 30)
_STATES = st.lists(st.tuples(_SIZES, _SIZES, _SIZES, _SIZES, st.none() | _SIZES), min_size=1)


@given(_STATES, st.integers(1, 8), st.integers(1, 3))
def test_thinning_keeps_every_extreme_and_invents_nothing(
    rows: list[tuple[int, int, int, int, int | None]], groups: int, times: int
) -> None:
    states = [
        (3 * i + 1, i, {"heap": h, "malloc-chunk": c, "anon": a}, o, rss)
        for i, (h, c, a, o, rss) in enumerate(rows)
    ]
    kept = states
    for _ in range(times):
        kept = thin(kept, groups)
    assert [s for s in states if s in kept] == kept
    assert len(kept) <= 16 * groups
    assert (kept[0], kept[-1]) == (states[0], states[-1])
    for measure in module._MEASURES:
        assert max(map(measure, kept)) == max(map(measure, states))
        assert min(map(measure, kept)) == min(map(measure, states))
    for edge in (max, min):
        assert edge((s[4] for s in kept if s[4] is not None), default=None) == edge(
            (s[4] for s in states if s[4] is not None), default=None
        )


def test_a_long_trace_is_thinned_and_keeps_its_peak(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "GROUPS", 4)
    scene.glibc().query()
    for i in range(300):
        scene.brk(4096)
        scene.brk(-4096 if i != 150 else 0x21000)
    scene.exit()
    (series,) = read_series(str(scene.write())).values()
    assert series.thinned
    assert len(series.moments) <= 64
    assert max(series.of("heap")) == scene.process().heap.peak_bytes


def test_resident_memory_is_told_where_it_was_read_and_nowhere_else(tmp_path: Path) -> None:
    maps = [hostile.line(hostile.LOW, hostile.LOW + hostile.PAGE)]
    records: list[hostile.Record | bytes] = [
        hostile.begun(maps=maps, rss=5),
        hostile.mmap(hostile.LOW + hostile.PAGE),
        hostile.snap(30, [hostile.line(hostile.LOW, hostile.LOW + 2 * hostile.PAGE)], rss=77),
        hostile.mmap(hostile.LOW + 2 * hostile.PAGE),
    ]
    (series,) = read_series(str(hostile.write(tmp_path / "t.json", records))).values()
    assert [(m.seq, m.rss) for m in series.moments] == [
        (1, 5 * 4096), (2, None), (3, 77 * 4096), (4, None),
    ]  # fmt: skip
    assert series.last[0] == 4
