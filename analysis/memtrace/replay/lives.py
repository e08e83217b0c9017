# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a pass over a trace, and what every record but a call does to it: the births, lives
and deaths of address spaces, and the kernel's maps of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.replay.result import Replay
from memtrace.space.address_space import AddressSpace
from memtrace.space.calls import TASK_MAX
from memtrace.space.canonical import MapsCache
from memtrace.space.compare import compare
from memtrace.space.seed import seed
from memtrace.trace.records import (
    Allocator,
    Attach,
    Clone,
    Exec,
    Exit,
    Fork,
    Gone,
    Libc,
    Lost,
    Overlap,
    Snap,
    Start,
    Unknown,
    Walk,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memtrace.trace.reader import Trace
    from memtrace.trace.records import LifeRecord

_NEVER = 1 << 63
#: More C libraries than this no address space has: dlmopen(3) makes 16 namespaces at most.
_LIBCS = 64
#: Pieces in copies at one time: as many as 5,000 forked children of 400 mappings have. A report
#: takes about a KiB for each.
COPIED = 2_000_000


class _Owners:
    """Which process each record belonged to, as runs of equal owners."""

    __slots__ = ("_index", "_starts")

    def __init__(self) -> None:
        self._starts = array("Q")
        self._index = array("L")

    def begins(self, seq: int, index: int) -> None:
        if not self._index or self._index[-1] != index:
            self._starts.append(seq)
            self._index.append(index)

    def of(self, seq: int) -> int | None:
        i = bisect_right(self._starts, seq) if 0 <= seq < _NEVER else 0
        return self._index[i - 1] if i else None


class Lives:
    """The state of one pass.

    Args:
        trace: freshly opened.
        observers: told of every record, in the order given.

    Attributes:
        result: what has been found.
        cache: parses maps.
        live: the living, by mm.
        callers: give what is to be told of the calls of a process.
        on_headers, on_end: hooks of that name.
        owners: of the calls.
        touched: mms whose map may have changed since the last checkpoint.
        reused: an address space began with the number of another.
    """

    def __init__(self, trace: Trace, observers: tuple[Observer, ...]) -> None:
        self.trace = trace
        self.result = Replay(trace.header)
        self.cache = MapsCache()
        self.live: dict[int, Process] = {}
        self.gone: set[int] = set()
        self.reused = False  # an address space began with the number of another
        self.users: dict[int, set[int]] = {}  # of each mm that more than one process has used
        self.owners = _Owners()
        self.copied = 0  # pieces that forked children have beside their parents', at most
        self.touched: set[int] = set()  # mms whose map may have changed since the last checkpoint
        hooks = {name: _hooks(observers, name) for name in _HOOKS}
        self.on_born, self.on_died = hooks["born"], hooks["died"]
        self.on_compared = hooks["compared"]
        self.callers = tuple(o.calls_of for o in observers if _told(o, "call", "calls_of"))
        self.on_life, self.on_headers = hooks["life"], hooks["headers"]
        self.on_end = hooks["end"]
        for hook in hooks["begin"]:
            hook(self.result)

    # -- records --------------------------------------------------------------------------------

    def apply(self, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        """Any record but a call."""
        if isinstance(record, Unknown):
            for hook in self.on_life:
                hook(None, seq, t, record)
            return
        if record.h is not None:
            self.headers(seq, record.h)
        p = _APPLY[record.__class__](self, seq, t, record)
        for hook in self.on_life:
            hook(p, seq, t, record)

    def _exec(self, seq: int, t: int, e: Exec) -> Process | None:
        r = self.result
        before = r.tasks.mm_of.get(e.pid)
        if e.mm in r.by_mm:
            r.problem(seq, f"an exec into address space {e.mm}, which exists already")
            self.reused = True
            return None
        parent = None if before is None else r.by_mm.get(before)
        p = Process(e.mm, e.pid, e.ppid, e, parent, seq, t, AddressSpace())
        if p.ppid is None and parent is not None:
            p.ppid = parent.ppid if parent.pid == e.pid else parent.pid
        return self._begin(seq, t, e, p)

    def _attach(self, seq: int, t: int, a: Attach) -> Process | None:
        r = self.result
        if a.mm in r.by_mm:
            r.problem(seq, f"an attach to address space {a.mm}, which is known already")
            self.reused = True
            return None
        if a.pid in r.tasks.mm_of:
            r.problem(seq, f"an attach to process {a.pid}, which is known already")
        parent = None if a.ppid is None else r.process_of(a.ppid)
        p = Process(a.mm, a.pid, a.ppid, a, parent, seq, t, AddressSpace())
        return self._begin(seq, t, a, p)

    def _begin(self, seq: int, t: int, record: Exec | Attach, p: Process) -> Process:
        """An address space that the record shows whole: by exec, or older than the trace."""
        tasks = self.result.tasks
        before = tasks.mm_of.get(record.pid)
        tasks.apply(record)
        if before is not None and before not in tasks.users:
            self.die(before, seq, t)
        try:
            parsed = self.cache.parse(record.maps)
            seed(p.space, record, parsed)
        except (ValueError, OverflowError) as error:
            self.result.problem(seq, f"its map is not maps text: {short(error)}")
        else:
            text = _damage(record, p.space, parsed)
            if text:
                self.result.problem(seq, text)
        p.counted(record.vm, record.rss)
        p.lines(len(record.maps), seq)
        return self._born(p, seq, t, record)

    def _fork(self, seq: int, t: int, f: Fork) -> Process | None:
        r = self.result
        if f.child_mm in r.by_mm:
            r.problem(seq, f"a fork into address space {f.child_mm}, which exists already")
            self.reused = True
            return None
        r.tasks.apply(f)
        parent = self.live.get(f.mm)
        if parent is None:
            r.problem(seq, f"a fork of address space {f.mm}, which is not there")
            nothing = Exec(t=t, pid=f.child, tid=f.child, mm=f.child_mm)
            p = Process(f.child_mm, f.child, f.pid, nothing, None, seq, t, AddressSpace())
        else:
            space = parent.space.fork()
            p = Process(f.child_mm, f.child, f.pid, parent.start, parent, seq, t, space)
            p.libcs = list(parent.libcs)
            p.statm_offset = parent.statm_offset
            if space.store != parent.lent or parent.space.store != parent.lent:
                parent.lent = parent.space.store  # what it may keep when the parent changes
                if not self.room(seq, p, len(space)):
                    return None
        p.inherited = True
        return self._born(p, seq, t, f)

    def _born(self, p: Process, seq: int, t: int, record: Start | Fork) -> Process:
        r = self.result
        p.index = len(r.processes)
        p.names = r.header.calls
        p.pids.append(p.pid)
        p.mapped_peak, p.mapped_peak_seq = p.space.total, seq
        r.processes.append(p)
        r.by_mm[p.mm] = self.live[p.mm] = p
        self.touched.add(p.mm)
        for hook in self.on_born:
            hook(p, seq, t, record)
        return p

    def _clone(self, seq: int, _t: int, c: Clone) -> Process | None:
        p = self.live.get(c.mm)
        if p is None:
            self.result.problem(seq, f"a clone in address space {c.mm}, which is not there")
            return None
        self.result.tasks.apply(c)
        if c.child_pid != c.pid:
            users = self.users.get(c.mm)
            if users is None:
                users = self.users[c.mm] = set(p.pids)
            if c.child_pid not in users:
                users.add(c.child_pid)
                p.pids.append(c.child_pid)
        return p

    def _exit(self, _seq: int, _t: int, e: Exit) -> Process | None:
        p = self.result.by_mm.get(e.mm)
        self.result.tasks.apply(e)
        if p is not None and e.tid == e.pid == p.pid:
            p.exit_code, p.exit_signal = e.code, e.signal
        return p

    def _gone(self, seq: int, t: int, g: Gone) -> Process | None:
        self.result.tasks.apply(g)
        if g.mm not in self.result.by_mm:
            self.result.problem(seq, f"the end of address space {g.mm}, which never began")
        elif g.mm in self.gone:
            self.result.problem(seq, f"a second end of address space {g.mm}")
        self.gone.add(g.mm)
        self.die(g.mm, seq, t)
        return self.result.by_mm.get(g.mm)

    def _snap(self, seq: int, t: int, s: Snap) -> Process | None:
        r = self.result
        p = self.live.get(s.mm)
        if p is None:
            r.problem(seq, f"a snapshot of address space {s.mm}, which is not there")
            return None
        self.touched.add(s.mm)
        try:
            comparison = compare(p.space, s.maps, self.cache, seq, s.mm, s.why)
        except (ValueError, OverflowError) as error:
            r.problem(seq, f"the snapshot is not maps text: {short(error)}")
            return p
        p.compared(seq, s, comparison, r.header.page_size)
        p.left = p.left or s.why == "detach"
        p.counted(s.vm, s.rss)
        p.lines(len(s.maps), seq)
        if comparison.runs > p.canonical_peak:
            p.canonical_peak = comparison.runs
        if p.space.total > p.mapped_peak:
            p.mapped_peak, p.mapped_peak_seq = p.space.total, seq
        for hook in self.on_compared:
            hook(p, seq, t, s, comparison)
        return p

    def _libc(self, seq: int, _t: int, record: Libc) -> Process | None:
        p = self.live.get(record.mm)
        same = (record.path, record.name, record.version)
        if p is not None and all((k.path, k.name, k.version) != same for k in p.libcs):
            if len(p.libcs) < _LIBCS:
                p.libcs.append(record)
            else:
                self.result.problem(seq, f"address space {p.mm} has more than {_LIBCS} C libraries")
                return None
        return p

    def _allocator(self, _seq: int, _t: int, record: Allocator) -> Process | None:
        return self.live.get(record.mm)

    def _overlap(self, _seq: int, _t: int, record: Overlap) -> Process | None:
        p = self.live.get(record.mm)
        if p is not None:
            p.overlaps += 1
        return p

    def _walk(self, seq: int, _t: int, record: Walk) -> Process | None:
        p = self.live.get(record.mm)
        if p is None:
            text = f"a walk of the heaps of address space {record.mm}, which is not there"
            self.result.problem(seq, text)
        return p

    def _lost(self, seq: int, _t: int, record: Lost) -> Process | None:
        r = self.result
        r.lost += max(record.count or 1, 1)
        if r.first_lost is None:
            r.first_lost = seq
        p = None if record.mm is None else r.by_mm.get(record.mm)
        if p is not None:
            p.lost += 1
        return p

    def room(self, seq: int, p: Process, pieces: int) -> bool:
        """Whether there may be as many pieces more, in a copy that is `p`'s. A trace says "fork" in
        one line, whatever the size of the map: only copies are not bounded by the trace's length.
        """
        if self.copied + pieces > COPIED:
            text = f"more than {COPIED:,} mappings in copies: address space {p.mm} is given up"
            self.result.problem(seq, text)
            return False
        self.copied += pieces
        p.copied += pieces
        return True

    def headers(self, seq: int, headers: list[tuple[int, int]]) -> None:
        """The chunk headers that a record brings: each belongs to the mm whose mmap had its seq."""
        if len(headers) == 1 and headers[0][0] < seq:
            index = self.owners.of(headers[0][0])
            if index is not None:
                for hook in self.on_headers:
                    hook(self.result.processes[index], seq, headers)
                return
        groups: dict[int, list[tuple[int, int]]] = {}
        for h in headers:
            index = self.owners.of(h[0]) if h[0] < seq else None
            if index is None:
                self.result.problem(seq, f"a chunk header of event {h[0]}, which is no call before")
            else:
                groups.setdefault(index, []).append(h)
        for index, group in groups.items():
            for hook in self.on_headers:
                hook(self.result.processes[index], seq, group)

    def die(self, mm: int, seq: int, t: int) -> None:
        """An address space ends, or is given up."""
        self.users.pop(mm, None)
        p = self.live.pop(mm, None)
        if p is not None:
            p.died_seq, p.died_t = seq, t
            self.copied -= p.copied
            self.farewell(p, seq, t)

    def farewell(self, p: Process, seq: int, t: int) -> None:
        """The last moment of its map."""
        p.settle(0, p.statm_offset, drifted=False)
        for hook in self.on_died:
            hook(p, seq, t)
        p.space = AddressSpace()


def _damage(record: Start, space: AddressSpace, parsed: Sequence[tuple[int, int, Any, str]]) -> str:
    """What in a map or in the facts of an attach cannot be, "" if nothing."""
    if any(a[1] > b[0] for a, b in pairwise(sorted(parsed))):
        return "the lines of its map overlap"
    if not isinstance(record, Attach):
        return ""
    for name in ("dontfork", "growsdown"):
        if any(not 0 <= low < high <= TASK_MAX for low, high in getattr(record, name)):
            return f"its {name} ranges are no ranges"
    if any(space.at(address) is None for address, _ in record.chunks):
        return "it has a chunk header where nothing is mapped"
    if any(space.at(address) is None for address, _, _ in record.groups):
        return "it has a group of musl's malloc where nothing is mapped"
    return ""


def short(e: Exception) -> str:
    """What an error says, as far as a sentence has room for it."""
    return str(e)[:120]


_HOOKS = ("begin", "born", "compared", "life", "headers", "died", "end")


def _hooks(observers: tuple[Observer, ...], name: str) -> tuple[Callable[..., None], ...]:
    """The observers' methods of that name, those that were not overridden left out."""
    return tuple(getattr(o, name) for o in observers if _told(o, name))


def _told(o: Observer, *names: str) -> bool:
    """Whether an observer overrides one of these."""
    return any(getattr(type(o), name) is not getattr(Observer, name) for name in names)


_APPLY: dict[type, Callable[[Lives, int, int, Any], Process | None]] = {
    Exec: Lives._exec,  # noqa: SLF001
    Attach: Lives._attach,  # noqa: SLF001
    Fork: Lives._fork,  # noqa: SLF001
    Clone: Lives._clone,  # noqa: SLF001
    Exit: Lives._exit,  # noqa: SLF001
    Gone: Lives._gone,  # noqa: SLF001
    Snap: Lives._snap,  # noqa: SLF001
    Libc: Lives._libc,  # noqa: SLF001
    Allocator: Lives._allocator,  # noqa: SLF001
    Overlap: Lives._overlap,  # noqa: SLF001
    Walk: Lives._walk,  # noqa: SLF001
    Lost: Lives._lost,  # noqa: SLF001
}
