# SPDX-License-Identifier: GPL-2.0-or-later
"""WHEN: which map a moment means, and what is said where it means none."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.conftest import MAPS, Scene

from memtrace.replay import book as books
from memtrace.replay.book import Book, Making
from memtrace.replay.checkpoint import Keeper
from memtrace.replay.engine import replay
from memtrace.replay.moment import State, kept_first, state_at
from memtrace.trace import reader
from memtrace.trace.codec import encode
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace
from memtrace.trace.records import Clone, Exec, Exit, Fork, Gone, Snap
from memtrace.trace.sidecar import Source, Store

CLONE_VM = 0x100


@pytest.fixture
def many_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """One before each record, nearly."""
    monkeypatch.setattr(reader, "_BLOCK", 80)

    class Often(Keeper):
        def __init__(self, store: Store) -> None:
            super().__init__(store, every=1)
            self.costly = True

    monkeypatch.setattr(books, "Keeper", Often)


def vfork(scene: Scene, pid: int) -> None:
    scene.life(Clone(t=0, pid=1, tid=1, mm=1, child=pid, child_pid=pid, flags=CLONE_VM, stack=None))


def ends(scene: Scene, pid: int, mm: int) -> None:
    scene.life(Exit(t=0, pid=pid, tid=pid, mm=mm, code=0)).life(Gone(t=0, mm=mm))


def piped(path: Path, when: str) -> State:
    """The same by a pipe."""
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    feeder = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    feeder.start()
    try:
        return state_at(str(pipe), when)
    finally:
        feeder.join(10)
        pipe.unlink()


@pytest.mark.parametrize("how", ["from the start", "by checkpoints"])
def test_the_peak_of_a_vfork_child_is_not_what_its_parent_had_before_and_later(
    scene: Scene, how: str, request: pytest.FixtureRequest
) -> None:
    if how == "by checkpoints":
        request.getfixturevalue("many_checkpoints")
    scene.exec()
    vfork(scene, 7)
    own = scene.as_(1, 7).mmap(0x10000)
    scene.munmap(own, 0x10000)
    peak = scene.seq - 1
    scene.exec(2, pid=7)
    scene.as_(1, 1).mmap(0x900000)
    scene.munmap(scene.mmap(0x1000), 0x1000)
    highest = scene.seq - 1
    path = str(scene.write())
    state = state_at(path, "peak", 7)
    assert (state.process.mm, state.seq) == (1, peak)
    state = state_at(path, "peak", 1)
    assert (state.process.mm, state.seq) == (1, highest)


def test_a_number_that_was_used_again_has_lived_twice(scene: Scene) -> None:
    scene.exec()
    scene.fork(2, pid=7)
    scene.as_(1, 1).mmap(0x1000)
    ends(scene, 7, 2)
    died = scene.seq
    scene.as_(1, 1).mmap(0x1000)
    between = scene.seq
    scene.fork(3, pid=7)
    scene.as_(1, 1).mmap(0x1000)
    path = str(scene.write())
    with pytest.raises(UsageError) as e:
        state_at(path, str(between), 7)
    assert e.value.message == (
        f"process 7 is not alive at {between}: it lives from event 2 to event {died - 1}, "
        f"from event {between + 1} to the end"
    )
    assert e.value.hint == f"memtrace maps {path} --at {died - 1} --pid 7"
    assert state_at(path, str(died - 1), 7).process.mm == 2


def test_a_moment_after_the_end_is_none_by_a_pipe_either(scene: Scene) -> None:
    scene.exec()
    scene.mmap(0x1000)
    path = scene.write()
    assert piped(path, "2").process.space.total == state_at(str(path), "2").process.space.total
    for when in ("3", "99s"):
        with pytest.raises(UsageError) as wanted:
            state_at(str(path), when)
        with pytest.raises(UsageError) as got:
            piped(path, when)
        assert got.value.message == wanted.value.message.replace(path.name, "pipe")


def test_a_time_of_a_trace_without_times_is_none_by_a_pipe_either(scene: Scene) -> None:
    scene.exec()
    scene.header.clock = "none"
    path = scene.write()
    with pytest.raises(UsageError, match="has no times"):
        state_at(str(path), "0s")
    with pytest.raises(UsageError, match="has no times"):
        piped(path, "0s")


@pytest.mark.usefixtures("many_checkpoints")
def test_the_number_of_a_dead_address_space_used_again_is_no_other_map_by_a_checkpoint(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.exec()
    scene.fork(2, pid=7)
    ends(scene, 7, 2)
    for _ in range(4):
        scene.as_(1, 1).mmap(0x1000)
    scene.life(Fork(t=0, pid=1, tid=1, mm=1, child=8, child_mm=2))
    scene.as_(1, 1).mmap(0x1000)
    path = str(scene.write())
    for size in range(60, 300, 20):  # a checkpoint somewhere between the end and the fork
        monkeypatch.setattr(reader, "_BLOCK", size)
        with pytest.raises(UsageError, match="no process 8"):
            state_at(path, str(scene.seq), 8)


@pytest.mark.usefixtures("many_checkpoints")
def test_by_a_checkpoint_the_name_of_the_program_is_known(scene: Scene) -> None:
    scene.exec()
    scene.life(Exec(t=0, pid=1, tid=1, mm=2, exe="/bin/b", argv=["b", "secret"], maps=[]))
    for _ in range(4):
        scene.as_(2, 1).mmap(0x1000)
    path = str(scene.write())
    book = Book.read(path)
    assert book is not None
    assert book.near(scene.seq, None) is not None
    state = state_at(path, str(scene.seq), book=book)
    assert state.process.start.argv == ["b"]


def two_traces(scene: Scene, scenes: Callable[[str], Scene]) -> tuple[str, Path]:
    """One of some calls, and another that is longer."""
    other = scenes("other")
    for one, size in ((scene, 0x1000), (other, 0x5000)):
        one.exec()
        for _ in range(6):
            one.mmap(size)
    other.mmap(0x1000)
    return str(scene.write()), other.write()


@pytest.mark.parametrize("how", ["read", "found"])
@pytest.mark.parametrize("when", ["3", "2us", "end", "peak"])
def test_another_trace_of_the_same_name_is_no_answer(
    scene: Scene, scenes: Callable[[str], Scene], how: str, when: str
) -> None:
    path, other = two_traces(scene, scenes)
    if how == "found":
        with Trace(path) as trace, Making(trace, large=True) as making:
            making.done(replay(trace, making.observers))
    book = Book.found(path) if how == "found" else Book.read(path)
    assert book is not None
    state_at(path, when, book=book)
    other.rename(path)
    with pytest.raises(UsageError, match="changed while it was read"):
        state_at(path, when, book=book)
    assert state_at(path, when).process.space.total > 0x5000


def test_a_trace_written_over_is_no_answer(scene: Scene, scenes: Callable[[str], Scene]) -> None:
    path, other = two_traces(scene, scenes)
    book = Book.read(path)
    Path(path).write_bytes(other.read_bytes())
    with pytest.raises(UsageError, match="changed while it was read"):
        state_at(path, "3", book=book)


def test_a_trace_that_grows_is_the_same(scene: Scene) -> None:
    scene.exec()
    scene.mmap(0x1000)
    scene.complete = False
    path = scene.write()
    book = Book.read(str(path))
    before = state_at(str(path), "2", book=book)
    short = path.read_bytes()
    scene.mmap(0x1000)
    with path.open("ab") as f:
        f.write(b"".join(encode(record) for record in scene.records[2:]))
    after = state_at(str(path), "end", book=book)
    assert (after.seq, after.process.space.total) == (2, before.process.space.total)
    with path.open("r+b") as f:
        f.truncate(len(short) - 20)
    with pytest.raises(UsageError, match="changed while it was read"):
        state_at(str(path), "2", book=book)


def test_a_shorter_trace_of_the_same_file_is_told_of(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.exec()
    scene.mmap(0x1000)
    scene.mmap(0x1000)
    path = scene.write()
    book = Book.read(str(path))
    scene.records.pop()
    scene.write()
    monkeypatch.setattr(Source, "holds", lambda *_, whole: True)
    with pytest.raises(UsageError, match="changed while it was read"):
        state_at(str(path), "3", book=book)


def test_a_damaged_line_is_a_moment_all_the_same(scene: Scene) -> None:
    scene.exec()
    scene.mmap(0x1000)
    scene.mmap(0x1000)
    path = scene.write()
    lines = path.read_bytes().split(b"\n")
    lines[3] = b"damage"
    path.write_bytes(b"\n".join(lines))
    assert state_at(str(path), "2").seq == 2


def drifting(scene: Scene) -> Path:
    """A process whose map is found wrong at event 5, and one begun by a fork before that was so."""
    scene.exec()
    scene.fork(2, pid=7)
    scene.as_(1, 1).mmap(0x1000)
    scene.as_(2, 7).mmap(0x1000)
    scene.life(Snap(t=50_000, mm=1, pid=1, tid=1, why="every", maps=MAPS))
    scene.as_(1, 1).mmap(0x1000)
    return scene.write()


UNPROVEN = "this map is not proven: a snapshot is not reproduced (event 5)"


@pytest.mark.parametrize("how", ["from the start", "by checkpoints"])
def test_what_is_said_of_a_map_that_was_wrong(
    scene: Scene, how: str, request: pytest.FixtureRequest
) -> None:
    if how == "by checkpoints":
        request.getfixturevalue("many_checkpoints")
    path = str(drifting(scene))
    said = {n: state_at(path, str(n)).cautions() for n in range(1, 7)}
    assert said == {1: [], 2: [UNPROVEN], 3: [UNPROVEN], 4: [UNPROVEN], 5: [], 6: []}
    assert [state_at(path, str(n), 7).cautions() for n in (2, 4, 6)] == [[UNPROVEN]] * 3


def test_of_another_address_space_nothing_is_said(scene: Scene) -> None:
    scene.exec()
    scene.life(Exec(t=0, pid=7, tid=7, mm=2, exe="/bin/b", argv=["b"], maps=MAPS))
    scene.as_(1, 1).mmap(0x1000)
    scene.life(Snap(t=50_000, mm=1, pid=1, tid=1, why="every", maps=MAPS))
    path = str(scene.write())
    assert state_at(path, "3", 1).cautions() != []
    assert state_at(path, "3", 7).cautions() == []
    assert state_at(path, "4", 7).cautions() == []


def test_a_record_that_contradicts_is_told_of_from_then_on(scene: Scene) -> None:
    scene.exec()
    scene.mmap(0x1000)
    scene.life(Gone(t=0, mm=9))
    path = scene.write()
    assert state_at(str(path), "2").cautions() == []
    said = state_at(str(path), "3").cautions()
    assert said == [
        "the trace contradicts itself at event 3: the end of address space 9, which never began"
    ]
    assert piped(path, "3").cautions() == said


def test_by_a_pipe_the_same_is_said(scene: Scene) -> None:
    path = drifting(scene)
    for n in range(1, 7):
        got, want = piped(path, str(n)), state_at(str(path), str(n))
        assert (got.cautions(), got.seq, got.t) == (want.cautions(), want.seq, want.t)
        assert got.process.space.mappings() == want.process.space.mappings()
    at = f"{state_at(str(path), '3').t}ns"
    assert piped(path, at).seq == state_at(str(path), at).seq


def test_what_is_lost_after_the_moment_is_told_of_by_a_pipe_too(scene: Scene) -> None:
    scene.exec()
    scene.mmap(0x1000)
    scene.lost()
    path = scene.write()
    scene.mmap(0x1000)
    want = "the trace is incomplete: 1 events were lost, the first at event 3"
    assert state_at(str(path), "2").cautions() == piped(path, "2").cautions() == [want]


def test_by_a_pipe_the_dead_have_their_map(scene: Scene) -> None:
    scene.exec()
    scene.mmap(0x1000)
    ends(scene, 1, 1)
    path = scene.write()
    want = state_at(str(path), "2").process.space.mappings()
    assert piped(path, "2").process.space.mappings() == want


def test_what_a_pipe_cannot_tell_is_to_be_had_of_a_file(scene: Scene) -> None:
    scene.exec()
    scene.mmap(0x1000)
    path = scene.write()
    pipe = path.with_name("pipe")
    remedies = {}
    for when, ask in (("peak", not_opened), ("0", piped), ("3", piped)):
        with pytest.raises(UsageError) as e:
            ask(path, when)
        remedies[when] = e.value.message, e.value.hint
    then = f"cat {pipe} > trace.json && memtrace maps trace.json --at"
    assert remedies == {
        "peak": (f"{pipe} can be read but once, and when its peak was is known only then",
                 f"{then} peak"),
        "0": ("process 1 is not alive at 0: it lives from event 1 to the end", f"{then} 1 --pid 1"),
        "3": (f"there is no event 3 in {pipe}: its last is 2", f"{then} end"),
    }  # fmt: skip


def not_opened(path: Path, when: str) -> State:
    """A moment for which the pipe is not even opened."""
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    try:
        return state_at(str(pipe), when)
    finally:
        pipe.unlink()


def test_what_writes_to_a_descriptor_only_the_user_knows() -> None:
    assert kept_first("/dev/stdin", "true") == "PROG ARGS... > trace.json && true"
    assert kept_first("/dev/fd/63", "true") == "PROG ARGS... > trace.json && true"
    assert kept_first("a pipe", "true") == "cat 'a pipe' > trace.json && true"


def test_a_pipe_without_a_process(scene: Scene) -> None:
    scene.life(Gone(t=0, mm=1))
    path = scene.write()
    with pytest.raises(UsageError, match="pipe holds no process"):
        piped(path, "0")
