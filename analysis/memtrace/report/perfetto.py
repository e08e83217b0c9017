# SPDX-License-Identifier: GPL-2.0-or-later
"""A trace as Chrome trace events, which the Perfetto UI opens (docs/exports.md).

The rules are those of the "Trace Event Format": an object with `traceEvents`, whose times are
microseconds; counters (`C`), instants (`i`), metadata (`M`), and of each region's life an
asynchronous slice (`b`, `n`, `e`), because lives overlap as slices of a thread may not. Begin and
end have the same `cat`, `id` and `pid`; a viewer has a row of tracks for each name, so that the
name is the region's kind.
"""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from memtrace.malloc.tags import CARVED, Cuts, Kinds
from memtrace.replay.calltext import called
from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.report.build import of_process, read_both
from memtrace.report.lines import clean
from memtrace.report.tables import cautions, encode, spooled
from memtrace.space.canonical import PLAIN
from memtrace.trace.errors import UsageError
from memtrace.trace.records import Snap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay
    from memtrace.report.model import MoveRow, ProcessRow, Report
    from memtrace.space.address_space import Piece
    from memtrace.space.calls import Change
    from memtrace.space.compare import Comparison
    from memtrace.trace.records import Call, Fork, LifeRecord, Start, Unknown

#: The counter's series that a kind counts in; all others are "other".
GROUPS = {"heap": "heap", "malloc-chunk": "malloc-chunk", "arena": "arena", "main-arena": "arena"}
_NOTHING = dict.fromkeys(("heap", "malloc-chunk", "arena", "other"), 0)
_CLOSED = PLAIN["---p"]
_NAME = 200
Event = dict[str, Any]


def stream(path: str, pid: int | None, said: list[str]) -> Iterator[bytes]:
    """The trace as one JSON object, event by event in the order of their times.

    Args:
        path: the trace.
        pid: only of this process.
        said: takes what there is to be warned of.

    Raises:
        TraceFormatError: the trace cannot be read.
        UsageError: it is no file, or has no such process.
    """
    found = read_both(path)
    if found is None:
        raise UsageError(
            f"{path} can be read only once, and a timeline takes more",
            hint=f"cat {quote(path)} > copy.json; memtrace export copy.json --to perfetto",
        )
    report, book, kinds = found
    if pid is not None:
        report = of_process(report, pid)
        if not report.processes:
            raise UsageError(f"no process {pid} in {path}", hint=f"memtrace report {quote(path)}")

    def write(out: Callable[[bytes], object]) -> None:
        timeline = Timeline(out, kinds, report, wanted=pid is not None)
        out(b'{"displayTimeUnit":"ns","traceEvents":[')
        with book.again() as trace:
            done = replay(trace, [Cuts(book.outline.page_size), timeline])
        said.extend(cautions(done))
        out(b'\n],"otherData":' + encode(_about(report, done, timeline.late)) + b"}\n")

    return spooled(write)


def _about(report: Report, done: Replay, late: int) -> dict[str, Any]:
    """What there is to know of the whole."""
    times = "time since the trace's start" if done.timed else "no times: the records' numbers"
    return {
        "source": "memtrace export",
        "program": clean(" ".join(report.argv))[:_NAME],
        "engine": report.trace.engine,
        "kernel": clean(report.kernel),
        "clock": report.trace.clock,
        "times": times,
        "records": done.last_seq,
        "calls": done.events,
        "complete": done.complete,
        "trust": clean(report.trust),
        "times_moved_up": late,
    }


class _Life:
    """A region that is mapped."""

    __slots__ = ("bytes", "id", "kind")

    def __init__(self, number: int, kind: str, size: int) -> None:
        self.id, self.kind, self.bytes = f"0x{number:x}", kind, size


class _Space:
    """An address space, as far as it is on the timeline."""

    __slots__ = ("counters", "lives", "opened", "pid", "sizes", "twin")

    def __init__(self, pid: int, twin: int | None) -> None:
        self.pid = pid
        #: Its number, if the process has another one at the same time.
        self.twin = twin
        self.lives: dict[int, _Life] = {}
        self.sizes = dict(_NOTHING)
        self.opened = 0
        self.counters: dict[str, dict[str, int]] = {}


