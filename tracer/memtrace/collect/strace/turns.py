# SPDX-License-Identifier: GPL-2.0-or-later
"""In which order the calls of one address space are applied.

strace lets a thread into its call as soon as it has written of its entry, whoever else is in one.
Before that it is held, until all others have come to the end of theirs: so the order of entries is
the order of application, and a call's message has its place from its entry on (`sequence.py`). What
a call that has ended leaves behind is looked at before the next one begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from memtrace.collect import procfs, wire
from memtrace.collect.abi import Role
from memtrace.collect.ptrace import ENTRY_ARG0
from memtrace.collect.readback import ReadBack, changes_no_map
from memtrace.collect.strace.sequence import Place, Sequence
from memtrace.collect.tracee import Mm, Tracee
from memtrace.collect.turns import LIMIT_NS
from memtrace.space.calls import MAP_FIXED

_STOPPED: tuple[list[str], ...] = (["t"], ["Z"], ["X"], [])
_LONGEST_NAP = 0.005


class Done(NamedTuple):
    """A call that was seen to have come to its end at `ns` (CLOCK_MONOTONIC): what is to be read
    back if it has `failed`, and if it has `made` what it was asked for; None if not known.
    """

    ns: int
    failed: bytes
    made: bytes | None


class Turns:
    """The calls in flight.

    Args:
        channel: to the writer.
        in_flight: tells those of an mm.
        is_first: whether a task has not come to the end of any call yet. Under a filter such a one
            may stand in the second stop before its call (`command.py`) and not at its end.
    """

    def __init__(
        self,
        channel: Sequence,
        in_flight: Callable[[Mm], list[Tracee]],
        is_first: Callable[[int], bool],
    ) -> None:
        self._channel = channel
        self._in_flight = in_flight
        self._is_first = is_first
        self._read_back = ReadBack()
        self._places: dict[int, tuple[Place, Tracee]] = {}  # tid -> that of its call in flight
        self._late: set[int] = set()  # whose call in flight has lost its place
        self._last: dict[int, int] = {}  # mm -> the task that was let in last
        self._done: dict[int, Done] = {}  # tid -> of its call in flight, which has ended

    def enter(self, tracee: Tracee) -> None:
        """Return when the tracee can be let into its call. One that does not come to its end (it
        may wait for this very thread) is left to overlap.
        """
        mm = tracee.mm
        others = [t for t in self._in_flight(mm) if t is not tracee]
        doubtful = [t for t in others if t.tid not in self._done and self._is_first(t.tid)]
        if doubtful:
            self._overlap(mm, [*doubtful, tracee])
            others = [t for t in others if t not in doubtful]
        late = _await(others)
        if late:
            self._overlap(mm, [*late, tracee])
        for t in others:
            if t in late:
                continue
            if t.tid not in self._done and t.role is Role.MEMORY:
                self._done[t.tid] = self._look_back(t)
            if t.tid in self._late:  # it has ended, and is told of before this one after all
                self._late.discard(t.tid)
                self._places[t.tid] = self._channel.place(), t
        self._places[tracee.tid] = self._channel.place(), tracee
        self._last[mm.id] = tracee.tid

    def give_up_late(self) -> None:
        """Calls that take long lose their places, or all that is sent would wait for them. The next
        call of their mm gives them another one, before its own, unless it is let overlap (`enter`);
        if it is in flight already, strace tells which comes first, and that may be wrong.
        """
        now = time.monotonic_ns()
        late = [t for place, t in self._places.values() if now - place.since > LIMIT_NS]
        for t in late:
            others = [o for _, o in self._places.values() if o.mm is t.mm]
            place, _ = self._places.pop(t.tid)
            self._late.add(t.tid)
            if len(others) > 1:
                self._tell_overlap(t.mm, others)
            self._channel.settle(place)

    def all_ended(self, mm: Mm, tracee: Tracee) -> bool:
        """Whether all calls of the mm but the tracee's come to their end, now that no other begins,
        and of those whose task is killed before strace can tell the result it is known what they
        have done.
        """
        others = [t for t in self._in_flight(mm) if t is not tracee]
        if any(self._is_first(t.tid) for t in others) or _await(others):
            return False
        for t in others:
            if t.role is not Role.MEMORY:
                return False
            if changes_no_map(t.name, [t.entry[ENTRY_ARG0 + i] for i in range(6)]):
                continue
            if t.tid not in self._done:
                self._done[t.tid] = self._look_back(t)
            if not self._done[t.tid].failed or t.name == "mremap":
                return False
        return True

    def done(self, tracee: Tracee) -> Done | None:
        """What was seen of the call after its end, before another began."""
        return self._done.pop(tracee.tid, None)

    def was_last(self, tracee: Tracee) -> bool:
        """Whether no call of the mm has begun after this one: the page count is its doing."""
        return self._last.get(tracee.mm.id) in (None, tracee.tid)

    def place(self, tracee: Tracee) -> Place | None:
        """Where the message of its call in flight will stand."""
        found = self._places.get(tracee.tid)
        return None if found is None else found[0]

    def settle(self, tracee: Tracee, message: bytes = b"") -> None:
        """Put a call's message where it belongs; one that has lost its place goes last."""
        found = self._places.pop(tracee.tid, None)
        self._done.pop(tracee.tid, None)
        self._late.discard(tracee.tid)
        tracee.mm.overlapping.discard(tracee)
        if found is not None:
            self._channel.settle(found[0], message)
        elif message:
            self._channel.send(message)

    def _overlap(self, mm: Mm, tracees: list[Tracee]) -> None:
        self._tell_overlap(mm, tracees)
        for t in tracees[:-1]:
            self.settle(t)
            mm.overlapping.add(t)

    def _tell_overlap(self, mm: Mm, tracees: list[Tracee]) -> None:
        self._channel.send(wire.life({
            "rec": "overlap", "t": self._channel.now(), "mm": mm.id,
            "tids": [t.tid for t in tracees],
        }))  # fmt: skip
        mm.disordered = True

    def _look_back(self, tracee: Tracee) -> Done:
        failed = self._read_back.after(tracee, -1)
        fixed = tracee.name == "mmap" and tracee.entry[7] & MAP_FIXED
        first = tracee.name == "brk" and not tracee.mm.brk_told
        made = self._read_back.after(tracee, tracee.entry[4]) if fixed or first else None
        return Done(time.monotonic_ns(), failed, made)


def _await(tracees: list[Tracee]) -> list[Tracee]:
    """Those that have not come to a stop within the time limit. strace is held meanwhile; they get
    there without it.
    """
    end, nap = time.monotonic_ns() + LIMIT_NS, 0.0
    while late := [t for t in tracees if procfs.stat_fields(t.tid)[:1] not in _STOPPED]:
        if time.monotonic_ns() > end:
            break
        time.sleep(nap)
        nap = min(nap + 0.00005, _LONGEST_NAP)
    return late
