# SPDX-License-Identifier: GPL-2.0-or-later
"""Annotations name files from the repository's root, wherever the check was run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.check.test_formats import result

from memtrace.check.budget import parse_table
from memtrace.check.judge import Verdict, verdict
from memtrace.check.repository import placed
from memtrace.check.where import Where


def of(file: str) -> Verdict:
    (limit,) = parse_table({"heap.growths": 1}, Where(file))
    return verdict(limit, 2, ())


def named(file: str, environment: dict[str, str]) -> str:
    (v,) = placed(result(of(file)), environment).verdicts
    return v.limit.file


@pytest.fixture
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in a folder of a project."""
    folder = tmp_path / "project/sub"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("file", ["memtrace.toml", "../memtrace.toml", "{root}/sub/x/../b.toml"])
@pytest.mark.parametrize("by", ["GITHUB_WORKSPACE", "CI_PROJECT_DIR", "git", "link"])
def test_a_file_is_named_from_the_root(below: Path, file: str, by: str) -> None:
    root = below.parent
    environment = {}
    if by == "git":
        (root / ".git").touch()  # of a worktree it is a file
    elif by == "link":
        (root.parent / "link").symlink_to(root)
        environment["GITHUB_WORKSPACE"] = str(root.parent / "link")
    else:
        environment[by] = str(root)
    expected = {"m": "sub/memtrace.toml", ".": "memtrace.toml", "{": "sub/b.toml"}[file[0]]
    assert named(file.format(root=root), environment) == expected


def test_without_a_repository_it_is_named_from_here(below: Path) -> None:
    assert named("memtrace.toml", {}) == "memtrace.toml"
    assert named("../memtrace.toml", {}) == str(below.parent / "memtrace.toml")


def test_a_file_elsewhere_has_its_whole_path(below: Path) -> None:
    environment = {"GITHUB_WORKSPACE": str(below), "CI_PROJECT_DIR": "relative"}
    assert named("../memtrace.toml", environment) == str(below.parent / "memtrace.toml")


def test_a_link_is_named_where_it_stands(below: Path) -> None:
    (below / "budget.toml").symlink_to(below.parent.parent / "shared.toml")
    assert named("budget.toml", {"GITHUB_WORKSPACE": str(below.parent)}) == "sub/budget.toml"


def test_so_is_the_trace(below: Path) -> None:
    found = placed(result(), {"CI_PROJECT_DIR": str(below.parent)})
    assert found.trace == "sub/t.json"
