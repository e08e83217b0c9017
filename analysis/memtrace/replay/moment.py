# SPDX-License-Identifier: GPL-2.0-or-later
"""WHEN: a moment of a trace as a person names it, and the map at that moment."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

from memtrace.replay import trust
from memtrace.replay.book import Book, Outline
from memtrace.replay.engine import replay
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace
from memtrace.trace.sidecar import is_file
from memtrace.trace.sizes import format_moment, format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memtrace.replay.observer import Observer
    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay

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
    """A map at a moment.

    Attributes:
        process: its `space` is the map after `seq`.
        seq: the last record applied.
        t: its time, ns since the trace's start.
        reason: why the trace is incomplete, "" if it is not.
        drift: the first failed check up to the moment, if any: (record, what it was).
    """

    process: Process
    seq: int
    t: int
    reason: str
    drift: tuple[int, str] | None


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


def state_at(
    path: str,
    when: str,
    pid: int | None = None,
    *,
    book: Book | None = None,
    observers: Sequence[Observer] = (),
) -> State:
    """The address space that a process had at a moment.

    Without `pid`, of the first process. `start`, `peak` and `end` range over all that the process
    had, from its birth through its execs: its first map, the first maximum of mapped bytes, its
    last state.

    Args:
        path: the trace.
        when: a WHEN, see `parse_when`.
        pid: of the process.
        book: of the trace, if it has been read already.
        observers: of the pass from the nearest checkpoint to the moment.

    Raises:
        UsageError: no such moment, or no such process then.
        TraceFormatError: the trace cannot be read.
    """
    moment = parse_when(when, path)
    if moment.t is not None:
        _timed(path)
    book = book or Book.read(path)
    if book is None:
        return _straight(path, moment, pid, when)
    outline = book.outline
    if moment.name is not None:
        seq, mm = _named(outline, path, moment.name, pid)
        r = _replayed(path, book, seq, None, observers)
        p = r.by_mm.get(mm)
    else:
        _within(path, moment, outline)
        r = _replayed(path, book, moment.seq, moment.t, observers)
        pid = outline.first_pid if pid is None else pid
        p = None if pid is None else r.process_of(pid)
        if p is None:
            raise _absent(outline, path, pid, r.last_seq, when)
    if p is None:  # a trace that has changed since
        raise UsageError(f"{path} changed while it was read", hint=f"memtrace verify {quote(path)}")
    drift = outline.drift if outline.drift is not None and outline.drift[0] <= r.last_seq else None
    return State(p, r.last_seq, r.last_t, outline.reason, drift)


def _replayed(
    path: str, book: Book, seq: int | None, t: int | None, observers: Sequence[Observer]
) -> Replay:
    with Trace(path) as trace:
        return replay(trace, observers, until_seq=seq, until_t=t, start=book.near(seq, t))


def _straight(path: str, moment: Moment, pid: int | None, when: str) -> State:
    """Of what can be read but once."""
    if moment.name is not None:
        raise UsageError(
            f"{path} can be read but once, and when its {moment.name} was is known only then",
            hint=f"cat {quote(path)} > trace.json",
        )
    with Trace(path) as trace:
        r = replay(trace, until_seq=moment.seq, until_t=moment.t)
        if r.stopped:  # only the footer is wanted of the rest
            for _ in trace.records():
                pass
            complete = trace.complete and r.first_lost is None
            r.reason = "" if complete else "see memtrace verify"
    pid = r.processes[0].pid if pid is None and r.processes else pid
    p = None if pid is None else r.process_of(pid)
    if p is None:
        raise UsageError(f"no process {pid} at {when}", hint=f"cat {quote(path)} > trace.json")
    return State(p, r.last_seq, r.last_t, r.reason, trust.first_drift(r))


def _timed(path: str) -> None:
    """Refuse a time where the records have none."""
    if not is_file(path):
        return
    with Trace(path) as trace:
        if trace.header.clock == "none":
            raise UsageError(
                f"{path} has no times: the log that it was made of has none",
                hint=f"memtrace maps {quote(path)} --at peak",
            )


def _within(path: str, moment: Moment, outline: Outline) -> None:
    """Refuse a moment after the trace's last."""
    hint = f"memtrace maps {quote(path)} --at end"
    if moment.seq is not None and moment.seq > outline.last_seq:
        raise UsageError(
            f"there is no event {moment.seq} in {path}: its last is {outline.last_seq}", hint=hint
        )
    if moment.t is not None and moment.t > outline.duration_ns:
        end = format_moment(outline.duration_ns, outline.clock)
        raise UsageError(f"{path} ends at {end}, before {format_time(moment.t)}", hint=hint)


def _named(outline: Outline, path: str, name: str, pid: int | None) -> tuple[int, int]:
    """(seq, mm) of a named moment."""
    pid = outline.first_pid if pid is None else pid
    spans = outline.spans.get(pid) if pid is not None else None
    if not spans:
        raise _unknown(outline, path, pid)
    if name == "start":
        return spans[0].first, spans[0].mm
    if name == "end":
        last = spans[-1].last
        return outline.last_seq if last is None else last, spans[-1].mm
    top = max((s.mm for s in spans), key=lambda mm: outline.peaks[mm][0])  # the first of equals
    return outline.peaks[top][1], top


def _absent(outline: Outline, path: str, pid: int | None, seq: int, when: str) -> UsageError:
    """Why there is no such process at that moment."""
    spans = outline.spans.get(pid) if pid is not None else None
    if pid is None or not spans:
        return _unknown(outline, path, pid)
    first, last = spans[0].first, spans[-1].last
    lived = f"from event {first} to " + ("the end" if last is None else f"event {last}")
    near = first if seq < first else last
    return UsageError(
        f"process {pid} is not alive at {when}: it lives {lived}",
        hint=f"memtrace maps {quote(path)} --at {near} --pid {pid}",
    )


def _unknown(outline: Outline, path: str, pid: int | None) -> UsageError:
    pids = list(outline.spans)
    if not pids:
        return UsageError(f"{path} holds no process", hint=f"memtrace verify {quote(path)}")
    some = ", ".join(str(n) for n in pids[:8]) + (", ..." if len(pids) > 8 else "")
    return UsageError(
        f"no process {pid} in {path}: it has {some}",
        hint=f"memtrace maps {quote(path)} --at end --pid {pids[0]}",
    )
