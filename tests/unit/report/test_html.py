# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's text and values: what is embedded, what the policy allows, how large it gets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests import hostile
from tests.unit.conftest import Scene

from memtrace.malloc.series import Moment, Series
from memtrace.report.build import read, read_book
from memtrace.report.html import summary
from memtrace.report.html.gather import Budget, gather
from memtrace.report.html.moments import layers, pick
from memtrace.report.html.page import embedded, render
from memtrace.report.model import MoveRow, Range
from memtrace.trace.records import Exit, Gone, Lost

EVIL = "</script><script>alert(1)</script>&\u2028\u2029\u202e\n"


def values(path: Path, budget: Budget | None = None) -> dict[str, Any]:
    report = read(str(path))
    found = read_book(str(path))
    assert found is not None
    return gather(str(path), report, found[1], budget or Budget())


def test_no_character_of_the_data_can_end_its_element() -> None:
    text = embedded({EVIL: [EVIL]})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {EVIL: [EVIL]}


def test_half_a_surrogate_can_be_written() -> None:
    embedded("\udcff").encode()


def test_hostile_arguments_are_escaped_everywhere(tmp_path: Path) -> None:
    begun = hostile.begun(argv=[EVIL], exe=EVIL)
    trace = hostile.write(tmp_path / "t.json", [begun, hostile.mmap(hostile.LOW)])
    page = render(values(trace))
    assert "alert(1)</script>" not in page
    assert "\u202e" not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert "\\u003cscript\\u003ealert(1)" in page


