# SPDX-License-Identifier: GPL-2.0-or-later
"""The one pass over a trace: every record applied to the address space it belongs to, and checked.

Keyed by mm, never by pid. Every kernel map in the trace is compared with the replayed one, and so
is the statm total of every call. A trace may be damaged or hostile: what contradicts itself is a
`problem` with its sequence number, never an exception.
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
from memtrace.space.calls import TASK_MAX, apply, most_calls
from memtrace.space.canonical import MapsCache
from memtrace.space.compare import compare
from memtrace.space.seed import seed
from memtrace.trace.records import (
    Attach,
    Call,
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
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memtrace.replay.checkpoint import Keeper, Restored
    from memtrace.space.calls import Change
    from memtrace.trace.reader import Trace
    from memtrace.trace.records import LifeRecord

_U64 = (1 << 64) - 1
_NEVER = 1 << 63
#: More C libraries than this no address space has: dlmopen(3) makes 16 namespaces at most.
_LIBCS = 64
#: Pieces in copies at one time: as many as 5,000 forked children of 400 mappings have. A report
#: takes about a KiB for each.
_COPIED = 2_000_000
#: Engines whose times are one clock's, in the order of the records. strace tells when each call
#: began and how long it took.
_ONE_CLOCK = ("ptrace", "python-ptrace")
#: The footer's reason when memtrace detached and the processes run on.
DETACHED = "detached"


def replay(
    trace: Trace,
    observers: Iterable[Observer] = (),
    *,
    until_seq: int | None = None,
    until_t: int | None = None,
    start: Restored | None = None,
    keeper: Keeper | None = None,
) -> Replay:
    """Apply a trace's records in order, telling `observers`.

    A call has failed when it returned an errno. brk never does: it was refused when it asked for a
    break at or above start_brk and got another one. Below that, brk(0) included, it only asks where
    the break is (`SYSCALL_DEFINE1(brk)`: `if (brk < min_brk) goto out`).

    With a limit given, the processes keep their `space` and neither `died` is called for the living
    nor `end`, even when the trace ends first.

    Args:
        trace: freshly opened; it is consumed.
        observers: told of every record, in the order given.
        until_seq: stop after this record.
        until_t: stop before the first record later than this, ns since the trace's start.
        start: go on from this checkpoint. What was before it is not in the result, and what is
            missing there (who wrapped a chunk's header, an exec's arguments) is no problem of the
            trace's.
        keeper: keeps checkpoints on the way.
    """
    one = _Pass(trace, tuple(observers))
    if start is not None:
        one.restore(start)
    return one.run(until_seq, until_t, keeper)


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


class _Pass:
    """The state of one pass."""

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

    def restore(self, start: Restored) -> None:
        """Begin where a checkpoint was kept."""
        self.trace.seek(start.mark)
        self.trace.decoder.files.update((f.id, f) for f in start.files)
        self.result.tasks = start.tasks
        self.result.last_seq, self.result.last_t = start.mark.seq, start.mark.t
        for known, space in start.live:
            unknown = Exec(t=None, pid=known.pid, tid=known.pid, mm=known.mm, argv=known.argv)
            p = Process(
                known.mm, known.pid, known.ppid, unknown, None, known.born_seq, known.born_t, space
            )
            p.inherited = known.inherited
            p.index = len(self.result.processes)
            self.result.processes.append(p)
            self.result.by_mm[p.mm] = self.live[p.mm] = p

    def run(self, until_seq: int | None, until_t: int | None, keeper: Keeper | None) -> Replay:
        r, live, callers, cache = self.result, self.live, self.callers, self.cache
        on_call: list[Callable[[int, int, Call, str, Change | None], None]] = []
        names, files = self.trace.header.calls, self.trace.decoder.file
        brk = names.index("brk") if "brk" in names else -1
        page = self.trace.header.page_size
        limited = until_seq is not None or until_t is not None
        last_seq = _NEVER if until_seq is None else until_seq
        last_t = _NEVER if until_t is None else until_t
        mm: int | None = None
        p: Process = None  # type: ignore[assignment]  # of the mm of the call before
        space: AddressSpace = None  # type: ignore[assignment]  # of `p`
        made: dict[int, int] = {}  # of `p`
        most = vm_most = rss_most = offset = 0  # of `p`
        began = 0  # the first of the calls of `p` without another record between
        seq, t, homeless = r.last_seq, r.last_t, 0
        trace, mark, touched = self.trace, self.trace.mark, self.touched
        try:
            for now, when, record in trace.records():
                if limited and (now > last_seq or when > last_t):
                    r.stopped = True
                    break
                if trace.mark is not mark:
                    mark = trace.mark
                    if keeper is not None:
                        keeper.passing(mark, live, touched, r.tasks, len(trace.decoder.files))
                        mm = None
                if when < t:
                    r.ordered = False
                    self._back_in_time(now, t - when)
                seq, t = now, when
                if not isinstance(record, Call):
                    self._other(seq, t, record)
                    mm = None
                    continue
                call = record
                if call.mm != mm:
                    if call.mm not in live:
                        homeless += 1
                        self._homeless(seq, call)
                        continue
                    p = live[call.mm]
                    if p.inherited and not p.made and not self._room(seq, p, len(p.space)):
                        self._die(call.mm, seq, t)
                        continue
                    mm = call.mm
                    space, made = p.space, p.made
                    on_call = [of(p) for of in callers]
                    offset, most = p.statm_offset, p.mapped_peak
                    vm_most, rss_most = p.vm_peak, p.rss_peak
                    touched.add(mm)
                    began = seq
                    self.owners.begins(seq, p.index)
                number, args, ret, ext = call.call, call.args, call.ret, call.ext
                name = names[number]
                file = None
                if ext is not None:
                    if ext.f is not None:
                        file = files(ext.f)
                    headers = ext.h
                    if headers is None:
                        pass
                    elif len(headers) == 1 and began <= headers[0][0] < seq:
                        for tell in self.on_headers:
                            tell(p, seq, headers)
                    else:
                        self._headers(seq, headers)
                change = None
                try:
                    if ext is None and ret is not None:
                        change = most_calls(space, name, args, ret)
                    if change is None:
                        change = apply(space, name, args, ret, ext, file, cache)
                    elif not change.removed and not change.added:
                        change = None
                    if change is not None and change.conflict:
                        p.conflict(seq)
                except (ValueError, OverflowError) as e:
                    r.problem(seq, f"{name} carries no maps text: {_short(e)}")
                try:
                    made[number] += 1
                except KeyError:
                    made[number] = 1
                if ret is None:
                    pass
                elif -4096 < ret < 0 or (number == brk and _refused(space, args, ret)):
                    p.failed[number] = p.failed.get(number, 0) + 1
                total = space.total
                if total > most:
                    most = p.mapped_peak = total
                    p.mapped_peak_seq = seq
                vm, rss = call.vm, call.rss
                if vm is None:
                    p.unread += 1
                else:
                    if vm * page != total + offset:
                        p.checksum_differs(seq, vm * page - total)
                    if vm > vm_most:
                        vm_most = p.vm_peak = vm
                    if rss is not None and rss > rss_most:
                        rss_most = p.rss_peak = rss
                for hook in on_call:
                    hook(seq, t, call, name, change)
        finally:
            r.events = homeless + sum(p.events for p in r.processes)
            r.last_seq, r.last_t = seq, t
            r.duration_ns = t
        if keeper is not None:
            keeper.finish(trace.decoder, reused=self.reused)
        if until_seq is None and until_t is None:
            for p in live.values():
                self._farewell(p, seq, t)
            for hook in self.on_end:
                hook()
        if not r.stopped:
            self._finish(t)
        return r

    # -- the other records ----------------------------------------------------------------------

    def _other(self, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        if isinstance(record, Unknown):
            for hook in self.on_life:
                hook(None, seq, t, record)
            return
        if record.h is not None:
            self._headers(seq, record.h)
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
            self._die(before, seq, t)
        try:
            parsed = self.cache.parse(record.maps)
            seed(p.space, record, parsed)
        except (ValueError, OverflowError) as error:
            self.result.problem(seq, f"its map is not maps text: {_short(error)}")
        else:
            text = _damage(record, p.space, parsed)
            if text:
                self.result.problem(seq, text)
        p.counted(record.vm, record.rss)
        p.lines(len(record.maps))
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
                if not self._room(seq, p, len(space)):
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
        self._die(g.mm, seq, t)
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
            r.problem(seq, f"the snapshot is not maps text: {_short(error)}")
            return p
        p.compared(seq, s, comparison, r.header.page_size)
        p.left = p.left or s.why == "detach"
        p.counted(s.vm, s.rss)
        p.lines(len(s.maps))
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

    def _overlap(self, _seq: int, _t: int, record: Overlap) -> Process | None:
        p = self.live.get(record.mm)
        if p is not None:
            p.overlaps += 1
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

    # -- shared ---------------------------------------------------------------------------------

    def _back_in_time(self, seq: int, by: int) -> None:
        if self.trace.header.engine in _ONE_CLOCK:
            self.result.problem(seq, f"its time is {by:,} ns before that of the record before")

    def _homeless(self, seq: int, call: Call) -> None:
        dead = call.mm in self.result.by_mm
        what = "has ended" if dead else "no exec, attach or fork began"
        self.result.problem(seq, f"a call in address space {call.mm}, which {what}")

    def _room(self, seq: int, p: Process, pieces: int) -> bool:
        """Whether there may be as many pieces more, in a copy that is `p`'s. A trace says "fork" in
        one line, whatever the size of the map: only copies are not bounded by the trace's length.
        """
        if self.copied + pieces > _COPIED:
            text = f"more than {_COPIED:,} mappings in copies: address space {p.mm} is given up"
            self.result.problem(seq, text)
            return False
        self.copied += pieces
        p.copied += pieces
        return True

    def _headers(self, seq: int, headers: list[tuple[int, int]]) -> None:
        # A header belongs to the mm whose mmap had that seq, not to the record that brings it.
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

    def _die(self, mm: int, seq: int, t: int) -> None:
        self.users.pop(mm, None)
        p = self.live.pop(mm, None)
        if p is not None:
            p.died_seq, p.died_t = seq, t
            self.copied -= p.copied
            self._farewell(p, seq, t)

    def _farewell(self, p: Process, seq: int, t: int) -> None:
        p.settle(0, p.statm_offset, drifted=False)
        for hook in self.on_died:
            hook(p, seq, t)
        p.space = AddressSpace()

    def _finish(self, t: int) -> None:
        r, footer = self.result, self.trace.footer
        if footer is not None:
            r.duration_ns = max(t, footer.stop or 0)
            if footer.complete and footer.reason == DETACHED:
                for p in self.live.values():
                    p.left = True
        r.reason = _incomplete(self.trace, r)
        r.complete = not r.reason
        r.counted = r.complete and footer is not None and "records" in footer.counts


def _incomplete(trace: Trace, r: Replay) -> str:
    """Why the trace is not complete, "" if it is."""
    if trace.footer is None:
        return "the recording was cut short"
    if not trace.footer.complete:
        return trace.footer.reason or "the recording says so"
    if trace.problems_total:
        line, text = trace.problems[0]
        where = f"line {line} is damaged: " if line else ""
        return f"{where}{text}"
    if r.first_lost is not None:
        return f"{r.lost:,} events were lost, the first at event {r.first_lost}"
    counts = trace.footer.counts
    if counts.get("lost"):
        return f"its writer counted {counts['lost']:,} lost events, of which no record tells"
    for name, here in (("records", r.last_seq), ("calls", r.events)):
        written = counts.get(name, here)
        if written != here:
            return f"its writer counted {written:,} {name}, and {here:,} are here"
    return ""


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
    return ""


def _refused(space: AddressSpace, args: list[int], ret: int) -> bool:
    """Whether this brk asked for a break and did not get it."""
    asked = args[0] & _U64 if args else 0
    return asked != ret & _U64 and asked >= (space.start_brk or 1)


def _short(e: Exception) -> str:
    return str(e)[:120]


_HOOKS = ("begin", "born", "compared", "life", "headers", "died", "end")


def _hooks(observers: tuple[Observer, ...], name: str) -> tuple[Callable[..., None], ...]:
    """The observers' methods of that name, those that were not overridden left out."""
    return tuple(getattr(o, name) for o in observers if _told(o, name))


def _told(o: Observer, *names: str) -> bool:
    """Whether an observer overrides one of these."""
    return any(getattr(type(o), name) is not getattr(Observer, name) for name in names)


_APPLY: dict[type, Callable[[_Pass, int, int, Any], Process | None]] = {
    Exec: _Pass._exec,  # noqa: SLF001
    Attach: _Pass._attach,  # noqa: SLF001
    Fork: _Pass._fork,  # noqa: SLF001
    Clone: _Pass._clone,  # noqa: SLF001
    Exit: _Pass._exit,  # noqa: SLF001
    Gone: _Pass._gone,  # noqa: SLF001
    Snap: _Pass._snap,  # noqa: SLF001
    Libc: _Pass._libc,  # noqa: SLF001
    Overlap: _Pass._overlap,  # noqa: SLF001
    Lost: _Pass._lost,  # noqa: SLF001
}
