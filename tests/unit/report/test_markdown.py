# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt
from tests.unit.conftest import Scene

from memtrace.report.markdown import code, render, table, text

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "a|b`c`<script>alert(1)</script>\n# x [y](http://z) @team *b* \x1b[31m\u202e"


def test_what_the_trace_names_is_no_markup(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "t.json").glibc(argv=[EVIL, EVIL], exe=EVIL)
    scene.query()
    scene.brk(132 << 10)
    scene.fork(2)
    shown = render(scene.exit().report())
    assert "`[y](http://z)`" in shown  # what would link is in a code span
    assert not re.search(r"(?<!\\)[<`\[]", shown.replace("`[y](http://z)`", ""))
    assert "@team" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    headings = [line for line in shown.splitlines() if line.startswith("#")]
    assert len(headings) == 3
    assert re.search(r"^\| heap \| 1 \| 132 KiB \| 132 KiB \|$", shown, re.MULTILINE)
    assert re.search(r"^\| brk \| 2 \| 0 \|$", shown, re.MULTILINE)


def test_every_row_of_a_table_has_its_cells(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "t.json").glibc()
    scene.query()
    scene.brk(132 << 10)
    rows = [x for x in render(scene.exit().report()).splitlines() if x.startswith("| ")]
    cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert cells == {4, 5}


def test_nothing_is_said_of_nothing(tmp_path: Path) -> None:
    shown = render(Scene(tmp_path / "t.json").report())
    assert "This trace holds no process." in shown
    assert "Trust: " in shown


LIVE = [
    "https://evil.com", "www.evil.com", "http://a|b", "$a$", ":tada:", "#12", "GH-1", "a/b#7", "!9",
    "0123456789abcdef0123456789abcdef01234567", "mailto:a@b.c", "`$a`$", "a``$b`",
]  # fmt: skip


@pytest.mark.parametrize("name", LIVE)
def test_what_github_makes_more_of_is_in_a_code_span(name: str) -> None:
    (inline,) = MarkdownIt().parseInline(f"{text(f'see {name} there')}")
    children = inline.children or []
    assert {c.type for c in children} <= {"text", "code_inline"}
    assert "".join(c.content for c in children).replace("\u200b", "") == f"see {name} there"
    plain = "".join(c.content for c in children if c.type == "text")
    assert not re.search(r"://|www\.|\$|:\w+:|#\d|GH-|!\d|[0-9a-f]{7}", plain)
    # of a formula's own signs, beside or around a code span
    assert not re.search(r"\$`|`\$", text(name))


@pytest.mark.parametrize("name", [*LIVE, "a|b", "x `y` z"])
def test_a_name_in_a_table_stays_in_its_cell(name: str) -> None:
    rows = "\n".join(table(("name", "n"), [(text(name), "1")]))
    tokens = MarkdownIt().enable("table").parse(rows)
    cells = [t for t in tokens if t.type == "inline"]
    assert len(cells) == 4
    shown = "".join(c.content for c in cells[2].children or [])
    assert shown.replace("\u200b", "") == name


@pytest.mark.parametrize("name", ["a", "`", "``", "`a`", " ", "a``b`c", "$x$"])
def test_a_code_span_shows_what_it_was_given(name: str) -> None:
    (inline,) = MarkdownIt().parseInline(f"x{code(name)}y")
    (_, span, _) = inline.children or []
    assert (span.type, span.content) == ("code_inline", name)
