# SPDX-License-Identifier: GPL-2.0-or-later
"""All regions and all steps of the heap of a trace: what the report shows the largest of.

A pass of its own: what a region was is known when its process has died, so that the rows of a
process come together then, in order of birth.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from shlex import quote
from typing import Any

import msgspec

from memtrace.malloc.account import Account
from memtrace.malloc.accounts import Accounts
from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.replay.result import Replay
from memtrace.replay.trust import exactness, sentence
from memtrace.report.build import region_row, step_rows
from memtrace.report.decoded import csv_row
from memtrace.report.model import RegionRow, StepRow
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace

#: Columns of each table. In a table an interval is two columns, in JSON an object.
REGIONS = (
    "pid", "mm", "start", "end", "bytes", "peak_bytes", "kind", "owner", "evidence", "candidates",
    "born_seq", "died_seq", "older", "tid", "moves", "populated", "request_min", "request_max",
    "verdict", "reason", "path", "inherited",
)  # fmt: skip
STEPS = (
    "pid", "mm", "seq", "t_ns", "tid", "delta", "end", "asked", "exact", "role", "chunk_min",
    "chunk_max", "cause", "room", "candidates", "after_malloc_trim", "verdict", "reason",
)  # fmt: skip
TABLES = {"regions": REGIONS, "heap_steps": STEPS}

#: A row as values by name; an interval is a dict.
Row = dict[str, Any]
_IN_MEMORY = 32 << 20
_CHUNK = 1 << 20


def read(path: str, table: str, take: Callable[[Row], object], pid: int | None = None) -> Replay:
    """Give every row of a table to `take`.

    Args:
        path: the trace.
        table: "regions" or "heap_steps".
        take: called with each row.
        pid: only of this process; None: of all.

    Raises:
        TraceFormatError: the trace cannot be read.
        UsageError: it has no such process.
    """
    with Trace(path) as trace:
        rows = _Rows(table, take, pid)
        result = replay(trace, [Accounts(trace, rows.closed, all_rows=True), rows])
    if pid is not None and not any(pid in p.pids for p in result.processes):
        raise UsageError(f"no process {pid} in {path}", hint=f"memtrace report {quote(path)}")
    return result


def cautions(result: Replay) -> list[str]:
    """What is to be said of a trace that cannot be trusted whole."""
    return [sentence(result)] if exactness(result) in ("incomplete", "drift") else []


def of_struct(row: RegionRow | StepRow) -> Row:
    """A row of the report as values by name."""
    values: Row = msgspec.structs.asdict(row)
    for name, value in values.items():
        if isinstance(value, msgspec.Struct):
            values[name] = msgspec.structs.asdict(value)
    return values


class _Rows(Observer):
    """Hands on the rows of each process that has died."""

    def __init__(self, table: str, take: Callable[[Row], object], pid: int | None) -> None:
        self._table, self._take, self._pid = table, take, pid

    def begin(self, replay: Replay) -> None:
        """See `Observer`."""
        self._result = replay

    def closed(self, a: Account) -> None:
        """A process's last moment."""
        if self._pid is not None and self._pid not in a.p.pids:
            return
        whose = {"pid": a.p.pid, "mm": a.p.mm}
        for row in self._of(a):
            self._take(whose | of_struct(row))

    def _of(self, a: Account) -> Iterable[RegionRow | StepRow]:
        if self._table == "regions":
            every = sorted(a.regions.rows(), key=lambda r: (r.born_seq, r.start))
            return (region_row(a, r) for r in every)
        return step_rows(a, self._result.header.overcommit, timed=self._result.timed)


# -- as files ---------------------------------------------------------------------------------


def jsonl(row: Row) -> bytes:
    """A row as a line of JSON."""
    return encode(row) + b"\n"


def encode(value: object) -> bytes:
    """A value as JSON; also one with numbers that no kernel has."""
    try:
        return msgspec.json.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return json.dumps(value, separators=(",", ":")).encode()


def flat(row: Row, columns: Iterable[str]) -> list[Any]:
    """A row under the names of a table's columns; names are separated by spaces."""
    values: list[Any] = []
    for name in columns:
        value: Any
        if name in row:
            value = row[name]
            value = " ".join(value) if isinstance(value, list) else value
        else:
            whole, _, bound = name.rpartition("_")
            interval = row[whole]
            value = None if interval is None else interval[bound]
        values.append(value)
    return values


def csv_line(values: Iterable[Any]) -> bytes:
    """A line of CSV (RFC 4180, lines end in a newline); absent values are empty, truth is 1 or 0.

    What a cell begins with is left as it is, a `=` too: a table is data, and whoever opens one in a
    spreadsheet imports its columns as text.
    """
    row = [int(v) if isinstance(v, bool) else v for v in values]
    return csv_row(row).encode("utf-8", "backslashreplace")


def lines(path: str, table: str, form: str, pid: int | None, said: list[str]) -> Iterator[bytes]:
    """A table as `csv`, its columns named first, or as `jsonl`; what there is to be warned of is
    added to `said`.

    Raises:
        TraceFormatError: the trace cannot be read.
        UsageError: it has no such process.
    """
    columns = TABLES[table]

    def write(out: Callable[[bytes], object]) -> None:
        if form == "csv":
            out(csv_line(columns))
            result = read(path, table, lambda row: out(csv_line(flat(row, columns))), pid)
        else:
            result = read(path, table, lambda row: out(jsonl(row)), pid)
        said.extend(cautions(result))

    return spooled(write)


def spooled(write: Callable[[Callable[[bytes], object]], object]) -> Iterator[bytes]:
    """What `write` writes, once it has written it: a pass that fails on the way gives nothing. Much
    of it waits in a temporary file.
    """
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as held:
        write(held.write)
        held.seek(0)
        while data := held.read(_CHUNK):
            yield data
