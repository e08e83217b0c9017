# SPDX-License-Identifier: GPL-2.0-or-later
"""What `run` and `attach` say when a recording came to nothing."""

from __future__ import annotations

import pytest

from memtrace.cli.record import incomplete


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
