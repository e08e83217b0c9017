# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines and tables on a terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.report.lines import clean, columns, fit
from memtrace.report.terminal.blocks import Block, extent, grid, heading, marked, written

CELLS = st.text(st.sampled_from("ab 1[/]漢é…\x1b\n:#"), max_size=12).map(str.strip)


def unstyled(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_columns_are_aligned_and_what_is_at_the_end_is_cut() -> None:
    rows = [("name", "size", "what"), ("a", "1,000", "short"), ("long", "2", "longer than that")]
    assert written([grid(rows, "<><", 24)]).splitlines() == [
        "  name   size  what",
        "  a     1,000  short",
        "  long      2  longer t…",
    ]
    assert written([grid(rows, "<><")]).splitlines()[2] == "  long      2  longer than that"
    assert extent(grid(rows, "<><")) == 31
    assert extent(grid([], "<><")) == 0
    assert written([grid([], "<><"), "end"]) == "\nend\n"


def test_wide_characters_take_two_columns() -> None:
    assert written([grid([("漢字", "1"), ("abc", "22")], "<>")]) == "  漢字   1\n  abc   22\n"


@pytest.mark.parametrize(
    "name",
    ["[red]x[/red]", "[/]", "[bold", ":smile:", "\x1b[31mred\x1b[0m", "a\tb\rc", "http://x/?a=1"],
)
@pytest.mark.parametrize("color", [False, True])
def test_nothing_in_a_name_is_markup(name: str, *, color: bool) -> None:
    shown = clean(name)
    blocks: list[Block] = [shown, heading(shown, name, 80), grid([(name, (name, "red"))], "<<")]
    text = unstyled(written([*blocks, *marked([shown], "bold", 0, 2)], color=color))
    assert text.splitlines() == [shown, f"{shown}   {shown}", f"  {shown}  {shown}", shown]


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), st.integers(1, 40))
def test_a_table_is_what_its_cut_lines_are(rows: list[tuple[str, str, str]], width: int) -> None:
    made = [[clean(cell) for cell in row] for row in rows]
    size = [max((columns(row[i]) for row in made), default=0) for i in range(3)]
    expected = []
    for row in made:
        left, middle, right = (" " * (n - columns(c)) for n, c in zip(size, row, strict=True))
        line = f"  {row[0]}{left}  {middle}{row[1]}  {row[2]}{right}"
        expected.append(fit(line.rstrip(), width).rstrip())
    styled = [[(cell, "red") for cell in row] for row in rows]
    assert written([grid(styled, "<><", width)]).splitlines() == (expected or [""])
    coloured = unstyled(written([grid(styled, "<><", width)], color=True))
    assert [line.rstrip() for line in coloured.splitlines()] == (expected or [""])


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[Block] = [heading("heap", "what it is", 80), grid([(("a", "red"), "b")], "<<")]
    plain, coloured = written(blocks), written(blocks, color=True)
    assert "\x1b" not in plain
    assert "\x1b[31m" in coloured
    for name, value in (
        ("NO_COLOR", "1"), ("FORCE_COLOR", "1"), ("TERM", "dumb"), ("COLUMNS", "3"),
        ("COLORTERM", "truecolor"), ("TTY_COMPATIBLE", "1"), ("JUPYTER_COLUMNS", "9"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
        assert (written(blocks), written(blocks, color=True)) == (plain, coloured), name
