"""Which tests may be skipped.

A test marked `live` traces a real process. Where the kernel refuses ptrace it is skipped with the
reason. Where live tests are required (CI is set, or MEMTRACE_REQUIRE_LIVE=1) none may go missing:
a live test that would be skipped, for whatever reason, fails; so does a module that skips itself
while it is collected, for its live tests cannot be counted. With MEMTRACE_REQUIRE_LIVE=1 a session
without any live test fails too.
"""

import ctypes
import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_PTRACE_SEIZE = 0x4206


def _switched_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in {"", "0", "false", "no"}


def _live_required() -> bool:
    return _switched_on("CI") or _switched_on("MEMTRACE_REQUIRE_LIVE")


@functools.cache
def _why_no_ptrace() -> str | None:
    """Seize a child of ours once; the reason if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as child:
        try:
            refused = libc.ptrace(_PTRACE_SEIZE, child.pid, None, None) == -1
            error = ctypes.get_errno()
        finally:
            child.kill()
    return f"ptrace is not possible here: PTRACE_SEIZE: {os.strerror(error)}" if refused else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("live") and (reason := _why_no_ptrace()):
        pytest.skip(reason)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.get_closest_marker("live") and _live_required():
        report.longrepr = f"live tests are required here, this one did not run: {_reason(report)}"
        report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and _live_required():
        report.longrepr = f"live tests are required here, this module hides its: {_reason(report)}"
        report.outcome = "failed"
    return report


class _LiveCount:
    """Counts the live tests that ran, over all workers; the session's last word about them."""

    def __init__(self) -> None:
        self.ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ran += report.when == "call" and "live" in report.keywords

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._missing() and session.exitstatus in {
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        }:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._missing():
            terminalreporter.section("live tests are required here, none ran", red=True)
        elif self.ran:
            terminalreporter.line(f"live tests that ran: {self.ran}")

    def _missing(self) -> bool:
        return _switched_on("MEMTRACE_REQUIRE_LIVE") and not self.ran


class _Reproduced:
    """Counts the kernel maps that traces reproduced, over all tests; build/corpus.json says it by
    program: [address spaces, kernel maps]. Every one that was compared: one that is not reproduced
    is a failed test.
    """

    def __init__(self) -> None:
        self.programs: dict[str, list[int]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":
            return
        for name, found in report.user_properties:
            if name == "reproduced" and isinstance(found, dict):
                for exe, (spaces, maps) in found.items():
                    count = self.programs.setdefault(self._program(exe), [0, 0])
                    count[0] += spaces
                    count[1] += maps

    @staticmethod
    def _program(exe: str) -> str:
        """A program's name; what the tests build is one."""
        own = exe.startswith((f"{_ROOT}/build/", tempfile.gettempdir() + "/"))
        return "own programs" if own else Path(exe).name or "unknown"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.programs:
            return
        spaces, maps = (sum(column) for column in zip(*self.programs.values(), strict=True))
        (_ROOT / "build").mkdir(exist_ok=True)
        table = dict(sorted(self.programs.items(), key=lambda item: -item[1][1]))
        (_ROOT / "build" / "corpus.json").write_text(json.dumps(table, indent=1) + "\n")
        others = len(self.programs.keys() - {"own programs"})
        terminalreporter.line(
            f"kernel maps reproduced: {maps:,} of {spaces:,} address spaces, "
            f"{others} programs and the tests' own (build/corpus.json)"
        )


class _Lacked:
    """What the programs of the tests lacked of this machine, over all tests (`live/lacking.py`)."""

    def __init__(self) -> None:
        self.calls: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            for name, found in report.user_properties:
                if name == "lacked" and isinstance(found, tuple | list):
                    call, error = found
                    self.calls[call] = error

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.calls:
            found = ", ".join(f"{call} ({error})" for call, error in sorted(self.calls.items()))
            terminalreporter.line(f"lacking here, as it may be: {found}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker of xdist reports to this process
        config.pluginmanager.register(_LiveCount(), "memtrace-live-count")
        config.pluginmanager.register(_Reproduced(), "memtrace-reproduced")
        config.pluginmanager.register(_Lacked(), "memtrace-lacked")
