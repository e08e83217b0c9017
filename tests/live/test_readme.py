# SPDX-License-Identifier: GPL-2.0-or-later
"""README.md, tutorial and questions are true: their commands run, and print what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.live.readme import PAGES, README, blocks, commands, execute, masked


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_prints_what_the_page_shows(
    page: Path, samples: Path, tmp_path: Path
) -> None:
    shown = blocks(page.read_text())
    assert sum(len(commands(b)) for b in shown) >= 4
    for block in shown:
        assert masked(execute(commands(block), tmp_path)) == masked(block)


def test_every_verb_of_the_page_exists() -> None:
    from memtrace.cli.main import VERBS

    text = README.read_text()
    table = text[text.index("## Commands") : text.index("## Exit codes")]
    assert all(f"| `memtrace {verb} " in table for verb in VERBS)
