# SPDX-License-Identifier: GPL-2.0-or-later
"""strace's output, as bytes, to events. Sans-IO: any split of the bytes gives the same events.

Of the calls only those are read whose name stands in `calls.NAMES`; any other line of a call is
recognised and gives no event. What cannot be read, or not with certainty, is `Unreadable`.
"""

from __future__ import annotations

from memtrace.collect.strace.arguments import split
from memtrace.collect.strace.calls import entered
from memtrace.collect.strace.events import Entered, Event
from memtrace.collect.strace.flags import UnclearError
from memtrace.collect.strace.forms import NAME, key
from memtrace.collect.strace.inflight import Begun
from memtrace.collect.strace.line import leader
from memtrace.collect.strace.reading import Reading
from memtrace.collect.strace.short import Short

#: A longer line is not read.
LONGEST = 1 << 20
#: How many of its bytes are kept for the message.
_KEPT = 200
_TOO_LONG = "the line is longer than 1 MiB"


class Parser:
    """Reads strace's output piece by piece.

    `lines`: read so far. Each of them is told by an event, is `ignored` (strace's, but holds
    nothing that is recorded) or `held` (the beginning of something that a later line tells, if
    ever). `unreadable`: how many events say so.
    `clock`: the precision of the log's time, "s", "ms", "us" or "ns", None as long as there is
    none; `epoch`: what it counts from: "unix" (-ttt), "day" (-t, -tt; a new day is noticed) or
    "start" (-r: the first line). `prefix`: how a line names its thread: "pid" (`[pid N]`),
    "number", None for not at all.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._long = False
        self._reading = Reading()
        self._short = Short(self._reading)

    @property
    def lines(self) -> int:
        """Lines read."""
        return self._reading.line

    @property
    def ignored(self) -> int:
        """Lines that hold nothing that is recorded."""
        return self._reading.ignored

    @property
    def held(self) -> int:
        """Lines that are the beginning of something."""
        return self._reading.held

    @property
    def unreadable(self) -> int:
        """`Unreadable` events."""
        return self._reading.unreadable

    @property
    def clock(self) -> str | None:
        """The precision of the log's time."""
        return self._reading.times.clock

    @property
    def epoch(self) -> str | None:
        """What the log's time counts from."""
        return self._reading.times.epoch

    @property
    def prefix(self) -> str | None:
        """How lines name their thread."""
        return self._reading.prefix

    @property
    def rest(self) -> bytes:
        """The beginning of a line whose end has not been fed yet."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> list[Event]:
        """What the lines that end in these bytes say."""
        out: list[Event] = []
        newline = data.rfind(b"\n")
        if newline < 0:
            self._keep(data)
            return out
        begin = 0
        if self._rest or self._long:
            begin = data.index(b"\n") + 1
            self._keep(data[: begin - 1])
            self._flush(out)
        if begin <= newline:
            lines = data[begin:newline].split(b"\n")
            if newline - begin > LONGEST:
                for line in lines:
                    self._any(line, out)
            else:
                self._short.read(lines, out)
        self._keep(data[newline + 1 :])
        return out

    def close(self) -> list[Event]:
        """The last line, if it has no newline, and the calls that have not ended."""
        out: list[Event] = []
        if self._long:
            self._flush(out)
        elif self._rest:
            self._reading.read(bytes(self._rest), out, whole=False)
            self._rest.clear()
        self._reading.close(out)
        return out

    def entry(self, piece: bytes) -> Entered | None:
        """The call in flight of which strace has written `piece`, the beginning of a line up to its
        arguments. Changes nothing; None if it is no call that is told or not a whole beginning.
        """
        lead = leader(piece)
        name = NAME.match(piece, lead.end())
        known = None if name is None else key(name.group(1))
        if name is None or known is None:
            return None
        try:
            args, end = split(piece, name.end(), b")")
        except UnclearError:
            return None
        if end >= 0:
            return None
        reading = self._reading
        tid, time = reading.thread(lead), reading.times.peek(lead)
        head = Begun(reading.line + 1, tid, time, None, known, b"")
        return entered(head, args, reading.mode(tid))

    # ---- bytes to lines ----

    def _keep(self, data: bytes) -> None:
        if not self._long:
            self._rest += data
            if len(self._rest) > LONGEST:
                self._long = True
                del self._rest[_KEPT:]

    def _flush(self, out: list[Event]) -> None:
        line, long = bytes(self._rest), self._long
        self._rest.clear()
        self._long = False
        if long:
            self._reading.skip(line, _TOO_LONG, out)
        else:
            self._short.read([line], out)

    def _any(self, line: bytes, out: list[Event]) -> None:
        if len(line) > LONGEST:
            self._reading.skip(line[:_KEPT], _TOO_LONG, out)
        else:
            self._short.read([line], out)
