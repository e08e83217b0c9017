# SPDX-License-Identifier: GPL-2.0-or-later
"""A trace with next to nothing in it is told of in every format of every command that has formats.

The commands say themselves which formats they have: a new one is tried without a word here, but
how to know that its output is whole must stand in `WHOLE`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree as ET

import click
import pytest
from tests.golden.stored import LOGS, TRACES

import memtrace.cli.main
from memtrace.cli.main import VERBS
from memtrace.collect.strace.importing import import_log
from memtrace.trace.codec import encode_footer, encode_header
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call, Footer, Header

#: What is told of, and how `check` ends: a trace that cannot be trusted passes nothing.
POOR = {"header-only": 3, "header-and-footer": 3, "no-calls": 0, "no-times": 3, "one-call": 3}
BUDGET = '[budget]\nheap.peak = "1 GiB"\nheap.growths = 1000\n'
FULL = str(TRACES["threshold-moves"])
#: What each command is asked about a trace.
LINES: dict[str, Callable[[str], list[list[str]]]] = {
    "report": lambda trace: [[trace]],
    "events": lambda trace: [[trace]],
    "check": lambda trace: [[trace]],
    "diff": lambda trace: [[trace, FULL], [FULL, trace], [trace, trace]],
    "export": lambda trace: [
        [trace], *([trace, "--table", name] for name in ("regions", "heap_steps"))
    ],
}  # fmt: skip


def _formats(verb: str) -> tuple[str, list[str]]:
    """The option that chooses the format, and what it takes: as --help shows it."""
    command: click.Command = import_module(VERBS[verb][0]).command
    for option in command.params:
        if "--format" in option.opts or "--to" in option.opts:
            if isinstance(option.type, click.Choice):
                return option.opts[0], list(option.type.choices)
            shown = option.make_metavar(click.Context(command))
            assert re.fullmatch(r"\[\w+(\|\w+)+\]", shown), shown
            return option.opts[0], shown[1:-1].split("|")
    return "", []


CASES = [
    (verb, option, form)
    for verb, (option, forms) in ((verb, _formats(verb)) for verb in VERBS)
    for form in forms
]


def one_object(out: bytes) -> None:
    assert isinstance(json.loads(out), dict | list)


def lines_of_json(out: bytes) -> None:
    for line in out.decode().splitlines():
        assert isinstance(json.loads(line), dict)


def table(out: bytes) -> None:
    head, *rows = csv.reader(io.StringIO(out.decode()))
    assert len(head) > 3
    assert {len(row) for row in rows} <= {len(head)}


def plain(out: bytes) -> None:
    text = out.decode()
    assert text.strip() or not text
    assert "\x1b" not in text
    assert "None" not in text
    assert "nan" not in text.split()


def markdown(out: bytes) -> None:
    plain(out)
    assert out.startswith(b"#")
    cells: int | None = None  # a table has as many in each row
    for line in out.decode().splitlines():
        now = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert cells is None or now is None or now == cells, line
        cells = now


def page(out: bytes) -> None:
    assert out.lower().startswith(b"<!doctype html>")
    assert out.rstrip().endswith(b"</html>")


def github(out: bytes) -> None:
    for line in out.decode().splitlines():
        assert re.match(r"::(error|warning|notice) .*::.", line), line


def junit(out: bytes) -> None:
    assert ET.fromstring(out).tag == "testsuites"


def parquet(out: bytes) -> None:
    assert out.startswith(b"PAR1")
    assert out.endswith(b"PAR1")


#: By format: fails unless the output is a whole one.
WHOLE: dict[str, Callable[[bytes], None]] = {
    "text": plain, "json": one_object, "html": page, "md": markdown, "jsonl": lines_of_json,
    "csv": table, "junit": junit, "github": github, "gitlab": one_object,
    "sarif": one_object, "perfetto": one_object, "parquet": parquet,
}  # fmt: skip


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("poor")
    found = {name: str(TRACES[name]) for name in ("header-only", "no-calls")}
    empty = folder / "header-and-footer.json"
    empty.write_bytes(
        encode_header(Header(engine="test", calls=["brk"]))
        + encode_footer(Footer(stop=1, complete=True))
    )
    found["header-and-footer"] = str(empty)
    for name, log in (("no-times", "strace-6.1-plain"), ("one-call", "strace-odd-windows")):
        found[name] = str(folder / f"{name}.json")
        import_log([str(LOGS[log])], found[name])
    return found


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget is looked for from here upwards."""
    (tmp_path / "memtrace.toml").write_text(BUDGET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def test_the_traces_are_as_poor_as_they_are_called(traces: dict[str, str]) -> None:
    assert traces.keys() == POOR.keys()
    facts = {}
    for name, path in traces.items():
        with Trace(path) as trace:
            records = [r for _, _, r in trace.records()]
            facts[name] = (
                len(records),
                sum(isinstance(r, Call) for r in records),
                trace.header.clock,
            )
    assert facts["header-only"][:2] == facts["header-and-footer"][:2] == (0, 0)
    assert facts["no-calls"][0] > 0
    assert facts["no-calls"][1] == 0
    assert facts["no-times"][2] == facts["one-call"][2] == "none"
    assert facts["no-times"][1] > facts["one-call"][1] >= 1


def test_every_command_with_formats_is_tried() -> None:
    assert {verb for verb, _, _ in CASES} == LINES.keys()
    assert {form for _, _, form in CASES} == WHOLE.keys()


@pytest.mark.parametrize("poor", POOR)
@pytest.mark.parametrize(("verb", "option", "form"), CASES)
def test_every_format(
    traces: dict[str, str],
    poor: str,
    verb: str,
    option: str,
    form: str,
    capsysbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> None:
    for words in LINES[verb](traces[poor]):
        if form == "perfetto" and "--table" in words:
            continue  # it has none
        file = tmp_path / "out"
        to = ["-o", str(file)] if form == "parquet" else []  # it is no text, and needs a file
        status = memtrace.cli.main.run([verb, *words, option, form, *to])
        printed, told = capsysbinary.readouterr()
        assert status == (POOR[poor] if verb == "check" else 0), told.decode()
        assert b"Traceback" not in told
        if to:
            printed = file.read_bytes()
        WHOLE[form](printed)
        # A line for each record, or for each limit that is passed: there may be none.
        assert printed.strip() or form in ("jsonl", "github") or (verb, form) == ("events", "text")
