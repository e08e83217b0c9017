# SPDX-License-Identifier: GPL-2.0-or-later
"""Result files: whole or not at all, and through nobody's link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memtrace.cli.output import write_file


def test_a_result_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    for data in (b"first", b"second"):
        write_file(str(path), [data])
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["r.html"]


def test_a_link_that_waits_for_the_new_file_is_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "r.html", tmp_path / "victim"
    path.write_text("first")
    victim.write_text("precious")
    (tmp_path / f".r.html.{os.getpid()}.new").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_file(str(path), [b"second"])
    assert (path.read_text(), victim.read_text()) == ("first", "precious")
