# SPDX-License-Identifier: GPL-2.0-or-later
"""What the page shows, as plain values: read in two more passes over the trace, when the kind of
every region is known already.

All of it is bounded, however long the trace: see `Budget`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from memtrace.malloc.series import Curves
from memtrace.malloc.tags import Cuts
from memtrace.replay import trust
from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.replay.process import Doubt
from memtrace.report.html.events import Events
from memtrace.report.html.maps import Maps
from memtrace.report.html.moments import LAYERS, layers, pick
from memtrace.report.html.summary import opening, process_facts
from memtrace.report.lines import clean
from memtrace.trace.reader import Trace
from memtrace.trace.records import Lost

if TYPE_CHECKING:
    from memtrace.malloc.series import Series
    from memtrace.malloc.tags import Kinds
    from memtrace.replay.process import Process
    from memtrace.report.model import ProcessRow, Report
    from memtrace.space.compare import Comparison
    from memtrace.trace.records import LifeRecord, Snap, Unknown

_SNAPSHOTS = 2000


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a trace a page holds, all processes together.

    Attributes:
        processes: of which there is more than a line.
        events: in the table.
        groups: of the timeline's states; each leaves at most 16.
        moments: with a map; of one process.
        entries: of maps, a region that came or changed each.
    """

    processes: int = 30
    listed: int = 500
    events: int = 5000
    groups: int = 250
    moments: int = 512
    entries: int = 40_000


BUDGET = Budget()


