# SPDX-License-Identifier: GPL-2.0-or-later
"""A baseline's numbers are held up to their tolerance and the floor, and a file that could hold
nothing is refused.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from tests.unit.check.test_budget import budget

from memtrace.check.amounts import Tolerance
from memtrace.check.baseline import FLOOR, Baseline, compare, of_report, untold
from memtrace.check.budget import FIRST
from memtrace.check.comparable import differences
from memtrace.check.stored import decode, encode
from memtrace.trace.errors import UsageError

if TYPE_CHECKING:
    from tests.unit.conftest import Scene


def held(scene: Scene, metric: str, before: int, tolerance: float, text: str = "") -> bool | None:
    old = Baseline(programs=[], machine="", page_size=4096, metrics={metric: before})
    limits = budget(f"[budget]\n{text}\n") if text else []
    found = compare(scene.report(), old, limits, Tolerance(Fraction(tolerance)), ("base.json", {}))
    return next(v.ok for v in found if v.limit.metric.name == metric)


@pytest.mark.parametrize(
    ("metric", "before", "tolerance", "ok"),
    [
        ("heap.growths", 1, 0.0, False),
        ("heap.growths", 2, 0.0, True),
        ("heap.growths", 1, 0.99, False),
        ("heap.growths", 1, 1.0, True),
        ("heap.peak_bytes", (200 << 10) - FLOOR, 0.0, True),
        ("heap.peak_bytes", (200 << 10) - FLOOR - 1, 0.0, False),
        ("heap.peak_bytes", 100 << 10, 1.0, True),
        ("heap.peak_bytes", (100 << 10) - 1, 1.0, False),
    ],
)
def test_a_number_is_held_up_to_its_tolerance(
    grown: Scene, metric: str, before: int, tolerance: float, *, ok: bool
) -> None:
    assert held(grown, metric, before, tolerance) is ok


def test_a_tolerance_of_the_budget_counts(grown: Scene) -> None:
    assert held(grown, "heap.growths", 1, 0.0, "heap.growths = { tolerance = 1 }") is True
    assert held(grown, "heap.growths", 1, 9.0, 'heap.growths = { tolerance = "1%" }') is False


@pytest.mark.parametrize("text", ["tolerance = 0", 'tolerance = "0%"', 'tolerance = "1 KiB"'])
def test_a_tolerance_of_the_budget_counts_as_it_stands(grown: Scene, text: str) -> None:
    less = (200 << 10) - 1025
    assert held(grown, "heap.peak_bytes", less, 0.0, f"heap.peak = {{ {text} }}") is False
    assert held(grown, "heap.peak_bytes", less, 0.0, "heap.growths = { tolerance = 0 }") is True
    assert held(grown, "heap.peak_bytes", less, 0.0, 'heap.peak = "1 GiB"') is True
    assert held(grown, "heap.peak_bytes", 200 << 10, 0.0, f"heap.peak = {{ {text} }}") is True


def test_a_call_that_a_log_may_have_left_out_is_unknown(scene: Scene) -> None:
    scene.exec(assumed=True, env_lost=True)
    scene.exit()
    assert held(scene, "calls.mremap", 0, 0.0) is None


def test_what_is_written_is_read(grown: Scene) -> None:
    old = of_report(grown.report())
    text = encode(old)
    again, lines = decode(text.encode(), "base.json")
    assert again == old
    shown = text.splitlines()
    assert all(f'"{name}"' in shown[lines["metrics", name] - 1] for name in old.metrics)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {}}, "holds no number under metrics"),
        ({"tree": {}}, "holds no number under tree"),
        ({"metrics": {"heap.growths": None}}, "holds no number under metrics"),
        ({"metrics": {"heap.peek": 1}}, "heap.peek = 1"),
        ({"metrics": {"heap.growths": -1}}, "heap.growths = -1"),
        ({"metrics": {"heap.growths": 10**400}}, "damaged"),
        ({"metrics": None}, "damaged"),
        ({"format": "memtrace-baseline/1"}, "its format is 'memtrace-baseline/1'"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(
    grown: Scene, change: dict[str, Any], message: str
) -> None:
    value = json.loads(encode(of_report(grown.report()))) | change
    with pytest.raises(UsageError) as caught:
        decode(json.dumps(value).encode(), "base.json")
    assert message in caught.value.message
    assert "--update-baseline base.json" in caught.value.hint


def own(scene: Scene, later: Scene | None = None) -> list[bool | None]:
    """What becomes of each number of a trace's baseline, written and read, in it or a later one."""
    old, lines = decode(encode(of_report(scene.report())).encode(), "base.json")
    report = (later or scene).report()
    return [v.ok for v in compare(report, old, [], Tolerance(Fraction(0)), ("base.json", lines))]


def test_a_log_of_several_programs_keeps_its_own_baseline(scene: Scene) -> None:
    scene.exec(assumed=True, env_lost=True)
    scene.query()
    scene.exec(mm=2, assumed=True, env_lost=True)
    scene.as_(2, 1)
    scene.query()
    scene.mmap(4096)
    scene.exit()
    assert set(own(scene)) == {True}
    assert of_report(scene.report()).metrics["calls.mmap"] is None


def test_what_a_program_does_not_tell_is_said(grown: Scene) -> None:
    old = of_report(grown.report())
    assert not untold(old)
    gone = replace(old, metrics=old.metrics | {"heap.growths": None}, tree=old.tree | {"x": None})
    assert untold(gone) == "heap.growths, 1 sum over all processes"
    found = compare(grown.report(), gone, [], Tolerance(Fraction(0)), ("base.json", {}))
    assert "heap.growths" not in {v.limit.metric.name for v in found if v.limit.scope == FIRST}


def test_one_process_is_not_told_twice(grown: Scene) -> None:
    old = of_report(grown.report())
    found = compare(grown.report(), old, [], Tolerance(Fraction(0)), ("base.json", {}))
    assert {v.limit.scope for v in found} == {FIRST}


def test_names_of_a_redacted_trace_are_no_programs(grown: Scene) -> None:
    old = of_report(grown.report())
    assert not list(differences(old, old))
    for a, b in ((replace(old, redacted=True), old), (old, replace(old, redacted=True))):
        (text,) = differences(a, b)
        assert "redacted" in text


def test_a_map_may_differ_by_a_few_lines(grown: Scene) -> None:
    report = grown.report()
    for lines, ok in ((8, True), (9, False)):
        first = replace(report.processes[0], metrics={"maps.peak": 20 + lines})
        old = Baseline(programs=[], machine="", page_size=4096, metrics={"maps.peak": 20})
        now = replace(report, processes=[first])
        (v,) = compare(now, old, [], Tolerance(Fraction(0)), ("base.json", {}))
        assert v.ok is ok
