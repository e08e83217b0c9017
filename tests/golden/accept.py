# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the golden files anew (`make golden-accept`): what they become is for a reader of the
commit to judge. Nothing else writes them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.golden.stored import GOLDEN, golden_files


def main() -> None:
    """Write what differs, remove what is no golden file any more, and say which."""
    GOLDEN.mkdir(exist_ok=True)
    kept = 0
    gone = {path.name for path in GOLDEN.iterdir()}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in golden_files(Path(folder)):
            gone.discard(name)
            path = GOLDEN / name
            if path.exists() and path.read_bytes() == data:
                kept += 1
                continue
            word = "changed" if path.exists() else "new"
            path.write_bytes(data)
            say(f"{word:8} {path.relative_to(GOLDEN.parents[2])}")
    for name in sorted(gone):
        (GOLDEN / name).unlink()
        say(f"{'removed':8} {(GOLDEN / name).relative_to(GOLDEN.parents[2])}")
    say(f"{kept} as they were")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
