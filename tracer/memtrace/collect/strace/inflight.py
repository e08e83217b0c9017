# SPDX-License-Identifier: GPL-2.0-or-later
"""The beginning and the end of a call, and those that have begun and not ended."""

from __future__ import annotations

from typing import NamedTuple

from memtrace.collect.strace.line import Result


class Begun(NamedTuple):
    """The beginning of a call, and its arguments as far as they were printed: `text`; `args` and
    the descriptor's `path` where they have been read already.
    """

    line: int
    tid: int
    t0: int | None
    ip: int | None
    name: str
    text: bytes
    args: list[int] | None = None
    path: str | None = None


class Ending(NamedTuple):
    """Where and how it ended. `time`: of the line that resumed it, None where its own line ends it.
    `abi`: the mode that its thread runs in, None for native."""

    line: int
    tid: int
    time: int | None
    result: Result
    abi: str | None


class InFlight:
    """The calls that strace has begun to write and not ended, one of a thread.

    `heads`: by the number before the line, 0 where the log names none."""

    __slots__ = ("_becomes", "heads")

    def __init__(self) -> None:
        self.heads: dict[int, Begun] = {}
        self._becomes: dict[int, int] = {}

    def put(self, head: Begun) -> None:
        """A call has begun."""
        self.heads[head.tid] = head

    def change(self, thread: int, process: int) -> None:
        """`thread` is about to be `process`: its exec ends under that number."""
        self._becomes[process] = thread

    def supersede(self, process: int, thread: int) -> Begun | None:
        """`thread` has become `process` by exec. The call that the process's first thread was in,
        which has ended with it, or None.
        """
        self._becomes.pop(process, None)
        head = self.heads.pop(thread, None)
        if head is None:
            return None
        ended = self.heads.pop(process, None)
        self.heads[process] = head._replace(tid=process)
        return ended

    def take(self, tid: int, name: str) -> Begun | None:
        """The call that a line resumes. While there is only one thread strace names none: then the
        one call of that name is meant.
        """
        heads = self.heads
        at = tid
        if at not in heads and tid in self._becomes:
            at = self._becomes.pop(tid)
        elif at not in heads and tid:
            at = 0
        elif at not in heads:
            same = [t for t, head in heads.items() if head.name == name]
            at = same[0] if len(same) == 1 else 0
        head = heads.get(at)
        if head is None or head.name != name:
            return None
        del heads[at]
        return head._replace(tid=tid or head.tid)

    def pop(self, tid: int) -> Begun | None:
        """Take whatever the thread is in."""
        return self.heads.pop(tid, None)