def test_the_policy_allows_what_the_page_brings_along_and_nothing_else(tmp_path: Path) -> None:
    page = render(values(hostile.write(tmp_path / "t.json", [hostile.begun()])))
    found = re.search('Content-Security-Policy" content="([^"]*)"', page)
    assert found
    policy = found[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        for text in re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert not re.search(r'(src|href)="(?!#)', page)
    assert " style=" not in page


def test_maps_are_exact_at_their_moments(tmp_path: Path) -> None:
    records: list[hostile.Record | bytes] = [hostile.begun()]
    places = [hostile.LOW + i * 4 * hostile.PAGE for i in range(4)]
    records += [hostile.mmap(at, 2 * hostile.PAGE) for at in places]
    records.append(hostile.call("munmap", [hostile.LOW, 2 * hostile.PAGE]))
    process = values(hostile.write(tmp_path / "t.json", records))["processes"][0]
    moments = process["map"]["moments"]
    assert [m["seq"] for m in moments] == [1, 2, 3, 4, 5, 6]
    assert [len(m["set"]) for m in moments[1:]] == [1, 1, 1, 1, 0]
    assert [len(m["gone"]) for m in moments] == [0, 0, 0, 0, 0, 1]
    assert moments[1]["set"][0][1:4] == [hostile.LOW >> 12, (hostile.LOW >> 12) + 2, 2]
    assert process["events"]["total"] == len(process["events"]["rows"]) == 6


@pytest.mark.parametrize("count", [2_000, 40_000])
def test_the_page_does_not_grow_with_the_trace(tmp_path: Path, count: int) -> None:
    records: list[hostile.Record | bytes] = [hostile.begun()]
    for i in range(count):
        at = hostile.LOW + i * hostile.PAGE
        most = i == count // 2
        records += [
            hostile.mmap(at, hostile.PAGE * (9 if most else 1)),
            hostile.call("munmap", [at, 9 * hostile.PAGE]),
        ]
    budget = Budget(events=400, groups=20, moments=40, entries=2000)
    data = values(hostile.write(tmp_path / "t.json", records), budget)
    process = data["processes"][0]
    assert process["series"]["thinned"]
    assert len(process["series"]["seq"]) <= 16 * 21
    assert len(process["events"]["rows"]) <= 2 * 400
    assert len(process["map"]["moments"]) <= 40
    totals = [sum(x) for x in zip(*process["series"]["layers"], strict=True)]
    peak = max(range(len(totals)), key=totals.__getitem__)
    assert process["series"]["seq"][peak] == 2 + count // 2 * 2
    assert 2 + count // 2 * 2 in {m["seq"] for m in process["map"]["moments"]}
    assert len(embedded(data)) < 200_000


def test_the_map_is_shown_at_every_peak() -> None:
    sizes = [[5, 5, 5, 5] for _ in range(50)]
    sizes[7], sizes[9] = [9, 5, 5, 5], [5, 1, 5, 5]
    moments = [Moment(i + 1, i, row, 0, 7 if i == 20 else None) for i, row in enumerate(sizes)]
    series = Series(["anon", "heap", "malloc-chunk", "stack"], moments, False, 4, (60, 59))
    assert {1, 8, 10, 21, 30, 60} <= set(pick(series, 12, [30]))
    assert len(pick(series, 12, [30])) == 12
    assert pick(series, 100) == [*range(1, 51), 60]
    assert layers(series)[3][:1] == [10]


def test_processes_without_calls_and_no_process_at_all(tmp_path: Path) -> None:
    assert values(hostile.write(tmp_path / "e.json", []))["processes"] == []
    assert render(values(hostile.write(tmp_path / "f.json", [hostile.begun()])))


def test_the_licence_of_what_is_brought_along_is_in_the_page(tmp_path: Path) -> None:
    assert "Leon Sorokin" in render(values(hostile.write(tmp_path / "t.json", [])))


def regions_at(process: dict[str, Any], i: int) -> set[int]:
    found: set[int] = set()
    for m in process["map"]["moments"][: i + 1]:
        found -= set(m["gone"])
        found |= {entry[0] for entry in m["set"]}
    return found


def test_a_region_that_is_left_out_has_not_died(tmp_path: Path) -> None:
    """300 small ones, then 150 larger ones: none of the small ones goes."""
    pages = [1] * 300 + [2] * 150
    records: list[hostile.Record | bytes] = [hostile.begun()]
    for i, size in enumerate(pages):
        records.append(hostile.mmap(hostile.LOW + i * 4 * hostile.PAGE, size * hostile.PAGE))
    data = values(hostile.write(tmp_path / "t.json", records), Budget(entries=400))
    (process,) = data["processes"]
    moments = process["map"]["moments"]
    assert not any(m["gone"] for m in moments)
    last = regions_at(process, len(moments) - 1)
    assert len(last) == 200
    # What is not shown is counted, at every moment.
    for i, m in enumerate(moments):
        there = min(m["seq"] - 1, len(pages)) + len(hostile.MAPS)
        assert len(regions_at(process, i)) + m.get("rest", [0])[0] == there


def test_what_a_snapshot_brings_is_not_older_than_that(tmp_path: Path) -> None:
    new = hostile.line(hostile.LOW, hostile.LOW + hostile.PAGE)
    records: list[hostile.Record | bytes] = [
        hostile.begun(), hostile.call("brk", [0], hostile.BRK),
        hostile.snap(30, sorted([*hostile.MAPS, new])), hostile.call("brk", [0], hostile.BRK),
    ]  # fmt: skip
    process = values(hostile.write(tmp_path / "t.json", records))["processes"][0]
    at = hostile.LOW >> 12
    tag = next(e[0] for m in process["map"]["moments"] for e in m["set"] if e[1] == at)
    assert next(r[3] for r in process["map"]["regions"] if r[0] == tag) == 3
    assert process["doubts"] == [[1, 3, "a snapshot is not reproduced"]]


def test_lost_records_are_a_doubt_until_the_next_snapshot(tmp_path: Path) -> None:
    records: list[hostile.Record | bytes] = [
        hostile.begun(), hostile.snap(20), Lost(t=30, why="the pipe was full", count=3),
        hostile.call("brk", [0], hostile.BRK), hostile.snap(50), Lost(t=60, why="again"),
    ]  # fmt: skip
    process = values(hostile.write(tmp_path / "t.json", records))["processes"][0]
    assert process["doubts"] == [
        [2, 5, "records are lost: the pipe was full"], [5, None, "records are lost: again"],
    ]  # fmt: skip


def test_resident_memory_of_the_last_snapshot_is_on_the_curve(tmp_path: Path) -> None:
    records: list[hostile.Record | bytes] = [
        hostile.begun(rss=1), hostile.mmap(hostile.LOW),
        hostile.snap(30, sorted([*hostile.MAPS, hostile.line(hostile.LOW, hostile.LOW + 4096)]),
                     why="exit", vm=None, rss=99),
        Exit(t=40, pid=1, tid=1, mm=1, code=0), Gone(t=50, mm=1),
    ]  # fmt: skip
    path = hostile.write(tmp_path / "t.json", records)
    series = values(path)["processes"][0]["series"]
    assert series["seq"] == [1, 2, 3, 4]
    assert series["rss"] == [4096, None, 99 * 4096, None]
    assert read(str(path)).processes[0].memory.rss_peak_bytes == 99 * 4096


def test_times_that_go_back_are_no_axis(tmp_path: Path) -> None:
    records: list[hostile.Record | bytes] = [
        hostile.begun(t=1000), hostile.call("brk", [0], hostile.BRK), hostile.snap(20),
    ]  # fmt: skip
    head = hostile.header()
    trace = hostile.write(tmp_path / "t.json", records, msgspec.structs.replace(head, engine="x"))
    data = values(trace)
    assert (data["trace"]["timed"], data["trace"]["backwards"]) == (False, True)
    assert data["processes"][0]["series"]["t"][0] == 1000


def test_a_refused_break_has_failed(tmp_path: Path) -> None:
    records: list[hostile.Record | bytes] = [
        hostile.begun(), hostile.call("brk", [0], hostile.BRK),
        hostile.call("brk", [hostile.BRK + 4096], hostile.BRK), hostile.call("munmap", [1, 1], -22),
    ]  # fmt: skip
    events = values(hostile.write(tmp_path / "t.json", records))["processes"][0]["events"]
    assert [row[-1] for row in events["rows"]] == [0, 0, 1, 1]
    assert events["failed"] == 2


def test_of_more_moves_than_are_kept_none_is_invented(scene: Scene) -> None:
    t = scene.glibc().query() and scene.process().threshold
    assert t
    move = MoveRow(
        seq=5, t_ns=5, low=1 << 18, high=1 << 18, least=0, trim=Range(low=0, high=0),
        cause="freed-chunk", against=None,
    )  # fmt: skip
    last = msgspec.structs.replace(t, history=[move], last_move=5, low=1 << 18, high=1 << 18)
    assert [row[0] for row in summary._moves(last)] == [5]
    more = msgspec.structs.replace(t, history=[move], last_move=900, low=1 << 20, high=1 << 21)
    rows = summary._moves(more)
    assert [row[0] for row in rows] == [5, 6, 900]
    assert rows[1][2:4] == [None, None]
    assert rows[2][2:4] == [1 << 20, 1 << 21]


def test_of_thousands_of_processes_the_largest_are_drawn_and_all_are_counted(
    tmp_path: Path,
) -> None:
    data = values(hostile.write(tmp_path / "t.json", hostile.short_lives(3000)))
    listed = len(data["processes"]) + len(data["others"]) + data["more"]
    assert (len(data["processes"]), listed) == (30, data["address_spaces"])
    assert data["more"] > 2000
    assert len(render(data)) < 1_000_000