def gather(path: str, report: Report, kinds: Kinds, budget: Budget = BUDGET) -> dict[str, Any]:
    """The values of a page.

    Args:
        path: of the trace, a file that can be read again.
        report: on that trace.
        kinds: of its regions.
        budget: how much of it.

    Raises:
        TraceFormatError: the trace cannot be read.
    """
    rows = sorted(report.processes, key=lambda p: (-_weight(p), p.born_seq))
    attached = [p for p in rows if p.attached is not None]
    if attached:  # what was asked about, however small
        rows.remove(attached[0])
        rows.insert(0, attached[0])
    full = rows[: budget.processes]
    shares = _shares([p.calls_total for p in full])
    by_mm = {p.mm: (p, share) for p, share in zip(full, shares, strict=True)}
    groups = {mm: max(int(budget.groups * share), 8) for mm, (_, share) in by_mm.items()}
    with Trace(path) as trace:
        page = trace.header.page_size
        curves = Curves(kinds, page, groups)
        before = replay(trace, [Cuts(page), curves])
    of = curves.series(timed=before.timed)
    chosen, entries = {}, {}
    for mm, (p, share) in by_mm.items():
        entries[mm] = max(int(budget.entries * share), 400)
        if (series := of.get(mm)) is not None:
            room = max(10 * entries[mm] // max(series.pieces, 1), 2)
            evidence = [seq for x in p.findings for seq in x.evidence[:4]]
            chosen[mm] = pick(series, min(budget.moments, room), evidence)
    with Trace(path) as trace:
        events = Events(
            trace,
            {mm: (p.calls_total, max(int(budget.events * share), 40), _evidence(p))
             for mm, (p, share) in by_mm.items()},
        )  # fmt: skip
        maps = Maps(kinds, chosen, entries)
        checks = _Checks(by_mm)
        result = replay(trace, [Cuts(page), maps, events, checks])
    timed = result.timed
    doubts = trust.doubts(result)
    return {
        "format": "memtrace-html/1",
        "opening": opening(report, full[0] if full else None),
        "trace": {
            "clock": report.trace.clock,
            # By time only where it goes on: a log may have been put together, or its clock set.
            "timed": timed and not curves.backwards,
            "backwards": timed and curves.backwards,
            "page_size": page,
            "events": report.trace.events,
            "last_seq": result.last_seq,
            "lost": report.trace.lost,
            "duration_ns": report.trace.duration_ns,
            "engine": clean(report.trace.engine),
            "kernel": clean(report.kernel),
            "machine": clean(report.machine),
            "exactness": report.exactness,
            "trust": clean(report.trust),
            "problems": [clean(x) for x in report.problems],
        },
        "address_spaces": report.address_spaces,
        "layers": LAYERS,
        "processes": [
            {
                **process_facts(p),
                "series": _series(of.get(p.mm)),
                "map": maps.of(p.mm, timed=timed),
                "events": events.of(p.mm, timed=timed),
                **checks.of(p.mm, doubts.get(p.mm, ()), timed=timed),
            }
            for p in full
        ],
        "others": [process_facts(p, brief=True) for p in rows[budget.processes :][: budget.listed]],
        "more": max(len(rows) - budget.processes - budget.listed, 0),
    }


def _weight(p: ProcessRow) -> int:
    return max(p.memory.vm_peak_bytes or 0, p.seen_bytes) + (p.calls_total << 12)


def _evidence(p: ProcessRow) -> set[int]:
    """The records that the page refers to."""
    found = {seq for x in p.findings for seq in x.evidence[:200]}
    found.update(m.seq for m in p.threshold.history[:500])
    found.update(x for x in (p.heap.peak_seq, p.peak_seq) if x is not None)
    return found


def _shares(weights: Sequence[int]) -> list[float]:
    """Parts of a budget: by weight, and the last ones get something, too."""
    total = sum(weights) + len(weights) or 1
    return [(w + 1) / total for w in weights]


def _series(series: Series | None) -> dict[str, Any]:
    """The curve: its moments, and the end of the life if that comes after them all."""
    if series is None:
        return {"seq": [], "t": [], "layers": [[] for _ in LAYERS], "rss": [], "thinned": False}
    seqs, times = [m.seq for m in series.moments], [m.t_ns for m in series.moments]
    stacked, rss = layers(series), [m.rss for m in series.moments]
    seq, t = series.last
    if seq > seqs[-1]:
        seqs, times, rss = [*seqs, seq], [*times, t], [*rss, None]
        stacked = [[*values, values[-1]] for values in stacked]
    return {
        "seq": seqs,
        "t": None if t is None else times,
        "layers": stacked,
        "rss": rss,
        "thinned": series.thinned,
    }


class _Checks(Observer):
    """Where the kernel's map was compared, and where records are lost."""

    def __init__(self, wanted: Mapping[int, object]) -> None:
        self._found: dict[int, list[tuple[int, int, bool]]] = {mm: [] for mm in wanted}
        self._lost: dict[int, list[Doubt]] = {mm: [] for mm in wanted}

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """See `Observer`."""
        found = self._found.get(p.mm)
        if found is None:
            return
        exact = comparison.drift is None
        if len(found) >= _SNAPSHOTS:
            found[:] = [s for i, s in enumerate(found) if i % 2 == 0 or not s[2]][:_SNAPSHOTS]
        found.append((seq, t, exact))
        lost = self._lost[p.mm]
        if lost and lost[-1].before is None:
            lost[-1] = msgspec.structs.replace(lost[-1], before=seq)

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        """See `Observer`."""
        if not isinstance(record, Lost):
            return
        for mm in self._lost if p is None else (p.mm,):
            lost = self._lost.get(mm)
            if lost is None or (lost and lost[-1].before is None):
                continue
            if len(lost) < _SNAPSHOTS:
                lost.append(Doubt(seq - 1, None, seq, f"records are lost: {record.why}"))

    def of(self, mm: int, doubts: Iterable[Doubt], *, timed: bool) -> dict[str, Any]:
        """Snapshots, and the parts of the life in which the map is not proven."""
        unproven = sorted([*doubts, *self._lost[mm]], key=lambda d: d.after)
        return {
            "snapshots": [[s, t if timed else None, int(e)] for s, t, e in self._found[mm]],
            "doubts": [[d.after, d.before, clean(d.what)] for d in unproven[:_SNAPSHOTS]],
        }
