# SPDX-License-Identifier: GPL-2.0-or-later
"""The time before a line, of -t, -tt, -ttt, -r and their long forms, in ns."""

from __future__ import annotations

import re

from memtrace.collect.strace.line import SCALE

_UNIT = {0: "s", 3: "ms", 6: "us", 9: "ns"}
_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND


class Times:
    """The log's clock.

    `clock`: its precision, "s", "ms", "us" or "ns"; None as long as there is none. `epoch`: what it
    counts from, "unix", "day" (midnight before the first line: a new day is noticed) or "start"
    (the first line): both as of the first line that has one. Of a line with both the finer counts.
    """

    __slots__ = ("_days", "_elapsed", "_last", "clock", "epoch", "second", "since")

    def __init__(self) -> None:
        self.clock: str | None = None
        self.epoch: str | None = None
        #: The whole second last seen, as it is printed, and its time.
        self.second: bytes | None = None
        self.since = 0
        self._elapsed = self._days = self._last = 0

    def of(self, lead: re.Match[bytes]) -> int | None:
        """The time of the line whose leader this is. Once for each line: -r counts on."""
        hours, minutes, seconds, epoch, part, relative, small = lead.group(3, 4, 5, 6, 7, 8, 9)
        if relative is not None:
            fine = 0 if small is None else len(small)
            self._elapsed += int(relative) * _SECOND
            if small is not None:
                self._elapsed += int(small) * SCALE[fine]
            if (hours is None and epoch is None) or fine > (0 if part is None else len(part)):
                self._found(fine, "start")
                return self._elapsed
        if epoch is not None:
            shown, at, kind = epoch, int(epoch) * _SECOND, "unix"
        elif hours is not None:
            kind = "day"
            shown = b"%b:%b:%b" % (hours, minutes, seconds)
            at = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * _SECOND + self._days
            if at < self._last - _DAY // 2:
                self._days += _DAY
                at += _DAY
            self._last = at
        else:
            return None
        self.second, self.since = shown, at
        places = 0
        if part is not None:
            places = len(part)
            at += int(part) * SCALE[places]
        self._found(places, kind)
        return at

    def _found(self, places: int, epoch: str) -> None:
        if self.clock is None:
            self.clock, self.epoch = _UNIT[places], epoch

    def peek(self, lead: re.Match[bytes]) -> int | None:
        """The same of a line that will be read again."""
        kept = [getattr(self, name) for name in self.__slots__]
        at = self.of(lead)
        for name, value in zip(self.__slots__, kept, strict=True):
            setattr(self, name, value)
        return at
