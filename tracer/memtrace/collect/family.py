# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is traced: births, execs and deaths of tasks and address spaces, as life-cycle records.

Order is not given. A child's first stop may come before its parent's event (more often than not
under a threaded parent), and the parent may be killed before its event ever comes: so a child is
adopted at whichever comes first, and never held back. A copying fork has the mm's turn
(`turns.py`) from entry to event, so the parent's map stands still until the child's is recorded.
"""

from __future__ import annotations

import struct
import time
from typing import Any

from memtrace.collect import privilege, procfs, seeding, turns, wire
from memtrace.collect.abi import CLONE_THREAD, CLONE_VM, I386, X86_64, Role
from memtrace.collect.channel import Channel
from memtrace.collect.observe import Observer
from memtrace.collect.ptrace import (
    CONT,
    EVENT_CLONE,
    EVENT_VFORK,
    USER_CS_64,
    registers,
    request,
    same_mm,
)
from memtrace.collect.tracee import FirstStop, Mm, Tracee

_CLONE_VFORK = 0x4000
_NR_CLONE, _NR_CLONE3 = 56, 435  # x86-64
_NR_CLONE_I386 = 120
_NR_VFORK, _NR_VFORK_I386 = 58, 190
_CLONE_PARENT = 0x8000


class Family:
    """All tracees and their address spaces."""

    def __init__(self, channel: Channel, observer: Observer) -> None:
        self.channel = channel
        self.observer = observer
        self.tracees: dict[int, Tracee] = {}
        self.mms: dict[int, Mm] = {}
        self.process_mm: dict[int, Mm] = {}
        #: Programs that ran without privileges that their file grants: the file, and which.
        self.withheld: dict[str, list[str]] = {}
        self._last_mm = 0
        self._early: set[int] = set()

    def _new_mm(self, pid: int) -> Mm:
        self._last_mm += 1
        mm = self.mms[self._last_mm] = Mm(self._last_mm, pid)
        return mm

    def _emit(self, fields: dict[str, Any], blob: bytes = b"") -> None:
        fields["t"] = self.channel.now()
        self.channel.send(wire.life(fields, blob))

    # -- what is older than the trace ----------------------------------------------------------

    def unseeded(self, pid: int, tid: int) -> Mm:
        """An address space that is there and whose map is still to be read (`seed`)."""
        mm = self._new_mm(pid)
        mm.seeded = False
        self.process_mm[pid] = mm
        self.channel.send(wire.life({"rec": "awaited", "mm": mm.id}))
        self.observer.open(mm, tid)
        return mm

    def take(self, mm: Mm, pid: int, tid: int) -> Tracee:
        """A task of an unseeded mm: the `attach` record will name it."""
        tracee = self.tracees[tid] = Tracee(tid, pid, mm)
        tracee.announced = True
        return tracee

    def seed(self, mm: Mm, why: str = "attach") -> dict[str, Any] | None:
        """Read the map and what belongs to it; the mm is part of the trace from here on.

        Call while none of its calls is in flight. Returns the record's fields, None when it cannot
        be read.
        """
        mm.seed_due = False
        tasks = [t for t in map(self.tracees.get, mm.tids) if t is not None]
        own = [t.tid for t in tasks if t.pid == mm.pid]
        if not tasks:
            return None
        through = mm.pid if mm.pid in own else min(own or mm.tids)
        self.observer.reach(mm, through)
        fields, raw = seeding.attach_fields(mm, through, own)
        if (
            not raw or "vm" not in fields
        ):  # without a statm the mm has gone, and the map may be torn
            return None
        mm.seeded = True
        mm.begins(fields, (procfs.personality(t.tid) for t in tasks))
        self._emit({**fields, "rec": "attach", "why": why, "calls": mm.calls}, raw)
        for other in tasks:
            if other.pid != mm.pid:
                self._emit({
                    "rec": "clone", "pid": mm.pid, "tid": mm.pid, "mm": mm.id,
                    "child": other.tid, "child_pid": other.pid,
                })  # fmt: skip
        mm.last_snap_calls = mm.calls
        return fields

    # -- births -------------------------------------------------------------------------------

    def add_root(self, pid: int) -> Tracee:
        """The child that will exec the program: it has no address space of the trace yet."""
        root = self.tracees[pid] = Tracee(pid, pid, Mm(0, pid))
        return root

    def born(self, parent: Tracee, child_tid: int, event: int) -> None:
        """The parent's fork, vfork or clone event."""
        flags, stack = self._clone_facts(parent, event)
        child = self.tracees.get(child_tid)
        came_first = child_tid in self._early
        self._early.discard(child_tid)
        if child is None:
            if came_first:
                return  # and is gone already
            if flags is not None:
                pid = parent.pid if flags & CLONE_THREAD else child_tid
                shares = bool(flags & CLONE_VM)
            else:  # the parent has been killed
                (tgid,) = procfs.status_field(child_tid, "Tgid")
                pid = tgid or (parent.pid if event == EVENT_CLONE else child_tid)
                shares = pid == parent.pid or bool(same_mm(parent.tid, child_tid))
            self._adopt(parent, child_tid, pid, shares=shares, flags=flags, stack=stack)
        elif stack is not None and child.announced and child.mm is parent.mm:
            # It came first and was announced without what only the parent's registers tell.
            self._emit_clone(parent, child, flags, stack)

    def birth(
        self,
        parent: Tracee,
        child_tid: int,
        flags: int,
        stack: int | None,
        *,
        early: bool = False,
    ) -> None:
        """The same, told by the call's arguments and result once it has ended; `early`: before
        that, because the child has been seen, and it will be told again.
        """
        child = self.tracees.get(child_tid)
        came_first = child_tid in self._early
        self._early.discard(child_tid)
        if child is not None:
            if stack is not None and child.announced and child.mm is parent.mm:
                self._emit_clone(parent, child, flags, stack)
        elif not came_first:
            pid = parent.pid if flags & CLONE_THREAD else child_tid
            shares = bool(flags & CLONE_VM)
            self._adopt(parent, child_tid, pid, shares=shares, flags=flags, stack=stack)
        if early:
            self._early.add(child_tid)

    def early(self, tid: int) -> Tracee:
        """A task that stops before its parent's event: found out from /proc and kcmp(2)."""
        self._early.add(tid)
        tgid, ppid = procfs.status_field(tid, "Tgid", "PPid")
        pid = tgid if tgid is not None else tid
        if pid != tid and pid in self.process_mm:
            parent = next((t for t in self.tracees.values() if t.pid == pid), None)
            if parent is not None:
                return self._adopt(parent, tid, pid, shares=True)
        candidates = [t for t in self.tracees.values() if t.mm.id]
        mothers = [t for t in candidates if t.pid == ppid]
        flags = self._flags_at_birth(tid)
        if flags is None or flags & (CLONE_VM | _CLONE_PARENT):
            # kcmp may be forbidden: then the caller of clone is in the child's parent.
            for t in mothers + candidates:
                shares = same_mm(t.tid, tid)
                if shares or (shares is None and flags and t.pid == ppid and flags & CLONE_VM):
                    return self._adopt(t, tid, pid, shares=True)
        if flags is None or not flags & CLONE_VM:
            for t in mothers:
                if not t.mm.seeded or (t.pending and t.role in (Role.FORK, Role.CLONE3)):
                    return self._adopt(t, tid, pid, shares=False)
        # Who made it is gone, or not to be known: an address space of its own, read as it is.
        child = self.take(self.unseeded(pid, tid), pid, tid)
        child.at_first_stop = FirstStop.SEED
        return child

    def _flags_at_birth(self, tid: int) -> int | None:
        """The clone flags of the call that made a task which has not run yet: it has its maker's
        registers (`copy_thread`) and sees its memory.
        """
        regs = registers(tid)
        if regs is None:
            return None
        native = regs.cs == USER_CS_64
        call = (X86_64 if native else I386).names.get(regs.orig_rax, "")
        first = int(regs.rdi if native else regs.rbx & 0xFFFFFFFF)
        if call == "clone":
            return first
        if call == "clone3":
            words = procfs.memory(tid, first, 8)
            return int.from_bytes(words, "little") if len(words) == 8 else None
        vfork = _NR_VFORK if native else _NR_VFORK_I386
        return CLONE_VM | _CLONE_VFORK if regs.orig_rax == vfork else 0 if call == "fork" else None

    def _adopt(
        self,
        parent: Tracee,
        tid: int,
        pid: int,
        *,
        shares: bool,
        flags: int | None = None,
        stack: int | None = None,
    ) -> Tracee:
        mm = parent.mm
        if not mm.seeded and not shares:
            # Born before the trace begins, like all the children that an attach does not follow.
            child = self.take(self.unseeded(pid, tid), pid, tid)
            child.at_first_stop = FirstStop.RELEASE
            return child
        if shares or not mm.id:
            child = self.tracees[tid] = Tracee(tid, pid, mm)
            if mm.id:
                self.process_mm.setdefault(pid, mm)
                self._emit_clone(parent, child, flags, stack)
        else:
            child_mm = self._new_mm(pid)
            child_mm.inherits(mm)
            child = self.tracees[tid] = Tracee(tid, pid, child_mm)
            self.process_mm[pid] = child_mm
            child.at_first_stop = FirstStop.SNAPSHOT
            self._emit({
                "rec": "fork", "pid": parent.pid, "tid": parent.tid, "mm": mm.id,
                "child": tid, "child_mm": child_mm.id,
            })  # fmt: skip
            self.observer.open(child_mm, tid)
        child.announced = True
        child.every_call = parent.every_call
        return child

    def _emit_clone(
        self, parent: Tracee, child: Tracee, flags: int | None, stack: int | None
    ) -> None:
        self._emit({
            "rec": "clone", "pid": parent.pid, "tid": parent.tid, "mm": parent.mm.id,
            "child": child.tid, "child_pid": child.pid, "flags": flags, "stack": stack,
        })  # fmt: skip

    def _clone_facts(self, parent: Tracee, event: int) -> tuple[int | None, int | None]:
        """(clone flags, the child's stack pointer) of the call the parent is in."""
        noted, parent.clone = parent.clone, None
        regs = registers(parent.tid)
        if regs is None:
            return (CLONE_VM | _CLONE_VFORK, None) if event == EVENT_VFORK else (None, None)
        if regs.orig_rax == _NR_CLONE and regs.cs == USER_CS_64:
            return int(regs.rdi), int(regs.rsi) or None
        if regs.orig_rax == _NR_CLONE_I386 and regs.cs != USER_CS_64:
            return int(regs.rbx & 0xFFFFFFFF), int(regs.rcx & 0xFFFFFFFF) or None
        if regs.orig_rax == _NR_CLONE3:
            address = int(regs.rdi if regs.cs == USER_CS_64 else regs.rbx)
            return noted or self.clone3_facts(parent, address)
        return (CLONE_VM | _CLONE_VFORK if event == EVENT_VFORK else 0), None

    def clone3_facts(self, parent: Tracee, address: int) -> tuple[int | None, int | None]:
        """Flags and stack top from struct clone_args in the caller's memory."""
        self.observer.reach(parent.mm, parent.tid)
        raw = parent.mm.bytes_at(address, 56)
        if len(raw) < 56:
            return None, None
        flags, _, _, _, _, stack, size = struct.unpack("<7Q", raw)
        return flags, stack + size if stack else None

    # -- exec ---------------------------------------------------------------------------------

    def execed(self, pid: int, old_tid: int) -> tuple[Tracee, Tracee | None]:
        """PTRACE_EVENT_EXEC: the calling thread is now `pid`, all its siblings are gone.

        Returns the tracee with its new mm, and whoever now has the old mm's turn.
        """
        caller = self.tracees.get(old_tid) or self.tracees.get(pid)
        old = caller.mm if caller is not None and caller.mm.id else None
        going: Tracee | None = None
        for t in [t for t in self.tracees.values() if t.pid == pid]:
            del self.tracees[t.tid]
            going = self._leave_mm(t) or going
        if going is not None and going.tid not in self.tracees:
            going = None  # a sibling that was next in the queue, and has died with the others
        if old is not None and old.live and old.statm_fd >= 0:
            # The process was only one of its users; statm follows the process to its new mm.
            old.reopen_statm(min(old.live))
        mm = self._new_mm(pid)
        tracee = self.tracees[pid] = Tracee(pid, pid, mm)
        tracee.announced = True
        makers = [caller] if caller is not None else self.tracees.values()
        tracee.every_call = any(t.every_call for t in makers)
        self.process_mm[pid] = mm
        raw = procfs.read(f"/proc/{pid}/maps")
        fields = procfs.exec_facts(pid)
        counts = procfs.statm(procfs.read(f"/proc/{pid}/statm"))
        if counts is not None:
            fields["vm"], fields["rss"] = counts
        mm.begins(fields)
        fields |= {"rec": "exec", "pid": pid, "tid": old_tid, "mm": mm.id}
        withheld = privilege.withheld(pid, filtered=self.observer.options.seccomp)
        if withheld:
            fields["withheld"] = list(withheld)
            self.withheld.setdefault(fields["exe"], list(withheld.values()))
        if old is not None and old.seeded:
            fields["old_mm"] = old.id
        self._emit(fields, raw)
        self.observer.open(mm, pid)
        if old is not None:
            self._bury(old)
        return tracee, going

    # -- deaths -------------------------------------------------------------------------------

    def exiting(self, tracee: Tracee) -> bool:
        """PTRACE_EVENT_EXIT: the last live user's is the last moment the mm can be read.

        Which is the last one is not to be known where all are killed together: SIGKILL ends a
        stop, so any of the others may go without a word. Then the first one that stops stays, and
        the mm with it, until they have gone. Returns whether it stays: it must not be restarted.
        """
        mm = tracee.mm
        if not mm.id:
            return False
        self.observer.peek(tracee, final=True)
        others = mm.live - {tracee.tid}
        if others and mm.keeper is None and all(map(procfs.is_dying, others)):
            mm.keeper, mm.kept_ns = tracee, time.monotonic_ns()
            return True
        mm.live.discard(tracee.tid)
        if not mm.live:
            self.observer.snapshot(mm, tracee, "exit")
        else:
            self._end_keeping(mm)
        return False

    def passed(self, tracee: Tracee) -> None:
        """It was killed in its exit stop, which told nothing but that it is dying."""
        tracee.mm.live.discard(tracee.tid)
        self._end_keeping(tracee.mm)

    def _end_keeping(self, mm: Mm) -> None:
        if mm.keeper is not None and mm.live == {mm.keeper.tid}:
            self.observer.snapshot(mm, mm.keeper, "exit")
            self.release(mm)

    def release(self, mm: Mm) -> None:
        """Let the task that was kept in its exit stop go."""
        keeper, mm.keeper = mm.keeper, None
        if keeper is not None:
            mm.live.discard(keeper.tid)
            request(CONT, keeper.tid, 0, 0)

    def ended(self, tid: int, code: int | None, signal: int | None) -> Tracee | None:
        """A task's exit status; returns whoever now has the mm's turn."""
        tracee = self.tracees.pop(tid, None)
        if tracee is None or not tracee.mm.id:
            return None
        mm = tracee.mm
        going = self._leave_mm(tracee)
        self._emit({
            "rec": "exit", "pid": tracee.pid, "tid": tid, "mm": mm.id,
            "code": code, "signal": signal,
        })  # fmt: skip
        self._bury(mm)
        return going

    def forget(self, tracee: Tracee) -> Tracee | None:
        """It is no longer ours; returns whoever now has the mm's turn."""
        self.tracees.pop(tracee.tid, None)
        going = self._leave_mm(tracee)
        self._bury(tracee.mm)
        return going

    def _leave_mm(self, tracee: Tracee) -> Tracee | None:
        mm = tracee.mm
        mm.tids.discard(tracee.tid)
        mm.live.discard(tracee.tid)
        mm.fresh.pop(tracee.tid, None)
        if mm.keeper is tracee:
            mm.keeper = None
        self._end_keeping(mm)
        return turns.leave(tracee)

    def _bury(self, mm: Mm) -> None:
        if not mm.tids and mm.id in self.mms:
            del self.mms[mm.id]
            for pid in [p for p, m in self.process_mm.items() if m is mm]:
                del self.process_mm[pid]
            self.observer.close(mm)
            self._emit({"rec": "gone", "mm": mm.id})
