# SPDX-License-Identifier: GPL-2.0-or-later
"""Which address space each process had when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from memtrace.replay.observer import Observer
from memtrace.trace.records import Clone, Exit, Fork, Gone, Start

if TYPE_CHECKING:
    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay
    from memtrace.trace.records import LifeRecord, Unknown


class Span(msgspec.Struct, array_like=True):
    """The records [first, last] during which a process used the address space `mm`; `last` is None
    if it does at the end of the trace. In time that is [`begin`, `end`), ns since its start.
    """

    mm: int
    first: int
    begin: int
    last: int | None = None
    end: int | None = None


class Spans(Observer):
    """Which address spaces each process had: `of[pid]` in order of time."""

    def __init__(self) -> None:
        self.of: dict[int, list[Span]] = {}
        self._open: dict[int, Span] = {}
        self._users: dict[int, set[int]] = {}

    def begin(self, replay: Replay) -> None:
        """See `Observer`."""
        self._replay = replay

    def life(  # the record says which processes it is about
        self, _p: Process | None, seq: int, t: int, record: LifeRecord | Unknown
    ) -> None:
        """See `Observer`."""
        if isinstance(record, Start | Exit):
            self._update(record.pid, seq, t)
        elif isinstance(record, Fork):
            self._update(record.child, seq, t)
        elif isinstance(record, Clone):
            self._update(record.child_pid, seq, t)
        elif isinstance(record, Gone):
            for pid in list(self._users.get(record.mm, ())):
                self._update(pid, seq, t)

    def _update(self, pid: int, seq: int, t: int) -> None:
        now, known = self._replay.process_of(pid), self._open.get(pid)
        if known is not None:
            if now is not None and now.mm == known.mm:
                return
            known.last, known.end = seq - 1, t
            del self._open[pid]
            self._users[known.mm].discard(pid)
        if now is not None:
            span = self._open[pid] = Span(now.mm, seq, t)
            self._users.setdefault(now.mm, set()).add(pid)
            self.of.setdefault(pid, []).append(span)
