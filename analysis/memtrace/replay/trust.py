# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a replay can be trusted, as a word and as one sentence. Every report prints them.

The words, worst first: `incomplete` (something is missing in the trace), `drift` (the replayed map
was wrong at a checked moment), `unverified` (no kernel map was there to compare), `exact`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from memtrace.replay.process import Doubt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay

Exactness = Literal["exact", "unverified", "drift", "incomplete"]


def exactness(replay: Replay) -> Exactness:
    """The trust in the whole trace."""
    if not replay.complete:
        return "incomplete"
    if replay.problems_total or any(p.drifted for p in replay.processes):
        return "drift"
    if not any(p.verified for p in replay.processes):
        return "unverified"
    return "exact"


def process_exactness(replay: Replay, p: Process) -> Exactness:
    """The trust in one address space's account."""
    if not replay.complete:
        return "incomplete"
    if p.drifted:
        return "drift"
    return "exact" if p.verified else "unverified"


def drifted(replay: Replay) -> bool:
    """Whether any check failed, in a complete trace or not."""
    return bool(replay.problems_total) or any(p.drifted for p in replay.processes)


def first_drift(replay: Replay) -> tuple[int, str] | None:
    """The first failed check: (seq, what it was)."""
    found: list[tuple[int, str]] = []
    for p in replay.processes:
        if p.drift:
            found.append((p.drift[0].seq, "a snapshot is not reproduced"))
        if p.first_conflict is not None:
            found.append((p.first_conflict, "a call's result contradicts the map"))
        if p.first_mismatch is not None:
            found.append((p.first_mismatch, "statm counts another size"))
    found += replay.problems[:1]
    return min(found) if found else None


def doubts(replay: Replay) -> dict[int, list[Doubt]]:
    """Where the map of each address space is not proven, by mm; those without are left out.

    What a fork copies is as good as what it copies, until the child's first snapshot.
    """
    found: dict[int, list[Doubt]] = {}
    for p in replay.processes:
        own = p.doubts
        begun = p.born_seq - 1
        if p.inherited and p.parent is not None and not (own and own[0].after == begun):
            copied = doubt_at(found.get(p.parent.mm, ()), p.born_seq)
            if copied is not None:
                own = [Doubt(begun, p.first_checked, copied.seq, copied.what), *own]
        if own:
            found[p.mm] = own
    return found


def doubt_at(doubts: Iterable[Doubt], seq: int) -> Doubt | None:
    """Why a map after that record is not proven; None if nothing speaks against it."""
    return next((d for d in doubts if d.covers(seq)), None)


def sentence(replay: Replay) -> str:
    """The verification line.

    For example `exact: 12 of 12 kernel snapshots reproduced, 1,204 of 1,204 checksums, no gaps`.
    """
    word = exactness(replay)
    parts = [_counts(replay, replay.processes)]
    if word in ("incomplete", "drift") and (first := first_drift(replay)) is not None:
        parts.append(f"first at event {first[0]}: {first[1]}")
    if word == "incomplete":
        parts.append(replay.reason)
    elif replay.counted:
        parts.append("no gaps")
    else:
        parts.append("gaps unknown: the footer does not count its records")
    return f"{word}: " + ", ".join(parts)


def process_sentence(replay: Replay, p: Process) -> str:
    """The same line for one address space."""
    return f"{process_exactness(replay, p)}: {_counts(replay, [p])}"


def _counts(replay: Replay, processes: list[Process]) -> str:
    snapshots = sum(p.snapshots for p in processes)
    exact = sum(p.exact for p in processes)
    checksums = sum(p.checksums for p in processes)
    agree = checksums - sum(p.unexplained for p in processes)
    text = (
        f"{exact:,} of {snapshots:,} kernel snapshots reproduced"
        if snapshots
        else "no kernel snapshot to compare"
    )
    if not snapshots and replay.header.log is not None:
        text = "no kernel snapshots in this log"
    if checksums:
        text += f", {agree:,} of {checksums:,} checksums"
        grown = sum(p.checksum_growth for p in processes)
        if grown:
            text += f" ({grown:,} by stack growth)"
    unread = sum(p.unread for p in processes)
    if unread and replay.header.log is None:
        text += f", {unread:,} {'call' if unread == 1 else 'calls'} without a checksum"
    return text
