# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace export` as a shell sees it; the tables are held against the report and `events`."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests import hostile
from tests.cli.test_verbs import HOSTILE

import memtrace.cli.main
from memtrace.malloc import heap, regions
from memtrace.report import json as report_json
from memtrace.report.build import read
from memtrace.trace.codec import encode_footer, encode_header
from memtrace.trace.records import Footer, Header, Libc

DATA = Path(__file__).parents[1] / "data"
STORED = sorted((DATA / "glibc").glob("*.json.gz"))
LOGS = sorted((DATA / "strace").glob("*/*.log"))
TABLES = ("events", "regions", "heap_steps")
stored = pytest.mark.parametrize("trace", STORED, ids=lambda p: p.name.partition(".json")[0])


class RefusedError(Exception):
    """A command failed; what it said."""


@pytest.fixture
def out(capsysbinary: pytest.CaptureFixture[bytes]) -> Any:
    def go(*arguments: object) -> str:
        status = memtrace.cli.main.run([str(a) for a in arguments])
        captured = capsysbinary.readouterr()
        if status:
            raise RefusedError(captured.err.decode())
        return captured.out.decode()

    return go


def header_only(path: Path) -> Path:
    path.write_bytes(
        encode_header(Header(calls=["brk"])) + encode_footer(Footer(stop=1, complete=True))
    )
    return path


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_cell_keeps_its_line_ends(out: Any, tmp_path: Path) -> None:
    records = [hostile.begun(maps=[*hostile.MAPS, "1000-2000 r--p 00000000 fe:00 3 /a\rb,c"])]
    path = hostile.write(tmp_path / "t.json", records)
    text = out("export", path, "--to", "csv", "--table", "regions")
    (found,) = [row for row in csv.reader(io.StringIO(text, newline="")) if "/a\rb,c" in row]
    assert len(found) == len(text.splitlines()[0].split(","))


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@stored
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_events_are_those_of_events(out: Any, trace: Path, form: str) -> None:
    assert out("export", trace, "--to", form) == out("events", trace, "--format", form)


def reported(path: Path, name: str) -> Iterator[dict[str, Any]]:
    for p in read(str(path)).processes:
        found = report_json.plain(p)
        every = found["regions"] if name == "regions" else found["heap"]["steps"]
        for row in every:
            yield {"pid": p.pid, "mm": p.mm, **row}


