# SPDX-License-Identifier: GPL-2.0-or-later
"""What the page shows, as plain values: read in two more passes over the trace, when the kind of
every region is known already.

All of it is bounded, however long the trace: see `Budget`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memtrace.malloc.tags import Cuts
from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.report.html.events import Events
from memtrace.report.html.maps import Maps
from memtrace.report.html.moments import LAYERS, Curve, Line, pick
from memtrace.report.html.summary import opening, process_facts
from memtrace.report.lines import clean
from memtrace.trace.reader import Trace

if TYPE_CHECKING:
    from memtrace.malloc.tags import Kinds
    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay
    from memtrace.report.model import ProcessRow, Report
    from memtrace.space.compare import Comparison
    from memtrace.trace.records import Snap

_SNAPSHOTS = 2000


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a trace a page holds, all processes together.

    Attributes:
        processes: of which there is more than a line.
        events: in the table.
        buckets: of the timeline; each leaves at most 13 states.
        moments: with a map; of one process.
        entries: of maps, a region that came or changed each.
    """

    processes: int = 30
    listed: int = 500
    events: int = 5000
    buckets: int = 250
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
    buckets = {
        mm: max(p.calls_total // max(int(budget.buckets * share), 8), 1)
        for mm, (p, share) in by_mm.items()
    }
    with Trace(path) as trace:
        page = trace.header.page_size
        curve = Curve(page, kinds, buckets)
        replay(trace, [curve])
    chosen, entries = {}, {}
    for mm, (p, share) in by_mm.items():
        line = curve.lines.get(mm, Line())
        entries[mm] = max(int(budget.entries * share), 400)
        room = max(10 * entries[mm] // max(line.most_pieces, 1), 2)
        evidence = [seq for x in p.findings for seq in x.evidence[:4]]
        chosen[mm] = pick(line, min(budget.moments, room), evidence)
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
    return {
        "format": "memtrace-html/1",
        "opening": opening(report, full[0] if full else None),
        "trace": {
            "clock": report.trace.clock,
            "timed": timed,
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
                "series": _series(curve.lines.get(p.mm, Line()), timed=timed),
                "map": maps.of(p.mm, timed=timed),
                "events": events.of(p.mm, timed=timed),
                **checks.of(p.mm, result, timed=timed),
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


def _series(line: Line, *, timed: bool) -> dict[str, Any]:
    states = line.states
    return {
        "seq": [s.seq for s in states],
        "t": [s.t for s in states] if timed else None,
        "layers": [[s.layers[i] for s in states] for i in range(len(LAYERS))],
        "rss": [s.rss for s in states],
        "thinned": line.thinned,
    }


class _Checks(Observer):
    """Where the kernel's map was compared."""

    def __init__(self, wanted: Mapping[int, object]) -> None:
        self._found: dict[int, list[tuple[int, int, bool]]] = {mm: [] for mm in wanted}
        self._left_out: dict[int, int] = {}

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """See `Observer`."""
        found = self._found.get(p.mm)
        if found is None:
            return
        exact = comparison.drift is None
        if len(found) >= _SNAPSHOTS:
            found[:] = [s for i, s in enumerate(found) if i % 2 == 0 or not s[2]][:_SNAPSHOTS]
        found.append((seq, t, exact))

    def of(self, mm: int, result: Replay, *, timed: bool) -> dict[str, Any]:
        """Snapshots, and the parts of the life in which the map is not proven."""
        p = result.by_mm.get(mm)
        return {
            "snapshots": [[s, t if timed else None, int(e)] for s, t, e in self._found[mm]],
            "doubts": [
                [d.after, d.before, clean(d.what)] for d in (p.doubts if p else [])[:_SNAPSHOTS]
            ],
        }
