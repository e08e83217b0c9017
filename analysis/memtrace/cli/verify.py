# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace verify`: is the replayed map the kernel's?"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click

from memtrace.cli.options import common, quiet, trace_argument
from memtrace.cli.progress import reading
from memtrace.replay import trust
from memtrace.replay.engine import replay
from memtrace.report.lines import fit, program
from memtrace.space.compare import side_by_side
from memtrace.trace.reader import Trace
from memtrace.trace.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay
    from memtrace.space.canonical import Run
    from memtrace.space.compare import Drift

_SHOWN = 12


@click.command(short_help="Hold the replayed maps against the kernel's.")
@trace_argument
@common
def command(trace: str) -> int:
    """Hold the replayed maps of TRACE against the kernel's own.

    Exit status: 0 exact (or nothing to compare: unverified), 1 drift, 3 incomplete.
    """
    with reading(trace), Trace(trace) as opened:
        r = replay(opened)
    click.echo(trust.sentence(r))
    if not quiet():
        for line in _account(r):
            click.echo(line)
    return {"incomplete": 3, "drift": 1}.get(trust.exactness(r), 0)


def _account(r: Replay) -> Iterator[str]:
    for p in r.processes:
        yield from _process(p)
    worst = min((p for p in r.processes if p.drift), key=lambda p: p.drift[0].seq, default=None)
    if worst is not None:
        yield ""
        yield from _mismatch(worst, worst.drift[0])
        yield f"resynchronised {sum(p.drifts for p in r.processes)} times"
    for seq, text in r.problems:
        yield f"event {seq}: {text}"
    if r.problems_total > len(r.problems):
        yield f"... and {r.problems_total - len(r.problems):,} more of the kind"


def _process(p: Process) -> Iterator[str]:
    told = p.argv and not (p.start.assumed and p.argv[0].endswith("..."))
    name = program(p.argv[0]) if told else program(p.exe) or "?"
    agree = p.checksums - p.unexplained
    born = "fork" if p.inherited else "attach" if p.attached else "exec"
    yield (
        f"  pid {p.pid} mm {p.mm} ({fit(name, 30)}, {born} at {p.born_seq}): "
        f"{p.exact} of {p.snapshots} snapshots, {agree:,} of {p.checksums:,} checksums"
    )
    if p.stack_growth_bytes:
        yield (
            f"    stack grew {format_size(p.stack_growth_bytes)} by page faults, without a call; "
            f"{p.checksum_growth} checksums differ by it"
        )
    if p.unexplained:
        yield f"    {p.unexplained:,} checksums disagree, the first at event {p.first_mismatch}"
    if p.conflicts:
        yield (
            f"    {p.conflicts:,} results contradict the map, the first at event {p.first_conflict}"
        )
    if p.overlaps:
        yield f"    {p.overlaps:,} times the order of calls was unknown"
    if p.lost:
        yield f"    events lost {p.lost:,} times"


def _mismatch(p: Process, drift: Drift) -> Iterator[str]:
    yield f"first mismatch: snapshot ({drift.why}) at event {drift.seq} of pid {p.pid} mm {p.mm}"
    yield f"  {'replayed':<38} kernel"
    for ours, theirs in islice(side_by_side(drift.model, drift.kernel), _SHOWN):
        yield f"  {_run(ours):<38} {_run(theirs)}".rstrip()
    if drift.differing > _SHOWN:
        yield f"  ... and {drift.differing - _SHOWN} more"


def _run(r: Run | None) -> str:
    if r is None:
        return "-"
    what = r.name or (f"{r.dev} {r.ino}" if r.is_file else "")
    return f"{r.start:x}-{r.end:x} {r.perms} {what}".rstrip()
