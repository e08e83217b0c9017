# SPDX-License-Identifier: GPL-2.0-or-later
"""A trace's tables as pandas DataFrames (docs/frames.md): `events`, `regions`, `heap_steps`.

Columns are filled as the trace is read, numbers into arrays of machine words, so that a million
records fit. What is not known is NA, never 0. A frame's `attrs["units"]` says what its numbers
count, `attrs["warnings"]` what is to be said of the trace.
"""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from memtrace.replay.calltext import U64, errno_name
from memtrace.report import tables
from memtrace.report.decoded import Events, headers_of, no_process
from memtrace.trace.errors import UsageError
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call

if TYPE_CHECKING:
    from memtrace.report.tables import Row

#: A system call has at most so many arguments.
_ARGS = 6
_PART = 1 << 20
#: What the numbers of a column count.
UNITS = {
    "rss": "bytes", "vm": "bytes", "bytes": "bytes", "peak_bytes": "bytes", "delta": "bytes",
    "room": "bytes", "request_min": "bytes", "request_max": "bytes", "chunk_min": "bytes",
    "chunk_max": "bytes", "start": "address", "end": "address", "asked": "address",
    "t": "since the trace's start",
}  # fmt: skip


class _Column(Protocol):
    """A column of a frame while it is filled."""

    def add(self, value: Any) -> None:
        """One value; None: not known."""

    def done(self) -> Any:
        """The column."""


class _Numbers:
    """Whole numbers; one that does not fit into 64 bits is no kernel's, and not known."""

    def __init__(self, dtype: str) -> None:
        signed = dtype == "int64"
        self._dtype = dtype
        self._fits = range(-(1 << 63), 1 << 63) if signed else range(1 << 64)
        self._values = array("q" if signed else "Q")
        self._missing = bytearray()

    def add(self, value: int | None) -> None:
        if value is None or value not in self._fits:
            self._values.append(0)
            self._missing.append(1)
        else:
            self._values.append(value)
            self._missing.append(0)

    def done(self) -> Any:
        return pd.arrays.IntegerArray(
            np.array(self._values, dtype=self._dtype), np.array(self._missing, dtype=bool)
        )


class _Times(_Numbers):
    """Nanoseconds since the start."""

    def __init__(self) -> None:
        super().__init__("int64")

    def done(self) -> Any:
        times = np.array(self._values, dtype="timedelta64[ns]")
        times[np.array(self._missing, dtype=bool)] = np.timedelta64("NaT")
        return times


class _Truths:
    """True, False, or not known."""

    def __init__(self) -> None:
        self._values, self._missing = bytearray(), bytearray()

    def add(self, value: bool | None) -> None:  # noqa: FBT001 - it is the value
        self._values.append(bool(value))
        self._missing.append(value is None)

    def done(self) -> Any:
        return pd.arrays.BooleanArray(
            np.array(self._values, dtype=bool), np.array(self._missing, dtype=bool)
        )


class _Names:
    """Words of which there are few."""

    def __init__(self) -> None:
        self._codes = array("i")
        self._known: dict[str, int] = {}

    def add(self, value: str | None) -> None:
        known = self._known
        self._codes.append(-1 if value is None else known.setdefault(value, len(known)))

    def done(self) -> Any:
        # Words that differ only in what is no Unicode may be the same afterwards.
        words = [_unicode(word) for word in self._known]
        each = {word: i for i, word in enumerate(dict.fromkeys(words))}
        places = np.array([each[word] for word in words] + [-1], dtype="int32")
        codes = places[np.array(self._codes, dtype="int32")]
        return pd.Categorical.from_codes(codes, categories=pd.Index(list(each), dtype="str"))


class _Texts:
    """Text."""

    def __init__(self) -> None:
        self._values: list[str | None] = []

    def add(self, value: str | None) -> None:
        self._values.append(None if value is None else _unicode(value))

    def done(self) -> Any:
        return pd.array(self._values, dtype="string")


