# SPDX-License-Identifier: GPL-2.0-or-later
"""The accounts of all address spaces of a trace, kept while it is replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memtrace.malloc.account import Account
from memtrace.malloc.beginnings import Legacy
from memtrace.malloc.caller import Callers, is_loader
from memtrace.malloc.tags import blob_of
from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.space.calls import Change
from memtrace.space.compare import Comparison
from memtrace.trace.reader import Trace
from memtrace.trace.records import (
    Allocator,
    Attach,
    Call,
    Clone,
    Exec,
    Fork,
    Libc,
    LifeRecord,
    Snap,
    Start,
    Walk,
)
from memtrace.trace.records import Unknown as UnknownRecord
from memtrace.trace.sidecar import Store

#: More rows than any trace has.
_ALL = 1 << 62


class Accounts(Observer):
    """Keeps an `Account` for every living address space of a replay; that of a forked child begins
    with the first thing that it does.

    Args:
        trace: the trace that is replayed, for its table of call sites.
        closed: takes each account when its process has died; it is not kept.
        store: takes what kind each region was.
        all_rows: every region and every step of the heap is kept until its process has died, not
            only the largest.
    """

    def __init__(
        self,
        trace: Trace,
        closed: Callable[[Account], None],
        store: Store | None = None,
        *,
        all_rows: bool = False,
    ) -> None:
        self._all_rows = all_rows
        self._closed = closed
        self._store = store
        self._of: dict[int, Account] = {}
        self._heirs: dict[int, Legacy] = {}
        self._decoder = trace.decoder
        self._page = trace.header.page_size
        self._map_limit = trace.header.max_map_count
        self._code, self._framed = trace.header.code, trace.header.frames

    def born(self, p: Process, seq: int, t: int, record: Start | Fork) -> None:
        """Begin an account."""
        if isinstance(record, Fork) and p.parent is not None:
            # A parent that has done nothing itself hands on what it was born with.
            legacy = self._heirs.get(p.parent.mm)
            self._heirs[p.mm] = legacy or self._of[p.parent.mm].legacy(p.space)
            return
        callers = Callers(
            self._decoder.sites, self._decoder.place, _mapped_exe(p), _loader_of(p),
            code=self._code, framed=self._framed,
        )  # fmt: skip
        a = Account(p, callers, self._page, p.space.next_tag if p.inherited else 1)
        if isinstance(p.start, Attach):
            a.find(seq, p.start)
        elif isinstance(p.start, Exec):
            a.begin(seq, p.start)
        self._begins(a)

    def _begins(self, a: Account) -> Account:
        a.refusals.limit = self._map_limit
        if self._all_rows:
            a.regions.most = a.heap.most_steps = _ALL
        self._of[a.p.mm] = a
        return a

    def _account(self, p: Process) -> Account:
        """Of a living process."""
        a = self._of.get(p.mm)
        if a is None:
            a = self._begins(Account.heir(p, self._heirs.pop(p.mm), self._page))
        return a

    def calls_of(self, p: Process) -> Callable[[int, int, Call, str, Change | None], None]:
        """The calls of one process are told to its account."""
        return self._account(p).call

    def headers(self, p: Process, seq: int, headers: Sequence[tuple[int, int]]) -> None:
        """Chunk headers."""
        a = self._of.get(p.mm)
        if a is not None:  # the dead are closed
            for mmap_seq, word in headers:
                a.header(seq, mmap_seq, word)

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | UnknownRecord) -> None:
        """A libc, a new thread, or a walk of the heaps."""
        if p is None:
            return
        if isinstance(record, Libc):
            self._account(p).libc(seq, record)
        elif isinstance(record, Allocator):
            self._account(p).holds(seq, record)
        elif isinstance(record, Clone):
            self._account(p).clone(seq, record)
        elif isinstance(record, Walk):
            self._account(p).walked(seq, t, record)

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """A snapshot."""
        if snap.resident is not None:
            self._account(p).looked(seq, snap)
        a = self._of.get(p.mm)
        refused = a is not None and a.refusals.enomem
        if refused or comparison.grown or comparison.drift is not None:
            self._account(p).compared(seq, comparison, snap.maps)

    def died(self, p: Process, seq: int, t: int) -> None:
        """Close the account."""
        account = self._account(p)
        account.finish()
        if self._store is not None:
            self._store.add(blob_of(p.mm), account.tags.save())
        del self._of[p.mm]
        self._closed(account)


def _mapped_exe(p: Process) -> str:
    """The program's file as maps names it: show_map_vma escapes a newline, readlink does not."""
    return p.start.exe.replace("\n", r"\012")


def _loader_of(p: Process) -> str:
    """The program interpreter: the other executable file of the map an exec began with; in mid-life
    there are many, and it is known by its name.
    """
    exe = _mapped_exe(p)
    if is_loader(exe) and not p.attached:
        return exe  # `ld.so program`: it maps the program, too
    for _, _, attr, _ in p.space.pieces():
        if attr.is_file and attr.perms[2] == "x":
            path = p.space.paths.get((attr.dev, attr.ino), "")
            if path and path != exe and (not p.attached or is_loader(path)):
                return path
    return ""
