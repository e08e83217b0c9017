# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of the page's table: all of them if they fit, else those that say most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memtrace.replay.calltext import called, errno_name
from memtrace.replay.engine import brk_refused
from memtrace.replay.observer import Observer
from memtrace.report.lines import clean
from memtrace.trace.records import Call, Exec, Exit, Fork, Gone, Life, Unknown

if TYPE_CHECKING:
    from memtrace.replay.process import Process
    from memtrace.space.calls import Change
    from memtrace.trace.reader import Trace
    from memtrace.trace.records import LifeRecord

_LONGEST = 160

#: seq, time, thread, name, text, bytes more or less, failed.
Row = tuple[int, int, int | None, str, str, int, bool]


class _One:
    """One process's: a call that changed most of each bucket, and all that must be there."""

    def __init__(self, calls: int, room: int, wanted: set[int]) -> None:
        self.every = calls <= room
        self.edge = room // 20
        self.failures = room // 5
        self.bucket = 1 if self.every else max(calls // max(room // 2, 1), 2)
        self.calls, self.room, self.wanted = calls, room, wanted
        self.rows: list[Row] = []
        self.total = self.failed = 0
        self.best: tuple[int, int, int, Call, str, bool] | None = None


class Events(Observer):
    """Collects the rows.

    Args:
        trace: being read.
        of: mm -> how many calls it makes, how many rows there may be, and which must be there.
    """

    def __init__(self, trace: Trace, of: Mapping[int, tuple[int, int, set[int]]]) -> None:
        self._trace = trace
        self._of = {mm: _One(*what) for mm, what in of.items()}

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        """See `Observer`."""
        one = self._of.get(p.mm)
        if one is None:
            return
        one.total += 1
        delta = 0
        if change is not None:
            delta = sum(x[1] - x[0] for x in change.added)
            delta -= sum(x[1] - x[0] for x in change.removed)
        failed = _failed(p, call, name)
        one.failed += failed
        if one.every:
            one.rows.append(self._row(seq, t, call, name, delta, failed=failed))
            return
        at_edge = one.total <= one.edge or one.total > one.calls - one.edge
        if seq in one.wanted or at_edge or (failed and one.failures > 0):
            one.failures -= failed
            one.rows.append(self._row(seq, t, call, name, delta, failed=failed))
        elif one.best is None or abs(delta) > abs(one.best[0]):
            one.best = (delta, seq, t, call, name, failed)
        if one.total % one.bucket == 0 and one.best is not None:
            best, seq, t, call, name, failed = one.best
            one.rows.append(self._row(seq, t, call, name, best, failed=failed))
            one.best = None

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        """See `Observer`."""
        one = None if p is None else self._of.get(p.mm)
        if one is None:
            return
        one.total += 1
        if len(one.rows) < one.room or seq in one.wanted:
            name = record.rec if isinstance(record, Unknown) else _tag(record)
            tid = getattr(record, "tid", None)
            one.rows.append((seq, t, tid, clean(name), _told(record), 0, False))

    def of(self, mm: int, *, timed: bool) -> dict[str, Any]:
        """The rows of one process, in order."""
        one = self._of[mm]
        rows = sorted({row[0]: row for row in one.rows}.values())
        return {
            "total": one.total,
            "failed": one.failed,
            "rows": [
                [seq, t if timed else None, tid, name, text, delta, int(failed)]
                for seq, t, tid, name, text, delta, failed in rows
            ],
        }

    def _row(self, seq: int, t: int, call: Call, name: str, delta: int, *, failed: bool) -> Row:
        text = called(name, call.args, call.ret)
        ext = call.ext
        if ext is not None and ext.f is not None:
            file = self._trace.decoder.file(ext.f)
            if file is not None:
                text += f"  {file.path}"
        return (seq, t, call.tid, clean(name), _short(text), delta, failed)


def _failed(p: Process, call: Call, name: str) -> bool:
    """As the report counts: an errno, or a break that brk did not move to where it was asked."""
    if name == "brk" and call.ret is not None:
        return brk_refused(p.space, call.args, call.ret)
    return errno_name(call.ret) is not None


def _tag(record: Life) -> str:
    return str(record.__struct_config__.tag)


def _told(record: object) -> str:
    """What a record that is no call says."""
    text = ""
    if isinstance(record, Exec):
        text = " ".join(record.argv) or record.exe
    elif isinstance(record, Fork):
        text = f"child {record.child}"
    elif isinstance(record, Exit):
        text = f"signal {record.signal}" if record.signal is not None else f"code {record.code}"
    elif isinstance(record, Gone):
        text = "its last user is gone"
    else:
        words = [getattr(record, key, None) for key in ("why", "name", "path", "child")]
        text = " ".join(str(w) for w in words if w)
    return _short(text)


def _short(text: str) -> str:
    shown = clean(text[: _LONGEST + 1])  # which spells out what it hides: longer than it was
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "…"
