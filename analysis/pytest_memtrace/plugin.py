# SPDX-License-Identifier: GPL-2.0-or-later
"""The hooks. Nothing else of memtrace is imported until a test asks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_memtrace import marks

if TYPE_CHECKING:
    from pytest_memtrace.programs import Memtrace
    from pytest_memtrace.verdicts import Outcome

_MEMTRACE: pytest.StashKey[Memtrace] = pytest.StashKey()
_OUTCOME: pytest.StashKey[Outcome] = pytest.StashKey()
#: A property of a marked test: why it has failed by its budget, in two words, or that memtrace is
#: off. It travels from xdist's workers as it is.
_PROPERTY, _OFF = "memtrace", "off"


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


def _folder(config: pytest.Config) -> Path | None:
    """An option counts from where pytest was started, a setting from the project's root."""
    given: str | None = config.getoption("memtrace_dir")
    if given:
        return config.invocation_params.dir / given
    set_to: str = config.getini("memtrace_dir")
    return config.rootpath / set_to if set_to else None


def _lenient(config: pytest.Config) -> bool:
    given: bool | None = config.getoption("memtrace_allow_incomplete")
    return config.getini("memtrace_allow_incomplete") if given is None else given


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known; a setting that cannot be meant ends the session."""
    config.addinivalue_line("markers", marks.line())
    _on(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say that nothing is checked."""
    return [] if _on(config) else ["memtrace: off, no budget is checked"]


@contextmanager
def _memtrace(item: pytest.Item) -> Iterator[Memtrace]:
    """The test's own; the same for its marker and its fixture."""
    from pytest_memtrace.programs import Memtrace

    kept = _folder(item.config)
    if kept is not None:
        yield Memtrace(kept, item.nodeid, kept=True)
        return
    # A program that is still running may be writing.
    with tempfile.TemporaryDirectory(prefix="pytest-memtrace-", ignore_cleanup_errors=True) as made:
        yield Memtrace(Path(made), item.nodeid, kept=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Give the test its traces; they are gone after its report, unless they are to be kept."""
    marked = item.get_closest_marker("memtrace") is not None
    if not marked and "memtrace" not in getattr(item, "fixturenames", ()):
        return (yield)
    if not _on(item.config):
        if marked:
            item.user_properties.append((_PROPERTY, _OFF))
        return (yield)
    with _memtrace(item) as found:
        item.stash[_MEMTRACE] = found
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What an earlier attempt has started is not this one's."""
    found = item.stash.get(_MEMTRACE, None)
    if found is not None:
        found.begin()
        item.user_properties[:] = [p for p in item.user_properties if p[0] != _PROPERTY]
        if _OUTCOME in item.stash:
            del item.stash[_OUTCOME]


@pytest.fixture
def memtrace(request: pytest.FixtureRequest) -> Memtrace:
    """Start programs and see what they do with memory: `memtrace.run([...])` is their Report."""
    found: Memtrace | None = request.node.stash.get(_MEMTRACE, None)
    if found is None:
        pytest.skip("memtrace is off")
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Trace what a marked test starts, and judge it if the test passes."""
    found, given = item.stash.get(_MEMTRACE, None), list(item.iter_markers("memtrace"))
    if not given or found is None:
        return (yield)
    from memtrace.trace.errors import UsageError
    from pytest_memtrace.starting import watching
    from pytest_memtrace.verdicts import UNMEASURED, Outcome, outcome

    try:
        limits = marks.limits_of(item.nodeid, given)
    except UsageError as e:
        pytest.fail(f"memtrace: {e.message}\n  try: {e.hint}", pytrace=False)
    try:
        with watching(found):
            result = yield
    except (Exception, pytest.fail.Exception):
        # The program has not run at all: whatever the test says of it follows from that.
        refused = found.refused()
        if not refused:
            raise
        judged = Outcome(UNMEASURED, f"memtrace: {refused}")
    else:
        lenient = _lenient(item.config)
        judged = outcome(found.programs, limits, lenient=lenient, kept=found.kept)
    item.stash[_OUTCOME] = judged
    if judged.word:
        item.user_properties.append((_PROPERTY, judged.word))
        pytest.fail(judged.line, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the section, and keep the failure to its line."""
    report = yield
    judged = item.stash.get(_OUTCOME, None)
    if call.when == "call" and judged is not None:
        if report.failed and judged.word:
            report.longrepr = judged.line
        if judged.rows:
            report.sections.append(("memtrace", judged.section))
    return report


def _told(report: object) -> str:
    """What the test's property says; "" if it has none."""
    properties: list[tuple[str, object]] = getattr(report, "user_properties", [])
    return next((str(value) for name, value in properties if name == _PROPERTY), "")


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """A letter and a word of its own for what has failed by its budget."""
    if report.failed and report.when == "call" and (told := _told(report)) not in {"", _OFF}:
        return "failed", "M", (told.upper(), {"red": True})
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once more how much is not checked: -q leaves the header out."""
    reports = (report for listed in terminalreporter.stats.values() for report in listed)
    off = sum(getattr(r, "when", "") == "call" and _told(r) == _OFF for r in reports)
    if off:
        tests = "1 test was" if off == 1 else f"{off} tests were"
        terminalreporter.line(f"memtrace: off, {tests} not held to a budget")
