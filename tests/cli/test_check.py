# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace check` as a shell sees it: what it reads, what it writes over, and its status."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from tests.cli.test_verbs import RECORDS, Ran, Run, run, two_lines, write

from memtrace.trace.records import Exec, Footer

__all__ = ["run"]

TIGHT = "[budget]\ncalls.mmap = 0\n"
LOOSE = "[budget]\ncalls.mmap = 9\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trace and a budget that it keeps."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    write(Path("t.json"), RECORDS)
    Path("memtrace.toml").write_text(LOOSE)
    return tmp_path


def refused(done: Ran, status: int, said: str) -> None:
    assert done.status == status, done
    assert two_lines(done.err), done.err
    assert said in done.err
    assert done.out == ""


def test_the_heading_names_trace_and_program(here: Path, run: Run) -> None:
    done = run("check", "t.json")
    assert (done.status, done.out.splitlines()[0]) == (0, "t.json: a")


# -- what is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-o", "--update-baseline"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("way", ["memtrace.toml", "link", "t.json"])
def test_what_is_read_is_not_written_over(
    here: Path, run: Run, option: str, way: str, *, named: bool
) -> None:
    Path("link").symlink_to("memtrace.toml")
    before = Path(way).read_bytes()
    budget = ["--budget", "memtrace.toml"] if named else []
    refused(run("check", "t.json", *budget, option, way), 2, "would overwrite")
    assert Path(way).read_bytes() == before


def test_a_baseline_is_renewed_and_not_written_over(here: Path, run: Run) -> None:
    assert run("check", "t.json", "--update-baseline", "b.json").status == 0
    both = ("check", "t.json", "--baseline", "b.json")
    assert run(*both, "--update-baseline", "b.json").status == 0
    refused(run(*both, "-o", "b.json"), 2, "would overwrite b.json")
    json.loads(Path("b.json").read_text())
    twice = run("check", "t.json", "--update-baseline", "n", "-o", "./n")
    refused(twice, 2, "would both write ./n")


def test_a_baseline_of_too_much_is_said_in_a_line(here: Path, run: Run) -> None:
    Path("memtrace.toml").write_text(TIGHT)
    done = run("check", "t.json", "--update-baseline", "b.json")
    assert done.status == 1
    assert done.err == "memtrace: warning: b.json now holds numbers that exceed a limit\n"
    assert Path("b.json").exists()


@pytest.mark.parametrize(("text", "status"), [(LOOSE, 0), (TIGHT, 1)])
def test_a_summary_that_cannot_be_written_changes_no_status(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, text: str, status: int
) -> None:
    Path("memtrace.toml").write_text(text)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "none/summary.md"))
    done = run("check", "t.json", "--format", "github")
    assert done.status == status
    assert done.err.startswith("memtrace: warning: no summary of the job: cannot write ")
    assert "::notice title=memtrace::a: " in done.out


# -- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [None, "", " ", "{", "{}", '{"format": "memtrace-baseline/1"}', "[1]", "folder"]
)
def test_a_baseline_that_cannot_be_read_has_one_status(
    here: Path, run: Run, text: str | None
) -> None:
    if text == "folder":
        Path("b.json").mkdir()
    elif text is not None:
        Path("b.json").write_text(text)
    refused(run("check", "t.json", "--baseline", "b.json"), 2, "b.json")
    refused(run("check", "t.json", "--baseline", "b.json", "--force"), 2, "b.json")


@pytest.mark.parametrize("footer", [None, Footer(stop=1_000_000, complete=False)])
def test_a_trace_that_is_not_to_be_trusted_is_no_baseline(
    here: Path, run: Run, footer: Footer | None
) -> None:
    write(Path("b.json"), RECORDS[:-1], footer)
    command = ("check", "t.json", "--baseline", "b.json")
    refused(run(*command), 3, "the baseline b.json is not to be trusted: ")
    for option in ("--force", "--allow-incomplete"):
        done = run(*command, option)
        assert done.status == 0, done
        assert "note   the baseline is not to be trusted: " in done.out


