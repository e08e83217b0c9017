# SPDX-License-Identifier: GPL-2.0-or-later
"""The hooks. Nothing else of memtrace is imported until a test asks for it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_memtrace import marks

if TYPE_CHECKING:
    from memtrace.check.budget import Limit
    from pytest_memtrace.programs import Memtrace

_LIMITS: pytest.StashKey[list[Limit]] = pytest.StashKey()
_MEMTRACE: pytest.StashKey[Memtrace] = pytest.StashKey()
#: A property of a test that has failed by its budget; it travels from xdist's workers as it is.
_PROPERTY = "memtrace"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and settings, all with the same prefix. Options are None unless given, so that
    settings apply.
    """
    group = parser.getgroup("memtrace", "budgets of memory calls for the programs that tests start")
    group.addoption("--memtrace", choices=("on", "off"), default=None,
                    help="off: run programs as they are, check nothing (default: on)")  # fmt: skip
    group.addoption("--memtrace-dir", default=None, metavar="DIR",
                    help="keep the traces in DIR")  # fmt: skip
    group.addoption("--memtrace-allow-incomplete", action="store_true", default=None,
                    help="judge what a trace tells although it is not to be trusted")  # fmt: skip
    parser.addini("memtrace", "on or off, as --memtrace", default="on")
    parser.addini("memtrace_dir", "as --memtrace-dir", default="")
    parser.addini("memtrace_allow_incomplete", "as --memtrace-allow-incomplete", type="bool",
                  default=False)  # fmt: skip


def _on(config: pytest.Config) -> bool:
    value = config.getoption("memtrace") or config.getini("memtrace")
    if value not in ("on", "off"):
        raise pytest.UsageError(f"memtrace is on or off, not {value!r}")
    return bool(value == "on")


def _folder(config: pytest.Config) -> str:
    given: str | None = config.getoption("memtrace_dir")
    return given or config.getini("memtrace_dir") or ""


def _lenient(config: pytest.Config) -> bool:
    given: bool | None = config.getoption("memtrace_allow_incomplete")
    return config.getini("memtrace_allow_incomplete") if given is None else given


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", marks.line())


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say that nothing is checked."""
    return [] if _on(config) else ["memtrace: off, no budget is checked"]


@contextmanager
def _memtrace(item: pytest.Item) -> Iterator[Memtrace]:
    """The test's own; the same for its marker and its fixture."""
    from pytest_memtrace.programs import Memtrace

    kept = _folder(item.config)
    name = re.sub(r"[^\w.-]+", "_", item.nodeid)[-120:]
    if kept:
        folder = Path(kept)
        if not folder.is_absolute():
            folder = item.config.invocation_params.dir / folder
        yield Memtrace(folder, name)
    else:
        with tempfile.TemporaryDirectory(prefix="pytest-memtrace-") as scratch:
            yield Memtrace(Path(scratch), name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Give the test its traces; they are gone after its report, unless they are to be kept."""
    marked = item.get_closest_marker("memtrace") is not None
    if not (marked or "memtrace" in getattr(item, "fixturenames", ())) or not _on(item.config):
        return (yield)
    with _memtrace(item) as found:
        item.stash[_MEMTRACE] = found
        return (yield)


@pytest.fixture
def memtrace(request: pytest.FixtureRequest) -> Memtrace:
    """Start programs and see what they do with memory: `memtrace.run([...])` is their Report."""
    found: Memtrace | None = request.node.stash.get(_MEMTRACE, None)
    if found is None:
        pytest.skip("memtrace is off")
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Trace what a marked test starts."""
    mark, found = item.get_closest_marker("memtrace"), item.stash.get(_MEMTRACE, None)
    if mark is None or found is None:
        return (yield)
    from memtrace.trace.errors import UsageError

    try:
        item.stash[_LIMITS] = marks.limits_of(item.nodeid, mark.args, mark.kwargs)
    except UsageError as e:
        pytest.fail(f"memtrace: {e.message}\n  try: {e.hint}", pytrace=False)
    with found.watching():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge a marked test that has passed."""
    report = yield
    limits = item.stash.get(_LIMITS, None)
    if call.when == "call" and report.passed and limits is not None:
        from pytest_memtrace.verdicts import outcome

        found = outcome(item.stash[_MEMTRACE].programs, limits, lenient=_lenient(item.config))
        if found.line:
            report.outcome = "failed"
            report.longrepr = found.line
            report.user_properties.append((_PROPERTY, found.line))
        if found.rows:
            report.sections.append(("memtrace", found.section))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """A letter and a word of its own for what has failed by its budget."""
    properties = getattr(report, "user_properties", ())
    if report.failed and any(name == _PROPERTY for name, _ in properties) and report.when == "call":
        return "failed", "M", ("OVER BUDGET", {"red": True})
    return None
