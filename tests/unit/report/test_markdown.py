# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.unit.conftest import Scene

from memtrace.report.markdown import render

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "a|b`c`<script>alert(1)</script>\n# x [y](http://z) @team *b* \x1b[31m\u202e"


def test_what_the_trace_names_is_no_markup(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "t.json").glibc(argv=[EVIL, EVIL], exe=EVIL)
    scene.query()
    scene.brk(132 << 10)
    scene.fork(2)
    shown = render(scene.exit().report())
    assert not re.search(r"(?<!\\)[<`\[]", shown)
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
