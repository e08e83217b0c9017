# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin in projects of other people."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tests.live.forbidding import FORBIDDING, SYS_PTRACE
from tests.live.tracing import ROOT
from tests.plugin.projects import marked, outcomes, started

pytestmark = pytest.mark.live


@pytest.mark.parametrize(
    ("budget", "passes"),
    [
        ("chunks_mapped=19", False),
        ("chunks_mapped=20", True),
        ("chunks_mapped=21", True),
        ("chunks_mapped=dict(min=21)", False),
        ("chunks_mapped=dict(min=20, max=20)", True),
        ("chunks_mapped=dict(max=18, tolerance=1)", False),
        ("chunks_mapped=dict(max=18, tolerance=2)", True),
        ("heap_peak='64 KiB'", False),
        ("heap_peak='1 MiB'", True),
        ("heap_growths_over_128k=0", True),
        ("calls_mremap=0", True),
        ("tree=dict(chunks_mapped=19)", False),
        ("process={'wor*': dict(chunks_mapped=19)}", False),
        ("process={'wor*': dict(chunks_mapped=20)}", True),
        ("memory_rss_peak=1, calls_mremap=0", True),
        ("memory_rss_peak=1", False),  # which alone would fail nothing
        ("memory_rss_peak=dict(max=1, gate=True)", False),
    ],
)
def test_a_budget_is_kept_up_to_its_end(
    project: pytest.Pytester, words: str, budget: str, *, passes: bool
) -> None:
    found, ran = outcomes(project, marked(budget, started(words)))
    assert found == ({"passed": 1} if passes else {"failed": 1}), ran.stdout.str()


def test_a_failure_is_one_line_with_a_letter_and_a_section(
    project: pytest.Pytester, words: str
) -> None:
    test = marked("chunks_mapped=19, heap_growths=1000, calls_mremap=0", started(words))
    _, ran = outcomes(project, test)
    shown = ran.stdout.str()
    assert "test_it.py M" in shown
    line = f"memtrace: chunks.mapped 20, at most 19, in {words}"
    assert re.search(rf"_ test_a _+\n{re.escape(line)}\n-+ memtrace -", shown), shown
    assert re.search(r"^FAIL +\S+: chunks\.mapped 20, at most 19", shown, re.MULTILINE)
    assert re.search(r"^ok +\S+: heap\.growths \d+, at most 1,000", shown, re.MULTILINE)
    _, verbose = outcomes(project, test, "-v")
    assert "test_it.py::test_a OVER BUDGET" in verbose.stdout.str()
    assert "OVER BUDGET test_it.py::test_a - memtrace: chunks.mapped 20" in shown
    assert "/test_it.py_test_a-" not in shown  # the trace is gone
    assert "--memtrace-dir=DIR keeps the traces" in shown
    _, kept = outcomes(project, test, "--memtrace-dir=kept")
    assert re.search(
        r"^FAIL .* {3}\S+/kept/test_it\.py_test_a-\S+-1\.json$", kept.stdout.str(), re.MULTILINE
    )
    assert ran.ret == 1


