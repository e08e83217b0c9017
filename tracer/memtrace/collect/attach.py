# SPDX-License-Identifier: GPL-2.0-or-later
"""Bringing a running process under the trace, thread by thread, without stopping it as a whole.

Theory of operation. Every thread is seized, which stops nothing; children born from then on are
ours from their first instruction. Each is then interrupted once, and goes on at once with
PTRACE_SYSCALL. When the last one is under control the map is read, at the first moment when no
memory call of the mm is in flight: calls take turns from the first one seen, so such a moment is at
the next call's end at the latest. What was recorded before is thrown away.

The kernel restarts most calls that the interrupt breaks off; epoll_wait and its like fail with
EINTR (signal(7), "Interruption of system calls and library functions by stop signals"), and are put
back before the call (`rewind`). A thread in uninterruptible sleep stops later; while it sits in a
call that changes no map, nothing has to wait for it, because it cannot get out of the kernel
without stopping.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from memtrace.collect import access, procfs, ptrace, wire
from memtrace.collect.abi import I386, NATIVE
from memtrace.collect.deadlock import Watch
from memtrace.collect.ptrace import INTERRUPT, registers, request, rewind
from memtrace.trace.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from memtrace.collect.engine import Engine
    from memtrace.collect.tracee import Mm

#: How long a thread may take to stop before it is asked what it sits in.
_PATIENCE_NS = 50_000_000
#: And before the user is told, and the map is read without it.
_WAITING_NS = 2_000_000_000

#: Seizing a process that nothing forbids is tried so often, with seconds between.
_ATTEMPTS, _PAUSE = 50, 0.002

#: clone, vfork, clone3: asleep in one means waiting for a vfork child.
_VFORKS, _VFORKS_I386 = (56, 58, 435), (120, 190, 435)


def sleeps_elsewhere(tid: int) -> bool:
    """Whether a task sleeps, interruptibly or not, in a call that changes no map."""
    number = procfs.syscall_of(tid)
    if number is None:
        return False
    if procfs.is_elf32(tid):
        return number not in I386.names or number in _VFORKS_I386
    return number not in NATIVE.names or number in _VFORKS


class Attachment:
    """One attach under way. `Engine.tick` calls `step` until it says that it is done.

    Args:
        engine: the loop that will trace the process.
        pid: the process (its thread group).
        say: called with a line for the user.
    """

    def __init__(self, engine: Engine, pid: int, say: Callable[[str], None]) -> None:
        self.engine = engine
        self.pid = pid
        self.say = say
        self.mm: Mm
        self._watch: Watch
        self._awaited: dict[int, int] = {}  # tid -> when it was interrupted
        self._inside: set[int] = set()  # of these: asleep in a call that changes no map
        self._refused: dict[int, int] = {}
        self._told = False
        #: The fields of the `attach` record, once it is written; none of them when the process has
        #: exec'ed before that, and is traced from there on.
        self.facts: dict[str, Any] | None = None

    # -- taking hold --------------------------------------------------------------------------

    def seize(self) -> None:
        """Seize every thread; when this returns the process is ours, and nothing has stopped.

        Raises:
            TargetError: not one thread could be seized.
        """
        self._watch = Watch(self.pid)
        family = self.engine.family
        self.engine.root = self.pid
        self.mm = family.unseeded(self.pid, procfs.living_task(self.pid))
        left = _ATTEMPTS
        while not self._seize_new(self.pid):
            facts = access.before(self.pid)
            number = next(iter(self._refused.values()), errno.ESRCH)
            left -= 1
            if not left or access.refusal(facts) is not None:
                raise access.refusal(facts, number) or TargetError(
                    f"cannot attach to {self.pid}: {os.strerror(number).lower()}",
                    hint=f"memtrace doctor {self.pid}",
                )
            # One of its threads execs: for a moment all tasks that can be listed are dying.
            self._refused.clear()
            time.sleep(_PAUSE)
        while self._seize_new(self.pid):
            pass
        for child in procfs.children(self.pid):
            # A vfork or CLONE_VM child changes the same map.
            if ptrace.same_mm(self.pid, child):
                self._seize_new(child)

    def _seize_new(self, pid: int) -> bool:
        """Seize the threads of a process that are not ours yet; whether there were any."""
        tracees, seized = self.engine.family.tracees, []
        for tid in procfs.tasks(pid):
            if tid in tracees or tid in self._refused:
                continue
            try:
                ptrace.seize(tid, ptrace.FOLLOW)
            except OSError as e:
                (tracer,) = procfs.status_field(tid, "TracerPid")
                if tracer != os.getpid():
                    if procfs.stat_fields(tid)[:1] not in ([], ["Z"], ["X"]):
                        self._refused[tid] = e.errno or errno.EPERM
                    continue  # else it has ended, as a leader may do before its threads
                # Born of a thread that is ours already: it stops by itself.
            seized.append(tid)
            self.engine.family.take(self.mm, pid, tid)
        # None stops before all are ours: a signal to one that stands in a stop may wake any other
        # (`complete_signal`), though the program ignores it, and only of a tracee we would see it.
        for tid in seized:
            if request(INTERRUPT, tid, 0, 0) == 0:
                self._awaited[tid] = time.monotonic_ns()
        return bool(seized)

    # -- what the loop tells ------------------------------------------------------------------

    def stopped(self, tid: int) -> None:
        """A thread has stopped for the first time, or again; not at a system call.

        It need not be the interrupt's own stop: any trap makes up for that (`ptrace_stop`).
        """
        if self._awaited.pop(tid, None) is not None:
            regs = registers(tid)
            if regs is not None:
                self.mm.stacks[tid] = int(regs.rsp)
                rewind(tid, regs)
        self._inside.discard(tid)

    def passes(self, pid: int, old_tid: int) -> bool:
        """Whether a process that has just exec'ed is none of ours: a vfork child of before the
        beginning. One that shared no memory was let go at its birth.
        """
        caller = self.engine.family.tracees.get(old_tid)
        return caller is not None and not caller.mm.seeded and pid != self.pid

    def step(self) -> bool:
        """Look whether all is under control; True when the map is read."""
        done = self._step()
        if done:
            self._watch.end()
        return done

    def _step(self) -> bool:
        tracees, mm = self.engine.family.tracees, self.mm
        if mm.seeded or mm.id not in self.engine.family.mms:
            if self.facts is None and self.pid in tracees:
                self.facts = {}
            return self.facts is not None  # else it ends, or a thread is to be seen that execs
        for tid in [t for t in self._awaited if t not in tracees]:
            del self._awaited[tid]
        if not mm.seed_due:
            if self._seize_new(self.pid):
                return False
            now = time.monotonic_ns()
            if any(not self._harmless(tid, now - since) for tid, since in self._awaited.items()):
                return False
            mm.seed_due = True
        if mm.holder is None and not mm.overlapping:
            self.seed()
            return self.facts is not None  # else the last ones that used the mm are dying
        self.engine.channel.wishes[mm.slot] = 1  # the next call's end is looked at
        return False

    def _harmless(self, tid: int, waited: int) -> bool:
        """Whether the map can be read although this interrupted thread has not stopped yet."""
        if tid in self._inside:
            return True
        if waited < _PATIENCE_NS:
            return False
        if sleeps_elsewhere(tid):
            self._inside.add(tid)
            return True
        if waited > _WAITING_NS:
            self._tell(tid)
            if procfs.syscall_of(tid) is not None:
                # In a call that changes the map, before or after it is read: nobody can tell.
                self._inside.add(tid)
                self.mm.in_doubt += 1
                return True
        return False

    def _tell(self, tid: int) -> None:
        if not self._told:
            self._told = True
            state = "".join(procfs.stat_fields(tid)[:1])
            where = "uninterruptible sleep" if state == "D" else f"state {state or 'unknown'}"
            self.say(f"waiting: thread {tid} is in {where}")

    def seed(self) -> None:
        """Read the map: no call of the mm is in flight."""
        mm, doubt = self.mm, self.mm.in_doubt
        mm.in_doubt = 0
        self.facts = self.engine.family.seed(mm)
        if self.facts is None:
            return
        if self.engine.options.heap_walk:
            mm.walk_due = "attach"
        for tid, number in self._refused.items():
            self._lost(f"thread {tid} could not be seized: {os.strerror(number).lower()}")
        if doubt:
            self._lost("a thread was inside a memory call when the trace began", doubt)
        for pid in self._untraced():
            self._lost(f"process {pid} has the same address space and is not traced")

    def _untraced(self) -> list[int]:
        """Processes that share the mm and could not be had: its map changes behind our back."""
        (parent,) = procfs.status_field(self.pid, "PPid")
        family = self.engine.family
        near = [*procfs.children(self.pid), *([parent] if parent else [])]
        return [
            p for p in near
            if p not in family.tracees and ptrace.same_mm(self.pid, p)
            # A child born just now is ours, and has not been seen yet.
            and procfs.status_field(p, "TracerPid") != [os.getpid()]
        ]  # fmt: skip

    def _lost(self, why: str, count: int = 1) -> None:
        channel = self.engine.channel
        channel.send(wire.life(
            {"rec": "lost", "t": channel.now(), "mm": self.mm.id, "why": why, "count": count}
        ))  # fmt: skip
