# SPDX-License-Identifier: GPL-2.0-or-later
"""The page malloc-and-the-kernel is true: its commands run, and print what it shows of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.live.tracing import MEMTRACE, PATIENCE, ROOT, environment

from memtrace.findings import pages

_BLOCK = re.compile(r"```sh\n(?P<commands>.*?)```\n\n```text\n(?P<shown>.*?)```", re.DOTALL)
#: Of the page, heading by heading: the commands, and what they must show.
SHOWN = [
    (section.partition("\n")[0].strip('"'), m["commands"].splitlines(), m["shown"].splitlines())
    for section in pages.article().split("\n## ")[1:]
    for m in _BLOCK.finditer(section)
]


def flat(text: str) -> str:
    return " ".join(text.split())


def pattern(line: str) -> str:
    return ".*?".join(re.escape(flat(part)) for part in line.split("…"))


@pytest.mark.parametrize(
    ("heading", "commands", "shown"), SHOWN, ids=[f"{i} {s[0]}" for i, s in enumerate(SHOWN)]
)
def test_the_commands_print_what_the_page_shows(
    heading: str, commands: list[str], shown: list[str], samples: Path, tmp_path: Path
) -> None:
    assert samples.is_dir()
    (tmp_path / "build").symlink_to(ROOT / "build")
    printed = ""
    for command in commands:
        line = command.replace("memtrace ", " ".join(MEMTRACE) + " ", 1)
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    for line in shown:
        assert re.search(pattern(line), flat(printed)), f"{heading}: {line}\n{printed}"


def test_every_command_of_the_page_is_run() -> None:
    ran = [c for _, commands, _ in SHOWN for c in commands]
    written = re.findall(r"```sh\n(.*?)```", pages.article(), re.DOTALL)
    assert ran == [line for block in written for line in block.splitlines()]
    headings = re.findall(r"^## ", pages.article(), re.MULTILINE)
    assert len({heading for heading, _, _ in SHOWN}) >= len(headings) - 1  # but the last


def test_the_page_in_docs_is_the_one_that_explain_prints() -> None:
    assert (ROOT / "docs" / f"{pages.ARTICLE}.md").read_text() == pages.article()
