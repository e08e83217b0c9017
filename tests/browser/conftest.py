# SPDX-License-Identifier: GPL-2.0-or-later
"""The browser that the page's tests share, and pages made with the command itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser.browser import chromium, lacking
from tests.live.conftest import BUILT, samples  # noqa: F401 - a fixture

Show = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They trace what they show: none may go missing where live tests are required."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for all tests."""
    if reason := lacking():
        pytest.skip(reason)
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def memtrace(*words: str | Path, **kw: Any) -> subprocess.CompletedProcess[str]:
    """The command, as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", "memtrace", *map(str, words)],
        check=True, capture_output=True, text=True, errors="replace", **kw,
    )  # fmt: skip


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Show]:
    """Show the report on a trace; whatever the console says fails the test."""

    def go(trace: Path) -> Any:
        page = tmp_path / "report.html"
        memtrace("report", trace, "--format", "html", "-o", page)
        browser.get(page.as_uri())
        return browser

    yield go
    assert browser.get_log("browser") == []


@pytest.fixture(scope="session")
def moves(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:  # noqa: F811
    """The trace of a sample that has a finding."""
    path = tmp_path_factory.mktemp("moves") / "t.json"
    memtrace("run", "-q", "-o", path, "--", samples / "threshold-moves")
    return path
