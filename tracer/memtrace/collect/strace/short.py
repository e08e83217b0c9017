# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines to events: the short way for plain lines (plain.py), the long one for all others."""

from __future__ import annotations

import re

from memtrace.collect.strace import plain
from memtrace.collect.strace.events import Called, Closed, Entered, Event, Opened
from memtrace.collect.strace.flags import UnclearError
from memtrace.collect.strace.forms import UNFINISHED
from memtrace.collect.strace.inflight import Begun
from memtrace.collect.strace.plain import FILE, FILES, HOT, arguments
from memtrace.collect.strace.reading import Reading

_KNOWN = 4096


class Short:
    """Reads lines for `reading`, which keeps what must be known of those before."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._tids: dict[bytes | None, int] = {None: 0}
        self._paths: dict[bytes, str] = {}
        self._quiet = reading.harmless

    def read(self, lines: list[bytes], out: list[Event]) -> None:
        """Read lines, none of them longer than is allowed."""
        reading = self._reading
        times, heads, match = reading.times, reading.heads, plain.PLAIN.fullmatch
        quiet, tids, hot, files = self._quiet, self._tids, HOT, FILES
        number, ignored = reading.line, 0
        short = reading.plain
        for line in lines:
            number += 1
            if short:
                if line[-5:] == b" ...>":
                    told = self._begun(line, number, out)
                    if told is not None:
                        ignored += told
                        continue
                elif (found := match(line)) is not None:
                    (
                        bracketed, bare, second, part, name, address, length, first, flags, fd,
                        path, offset, result, whole, small,
                    ) = found.groups()  # fmt: skip
                    tid = tids.get(bracketed or bare)
                    if tid is None or tid in heads or second != times.second:
                        pass
                    elif name in quiet:
                        ignored += 1
                        continue
                    elif name in files:
                        told = self._file(line, found, tid, number, out)
                        if told is not None:
                            ignored += told
                            continue
                    elif result is not None and name in hot:
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
                elif b"<... " in line:
                    told = self._resumed(line, number, out)
                    if told is not None:
                        ignored += told
                        continue
            reading.line, reading.ignored = number - 1, reading.ignored + ignored
            ignored = 0
            reading.read(line, out)
            short = reading.plain
            self._learn(line)
        reading.line, reading.ignored = number, reading.ignored + ignored

    # Each of the following gives how many lines it ignored, 0 or 1, and None for one to be read the
    # long way.

    def _begun(self, line: bytes, number: int, out: list[Event]) -> int | None:
        if not line.endswith(UNFINISHED):
            return None
        end = len(line) - len(UNFINISHED)
        found = plain.BEGUN.fullmatch(line, 0, end)
        if found is None:
            return None
        (
            bracketed, bare, second, part, name, address, length, first, flags, fd, path, offset,
        ) = found.groups()  # fmt: skip
        tid = self._tids.get(bracketed or bare)
        times, heads = self._reading.times, self._reading.heads
        if tid is None or tid in heads or second != times.second:
            return None
        if name in self._quiet:
            return 1
        if address is None or name not in HOT:
            return None
        try:
            args = arguments(name, address, length, first, flags, fd, offset)
        except UnclearError:
            return None
        if args is None:
            return None
        t0 = None
        if second is not None:
            t0 = times.since if part is None else times.since + int(part) * 1000
        where = None if path is None else self._path(path)
        text = line[found.end(5) + 1 : end]
        heads[tid] = Begun(number, tid, t0, None, HOT[name], text, args, where)
        out.append(Entered(number, tid, t0, HOT[name], args[:]))
        return 0

    def _resumed(self, line: bytes, number: int, out: list[Event]) -> int | None:
        found = plain.RESUMED.fullmatch(line)
        if found is None:
            return None
        bracketed, bare, second, part, name, result, whole, small = found.groups()
        tid = self._tids.get(bracketed or bare)
        times, heads = self._reading.times, self._reading.heads
        if tid is None or second != times.second:
            return None
        if name in self._quiet:
            return 1
        head = heads.get(tid)
        if head is None or head.args is None or result is None or head.name != HOT.get(name):
            return None
        del heads[tid]
        t1 = None
        if whole is not None:
            if head.t0 is not None:
                t1 = head.t0 + int(whole) * 1_000_000_000 + int(small) * 1000
        elif second is not None:
            t1 = times.since if part is None else times.since + int(part) * 1000
        ret = int(result, 16)
        if ret >> 63:
            ret -= 1 << 64
        out.append(
            Called(number, head.line, tid, head.t0, t1, head.name, head.args, ret, head.path)
        )
        return 0

    def _file(
        self, line: bytes, whole: re.Match[bytes], tid: int, number: int, out: list[Event]
    ) -> int | None:
        found = FILE.fullmatch(line, whole.end(5) + 1)
        if found is None:
            return None
        closed, path, flags, fd, resolved = found.groups()
        if (closed is not None) != (whole.group(5) == b"close"):
            return None
        if closed is not None:
            out.append(Closed(number, tid, int(closed), int(closed)))
        elif fd is None:
            return 1
        else:
            cloexec = b"O_CLOEXEC" in flags.split(b"|")
            out.append(Opened(number, tid, int(fd), self._path(resolved or path), cloexec))
        return 0

    def _learn(self, line: bytes) -> None:
        """The number that begins a line is known once the long way has read one."""
        found = plain.THREAD.match(line)
        if found is not None:
            shown = found.group(1) or found.group(2)
            if shown not in self._tids:
                if len(self._tids) > _KNOWN:
                    self._tids.clear()
                    self._tids[None] = 0
                self._tids[shown] = int(shown)

    def _path(self, text: bytes) -> str:
        known = self._paths.get(text)
        if known is None:
            known = text.decode("utf-8", "backslashreplace")
            if len(self._paths) < _KNOWN:
                self._paths[text] = known
        return known
