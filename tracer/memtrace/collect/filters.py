# SPDX-License-Identifier: GPL-2.0-or-later
"""Seccomp filters of the program's own, and what they do to a call that is recorded.

Theory of operation. Of several filters the strictest action wins (`seccomp_run_filters`). What is
stricter than our own filter's SECCOMP_RET_TRACE keeps the call from being made, and need not be
seen, but for SECCOMP_RET_USER_NOTIF: a listener is asked, and may let the call go on
(SECCOMP_USER_NOTIF_FLAG_CONTINUE), which then never stops. So a task under a filter with a listener
stops at each of its calls as it does without our filter (`Tracee.every_call`): at the entry, which
comes before all filters (`syscall_trace_enter`), and once more if it comes to our own. Filters are
inherited, and never go.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable

from memtrace.collect import procfs, turns
from memtrace.collect.abi import FILTER_NEW_LISTENER, FILTER_TSYNC, SET_MODE_FILTER
from memtrace.collect.ptrace import (
    CONT,
    ENTRY_ARG0,
    ENTRY_DATA,
    ENTRY_OP,
    ENTRY_SIZE,
    GET_SYSCALL_INFO,
    INTERRUPT,
    NO_CALL,
    OP_SECCOMP,
    ORIG_RAX,
    POKEUSER,
    SYSCALL,
    SyscallEntry,
    registers,
    request,
    rewind,
)
from memtrace.collect.tracee import Tracee

_LOWEST_ERROR = (1 << 64) - 4095  # IS_ERR_VALUE
_now = SyscallEntry()


def kept_out(tid: int, number: int, ret: int, exit_code: int = 0) -> bool:
    """Whether a filter has kept a call from being made (SECCOMP_RET_TRAP, _KILL).

    Then rax is the call's number (`syscall_rollback`), but that may be a result too: personality(2)
    answers what it was, process_madvise(2) how many bytes. So SIGSYS must be there as well
    (`__seccomp_filter`), which waits at the exit stop, and has done its work at the exit event.

    Args:
        tid: it is stopped at the call's exit, or at its own exit event.
        number: of the call, as it stood in rax at its entry.
        ret: what stands in rax now.
        exit_code: at the exit event, its message.
    """
    if ret != number:
        return False
    return exit_code & 0x7F == signal.SIGSYS or bool(
        procfs.own_pending(tid) >> (signal.SIGSYS - 1) & 1
    )


def keep_out(tid: int) -> None:
    """At a stop that is not our filter's: the program's own says SECCOMP_RET_TRACE, and it has no
    tracer that knows of it. Then the call fails with ENOSYS (`__seccomp_filter`), which is what its
    rax says already.
    """
    request(POKEUSER, tid, ORIG_RAX, NO_CALL)


def passes(tracee: Tracee, mark: int) -> None:
    """A call that has been seen at its entry has come to a filter that asks for a tracer.

    Args:
        tracee: in a recorded call; SIGKILL may have ended the stop (it is skipped then).
        mark: what our own filter says.
    """
    stands = (
        request(GET_SYSCALL_INFO, tracee.tid, ENTRY_SIZE, _now) > 0
        and _now[ENTRY_OP] & 0xFF == OP_SECCOMP
    )
    if stands and _now[ENTRY_DATA] != mark:
        keep_out(tracee.tid)
    tracee.killed = not stands or request(SYSCALL, tracee.tid, 0, 0) < 0


class Listeners:
    """The calls of seccomp(2), not ended yet, that may give a filter with a listener to a task.

    With SECCOMP_FILTER_FLAG_TSYNC it goes to all threads of the process. They are interrupted
    before, and the call waits until each has stopped, and with that begins no call unseen any more.
    """

    def __init__(self) -> None:
        self._asked: set[int] = set()  # tasks that are under it only if their call succeeds
        #: caller -> threads that have not stopped yet, each with the call that it was seen in last.
        self._awaited: dict[Tracee, dict[Tracee, bytes]] = {}
        self._since = 0

    def __bool__(self) -> bool:
        return bool(self._asked or self._awaited)

    def enters(self, tracee: Tracee, tracees: Iterable[Tracee]) -> None:
        """A task stands at the entry of seccomp(2), and goes on from here."""
        e = tracee.entry
        op, flags = e[ENTRY_ARG0] & 0xFFFFFFFF, e[ENTRY_ARG0 + 1] & 0xFFFFFFFF
        had = tracee.every_call
        # With TSYNC the filters that the caller has had go to the others, too.
        gets = flags & (FILTER_NEW_LISTENER | (FILTER_TSYNC if had else 0))
        if op != SET_MODE_FILTER or not gets:
            request(SYSCALL if had else CONT, tracee.tid, 0, 0)
            return
        if not had:
            tracee.every_call = True
            self._asked.add(tracee.tid)
        if flags & FILTER_TSYNC:
            awaited = self._synchronise([t for t in tracees if t.pid == tracee.pid])
            if awaited:
                self._awaited[tracee], self._since = awaited, time.monotonic_ns()
                return
        request(SYSCALL, tracee.tid, 0, 0)

    def _synchronise(self, threads: list[Tracee]) -> dict[Tracee, bytes]:
        """Have all threads of a process stop at every call, whether seccomp(2) succeeds or not;
        returns those that may be on their way to one now.
        """
        awaited = {}
        for t in threads:
            self._asked.discard(t.tid)
            # One in a recorded call stops at its end, one at its exit event makes no more of them.
            begins = not t.every_call and not t.pending and t.tid in t.mm.live
            if begins and request(INTERRUPT, t.tid, 0, 0) == 0:
                awaited[t] = _last_call(t)
            t.every_call = True
        return awaited

    def over(self, tracee: Tracee, result: int) -> None:
        """The exit of a call of no interest, with its result as an unsigned word."""
        if tracee.tid in self._asked:
            self._asked.discard(tracee.tid)
            tracee.every_call = result < _LOWEST_ERROR

    def stopped(self, tracee: Tracee) -> None:
        """A task has stopped, not at a call, or is gone."""
        self._asked.discard(tracee.tid)
        self._awaited.pop(tracee, None)  # it was killed
        for caller, awaited in list(self._awaited.items()):
            if awaited.pop(tracee, None) is not None:
                regs = registers(tracee.tid)
                if regs is not None:
                    rewind(tracee.tid, regs)  # the interrupt must not be what its call fails of
                self._proceed_if_due(caller)

    def step(self) -> None:
        """Called now and then. Any stop ends the interrupt (`ptrace_stop`), also one at a call. A
        thread that does not stop for long sleeps in a call, and is past its filters.
        """
        late = time.monotonic_ns() - self._since > turns.LIMIT_NS
        for caller, awaited in list(self._awaited.items()):
            for t in [t for t, call in awaited.items() if late or _last_call(t) != call]:
                del awaited[t]
            self._proceed_if_due(caller)

    def _proceed_if_due(self, caller: Tracee) -> None:
        if not self._awaited[caller]:
            del self._awaited[caller]
            turns.proceed(caller)


def _last_call(tracee: Tracee) -> bytes:
    """Another one after each stop of a task at a call (or the same, by chance)."""
    return bytes(tracee.entry) + tracee.t0.to_bytes(8, "little")
