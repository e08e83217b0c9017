# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking turns: memory calls of one mm are let through one at a time.

Stops tell entry and exit of a call, not the order inside the kernel: a munmap by one thread may be
done, its range given to another thread's mmap, and the mmap's exit be seen first. So a thread is
held at its entry while another call of the same mm is in flight. Exit order is then the order of
application, and at an exit stop the map stands still. A thread may wait inside a call for one that
is held (userfaultfd, FUSE): after `LIMIT_NS` it is set aside and the others go on taking turns; the
overlap is recorded, and a snapshot is due as soon as no call is in flight.
"""

from __future__ import annotations

import time

from memtrace.collect.ptrace import (
    ENTRY_OP,
    ENTRY_SIZE,
    GET_SYSCALL_INFO,
    OP_ENTRY,
    OP_SECCOMP,
    SYSCALL,
    SyscallEntry,
    request,
)
from memtrace.collect.tracee import Mm, Tracee

LIMIT_NS = 500_000_000

_now = SyscallEntry()


def proceed(tracee: Tracee) -> None:
    """Let a tracee into the call it is stopped before; it stops again at the exit.

    One that was killed while it waited stands at its exit event by now: not ended here.
    """
    tracee.t0 = time.monotonic_ns()
    tracee.killed = (
        request(GET_SYSCALL_INFO, tracee.tid, ENTRY_SIZE, _now) <= 0
        or _now[ENTRY_OP] & 0xFF not in (OP_ENTRY, OP_SECCOMP)
        or request(SYSCALL, tracee.tid, 0, 0) < 0
    )


def enter(tracee: Tracee) -> bool:
    """Ask for the turn; False when the tracee has been queued and stays stopped."""
    mm = tracee.mm
    if mm.holder is None:
        mm.holder = tracee
        return True
    mm.waiting.append(tracee)
    return False


def leave(tracee: Tracee) -> Tracee | None:
    """Give the turn back (or the place in the queue); returns who has it now and must go on."""
    mm = tracee.mm
    if mm.holder is tracee:
        mm.holder = None
    elif tracee in mm.overlapping:
        mm.overlapping.discard(tracee)
    else:
        if tracee in mm.waiting:
            mm.waiting.remove(tracee)
        return None
    if mm.holder is not None or not mm.waiting:
        return None
    mm.holder = mm.waiting.popleft()
    return mm.holder


def alone(tracee: Tracee) -> bool:
    """Whether no other call of the mm is in flight: what is read now is the tracee's doing."""
    mm = tracee.mm
    return mm.holder in (None, tracee) and mm.overlapping <= {tracee}


def overdue(mm: Mm, now: int) -> Tracee | None:
    """After the limit the holder is set aside, and the next in the queue becomes the holder."""
    if mm.holder is None or not mm.waiting or now - mm.holder.t0 < LIMIT_NS:
        return None
    mm.overlapping.add(mm.holder)
    mm.disordered = True
    mm.holder = mm.waiting.popleft()
    return mm.holder
