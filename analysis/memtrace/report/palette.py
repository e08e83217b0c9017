# SPDX-License-Identifier: GPL-2.0-or-later
"""One colour for each kind of region, wherever it is shown: on a terminal and on the page.

A terminal's background is not known: its colours, of the 256 that are the same everywhere, stand
out from black and from white alike.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Colour:
    """The colour of a kind.

    Attributes:
        terminal: as a style of rich.
        light: on the light page, in CSS.
        dark: on the dark page.
    """

    terminal: str
    light: str
    dark: str


KINDS = {
    "heap": Colour("color(32)", "#2f74c0", "#5b9be6"),
    "malloc-chunk": Colour("color(130)", "#e08a2e", "#f0a552"),
    "main-arena": Colour("color(30)", "#2c8a93", "#4fb4be"),
    "arena": Colour("color(29)", "#3c9a78", "#5cc29c"),
    "stack": Colour("color(97)", "#9b59b6", "#b983d4"),
    "thread-stack": Colour("color(139)", "#b98ad0", "#9d78b5"),
    "guard": Colour("color(138)", "#d5b3b3", "#7d5c5c"),
    "tls": Colour("color(132)", "#c46a92", "#d183a8"),
    "library": Colour("color(67)", "#8796a8", "#6b7a8d"),
    "file": Colour("color(101)", "#a9b388", "#8d9870"),
    "shared-file": Colour("color(65)", "#8ea05f", "#7a8b50"),
    "shared-anon": Colour("color(66)", "#74a9a2", "#5f948d"),
    "anon": Colour("color(136)", "#d9b64a", "#c7a640"),
    "loader": Colour("color(103)", "#a3a0c9", "#8784b3"),
    "vdso": Colour("color(242)", "#77808c", "#8b95a3"),
    "jit": Colour("color(167)", "#d0654f", "#e07f6a"),
    "runtime-heap": Colour("color(104)", "#6f86d6", "#8a9ff0"),
    "unknown": Colour("color(245)", "#c9c4ba", "#6e6a62"),
}

#: What the page sums up as one: all that is not malloc's.
_OTHER = Colour("", "#b8c1cc", "#4a5564")


def terminal(kind: str) -> str:
    """The style of a kind; of one that there is not, none.

    >>> terminal("heap"), terminal("address")
    ('color(32)', '')
    """
    return KINDS[kind].terminal if kind in KINDS else ""


def css() -> str:
    """The page's variables, `--k-` before each kind: of the light page, then of the dark one."""
    every = {**KINDS, "other": _OTHER}
    light = " ".join(f"--k-{kind}: {c.light};" for kind, c in every.items())
    dark = " ".join(f"--k-{kind}: {c.dark};" for kind, c in every.items())
    return f':root {{ {light} }}\n:root[data-theme="dark"] {{ {dark} }}\n'
