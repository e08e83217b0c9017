# SPDX-License-Identifier: GPL-2.0-or-later
"""What one whole pass has found of a trace, kept so that any moment of it is near.

A book is an outline (which process had which address space when, the peaks, how far to trust it)
and checkpoints. It is made by a pass over the whole trace, on the way of whatever that pass was
for, and lies in a file beside a trace that is large enough (`trace/sidecar.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from shlex import quote
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from memtrace.replay import trust
from memtrace.replay.checkpoint import Blobs, Keeper, Restored, restore
from memtrace.replay.engine import replay
from memtrace.replay.process import Doubt
from memtrace.replay.spans import Span, Spans
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace
from memtrace.trace.sidecar import Memory, Sidecar, SidecarWriter, Source, is_file, is_large

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memtrace.replay.observer import Observer
    from memtrace.replay.result import Replay

_OUTLINE = "outline"


class Outline(msgspec.Struct, frozen=True):
    """A trace in short.

    Attributes:
        spans: of each pid, in order of time.
        peaks: mm -> (mapped bytes at the first maximum, its record).
        first_pid: of the first process; None if there is none.
        last_seq, duration_ns, complete, reason: as in `Replay`; `clock`, `page_size` as in the
            header.
        doubts: where the map of each mm is not proven, in order; see `trust.doubts`.
        problem: the first record that contradicts those before it: (seq, sentence).
        ordered: no record is earlier than the one before it.
        checkpoints: (record before it, its time, name of its blob), in order.
    """

    spans: dict[int, list[Span]]
    peaks: dict[int, tuple[int, int]]
    first_pid: int | None
    last_seq: int
    duration_ns: int
    clock: str
    page_size: int
    complete: bool
    reason: str
    doubts: dict[int, list[Doubt]]
    problem: tuple[int, str] | None
    ordered: bool
    checkpoints: list[tuple[int, int, str]]


class Shelf(Blobs, Protocol):
    """Where a book lies: blobs can be put there and found again."""

    def add(self, name: str, data: bytes) -> None:
        """Keep a blob."""


class Book:
    """The outline and checkpoints of a trace.

    Args:
        path: the trace.
        blobs: where they lie.
        outline: of the trace.
        source: the file that the trace was read from.
    """

    def __init__(self, path: str, blobs: Blobs, outline: Outline, source: Source) -> None:
        self.path = path
        self.blobs = blobs
        self.outline = outline
        self.source = source

    @classmethod
    def found(cls, path: str) -> Book | None:
        """The book beside a trace; None if there is none, or none of this very trace."""
        beside = Sidecar.of(path)
        if beside is None:
            return None
        try:
            outline = msgspec.msgpack.decode(beside.get(_OUTLINE) or b"", type=Outline)
        except (msgspec.MsgspecError, ValueError):
            beside.close()
            return None
        return cls(path, beside, outline, beside.source)

    @classmethod
    def read(cls, path: str) -> Book | None:
        """The book beside a trace, or else one made of it now; None if it is no file, which can be
        read but once.

        Raises:
            TraceFormatError: the trace cannot be read.
        """
        if not is_file(path):
            return None
        found = cls.found(path)
        if found is not None:
            return found
        with Trace(path) as trace, Making(trace) as making:
            return making.done(replay(trace, making.observers, keeper=making.keeper))

    def again(self) -> Trace:
        """The trace, opened once more.

        Raises:
            TraceFormatError: it cannot be read any more.
            UsageError: the file of this name is not what was read.
        """
        trace = Trace(self.path)
        if not self.source.holds(Source.of(trace.opened), whole=self.outline.complete):
            trace.close()
            raise changed(self.path)
        return trace

    def near(self, seq: int | None, t: int | None) -> Restored | None:
        """The last checkpoint that is not after a moment: None if there is none.

        Args:
            seq: a record, or None for
            t: a time in ns since the trace's start.
        """
        kept = self.outline.checkpoints
        if seq is not None:
            i = bisect_right(kept, seq, key=lambda one: one[0])
        elif t is not None and self.outline.ordered:
            i = bisect_right(kept, t, key=lambda one: one[1])
        else:
            return None
        return restore(self.blobs, kept[i - 1][2]) if i else None


class Making:
    """A book in the making, while its trace is replayed: give `observers` and `keeper` to the pass,
    then call `done`. Where a `with` is left without it, no file is left behind.

    Args:
        trace: opened.
        large: a file beside the trace is wanted; None: if the trace is large.
    """

    def __init__(self, trace: Trace, *, large: bool | None = None) -> None:
        self.path, self._source = trace.path, Source.of(trace.opened)
        wanted = is_large(trace.path) if large is None else large
        self._file = SidecarWriter(trace.path, trace.opened) if wanted else None
        self.store: Shelf = self._file or Memory()
        self.keeper = Keeper(self.store)
        self._spans = Spans()
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None and not self._done:
            self._file.abandon()

    @property
    def observers(self) -> list[Observer]:
        """Those that write the outline."""
        return [self._spans]

    def done(self, r: Replay, more: Iterable[tuple[str, bytes]] = ()) -> Book:
        """The pass is over: finish the book.

        Args:
            r: what the pass found.
            more: blobs to keep beside it.
        """
        outline = Outline(
            self._spans.of,
            {p.mm: (p.mapped_peak, p.mapped_peak_seq) for p in r.processes},
            r.processes[0].pid if r.processes else None,
            r.last_seq,
            r.duration_ns,
            r.header.clock,
            r.header.page_size,
            r.complete,
            r.reason,
            trust.doubts(r),
            r.problems[0] if r.problems else None,
            r.ordered,
            self.keeper.kept,
        )
        for name, data in more:
            self.store.add(name, data)
        self._done = True
        try:
            self.store.add(_OUTLINE, msgspec.msgpack.encode(outline))
        except OverflowError:  # numbers that no kernel has: for this once, and not to be kept
            if self._file is not None:
                self._file.drop()
            return Book(self.path, self.store, outline, self._source)
        if self._file is not None:
            self._file.finish()
        return Book(self.path, self.store, outline, self._source)


def changed(path: str) -> UsageError:
    """What is said where the passes over a trace have not read the same."""
    return UsageError(f"{path} changed while it was read", hint=f"memtrace verify {quote(path)}")
