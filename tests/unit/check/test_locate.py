# SPDX-License-Identifier: GPL-2.0-or-later
"""The nearest budget is found, and one that limits nothing is no gate."""

from __future__ import annotations

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


@pytest.mark.parametrize("text", ["", "heap.peak = { tolerance = '5%' }\n"])
def test_a_budget_that_limits_nothing_is_refused_unless_a_baseline_does(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "memtrace.toml"
    path.write_text("\n[budget]\n" + text)
    with pytest.raises(UsageError, match=r"memtrace.toml:2: \[budget\] limits nothing"):
        read(path, "memtrace.toml")
    read(path, "memtrace.toml", alone=False)
