# SPDX-License-Identifier: GPL-2.0-or-later
"""The timeline keeps the rules of the Trace Event Format, and says what the report says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import hostile
from tests.unit.conftest import Scene
from tests.unit.reading import read_series

import memtrace.cli.main
from memtrace.report import perfetto
from memtrace.report.build import read
from memtrace.trace.codec import encode_footer, encode_header
from memtrace.trace.records import Call, Clone, Exit, Footer, Gone, Header

DATA = Path(__file__).parents[2] / "data"
STORED = sorted((DATA / "glibc").glob("*.json.gz"))
LOGS = sorted((DATA / "strace").glob("*/*.log"))
MIB = 1 << 20
Event = dict[str, Any]

#: What an event of each phase has besides `name`, `ph` and `pid`, by the format's document.
REQUIRED = {
    "b": {"cat", "id", "ts", "tid"},
    "n": {"cat", "id", "ts", "tid"},
    "e": {"cat", "id", "ts", "tid"},
    "i": {"ts", "tid", "s"},
    "C": {"ts", "args"},
    "M": {"args"},
}
METADATA = {
    "process_name": ("name", str),
    "process_labels": ("labels", str),
    "process_sort_index": ("sort_index", int),
    "thread_name": ("name", str),
}


def timeline(path: Path, pid: int | None = None) -> dict[str, Any]:
    whole = b"".join(perfetto.stream(str(path), pid, []))
    loaded: dict[str, Any] = json.loads(whole, parse_constant=pytest.fail)
    return loaded


def check(whole: dict[str, Any]) -> list[Event]:
    """Hold a timeline against the rules; its events."""
    assert set(whole) == {"displayTimeUnit", "traceEvents", "otherData"}
    assert whole["displayTimeUnit"] in ("ms", "ns")
    events: list[Event] = whole["traceEvents"]
    last: float = 0
    alive: dict[tuple[str, str, int], Event] = {}
    used: set[tuple[str, str, int]] = set()
    for e in events:
        phase = e["ph"]
        assert REQUIRED[phase] <= set(e), e
        assert isinstance(e["name"], str)
        assert e["name"]
        assert e["name"].isprintable(), e
        assert type(e["pid"]) is int
        assert type(e.get("tid", 0)) is int
        assert isinstance(e.get("cat", ""), str)
        assert isinstance(e.get("args", {}), dict)
        assert type(e["ts"]) in (int, float)
        assert e["ts"] >= last, e
        last = e["ts"]
        if phase == "M":
            key, kind = METADATA[e["name"]]
            assert list(e["args"]) == [key]
            assert type(e["args"][key]) is kind
        elif phase == "C":
            assert e["args"]
            assert all(type(v) in (int, float) and v >= 0 for v in e["args"].values()), e
        elif phase == "i":
            assert e["s"] in ("g", "p", "t")
        else:
            one = e["cat"], e["id"], e["pid"]
            assert int(e["id"], 16) > 0
            if phase == "b":
                assert one not in used
                used.add(one)
                alive[one] = e
            else:
                assert alive[one]["name"] == e["name"]
                if phase == "e":
                    del alive[one]
    assert not alive
    return events


def mapped_at(events: list[Event]) -> dict[int, list[int]]:
    """pid -> the totals of its counter, in order."""
    found: dict[int, list[int]] = {}
    for e in events:
        if e["ph"] == "C" and e["name"] == "mapped":
            found.setdefault(e["pid"], []).append(sum(e["args"].values()))
    return found


def without_repeats(values: list[int]) -> list[int]:
    return [v for i, v in enumerate(values) if not i or v != values[i - 1]]


@pytest.mark.parametrize("trace", STORED, ids=lambda p: p.name.partition(".json")[0])
def test_stored_traces(trace: Path) -> None:
    events = check(timeline(trace))
    report = read(str(trace))
    assert (
        sum(e["ph"] == "b" for e in events) >= sum(p.regions_total for p in report.processes) - 20
    )
    assert sum(e["ph"] == "i" and e.get("cat") == "call" for e in events) == report.trace.events
    assert sum(e.get("cat") == "finding" for e in events) == sum(
        len(p.findings) for p in report.processes
    )
    moves = [(m.seq, m.low, m.high) for p in report.processes for m in p.threshold.history]
    told = [
        (e["args"]["seq"], e["args"]["low"], e["args"]["high"])
        for e in events
        if e.get("cat") == "threshold"
    ]
    assert sorted(told) == sorted(moves)
    (p,) = report.processes
    series = read_series(str(trace))[p.mm]
    totals = [sum(m.bytes) for m in series.moments]
    (mine,) = mapped_at(events).values()
    assert mine.pop() == 0 or not p.died_seq
    assert without_repeats(mine) == without_repeats(totals)
    assert max(e["args"]["heap"] for e in events if e["name"] == "mapped") == (
        p.kinds["heap"].peak_bytes if "heap" in p.kinds else 0
    )


@pytest.mark.parametrize("log", LOGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_imported_logs(tmp_path: Path, log: Path) -> None:
    trace = tmp_path / "t.json"
    if memtrace.cli.main.run(["import", str(log), "-o", str(trace)]):
        pytest.skip("a log without a process")
    whole = timeline(trace)
    events = check(whole)
    if whole["otherData"]["clock"] == "none":
        assert whole["otherData"]["times"].startswith("no times")
        calls = [e for e in events if e.get("cat") == "call"]
        assert [e["ts"] for e in calls] == [e["args"]["seq"] for e in calls]


def test_a_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    footer = encode_footer(Footer(stop=1, complete=True))
    path.write_bytes(encode_header(Header(calls=["brk"])) + footer)
    assert check(timeline(path)) == []


def test_a_process_without_calls(scene: Scene) -> None:
    scene.exec().exit()
    events = check(timeline(scene.write()))
    assert {e["ph"] for e in events} == {"M", "b", "e", "C", "i"}


def test_hostile_names_are_text(scene: Scene) -> None:
    name = '/bin/<script>"\x1b[31m\n\u202ex'
    scene.exec(exe=name, argv=[name, "=1+1"]).exit()
    events = check(timeline(scene.write()))
    (label,) = [e["args"]["labels"] for e in events if e["name"] == "process_labels"]
    assert label.isprintable()
    assert "<script>" in label


def test_numbers_that_no_kernel_has(scene: Scene) -> None:
    scene.exec()
    scene.records.append(Call(1 << 70, 1 << 70, 1 << 70, 1, 0, [1 << 80], 1 << 80))
    scene.exit()
    trace = scene.write()
    if memtrace.cli.main.run(["verify", "-q", str(trace)]) != 3:
        check(timeline(trace))


def test_only_one_process(scene: Scene) -> None:
    scene.glibc()
    scene.chunk(MIB)
    scene.fork(2).as_(2, 2)
    scene.mmap(MIB)
    scene.exit()
    scene.as_(1, 1).exit()
    path = scene.write()
    assert {e["pid"] for e in check(timeline(path))} == {1, 2}
    assert {e["pid"] for e in check(timeline(path, 2))} == {2}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["brk", "mmap", "munmap", "chunk", "fork", "exec", "middle"]),
            st.integers(1, 40),
            st.integers(0, 30),
        ),
        max_size=25,
    )
)
def test_whatever_a_program_does_begins_and_ends(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    scene = Scene(tmp_path_factory.mktemp("scene") / "t.json").glibc()
    live: list[tuple[int, int]] = []
    mm = 1
    for what, pages, which in steps:
        size = pages * 4096
        if what == "brk":
            scene.brk(size)
        elif what in ("mmap", "chunk"):
            make: Callable[[int], int] = scene.mmap if what == "mmap" else scene.chunk
            live.append((make(size), size))
        elif what == "fork":
            mm += 1
            scene.fork(mm, pid=mm).as_(mm, mm)
        elif what == "exec":
            live, mm = [], mm + 1
            scene.exec(mm, pid=mm)
        elif live:
            start, whole = live.pop(which % len(live))
            if what == "munmap" or whole < 3 * 4096:
                scene.munmap(start, whole)
            else:
                scene.munmap(start + 4096, 4096)
                live += [(start, 4096), (start + 8192, whole - 8192)]
    path = scene.write()
    events = check(timeline(path))
    series = read_series(str(path))
    for p in read(str(path)).processes:
        totals = without_repeats([sum(m.bytes) for m in series[p.mm].moments])
        assert without_repeats(mapped_at(events)[p.pid][:-1]) == totals


def test_two_address_spaces_of_one_process_do_not_share_counters(tmp_path: Path) -> None:
    """A child that shares memory, then an exec of its parent: the child's is still there."""
    records: list[hostile.Record | bytes] = [
        hostile.begun(), Clone(t=20, pid=1, tid=1, mm=1, child=2, child_pid=2),
        hostile.begun(20, mm=2, argv=["b"]),
        hostile.mmap(hostile.LOW, mm=1), hostile.mmap(hostile.LOW, mm=2),
    ]  # fmt: skip
    events = check(timeline(hostile.write(tmp_path / "t.json", records)))
    of: dict[str | None, list[int]] = {}
    for e in events:
        if e["ph"] == "C" and e["name"] == "mapped":
            of.setdefault(e.get("id"), []).append(sum(e["args"].values()))
    assert len(of) == 2
    for sizes in of.values():
        assert sizes[0] < sizes[1]


def test_resident_memory_of_snapshots_and_its_end(tmp_path: Path) -> None:
    records: list[hostile.Record | bytes] = [
        hostile.begun(rss=3), hostile.snap(20, rss=50), Exit(t=40, pid=1, tid=1, mm=1, code=0),
        Gone(t=50, mm=1),
    ]  # fmt: skip
    events = check(timeline(hostile.write(tmp_path / "t.json", records)))
    found = [e["args"]["bytes"] for e in events if e["ph"] == "C" and e["name"] == "resident"]
    assert found == [3 * 4096, 50 * 4096, 0]
