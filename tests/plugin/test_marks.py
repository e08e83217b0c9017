# SPDX-License-Identifier: GPL-2.0-or-later
"""What a marker says is what a budget says."""

from __future__ import annotations

import pytest

from memtrace.report.metrics import METRICS
from memtrace.trace.errors import UsageError
from pytest_memtrace import marks


def limits(*marked: dict[str, object]) -> dict[str, float | int | None]:
    given = [pytest.mark.memtrace(**kw).mark for kw in marked]
    return {x.name: x.max for x in marks.limits_of("t.py::test_a", given)}


@pytest.mark.parametrize("metric", [*METRICS, "calls.map_shadow_stack", "calls.mmap"])
def test_each_metric_has_a_keyword(metric: str) -> None:
    asked = {metric.replace(".", "_"): {"max": 1, "gate": True}}
    given = [pytest.mark.memtrace(**asked).mark]
    [limit] = marks.limits_of("t.py::test_a", given)
    assert limit.metric.name == metric
    assert limit.max == 1


def test_markers_add_up_and_the_closer_one_counts() -> None:
    closest = {"heap_peak": 1, "tree": {"calls_mmap": 2}}
    further = {"heap_peak_bytes": 3, "calls_mmap": 4, "tree": {"calls_mmap": 5}}
    assert limits(closest, further) == {"heap.peak": 1, "tree calls.mmap": 2, "calls.mmap": 4}


def test_a_metric_limited_twice_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"t\.py::test_a: heap\.peak and heap\.peak_bytes are"):
        limits({"heap_peak": 1, "heap_peak_bytes": 3})


def test_what_fails_no_test_is_no_limit() -> None:
    with pytest.raises(UsageError, match="fails no test unless that is asked for") as caught:
        limits({"memory_rss_peak": 1, "memory_minor_faults": 1})
    assert caught.value.hint == "memory_rss_peak=dict(max=..., gate=True)"
    assert limits({"memory_rss_peak": 1, "heap_peak": 2})
