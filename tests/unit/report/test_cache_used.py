# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache beside a trace is used: nothing is replayed twice, and a moment is near. `verify` alone
never looks at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from tests import hostile

import memtrace.cli.main
import memtrace.replay.book
import memtrace.report.build
from memtrace.replay.book import Book
from memtrace.replay.checkpoint import EVERY
from memtrace.replay.moment import state_at
from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.space.calls import Change
from memtrace.trace import reader
from memtrace.trace.beside import SUFFIX
from memtrace.trace.records import Call
from memtrace.trace.sidecar import SidecarWriter, is_large

PAIRS = 20_000
#: The exec, the pairs, the snapshot.
LAST = 2 * PAIRS + 2


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Large enough for a cache, which is not there yet."""
    path = hostile.write(tmp_path / "t.json", records())
    assert is_large(str(path))
    return path


def records() -> Iterator[hostile.Record | bytes]:
    """A mapping comes and goes; there are more of them in the middle."""
    yield hostile.begun()
    for i in range(PAIRS):
        at = hostile.LOW + i * hostile.PAGE
        yield hostile.mmap(at, hostile.PAGE * (3 if i == PAIRS // 2 else 1))
        yield hostile.call("munmap", [at, 3 * hostile.PAGE])
    yield hostile.snap(1 << 40)


@pytest.fixture
def cached(trace: Path, said: Said) -> Path:
    """The same after a first report."""
    assert not Path(f"{trace}{SUFFIX}").exists()
    said("report", trace)
    assert Path(f"{trace}{SUFFIX}").exists()
    return trace


class Said:
    """What a command says; it must end well."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def __call__(self, *words: object) -> str:
        status = memtrace.cli.main.run([str(w) for w in words])
        out, self.err = self._capsys.readouterr()
        assert status == 0, self.err
        return out


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


@pytest.fixture
def near(cached: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same; who replays a whole trace from now on, for a report or a book, fails."""

    def replay(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the trace is replayed, though it was before")

    monkeypatch.setattr(memtrace.report.build, "replay", replay)
    monkeypatch.setattr(memtrace.replay.book, "replay", replay)
    return cached


WORDS = (
    ("report",),
    ("report", "--format", "json"),
    ("maps", "--at", "peak"),
    ("maps", "--at", "30000"),
    ("diff", "--at", "start", "--at", "peak"),
)


def test_what_was_made_once_is_not_made_again(
    trace: Path, said: Said, request: pytest.FixtureRequest
) -> None:
    first = []
    for verb, *more in WORDS:
        first.append(said(verb, trace, *more))
        Path(f"{trace}{SUFFIX}").unlink()  # each has left one
    assert request.getfixturevalue("near") == trace
    assert [said(verb, trace, *more) for verb, *more in WORDS] == first


class Read(Observer):
    """Counts the calls of a pass."""

    def __init__(self) -> None:
        self.calls = 0

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        """See `Observer`."""
        self.calls += 1


@pytest.mark.parametrize("by", ["event", "time"])
def test_a_moment_is_near(by: str, near: Path) -> None:
    """From the checkpoint before it: `EVERY` records and the block in which that is reached."""
    size = near.stat().st_size
    limit = EVERY + 2 + reader._BLOCK * LAST // size
    assert limit < LAST // 4
    most = 0
    for seq in range(1, LAST, 997):
        seen = Read()
        when = str(seq) if by == "event" else f"{10 * seq}ns"
        assert state_at(str(near), when, observers=[seen]).seq == seq
        most = max(most, seen.calls)
    assert EVERY // 2 < most <= limit
    for name, seq in (("peak", PAIRS + 2), ("end", LAST)):
        seen = Read()
        assert state_at(str(near), name, observers=[seen]).seq == seq
        assert seen.calls <= limit


def test_verify_does_not_look_at_a_cache(cached: Path, said: Said) -> None:
    """It is valid, and says that the trace contradicts itself and is cut: maps believes it."""
    before = said("verify", cached)
    assert before.startswith("exact: 1 of 1 kernel snapshots")
    book = Book.found(str(cached))
    assert book is not None
    lie = msgspec.structs.replace(
        book.outline, problem=(5, "a lie"), complete=False, reason="another lie", checkpoints=[]
    )
    writer = SidecarWriter(str(cached))
    writer.add("outline", msgspec.msgpack.encode(lie))
    writer.finish()
    said("maps", cached, "--at", "end")
    assert "the trace is incomplete: another lie" in said.err
    assert "the trace contradicts itself at event 5: a lie" in said.err
    assert said("verify", cached) == before
    assert said.err == ""