class Timeline(Observer):
    """Writes the events of a pass.

    Args:
        out: takes the bytes.
        kinds: what each region was.
        report: of the trace.
        wanted: only the processes of the report.

    Attributes:
        late: how many records were earlier than the one before: in a trace of another tool's times
            they stand where the one before does.
    """

    def __init__(
        self, out: Callable[[bytes], object], kinds: Kinds, report: Report, *, wanted: bool
    ) -> None:
        self._out, self._kinds, self._page = out, kinds, report.page_size
        self._spaces: dict[int, _Space] = {}
        self._named: set[tuple[int, int]] = set()
        self._number = 0
        self._separator = b"\n"
        self._ts: float = 0
        self.late = 0
        self._initial: dict[int, int] = {}
        self._mms: set[int] | None = set() if wanted else None
        due: list[tuple[int, int, Callable[[_Space], None]]] = []
        for p in report.processes:
            due += self._due(p)
        due.sort(key=lambda one: one[0], reverse=True)
        self._pending = due

    def _due(self, p: ProcessRow) -> Iterator[tuple[int, int, Callable[[_Space], None]]]:
        """What the report tells of moments: record, address space, what to write then."""
        if self._mms is not None:
            self._mms.add(p.mm)
        t = p.threshold
        if t.initial is not None:
            self._initial[p.mm] = t.initial
        for move in t.history:
            yield move.seq, p.mm, self._moved(move)
        if t.history and t.last_move is not None and t.last_move > t.history[-1].seq:
            last = {"low": t.low, "high": t.high}
            yield t.last_move, p.mm, lambda space: self._threshold(space, last)
        for f in p.findings:
            args = {
                "rule": f.rule, "severity": f.severity, "message": clean(f.message),
                "evidence": f.evidence, "remedy": clean(f.remedy),
            }  # fmt: skip
            seq = f.evidence[0] if f.evidence else p.born_seq
            yield seq, p.mm, self._found(clean(f.title)[:_NAME], args)

    def _moved(self, move: MoveRow) -> Callable[[_Space], None]:
        def write(space: _Space) -> None:
            values = {"low": move.low, "high": move.high}
            self._threshold(space, values)
            more = {"seq": move.seq, "cause": move.cause, **values}
            self._instant(space.pid, "threshold", "threshold", more)

        return write

    def _threshold(self, space: _Space, values: dict[str, int | None]) -> None:
        known = {name: n for name, n in values.items() if n is not None}
        if known:
            self._count(space, "threshold", known)

    def _found(self, title: str, args: dict[str, Any]) -> Callable[[_Space], None]:
        return lambda space: self._instant(space.pid, title, "finding", args)

    # -- what happens ---------------------------------------------------------------------------

    def begin(self, replay: Replay) -> None:
        """See `Observer`."""
        self._result = replay

    def born(self, p: Process, seq: int, t: int, record: Start | Fork) -> None:
        """See `Observer`."""
        if self._mms is not None and p.mm not in self._mms:
            return
        self._at(seq, t)
        # Another address space of this process may live on: until an exec is seen through, or in
        # a child that shares it. The two do not share counters.
        twin = any(other.pid == p.pid for other in self._spaces.values())
        space = self._spaces[p.mm] = _Space(p.pid, p.mm if twin else None)
        name = clean(p.exe.rpartition("/")[2] or (p.argv[0] if p.argv else ""))[:_NAME]
        self._name("process_name", p.pid, p.pid, name=name)
        self._name("process_labels", p.pid, p.pid, labels=clean(" ".join(p.argv))[:_NAME])
        self._name("process_sort_index", p.pid, p.pid, sort_index=p.index)
        self._thread(p.pid, p.pid)
        self._follow(p.mm, space, (), p.space.pieces(), seq)
        self._count_all(space)
        initial = self._initial.get(p.mm)
        if initial is not None:
            self._count(space, "threshold", {"low": initial, "high": initial})
        self._resident(space, getattr(record, "rss", None))
        self._tell(seq)

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        """See `Observer`."""
        space = self._spaces.get(p.mm)
        if space is None:
            return
        self._at(seq, t)
        pid = self._result.tasks.pid_of.get(call.tid, p.pid)
        self._thread(pid, call.tid)
        text = called(name, call.args, call.ret)
        args: dict[str, Any] = {"seq": seq, "call": clean(text)}
        if call.dur is not None:
            args["dur_ns"] = call.dur
        self._write(
            {"name": name, "cat": "call", "ph": "i", "s": "t", "pid": pid, "tid": call.tid,
             "ts": self._ts, "args": args}
        )  # fmt: skip
        if change is not None:
            self._follow(p.mm, space, change.removed, change.added, seq)
            self._count_all(space)
        self._resident(space, call.rss)
        self._tell(seq)

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """See `Observer`."""
        space = self._spaces.get(p.mm)
        if space is None:
            return
        self._at(seq, t)
        if comparison.grown or comparison.drift is not None:
            self._again(p, space, seq)
        self._resident(space, snap.rss)
        args = {"seq": seq, "why": clean(snap.why), "exact": comparison.drift is None}
        self._instant(space.pid, "snapshot", "snapshot", args)
        self._tell(seq)

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        """See `Observer`."""
        space = None if p is None else self._spaces.get(p.mm)
        if space is not None and not isinstance(record, Snap):
            self._at(seq, t)
            name = clean(str(getattr(record, "rec", None) or record.__struct_config__.tag))
            self._instant(space.pid, name, "record", {"seq": seq})
        self._tell(seq)

    def died(self, p: Process, seq: int, t: int) -> None:
        """See `Observer`."""
        space = self._spaces.pop(p.mm, None)
        if space is None:
            return
        self._at(seq, t)
        self._tell(seq, space, p.mm)
        for life in space.lives.values():
            self._async("e", space.pid, life, {"seq": seq, "alive_at_end": True})
        space.sizes, space.opened = dict(_NOTHING), 0
        self._count_all(space)
        for name in ("resident", "threshold"):  # a line would go on for ever
            if name in space.counters:
                self._count(space, name, dict.fromkeys(space.counters[name], 0))

    # -- regions --------------------------------------------------------------------------------

    def _follow(
        self, mm: int, space: _Space, removed: Iterable[Piece], added: Iterable[Piece], seq: int
    ) -> None:
        """Pieces went and came: regions begin, end, change their size."""
        deltas: dict[int, int] = {}
        lows: dict[int, int] = {}
        for pieces, sign in ((removed, -1), (added, 1)):
            for start, end, attr, piece_tag in pieces:
                tag, size = piece_tag & (CARVED - 1), sign * (end - start)
                deltas[tag] = deltas.get(tag, 0) + size
                if sign > 0:
                    lows[tag] = min(start, lows.get(tag, start))
                if attr.accessible and self._kinds.of(mm, tag) == "arena":
                    space.opened += size
        for tag, delta in deltas.items():
            life = space.lives.get(tag)
            change = delta
            if not delta or (life is None and delta < 0):
                continue
            if life is None:
                self._number += 1
                life = space.lives[tag] = _Life(self._number, self._kinds.of(mm, tag), 0)
                args = {"seq": seq, "start": f"{lows.get(tag, 0):#x}", "bytes": delta}
                self._async("b", space.pid, life, args)
            elif life.bytes + delta > 0:
                self._async("n", space.pid, life, {"seq": seq, "bytes": life.bytes + delta})
            else:
                change = -life.bytes
                self._async("e", space.pid, life, {"seq": seq})
                del space.lives[tag]
            life.bytes += change
            space.sizes[GROUPS.get(life.kind, "other")] += change

    def _again(self, p: Process, space: _Space, seq: int) -> None:
        """The map is the kernel's now."""
        space.opened = 0
        gone = [(0, life.bytes, _CLOSED, tag) for tag, life in space.lives.items()]
        self._follow(p.mm, space, gone, p.space.pieces(), seq)
        self._count_all(space)

    # -- events ---------------------------------------------------------------------------------

    def _at(self, seq: int, t: int) -> None:
        """The moment of what follows; never before what was written."""
        now = t / 1000 if self._result.timed else seq
        if now < self._ts:
            self.late += 1
        else:
            self._ts = now

    def _tell(self, seq: int, dying: _Space | None = None, mm: int | None = None) -> None:
        """What the report tells of the records up to this one."""
        pending = self._pending
        while pending and pending[-1][0] <= seq:
            _, whose, write = pending.pop()
            space = dying if whose == mm else self._spaces.get(whose)
            if space is not None:
                write(space)

    def _count_all(self, space: _Space) -> None:
        self._count(space, "mapped", dict(space.sizes))
        if space.opened or "arena opened" in space.counters:
            self._count(space, "arena opened", {"bytes": space.opened})

    def _count(self, space: _Space, name: str, values: dict[str, int]) -> None:
        if space.counters.get(name) == values:
            return
        space.counters[name] = values
        event = {"name": name, "ph": "C", "pid": space.pid, "ts": self._ts, "args": values}
        self._write(event if space.twin is None else event | {"id": f"0x{space.twin:x}"})

    def _resident(self, space: _Space, pages: int | None) -> None:
        if pages is not None:
            self._count(space, "resident", {"bytes": max(pages, 0) * self._page})

    def _async(self, phase: str, pid: int, life: _Life, args: dict[str, Any]) -> None:
        self._write(
            {"name": life.kind, "cat": life.kind, "ph": phase, "id": life.id, "pid": pid,
             "tid": pid, "ts": self._ts, "args": args}
        )  # fmt: skip

    def _instant(self, pid: int, name: str, cat: str, args: dict[str, Any]) -> None:
        self._write(
            {"name": name, "cat": cat, "ph": "i", "s": "p", "pid": pid, "tid": pid, "ts": self._ts,
             "args": args}
        )  # fmt: skip

    def _thread(self, pid: int, tid: int) -> None:
        if (pid, tid) not in self._named:
            self._named.add((pid, tid))
            name = "main thread" if pid == tid else f"thread {tid}"
            self._name("thread_name", pid, tid, name=name)

    def _name(self, what: str, pid: int, tid: int, **args: str | int) -> None:
        self._write({"name": what, "ph": "M", "pid": pid, "tid": tid, "ts": self._ts, "args": args})

    def _write(self, event: Event) -> None:
        self._out(self._separator + encode(event))
        self._separator = b",\n"