def test_a_section_has_ten_rows_at_most(project: pytest.Pytester, words: str) -> None:
    body = f"[subprocess.run([{words!r}]) for _ in range(6)]"
    _, ran = outcomes(project, marked("chunks_mapped=19, calls_mremap=0", body))
    section = ran.stdout.str().split("- memtrace -")[1].split("=====")[0]
    rows = re.findall(r"^(?:FAIL|ok) ", section, re.MULTILINE)
    assert (len(rows), rows.count("FAIL ")) == (10, 6)
    assert "and 2 more" in section
    assert "(and 5 more)" in ran.stdout.str()


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (marked("heap_peak=1", "pass"), "the test started no program, so nothing was measured"),
        (marked("heap_peek=1", "pass"), "there is no metric 'heap.peek'"),
        (marked("", "pass"), "the marker limits nothing"),
        (marked("tree={}", "pass"), "tree limits nothing"),
        (marked("process={}", "pass"), "process limits nothing"),
        (marked("process=dict(a={})", "pass"), "process.a limits nothing"),
        (marked("heap_peak=1, tree={}", "pass"), "tree limits nothing"),
        (
            marked("chunks_mapped=dict(tolerance=5)", "pass"),
            "a tolerance of chunks.mapped alone limits nothing",
        ),
        (marked("chunks_mapped=dict(min=0)", "pass"), "min limits nothing that can be"),
        (marked("3", "pass"), "limits are named, 3 is not"),
        (marked("tree=3", "pass"), "tree and process are dicts of limits"),
        (marked("heap_peak='2 MB'", "pass"), "'2 MB' is no size"),
        (
            marked("growth_over_threshold=1", "subprocess.run(['/nonexistent'])"),
            "FileNotFoundError: [Errno 2] No such file or directory: '/nonexistent'",
        ),
    ],
)
def test_a_check_that_checks_nothing_fails(project: pytest.Pytester, test: str, said: str) -> None:
    found, ran = outcomes(project, test)
    assert found == {"failed": 1}
    assert said in ran.stdout.str()


def test_a_test_that_fails_by_itself_fails_as_ever(project: pytest.Pytester, words: str) -> None:
    body = started(words) + "\n    assert 1 == 2"
    _, ran = outcomes(project, marked("chunks_mapped=19", body))
    assert "assert 1 == 2" in ran.stdout.str()
    assert "test_it.py F" in ran.stdout.str()
    assert "OVER BUDGET" not in ran.stdout.str()


FIXTURE = """
def test_a(memtrace):
    report = memtrace.run([{words!r}])
    assert report.processes[0].metrics["chunks.mapped"] == 20
    assert report.exactness == "exact"
    done = memtrace.last
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    memtrace.run(["sh", "-c", "cat; exit 3"], input="in")
    assert (memtrace.last.returncode, memtrace.last.stdout) == (3, "in")
    memtrace.run(["printf", "\\\\377"])
    assert memtrace.last.stdout == "\\\\xff"
    with pytest.raises(Exception, match="/nonexistent was not traced: cannot run /nonexistent: no"):
        memtrace.run(["/nonexistent"])
    assert len(memtrace.programs) == 4
"""


def test_the_fixture_reports(project: pytest.Pytester, words: str) -> None:
    found, ran = outcomes(project, FIXTURE.format(words=words))
    assert found == {"passed": 1}, ran.stdout.str()


def test_a_marker_holds_what_the_fixture_ran(project: pytest.Pytester, words: str) -> None:
    test = (
        "@pytest.mark.memtrace(chunks_mapped=19)\n"
        f"def test_a(memtrace):\n    memtrace.run([{words!r}])\n"
        f"    assert len(memtrace.programs) == 1\n"
    )
    found, ran = outcomes(project, test)
    assert found == {"failed": 1}
    assert "memtrace: chunks.mapped 20, at most 19" in ran.stdout.str()


@pytest.mark.parametrize(
    ("options", "ini"),
    [(["--memtrace=off"], ""), ([], "memtrace = off"), (["--memtrace=off"], "memtrace = on")],
)
def test_off_by_option_and_by_setting(
    project: pytest.Pytester, words: str, options: list[str], ini: str
) -> None:
    project.makeini("[pytest]\n" + ini)
    test = marked("chunks_mapped=19", started(words)) + FIXTURE.format(words=words).replace(
        "test_a", "test_b"
    )
    found, ran = outcomes(project, test, *options)
    assert found == {"passed": 1, "skipped": 1}, ran.stdout.str()
    assert "memtrace: off, no budget is checked" in ran.stdout.str()
    _, silent = outcomes(project, test + test.replace("_a", "_c"), "-q", "-n", "2", *options)
    assert "memtrace: off, 2 tests were not held to a budget" in silent.stdout.str()


def test_on_by_option_goes_before_the_setting(project: pytest.Pytester, words: str) -> None:
    project.makeini("[pytest]\nmemtrace = off")
    found, _ = outcomes(project, marked("chunks_mapped=19", started(words)), "--memtrace=on")
    assert found == {"failed": 1}


