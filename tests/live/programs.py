# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of daily use for the tests that hold traces against the kernel: what they are told to
do is enough to make them map, fork and give back.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"
#: The system's Python: the one that runs the tests may be any.
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Marks:
    """How often it reads its own map (`selfmaps.preloaded`), and how many must have counted."""

    every: int
    calls: int
    least: int


@dataclass(frozen=True)
class Program:
    """A program that says "half" on stdout in the middle and reads a line before it goes on.

    Attributes:
        argv: it runs in an empty folder.
        least: kernel maps that a trace of the whole has at least, with one after each call.
        half: the same of a trace that begins in the middle.
        needs: programs that must be installed.
        large: its maps are long: one after each call takes a while.
    """

    argv: tuple[str, ...]
    least: int
    half: int
    marks: Marks
    needs: tuple[str, ...]
    large: bool = False

    def present(self) -> None:
        """Skip where it is not installed (which is a failure where live tests are required)."""
        missing = [name for name in self.needs if shutil.which(name) is None]
        if missing:
            pytest.skip(f"{', '.join(missing)} is not installed")


def _its(file: str) -> str:
    return str(CORPUS / file)


PROGRAMS = {
    "bash": Program(
        ("bash", _its("bash.sh")), 1500, 700, Marks(500, 1, 200), ("bash",)
    ),
    "python": Program(
        (PYTHON, _its("python.py")), 1500, 700, Marks(200, 5, 100), (PYTHON,)
    ),
    "sqlite3": Program(
        (
            "sqlite3", "-batch", "t.db", f".read {_its('sqlite3.sql')}",
            ".system echo half", ".system head -n 1", f".read {_its('sqlite3.sql')}",
        ),
        150, 30, Marks(2000, 1, 50), ("sqlite3",),
    ),
    "perl": Program(("perl", _its("perl.pl")), 150, 20, Marks(2000, 1, 100), ("perl",)),
    "gcc": Program(
        ("bash", _its("compile.sh")), 500, 250, Marks(5000, 5, 100), ("gcc", "g++")
    ),
    "node": Program(("node", _its("node.js")), 1500, 20, Marks(5000, 20, 50), ("node",), True),
    "java": Program(
        (
            "bash", "-c",
            f"javac -d . {_its('Corpus.java')} && exec java -Xms8m -Xmx160m -XX:+UseG1GC Corpus",
        ),
        1200, 20, Marks(1000, 10, 50), ("javac",), True,
    ),
}  # fmt: skip
