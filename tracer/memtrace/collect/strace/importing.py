# SPDX-License-Identifier: GPL-2.0-or-later
"""A strace log into a trace file."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from memtrace.collect.abi import NAMES
from memtrace.collect.machine import memtrace_version
from memtrace.collect.redact import Redaction
from memtrace.collect.strace.clock import Clock
from memtrace.collect.strace.logs import Source
from memtrace.collect.strace.order import Row
from memtrace.collect.strace.parser import Parser
from memtrace.collect.strace.recognise import diagnose, refuse
from memtrace.collect.strace.story import Story
from memtrace.trace.codec import encode_footer, encode_header
from memtrace.trace.records import Call, Exec, Footer, Header, Life, Lost, Start
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
    seen. `duration_ns`: None in a log without times.
    """

    reason: str
    counts: dict[str, int]
    unreadable: list[str]
    processes: int
    heap_peak: int | None
    duration_ns: int | None
    bytes_written: int
    clock: str
    argv: list[str] = field(default_factory=list)


class _Writer:
    """Rows and records to lines of the trace."""

    def __init__(
        self, output: Output, begin: Callable[[], Header], redaction: Redaction | None
    ) -> None:
        self.output = output
        self.timed = True
        self.last = self.stop = 0
        self.records = self.calls = self.processes = self.lost = 0
        self.unreadable: list[str] = []
        self.argv: list[str] = []
        self._redaction = redaction
        self._rows: list[object] = []
        self._encoder = msgspec.json.Encoder()
        self._begin: Callable[[], Header] | None = begin

    def emit(self, content: Row | Life) -> None:
        """One record."""
        if content.__class__ is tuple:
            t, dur, task, mm, index, args, ret, ext = content
            dt = None
            if t is not None:
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
        if record.t is None:
            if self.timed:
                record.t = self.last
        else:
            record.t = self.last = max(record.t, 0)
            self.stop = max(self.stop, self.last)
        if isinstance(record, Start):
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

    def flush(self) -> None:
        """Write what there is; before the first, the header."""
        if self._begin is not None:
            header, self._begin = self._begin(), None
            header.argv = list(self.argv)
            if self._redaction is not None:
                header = self._redaction.header(header)
            self.output.write(encode_header(header))
        if self._rows:
            # A line break is never within a line: JSON spells it \n.
            lines = self._encoder.encode_lines(self._rows).replace(b"\n", b",\n")
            self.records += len(self._rows)
            self._rows.clear()
            self.output.write(lines)


def import_log(name: str, path: str, *, redact: bool = False, reorder: bool = True) -> Imported:
    """Read the strace log `name` ("-": standard input), write the trace `path`.

    Raises:
        TraceFormatError: it is no strace log, or holds no call of memory.
        OSError: a file cannot be read or written.
    """
    source = Source(name)
    blocks = source.blocks()
    head = b""
    for block in blocks:
        head += block
        if len(head) >= _HEAD or head.count(b"\n") > 200:
            break
    error = diagnose(source.name, head[:_HEAD])
    if error is not None:
        raise error
    output = Output(path)
    try:
        return _import(source, head, blocks, output, redact=redact, reorder=reorder)
    except BaseException:
        output.discard()
        raise


def _import(
    source: Source, head: bytes, blocks: Iterator[bytes], output: Output, *, redact: bool,
    reorder: bool,
) -> Imported:  # fmt: skip
    redaction = Redaction() if redact else None
    name = os.path.basename(source.name)
    parser, clock = Parser(), Clock()

    def begin() -> Header:
        started = ""
        if parser.epoch == "unix" and clock.first is not None:
            started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.first // _SECOND))
        return Header(
            version=memtrace_version(), engine="strace", started=started, log=name,
            clock=parser.clock or "none", calls=list(NAMES),
        )  # fmt: skip

    writer = _Writer(output, begin, redaction)
    story = Story(writer.emit, clock, reorder=reorder, quoting=not redact)
    feed = story.feed
    events = parser.feed(head)
    writer.timed = parser.clock is not None
    feed(events)
    tids = {int(n) for n in _PID.findall(head)}
    story.seen(tids)
    for block in blocks:
        feed(parser.feed(block))
        if story.waits_for_name:
            tids.update(map(int, _PID.findall(block)))
            story.seen(tids)
    feed(parser.close())
    story.finish()
    if not writer.calls:
        raise refuse(source.name, _nothing(parser, story))
    reason = source.damage or story.reason
    counts = {
        "records": 0, "calls": writer.calls, "snapshots": 0, "exact": 0, "lost": writer.lost,
        "overlaps": 0, "lines": parser.lines, "unreadable": story.unreadable,
        "foreign": story.foreign,
    }  # fmt: skip
    writer.flush()
    counts["records"] = writer.records
    footer = Footer(
        stop=writer.stop if writer.timed else None, complete=not reason,
        reason=reason or (DETACHED if story.detached else "the log has ended"), counts=counts,
    )  # fmt: skip
    output.write(encode_footer(footer))
    output.close()
    return Imported(
        reason, counts, writer.unreadable, writer.processes, story.heap_peak,
        writer.stop if writer.timed else None, output.bytes_written, parser.clock or "none",
        writer.argv,
    )  # fmt: skip


def _nothing(parser: Parser, story: Story) -> str:
    """Why there is nothing to import."""
    if parser.ignored and not story.unreadable:
        return "it is a strace log, but no call of memory is in it (what did -e trace= name?)"
    return "it is no strace log: no line of it is a call as strace writes it"
