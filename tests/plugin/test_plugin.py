# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin in projects of other people."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from tests.live.tracing import ROOT

pytestmark = pytest.mark.live

#: Maps 20 chunks of 40 MiB, one after the other; its heap is some 500 KiB.
WORDS = ROOT / "tests/project/words.c"


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("words") / "words"
    os.spawnvp(os.P_WAIT, "cc", ["cc", "-O1", "-fno-builtin", "-o", str(path), str(WORDS)])
    return str(path)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Somebody's project, with folders named as memtrace's are."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    roots = os.pathsep.join([str(ROOT / "tracer"), str(ROOT / "analysis")])
    monkeypatch.setenv("PYTHONPATH", roots)
    for name in ("analysis", "tracer", "memtrace"):
        pytester.mkpydir(name) if name != "memtrace" else pytester.mkdir(name)
    return pytester


def outcomes(
    project: pytest.Pytester, test: str, *options: str
) -> tuple[dict[str, int], pytest.RunResult]:
    project.makepyfile(test_it="import subprocess, sys, pytest\nimport analysis, tracer\n" + test)
    ran = project.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", *options)
    return ran.parseoutcomes(), ran


def marked(budget: str, body: str) -> str:
    return f"@pytest.mark.memtrace({budget})\ndef test_a():\n    {body}\n"


def started(words: str) -> str:
    return f"subprocess.run([{words!r}], check=True)"


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
        ("memory_rss_peak=1", True),
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
    "body",
    [
        "subprocess.run({w!r} + ' && exit 0', shell=True, check=True)",
        "subprocess.check_call(args=[{w!r}])",
        "assert subprocess.Popen({w!r}).wait() == 0",
        "assert subprocess.getstatusoutput({w!r}) == (0, '')",
        (
            "import asyncio\n    async def go():\n"
            "        return await (await asyncio.create_subprocess_exec({w!r})).wait()\n"
            "    assert asyncio.run(go()) == 0"
        ),
    ],
    ids=["shell", "args", "string", "getstatusoutput", "asyncio"],
)
def test_whatever_starts_it(project: pytest.Pytester, words: str, body: str) -> None:
    # Of a shell that does not exec it, words is a process of its own.
    budget = "tree=dict(chunks_mapped=19)"
    found, ran = outcomes(project, marked(budget, body.format(w=words)))
    assert found == {"failed": 1}
    assert "memtrace: tree chunks.mapped 20, at most 19" in ran.stdout.str()


def test_status_signal_and_streams_come_through(project: pytest.Pytester) -> None:
    body = (
        "done = subprocess.run(['sh', '-c', 'cat; echo err >&2; exit 7'], input='in', text=True,\n"
        "                          capture_output=True)\n"
        "    assert (done.returncode, done.stdout, done.stderr) == (7, 'in', 'err\\n')\n"
        "    assert subprocess.run(['sh', '-c', 'kill -9 $$']).returncode == -9"
    )
    found, ran = outcomes(project, marked("calls_mremap=0", body))
    assert found == {"passed": 1}, ran.stdout.str()


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (marked("heap_peak=1", "pass"), "the test started no program, so nothing was measured"),
        (marked("heap_peek=1", "pass"), "there is no metric 'heap.peek'"),
        (marked("", "pass"), "the marker limits nothing"),
        (marked("3", "pass"), "limits are named, 3 is not"),
        (marked("tree=3", "pass"), "tree and process are dicts of limits"),
        (marked("heap_peak='2 MB'", "pass"), "'2 MB' is no size"),
        (
            marked("heap_peak=1", "subprocess.run(['other'], executable='/bin/true')"),
            "other was not traced: its file and its name differ",
        ),
        (
            marked("growth_over_threshold=1", "subprocess.run(['/nonexistent'])"),
            "nothing was recorded of /nonexistent",
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


def test_nothing_is_traced_without_a_marker(project: pytest.Pytester) -> None:
    test = (
        "def test_a():\n"
        "    out = subprocess.run(['grep', 'TracerPid', '/proc/self/status'],\n"
        "                         capture_output=True, text=True).stdout\n"
        "    assert out == 'TracerPid:\\t0\\n'\n"
        "    assert 'memtrace.check' not in ' '.join(sys.modules)\n"
        "    assert 'msgspec' not in sys.modules\n"
    )
    found, ran = outcomes(project, test)
    assert found == {"passed": 1}, ran.stdout.str()


FIXTURE = """
def test_a(memtrace):
    report = memtrace.run([{words!r}])
    assert report.processes[0].metrics["chunks.mapped"] == 20
    assert report.exactness == "exact"
    done = memtrace.last
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    memtrace.run(["sh", "-c", "cat; exit 3"], input="in")
    assert (memtrace.last.returncode, memtrace.last.stdout) == (3, "in")
    assert len(memtrace.programs) == 2
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


def test_on_by_option_goes_before_the_setting(project: pytest.Pytester, words: str) -> None:
    project.makeini("[pytest]\nmemtrace = off")
    found, _ = outcomes(project, marked("chunks_mapped=19", started(words)), "--memtrace=on")
    assert found == {"failed": 1}


@pytest.mark.parametrize("by", ["option", "setting"])
def test_traces_are_kept(project: pytest.Pytester, words: str, by: str) -> None:
    project.makeini("[pytest]\n" + ("memtrace_dir = kept" if by == "setting" else ""))
    options = ["--memtrace-dir=kept"] if by == "option" else []
    outcomes(project, marked("chunks_mapped=20", started(words)), *options)
    assert [p.name for p in Path("kept").iterdir()] == ["test_it.py_test_a-1.json"]


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
    assert sys.version_info
