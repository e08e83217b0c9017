# SPDX-License-Identifier: GPL-2.0-or-later
"""The reports on stored traces, to the letter. A change that is meant: `make golden-accept`."""

from __future__ import annotations

import json
from difflib import unified_diff
from pathlib import Path

import pytest
from tests.golden.stored import GOLDEN, LOGS, PAIRS, TRACES, diff_name, diff_of, names, report_of

from memtrace.cli.diff import FORMATS

#: Lines of a difference that are shown, and of how many values.
LINES, VALUES = 60, 20
ACCEPT = "make golden-accept, where that is meant; then read git diff tests/golden"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imported")


@pytest.mark.parametrize("name", [*TRACES, *LOGS])
def test_report(name: str, scratch: Path) -> None:
    compared(f"{name}.json", report_of(name, scratch))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("pair", PAIRS, ids="-to-".join)
def test_diff(pair: tuple[str, str], form: str, scratch: Path) -> None:
    compared(diff_name(pair, form), diff_of(pair, form, scratch))


def test_no_golden_file_is_left_over() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(names())


def compared(name: str, made: bytes) -> None:
    path = GOLDEN / name
    if not path.exists():
        pytest.fail(f"{name} is not stored: {ACCEPT}", pytrace=False)
    stored = path.read_bytes()
    if made != stored:
        pytest.fail(f"{name} is not what is stored\n{said(name, stored, made)}\n{ACCEPT}",
                    pytrace=False)  # fmt: skip


def said(name: str, stored: bytes, made: bytes) -> str:
    """What differs: values by their place in JSON, else lines."""
    told = name.endswith(".json")
    rows = values("", json.loads(stored), json.loads(made)) if told else []
    if rows:
        more = [f"  and {len(rows) - VALUES} more"] if len(rows) > VALUES else []
        return "\n".join(rows[:VALUES] + more)
    lines = list(
        unified_diff(
            stored.decode().splitlines(), made.decode().splitlines(), "stored", "now", lineterm=""
        )
    )
    return "\n".join(lines[:LINES])


def values(place: str, stored: object, made: object) -> list[str]:
    """A line for each value that differs.

    >>> values("", {"a": [1, 2]}, {"a": [1, 3], "b": None})
    ['  .a[1]: stored 2, now 3', '  .b: not stored, now null']
    """
    if isinstance(stored, dict) and isinstance(made, dict):
        out = []
        for key in [*stored, *(k for k in made if k not in stored)]:
            there = f"{place}.{key}"
            if key not in made:
                out.append(f"  {there}: stored {shown(stored[key])}, now gone")
            elif key not in stored:
                out.append(f"  {there}: not stored, now {shown(made[key])}")
            else:
                out += values(there, stored[key], made[key])
        return out
    if isinstance(stored, list) and isinstance(made, list):
        one, two = len(stored), len(made)
        out = [f"  {place}: stored {one} entries, now {two}"] if one != two else []
        for i, (a, b) in enumerate(zip(stored, made, strict=False)):
            out += values(f"{place}[{i}]", a, b)
        return out
    if stored == made:
        return []
    return [f"  {place}: stored {shown(stored)}, now {shown(made)}"]


def shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"
