# SPDX-License-Identifier: GPL-2.0-or-later
"""The accounts of all address spaces of a trace, kept while it is replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memtrace.malloc.account import Account
from memtrace.malloc.caller import Callers, is_loader
from memtrace.malloc.tags import blob_of
from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.space.calls import Change
from memtrace.space.compare import Comparison
from memtrace.trace.reader import Trace
from memtrace.trace.records import Attach, Call, Clone, Exec, Fork, Libc, LifeRecord, Snap, Start
from memtrace.trace.records import Unknown as UnknownRecord
from memtrace.trace.sidecar import Store


class Accounts(Observer):
    """Keeps an `Account` for every address space of a replay, `of[mm]`.

    Args:
        trace: the trace that is replayed, for its table of call sites.
        store: takes what kind each region was.
    """

    def __init__(self, trace: Trace, store: Store | None = None) -> None:
        self._store = store
        self.of: dict[int, Account] = {}
        self._decoder = trace.decoder
        self._page = trace.header.page_size

    def born(self, p: Process, seq: int, t: int, record: Start | Fork) -> None:
        """Begin an account."""
        parent = None if p.parent is None else self.of.get(p.parent.mm)
        if isinstance(record, Fork) and parent is not None:
            a = Account(p, parent.callers.fork(), self._page)
            a.inherit(parent, seq)
        else:
            callers = Callers(self._decoder.sites, self._decoder.place, p.start.exe, _loader_of(p))
            a = Account(p, callers, self._page)
            if isinstance(p.start, Attach):
                a.find(seq, p.start)
            elif isinstance(p.start, Exec):
                a.begin(seq, p.start)
        self.of[p.mm] = a

    def calls_of(self, p: Process) -> Callable[[int, int, Call, str, Change | None], None]:
        """The calls of one process are told to its account."""
        return self.of[p.mm].call

    def headers(self, p: Process, seq: int, headers: Sequence[tuple[int, int]]) -> None:
        """Chunk headers."""
        a = self.of[p.mm]
        for mmap_seq, word in headers:
            a.header(seq, mmap_seq, word)

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | UnknownRecord) -> None:
        """A libc, or a new thread."""
        if p is None or p.mm not in self.of:
            return
        if isinstance(record, Libc):
            self.of[p.mm].libc(seq, record)
        elif isinstance(record, Clone):
            self.of[p.mm].clone(seq, record)

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """A snapshot."""
        self.of[p.mm].compared(seq, comparison)

    def died(self, p: Process, seq: int, t: int) -> None:
        """Close the account."""
        account = self.of[p.mm]
        account.finish()
        if self._store is not None:
            self._store.add(blob_of(p.mm), account.tags.save())


def _loader_of(p: Process) -> str:
    """The program interpreter: the other executable file of the map an exec began with; in mid-life
    there are many, and it is known by its name.
    """
    exe = p.start.exe
    for _, _, attr, _ in p.space.pieces():
        if attr.ino and attr.perms[2] == "x":
            path = p.space.paths.get((attr.dev, attr.ino), "")
            if path and path != exe and (not p.attached or is_loader(path)):
                return path
    return ""
