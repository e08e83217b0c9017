# SPDX-License-Identifier: GPL-2.0-or-later
"""Letting go of everything that is traced: a last map of each mm, then each thread as it stands.

An mm is closed by its last snapshot, at the first moment when none of its calls is in flight; what
its threads do afterwards is not part of the trace. A thread of a closed mm is detached at its next
stop, with the signal it was to get, and to have one it is interrupted. Not so one that sleeps in a
call which would fail with EINTR: it never stops, and is freed by the end of this process
(`exit_ptrace` unlinks a tracee without waking it). So is whoever is in uninterruptible sleep. Where
the interrupt came a moment late, the call is put back.

Those go first that signals are sent to. One that the program ignores wakes nobody (`sig_ignored`),
unless the task that it is sent to is traced; and if that one is in a stop, any other is woken
(`complete_signal`), whose call fails with EINTR. Of one that is let go already nobody could put it
back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from memtrace.collect import broken_off, procfs, ptrace, turns, wire
from memtrace.collect.abi import NATIVE
from memtrace.collect.attach import sleeps_elsewhere
from memtrace.collect.engine import Engine
from memtrace.collect.ptrace import (
    CONT,
    DETACH,
    EINTR_CALLS,
    ENTRY_NR,
    ENTRY_OP,
    ENTRY_SIZE,
    GET_SYSCALL_INFO,
    INTERRUPT,
    OP_ENTRY,
    STOP_SYSCALL,
    SYSCALL,
    WALL,
    registers,
    request,
    rewind,
)
from memtrace.collect.tracee import FirstStop, Mm, Tracee

#: How long a call in flight, or a thread that does not stop, is waited for.
PATIENCE_NS = 2_000_000_000
_SLEEPERS_NS = 30_000_000
_NAP = 0.0005
#: So many stops at most are dealt with before those that stand in them are let go.
_TOGETHER = 64
#: How long those are waited for that go first.
_FIRST_NS = 10_000_000


class Departure:
    """The end of an attach.

    Args:
        engine: its loop has returned; `engine.unhandled` are the stops it returned with.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._stopped: dict[int, int] = {}  # tid -> the signal to deliver
        self._closed: set[int] = set()
        self._dying: set[int] = set()
        self._left: set[int] = set()
        self._interrupted: set[int] = set()
        self._unknown: set[int] = set()
        self._first: set[int] = set()  # to be let go before any other

    def go(self) -> None:
        """Detach from everything; on return no tracee is stopped."""
        engine = self.engine
        engine.go = ptrace.STAY
        tracees = engine.family.tracees
        for mm in list(engine.family.mms.values()):
            for waiting in mm.waiting:  # stopped at the entry of a call that is not recorded
                waiting.pending = False
                self._stopped[waiting.tid] = 0
            mm.waiting.clear()
            self._close(mm)
        self._first = {tid for tid in tracees if self._is_sent_signals(tid)}
        for tid in self._first - self._stopped.keys():
            self._interrupt(tid)
        while engine.unhandled:
            self._stop(*engine.unhandled.popleft())
        begun = time.monotonic_ns()
        while self._pending(self._first) and time.monotonic_ns() - begun < _FIRST_NS:
            if not self.serve():
                time.sleep(_NAP)
        self._first.clear()
        seen_to = self._stopped.keys() | self._interrupted | self._left | self._dying
        for tid in tracees.keys() - seen_to:
            self._interrupt(tid)
        while self._pending(tracees) and (waited := time.monotonic_ns() - begun) < PATIENCE_NS:
            if not self.serve():
                if waited > _SLEEPERS_NS:
                    self._leave_sleepers()
                time.sleep(_NAP)
        for mm in list(engine.family.mms.values()):
            if mm.id not in self._closed:
                self._give_up(mm)
        self._release()

    def serve(self) -> bool:
        """Deal with the stops that are there; False when there were none. To be called until the
        end of the process: who was not interrupted may wake up and stop meanwhile.
        """
        found = 0
        while True:
            try:
                tid, status = os.waitpid(-1, WALL | os.WNOHANG)
            except ChildProcessError:
                tid = 0
            if not tid:
                self._release()
                return found > 0
            found += 1
            self._stop(tid, status)
            if not found % _TOGETHER:
                self._release()

    def _pending(self, tids: Iterable[int]) -> bool:
        """Whether one of these is still to stop, or some mm to be closed."""
        family = self.engine.family
        if any(mm.id not in self._closed for mm in family.mms.values()):
            return True
        away = self._left | self._dying
        return any(t in family.tracees and t not in away for t in tids)

    def _leave_sleepers(self) -> None:
        """Who does not stop and sleeps in a call that changes no map is left as it is."""
        for tid, tracee in self.engine.family.tracees.items():
            if tid not in self._stopped and not tracee.pending and sleeps_elsewhere(tid):
                self._left.add(tid)

    def _interrupt(self, tid: int) -> None:
        if procfs.syscall_of(tid) in EINTR_CALLS:  # (x86-64's numbers)
            self._left.add(tid)
        elif request(INTERRUPT, tid, 0, 0) < 0:
            self._dying.add(tid)
        else:
            self._interrupted.add(tid)

    # -- stops --------------------------------------------------------------------------------

    def _stop(self, tid: int, status: int) -> None:
        engine, tracees = self.engine, self.engine.family.tracees
        tracee = tracees.get(tid)
        mm = tracee.mm if tracee is not None else None
        recorded = mm is not None and mm.id not in self._closed
        if status & 0xFF != 0x7F:
            if recorded:
                engine.ended(tid, status)
            tracees.pop(tid, None)
            self._stopped.pop(tid, None)
            self._unknown.discard(tid)
            self._close_left(mm)
            return
        number, event = status >> 8 & 0xFF, status >> 16
        self._left.discard(tid)
        if event == ptrace.EVENT_EXIT:
            if recorded:
                engine.event(tid, tracee, event)
            request(CONT, tid, 0, 0)
            self._dying.add(tid)
            return
        if status != STOP_SYSCALL:
            engine.stopped_elsewhere(tid)
        if event or status == STOP_SYSCALL:
            number = 0
        elif tracee is not None:
            broken_off.delivered(tracee, number, exits=True)
        self._stopped[tid] = number
        if tracee is None and event != ptrace.EVENT_EXEC:
            self._unknown.add(tid)  # a child whose parent's event, if any, is still to come
            return
        if event == ptrace.EVENT_STOP and tid in self._interrupted:
            regs = registers(tid)
            if regs is not None:
                rewind(tid, regs)
        elif status == STOP_SYSCALL and tracee is not None and not tracee.pending:
            if self._enters(tracee):
                # The kernel's mark that a signal waits may stand although none does (any stop ends
                # an interrupt, but not this, `recalc_sigpending_tsk`): then the call fails at once.
                del self._stopped[tid]
                self._close(tracee.mm)
                if tid not in self._interrupted:
                    self._left.add(tid)
                request(SYSCALL, tid, 0, 0)
                return
            broken_off.put_back(tracee)
        self._interrupted.discard(tid)
        if recorded and tracee is not None:
            if status == STOP_SYSCALL and tracee.pending:
                engine.syscall_stop(tracee)
                if tracee.pending:
                    # Killed meanwhile: what became of the call is seen at its exit event.
                    self._stopped.pop(tid, None)
                    return
            elif event == ptrace.EVENT_STOP:
                self._first_stop(tracee)
            elif event:
                engine.event(tid, tracee, event)
                self._children_first()
                if event == ptrace.EVENT_EXEC:
                    self._close_left(mm)
        tracee = tracees.get(tid)
        if tracee is not None:
            tracee.pending = False  # an entry: whatever comes of it is not recorded
            self._close(tracee.mm)

    @staticmethod
    def _enters(tracee: Tracee) -> bool:
        """Whether this is the entry of a call that may fail with EINTR."""
        e = tracee.entry
        return (
            request(GET_SYSCALL_INFO, tracee.tid, ENTRY_SIZE, e) > 0
            and e[ENTRY_OP] & 0xFF == OP_ENTRY
            and ptrace.fails_with_eintr(e[ENTRY_NR], native=e[ENTRY_OP] >> 32 == NATIVE.audit)
        )

    def _children_first(self) -> None:
        """Those that stopped before their parent's event, which has come now."""
        for tid in [t for t in self._unknown if t in self.engine.family.tracees]:
            self._unknown.discard(tid)
            child = self.engine.family.tracees[tid]
            self._first_stop(child)
            self._close(child.mm)

    def _first_stop(self, tracee: Tracee) -> None:
        """A child that was born a moment ago: its map is its own."""
        todo, tracee.at_first_stop = tracee.at_first_stop, FirstStop.NOTHING
        if todo is FirstStop.SEED:
            self.engine.family.seed(tracee.mm, "fork")

    # -- mms ----------------------------------------------------------------------------------

    def _close_left(self, mm: Mm | None) -> None:
        """One of its tasks has left it, perhaps the one whose call the others had to wait for."""
        if mm is not None and mm.id in self.engine.family.mms:
            self._close(mm)

    def _close(self, mm: Mm) -> None:
        """Take the last snapshot, if no call is in flight."""
        if mm.id in self._closed or not mm.id:
            return
        if mm.holder is not None and not mm.holder.pending:
            turns.leave(mm.holder)
        mm.overlapping = {t for t in mm.overlapping if t.pending}
        if mm.holder is not None or mm.overlapping:
            return
        self._closed.add(mm.id)
        if mm.seeded:
            tracee = next((t for t in self.engine.family.tracees.values() if t.mm is mm), None)
            if tracee is not None:
                self.engine.observer.snapshot(mm, tracee, "detach")

    def _give_up(self, mm: Mm) -> None:
        """A call of this mm has not come back: what it did is not known."""
        self._closed.add(mm.id)
        channel = self.engine.channel
        for t in [t for t in self.engine.family.tracees.values() if t.mm is mm and t.pending]:
            channel.send(wire.life({
                "rec": "lost", "t": channel.now(), "mm": mm.id, "count": 1,
                "why": f"thread {t.tid} was inside a memory call at the detach",
            }))  # fmt: skip

    def _is_sent_signals(self, tid: int) -> bool:
        """Whether signals to its process are sent to this thread: to the leader by kill(2), to one
        that has children when they end (`do_notify_parent`).
        """
        return tid == self.engine.family.tracees[tid].pid or procfs.has_children(tid)

    def _release(self) -> None:
        """Detach the stopped threads of closed mms; as long as there are some that go first, only
        those.
        """
        tracees = self.engine.family.tracees
        open_mms = any(mm.id not in self._closed for mm in self.engine.family.mms.values())
        for tid, number in list(self._stopped.items()):
            tracee = tracees.get(tid)
            if self._first and tid not in self._first:
                continue
            if tracee.mm.id in self._closed if tracee is not None else not open_mms:
                del self._stopped[tid]
                self._unknown.discard(tid)
                request(DETACH, tid, 0, number)
                tracees.pop(tid, None)
