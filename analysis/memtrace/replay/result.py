# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pass over a trace found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memtrace.replay.tasks import Tasks

if TYPE_CHECKING:
    from memtrace.replay.process import Process
    from memtrace.trace.records import Header


@dataclass(slots=True)
class Replay:
    """What a pass found.

    Attributes:
        header: the trace's.
        processes: one per mm, in order of birth.
        tasks: who uses which mm, at the last record of the pass.
        events: calls, life-cycle records not counted.
        lost: events that the trace says it does not hold.
        first_lost: seq of the first `lost` record.
        last_seq: the last record applied, 0 for none; `last_t` its time, `duration_ns` the trace's.
        complete: whether nothing is missing; `reason` says why not, "" if complete.
        counted: the footer says how many records there are, and so many were here.
        ordered: no record is earlier than the one before it.
        stopped: the pass ended before the trace did; `complete` is not known.
        problems: [(seq, sentence)] of contradicting records, at most 20 of `problems_total`.
    """

    header: Header
    processes: list[Process] = field(default_factory=list)
    tasks: Tasks = field(default_factory=Tasks)
    by_mm: dict[int, Process] = field(default_factory=dict)
    events: int = 0
    lost: int = 0
    first_lost: int | None = None
    last_seq: int = 0
    last_t: int = 0
    duration_ns: int = 0
    complete: bool = False
    reason: str = ""
    counted: bool = False
    ordered: bool = True
    stopped: bool = False
    problems: list[tuple[int, str]] = field(default_factory=list)
    problems_total: int = 0

    @property
    def timed(self) -> bool:
        """Whether its records have times; if not, all are 0 here."""
        return self.header.clock != "none"

    def process_of(self, pid: int) -> Process | None:
        """The address space that the process uses at the last record of the pass."""
        mm = self.tasks.mm_of.get(pid)
        return None if mm is None else self.by_mm.get(mm)

    def problem(self, seq: int, text: str) -> None:
        """Note a record that contradicts what came before it."""
        self.problems_total += 1
        if len(self.problems) < 20:
            self.problems.append((seq, text))
