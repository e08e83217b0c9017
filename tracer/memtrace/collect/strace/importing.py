# SPDX-License-Identifier: GPL-2.0-or-later
"""A strace log into a trace file."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from memtrace.collect.abi import NAMES
from memtrace.collect.machine import memtrace_version
from memtrace.collect.redact import Redaction
from memtrace.collect.strace.clock import Clock
from memtrace.collect.strace.events import Forked
from memtrace.collect.strace.logs import Source
from memtrace.collect.strace.merging import Merged, files_of
from memtrace.collect.strace.order import Row
from memtrace.collect.strace.parser import Parser
from memtrace.collect.strace.recognise import diagnose, refuse
from memtrace.collect.strace.story import Story
from memtrace.trace.codec import encode_footer, encode_header
from memtrace.trace.records import Call, Exec, Footer, Fork, Header, Life, Lost, Start
from memtrace.trace.stream import Output

_ROWS = 2000
_HEAD = 1 << 16
DETACHED = "detached"
_SECOND = 10**9
_PID = re.compile(rb"^\[pid +(\d{1,7})\] ", re.MULTILINE)


@dataclass(slots=True)
class Imported:
    """What an import has to say.

    `reason`: why the trace is not complete, "" if it is. `unreadable`: the first lines that could
    not be read, (number, why, text). `counts`: the footer's. `heap_peak`: bytes, None if no brk was
    seen. `duration_ns`: None in a log without times. `unnamed`: a process is number 0, because no
    line tells its number.
    """

    reason: str
    counts: dict[str, int]
    unreadable: list[str]
    processes: int
    heap_peak: int | None
    duration_ns: int | None
    bytes_written: int
    clock: str
    unnamed: bool = False
    argv: list[str] = field(default_factory=list)


class _Writer:
    """Rows and records to lines of the trace; there is no file before the first of them."""

    def __init__(self, path: str, begin: Callable[[], Header], redaction: Redaction | None) -> None:
        self.output: Output | None = None
        self.timed = True
        self.last = self.stop = 0
        self.records = self.calls = self.processes = self.lost = 0
        self.unreadable: list[str] = []
        self.argv: list[str] = []
        self._path = path
        self._redaction = redaction
        self._rows: list[object] = []
        self._encoder = msgspec.json.Encoder()
        self._begin = begin

    def emit(self, content: Row | Life) -> None:
        """One record."""
        if content.__class__ is tuple:
            t, dur, task, mm, index, args, ret, ext = content
            dt = None
            if not self.timed:
                dur = None
            elif t is not None:
                if t < 0:  # a damaged line
                    t = 0
                dt = t - self.last
                self.last = t
                if t > self.stop:
                    self.stop = t
            if ext is None:
                self._rows.append((dt, dur, task.tid, mm.number, index, args, ret))
            else:
                if self._redaction is not None:
                    call = Call(dt, dur, task.tid, mm.number, index, args, ret, ext=ext)
                    ext = self._redaction.record(call).ext
                self._rows.append(
                    (dt, dur, task.tid, mm.number, index, args, ret, None, None, None, ext)
                )
            self.calls += 1
        else:
            self._life(content)  # type: ignore[arg-type]
        if len(self._rows) >= _ROWS:
            self.flush()

    def _life(self, record: Life) -> None:
        if not self.timed:
            record.t = None
        elif record.t is None:
            record.t = self.last
        else:
            record.t = self.last = max(record.t, 0)
            self.stop = max(self.stop, self.last)
        if isinstance(record, Start | Fork):
            self.processes += 1
            if not self.argv and isinstance(record, Exec):
                self.argv = record.argv
        elif isinstance(record, Lost):
            self.lost += record.count or 1
            if len(self.unreadable) < 5:
                self.unreadable.append(record.why)
        if self._redaction is not None:
            record = self._redaction.record(record)
        self._rows.append(record)

    def flush(self) -> Output:
        """Write what there is; before the first, the header."""
        output = self.output
        if output is None:
            header = self._begin()
            header.argv = list(self.argv)
            if self._redaction is not None:
                header = self._redaction.header(header)
            output = self.output = Output(self._path)
            output.write(encode_header(header))
        if self._rows:
            # A line break is never within a line: JSON spells it \n.
            lines = self._encoder.encode_lines(self._rows).replace(b"\n", b",\n")
            self.records += len(self._rows)
            self._rows.clear()
            output.write(lines)
        return output


def import_log(
    names: str | Sequence[str], path: str, *, redact: bool = False, reorder: bool = True
) -> Imported:
    """Read a strace log, write the trace `path`.

    Args:
        names: of a file, "-" for standard input, of the files of a `-ff` set, or what these begin
            with.
        path: of the trace.
        redact: keep texts of the program's own out of it.
        reorder: False: calls in the order of the lines, for comparison.

    Raises:
        TraceFormatError: it is no strace log, or holds no call of memory.
        OSError: the trace cannot be written.
    """
    names = [names] if isinstance(names, str) else list(names)
    files = _once(file for name in names for file in files_of(name))
    single = len(files) == 1 and files[0] in names
    log: _Log = _One(files[0]) if single else _Set(files)
    clock = Clock()
    redaction = Redaction() if redact else None

    def begin() -> Header:
        first = log.parsers[0]
        started = ""
        if first.epoch == "unix" and clock.first is not None:
            started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.first // _SECOND))
        clocked = first.clock if writer.timed else None
        return Header(
            version=memtrace_version(), engine="strace", started=started,
            log=os.path.basename(names[0].rstrip("/")), clock=clocked or "none",
            calls=list(NAMES),
        )  # fmt: skip

    writer = _Writer(path, begin, redaction)
    story = Story(writer.emit, clock, reorder=reorder, quoting=not redact)
    try:
        log.tell(story, writer)
        story.finish()
        if not writer.calls:
            raise refuse(log.name, log.damage or _nothing(log, story))
        return _finished(log, story, writer)
    except BaseException:
        if writer.output is not None:
            writer.output.discard()
        raise


def _once(files: Iterable[str]) -> list[str]:
    """The files, each once: a pattern of the shell may give one that was named, too."""
    return list({os.path.realpath(f) if f != "-" else f: f for f in files}.values())


class _One:
    """A log in one file."""

    def __init__(self, name: str) -> None:
        self._source = Source(name)
        self.name = self._source.name
        self.parsers = [Parser()]
        self.rough = False

    @property
    def damage(self) -> str:
        return self._source.damage

    def tell(self, story: Story, writer: _Writer) -> None:
        """All events."""
        (parser,) = self.parsers
        blocks = self._source.blocks()
        head = b""
        for block in blocks:
            head += block
            if len(head) >= _HEAD or head.count(b"\n") > 200:
                break
        if self.damage and not head.strip():
            raise refuse(self.name, self.damage)
        error = diagnose(self.name, head[:_HEAD])
        if error is not None:
            raise error
        events = parser.feed(head)
        writer.timed = parser.clock is not None
        tids: set[int] = set()
        block = head
        while True:
            story.feed(events)
            if story.waits_for_name:
                tids.update(map(int, _PID.findall(block)))
                story.seen(tids)
            following = next(blocks, None)
            if following is None:
                break
            block = following
            events = parser.feed(block)
        story.feed(parser.close())


class _Set:
    """A log in a file per thread."""

    def __init__(self, files: list[str]) -> None:
        self.name = files[0].rpartition(".")[0]
        self._merged = Merged(files)
        self.parsers = self._merged.parsers

    @property
    def damage(self) -> str:
        return self._merged.damage

    @property
    def rough(self) -> bool:
        return self._merged.rough

    def tell(self, story: Story, writer: _Writer) -> None:
        """All events."""
        for early, e in self._merged.events():
            if early and isinstance(e, Forked):
                story.ahead(e)
            else:
                story.feed((e,))


_Log = _One | _Set


def _finished(log: _Log, story: Story, writer: _Writer) -> Imported:
    reason = log.damage or story.reason
    if log.rough and story.shared and not reason:
        reason = "the order of calls of different threads is not known: without -T no end is"
    output = writer.flush()
    counts = {
        "records": writer.records, "calls": writer.calls, "snapshots": 0, "exact": 0,
        "lost": writer.lost, "overlaps": 0, "lines": sum(p.lines for p in log.parsers),
        "unreadable": story.unreadable, "foreign": story.foreign,
    }  # fmt: skip
    stop = writer.stop if writer.timed else None
    ended = DETACHED if story.detached else "the log has ended"
    footer = Footer(stop=stop, complete=not reason, reason=reason or ended, counts=counts)
    output.write(encode_footer(footer))
    output.close()
    return Imported(
        reason, counts, writer.unreadable, writer.processes, story.heap_peak, stop,
        output.bytes_written, "none" if stop is None else log.parsers[0].clock or "none",
        story.unnamed, writer.argv,
    )  # fmt: skip


def _nothing(log: _Log, story: Story) -> str:
    """Why there is nothing to import."""
    read = sum(p.lines for p in log.parsers) - story.unreadable - story.foreign
    if read > story.unreadable + story.foreign:
        return "it is a strace log, but no call of memory is in it (what did -e trace= name?)"
    return "it is no strace log: no line of it is a call as strace writes it"
