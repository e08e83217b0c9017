# SPDX-License-Identifier: GPL-2.0-or-later
"""WHEN: a moment of a trace as a person names it, and the map at that moment."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

import msgspec

from memtrace.replay import trust
from memtrace.replay.book import Book, Making, changed
from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.space.address_space import AddressSpace
from memtrace.space.saved import copy
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace
from memtrace.trace.sizes import exact_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memtrace.replay.book import Outline
    from memtrace.replay.process import Doubt, Process
    from memtrace.replay.result import Replay
    from memtrace.replay.spans import Span
    from memtrace.trace.records import Call, LifeRecord, Record, Unknown

NAMES = ("start", "peak", "end")
#: Seconds without their unit.
_BARE = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}")
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
        doubt: the failed check that leaves the map unproven, None if none does.
        problem: the first record up to the moment that contradicts those before it, if any:
            (seq, sentence).
    """

    process: Process
    seq: int
    t: int
    reason: str
    doubt: Doubt | None
    problem: tuple[int, str] | None

    def cautions(self, name: str = "this map") -> list[str]:
        """What is to be known of a map beside the map, in sentences; `name` says which it is."""
        said = []
        if self.reason:
            said.append(f"the trace is incomplete: {self.reason}")
        if self.doubt is not None:
            said.append(f"{name} is not proven: {self.doubt.what} (event {self.doubt.seq})")
        if self.problem is not None:
            said.append(
                f"the trace contradicts itself at event {self.problem[0]}: {self.problem[1]}"
            )
        return said


#: The line that asks for another moment, a WHEN, of a process (None: of the first).
Remedy = Callable[[str, int | None], str]


def ask_maps(path: str) -> Remedy:
    """That of `memtrace maps`."""

    def line(when: str, pid: int | None) -> str:
        return f"memtrace maps {quote(path)} --at {when}" + of_pid(pid)

    return line


def of_pid(pid: int | None) -> str:
    """The option that names a process, after a space; nothing for the first."""
    return "" if pid is None else f" --pid {pid}"


def kept_first(path: str, then: str) -> str:
    """The line that makes a file of what can be read but once, and reads that. What writes into one
    of our own descriptors only the user knows.
    """
    ours = path.startswith(("/dev/stdin", "/dev/fd/", "/proc/self/fd/"))
    return f"{'PROG ARGS...' if ours else f'cat {quote(path)}'} > trace.json && {then}"


def parse_when(text: str, path: str = "trace.json", remedy: Remedy | None = None) -> Moment:
    """Read a WHEN; `path` is the trace that a refusal names, `remedy` what it says to type.

    Raises:
        UsageError: the text names no moment.

    >>> parse_when("17").seq, parse_when("20ms").t, parse_when("peak").name
    (17, 20000000, 'peak')
    >>> parse_when("#17").seq, parse_when("1.50 MS").t, parse_when("Peak").name
    (17, 1500000, 'peak')
    """
    text = text.strip()
    if text.lower() in NAMES:
        return Moment(name=text.lower())
    digits = text.removeprefix("#")
    if digits.isascii() and digits.isdecimal() and len(digits) <= 18:
        return Moment(seq=int(digits))
    try:
        return Moment(t=parse_time(text))
    except (ValueError, OverflowError) as e:
        bare = _BARE.fullmatch(text)  # as `memtrace events` prints it
        raise UsageError(
            f"{text[:40]!r} names no moment: {_FORMS}",
            hint=(remedy or ask_maps(path))(f"{text}s" if bare else "peak", None),
        ) from e


