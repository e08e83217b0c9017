# SPDX-License-Identifier: GPL-2.0-or-later
"""The colours of the kinds, on a terminal and on the page."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from rich.color import Color
from rich.style import Style

from memtrace.report import chart, palette, words
from memtrace.report.html.page import render

TEMPLATES = files("memtrace.report.html").joinpath("templates")


def luminance(red: int, green: int, blue: int) -> float:
    """As WCAG 2 has it, 0 to 1."""
    parts = (red / 255, green / 255, blue / 255)
    linear = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_kind_has_a_colour_of_its_own() -> None:
    assert set(palette.KINDS) == set(words.KINDS)
    for where in ("terminal", "light", "dark"):
        found = [getattr(c, where) for c in palette.KINDS.values()]
        assert len(set(found)) == len(found), where


@pytest.mark.parametrize("kind", palette.KINDS)
def test_a_colour_of_the_terminal_stands_out_from_black_and_from_white(kind: str) -> None:
    color = Style.parse(palette.KINDS[kind].terminal).color
    assert color is not None
    assert color.number is not None
    assert color.number >= 16  # those below are the user's own: nobody knows what they look like
    bright = luminance(*Color.from_ansi(color.number).get_truecolor())
    assert 1.05 / (bright + 0.05) >= 3  # on white, what WCAG asks for of large signs
    assert (bright + 0.05) / 0.05 >= 3  # on black


def test_the_chart_draws_kinds() -> None:
    assert {kind for kind, _, _ in chart.LAYERS} <= set(palette.KINDS)


def test_the_page_has_its_colours_from_the_palette_alone() -> None:
    assert "--k-" not in TEMPLATES.joinpath("report.css").read_text()
    page = render({"opening": {"command": "x"}})
    light, dark = (
        dict(re.findall(r"--k-([a-z-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root[^{]*\{ (--k-[^}]*)\}", page)
    )
    assert set(light) == set(dark) == {*palette.KINDS, "other"}
    for kind, c in palette.KINDS.items():
        assert (light[kind], dark[kind]) == (c.light, c.dark)
