# SPDX-License-Identifier: GPL-2.0-or-later
"""The records behind a metric of a process: what to look at when it is over budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from memtrace.report.metrics import Metric
from memtrace.report.model import ProcessRow

#: Records named for one number, at most.
MOST = 20


def evidence(metric: Metric, p: ProcessRow) -> tuple[int, ...]:
    """Their numbers; () where no record stands for it."""
    how = _HOW.get(metric.name)
    return () if how is None else tuple(islice((s for s in how(p) if s is not None), MOST))


def _steps(p: ProcessRow, sign: int) -> Iterable[int]:
    return (s.seq for s in p.heap.steps if s.delta * sign > 0)


def _finding(p: ProcessRow, rule: str) -> Iterable[int]:
    return (seq for x in p.findings if x.rule == rule for seq in x.evidence)


def _alive(p: ProcessRow) -> Iterable[int]:
    return (r.born_seq for r in p.regions if r.kind == "malloc-chunk" and r.died_seq is None)


_HOW: dict[str, Callable[[ProcessRow], Iterable[int | None]]] = {
    "arenas.count": lambda p: (a.born_seq for a in p.arenas),
    "arenas.reserved_bytes": lambda p: (a.born_seq for a in p.arenas if a.died_seq is None),
    "chunks.alive_at_exit": _alive,
    "chunks.final_bytes": _alive,
    "churn.pairs": lambda p: _finding(p, "MT105"),
    "heap.growths": lambda p: _steps(p, 1),
    "heap.grown_bytes": lambda p: _steps(p, 1),
    "heap.shrinks": lambda p: _steps(p, -1),
    "heap.shrunk_bytes": lambda p: _steps(p, -1),
    "heap.growths_over_128k": lambda p: _finding(p, "MT102"),
    "growth.over_threshold": lambda p: _finding(p, "MT102"),
    "heap.peak_bytes": lambda p: (p.heap.peak_seq,),
    "heap.refused": lambda p: (s.seq for s in p.heap.steps if not s.delta and s.cause is not None),
    "threshold.rises": lambda p: (m.seq for m in p.threshold.history),
    "trust.drift": lambda p: (d.seq for d in p.verification.drift),
}
