# SPDX-License-Identifier: GPL-2.0-or-later
"""The nearest budget is found, and one that limits nothing is no gate."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memtrace.check.locate import find, read
from memtrace.trace.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_nearest_file_with_a_budget_is_taken(tmp_path: Path) -> None:
    below = tmp_path / "a/b"
    below.mkdir(parents=True)
    (tmp_path / "memtrace.toml").write_text("[budget]\nheap.growths = 1\n")
    (below.parent / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert find(below) == tmp_path / "memtrace.toml"
    (below.parent / "pyproject.toml").write_text("\n[tool.memtrace.budget]\nheap.growths = 2\n")
    assert find(below) == below.parent / "pyproject.toml"
    (limit,) = read(below.parent / "pyproject.toml", "pyproject.toml")
    assert (limit.max, limit.line) == (2, 3)
    (below.parent / "memtrace.toml").write_text("[budget]\nheap.growths = 3\n")
    assert find(below) == below.parent / "memtrace.toml"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
@pytest.mark.parametrize("name", ["memtrace.toml", "pyproject.toml"])
def test_a_file_that_cannot_be_used_is_not_passed_over(
    tmp_path: Path, name: str, kind: str
) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (tmp_path / "memtrace.toml").write_text("[budget]\nheap.growths = 1\n")
    if kind == "link":
        (below / name).symlink_to("nowhere")
    elif kind == "folder":
        (below / name).mkdir()
    else:
        os.mkfifo(below / name)
    with pytest.raises(UsageError, match=rf"cannot read the budget .*/below/{name}: it is"):
        find(below)


@pytest.mark.parametrize(
    ("name", "text", "said", "hint"),
    [
        ("memtrace.toml", "[tree]\n", "2: memtrace knows no tree, only [budget]", "[budget.tree]"),
        ("memtrace.toml", "[Budget]\n", "2: memtrace knows no Budget,", "[budget], if that"),
        ("memtrace.toml", '[process."x"]\n', "2: memtrace knows no process", "[budget.process."),
        ("memtrace.toml", "[budgets]\n", "2: memtrace knows no budgets,", "[budget], if that"),
        ("memtrace.toml", "[other]\n[budget]\nheap.growths = 1\n", "2: memtrace knows no other",
         ""),
        ("memtrace.toml", "heap.peak = 1\n[budget]\nheap.growths = 1\n", "2: memtrace knows no",
         ""),
        ("tight.toml", "[budget]\nheap.growths = 1\n[tree]\n", "4: memtrace knows no tree", ""),
        ("pyproject.toml", "[tool.memtrace.Budget]\n", "2: memtrace knows no tool.memtrace.Budget",
         "[tool.memtrace.budget], if"),
        ("pyproject.toml", "[tool.memtrace.tree]\n", "2: memtrace knows no tool.memtrace.tree",
         "[tool.memtrace.budget.tree]"),
        ("pyproject.toml", "[tool.memtrace.budget]\nheap.growths = 1\n[tool.memtrace.x]\n",
         "4: memtrace knows no tool.memtrace.x", "[tool.memtrace.budget]"),
        ("pyproject.toml", "[tool.memtrace]\n", " has no table [tool.memtrace.budget]", "printf"),
        ("memtrace.toml", "[budget]\nheap.growths = 1\n[budget.tree]\n",
         "4: tree limits nothing", ""),
    ],
)  # fmt: skip
def test_a_table_in_the_wrong_place_is_told(
    tmp_path: Path, name: str, text: str, said: str, hint: str
) -> None:
    path = tmp_path / name
    path.write_text("\n" + text)
    if name != "tight.toml":
        assert find(tmp_path) == path
    for alone in (True, False):
        with pytest.raises(UsageError) as caught:
            read(path, name, alone=alone)
        at = name if said[0] == " " else f"{name}:"
        assert caught.value.message.startswith(at + said)
        assert hint in caught.value.hint


def test_other_tools_have_their_tables(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[budget]\n[tool.x]\n[tool.memtrace.budget]\nheap.growths = 1\n")
    assert find(tmp_path) == path
    assert len(read(path, "pyproject.toml")) == 1


@pytest.mark.parametrize("text", ["", "heap.peak = { tolerance = '5%' }\n"])
def test_a_budget_that_limits_nothing_is_refused_unless_a_baseline_does(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "memtrace.toml"
    path.write_text("\n[budget]\n" + text)
    with pytest.raises(UsageError, match=r"memtrace.toml:2: \[budget\] limits nothing"):
        read(path, "memtrace.toml")
    read(path, "memtrace.toml", alone=False)
