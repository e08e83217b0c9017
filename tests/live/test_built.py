# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs of the tests are built anew when what they are made of has changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.live import attaching
from tests.live.attaching import built, outdated


def test_what_is_older_than_any_of_its_sources_is_outdated(tmp_path: Path) -> None:
    made, source, header = (tmp_path / name for name in ("made", "source.c", "header.h"))
    for at, file in enumerate((source, header), 1):
        file.touch()
        os.utime(file, (at, at))
    assert outdated(made, source, header)
    made.touch()
    for at, expected in ((3, False), (2, False), (1, True), (0, True)):
        os.utime(made, (at, at))
        assert outdated(made, source, header) is expected


def test_a_program_is_built_again_after_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = tmp_path / "headers"
    headers.mkdir()
    for header in attaching.HEADERS.glob("*.h"):
        shutil.copy2(header, headers)
    monkeypatch.setattr(attaching, "BUILT", tmp_path / "built")
    monkeypatch.setattr(attaching, "HEADERS", headers)
    first = built("fuzz").stat().st_mtime_ns
    assert built("fuzz").stat().st_mtime_ns == first
    os.utime(headers / "account.h", ns=(first + 1, first + 1))
    assert built("fuzz").stat().st_mtime_ns > first
