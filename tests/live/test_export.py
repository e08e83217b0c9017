# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of what real programs did, held against the report."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.live.tracing import ROOT, command, environment
from tests.unit.report.test_frames import check_events
from tests.unit.report.test_perfetto import check

from memtrace.report import frames, perfetto
from memtrace.report.build import read

pytestmark = pytest.mark.live
SAMPLES = ("threshold-moves", "heap-grow", "thread-arenas", "fork-tree", "mmap-churn", "clone-vm")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.json"
    program = ROOT / "build" / "samples" / name
    subprocess.run(
        command(path, [program]), env=environment(), check=True, capture_output=True, timeout=100
    )
    check_events(path)
    report = read(str(path))
    regions, steps = frames.regions(str(path)), frames.heap_steps(str(path))
    assert len(regions) == sum(p.regions_total for p in report.processes)
    assert len(steps) == sum(p.steps_total for p in report.processes)
    for p in report.processes:
        mine = steps[steps.mm == p.mm].delta
        assert mine.clip(lower=0).sum() == p.heap.grown_bytes
        assert -mine.clip(upper=0).sum() == p.heap.shrunk_bytes
    events = check(json.loads(b"".join(perfetto.stream(str(path), None, []))))
    assert sum(e.get("cat") == "call" for e in events) == report.trace.events
    assert {e["pid"] for e in events} == {pid for p in report.processes for pid in p.pids}
