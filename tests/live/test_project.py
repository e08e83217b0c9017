# SPDX-License-Identifier: GPL-2.0-or-later
"""A project that gates on its allocations: budgets that pass and fail in every format, and the
recipes of docs/ci.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.live.tracing import PATIENCE, ROOT, cli, environment

PROJECT = ROOT / "tests/project"
RECIPES = (ROOT / "docs/ci.md").read_text()


def in_project(folder: Path, line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A shell line, with `memtrace` on the path and no installed one needed."""
    shim = folder / "bin"
    shim.mkdir(exist_ok=True)
    (shim / "memtrace").write_text(f'#!/bin/sh\nexec {sys.executable} -m memtrace "$@"\n')
    (shim / "memtrace").chmod(0o755)
    env = {**environment(), **env, "PATH": f"{shim}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-ec", line], cwd=folder, env=env, capture_output=True, text=True, check=False,
        timeout=PATIENCE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, built and traced once."""
    folder = tmp_path_factory.mktemp("project") / "p"
    shutil.copytree(PROJECT, folder)
    made = in_project(folder, "make words && memtrace run -q -o words.json -- ./words")
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return Path(shutil.copytree(built, tmp_path / "p"))


KEPT, PASSED = "memtrace.toml", "tight.toml"


def checked(folder: Path, budget: str, form: str) -> tuple[int, str]:
    done = in_project(folder, f"memtrace check words.json --budget {budget} --format {form}")
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize("form", ["text", "json", "junit", "github", "gitlab", "sarif", "md"])
def test_both_budgets_in_every_format(built: Path, form: str) -> None:
    kept, good = checked(built, KEPT, form)
    passed, bad = checked(built, PASSED, form)
    assert (kept, passed) == (0, 1)
    told: dict[str, Callable[[str], list[Any]]] = {
        "text": lambda t: re.findall(r"^  (\S+) .* FAIL\b", t, re.MULTILINE),
        "json": lambda t: [x["metric"] for x in json.loads(t)["limits"] if x["ok"] is False],
        "junit": lambda t: [
            c.get("name")
            for c in ET.fromstring(t).iter("testcase")
            if c.find("failure") is not None
        ],
        "github": lambda t: re.findall(
            r"^::error file=tight.toml,line=\d+,.*?::(\S+)", t, re.MULTILINE
        ),
        "gitlab": lambda t: [i["check_name"].rpartition("/")[2] for i in json.loads(t)],
        "sarif": lambda t: [
            r["ruleId"].rpartition("/")[2] for r in json.loads(t)["runs"][0]["results"]
        ],
        "md": lambda t: re.findall(r"^\| (\S+) \|.*\*\*FAIL", t, re.MULTILINE),
    }
    failing = told[form]
    names = [str(n).removesuffix("_bytes") for n in failing(bad)]
    assert names == ["heap.peak", "churn.pairs"]
    assert failing(good) == []


def test_the_numbers_are_the_programs(built: Path) -> None:
    _, text = checked(built, KEPT, "json")
    limits = {x["metric"]: x["measured"] for x in json.loads(text)["limits"]}
    assert limits["chunks.mapped"] == 20
    assert limits["chunks.alive_at_exit"] == 0
    # One page for the chunk's header beside the 40 MiB.
    assert limits["chunks.peak_bytes"] == (40 << 20) + 4096
    assert 4000 * 112 <= limits["heap.peak_bytes"] <= 4000 * 112 + (132 << 10) * 2


def test_a_baseline_is_written_kept_and_exceeded(project: Path) -> None:
    update, use = re.findall(r"^memtrace check words.json .*baseline.*$", RECIPES, re.MULTILINE)
    assert in_project(project, f"rm memtrace.toml; {update}; {use}").returncode == 0
    for baseline in ("baseline.json", "words.json"):
        same = in_project(project, f"memtrace check words.json --baseline {baseline}")
        assert same.returncode == 0, same.stdout + same.stderr
    text = (project / "words.c").read_text()
    (project / "words.c").write_text(text.replace("ROUNDS = 20", "ROUNDS = 22"))
    again = in_project(project, f"make words && memtrace run -q -o words.json -- ./words; {use}")
    assert again.returncode == 1
    failed = re.findall(r"^  (\S+) .* FAIL\b", again.stdout, re.MULTILINE)
    assert {"calls.mmap", "calls.munmap", "chunks.mapped", "churn.pairs"} <= set(failed)
    assert not {"heap.peak", "heap.growths", "chunks.peak"} & set(failed)
    lenient = use.replace("5%", "50%")
    assert in_project(project, lenient).returncode == 0


def test_a_baseline_of_something_else_is_refused(project: Path) -> None:
    assert in_project(
        project, "rm memtrace.toml; memtrace check words.json --update-baseline base.json"
    ).returncode == 0  # fmt: skip
    pinned = in_project(
        project,
        "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=131072 memtrace run -q -o t.json ./words; "
        "memtrace check t.json --baseline base.json",
    )
    assert pinned.returncode == 2
    assert (
        "GLIBC_TUNABLES is 'glibc.malloc.mmap_threshold=131072', and was not set" in pinned.stderr
    )
    assert "--force" in pinned.stderr
    forced = in_project(project, "memtrace check t.json --baseline base.json --force")
    assert forced.returncode == 0
    assert "GLIBC_TUNABLES" in forced.stdout
    other = in_project(
        project,
        "memtrace run -q -o t.json true; memtrace check t.json --baseline base.json",
    )
    assert other.returncode == 2
    assert "the program is true, and was words" in other.stderr


@pytest.mark.parametrize(
    "line", ["env A=1 ./words", "sh -c 'exec ./words'", "./script", "sh -c 'exec env ./words'"]
)
def test_a_program_that_is_begun_by_another_is_held(project: Path, line: str) -> None:
    (project / "script").write_text("#!/bin/sh\nexec ./words\n")
    (project / "script").chmod(0o755)
    (project / "19.toml").write_text("[budget]\nchunks.mapped = 19\nheap.growths = 1000\n")
    (project / "21.toml").write_text("[budget]\nchunks.mapped = { min = 21 }\n")
    (project / "20.toml").write_text("[budget]\nchunks.mapped = { min = 20, max = 20 }\n")
    for number, status in ((19, 1), (20, 0), (21, 1)):
        done = in_project(project, f"memtrace run -o t.json --check {number}.toml -- {line}")
        assert done.returncode == status, done.stderr
        assert "measured in words: chunks.mapped" in done.stderr
        assert re.search(r"^t\.json: .* → words$", done.stderr, re.MULTILINE)


def test_a_baseline_knows_programs_arguments_and_settings(project: Path) -> None:
    def differs(one: str, other: str) -> str:
        done = in_project(
            project,
            f"rm -f memtrace.toml; memtrace run -q -o a.json -- {one}; "
            f"memtrace run -q -o b.json -- {other}; "
            "memtrace check a.json --update-baseline base.json; "
            "memtrace check b.json --baseline a.json || "
            "exec memtrace check b.json --baseline base.json",
        )
        assert (done.returncode == 0) is (one == other), done.stderr
        said = done.stderr.splitlines()
        assert said[: len(said) // 2] == [
            line.replace("base.json", "a.json") for line in said[len(said) // 2 :]
        ]
        return done.stderr

    assert differs("./words", "./words") == ""
    said = differs("env A=1 ./words", "./words")
    assert "the program is words, and was env → words" in said
    said = differs("sh -c ': a; exec ./words'", "sh -c ': b; exec ./words'")
    assert "of sh the command is `sh -c ': b; exec ./words'`, and was " in said
    pinned = "env GLIBC_TUNABLES=glibc.malloc.mmap_threshold="
    said = differs(f"{pinned}131072 ./words", f"{pinned}131073 ./words")
    assert "of words GLIBC_TUNABLES is 'glibc.malloc.mmap_threshold=131073', and was" in said


def test_run_with_a_budget(project: Path) -> None:
    kept = in_project(project, f"memtrace run --check {KEPT} -- ./words")
    assert kept.returncode == 0
    assert kept.stdout == ""
    assert "limits kept, exit 0" in kept.stderr
    assert in_project(project, f"memtrace run --check {PASSED} -- ./words").returncode == 1
    failing = in_project(project, f"memtrace run --check {PASSED} -- sh -c 'exec false; :'")
    assert failing.returncode == 1
    own = in_project(project, f"memtrace run --check {KEPT} -- sh -c './words; exit 7'")
    assert own.returncode == 7
    (project / "wrong.toml").write_text("[budget]\nheap.peek = 1\n")
    wrong = in_project(project, "memtrace run --check wrong.toml -- touch ran")
    assert wrong.returncode == 2
    assert "wrong.toml:2: there is no metric 'heap.peek'" in wrong.stderr
    assert not (project / "ran").exists()


def test_an_incomplete_trace_never_passes(project: Path) -> None:
    data = (project / "words.json").read_bytes()
    (project / "cut.json").write_bytes(data[: len(data) // 2])
    cut = in_project(project, "memtrace check cut.json")
    assert cut.returncode == 3
    assert "not to be trusted" in cut.stdout
    assert in_project(project, "memtrace check cut.json --update-baseline b.json").returncode != 0
    assert not (project / "b.json").exists()


# -- the recipes ------------------------------------------------------------------------------


def block(heading: str, language: str) -> str:
    text = RECIPES[RECIPES.index(f"\n## {heading}\n") :]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def steps(yaml: str, key: str) -> list[str]:
    """The shell lines of a recipe, in order, without what installs memtrace."""
    lines = re.findall(rf"^ *- {key}(.+)$", yaml, re.MULTILINE)
    return [x for x in lines if not x.startswith(("pip ", "pipx ", "uses:", "cd "))]


def test_the_recipe_for_make(project: Path) -> None:
    (project / "Makefile").write_text("words: words.c\n\n" + block("make", "make"))
    assert in_project(project, "make check").returncode == 0
    (project / "memtrace.toml").write_text((project / PASSED).read_text())
    assert in_project(project, "make check").returncode != 0


def test_the_recipe_for_github(project: Path) -> None:
    recipe = block("GitHub Actions", "yaml")
    assert "working-directory: tests/project\n" in recipe
    found = steps(recipe, "run: ")
    assert len(found) == 4
    summary = project / "summary.md"
    done = [in_project(project, x, GITHUB_STEP_SUMMARY=str(summary)) for x in found]
    assert [d.returncode for d in done] == [0] * 4, [d.stderr for d in done]
    assert summary.read_text().startswith("### memtrace: words passed")
    assert json.loads((project / "words.sarif").read_text())["version"] == "2.1.0"


def test_the_recipe_for_gitlab(project: Path) -> None:
    recipe = block("GitLab CI", "yaml")
    assert recipe.count("    - cd tests/project\n") == 2  # after_script is a shell of its own
    found = steps(recipe, "")
    assert len(found) == 4
    done = [in_project(project, x) for x in found]
    assert [d.returncode for d in done] == [0] * 4, [d.stderr for d in done]
    assert ET.parse(project / "junit.xml").getroot().get("failures") == "0"
    assert json.loads((project / "codequality.json").read_text()) == []


def test_the_budget_of_the_page_can_be_meant(project: Path) -> None:
    (project / "page.toml").write_text(block("The budget", "toml"))
    done = in_project(project, "memtrace check words.json --budget page.toml")
    assert done.returncode == 3  # nothing there is named cc1
    assert "no process named cc1*" in done.stdout
    assert cli("check", project / "words.json", "--budget", project / "none.toml").returncode == 2
