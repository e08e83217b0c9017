# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue of metrics is what reports have and what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memtrace.collect.abi import NAMES
from memtrace.report.build import read
from memtrace.report.metrics import METRICS, find, nearest

ROOT = Path(__file__).resolve().parents[3]
STORED = sorted((ROOT / "tests/data/glibc").glob("*.json*"))
#: Each begins, copies or ends a process, and is a record of its own.
LIFE = {"execve", "execveat", "fork", "vfork", "clone", "clone3"}


def test_the_page_has_every_metric_with_its_unit() -> None:
    text = (ROOT / "docs/report-json.md").read_text()
    table = text[text.index("## Metrics") :]
    shown: dict[str, str] = {}
    for names, unit in re.findall(r"^\| (`.*?`) \| (\w+) \|", table, re.MULTILINE):
        shown |= dict.fromkeys(re.findall(r"`(.*?)`", names), unit)
    assert shown == {m.name: m.unit for m in METRICS.values()} | {"calls.NAME": "count"}


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.name)
def test_a_report_has_no_other_metrics(path: Path) -> None:
    for p in read(str(path)).processes:
        assert [name for name in p.metrics if find(name) is None] == []


def test_every_recorded_call_is_a_metric_and_no_other() -> None:
    assert all(find(f"calls.{name}") for name in set(NAMES) - LIFE)
    assert find("calls.read") is None
    assert find("calls.") is None
    assert find("calls.mmap;") is None


def test_a_name_may_drop_its_unit_and_nothing_else() -> None:
    peak = find("heap.peak")
    assert peak is find("heap.peak_bytes") is not None
    assert find("heap.growth") is None
    assert find("heap") is None
    assert find("") is None


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("heap.peek", "heap.peak"),
        ("calls.mmpa", "calls.mmap"),
        ("chunk.alive_at_exit", "chunks.alive_at_exit"),
        ("rss_peak", "memory.rss_peak"),
        ("growths", "heap.growths"),
    ],
)
def test_the_nearest_names_are_suggested(wrong: str, meant: str) -> None:
    assert meant in nearest(wrong)


def test_nothing_is_suggested_for_nonsense() -> None:
    assert nearest("xyzzy") == []
