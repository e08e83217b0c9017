# SPDX-License-Identifier: GPL-2.0-or-later
"""What `run` and `attach` say when a recording came to nothing."""

from __future__ import annotations

import click
import pytest

from memtrace.cli.record import incomplete, printable, recorded
from memtrace.collect.writing import Result


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("cannot write /a b/t.json: no space left on device", "df -h '/a b'"),
        ("the writer process died", "dmesg | tail"),
        ("the writer failed: KeyError: 7", "dmesg | tail"),
    ],
)
def test_a_lost_writer_is_no_full_disk(error: str, remedy: str) -> None:
    said = incomplete("/a b/t.json", error)
    assert (said.message, said.hint) == (f"the trace is incomplete: {error}", remedy)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("./prog", "./prog"),
        ("p" * 40, "p" * 40),
        ("/opt/" + "deep/" * 20 + "serve", "...p/deep/deep/deep/deep/deep/deep/serve"),
        ("postgres: postgres postgres [local] SELECT", "postgres: postgres postgres [local] S..."),
        ("\x1b[31mred\x1b[0m", "red"),
        ("caf\u00e9", "caf\\xe9"),
    ],
)
def test_a_name_in_one_line(name: str, shown: str) -> None:
    assert printable(name) == shown


def result(snapshots: int, exact: int) -> Result:
    counts = {"snapshots": snapshots, "exact": exact, "lost": 0, "calls": 3}
    return Result(None, "exit", counts, 2048, 912 * 1024, 1000, 500, 0, [])


@pytest.mark.parametrize(
    ("snapshots", "exact", "word"),
    [(7, 7, "\x1b[32mexact"), (0, 0, "\x1b[33munverified"), (7, 6, "\x1b[31mNOT exact")],
)
def test_what_was_recorded_is_coloured_where_that_is_wanted(
    snapshots: int, exact: int, word: str
) -> None:
    plain = "\n".join(recorded(result(snapshots, exact), "t.json"))
    coloured = "\n".join(recorded(result(snapshots, exact), "t.json", color=True))
    assert "\x1b" not in plain
    assert click.unstyle(coloured) == plain
    assert word in coloured
    assert "heap peak \x1b[1m912 KiB\x1b[0m, mapped peak \x1b[1m" in coloured
