# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints: the state of a replay between two records, so that it can go on from there.

A checkpoint is a few bytes and names the blobs that it consists of: one for each living address
space, one for the tasks. What has not changed since the last checkpoint is not kept again. They
stand where the reader begins a block of lines, at least `EVERY` records apart and so far apart that
keeping them costs no more than a constant for each record, however large the maps are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from memtrace.replay.tasks import Tasks
from memtrace.space.saved import load, save
from memtrace.trace.reader import Mark
from memtrace.trace.records import FileId

if TYPE_CHECKING:
    from memtrace.replay.process import Process
    from memtrace.space.address_space import AddressSpace
    from memtrace.trace.codec import Decoder
    from memtrace.trace.sidecar import Store

EVERY = 4096
FILES = "files"


class Blobs(Protocol):
    """Where blobs are found again."""

    def get(self, name: str) -> bytes | None:
        """A blob; None if there is none of the name."""


class Live(msgspec.Struct, frozen=True, array_like=True):
    """An address space that lives at a checkpoint; `blob` holds its map, `argv` no more of its
    program's than the name.
    """

    mm: int
    pid: int
    ppid: int | None
    born_seq: int
    born_t: int
    inherited: bool
    argv: list[str]
    blob: str


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """A state before a block of lines: `mark` is where, `files` how many of the trace's files were
    known.
    """

    offset: int
    seq: int
    t: int
    files: int
    tasks: str
    live: list[Live]


@dataclass(frozen=True, slots=True)
class Restored:
    """A checkpoint with all that it names."""

    mark: Mark
    live: list[tuple[Live, AddressSpace]]
    tasks: Tasks
    files: list[FileId]


class Keeper:
    """Keeps checkpoints in a store while a trace is replayed.

    Attributes:
        kept: (seq and time of the record before, blob) of each checkpoint, in order.
        every: records between two of them, at least.
        costly: keep them also where that costs more than the replay.
    """

    def __init__(self, store: Store, every: int = EVERY) -> None:
        self.store = store
        self.every = every
        self.costly = False
        self.kept: list[tuple[int, int, str]] = []
        self.failed = False
        self._blobs: dict[int, str] = {}
        self._tasks = b""
        self._tasks_blob = ""
        self._last = 0
        self._enough = 0  # records since the last: before, it is not asked what one costs
        self._serial = 0

    def passing(
        self, mark: Mark, live: dict[int, Process], touched: set[int], tasks: Tasks, files: int
    ) -> None:
        """Between two records: keep the state, unless it is too soon.

        Args:
            mark: where.
            live: the living address spaces, by mm.
            touched: mms whose map may have changed since the last checkpoint; emptied when one is
                kept.
            tasks: of the replay.
            files: how many files the decoder knows.
        """
        distance = mark.seq - self._last
        if distance < self.every or distance < self._enough or self.failed:
            return
        spaces = [(mm, live[mm].space) for mm in touched if mm in live]
        cost = len(live) + len(tasks.pid_of)
        cost += sum(len(space) + len(space.paths) for _, space in spaces)
        if distance < cost and not self.costly:
            self._enough = cost
            return
        try:
            for mm, space in spaces:
                self._blobs[mm] = self._add("map", save(space))
            self._keep(mark, live, tasks, files)
        except (OverflowError, msgspec.MsgspecError):  # numbers that no kernel has
            self.failed = True
            return
        touched.clear()
        self._last, self._enough = mark.seq, 0

    def finish(self, decoder: Decoder, *, reused: bool) -> None:
        """The pass is over; without the files in the order of their definition nothing counts, nor
        where a number of an address space was `reused`: a checkpoint knows only the living.
        """
        self.failed = self.failed or decoder.redefined or reused
        if self.failed:
            self.kept.clear()
        else:
            self.store.add(FILES, _encode(list(decoder.files.values())))

    def _keep(self, mark: Mark, live: dict[int, Process], tasks: Tasks, files: int) -> None:
        self._blobs = {mm: blob for mm, blob in self._blobs.items() if mm in live}
        saved = _encode(tasks.save())
        if saved != self._tasks:
            self._tasks, self._tasks_blob = saved, self._add("tasks", saved)
        c = Checkpoint(
            mark.offset, mark.seq, mark.t, files, self._tasks_blob,
            [
                Live(
                    p.mm, p.pid, p.ppid, p.born_seq, p.born_t, p.inherited, p.start.argv[:1],
                    self._blobs[p.mm],
                )
                for p in live.values()
            ],
        )  # fmt: skip
        self.kept.append((mark.seq, mark.t, self._add("checkpoint", _encode(c))))

    def _add(self, what: str, data: bytes) -> str:
        self._serial += 1
        name = f"{what}{self._serial}"
        self.store.add(name, data)
        return name


def restore(blobs: Blobs, name: str) -> Restored | None:
    """The state of a checkpoint; None if anything of it is missing or makes no sense."""
    try:
        c = msgspec.msgpack.decode(_need(blobs, name), type=Checkpoint)
        saved = msgspec.msgpack.decode(
            _need(blobs, c.tasks), type=list[tuple[int, int, list[int]]]
        )  # fmt: skip
        files = msgspec.msgpack.decode(_need(blobs, FILES), type=list[FileId])
        live = [(one, load(_need(blobs, one.blob))) for one in c.live]
    except (ValueError, msgspec.MsgspecError):
        return None
    mark = Mark(c.offset, c.seq, c.t)
    return Restored(mark, live, Tasks.of(saved), files[: c.files])


def _need(blobs: Blobs, name: str) -> bytes:
    data = blobs.get(name)
    if data is None:
        raise ValueError(name)
    return data


_encode = msgspec.msgpack.Encoder().encode
