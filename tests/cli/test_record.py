# SPDX-License-Identifier: GPL-2.0-or-later
"""What `run` and `attach` say when a recording came to nothing."""

from __future__ import annotations

import pytest

from memtrace.cli.record import incomplete, printable


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