def test_a_setting_that_cannot_be_meant(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nmemtrace = maybe")
    ran = project.runpytest_subprocess()
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    assert "memtrace is on or off, not 'maybe'" in ran.stderr.str()


@pytest.mark.parametrize("by", ["option", "setting"])
def test_a_folder_counts_from_where_it_is_named(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    project.makeini("[pytest]\n" + ("memtrace_dir = kept" if by == "setting" else ""))
    options = ["--memtrace-dir=kept"] if by == "option" else []
    project.makepyfile(test_it="")
    monkeypatch.chdir(project.mkdir("below"))
    Path("../below/test_below.py").write_text(
        "import subprocess, pytest\n" + marked("calls_mremap=0", "subprocess.run(['true'])")
    )
    ran = project.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options)
    assert ran.parseoutcomes() == {"passed": 1}
    assert len(list(Path("kept" if by == "option" else "../kept").iterdir())) == 1


@pytest.mark.parametrize("by", ["option", "setting"])
def test_traces_are_kept(project: pytest.Pytester, words: str, by: str) -> None:
    project.makeini("[pytest]\n" + ("memtrace_dir = kept" if by == "setting" else ""))
    options = ["--memtrace-dir=kept"] if by == "option" else []
    outcomes(project, marked("chunks_mapped=20", started(words)), *options)
    assert [p.name for p in Path("kept").glob("test_it.py_test_a-*-1.json")] == [
        p.name for p in Path("kept").iterdir()
    ]


@pytest.mark.parametrize("by", ["option", "setting", ""])
def test_an_untrustworthy_trace_fails_unless_allowed(
    project: pytest.Pytester, words: str, by: str
) -> None:
    project.makeini("[pytest]\n" + ("memtrace_allow_incomplete = true" if by == "setting" else ""))
    options = ["--memtrace-allow-incomplete"] if by == "option" else []
    test = (
        "import pathlib\n@pytest.mark.memtrace(calls_mremap=0)\n"
        f"def test_a(memtrace):\n    memtrace.run([{words!r}])\n"
        "    program = memtrace.programs[0]\n    data = program.trace.read_bytes()\n"
        "    program.trace.write_bytes(data[: len(data) // 2])\n"
        "    del program.__dict__['report']\n"
    )
    found, ran = outcomes(project, test, *options)
    assert found == ({"passed": 1} if by else {"failed": 1}), ran.stdout.str()
    assert ("is not to be trusted" in ran.stdout.str()) is (not by)


def test_under_xdist(project: pytest.Pytester, words: str) -> None:
    test = "".join(
        marked(f"chunks_mapped={19 + i % 2}", started(words)).replace("test_a", f"test_{i}")
        for i in range(6)
    )
    found, ran = outcomes(project, test, "-n", "2", "--memtrace-dir=kept")
    assert found == {"passed": 3, "failed": 3}, ran.stdout.str()
    assert len(list(Path("kept").iterdir())) == 6
    shown = ran.stdout.str()
    assert shown.count("memtrace: chunks.mapped 20, at most 19") >= 3
    assert shown.count("- memtrace -") == 3
    assert "M" in shown.split("bringing up nodes")[-1].split("FAILURES")[0]


AS_EVER = """
import unittest

@pytest.mark.xfail(strict=True)
@pytest.mark.memtrace(chunks_mapped=19)
def test_a():
    subprocess.run([{words!r}])

class TestB(unittest.TestCase):
    @pytest.mark.memtrace(chunks_mapped=19)
    def test_b(self):
        subprocess.run([{words!r}])

@pytest.mark.memtrace(chunks_mapped=19)
class TestC:
    @pytest.mark.memtrace(calls_mremap=0)
    def test_c(self):
        subprocess.run([{words!r}])

    @pytest.mark.memtrace(chunks_mapped=20)
    def test_d(self):
        subprocess.run([{words!r}])

@pytest.mark.memtrace(chunks_mapped=19)
def test_e():
    pytest.skip("not today")
"""


def test_other_markers_and_classes_mean_what_they_mean(
    project: pytest.Pytester, words: str
) -> None:
    found, ran = outcomes(project, AS_EVER.format(words=words))
    assert found == {"xfailed": 1, "failed": 2, "passed": 1, "skipped": 1}, ran.stdout.str()
    for name in ("TestB::test_b", "TestC::test_c"):
        assert f"OVER BUDGET test_it.py::{name} - memtrace: chunks" in ran.stdout.str()


AGAIN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for attempt in (1, 2):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""


def test_another_attempt_is_judged_by_itself(project: pytest.Pytester, words: str) -> None:
    project.makeconftest(AGAIN)
    body = f"tried.append(1)\n    subprocess.run([{words!r}] if len(tried) == 1 else ['true'])"
    test = "tried = []\n" + marked("chunks_mapped=19", body)
    found, ran = outcomes(project, test)
    assert found == {"passed": 1}, ran.stdout.str()
    body += "\n    assert len(tried) == 1"
    _, ran = outcomes(project, "tried = []\n" + marked("chunks_mapped=19", body))
    assert "FAILED test_it.py::test_a - assert 2 == 1" in ran.stdout.str()


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_where_ptrace_is_refused_tests_fail_with_the_reason(
    project: pytest.Pytester, options: tuple[str, ...]
) -> None:
    bodies = {
        "noticed": "subprocess.run(['true'], check=True)",
        "unnoticed": "subprocess.run(['true'])",
        "own": "pytest.fail('said nothing')",
    }
    test = "".join(marked("calls_mremap=0", body, name) for name, body in bodies.items())
    test += "def test_fixture(memtrace):\n    memtrace.run(['true'])\n"
    project.makepyfile(test_it="import subprocess, pytest\n" + test)
    ran = project.run(
        sys.executable, "-c", FORBIDDING, str(SYS_PTRACE), "1",
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options,
    )  # fmt: skip
    assert ran.parseoutcomes() == {"failed": 4}
    shown, why = ran.stdout.str(), "a seccomp filter around this shell forbids ptrace"
    assert re.search(rf"_ test_noticed _+\n(\[gw0\].*\n)?memtrace: .*{why}", shown), shown
    nothing = rf"memtrace: nothing was recorded of true: .*{why}"
    assert re.search(rf"_ test_unnoticed _+\n(\[gw0\].*\n)?{nothing}", shown), shown
    assert f"true was not traced: {why}" in shown
    assert shown.count("NOT MEASURED test_it.py::test_") == 2
    off = project.run(
        sys.executable, "-c", FORBIDDING, str(SYS_PTRACE), "1",
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--memtrace=off", *options,
    )  # fmt: skip
    assert off.parseoutcomes() == {"passed": 2, "failed": 1, "skipped": 1}


def test_the_marker_is_explained(project: pytest.Pytester) -> None:
    ran = project.runpytest_subprocess("--markers")
    assert "@pytest.mark.memtrace(*, tree=None, process=None, **limits): Hold every program" in (
        ran.stdout.str()
    )
    helped = project.runpytest_subprocess("--help").stdout.str()
    for option in ("--memtrace={on,off}", "--memtrace-dir", "--memtrace-allow-incomplete"):
        assert option in helped
        assert option.partition("=")[0][2:].replace("-", "_") in helped


def test_the_marker_is_known_to_a_strict_project(project: pytest.Pytester, words: str) -> None:
    project.makeini("[pytest]\naddopts = --strict-markers --strict-config")
    found, _ = outcomes(project, marked("chunks_mapped=20", started(words)))
    assert found == {"passed": 1}


def test_the_page_is_true(project: pytest.Pytester, words: str) -> None:
    """The examples of docs/pytest.md, with `words` for their program."""
    page = (ROOT / "docs/pytest.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 2
    Path("words").symlink_to(words)
    for i, block in enumerate(blocks):
        project.makepyfile(**{f"test_page_{i}": block})
    ini = re.search(r"```ini\n(.*?)```", page, re.DOTALL)
    assert ini is not None
    project.makeini(ini[1])
    ran = project.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
    assert set(ran.parseoutcomes()) == {"passed"}, ran.stdout.str()
