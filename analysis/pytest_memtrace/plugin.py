# SPDX-License-Identifier: GPL-2.0-or-later
"""The hooks. Nothing else of memtrace is imported until a test asks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_memtrace import marks

if TYPE_CHECKING:
    from memtrace.check.budget import Limit
    from pytest_memtrace.programs import Memtrace
    from pytest_memtrace.verdicts import Outcome

#: Of a test: what to leave when it is over; its traces, once they are wanted; what became of its
#: budget, how many markers that was of, and the failure that says so.
_LEAVING: pytest.StashKey[ExitStack] = pytest.StashKey()
_MEMTRACE: pytest.StashKey[Memtrace] = pytest.StashKey()
_OUTCOME: pytest.StashKey[Outcome] = pytest.StashKey()
_JUDGED: pytest.StashKey[int] = pytest.StashKey()
_FAILURE: pytest.StashKey[BaseException] = pytest.StashKey()
_OF_AN_ATTEMPT: tuple[pytest.StashKey[Any], ...] = (_OUTCOME, _JUDGED, _FAILURE)
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
    folder = _folder(config)
    if not _on(config) or folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        why = (e.strerror or str(e)).lower()
        raise pytest.UsageError(f"memtrace_dir cannot be {folder}: {why}") from None


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


def _own(item: pytest.Item) -> Memtrace:
    """The test's, made when it is first wanted: a marker may be added by a fixture."""
    found = item.stash.get(_MEMTRACE, None)
    if found is None:
        leaving = item.stash[_LEAVING]
        found = item.stash[_MEMTRACE] = leaving.enter_context(_memtrace(item))
        leaving.callback(item.stash.__delitem__, _MEMTRACE)  # its folder may be gone
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """A test's traces are gone after its report, unless they are to be kept."""
    with ExitStack() as leaving:
        item.stash[_LEAVING] = leaving
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What an earlier attempt has started is not this one's."""
    found = item.stash.get(_MEMTRACE, None)
    if found is not None:
        found.begin()
    item.user_properties[:] = [p for p in item.user_properties if p[0] != _PROPERTY]
    for key in _OF_AN_ATTEMPT:
        if key in item.stash:
            del item.stash[key]


@pytest.fixture
def memtrace(request: pytest.FixtureRequest) -> Memtrace:
    """Start programs and see what they do with memory: `memtrace.run([...])` is their Report."""
    if not _on(request.config):
        pytest.skip("memtrace is off")
    return _own(request.node)


def _marks(item: pytest.Item) -> list[pytest.Mark]:
    return list(item.iter_markers("memtrace"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Trace what a marked test starts, and judge it when the test is over."""
    given = _marks(item)
    if not _on(item.config):
        if given:
            item.user_properties.append((_PROPERTY, _OFF))
        return (yield)
    if not given:
        result = yield
        item.stash[_JUDGED] = 0
        if _marks(item):
            _fail(item, _late())
        return result
    from pytest_memtrace.starting import watching

    found = _own(item)
    _limits(item, given)  # a mistake is told before anything is started
    try:
        with watching(found):
            result = yield
    except (Exception, pytest.fail.Exception):
        # The program has not run at all: whatever the test says of it follows from that.
        refused = found.refused()
        if not refused:
            with suppress(Exception, pytest.fail.Exception):  # its own failure is what counts
                item.stash[_OUTCOME] = _outcome(item, found).beside()
            raise
        from pytest_memtrace.verdicts import UNMEASURED, Outcome

        _fail(item, Outcome(UNMEASURED, f"memtrace: {refused}"))
    judged = item.stash[_OUTCOME] = _outcome(item, found)
    if judged.word:
        _fail(item, judged)
    return result


def _limits(item: pytest.Item, given: list[pytest.Mark]) -> list[Limit]:
    from memtrace.trace.errors import UsageError

    try:
        return marks.limits_of(item.nodeid, given)
    except UsageError as e:
        refused = f"memtrace: {e.message}\n  try: {e.hint}"
    pytest.fail(refused, pytrace=False)


def _outcome(item: pytest.Item, found: Memtrace) -> Outcome:
    """What became of the budget: of all markers that the test has by now."""
    from pytest_memtrace.verdicts import outcome

    given = _marks(item)
    item.stash[_JUDGED] = len(given)
    limits, lenient = _limits(item, given), _lenient(item.config)
    return outcome(found.programs, limits, lenient=lenient, kept=found.kept)


def _late() -> Outcome:
    from pytest_memtrace.verdicts import LATE, UNMEASURED, Outcome

    return Outcome(UNMEASURED, LATE)


def _fail(item: pytest.Item, judged: Outcome) -> NoReturn:
    item.stash[_OUTCOME] = judged
    item.user_properties.append((_PROPERTY, judged.word))
    failure = item.stash[_FAILURE] = pytest.fail.Exception(judged.line, pytrace=False)
    raise failure


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """A marker that nothing has been held against is no pass."""
    result = yield
    judged, late = item.stash.get(_JUDGED, None), item.stash.get(_FAILURE, None)
    if judged is not None and late is None and len(_marks(item)) > judged:
        pytest.fail(_late().line, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the section, and keep the failure to its line; a failure of the test's own stays."""
    report = yield
    judged = item.stash.get(_OUTCOME, None)
    if call.when == "call" and judged is not None:
        own = call.excinfo is None or call.excinfo.value is not item.stash.get(_FAILURE, None)
        if judged.word and own:  # unittest has put one in the place of ours
            judged = judged.beside()
            report.user_properties = [p for p in report.user_properties if p[0] != _PROPERTY]
        elif report.failed and judged.word:
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
