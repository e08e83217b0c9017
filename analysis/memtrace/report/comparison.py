# SPDX-License-Identifier: GPL-2.0-or-later
"""Two reports side by side: what differs on purpose, and what came of it. Pure.

A number that one side does not know is None, never 0, and nothing that comes of how a trace was
recorded is a change: what each side cannot tell is in `sight.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from memtrace.report import settings
from memtrace.report.changes import Side, changes
from memtrace.report.compared import Alone, Comparison, Pair, Reach, Stand
from memtrace.report.model import ProcessRow, Report
from memtrace.report.pairing import Couple, paired
from memtrace.report.sight import Sight, sights, unlike
from memtrace.report.turning import told, turns
from memtrace.trace.sizes import format_time, plural

SIDES = ("before", "after")
_UNLIKE = {
    "evidence": "Not both were recorded with callers and chunk headers (--evidence): kinds that "
    "these prove, the mmap threshold and findings by them are not known of the one without",
    "snapshots": "Snapshots were not taken alike (--snapshots): how many lines maps had at most, "
    "and findings by that, are not comparable",
    "heap-walk": "Not both were recorded with --heap-walk: findings by what is in the heaps are "
    "not comparable",
}


def compare(before: Report, after: Report) -> Comparison:
    """The later report beside the earlier one."""
    reports = before, after
    named = not any(r.recording.redacted for r in reports)
    rows = list(before.processes), list(after.processes)
    found = paired(*rows, named=named)
    return Comparison(
        reach=(_reach(before), _reach(after)),
        notes=list(_notes(before, after, rows)),
        recorded=settings.differing(settings.of_recording(before, after)),
        settings=settings.differing(settings.of_machine(before, after)),
        trust=(before.trust, after.trust),
        trusted=(before.exactness == "exact", after.exactness == "exact"),
        pairs=[_pair(couple, before, after) for couple in found.couples],
        only_before=dict(Counter(p.program for p in found.before)),
        only_after=dict(Counter(p.program for p in found.after)),
        alone=[
            Alone(side, p.program, p.pid, [told(x) for x in p.findings])
            for side, rest in zip(SIDES, (found.before, found.after), strict=True)
            for p in rest
            if p.findings
        ],
    )


def _reach(report: Report) -> Reach:
    r = report.recording
    return Reach(report.trace.complete, r.reason, r.last_seq, report.trace.duration_ns)


def _notes(
    before: Report, after: Report, rows: tuple[Sequence[ProcessRow], Sequence[ProcessRow]]
) -> Iterable[str]:
    for word, report in zip(SIDES, (before, after), strict=True):
        if not report.trace.complete:
            yield _incomplete(word, report)
    for word, processes in zip(SIDES, rows, strict=True):
        attached = [p for p in processes if p.attached is not None]
        if attached:
            yield _attached(word, attached)
    if settings.one_log(before, after):
        yield (
            f"{SIDES[before.trace.log is None]} is an imported log, without callers, chunk headers "
            f"and maps: kinds are not known, and a finding that it does not have may hold of it "
            f"all the same"
        )
    for word, report in zip(SIDES, (before, after), strict=True):
        if report.recording.redacted:
            yield (
                f"{word} is redacted: its names are its own, and processes are paired by order, "
                f"not by name"
            )
    if not settings.one_log(before, after):
        for option in sorted(unlike(before.recording, after.recording)):
            yield _UNLIKE[option]


def _incomplete(word: str, report: Report) -> str:
    r, ns = report.recording, report.trace.duration_ns
    time = "" if ns is None else f", after {format_time(ns)}"
    what = (
        "of a process that was not over, counts and peaks are the least there was"
        if r.cut
        else "what is missing may be anywhere: counts and peaks are the least there was, sizes "
        "of kinds are not known"
    )
    return (
        f"{word} is INCOMPLETE ({r.reason}): it ends with record #{r.last_seq}{time}; {what}, "
        f"and no finding can be said to have gone"
    )


def _pair(couple: Couple, before: Report, after: Report) -> Pair:
    a, b, by = couple
    recordings = before.recording, after.recording
    one, two = sights(a, b, recordings)
    named = not any(r.redacted for r in recordings)
    found = turns(a, b, one, named=named, order=by == "order")
    return Pair(
        name=b.program,
        was=a.program,
        before=a.pid,
        after=b.pid,
        by=by,
        limits=(one.words, two.words),
        notes=[
            f"{word} ran on when memtrace left it"
            for word, p in zip(SIDES, (a, b), strict=True)
            if p.running
        ],
        settings=settings.differing(
            settings.of_program(a, b, (recordings[0].redacted, recordings[1].redacted))
        ),
        changes=list(changes(Side(a, one), Side(b, two))),
        threshold=(_stands(a, one), _stands(b, two)),
        appeared=found.appeared,
        went=found.went,
        changed=found.changed,
        unseen=found.unseen,
        logged=(a.assumed, b.assumed),
    )


def _attached(word: str, attached: Sequence[ProcessRow]) -> str:
    p, more = attached[0], len(attached) - 1
    age = None if p.attached is None else p.attached.age_ns
    when = (
        "was there before its trace began"
        if age is None
        else (f"was attached to {format_time(age)} after its start")
    )
    others = f", as were {plural(more, 'other process', 'other processes')}" if more else ""
    return (
        f"{word} begins in mid-life: {p.program} (pid {p.pid}) {when}{others}; what was before is "
        f"not known: counts and peaks are the least there was, and a finding that it does not "
        f"have may hold of it all the same"
    )


def _stands(p: ProcessRow, sight: Sight) -> list[Stand]:
    if not sight.callers and p.allocator.name in ("glibc", "unknown"):
        return [Stand(None, None, None, "start")]
    t = p.threshold
    first = (t.initial, t.initial) if t.first is None else (t.first.min, t.first.max)
    begin = [Stand(None, *first, "start")] if p.allocator.name in ("glibc", "unknown") else []
    return begin + [Stand(m.seq, m.low, m.high, m.cause) for m in t.history]


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every comparison satisfies."""
    text = files("memtrace.report").joinpath("comparison.schema.json").read_bytes()
    loaded: dict[str, Any] = msgspec.json.decode(text)
    return loaded
