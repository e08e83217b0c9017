# SPDX-License-Identifier: GPL-2.0-or-later
"""The frames say what `events --format jsonl` and the report say, and NA where those say null."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.unit.conftest import Scene

import memtrace.cli.main
from memtrace.report import frames, tables
from memtrace.report.build import read
from memtrace.report.decoded import Events, headers_of
from memtrace.trace.codec import encode_footer, encode_header
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call, Ext, Footer, Header

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
STORED = sorted((DATA / "glibc").glob("*.json.gz"))
LOGS = sorted((DATA / "strace").glob("*/*.log"))
MAKERS: dict[str, Callable[..., Any]] = {
    "events": frames.events, "regions": frames.regions, "heap_steps": frames.heap_steps,
}  # fmt: skip
MIB = 1 << 20
stored = pytest.mark.parametrize("trace", STORED, ids=lambda p: p.name.partition(".json")[0])


def plain(value: Any) -> Any:
    """A cell as JSON has it."""
    if value is pd.NaT or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return None
    if isinstance(value, pd.Timedelta):
        return value.value
    return value.item() if hasattr(value, "item") else value


def rows(frame: Any) -> list[dict[str, Any]]:
    columns = {name: [plain(v) for v in frame[name]] for name in frame.columns}
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def as_event(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the frame as a line of jsonl."""
    args = [row.pop(f"arg{i}") for i in range(6)]
    more = json.loads(row.pop("more") or "{}")
    known = {k: v for k, v in row.items() if v is not None}
    always = dict.fromkeys(("seq", "pid", "tid", "mm", "call", "ret", "errno"))
    return {**always, **known, **more, "t_ns": row["t"], "args": [a for a in args if a is not None]}


def lines(path: Path) -> list[dict[str, Any]]:
    headers = headers_of(str(path))
    with Trace(path) as trace:
        found = Events(trace, headers)
        return [json.loads(line) for line in found.lines(found.jsonl, None, None)]


def check_events(path: Path) -> None:
    mine = [as_event(row) for row in rows(frames.events(str(path)))]
    for row in mine:
        row.pop("t", None)
    assert mine == lines(path)


@stored
def test_events_are_those_of_jsonl(trace: Path) -> None:
    check_events(trace)


@stored
@pytest.mark.parametrize("name", ["regions", "heap_steps"])
def test_tables_are_those_of_the_report(trace: Path, name: str) -> None:
    expected: list[dict[str, Any]] = []
    fields = tables.TABLES[name]
    tables.read(
        str(trace),
        name,
        lambda row: expected.append(dict(zip(fields, tables.flat(row, fields), strict=True))),
    )
    for row in expected:
        if "t_ns" in row:
            row["t"] = row.pop("t_ns")
    assert rows(MAKERS[name](str(trace))) == expected


@stored
def test_sums_are_the_reports(trace: Path) -> None:
    report = read(str(trace))
    regions, steps = frames.regions(str(trace)), frames.heap_steps(str(trace))
    assert len(regions) == sum(p.regions_total for p in report.processes)
    for p in report.processes:
        mine = steps[steps.mm == p.mm]
        assert mine.delta.clip(lower=0).sum() == p.heap.grown_bytes
        assert -mine.delta.clip(upper=0).sum() == p.heap.shrunk_bytes
        assert (mine.delta > 0).sum() == p.heap.growths
        counts = regions[regions.mm == p.mm].kind.value_counts().to_dict()
        assert {k: n for k, n in counts.items() if n} == {k: r.count for k, r in p.kinds.items()}