def test_an_untrusted_trace_makes_a_baseline_only_if_it_is_let(here: Path, run: Run) -> None:
    write(Path("t.json"), RECORDS[:-1], None)
    command = ("check", "t.json", "--update-baseline", "b.json")
    refused(run(*command), 3, "t.json is not to be trusted and makes no baseline: ")
    assert not Path("b.json").exists()
    done = run(*command, "--allow-incomplete")
    assert done.status == 0, done
    assert "b.json now holds numbers of a trace that is not to be trusted" in done.err
    assert Path("b.json").exists()


def test_a_trace_of_other_arguments_is_no_baseline(here: Path, run: Run) -> None:
    first = RECORDS[0]
    assert isinstance(first, Exec)
    other = msgspec.structs.replace(first, argv=["a", "x"])
    write(Path("b.json"), [other, *RECORDS[1:]])
    done = run("check", "t.json", "--baseline", "b.json")
    refused(done, 2, "the command is `a`, and was `a x`")
    assert run("check", "t.json", "--baseline", "b.json", "--force").status == 0


def test_a_table_in_the_wrong_place_ends_it(here: Path, run: Run) -> None:
    Path("memtrace.toml").write_text(LOOSE + "[tree]\ncalls.mmap = 0\n")
    refused(run("check", "t.json"), 2, "memtrace.toml:3: memtrace knows no tree, only [budget]")


def test_a_budget_that_is_a_dangling_link_ends_it(here: Path, run: Run) -> None:
    below = here / "below"
    below.mkdir()
    (below / "memtrace.toml").symlink_to("nowhere")
    os.chdir(below)
    refused(run("check", "../t.json"), 2, "memtrace.toml: it is a link to nothing")


@pytest.mark.parametrize("form", ["github", "gitlab", "sarif"])
def test_annotations_are_named_from_the_repository(here: Path, run: Run, form: str) -> None:
    (here / ".git").mkdir()
    below = here / "below"
    below.mkdir()
    (below / "memtrace.toml").write_text(TIGHT)
    os.chdir(below)
    out = run("check", "../t.json", "--format", form).out
    if form == "github":
        found = out.partition("file=")[2].partition(",")[0]
    elif form == "gitlab":
        found = json.loads(out)[0]["location"]["path"]
    else:
        (location,) = json.loads(out)["runs"][0]["results"][0]["locations"]
        found = location["physicalLocation"]["artifactLocation"]["uri"]
    assert found == "below/memtrace.toml"


EVIL = "x\n::error::y\x1b[31m"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", EVIL],
        ["check", "t.json", "--budget", EVIL],
        ["check", "t.json", "--budget", "evil.toml"],
        ["check", "t.json", "--baseline", EVIL],
        ["check", "t.json", "--tolerance", EVIL],
        ["check", "t.json", "--format", EVIL],
        ["check", "t.json", "-o", f"none/{EVIL}"],
        [EVIL],
    ],
)
def test_no_name_begins_a_line_of_its_own(here: Path, run: Run, arguments: list[str]) -> None:
    Path("evil.toml").write_text(f"[budget.process.{json.dumps(EVIL)}]\n")
    done = run(*arguments)
    assert done.status in (2, 3, 125)
    assert two_lines(done.err), done.err
    assert "\x1b" not in done.err


def test_a_glob_in_a_row_is_clean(here: Path, run: Run) -> None:
    Path("memtrace.toml").write_text(f"[budget.process.{json.dumps(EVIL)}]\ncalls.mmap = 0\n")
    for form in ("text", "github", "md"):
        done = run("check", "t.json", "--format", form)
        assert done.status == 3
        assert "\x1b" not in done.out
        assert not [x for x in done.out.splitlines() if x.startswith("::error::y")]


# -- run --check --------------------------------------------------------------------------------


def test_run_refuses_what_it_could_not_read_again(here: Path, run: Run) -> None:
    os.mkfifo("pipe")
    for path in ("pipe", "/dev/null"):
        done = run("run", "-o", path, "--check", "memtrace.toml", "--", "touch", "ran")
        refused(done, 2, f"{path} is no file to be read again")
    done = run("run", "-o", "memtrace.toml", "--check", "memtrace.toml", "--", "touch", "ran")
    refused(done, 2, "the trace would overwrite memtrace.toml")
    assert Path("memtrace.toml").read_text() == LOOSE
    assert not Path("ran").exists()
