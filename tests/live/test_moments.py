# SPDX-License-Identifier: GPL-2.0-or-later
"""Any moment of a real trace by its checkpoints is what a replay from the start gives: the map, and
which region each page belongs to.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.live.tracing import MEMTRACE, PATIENCE, Traced, cli, environment

from memtrace.malloc.accounts import Accounts
from memtrace.malloc.tags import CARVED, Cuts, Kinds
from memtrace.replay import book as books
from memtrace.replay.book import Book, Making, Shelf
from memtrace.replay.checkpoint import Keeper
from memtrace.replay.difference import Fate, difference, sums
from memtrace.replay.engine import replay
from memtrace.replay.moment import state_at
from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.report.build import making_of
from memtrace.space.address_space import AddressSpace
from memtrace.space.canonical import Run
from memtrace.space.saved import load, save
from memtrace.trace import reader
from memtrace.trace.mapping import Mapping
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call, LifeRecord, Unknown

PROGRAMS = {
    "self-maps": (("self-maps", 7, 600, 50, "fork"), ()),
    "fork-tree": (("fork-tree",), ()),
    "thread-arenas": (("thread-arenas",), ()),
    "exec-from-thread": (("exec-from-thread",), ()),
    "clone-vm": (("clone-vm",), ()),
    "threads-fight": (("threads-fight", 3, 4, 200), ("--snapshots", "every=50")),
}


@dataclass
class Straight(Observer):
    """Every address space's map after each record, told by one replay from the start."""

    spaces: dict[int, Process] = field(default_factory=dict)
    after: dict[int, dict[int, tuple[list[Run], list[Mapping], bytes]]] = field(
        default_factory=dict
    )

    def born(self, p: Process, *_: object) -> None:
        self.spaces[p.mm] = p

    def call(self, p: Process, seq: int, t: int, call: Call, name: str, change: object) -> None:
        self._take(seq)

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        self._take(seq)

    def died(self, p: Process, seq: int, t: int) -> None:
        del self.spaces[p.mm]

    def _take(self, seq: int) -> None:
        self.after[seq] = {
            mm: (p.space.canonical(), p.space.mappings(), save(p.space))
            for mm, p in self.spaces.items()
        }


