# SPDX-License-Identifier: GPL-2.0-or-later
"""`told`: events made by hand, told as a story, written as a trace, replayed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from memtrace.collect.strace import events as ev
from memtrace.collect.strace.clock import Clock
from memtrace.collect.strace.order import Row
from memtrace.collect.strace.story import Story
from memtrace.trace.records import Life

RW, ANON = 3, 0x22
BASE = 0x7F0000000000


class Told:
    """What a story made of events: `records` in order, as (name, what) pairs; `story` itself. Of
    calls in `ahead` it is told before that they will end so.
    """

    def __init__(
        self, events: Iterable[ev.Event], *, ahead: Iterable[ev.Forked] = (), **options: Any
    ) -> None:
        self.contents: list[Row | Life] = []
        self.story = Story(self._take, Clock(), **options)
        for call in ahead:
            self.story.ahead(call)
        for e in events:
            self.story.feed([e])
        self.story.finish()

    def _take(self, content: Row | Life) -> None:
        self.contents.append(content)

    @property
    def rows(self) -> list[tuple[int, int, int, list[int], int | None]]:
        """(tid, mm, call's index, arguments, result) of each call."""
        return [(c[2].tid, c[3].number, *c[4:7]) for c in self.contents if isinstance(c, tuple)]

    @property
    def lives(self) -> list[Life]:
        """The life-cycle records."""
        return [c for c in self.contents if isinstance(c, Life)]

    @property
    def names(self) -> list[str]:
        """The records' names, "call" for a call."""
        return [
            "call" if isinstance(c, tuple) else str(c.__struct_config__.tag) for c in self.contents
        ]


class Lines:
    """Makes events with running line numbers."""

    def __init__(self) -> None:
        self.line = 0
        self.heads: dict[int, int] = {}

    def _next(self) -> int:
        self.line += 1
        return self.line

    def call(self, tid: int, call: str, args: list[int], ret: int | None, **more: Any) -> ev.Called:
        """A call that has ended; in flight before if `enter` was told of the thread."""
        line = self._next()
        since = self.heads.pop(tid, line)
        return ev.Called(line, since, tid, more.pop("t0", None), more.pop("t1", None), call, args,
                         ret, **more)  # fmt: skip

    def enter(self, tid: int, call: str, args: list[int] | None) -> ev.Entered:
        line = self.heads[tid] = self._next()
        return ev.Entered(line, tid, None, call, args)

    def exec(self, tid: int, path: str = "/bin/p", **more: Any) -> ev.Execed:
        line = self._next()
        env, ret = more.get("env"), more.get("ret", 0)
        return ev.Execed(line, line, tid, None, None, path, [path], env, ret)

    def fork(self, tid: int, child: int | None, flags: int = 0, call: str = "clone") -> ev.Forked:
        line = self._next()
        since = self.heads.pop(tid, line)
        return ev.Forked(line, since, tid, None, None, call, child, flags)

    def end(self, tid: int, code: int = 0) -> ev.Ended:
        return ev.Ended(self._next(), tid, None, code, None)

    def mmap(self, tid: int, at: int, pages: int = 1, **more: Any) -> ev.Called:
        return self.call(tid, "mmap", [0, pages * 4096, RW, ANON, -1, 0], at, **more)

    def munmap(self, tid: int, at: int, pages: int = 1, ret: int | None = 0) -> ev.Called:
        return self.call(tid, "munmap", [at, pages * 4096], ret)
