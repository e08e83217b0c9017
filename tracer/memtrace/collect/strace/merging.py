# SPDX-License-Identifier: GPL-2.0-or-later
"""A `-ff` set: one file per thread, put in the order of time.

Each file has its calls whole, in order; between the files only time tells. A call belongs to the
moment of its end, which is the time of its line and that of `-T`; an unmap is in flight from the
one to the other, so that the ordering rule (`order.py`) sees what it sees in a single file. Without
`-T` only beginnings are known: threads of one address space are then ordered by those, which may be
wrong where their calls overlap.
"""

from __future__ import annotations

import glob
import heapq
import os
import re
from collections.abc import Iterator
from shlex import quote

from memtrace.collect.strace import events as ev
from memtrace.collect.strace.logs import Source
from memtrace.collect.strace.parser import Parser
from memtrace.collect.strace.recognise import RECORD, diagnose, refuse
from memtrace.trace.errors import TraceFormatError

_HEAD = 1 << 16
_CHANGED = re.compile(
    rb"^(?:[\d:.]+ )?(execve(?:at)?\(.*) <pid changed to (\d+) \.\.\.>$", re.MULTILINE
)
_RESUMED = re.compile(rb"<\.\.\. execve(?:at)? resumed>")
_FREEING = frozenset(("munmap", "mremap", "brk", "shmdt"))


def files_of(name: str) -> list[str]:
    """The files that a name on the command line means: itself, its `NAME.PID`, a folder's.

    Raises:
        TraceFormatError: a folder without such files.
    """
    folder = os.path.isdir(name)
    if name == "-" or (os.path.lexists(name) and not folder):
        return [name]
    pattern = os.path.join(glob.escape(name), "*.*") if folder else f"{glob.escape(name)}.*"
    found = [path for path in glob.glob(pattern) if number_of(path) is not None]
    if folder and not found:
        raise TraceFormatError(
            f"cannot read {name}: it is a folder without files named LOG.PID",
            hint=f"ls {quote(name)}",
        )
    return sorted(found, key=lambda path: (number_of(path) or 0, path)) or [name]


def number_of(path: str) -> int | None:
    """The thread that a file's name ends with."""
    stem, _, end = os.path.basename(path).removesuffix(".gz").removesuffix(".zst").rpartition(".")
    return int(end) if stem and end.isascii() and end.isdecimal() and len(end) <= 7 else None


class Merged:
    """The events of a set, in the order of time.

    `parsers`: one per file. `damage`: the first file's that ended early, "" for none. `rough`: of
    some calls only the beginning is known.
    """

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths
        self._execs: dict[int, list[bytes]] = {}
        self.parsers = [Parser() for _ in paths]
        self.damage = ""
        self.rough = False

    def events(self) -> Iterator[tuple[bool, ev.Event]]:
        """(whether it is only the beginning of what follows, the event).

        Raises:
            TraceFormatError: a file cannot be read, or their order is not known.
        """
        queue: list[tuple[int, int, int, bool, ev.Event | None]] = []
        streams: dict[int, Iterator[tuple[int, bool, ev.Event]]] = {}
        for i, path in enumerate(self._paths):
            heapq.heappush(queue, (self._begins(path), i, 0, False, None))
        serial = 0
        while queue:
            _, i, _, early, event = heapq.heappop(queue)
            if event is None:
                streams[i] = self._of_file(i)
            else:
                yield early, event
            serial += 1
            following = next(streams[i], None)
            if following is None:
                del streams[i]
            else:
                heapq.heappush(queue, (following[0], i, serial, following[1], following[2]))
        for i, parser in enumerate(self.parsers):
            for event in self._named(i, parser.close()):
                yield False, event

    def _of_file(self, i: int) -> Iterator[tuple[int, bool, ev.Event]]:
        parser, source = self.parsers[i], Source(self._paths[i])
        last = 0
        execs = self._execs.get(number_of(self._paths[i]) or 0, [])
        for block in source.blocks():
            data = block
            if execs:
                data = _RESUMED.sub(lambda found: execs.pop(0) if execs else found[0], block)
            for e in self._named(i, parser.feed(data)):
                t0, t1 = getattr(e, "t0", None), getattr(e, "t1", None)
                begun = t0 if t0 is not None else getattr(e, "t", None)
                if begun is not None and begun > last:
                    last = begun
                if t1 is not None and t0 is not None:
                    if isinstance(e, ev.Called) and e.call in _FREEING:
                        yield last, True, ev.Entered(e.line, e.tid, t0, e.call, e.args)
                    elif isinstance(e, ev.Forked):
                        yield last, True, e
                    last = max(last, t1)
                elif isinstance(e, ev.Called) and e.ret is not None:
                    self.rough = True
                yield last, False, e
        self.damage = self.damage or source.damage

    def _named(self, i: int, events: list[ev.Event]) -> list[ev.Event]:
        """A file's events with the number of its thread."""
        tid = number_of(self._paths[i]) or 0
        for e in events:
            if isinstance(e, ev.Unreadable):
                e.why = f"(of thread {tid}) {e.why}"
                continue
            if not e.tid:
                e.tid = tid
            if isinstance(e, ev.Superseded) and not e.by:
                e.by = tid
        return events

    def _begins(self, path: str) -> int:
        """Look through a file: the time of its first line, and an exec that another file ends.

        A thread that execs becomes its process's leader: the call begins in its own file.

        Raises:
            TraceFormatError: its times cannot be compared with the others'.
        """
        parser, source = Parser(), Source(path)
        tail = head = b""
        for block in source.blocks():
            if not head:
                head = block
                error = diagnose(path, block[:_HEAD]) if block.strip() else None
                if error is not None:
                    raise error
                parser.feed(block)
            tail = tail[-_HEAD:] + block
            for found in _CHANGED.finditer(tail):
                begun = self._execs.setdefault(int(found[2]), [])
                if found[1] not in begun:
                    begun.append(found[1])
        if parser.epoch in {"unix", "day"}:
            return _first(head)
        if not head.strip():
            return 0
        raise refuse(
            path, "the files of a set have no times of the clock, so their order is not known",
            RECORD.replace("-f ", "-ff ", 1),
        )  # fmt: skip


def _first(data: bytes) -> int:
    times = (
        getattr(e, "t0", None) or getattr(e, "t", None) for e in Parser().feed(data)
    )  # fmt: skip
    return next((t for t in times if t is not None), 0)
