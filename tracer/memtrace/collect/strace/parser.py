# SPDX-License-Identifier: GPL-2.0-or-later
"""strace's output, as bytes, to events. Sans-IO: any split of the bytes gives the same events.

Of the calls only those are read whose name stands in `calls.NAMES`; any other line of a call is
recognised and gives no event. What cannot be read, or not with certainty, is `Unreadable`.
"""

from __future__ import annotations

import re

from memtrace.collect.strace import plain
from memtrace.collect.strace.arguments import split
from memtrace.collect.strace.calls import Begun, entered
from memtrace.collect.strace.events import Called, Closed, Entered, Event, Opened
from memtrace.collect.strace.flags import UnclearError
from memtrace.collect.strace.forms import INTEREST, NAME, key
from memtrace.collect.strace.line import leader
from memtrace.collect.strace.plain import FILE, FILES, HOT, arguments
from memtrace.collect.strace.reading import Reading

#: A longer line is not read.
LONGEST = 1 << 20
#: How many of its bytes are kept for the message.
_KEPT = 200
_TOO_LONG = "the line is longer than 1 MiB"
_KNOWN = 4096


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
        self._tids: dict[bytes, int] = {}
        self._paths: dict[bytes, str] = {}
        self._quiet: set[bytes] = set()

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
                self._many(lines, out)
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
            self._many([line], out)

    def _any(self, line: bytes, out: list[Event]) -> None:
        if len(line) > LONGEST:
            self._reading.skip(line[:_KEPT], _TOO_LONG, out)
        else:
            self._many([line], out)

    def _many(self, lines: list[bytes], out: list[Event]) -> None:
        """The short way for plain lines (plain.py), the long one (reading.py) for all others."""
        reading = self._reading
        times, heads, match = reading.times, reading.heads, plain.PLAIN.fullmatch
        quiet, tids, hot, files = self._quiet, self._tids, HOT, FILES
        number, ignored = reading.line, 0
        short = reading.plain
        for line in lines:
            number += 1
            found = match(line) if short else None
            if found is not None:
                (
                    bracketed, bare, second, part, name, address, length, first, flags, fd, path,
                    offset, result, whole, small,
                ) = found.groups()  # fmt: skip
                shown = bracketed or bare
                tid = tids.get(shown) if shown is not None else 0
                if tid is not None and tid not in heads and second == times.second:
                    if name in quiet:
                        ignored += 1
                        continue
                    if name in files and self._file(line, found, tid, number, out):
                        continue
                    if result is not None and name in hot:
                        try:
                            args = arguments(name, address, length, first, flags, fd, offset)
                        except UnclearError:
                            args = None
                        if args is not None:
                            t0 = t1 = None
                            if second is not None:
                                t0 = times.since
                                if part is not None:
                                    t0 += int(part) * 1000
                                if whole is not None:
                                    t1 = t0 + int(whole) * 1_000_000_000 + int(small) * 1000
                            ret = int(result, 16)
                            if ret >> 63:
                                ret -= 1 << 64
                            where = None if path is None else self._path(path)
                            out.append(
                                Called(number, number, tid, t0, t1, hot[name], args, ret, where)
                            )
                            continue
            reading.line, reading.ignored = number - 1, reading.ignored + ignored
            ignored = 0
            reading.read(line, out)
            short = reading.plain
            if short and found is not None:
                self._learn(shown, name)
        reading.line, reading.ignored = number, reading.ignored + ignored

    def _file(
        self, line: bytes, whole: re.Match[bytes], tid: int, number: int, out: list[Event]
    ) -> bool:
        """Read a plain openat or close; False if it is not that plain."""
        found = FILE.fullmatch(line, whole.end(5) + 1)
        if found is None:
            return False
        closed, path, flags, fd, resolved = found.groups()
        if (closed is not None) != (whole.group(5) == b"close"):
            return False
        if closed is not None:
            out.append(Closed(number, tid, int(closed), int(closed)))
        elif fd is None:
            self._reading.ignored += 1
        else:
            cloexec = b"O_CLOEXEC" in flags.split(b"|")
            out.append(Opened(number, tid, int(fd), self._path(resolved or path), cloexec))
        return True

    def _learn(self, shown: bytes | None, name: bytes) -> None:
        """What the long way has seen once the short one knows."""
        if shown is not None and len(self._tids) < _KNOWN:
            self._tids[shown] = int(shown)
        if name in self._reading.harmless and name not in INTEREST:
            self._quiet.add(name)

    def _path(self, text: bytes) -> str:
        known = self._paths.get(text)
        if known is None:
            known = text.decode("utf-8", "backslashreplace")
            if len(self._paths) < _KNOWN:
                self._paths[text] = known
        return known