@pytest.mark.parametrize("log", LOGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_imported_logs(tmp_path: Path, log: Path) -> None:
    trace = tmp_path / "t.json"
    if memtrace.cli.main.run(["import", str(log), "-o", str(trace)]):
        pytest.skip("a log without a process")
    check_events(trace)
    report = read(str(trace))
    assert len(frames.regions(str(trace))) == sum(p.regions_total for p in report.processes)
    if report.trace.clock == "none":
        assert frames.events(str(trace)).t.isna().all()


DTYPES = {
    "events": {"seq": "Int64", "t": "timedelta64[ns]", "call": "category", "arg0": "UInt64",
               "ret": "Int64", "rss": "Int64", "header": "UInt64", "more": "string"},
    "regions": {"start": "UInt64", "bytes": "Int64", "kind": "category", "older": "boolean",
                "populated": "boolean", "died_seq": "Int64", "request_min": "Int64"},
    "heap_steps": {"t": "timedelta64[ns]", "delta": "Int64", "end": "UInt64", "exact": "boolean",
                   "role": "category"},
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", ["empty", "idle", "busy"])
def test_dtypes_are_the_same_whatever_is_there(scene: Scene, name: str, kind: str) -> None:
    if kind == "empty":
        footer = encode_footer(Footer(stop=1, complete=True))
        scene.path.write_bytes(encode_header(Header(calls=["brk"])) + footer)
    elif kind == "idle":
        scene.exec().exit()
        scene.write()
    else:
        scene.glibc().brk(4096)
        scene.chunk(MIB)
        scene.exit()
        scene.write()
    frame = MAKERS[name](str(scene.path))
    assert {c: str(frame[c].dtype) for c in DTYPES[name]} == DTYPES[name]
    assert len(frame) or kind == "empty" or name == "heap_steps"
    assert set(frame.attrs["units"]) <= set(frame.columns)
    data = b"".join(frames.parquet(str(scene.path), name, None, []))
    again = pd.read_parquet(io.BytesIO(data))
    assert rows(again) == rows(frame)


@stored
@pytest.mark.parametrize("name", MAKERS)
def test_parquet_gives_the_frame_back(trace: Path, name: str) -> None:
    frame = MAKERS[name](str(trace))
    again = pd.read_parquet(io.BytesIO(b"".join(frames.parquet(str(trace), name, None, []))))
    assert rows(again) == rows(frame)
    assert again.attrs["units"] == frame.attrs["units"]


def test_one_process(scene: Scene) -> None:
    scene.glibc()
    scene.fork(2).as_(2, 2)
    scene.mmap(MIB)
    scene.exit().as_(1, 1).exit()
    path = str(scene.write())
    assert set(frames.regions(path, 2).pid) == {2}
    assert set(frames.events(path, 2).pid) == {2}
    for make in MAKERS.values():
        with pytest.raises(UsageError, match="no process 9"):
            make(path, 9)


def test_what_is_no_unicode_and_no_number_of_a_kernels(scene: Scene) -> None:
    scene.exec(exe="/bin/\udce9", argv=["\udce9"])
    scene.records.append(Call(1, 1, 1, 1, 0, [(1 << 63) - 1, -1], -5, None, None, None, Ext()))
    scene.exit()
    try:
        path = str(scene.write())
    except UnicodeEncodeError:  # the codec writes none
        path = str(scene.path)
        scene.path.write_bytes(
            encode_header(scene.header)
            + b'{"rec":"exec","t":1,"pid":1,"tid":1,"mm":1,"exe":"/bin/\\udce9"},\n'
        )
    assert len(frames.events(path)) == len(lines(Path(path)))
    b"".join(frames.parquet(path, "events", None, []))


def test_an_incomplete_trace_says_so(scene: Scene) -> None:
    scene.exec()
    scene.complete = False
    for make in MAKERS.values():
        assert "incomplete" in make(str(scene.write())).attrs["warnings"][0]


def test_without_pyarrow(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "find_spec", lambda _: None)
    with pytest.raises(UsageError) as e:
        next(frames.parquet(str(scene.path), "events", None, []))
    assert e.value.hint == "pip install pyarrow"


DOCS = (ROOT / "docs" / "frames.md").read_text()


@pytest.mark.parametrize("name", MAKERS)
def test_every_column_is_documented(scene: Scene, name: str) -> None:
    scene.exec().exit()
    section = DOCS.partition(f"## `{name}`")[2].partition("\n## ")[0]
    found = dict(re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", section, re.MULTILINE))
    documented = {
        column: dtype.strip()
        for names, dtype in found.items()
        for column in re.findall(r"`(\w+)`", names)
    }
    frame = MAKERS[name](str(scene.write()))
    assert documented == {c: str(frame[c].dtype) for c in frame.columns}


def test_the_examples_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) >= 3
    (tmp_path / "trace.json").symlink_to(DATA / "glibc" / "2.41-threshold.json.gz")
    program = "\n".join(blocks)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True,
        text=True, check=False,
        env={"PYTHONPATH": f"{ROOT}/tracer:{ROOT}/analysis", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "growth" in ran.stdout
