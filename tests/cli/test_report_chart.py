# SPDX-License-Identifier: GPL-2.0-or-later
"""The chart of a large trace takes another reading: it is offered, and drawn when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import hostile

import memtrace.cli.main
from memtrace.trace.sidecar import is_large


@pytest.fixture(scope="module", params=[50, 25_000])
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    records: list[hostile.Record | bytes] = [hostile.begun()]
    records += [hostile.call("brk", [0], hostile.BRK)]
    for i in range(1, request.param):
        at = hostile.BRK + i % 30 * hostile.PAGE
        records.append(hostile.call("brk", [at], at))
    path = tmp_path_factory.mktemp("chart") / "t.json"
    hostile.write(path, records)
    assert is_large(str(path)) == (request.param > 1000)
    return path


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("", {"small": "drawn", "large": "offered"}),
        ("--chart", {"small": "drawn", "large": "drawn"}),
        ("--no-chart", {"small": "", "large": ""}),
    ],
)
def test_chart(
    trace: Path, option: str, expected: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    size = "large" if is_large(str(trace)) else "small"
    assert memtrace.cli.main.run(["report", str(trace), *option.split()]) in (0, 3)
    text = capfd.readouterr().out
    assert ("█ heap" in text) == (expected[size] == "drawn")
    assert ("--chart draws it" in text) == (expected[size] == "offered")
