# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's text and values: what is embedded, what the policy allows, how large it gets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests import hostile

from memtrace.report.build import read, read_book
from memtrace.report.html.gather import Budget, gather
from memtrace.report.html.moments import Line, State, extremes, pick
from memtrace.report.html.page import embedded, render

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
    budget = Budget(events=400, buckets=20, moments=40, entries=2000)
    data = values(hostile.write(tmp_path / "t.json", records), budget)
    process = data["processes"][0]
    assert process["series"]["thinned"]
    assert len(process["series"]["seq"]) <= 13 * 22
    assert len(process["events"]["rows"]) <= 2 * 400
    assert len(process["map"]["moments"]) <= 40
    totals = [sum(x) for x in zip(*process["series"]["layers"], strict=True)]
    peak = max(range(len(totals)), key=totals.__getitem__)
    assert process["series"]["seq"][peak] == 2 + count // 2 * 2
    assert 2 + count // 2 * 2 in {m["seq"] for m in process["map"]["moments"]}
    assert len(embedded(data)) < 200_000


def test_the_extremes_of_every_layer_stay() -> None:
    states = [State(i, i, (5, 5, 5, 5), None) for i in range(1, 50)]
    states[7] = State(8, 8, (9, 5, 5, 5), None)
    states[9] = State(10, 10, (5, 1, 5, 5), 7)
    kept = {s.seq for s in extremes(states)}
    assert {1, 8, 10, 49} <= kept
    assert len(kept) < 14
    assert {8, 10, 30} <= set(pick(Line(states), 12, [30]))
    assert pick(Line(states), 100) == [s.seq for s in states]


def test_processes_without_calls_and_no_process_at_all(tmp_path: Path) -> None:
    assert values(hostile.write(tmp_path / "e.json", []))["processes"] == []
    assert render(values(hostile.write(tmp_path / "f.json", [hostile.begun()])))


def test_the_licence_of_what_is_brought_along_is_in_the_page(tmp_path: Path) -> None:
    assert "Leon Sorokin" in render(values(hostile.write(tmp_path / "t.json", [])))
