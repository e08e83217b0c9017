# SPDX-License-Identifier: GPL-2.0-or-later
"""The bar of a pass that takes long."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import click
import pytest
from tests import hostile

from memtrace.cli import progress
from memtrace.cli.main import run


class Screen:
    """A terminal that is stderr, and what was written to it."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.slave = os.fdopen(slave, "w")
        self._seen = b""
        self.waits = False

    def text(self) -> str:
        """All that was ever on it."""
        self.slave.flush()
        os.set_blocking(self.master, False)
        with suppress(BlockingIOError):
            self._seen += os.read(self.master, 1 << 20)
        return self._seen.decode("utf-8", "replace")

    def shows(self, text: str) -> None:
        """Wait for it, however busy the machine is."""
        end = time.monotonic() + 60
        while text not in self.text():
            assert time.monotonic() < end, self.text()
            time.sleep(0.02)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    made = Screen()
    monkeypatch.setattr(progress, "AFTER", 0.05)
    monkeypatch.setattr(progress, "EVERY", 0.05)
    monkeypatch.setenv("TERM", "xterm")
    yield made
    made.slave.close()
    os.close(made.master)


@contextmanager
def command(err: IO[str], *, quiet: bool = False) -> Iterator[None]:
    """Within a command whose standard error is `err`."""
    context = click.Context(click.Command("report"))
    context.meta["memtrace.quiet"] = quiet
    with pytest.MonkeyPatch.context() as patch, context:
        patch.setattr(sys, "stderr", err)
        yield


def within(path: Path, act: Callable[[Any], None], err: IO[str], *, quiet: bool = False) -> None:
    """Read a trace in a command."""
    with command(err, quiet=quiet), path.open("rb") as f, progress.reading(str(path)):
        act(f)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "a[b].json"
    path.write_bytes(bytes(100_000))
    return path


def slowly(f: Any) -> None:
    for _ in range(2):
        os.read(f.fileno(), 25_000)
        time.sleep(0.4)


def test_a_long_pass_shows_how_far_it_is_and_cleans_up(trace: Path, screen: Screen) -> None:
    def in_steps(f: Any) -> None:
        for shown in ("25%", "50%"):
            os.read(f.fileno(), 25_000)
            screen.shows(shown)

    within(trace, in_steps, screen.slave)
    text = screen.text()
    assert "reading a[b].json" in text
    assert text.rstrip().endswith("\x1b[2K")


def test_a_short_pass_shows_nothing(trace: Path, screen: Screen) -> None:
    within(trace, lambda _: None, screen.slave)
    assert screen.text() == ""


def test_quiet_is_quiet(trace: Path, screen: Screen) -> None:
    within(trace, slowly, screen.slave, quiet=True)
    assert screen.text() == ""


def test_what_is_no_terminal_gets_no_bar(trace: Path, screen: Screen, tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as f:
        within(trace, slowly, f)
    assert (tmp_path / "err").read_text() == ""


def test_an_error_on_the_way_ends_the_bar(trace: Path, screen: Screen) -> None:
    def broken(_: Any) -> None:
        screen.shows("reading")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        within(trace, broken, screen.slave)
    assert screen.text().rstrip().endswith("\x1b[2K")


def parts(f: Any, screen: Screen) -> Iterator[str]:
    """An output before whose first part it takes long, and again before its last."""
    for part, percent in (("first", "25%"), ("last", "50%")):
        os.read(f.fileno(), 25_000)
        if part == "first" or screen.waits:
            screen.shows(percent)
        yield part


@pytest.mark.parametrize("to_file", [False, True])
def test_an_output_that_is_looked_at_has_a_bar_only_before_it(
    trace: Path, screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, to_file: bool
) -> None:
    screen.waits = to_file
    monkeypatch.setattr(sys, "stdout", screen.slave)
    with command(screen.slave), trace.open("rb") as f:
        out = progress.read_for(str(trace), parts(f, screen), to_file=to_file)
        assert next(out) == "first"
        assert screen.text().rstrip().endswith("\x1b[2K") is not to_file
        assert list(out) == ["last"]
    assert screen.text().rstrip().endswith("\x1b[2K")


def test_nobody_looks_at_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(stream: IO[str] | None) -> bool:
        monkeypatch.setattr(sys, "stdout", stream)
        return not progress._stdout_is_file()

    reader, writer = os.pipe()
    terminal, slave = os.openpty()
    with (tmp_path / "out").open("w") as file, open(os.devnull, "w") as nowhere:
        assert not shown(file)
        assert not shown(nowhere)
    with os.fdopen(writer, "w") as pipe, os.fdopen(slave, "w") as screen:
        assert shown(pipe)  # to a pager, it may be
        assert shown(screen)
        assert shown(None)
        assert shown(io.StringIO())
    os.close(reader)
    os.close(terminal)


@pytest.mark.parametrize("verb", [["events"], ["export", "--to", "csv"],
                                  ["export", "--to", "jsonl", "--table", "regions"],
                                  ["export", "--to", "perfetto"]])  # fmt: skip
def test_verbs_that_stream_have_a_bar(
    verb: list[str], screen: Screen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = hostile.write(tmp_path / "t.json", [hostile.begun(), hostile.mmap(hostile.LOW)])
    begun = []

    @contextmanager
    def reading(name: str) -> Iterator[None]:
        begun.append(name)
        yield

    monkeypatch.setattr(progress, "reading", reading)
    assert run([*verb, str(path)]) == 0
    assert begun == [str(path)]
