# SPDX-License-Identifier: GPL-2.0-or-later
"""README.md is true: its commands run, and print what it shows."""

from __future__ import annotations

from pathlib import Path

from tests.live.readme import README, blocks, commands, execute, masked


def test_every_command_prints_what_the_page_shows(samples: Path, tmp_path: Path) -> None:
    shown = blocks(README.read_text())
    assert sum(len(commands(b)) for b in shown) >= 4
    for block in shown:
        assert masked(execute(commands(block), tmp_path)) == masked(block)


def test_every_verb_of_the_page_exists() -> None:
    from memtrace.cli.main import VERBS

    text = README.read_text()
    table = text[text.index("## Commands") : text.index("## Exit codes")]
    assert all(f"| `memtrace {verb} " in table for verb in VERBS)
