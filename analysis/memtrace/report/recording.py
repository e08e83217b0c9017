# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trace was recorded with and how far it reaches, and what a program began with: what two
traces may differ by though the program is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from memtrace.trace.records import Exec

if TYPE_CHECKING:
    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay
    from memtrace.trace.reader import Trace

_REDACTED = "/redacted/"


class Recording(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How a trace was recorded, and on what. None: it does not tell.

    Attributes:
        version: of memtrace.
        evidence: callers and chunk headers were read.
        snapshots, heap_walk: as in `Manner`.
        redacted: names are the trace's own.
        cpus, thp, overcommit, max_map_count: the machine's settings.
        last_seq: the last record.
        reason: why it is incomplete, "" if it is not.
        cut: nothing is missing but what came after the last record.
    """

    version: str
    evidence: bool | None
    snapshots: str | None
    heap_walk: bool | None
    redacted: bool
    cpus: int | None
    thp: str | None
    overcommit: int | None
    max_map_count: int | None
    last_seq: int
    reason: str
    cut: bool


class Begun(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a program began with.

    Attributes:
        personality: of personality(2); None: not known.
        abi: "" if not known.
        at_secure: the loader ran it in secure mode.
        withheld: privileges that its file grants and that it did not get; None: not known.
        file: the device and inode of its file, "" if not known.
    """

    personality: int | None
    abi: str
    at_secure: bool | None
    withheld: list[str] | None
    file: str


def recording(result: Replay, trace: Trace) -> Recording:
    """Of a trace that was read to its end."""
    header, manner = result.header, result.header.manner
    evidence: bool | None
    if header.log is not None:
        evidence = False
    elif manner is not None:
        evidence = manner.evidence
    else:
        evidence = bool(trace.decoder.sites) if result.events else None
    return Recording(
        version=header.version,
        evidence=evidence,
        snapshots=None if manner is None else manner.snapshots,
        heap_walk=None if manner is None else manner.heap_walk,
        redacted=_redacted(result) if manner is None else manner.redact,
        cpus=header.cpus_online,
        thp=header.thp,
        overcommit=header.overcommit,
        max_map_count=header.max_map_count,
        last_seq=result.last_seq,
        reason=result.reason,
        cut=_cut(result, trace),
    )


def _redacted(result: Replay) -> bool:
    names = [*result.header.argv[:1], *(p.exe for p in result.processes)]
    return any(name.startswith(_REDACTED) for name in names)


def _cut(result: Replay, trace: Trace) -> bool:
    """Whether only the end is missing."""
    footer = trace.footer
    if footer is not None:
        here = {"records": result.last_seq, "calls": result.events, "lost": 0}
        if footer.complete or any(footer.counts.get(n, k) != k for n, k in here.items()):
            return False
    gaps = result.lost or result.first_lost is not None or result.problems_total
    return not (gaps or trace.problems_total)


def begun(p: Process) -> Begun:
    """Of a process; a fork's copy has what its parent began with."""
    start = p.start
    return Begun(
        personality=None if start.assumed else start.personality,
        abi=start.abi,
        at_secure=start.at_secure,
        withheld=list(start.withheld) if isinstance(start, Exec) and not start.assumed else None,
        file=_file(start.maps, start.exe),
    )


def _file(maps: list[str], exe: str) -> str:
    for line in maps:
        columns = line.split(" ", 5)
        if len(columns) == 6 and columns[5] == exe and columns[4] != "0":
            return f"{columns[3]} {columns[4]}"
    return ""
