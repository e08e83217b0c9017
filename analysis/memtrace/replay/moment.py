# SPDX-License-Identifier: GPL-2.0-or-later
"""WHEN: a moment of a trace as a person names it, and the map at that moment."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.replay.result import Replay
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace
from memtrace.trace.records import Clone, Exit, Fork, Gone, Start
from memtrace.trace.sizes import format_moment, format_time, parse_time

if TYPE_CHECKING:
    from memtrace.replay.process import Process
    from memtrace.trace.records import LifeRecord, Unknown

NAMES = ("start", "peak", "end")
_FORMS = "a moment is an event's number, a time like 1.5s or 20ms, start, peak or end"


@dataclass(frozen=True, slots=True)
class Moment:
    """A parsed WHEN: exactly one of `seq`, `t` (ns since the trace's start) and `name` is set."""

    seq: int | None = None
    t: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """A map at a moment: `process.space` is the state after `seq`, the last record applied."""

    process: Process
    seq: int
    replay: Replay


def parse_when(text: str, path: str = "trace.json") -> Moment:
    """Read a WHEN; `path` is the trace that a refusal's remedy names.

    Raises:
        UsageError: the text names no moment.

    >>> parse_when("17").seq, parse_when("20ms").t, parse_when("peak").name
    (17, 20000000, 'peak')
    """
    text = text.strip()
    if text in NAMES:
        return Moment(name=text)
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        return Moment(seq=int(text))
    try:
        return Moment(t=parse_time(text))
    except (ValueError, OverflowError) as e:
        raise UsageError(
            f"{text[:40]!r} names no moment: {_FORMS}",
            hint=f"memtrace maps {quote(path)} --at peak",
        ) from e


@dataclass(slots=True)
class Span:
    """The records [first, last] during which a process used one address space."""

    process: Process
    first: int
    last: int | None = None


class Spans(Observer):
    """Which address space each process had when: `of[pid]` in order of time."""

    def __init__(self) -> None:
        self.of: dict[int, list[Span]] = {}
        self._open: dict[int, Span] = {}

    def begin(self, replay: Replay) -> None:
        """See `Observer`."""
        self._replay = replay

    def life(  # the record says which processes it is about
        self, _p: Process | None, seq: int, _t: int, record: LifeRecord | Unknown
    ) -> None:
        """See `Observer`."""
        if isinstance(record, Start | Exit):
            self._update(record.pid, seq)
        elif isinstance(record, Fork):
            self._update(record.child, seq)
        elif isinstance(record, Clone):
            self._update(record.child_pid, seq)
        elif isinstance(record, Gone):
            for pid in [n for n, s in self._open.items() if s.process.mm == record.mm]:
                self._update(pid, seq)

    def _update(self, pid: int, seq: int) -> None:
        now, known = self._replay.process_of(pid), self._open.get(pid)
        if known is not None:
            if now is known.process:
                return
            known.last = seq - 1
            del self._open[pid]
        if now is not None:
            span = self._open[pid] = Span(now, seq)
            self.of.setdefault(pid, []).append(span)


def state_at(path: str, when: str, pid: int | None = None) -> State:
    """The address space that a process had at a moment.

    Without `pid`, of the first process. `start`, `peak` and `end` range over all that the process
    had, from its birth through its execs: its first map, the first maximum of mapped bytes, its
    last state.

    Raises:
        UsageError: no such moment, or no such process then.
        TraceFormatError: the trace cannot be read.
    """
    moment = parse_when(when, path)
    mm = None
    seq = moment.seq
    if moment.t is not None:
        _timed(path)
    if moment.name is not None:
        seq, mm = _named(path, moment.name, pid)
    with Trace(path) as trace:
        r = replay(trace, until_seq=seq, until_t=moment.t)
        if r.stopped:  # only the footer is wanted of the rest
            for _ in trace.records():
                pass
            r.complete = trace.complete and r.first_lost is None
            r.reason = "" if r.complete else "see memtrace verify"
    if mm is not None:
        return State(r.by_mm[mm], r.last_seq, r)
    if not r.stopped:
        _within(path, moment, r)
    if pid is None and r.processes:
        pid = r.processes[0].pid
    p = None if pid is None else r.process_of(pid)
    if p is None:
        raise _absent(path, pid, r.last_seq, when)
    return State(p, r.last_seq, r)


def _timed(path: str) -> None:
    """Refuse a time where the records have none."""
    with Trace(path) as trace:
        if trace.header.clock == "none":
            raise UsageError(
                f"{path} has no times: the log that it was made of has none",
                hint=f"memtrace maps {quote(path)} --at peak",
            )


def _within(path: str, moment: Moment, r: Replay) -> None:
    """Refuse a moment after the trace's last."""
    hint = f"memtrace maps {quote(path)} --at end"
    if moment.seq is not None and moment.seq > r.last_seq:
        raise UsageError(
            f"there is no event {moment.seq} in {path}: its last is {r.last_seq}", hint=hint
        )
    if moment.t is not None and moment.t > r.duration_ns:
        end = format_moment(r.duration_ns, r.header.clock)
        raise UsageError(f"{path} ends at {end}, before {format_time(moment.t)}", hint=hint)


def _spans(path: str) -> tuple[Replay, dict[int, list[Span]]]:
    spans = Spans()
    with Trace(path) as trace:
        r = replay(trace, [spans])
    return r, spans.of


def _named(path: str, name: str, pid: int | None) -> tuple[int, int]:
    """(seq, mm) of a named moment."""
    r, of = _spans(path)
    if pid is None and r.processes:
        pid = r.processes[0].pid
    spans = of.get(pid) if pid is not None else None
    if not spans:
        raise _unknown(path, pid, of)
    if name == "start":
        return spans[0].first, spans[0].process.mm
    if name == "end":
        last = spans[-1].last
        return r.last_seq if last is None else last, spans[-1].process.mm
    top = max((s.process for s in spans), key=lambda p: p.mapped_peak)  # the first of equals
    return top.mapped_peak_seq, top.mm


def _absent(path: str, pid: int | None, seq: int, when: str) -> UsageError:
    """Why there is no such process at that moment."""
    _, of = _spans(path)
    spans = of.get(pid) if pid is not None else None
    if pid is None:
        pid, spans = next(iter(of.items()), (None, None))
    if pid is None or not spans:
        return _unknown(path, pid, of)
    first, last = spans[0].first, spans[-1].last
    lived = f"from event {first} to " + ("the end" if last is None else f"event {last}")
    near = first if seq < first else last
    return UsageError(
        f"process {pid} is not alive at {when}: it lives {lived}",
        hint=f"memtrace maps {quote(path)} --at {near} --pid {pid}",
    )


def _unknown(path: str, pid: int | None, of: dict[int, list[Span]]) -> UsageError:
    if not of:
        return UsageError(f"{path} holds no process", hint=f"memtrace verify {quote(path)}")
    some = ", ".join(str(n) for n in list(of)[:8]) + (", ..." if len(of) > 8 else "")
    return UsageError(
        f"no process {pid} in {path}: it has {some}",
        hint=f"memtrace maps {quote(path)} --at end --pid {next(iter(of))}",
    )