def _unicode(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


_INT: Callable[[], _Column] = lambda: _Numbers("int64")  # noqa: E731 - beside the others
_ADDRESS: Callable[[], _Column] = lambda: _Numbers("uint64")  # noqa: E731
_Types = dict[str, Callable[[], _Column]]
_EVENTS: _Types = {
    "seq": _INT, "t": _Times, "pid": _INT, "tid": _INT, "mm": _INT, "call": _Names,
    **{f"arg{i}": _ADDRESS for i in range(_ARGS)},
    "ret": _INT, "errno": _Names, "path": _Names, "caller": _Names, "rss": _INT, "vm": _INT,
    "header": _ADDRESS, "more": _Texts,
}  # fmt: skip
_REGIONS: _Types = {
    "pid": _INT, "mm": _INT, "start": _ADDRESS, "end": _ADDRESS, "bytes": _INT, "peak_bytes": _INT,
    "kind": _Names, "owner": _Names, "evidence": _Names, "candidates": _Names, "born_seq": _INT,
    "died_seq": _INT, "older": _Truths, "tid": _INT, "moves": _INT, "populated": _Truths,
    "request_min": _INT, "request_max": _INT, "verdict": _Names, "reason": _Names, "path": _Names,
    "inherited": _Truths,
}  # fmt: skip
_STEPS: _Types = {
    "pid": _INT, "mm": _INT, "seq": _INT, "t": _Times, "tid": _INT, "delta": _INT, "end": _ADDRESS,
    "asked": _INT, "exact": _Truths, "role": _Names, "chunk_min": _INT, "chunk_max": _INT,
    "cause": _Names, "room": _INT, "candidates": _Names, "after_malloc_trim": _Truths,
    "verdict": _Names, "reason": _Names,
}  # fmt: skip
#: What a line of `events` has that is a column, or several, of another name here.
_OTHERWISE = frozenset({"t_ns", "args"})


def events(path: str, pid: int | None = None) -> pd.DataFrame:
    """Every record, decoded: what `memtrace events --format jsonl` prints.

    Args:
        path: the trace.
        pid: only of this process.

    Raises:
        TraceFormatError: the trace cannot be read.
        UsageError: it has no such process.
    """
    columns = {name: make() for name, make in _EVENTS.items()}
    add = [column.add for column in columns.values()]
    headers = headers_of(path)
    warnings = []
    with Trace(path) as trace:
        found = Events(trace, headers)
        for seq, t, owner, record in found.records(pid):
            if isinstance(record, Call):
                row: Row = dict(found.further(seq, record))
                row |= {"call": found.names[record.call], "tid": record.tid, "mm": record.mm}
                row |= {"ret": record.ret, "errno": errno_name(record.ret)}
                args = record.args
            else:
                row, args = found.row(seq, t, owner, record), []
            row |= {"seq": seq, "t": found.time(t), "pid": owner}
            row |= {f"arg{i}": a & U64 for i, a in enumerate(args[:_ARGS])}
            more = {k: v for k, v in row.items() if k not in _EVENTS and k not in _OTHERWISE}
            row["more"] = json.dumps(more) if more else None
            for name, put in zip(_EVENTS, add, strict=True):
                put(row.get(name))
        if pid is not None and pid not in found.pids:
            raise no_process(pid, path, found.pids)
        if not trace.complete:
            warnings.append("the trace is incomplete: see memtrace verify")
    return _frame(columns, warnings)


def regions(path: str, pid: int | None = None) -> pd.DataFrame:
    """Every region, in order of birth within its process: see `events`."""
    return _table(path, "regions", _REGIONS, pid)


def heap_steps(path: str, pid: int | None = None) -> pd.DataFrame:
    """Every move of the break, and every refused one: see `events`."""
    return _table(path, "heap_steps", _STEPS, pid)


def parquet(path: str, table: str, pid: int | None, said: list[str]) -> Iterator[bytes]:
    """A table as a Parquet file; what there is to be warned of is added to `said`.

    Raises:
        TraceFormatError: the trace cannot be read.
        UsageError: it has no such process, or pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise UsageError(
            "parquet needs pyarrow, which is not installed",
            hint="pip install pyarrow",
        )
    frame = {"events": events, "regions": regions, "heap_steps": heap_steps}[table](path, pid)
    said.extend(frame.attrs["warnings"])
    out = io.BytesIO()
    frame.to_parquet(out, engine="pyarrow", index=False)
    data = out.getbuffer()
    for at in range(0, len(data), _PART):
        yield bytes(data[at : at + _PART])


def _table(path: str, name: str, types: _Types, pid: int | None) -> pd.DataFrame:
    columns = {column: make() for column, make in types.items()}
    add = [column.add for column in columns.values()]
    fields = tables.TABLES[name]

    def take(row: Row) -> None:
        for put, value in zip(add, tables.flat(row, fields), strict=True):
            put(value)

    return _frame(columns, tables.cautions(tables.read(path, name, take, pid)))


def _frame(columns: dict[str, _Column], warnings: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame({name: column.done() for name, column in columns.items()})
    frame.attrs["units"] = {name: UNITS[name] for name in columns if name in UNITS}
    frame.attrs["warnings"] = warnings
    return frame