@pytest.fixture
def many_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a trace a thousand times as long would have them."""
    monkeypatch.setattr(reader, "_BLOCK", 700)

    class Often(Keeper):
        def __init__(self, store: Shelf) -> None:
            super().__init__(store, every=3)
            self.costly = True

    monkeypatch.setattr(books, "Keeper", Often)


def read(path: Path) -> tuple[Book, Kinds]:
    with Trace(str(path)) as trace, Making(trace) as making:
        _, book = making_of(trace, making)
    return book, Kinds(book.blobs)


def straight(path: Path) -> Straight:
    seen = Straight()
    with Trace(str(path)) as trace:
        replay(trace, [Accounts(trace, lambda _: None), seen])
    return seen


@pytest.mark.usefixtures("many_checkpoints")
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_moment_is_that_of_a_replay_from_the_start(
    sample: Callable[..., Traced], name: str
) -> None:
    argv, options = PROGRAMS[name]
    done = sample(*argv, options=options)
    path = str(done.path)
    seen = straight(done.path)
    book, _ = read(done.path)
    assert len(book.outline.checkpoints) > len(seen.after) / 60
    rng = random.Random(5)
    compared = 0
    moments = sorted(rng.sample(sorted(seen.after), min(len(seen.after), 60)))
    for seq in moments:
        for pid, spans in book.outline.spans.items():
            mms = [s.mm for s in spans if s.first <= seq and (s.last is None or seq <= s.last)]
            if not mms or mms[0] not in seen.after[seq]:
                continue
            state = state_at(path, str(seq), pid, book=book)
            runs, lines, _ = seen.after[seq][mms[0]]
            assert state.process.mm == mms[0]
            assert state.seq == seq
            assert state.process.space.canonical() == runs, (seq, pid)
            assert state.process.space.mappings() == lines, (seq, pid)
            compared += 1
    assert compared >= len(moments) * 0.8


@pytest.mark.usefixtures("many_checkpoints")
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_difference_of_two_moments_is_that_of_two_replays_from_the_start(
    sample: Callable[..., Traced], name: str
) -> None:
    argv, options = PROGRAMS[name]
    done = sample(*argv, options=options)
    seen = straight(done.path)
    book, kinds = read(done.path)
    cuts = [Cuts(4096)]
    rng = random.Random(6)
    compared = 0
    for pid, spans in book.outline.spans.items():
        for span in spans:
            lived = [q for q in seen.after if span.first <= q <= (span.last or 1 << 60)]
            lived = [q for q in lived if span.mm in seen.after[q]]
            for _ in range(12):
                if len(lived) < 2:
                    continue
                one, two = sorted(rng.sample(lived, 2))
                a, b = (
                    state_at(str(done.path), str(q), pid, book=book, observers=cuts)
                    for q in (one, two)
                )
                ours = fates(a.process.space, b.process.space, kinds, span.mm)
                theirs = fates(
                    load(seen.after[one][span.mm][2]), load(seen.after[two][span.mm][2]), kinds,
                    span.mm,
                )  # fmt: skip
                assert ours == theirs, (one, two, pid)
                change = b.process.space.total - a.process.space.total
                assert sum(f.delta for f in ours) == change
                assert sum(s.delta for s in sums(ours).values()) == change
                compared += bool(ours)
    assert compared >= 8


def fates(before: AddressSpace, after: AddressSpace, kinds: Kinds, mm: int) -> list[Fate]:
    return difference(before, after, lambda tag: kinds.of(mm, tag), CARVED - 1)


def test_a_named_moment_and_a_time(sample: Callable[..., Traced]) -> None:
    done = sample("heap-grow")
    start, peak, end = (state_at(str(done.path), when) for when in ("start", "peak", "end"))
    assert start.seq == 1
    assert start.process.space.total < peak.process.space.total
    assert peak.process.space.total >= end.process.space.total
    at_time = state_at(str(done.path), f"{peak.t}ns")
    assert at_time.seq >= peak.seq
    assert at_time.t == peak.t


def test_what_a_sample_did_is_what_the_command_says(sample: Callable[..., Traced]) -> None:
    done = sample("mapping-kinds")
    shown = cli("diff", done.path, "--at", "start", "--at", "end", "--all")
    assert shown.returncode == 0, shown.stderr
    first, mapped, *_ = shown.stdout.splitlines()
    (process,) = done.replayed.processes
    assert first.startswith(f"pid {process.pid}   #1 ")
    assert mapped.startswith("mapped ")
    assert " born" in shown.stdout
    assert " library " in shown.stdout


def test_across_an_exec_nothing_is_left(run: Callable[..., Traced]) -> None:
    done = run("env", "true")
    shown = cli("diff", done.path, "--at", "start", "--at", "end")
    assert shown.returncode == 0, shown.stderr
    assert "another address space since #" in shown.stdout
    assert ": true;" in shown.stdout


def test_a_large_trace_gets_a_cache_that_a_change_makes_void(
    tmp_path: Path, sample: Callable[..., Traced]
) -> None:
    done = sample("syscall-churn", "malloc-churn", 4, 4000)
    cache = Path(f"{done.path}.cache")
    assert done.path.stat().st_size > 1 << 20
    first = cli("report", done.path)
    assert cache.exists()
    made = cache.read_bytes()
    again = cli("report", done.path)
    assert (again.stdout, again.stderr) == (first.stdout, first.stderr)
    assert cache.read_bytes() == made
    lines = done.path.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if i > 5000 and b",34]," in line)
    del lines[at + 1]  # the munmap: the next mmap lies over what it took away
    done.path.write_bytes(b"".join(lines))
    changed = cli("report", done.path)
    assert changed.stderr.startswith("memtrace: warning: incomplete: "), changed.stderr
    assert f"first at event {at + 1}: a call's result contradicts the map" in changed.stderr
    assert cli("verify", "-q", done.path).returncode == 3


def test_where_no_cache_can_be_kept_the_answers_are_the_same(
    sample: Callable[..., Traced],
) -> None:
    done = sample("syscall-churn", "malloc-churn", 4, 4000)
    cache = Path(f"{done.path}.cache")
    asked = [
        ("diff", done.path, "--at", "30", "--at", "4001", "--all"),
        ("maps", done.path, "--at", "4001"),
    ]
    kept = [cli(*one) for one in asked]
    assert " malloc-chunk " in kept[0].stdout
    cache.unlink()
    cache.write_text("a file of the user's own")
    for one, want in zip(asked, kept, strict=True):
        got = cli(*one)
        assert (got.returncode, got.stdout, got.stderr) == (0, want.stdout, want.stderr)
    assert cache.read_text() == "a file of the user's own"


def test_what_can_be_read_but_once_can_be_asked_for_a_number(
    sample: Callable[..., Traced],
) -> None:
    done = sample("heap-grow")
    line = f"cat {done.path} | PIPE maps /dev/stdin --at"
    command = " ".join(MEMTRACE)
    for when, status in (("5", 0), ("peak", 2)):
        ran = subprocess.run(
            ["bash", "-c", line.replace("PIPE", command) + f" {when}"],
            capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment(),
        )  # fmt: skip
        assert ran.returncode == status, ran.stderr
    assert "read but once" in ran.stderr
