# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody's project, and a program for its tests to start."""

from __future__ import annotations

import os

import pytest
from tests.live.tracing import ROOT

#: Maps 20 chunks of 40 MiB, one after the other; its heap is some 500 KiB.
WORDS = ROOT / "tests/project/words.c"


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("words") / "words"
    os.spawnvp(os.P_WAIT, "cc", ["cc", "-O1", "-fno-builtin", "-o", str(path), str(WORDS)])
    return str(path)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Somebody's project, with folders named as memtrace's are."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    roots = os.pathsep.join([str(ROOT / "tracer"), str(ROOT / "analysis")])
    monkeypatch.setenv("PYTHONPATH", roots)
    for name in ("analysis", "tracer"):
        pytester.mkpydir(name)
    pytester.mkdir("memtrace")
    return pytester
