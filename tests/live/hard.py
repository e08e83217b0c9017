# SPDX-License-Identifier: GPL-2.0-or-later
"""`build`: hard_cases.c as a program. `checked`: what must hold of the trace of any case."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.live.tracing import ROOT, Event, Traced

_FLAGS = ["-std=c11", "-O0", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result", "-pthread"]


def build(folder: Path, *flags: str) -> Path:
    """Compile it into a folder."""
    program = folder / "hard_cases"
    source = Path(__file__).with_name("hard_cases.c")
    subprocess.run(
        ["gcc", *_FLAGS, *flags, f"-I{ROOT / 'samples'}", source, "-o", program], check=True
    )
    return program


def checked(done: Traced, marks: int, code: int = 0) -> Traced:
    """It ended as it should, its trace is exact, and has that many marks."""
    assert done.returncode == code, done.stderr
    assert not done.told("failed"), done.told("failed")
    done.assert_exact()
    assert done.assert_marks(grown=True) == marks
    return done


def told(done: Traced, what: str) -> list[Event]:
    """What it told, without the keys that every line has."""
    return [
        {k: v for k, v in line.items() if k not in {"pid", "tid", "what"}}
        for line in done.told(what)
    ]