def state_at(
    path: str,
    when: str,
    pid: int | None = None,
    *,
    book: Book | None = None,
    observers: Sequence[Observer] = (),
    remedy: Remedy | None = None,
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
        remedy: what a refusal says to type; as a rule `memtrace maps`.

    Raises:
        UsageError: no such moment, or no such process then.
        TraceFormatError: the trace cannot be read.
    """
    remedy = remedy or ask_maps(path)
    moment = parse_when(when, path, remedy)
    book = book or Book.read(path)
    if book is None:
        return _straight(path, moment, pid, when)
    outline = book.outline
    if moment.t is not None and outline.clock == "none":
        raise _timeless(path, remedy("peak", pid))
    if moment.name is not None:
        seq, mm = _named(book, path, moment.name, pid, remedy)
        r = _replayed(book, seq, None, observers)
        p = r.by_mm.get(mm)
    else:
        _within(path, moment, outline, remedy("end", pid))
        r = _replayed(book, moment.seq, moment.t, observers)
        pid = outline.first_pid if pid is None else pid
        p = None if pid is None else r.process_of(pid)
        if p is None:
            raise _absent(outline, path, pid, r.last_seq, moment, when, remedy)
    if p is None:
        raise changed(path)
    return _state(p, r.last_seq, r.last_t, outline)


def _state(p: Process, seq: int, t: int, outline: Outline) -> State:
    problem = outline.problem
    if problem is not None and problem[0] > seq:
        problem = None
    doubt = trust.doubt_at(outline.doubts.get(p.mm, ()), seq)
    return State(p, seq, t, outline.reason, doubt, problem)


def _replayed(book: Book, seq: int | None, t: int | None, observers: Sequence[Observer]) -> Replay:
    with book.again() as trace:
        r = replay(trace, observers, until_seq=seq, until_t=t, start=book.near(seq, t))
    if not r.stopped and r.last_seq < book.outline.last_seq:  # it has become shorter
        raise changed(book.path)
    return r


def _straight(path: str, moment: Moment, pid: int | None, when: str) -> State:
    """Of what can be read but once."""
    maps = ask_maps("trace.json")

    def remedy(when: str, pid: int | None) -> str:
        return kept_first(path, maps(when, pid))

    if moment.name is not None:
        raise UsageError(
            f"{path} can be read but once, and when its {moment.name} was is known only then",
            hint=remedy(moment.name, pid),
        )
    taken = _Taken(pid)
    with _Once(path, moment, taken) as trace:
        if moment.t is not None and trace.header.clock == "none":
            raise _timeless(path, remedy("peak", pid))
        making = Making(trace, large=False)
        outline = making.done(replay(trace, [taken, *making.observers])).outline
    _within(path, moment, outline, remedy("end", pid))
    p, pid = taken.process, outline.first_pid if pid is None else pid
    if p is None:
        raise _absent(outline, path, pid, taken.seq, moment, when, remedy)
    p.space = taken.space
    return _state(p, taken.seq, taken.t, outline)


class _Taken(Observer):
    """The map of a process as it is when `take` is called; without `pid`, of the first."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self.process: Process | None = None
        self.space = AddressSpace()
        self.seq = self.t = 0

    def begin(self, replay: Replay) -> None:
        """See `Observer`."""
        self._replay = replay

    def take(self, seq: int, t: int) -> None:
        """Now; `seq` and `t` are of the last record."""
        r, self.seq, self.t = self._replay, seq, t
        pid = r.processes[0].pid if self._pid is None and r.processes else self._pid
        self.process = None if pid is None else r.process_of(pid)
        if self.process is not None:
            self.space = copy(self.process.space)


class _Once(Trace):
    """A trace that is read but once, to its end: only there it is known whether it is complete, and
    which of its maps are proven. On the way, the map at a moment is taken.
    """

    def __init__(self, path: str, moment: Moment, taken: _Taken) -> None:
        super().__init__(path)
        self._moment = moment
        self._taken = taken

    def records(self) -> Iterator[tuple[int, int, Record]]:
        """See `Trace`."""
        last_seq = self._moment.seq if self._moment.seq is not None else 1 << 63
        last_t = self._moment.t if self._moment.t is not None else 1 << 63
        seq = t = 0
        records = super().records()
        for now, when, record in records:
            if now > last_seq or when > last_t:
                self._taken.take(seq, t)
                yield now, when, record
                break
            seq, t = now, when
            yield now, when, record
        else:
            self._taken.take(seq, t)
        yield from records


def _timeless(path: str, hint: str) -> UsageError:
    return UsageError(f"{path} has no times: the log that it was made of has none", hint=hint)


def _within(path: str, moment: Moment, whole: Outline, hint: str) -> None:
    """Refuse a moment after the trace's last."""
    if moment.seq is not None and moment.seq > whole.last_seq:
        raise UsageError(
            f"there is no event {moment.seq} in {path}: its last is {whole.last_seq}", hint=hint
        )
    if moment.t is not None and moment.t > whole.duration_ns:
        raise UsageError(
            f"{path} ends at {exact_time(whole.duration_ns)}, before {exact_time(moment.t)}",
            hint=hint,
        )


def _named(book: Book, path: str, name: str, pid: int | None, remedy: Remedy) -> tuple[int, int]:
    """(seq, mm) of a named moment."""
    outline = book.outline
    pid = outline.first_pid if pid is None else pid
    spans = outline.spans.get(pid) if pid is not None else None
    if not spans:
        raise _unknown(outline, path, pid, remedy)
    if name == "start":
        return spans[0].first, spans[0].mm
    if name == "end":
        last = spans[-1].last
        return outline.last_seq if last is None else last, spans[-1].mm
    return _peak(book, spans)


class _Highest(Observer):
    """The first maximum of mapped bytes of an address space, from a record on."""

    def __init__(self, mm: int, first: int) -> None:
        self._mm = mm
        self._first = first
        self.size, self.seq = -1, first

    def call(self, p: Process, seq: int, t: int, call: Call, name: str, change: object) -> None:
        """See `Observer`."""
        self._look(p, seq)

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        """See `Observer`."""
        if p is not None:
            self._look(p, seq)

    def _look(self, p: Process, seq: int) -> None:
        if p.mm == self._mm and seq >= self._first and p.space.total > self.size:
            self.size, self.seq = p.space.total, seq


def _peak(book: Book, spans: Sequence[Span]) -> tuple[int, int]:
    """(seq, mm) of the first maximum while a process used its address spaces: a vfork child uses
    its parent's for a while only.
    """
    most, at = -1, (spans[0].first, spans[0].mm)
    for span in spans:
        size, seq = book.outline.peaks[span.mm]
        if size <= most:
            continue
        if not span.first <= seq <= (book.outline.last_seq if span.last is None else span.last):
            highest = _Highest(span.mm, span.first)
            with book.again() as trace:
                start = book.near(span.first - 1, None)
                replay(trace, [highest], until_seq=span.last, start=start)
            size, seq = highest.size, highest.seq
        if size > most:
            most, at = size, (seq, span.mm)
    return at


def _absent(
    outline: Outline,
    path: str,
    pid: int | None,
    seq: int,
    moment: Moment,
    when: str,
    remedy: Remedy,
) -> UsageError:
    """Why there is no such process at that moment."""
    spans = outline.spans.get(pid) if pid is not None else None
    if pid is None or not spans:
        return _unknown(outline, path, pid, remedy)
    lives: list[Span] = []  # more than one: its number was used again
    for s in spans:
        last = lives[-1].last if lives else None
        if last is not None and s.first <= last + 1:
            lives[-1] = msgspec.structs.replace(lives[-1], last=s.last, end=s.end)
        else:
            lives.append(s)
    lived = ", ".join(_life(s, outline, timed=moment.t is not None) for s in lives[:4])
    lived += ", ..." if len(lives) > 4 else ""
    before = [s.last for s in lives if s.first <= seq]
    near = before[-1] if before else lives[0].first
    return UsageError(
        f"process {pid} is not alive at {when}: it lives {lived}",
        hint=remedy("end" if near is None else str(near), pid),
    )


def _life(s: Span, outline: Outline, *, timed: bool) -> str:
    text = f"from event {s.first} to " + ("the end" if s.last is None else f"event {s.last}")
    if timed:
        end = outline.duration_ns if s.end is None else s.end
        text += f" ({exact_time(s.begin)} to {exact_time(end)})"
    return text


def _unknown(outline: Outline, path: str, pid: int | None, remedy: Remedy) -> UsageError:
    pids = list(outline.spans)
    if not pids:
        return UsageError(f"{path} holds no process", hint=f"memtrace verify {quote(path)}")
    some = ", ".join(str(n) for n in pids[:8]) + (", ..." if len(pids) > 8 else "")
    return UsageError(
        f"no process {pid} in {path}: it has {some}",
        hint=remedy("end", pids[0]),
    )