def by_birth(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["mm"], row.get("born_seq"), row.get("start"), row.get("seq")


@stored
@pytest.mark.parametrize("name", ["regions", "heap_steps"])
def test_rows_are_the_reports(out: Any, trace: Path, name: str) -> None:
    exported = rows(out("export", trace, "--to", "jsonl", "--table", name))
    for row in exported:
        row.pop("path", None), row.pop("inherited", None)
    assert sorted(exported, key=by_birth) == sorted(reported(trace, name), key=by_birth)
    assert name == "heap_steps" or exported


@pytest.mark.parametrize("name", ["regions", "heap_steps"])
def test_all_rows_also_where_the_report_has_the_largest(
    out: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trace = DATA / "glibc" / "2.41-threshold.json.gz"
    whole = out("export", trace, "--to", "jsonl", "--table", name)
    monkeypatch.setattr(regions, "ROWS", 2)
    monkeypatch.setattr(heap, "STEPS", 1)
    assert len(read(str(trace)).processes[0].regions) == 2
    assert out("export", trace, "--to", "jsonl", "--table", name) == whole
    assert sum(p.regions_total for p in read(str(trace)).processes) > 2


@stored
@pytest.mark.parametrize("name", ["regions", "heap_steps"])
def test_csv_says_what_jsonl_says(out: Any, trace: Path, name: str) -> None:
    lines = table(out("export", trace, "--to", "csv", "--table", name))
    objects = rows(out("export", trace, "--to", "jsonl", "--table", name))
    assert len(lines) == len(objects)
    for line, values in zip(lines, objects, strict=True):
        for key in ("request", "chunk"):
            if key in values:
                bounds = values.pop(key) or {"min": None, "max": None}
                values |= {f"{key}_{bound}": value for bound, value in bounds.items()}
        assert line == {key: cell(value) for key, value in values.items()}


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return " ".join(value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("log", LOGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_imported_logs(out: Any, tmp_path: Path, log: Path) -> None:
    trace = tmp_path / "t.json"
    try:
        out("import", log, "-o", trace)
    except RefusedError:
        pytest.skip("a log without a process")
    for name in TABLES:
        lines = table(out("export", trace, "--to", "csv", "--table", name))
        assert len(lines) == len(rows(out("export", trace, "--to", "jsonl", "--table", name)))
        if name == "regions":
            assert len(lines) == sum(p.regions_total for p in read(str(trace)).processes)


@pytest.mark.parametrize("name", TABLES)
def test_an_empty_trace(out: Any, tmp_path: Path, name: str) -> None:
    trace = header_only(tmp_path / "t.json")
    assert table(out("export", trace, "--to", "csv", "--table", name)) == []
    assert out("export", trace, "--to", "jsonl", "--table", name) == ""


@pytest.mark.parametrize("name", TABLES)
def test_an_unknown_process(out: Any, tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.csv"
    with pytest.raises(RefusedError, match="no process 7 "):
        out("export", STORED[0], "--to", "csv", "--table", name, "--pid", 7, "-o", file)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_what_stdout_would_be(out: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    assert out("export", STORED[0], "--to", "csv", "-o", file) == ""
    assert file.read_text() == out("export", STORED[0], "--to", "csv")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to", "folded"], "the folded export is not in this version"),
        (["--to", "speedscope"], "the speedscope export is not in this version"),
        (["--to", "xml"], "'xml' is none of"),
        (["--to", "parquet"], "needs a file"),
        (["--to", "perfetto", "--table", "regions"], "perfetto is a timeline"),
        ([], "--to"),
    ],
)
def test_refused(out: Any, arguments: list[str], says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        out("export", STORED[0], *arguments)


@pytest.mark.parametrize("name", TABLES)
def test_parquet(out: Any, tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.parquet"
    assert out("export", STORED[0], "--to", "parquet", "--table", name, "-o", file) == ""
    frame = pd.read_parquet(file)
    lines = out("export", STORED[0], "--to", "csv", "--table", name).splitlines()
    assert len(frame) == len(lines) - 1


def test_a_timeline(out: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    assert out("export", STORED[0], "--to", "perfetto", "-o", file) == ""
    assert json.loads(file.read_bytes())["traceEvents"]
    assert file.read_text() == out("export", STORED[0], "--to", "perfetto")


def test_a_timeline_of_an_unknown_process(out: Any, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no process 7 "):
        out("export", STORED[0], "--to", "perfetto", "--pid", 7, "-o", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["perfetto", "csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("bad", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_line(out: Any, tmp_path: Path, bad: bytes, name: str, form: str) -> None:
    if form == "perfetto" and name != "events":
        return
    trace = tmp_path / "t.json"
    lines = gzip.decompress(STORED[0].read_bytes()).splitlines(keepends=True)
    trace.write_bytes(b"".join([*lines[:3], bad, *lines[3:]]))
    more = [] if form == "perfetto" else ["--table", name]
    out("export", trace, "--to", form, "-o", tmp_path / "x", *more)
    if form == "jsonl":
        rows((tmp_path / "x").read_text())
    elif form == "perfetto":
        json.loads((tmp_path / "x").read_bytes())


def test_never_over_the_trace(out: Any, tmp_path: Path) -> None:
    trace = header_only(tmp_path / "t.json")
    with pytest.raises(RefusedError, match="would overwrite"):
        out("export", trace, "--to", "csv", "-o", trace)


def test_help_does_not_name_what_there_is_not(out: Any) -> None:
    text = out("export", "--help")
    assert "jsonl" in text
    assert "folded" not in text


ESCAPE = "1000-2000 r--p 00000000 fe:00 3 /a\x1b[31mred"


def test_a_path_reaches_a_table_as_it_is_and_a_map_spelled_out(out: Any, tmp_path: Path) -> None:
    path = hostile.write(tmp_path / "t.json", [hostile.begun(maps=[*hostile.MAPS, ESCAPE])])
    rows_ = csv.reader(io.StringIO(out("export", path, "--to", "csv", "--table", "regions")))
    assert any("/a\x1b[31mred" in row for row in rows_)
    shown = out("maps", path, "--at", "end")
    assert "/a\\x1b[31mred" in shown
    assert "\x1b" not in shown


def test_events_in_a_pipe_are_not_altered(out: Any, tmp_path: Path) -> None:
    libc = Libc(t=20, mm=1, path="/a\x1b[31mred", version="2.36")
    path = hostile.write(tmp_path / "t.json", [hostile.begun(), libc])
    assert "/a\x1b[31mred" in out("events", path, "--format", "csv")
    assert "\x1b" not in out("events", path)
