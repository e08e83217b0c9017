# SPDX-License-Identifier: GPL-2.0-or-later
"""The console blocks of README.md and of pages of docs/: run again, and compared or (`make readme`)
written anew.

A block is `$ command` lines with the output of each below it, standard error included. What differs
from machine to machine (numbers, units, addresses, spacing) is masked before comparing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
#: Each is executed in a folder of its own, block by block.
PAGES = (README, ROOT / "docs/tutorial.md", ROOT / "docs/faq.md")

_BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(
    r"0x[0-9a-f]+|-?\b[0-9a-f]{8,16}\b|-?\d[\d.,]*(?: ?(?:[KMGT]iB|B|ns|us|ms|s)\b)?", re.ASCII
)


def blocks(text: str) -> list[str]:
    """The console blocks of the page."""
    return _BLOCK.findall(text)


def commands(block: str) -> list[str]:
    """The commands of a block, in order."""
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


def execute(lines: list[str], folder: Path) -> str:
    """Run commands as the page shows them; returns the block they make."""
    shim = folder / "bin"
    shim.mkdir(exist_ok=True)
    (shim / "memtrace").write_text(f'#!/bin/sh\nexec {sys.executable} -m memtrace "$@"\n')
    (shim / "memtrace").chmod(0o755)
    for name in ("build", "samples"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    roots = os.pathsep.join(str(ROOT / r) for r in ("tracer", "analysis"))
    env = {**os.environ, "PATH": f"{shim}:{os.environ['PATH']}", "PYTHONPATH": roots}
    shown = []
    for line in lines:
        done = subprocess.run(
            ["sh", "-c", line], cwd=folder, env=env, check=False, timeout=100, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        shown.append(f"$ {line}\n{done.stdout}")
    return "\n".join(shown)


#: What is drawn on a chart's line, and on which side of the peak its mark is, is a matter of time.
_DRAWN = re.compile(r"(?<=│).*|▼")


def masked(text: str) -> list[str]:
    """The words of each line, whatever the numbers and the spacing."""
    plain = (_DRAWN.sub("", line) for line in text.splitlines())
    lines = (" ".join(_NUMBER.sub("N", line).split()) for line in plain)
    return [line for line in lines if line]


def main() -> None:
    """Write every block anew."""
    for page in PAGES:
        with tempfile.TemporaryDirectory() as folder:
            made = partial(_anew, folder=Path(folder))
            page.write_text(_BLOCK.sub(made, page.read_text()))


def _anew(block: re.Match[str], folder: Path) -> str:
    return execute(commands(block[1]), folder)


if __name__ == "__main__":
    main()
