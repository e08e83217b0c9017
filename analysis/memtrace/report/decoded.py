# SPDX-License-Identifier: GPL-2.0-or-later
"""Every record of a trace, decoded: as a line to read, a JSON object, a row of a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import msgspec

from memtrace.replay.calltext import U64, called, errno_name
from memtrace.replay.tasks import Tasks
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call, LifeRecord, Unknown, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memtrace.trace.records import Record

#: Columns of a table of events.
COLUMNS = ("seq", "t_ns", "pid", "tid", "mm", "call", "args", "ret", "errno",
        "path", "caller", "rss", "vm", "header")  # fmt: skip
#: What a life-cycle record adds to a line, beyond the keys all lines have.
_MORE = (
    "argv", "child", "child_mm", "child_pid", "code", "signal", "why", "version", "tids", "count",
    "age_ns", "still", "took",
)  # fmt: skip
_DIGITS = {"s": 0, "ms": 3}
#: Names of the records that are no calls.
LIFE = frozenset(str(c.__struct_config__.tag) for c in LifeRecord.__args__)


def headers_of(path: str) -> dict[int, int]:
    """Seq of an mmap -> the size word found there: known later than the mmap, so read first."""
    found: dict[int, int] = {}
    if Path(path).exists() and not Path(path).is_file():
        return found  # a pipe can be read once
    with Trace(path) as trace:
        for _, _, record in trace.records():
            if isinstance(record, Call):
                ext = record.ext
                pairs = None if ext is None else ext.h
            else:
                pairs = getattr(record, "h", None)
            if pairs:
                found.update((seq, word) for seq, word in pairs if word)
    return found


def no_process(pid: int, trace: str, pids: list[int]) -> UsageError:
    """What is said of a process that a trace does not have; `pids` are those that it has."""
    some = ", ".join(map(str, pids[:8])) or "none"
    return UsageError(
        f"no process {pid} in {trace}: it has {some}", hint=f"memtrace events {quote(trace)}"
    )


def csv_row(values: Sequence[Any]) -> str:
    r"""A line of CSV (RFC 4180), ended by a newline.

    >>> csv_row(["a\rb", None, 3])
    '"a\rb",,3\n'
    """
    out = io.StringIO()
    # Python before 3.13 quotes of the two only what the line ends in.
    csv.writer(out, lineterminator="\r\n").writerow(values)
    return out.getvalue()[:-2] + "\n"


class Events:
    """A trace's records as lines of one form; follows which process is whose."""

    def __init__(self, trace: Trace, headers: dict[int, int]) -> None:
        self.trace = trace
        self.headers = headers
        self.names = trace.header.calls
        self.page = trace.header.page_size
        self.clock = trace.header.clock
        self.tasks = Tasks()
        self.pids: list[int] = []
        self._quoted = [json.dumps(name) for name in self.names]
        self._callers: dict[int, str | None] = {}

    def lines(
        self,
        line: Callable[[int, int, int | None, Record], str],
        pid: int | None,
        name: str | None,
    ) -> Iterator[str]:
        """The lines of the records wanted."""
        return (line(*one) for one in self.records(pid, name))

    def records(
        self, pid: int | None = None, name: str | None = None
    ) -> Iterator[tuple[int, int, int | None, Record]]:
        """The records wanted: number, time, whose, record.

        Args:
            pid: only of this process.
            name: only this call or record.
        """
        tasks, names = self.tasks, self.names
        seen: set[int] = set()
        for seq, t, record in self.trace.records():
            if isinstance(record, Call):
                owner = tasks.pid_of.get(record.tid)
                if owner is None:
                    owner = next(iter(tasks.users.get(record.mm, ())), None)
                wanted = name is None or names[record.call] == name
            else:
                owner = self._owner(record)
                tasks.apply(record)
                wanted = name is None or _name(record) == name
            if owner is not None and owner not in seen:
                seen.add(owner)
                self.pids.append(owner)
            if wanted and (pid is None or pid == owner):
                yield seq, t, owner, record

    def _owner(self, record: Record) -> int | None:
        pid = getattr(record, "pid", None)
        if pid is None:
            pid = min(self.tasks.users.get(getattr(record, "mm", None) or -1, ()), default=None)
        return pid

    # -- one line -------------------------------------------------------------------------------

    def jsonl(self, seq: int, t: int, pid: int | None, record: Record) -> str:
        """A JSON object; the keys are those of docs/trace-format.md, `events --format jsonl`."""
        if not isinstance(record, Call):
            return _compact(self.row(seq, t, pid, record)) + "\n"
        ret = record.ret
        error = errno_name(ret) if ret is not None and ret < 0 else None
        text = (
            f'{{"seq":{seq},"t_ns":{_null(self.time(t))},"pid":{_null(pid)},"tid":{record.tid},"mm":{record.mm},'
            f'"call":{self._quoted[record.call]},'
            f'"args":[{",".join([str(a & U64) for a in record.args])}],'
            f'"ret":{_null(ret)},"errno":{"null" if error is None else json.dumps(error)}'
        )
        for key, value in self.further(seq, record):
            text += f',"{key}":{value if value.__class__ is int else json.dumps(value)}'
        return text + "}\n"

    def csv(self, seq: int, t: int, pid: int | None, record: Record) -> str:
        """A row under the names of `COLUMNS`; arguments by spaces, absent values empty."""
        row: dict[str, Any]
        if isinstance(record, Call):
            row = dict(self.further(seq, record))
            row |= {"seq": seq, "t_ns": self.time(t), "pid": pid, "tid": record.tid,
                    "mm": record.mm, "call": self.names[record.call], "ret": record.ret,
                    "errno": errno_name(record.ret),
                    "args": " ".join(str(a & U64) for a in record.args)}  # fmt: skip
        else:
            row = self.row(seq, t, pid, record)
            row["args"] = ""
        return csv_row([row.get(key) for key in COLUMNS])

    def text(self, seq: int, t: int, pid: int | None, record: Record) -> str:
        """A line like strace's, after the event's number, time (s) and thread."""
        head = f"{seq:>7} {self._seconds(t)} "
        if isinstance(record, Call):
            name = self.names[record.call]
            text = f"{head}{record.tid:>7} {called(name, record.args, record.ret)}"
            more = dict(self.further(seq, record))
            for key in ("path", "caller", "name", "abi"):
                if key in more:
                    text += f" {key}={more[key]}"
            if "header" in more:
                text += f" header={more['header']:#x}"
            return _printable(text) + "\n"
        life = self.row(seq, t, pid, record)
        who = _null(life["tid"] if life["tid"] is not None else pid).replace("null", "-")
        shown = {k: life[k] for k in ("mm", "path", *_MORE) if life.get(k) is not None}
        words = " ".join(f"{k}={_word(v)}" for k, v in shown.items())
        words += "".join(map(_heap, life.get("heaps", ())))
        return _printable(f"{head}{who:>7} --- {life['call']} {words}".rstrip()) + "\n"

    def time(self, t: int) -> int | None:
        """Ns since the start; None in a trace without times."""
        return None if self.clock == "none" else t

    def _seconds(self, t: int) -> str:
        """The time, no more exact than it is."""
        if self.clock == "none":
            return "unknown"
        return f"{t / 1e9:.{_DIGITS.get(self.clock, 6)}f}"

    def further(self, seq: int, call: Call) -> Iterator[tuple[str, Any]]:
        """What is known of a call only sometimes."""
        ext = call.ext
        if ext is not None:
            if ext.f is not None and (file := self.trace.decoder.file(ext.f)) is not None:
                yield "path", file.path
            for key in ("abi", "raw", "name"):
                value = getattr(ext, key)
                if value is not None:
                    yield key, value
        if call.site is not None and (caller := self._caller(call)) is not None:
            yield "caller", caller
        if call.rss is not None:
            yield "rss", call.rss * self.page
        if call.vm is not None:
            yield "vm", call.vm * self.page
        if seq in self.headers:
            yield "header", self.headers[seq]

    def _caller(self, call: Call) -> str | None:
        """The return address of the call's wrapper, as file+offset, or an address in no file."""
        site = self.trace.decoder.site(call)
        if site is None or site.ret is None:
            return None
        known = self._callers.get(site.id, "")
        if known == "":
            file, offset = self.trace.decoder.place(site.ret) or (None, 0)
            known = f"{offset:#x}" if file is None else f"{file.path}+{offset:#x}"
            self._callers[site.id] = known
        return known

    def row(self, seq: int, t: int, pid: int | None, record: Record) -> dict[str, Any]:
        """A record that is no call."""
        row: dict[str, Any] = {
            "seq": seq, "t_ns": self.time(t), "pid": pid, "tid": getattr(record, "tid", None),
            "mm": getattr(record, "mm", None), "call": _name(record), "args": [], "ret": None,
            "errno": None,
        }  # fmt: skip
        path = getattr(record, "exe", None) or getattr(record, "path", None)
        if path:
            row["path"] = path
        for key in _MORE:
            value = getattr(record, key, None)
            if value is not None:
                row[key] = value
        if isinstance(record, Walk):
            row["heaps"] = msgspec.to_builtins(record.heaps)
            row["left_out"] = record.left_out
        for key in ("rss", "vm"):
            pages = getattr(record, key, None)
            if pages is not None:
                row[key] = pages * self.page
        return row


def _name(record: Record) -> str:
    if isinstance(record, Unknown):
        return record.rec
    return str(record.__struct_config__.tag)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _heap(heap: dict[str, Any]) -> str:
    """A walked heap, in a line's own words."""
    text = f" {heap['kind']} {heap['base']:#x}-{heap['end']:#x}"
    for key in ("used", "free", "largest_free"):
        text += f" {key}={heap[key]}" if key in heap else ""
    for key in ("top", "pin"):
        text += f" {key}={heap[key][0]:#x}+{heap[key][1]}" if key in heap else ""
    return text if heap.get("complete") else f"{text} incomplete: {heap.get('problem', '')}"


def _null(value: int | None) -> str:
    return "null" if value is None else str(value)


def _word(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _printable(text: str) -> str:
    """A path may hold anything: a control character never reaches a terminal."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
