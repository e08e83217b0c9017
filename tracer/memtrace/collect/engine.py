# SPDX-License-Identifier: GPL-2.0-or-later
"""The ptrace loop: one thread, one waitpid, one decision per stop.

Theory of operation. The target stops at the entry of a recorded call (a seccomp stop, or a syscall
stop without the filter) and, let on with PTRACE_SYSCALL, at its exit. Entry or exit is never
guessed from a toggle: PTRACE_GET_SYSCALL_INFO says it. A tracee with a pending call is always
restarted with PTRACE_SYSCALL, any other with `go` (PTRACE_CONT under the filter, unless one of the
program's own may hide calls from it: `filters`). Signals are delivered as they came; events and
group stops carry none. Any request may fail with ESRCH, because SIGKILL ends a stop at any time:
the exit status is on its way, and nothing is done. For the same reason a status may be older than
the stop the tracee is in (its exit event): what PTRACE_GET_SYSCALL_INFO says must be of the
status's kind, else the next status is waited for.

The target waits while this code runs, so the two stops of a memory call are written for speed and
everything else is a function.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING

from memtrace.collect import (
    broken_off,
    filters,
    grown,
    ptrace,
    readback,
    turns,
    untraced,
    vsyscall,
    wire,
)
from memtrace.collect.abi import (
    ABIS,
    CLONE_UNTRACED,
    CLONE_VM,
    ENOSYS,
    ERESTART,
    FIRST_ARGUMENTS,
    NATIVE,
    X32_BIT,
    Role,
    role_of,
)
from memtrace.collect.channel import BLOCK, Channel
from memtrace.collect.family import Family
from memtrace.collect.filters import Listeners
from memtrace.collect.observe import Observer
from memtrace.collect.options import Options
from memtrace.collect.ptrace import (
    CONT,
    DETACH,
    ENTRY_ARG0,
    ENTRY_DATA,
    ENTRY_IP,
    ENTRY_NR,
    ENTRY_OP,
    ENTRY_SIZE,
    ENTRY_SP,
    EXIT_RET,
    EXIT_SIZE,
    GET_SYSCALL_INFO,
    LISTEN,
    STOP_SECCOMP,
    STOP_SYSCALL,
    SYSCALL,
    WALL,
    SyscallExit,
    request,
)
from memtrace.collect.readback import BACKING_MASK, HUGE_MASK, PLAIN_ANON, ReadBack
from memtrace.collect.seccomp import MARK
from memtrace.collect.tracee import FirstStop, Mm, Tracee
from memtrace.space.calls import MREMAP_FIXED

if TYPE_CHECKING:
    from collections.abc import Callable

    from memtrace.collect.attach import Attachment
    from memtrace.collect.job import Job

_NATIVE_SECCOMP = ptrace.OP_SECCOMP | NATIVE.audit << 32
_NATIVE_ENTRY = ptrace.OP_ENTRY | NATIVE.audit << 32

#: Bytes of stack read at entry: the return address, which mmap may have pushed registers below, and
#: for two calls a word further up the frame.
_STACK_BYTES = {9: 32, 12: 40, 25: 96}  # mmap, brk, mremap (x86-64)

TICK_SECONDS, ATTACHING_TICK_SECONDS = 0.1, 0.005

_WALL_NOW = WALL | os.WNOHANG
_FAIR = 2  # tracees to whom waitpid is fair by itself: while one is served, the other stops
_NR_MMAP, _NR_MUNMAP, _NR_BRK, _NR_MREMAP = 9, 11, 12, 25
_PROT_RW = 3


class Engine:
    """Traces everything that descends from one root task."""

    def __init__(self, channel: Channel, options: Options) -> None:
        self.channel = channel
        self.options = options
        self.observer = Observer(channel, options)
        self.family = Family(channel, self.observer)
        self._read_back = ReadBack()
        self.go, self._mark = (CONT, MARK) if options.seccomp else (SYSCALL, 0)
        self.idle = [False]
        #: Set by a timer that found the loop busy: `when_due` is called before it waits again.
        self.tick_due = [False]
        self.when_due: Callable[[], None] = self.channel.flush
        #: Set to make `loop` return at the next stop; it and others are then `unhandled`.
        self.leaving = [False]
        self.unhandled: deque[tuple[int, int]] = deque()
        #: The attach under way, until the map is read; and the one that was.
        self.attachment: Attachment | None = None
        self._interrupter: Attachment | None = None
        self.job: Job | None = None
        self.untraced = untraced.Untraced()
        self.listeners = Listeners()
        self.root_status: int | None = None
        self.root = 0
        self._exit = SyscallExit()

    # -- the loop -----------------------------------------------------------------------------

    def loop(self) -> None:
        """Trace until no tracee is left, or until told to leave."""
        tracees = self.family.tracees
        plain_calls, block, call = _PLAIN_CALLS, BLOCK, wire.CALL
        waitpid, pread, now = os.waitpid, os.pread, time.monotonic_ns
        stack_bytes, evidence, go = _STACK_BYTES.get, self.options.evidence, self.go
        idle, leaving, out, wishes, flush = (
            self.idle,
            self.leaving,
            self.channel.out,
            self.channel.wishes,
            self.channel.flush,
        )
        lent, listeners, mark = self.untraced, self.listeners, self._mark
        head, peek_before, leave_call = wire.CALL_HEAD.pack, self.observer.peek_before, self._leave
        freed = self.observer.freed
        x = self._exit
        native, entries = (_NATIVE_SECCOMP, _NATIVE_ENTRY), (ptrace.OP_SECCOMP, ptrace.OP_ENTRY)
        taken, tick_due = self.unhandled, self.tick_due
        eintr, put_back = ptrace.MINUS_EINTR, broken_off.put_back
        call_stops = (STOP_SECCOMP, STOP_SYSCALL)
        walks = self.observer.walks
        last_looks = 3
        while True:
            if taken:
                tid, status = taken.popleft()
            else:
                if tick_due[0]:
                    tick_due[0] = False
                    self.when_due()
                # A signal handler may act only while nothing is half done.
                idle[0] = True
                try:
                    tid, status = waitpid(-1, WALL if tracees else _WALL_NOW)
                except ChildProcessError:
                    break
                finally:
                    idle[0] = False
                if len(tracees) > _FAIR:
                    self._take_all()
            if leaving[0]:
                taken.appendleft((tid, status))
                return
            tracee = tracees.get(tid)
            if tracee is not None and not tracee.pending and status in call_stops:
                e = tracee.entry
                if request(GET_SYSCALL_INFO, tid, ENTRY_SIZE, e) <= 0:
                    continue
                nr = e[ENTRY_NR]
                mm = tracee.mm
                if (
                    e[ENTRY_OP] not in native
                    or not mm.id
                    or nr not in plain_calls
                    or e[ENTRY_DATA] != mark
                    or e[ENTRY_ARG0] + (e[ENTRY_ARG0 + 1] if nr != _NR_BRK else 0)
                    >= mm.growing_from
                    or (nr == _NR_MREMAP and e[7] & MREMAP_FIXED)
                    or mm.walk_due
                ):
                    if e[ENTRY_OP] & 0xFF == ptrace.OP_EXIT:  # of a call of no interest
                        if lent:
                            lent.over(tid)
                        if listeners:
                            listeners.over(tracee, nr)
                        if nr == eintr:  # the result stands where an entry has the number
                            put_back(tracee)
                        elif tracee.wait_ends:
                            tracee.wait_ends = 0
                        request(SYSCALL if tracee.every_call else go, tid, 0, 0)
                    elif e[ENTRY_OP] & 0xFF in entries:
                        self._enter(tracee)
                    continue
                if evidence:
                    try:
                        tracee.stack = pread(mm.mem_fd, stack_bytes(nr, 8), e[ENTRY_SP])
                    except OSError:
                        self.observer.reach(mm, tid)
                        tracee.stack = mm.bytes_at(e[ENTRY_SP], stack_bytes(nr, 8))
                    if mm.fresh:
                        peek_before(tracee)
                    if nr == _NR_MUNMAP and e[ENTRY_ARG0 + 1] > mm.freed:
                        freed(tracee)
                tracee.pending = True
                tracee.role = 0
                tracee.name = ""
                tracee.looks = False
                if mm.holder is None:
                    mm.holder = tracee
                    tracee.t0 = now()
                    if request(SYSCALL, tid, 0, 0) < 0:
                        tracee.killed = True
                else:
                    mm.waiting.append(tracee)
            elif status == STOP_SYSCALL and tracee is not None:
                if tracee.name or tracee.role:
                    self.syscall_stop(tracee)
                    continue
                if request(GET_SYSCALL_INFO, tid, EXIT_SIZE, x) <= 0:
                    continue
                if x[0] & 0xFF != 2:
                    self.syscall_stop(tracee)
                    continue
                ret = x[EXIT_RET]
                t1 = now()
                mm = tracee.mm
                e = tracee.entry
                try:
                    statm = pread(mm.statm_fd, 64, 0)
                except OSError:
                    statm = b"0"
                nr = e[ENTRY_NR]
                if nr == _NR_MMAP:
                    plain = e[7] & BACKING_MASK == PLAIN_ANON
                elif nr == _NR_BRK:
                    plain = mm.brk_told and walks is None
                else:
                    plain = nr != _NR_MREMAP or (e[ENTRY_ARG0] | ret) & HUGE_MASK
                if (
                    -4096 < ret < 0
                    or ret == nr
                    or not plain
                    or nr not in _ARGUMENTS_TELL
                    or t1 >= mm.next_snap
                    or wishes[mm.slot]
                    or statm[:1] == b"0"
                    or mm.disordered
                    or mm.reads_exec
                ):
                    leave_call(tracee, ret, t1, statm)
                    continue
                request(SYSCALL if tracee.every_call else go, tid, 0, 0)
                tracee.pending = False
                mm.holder = going = None
                if mm.waiting:
                    going = mm.holder = mm.waiting.popleft()
                    if not going.role and not going.looks and not mm.walk_due:
                        turns.proceed(going)
                        going = None
                stack = tracee.stack
                out += head(call, 0, len(statm), len(stack), 0, tid, mm.id, tracee.t0, t1, ret)
                out += e
                out += stack
                out += statm
                mm.calls += 1
                if going is not None:
                    self._proceed(going)
                if nr == _NR_MMAP and evidence and e[7] == 0x22 and e[6] == _PROT_RW and not e[4]:
                    tracee.fresh = (ret, e[5], mm.calls)
                    mm.fresh[tid] = tracee
                if len(out) > block:
                    flush()
            elif tid:
                self._other_stop(tid, status)
            elif last_looks:
                # Every known tracee has ended. What is left is no tracee (the writer, when this is
                # process 1; a child that whoever exec'ed memtrace had), or one born just now.
                last_looks -= 1
                time.sleep(0.005)
            else:
                break

    def _take_all(self) -> None:
        """Take every status that is there before one of them is dealt with. waitpid searches from
        one end (`do_wait`): of threads that call without a pause two would stop in turns for ever,
        and those behind them would stand still.
        """
        try:
            while (status := os.waitpid(-1, _WALL_NOW))[0]:
                self.unhandled.append(status)
        except ChildProcessError:
            pass

    def launched(self, root: int) -> None:
        """The child that will exec the program is ours, and waits."""
        self.root = root
        self.family.add_root(root)

    def tick(self) -> float:
        """Called from a timer while the loop waits: flush, and let overdue calls through.

        Returns the seconds until it is to be called again.
        """
        self.channel.flush()
        if self.attachment is not None and self.attachment.step():
            self._interrupter, self.attachment = self.attachment, None
        soon = self.job is not None and self.job.step()
        if self.listeners:
            self.listeners.step()
            soon = True
        now = time.monotonic_ns()
        for mm in self.family.mms.values():
            if mm.walk_due:
                self._walk_asleep(mm)
            if mm.keeper is not None and now - mm.kept_ns > turns.LIMIT_NS:
                self.family.release(mm)
            if mm.waiting:
                late = turns.overdue(mm, now)
                if late is not None:
                    tids = [t.tid for t in mm.overlapping] + [late.tid]
                    self.channel.send(
                        wire.life(
                            {"rec": "overlap", "t": self.channel.now(), "mm": mm.id, "tids": tids}
                        )
                    )
                    turns.proceed(late)
        return ATTACHING_TICK_SECONDS if soon or self.attachment is not None else TICK_SECONDS

    def _walk_asleep(self, mm: Mm) -> None:
        """A walk is due, and no task of the mm may stop for long: it is made while all sleep."""
        if mm.holder is None and not mm.overlapping and self.observer.walks is not None:
            through = next(
                (t for t in map(self.family.tracees.get, mm.live) if t is not None), None
            )
            if through is not None and self.observer.walks.all_sleep(mm):
                self.observer.walk(mm, through)

    # -- call stops ---------------------------------------------------------------------------

    def _enter(self, tracee: Tracee) -> None:
        """Any entry that is not a plain native memory call: `tracee.entry` is filled."""
        e = tracee.entry
        if e[ENTRY_OP] & 0xFF == ptrace.OP_SECCOMP and e[ENTRY_DATA] != self._mark:
            filters.keep_out(tracee.tid)
            self._goes_on(tracee)
            return
        e[ENTRY_DATA] = self._mark  # only a filter's stop has told it
        abi = ABIS.get(e[ENTRY_OP] >> 32)
        nr = e[ENTRY_NR] & ~X32_BIT if abi is NATIVE else e[ENTRY_NR]
        name = abi.names.get(nr, "") if abi is not None else ""
        mm = tracee.mm
        if mm.walk_due and mm.holder is None and not mm.overlapping:
            self.observer.walk(mm, tracee)
        args = [e[ENTRY_ARG0 + i] for i in range(6)]
        values = FIRST_ARGUMENTS.get(name)
        if abi is not None and nr == abi.seccomp and self._mark:
            self.listeners.enters(tracee, self.family.tracees.values())
            return
        if abi is None or not name or not mm.id or (values and args[0] & 0xFFFFFFFF not in values):
            self._goes_on(tracee)
            return
        role = role_of(name)
        tracee.clone = None
        if role is Role.CLONE3:
            tracee.clone = self.family.clone3_facts(tracee, args[0])
        elif name == "clone":
            tracee.clone = (args[0], args[1] or None)
        tracee.abi = abi
        flags = 0 if tracee.clone is None else tracee.clone[0] or 0
        lent = flags & CLONE_UNTRACED and self._lent(tracee, role, flags)
        if flags & CLONE_VM:
            request(SYSCALL if lent or tracee.every_call else self.go, tracee.tid, 0, 0)
            return
        tracee.role, tracee.name, tracee.pending = role, name, True
        tracee.stack = b""
        self.observer.reach(mm, tracee.tid)
        tracee.looks = role is Role.MEMORY and grown.may_meet(tracee, name, args)
        if self.options.evidence:
            if abi is NATIVE:
                tracee.stack = mm.bytes_at(e[ENTRY_SP], _STACK_BYTES.get(nr, 8))
            else:
                tracee.stack = vsyscall.read(mm, e[ENTRY_IP], e[ENTRY_SP])
            self.observer.look_at_chunks(tracee, name)
        if turns.enter(tracee):
            self._proceed(tracee)

    def _lent(self, tracee: Tracee, role: Role, flags: int) -> bool:
        """Whether a child that asks to be untraced will be traced all the same. Not by an attach:
        it may end at any moment, and must leave everything as it was.
        """
        if self.job is not None and self.untraced.take(tracee, clone3=role is Role.CLONE3):
            return True
        if flags & CLONE_VM:
            self.channel.send(wire.life({
                "rec": "lost", "t": self.channel.now(), "mm": tracee.mm.id,
                "why": "a child made with CLONE_UNTRACED shares this memory",
            }))  # fmt: skip
        return False

    def _proceed(self, tracee: Tracee) -> None:
        """The tracee has the turn: what must be read before the call happens is read now."""
        mm = tracee.mm
        if mm.walk_due and turns.alone(tracee):
            self.observer.walk(mm, tracee)
        if tracee.role == Role.EXEC and not mm.overlapping:
            sharing = any(t.pid != tracee.pid for t in map(self.family.tracees.get, mm.tids) if t)
            if not sharing and mm.exec_snap != mm.calls:
                self.observer.snapshot(mm, tracee, "exec")
                mm.exec_snap = mm.calls
        elif tracee.looks and turns.alone(tracee):
            self.observer.look_before(mm, tracee)
        turns.proceed(tracee)

    def _give_turn(self, going: Tracee | None) -> None:
        if going is not None:
            self._proceed(going)

    def syscall_stop(self, tracee: Tracee) -> None:
        """A syscall stop off the fast path: an entry (no filter), an exit of no interest, or a rare
        call's.
        """
        e = tracee.entry
        if not tracee.pending:
            if request(GET_SYSCALL_INFO, tracee.tid, ENTRY_SIZE, e) <= 0:
                return
            if e[ENTRY_OP] & 0xFF == ptrace.OP_ENTRY:
                self._enter(tracee)
            elif e[ENTRY_OP] & 0xFF == ptrace.OP_EXIT:
                if e[EXIT_RET] == ptrace.MINUS_EINTR:
                    broken_off.put_back(tracee)
                else:
                    tracee.wait_ends = 0
                self._goes_on(tracee)
            return
        if self.untraced:
            self.untraced.over(tracee.tid)
        x = self._exit
        if request(GET_SYSCALL_INFO, tracee.tid, EXIT_SIZE, x) <= 0:
            return
        if x[0] & 0xFF == ptrace.OP_ENTRY:
            # Under the filter, PTRACE_SYSCALL from a seccomp stop leads to the exit; anything else
            # is a new entry.
            tracee.pending = False
            self._give_turn(turns.leave(tracee))
            self.syscall_stop(tracee)
            return
        if x[0] & 0xFF != ptrace.OP_EXIT:
            return
        ret, now = x[EXIT_RET], time.monotonic_ns()
        self._leave(tracee, ret, now, self.observer.statm(tracee.mm, tracee))

    def _leave(self, tracee: Tracee, ret: int, t1: int, statm: bytes) -> None:
        """The exit of a call that needs more than to be written down."""
        mm, observer = tracee.mm, self.observer
        observer.reach(mm, tracee.tid)
        tracee.pending = False
        if (
            ret in ERESTART
            or filters.kept_out(tracee.tid, tracee.entry[ENTRY_NR], ret)
            or (tracee.role in (Role.EXEC, Role.FORK, Role.CLONE3) and ret >= 0)
        ):
            # Restarted as if it had never been made, kept from being made by a filter of the
            # program's own, or told by its event, if it has one.
            if ret > 0 and mm.seeded and untraced.has_escaped(tracee):
                self.channel.send(wire.life({
                    "rec": "lost", "t": self.channel.now(),
                    "why": "a child made with CLONE_UNTRACED is not traced",
                }))  # fmt: skip
            self._goes_on(tracee)
            self._give_turn(turns.leave(tracee))
            return
        if mm.in_doubt:
            observer.tell_doubt(mm)
        alone = not mm.disordered or turns.alone(tracee)
        if not alone:
            statm = b""
        elif statm[:1] in (b"0", b""):
            statm = observer.statm(mm, tracee)
        self._write_call(tracee, ret, t1, statm, self._read_back.after(tracee, ret))
        if tracee.name == "brk" or (not tracee.name and tracee.entry[ENTRY_NR] == _NR_BRK):
            observer.broke(mm, ret)
        if tracee.role == Role.EXEC and mm.exec_snap == mm.calls - 1:
            mm.exec_snap = mm.calls  # a failed exec (a search through PATH) changed nothing
        if alone and not self._seed_if_due(tracee):
            why = "overlap" if mm.disordered else observer.due(mm, t1, ret)
            if why and observer.snapshot(mm, tracee, why):
                mm.disordered = False
        going = turns.leave(tracee)
        self._goes_on(tracee)
        self._give_turn(going)

    def _seed_if_due(self, tracee: Tracee) -> bool:
        """At the end of a call: the attach may have waited for it to read the map."""
        attachment = self.attachment
        if attachment is None or not tracee.mm.seed_due or not turns.alone(tracee):
            return False
        attachment.seed()
        return True

    def _write_call(
        self, tracee: Tracee, ret: int, t1: int, statm: bytes, extra: bytes, flags: int = 0
    ) -> None:
        self.channel.send(self.observer.call(tracee, ret, t1, statm, extra, flags))

    def _unfinished(self, tracee: Tracee, now: int, statm: bytes, extra: bytes = b"") -> None:
        extra = extra or self._read_back.unfinished(tracee)
        self._write_call(tracee, 0, now, statm, extra, wire.UNFINISHED)

    # -- all other stops ----------------------------------------------------------------------

    def _other_stop(self, tid: int, status: int) -> None:
        tracees = self.family.tracees
        if status & 0xFF != 0x7F:
            self.ended(tid, status)
            return
        number, event = status >> 8 & 0xFF, status >> 16
        if status not in (STOP_SECCOMP, STOP_SYSCALL):
            self.stopped_elsewhere(tid)
        tracee = tracees.get(tid)
        if tracee is None and event != ptrace.EVENT_EXEC:
            tracee = self.family.early(tid)
            # Who made it is not known for certain: it may have anybody's filter.
            tracee.every_call = any(t.every_call for t in tracees.values())
        if status in (STOP_SECCOMP, STOP_SYSCALL):
            if tracee is not None and tracee.pending:
                filters.passes(tracee, self._mark)
            elif (
                tracee is not None
                and request(GET_SYSCALL_INFO, tid, ENTRY_SIZE, tracee.entry) > 0
                and tracee.entry[ENTRY_OP] & 0xFF in (ptrace.OP_ENTRY, ptrace.OP_SECCOMP)
            ):
                self._enter(tracee)
            return
        if event == ptrace.EVENT_STOP:
            self._first_or_group_stop(tid, tracee, number)
        elif event:
            self.event(tid, tracee, event)
        else:
            if self.job is not None and tracee is not None and tracee.pid == self.root:
                self.job.delivered(tid, number)
            if tracee is not None:
                broken_off.delivered(tracee, number, exits=tracee.every_call or self.go == SYSCALL)
            self._restart(tid, tracee, number)

    def stopped_elsewhere(self, tid: int) -> None:
        """A task has stopped, not at a call. An attach may have interrupted it, and be done since:
        on a busy machine the stop is seen after the map was read.
        """
        attachment = self.attachment or self._interrupter
        if attachment is not None:
            attachment.stopped(tid)
        tracee = self.family.tracees.get(tid)
        if self.listeners and tracee is not None:
            self.listeners.stopped(tracee)

    def _goes_on(self, tracee: Tracee, number: int = 0) -> None:
        """Restarted while it is in no recorded call."""
        request(SYSCALL if tracee.every_call else self.go, tracee.tid, 0, number)

    def _restart(self, tid: int, tracee: Tracee | None, number: int = 0) -> None:
        if tracee is None or tracee.pending:
            request(self.go if tracee is None else SYSCALL, tid, 0, number)
        else:
            self._goes_on(tracee, number)

    def _first_or_group_stop(self, tid: int, tracee: Tracee | None, number: int) -> None:
        if self.untraced:
            self.untraced.first_stop(tid)
        job = self.job if tracee is not None and tracee.pid == self.root else None
        if number in ptrace.GROUP_STOPS:
            request(LISTEN, tid, 0, 0)
            if job is not None:
                job.stopped(number)
            return
        if job is not None:
            job.continued()
        if tracee is not None and tracee.at_first_stop:
            todo, tracee.at_first_stop = tracee.at_first_stop, FirstStop.NOTHING
            if todo is FirstStop.SNAPSHOT:
                self.observer.snapshot(tracee.mm, tracee, "fork")
            elif todo is FirstStop.SEED:
                self.family.seed(tracee.mm, "fork")
            else:
                self.family.forget(tracee)
                request(DETACH, tid, 0, 0)
                return
        self._restart(tid, tracee)

    def event(self, tid: int, tracee: Tracee | None, event: int) -> None:
        """A fork, vfork, clone, exec or exit event."""
        message = ptrace.event_message(tid, event)
        if message is None:
            if event == ptrace.EVENT_EXIT and tracee is not None:
                self.family.passed(tracee)
            return
        if event == ptrace.EVENT_EXEC:
            if self.attachment is not None and self.attachment.passes(tid, message):
                for other in [t for t in self.family.tracees.values() if t.pid == tid]:
                    self._give_turn(self.family.forget(other))
                request(DETACH, tid, 0, 0)
                return
            tracee, going = self.family.execed(tid, message)
            self._give_turn(going)
        elif event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
            if self.untraced:
                self.untraced.over(tid, message)
            if tracee is not None and tracee.mm.id:
                self.family.born(tracee, message, event)
                if tracee.pending:
                    # Its result is the child's number: the exit stop has nothing to add.
                    tracee.pending = False
                    self._seed_if_due(tracee)
                    self._give_turn(turns.leave(tracee))
        elif event == ptrace.EVENT_EXIT and tracee is not None:
            if tracee.pending:
                self._killed_in_call(tracee, message)
            if self.family.exiting(tracee):
                return
        self._restart(tid, tracee)

    def _killed_in_call(self, tracee: Tracee, code: int) -> None:
        """The task dies between a call's entry and exit stops, of what its exit code says. Its
        registers tell whether the call was made: rax is still -ENOSYS when it was not
        (`syscall_enter_from_user_mode`), else its result.
        """
        regs = ptrace.registers(tracee.tid)
        if regs is None:  # SIGKILL has ended this stop, too
            self._vanished(tracee)
            self._give_turn(turns.leave(tracee))
            return
        tracee.pending = False
        waited = tracee in tracee.mm.waiting
        result = None if waited or tracee.killed else int(regs.rax)
        if result is not None and result >= 1 << 63:
            result -= 1 << 64
        if not tracee.role:
            self.observer.reach(tracee.mm, tracee.tid)
            alone = not waited and turns.alone(tracee)
            statm = self.observer.statm(tracee.mm, tracee) if alone else b""
            now = time.monotonic_ns()
            tracee.t0 = tracee.t0 if not waited else now
            if result is None or result == -ENOSYS:
                self._unfinished(tracee, now, statm)
            elif not filters.kept_out(tracee.tid, tracee.entry[ENTRY_NR], result, code):
                self._write_call(tracee, result, now, statm, self._read_back.after(tracee, result))
        self._give_turn(turns.leave(tracee))

    def ended(self, tid: int, status: int) -> None:
        """A task's exit status."""
        tracee = self.family.tracees.get(tid)
        if self.untraced:
            self.untraced.gone(tid)
        if self.listeners and tracee is not None:
            self.listeners.stopped(tracee)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        if tid == self.root:
            self.root_status = status
        if tracee is not None and tracee.pending:
            self._vanished(tracee)  # no exit event was delivered
        self._give_turn(self.family.ended(tid, code, number))

    def _vanished(self, tracee: Tracee) -> None:
        """A task that was killed in a call cannot be looked at: nobody knows if it was made."""
        tracee.pending = False
        waited = tracee in tracee.mm.waiting
        if not tracee.role:
            now = time.monotonic_ns()
            tracee.t0 = tracee.t0 if not waited else now
            made = not waited and not tracee.killed
            after = self._read_back.vanished(tracee) if made else b""
            self._unfinished(tracee, now, b"", after or b"")
            if after is None:
                tracee.mm.in_doubt += 1
                tracee.mm.disordered = True


#: Memory calls whatever their arguments, on pages from the first argument on: the entries that the
#: loop itself deals with.
_PLAIN_CALLS = frozenset(
    nr
    for nr, name in NATIVE.names.items()
    if role_of(name) is Role.MEMORY
    and name not in FIRST_ARGUMENTS
    and name not in ("shmat", "process_madvise")
)
_ARGUMENTS_TELL = frozenset(
    nr
    for nr, name in NATIVE.names.items()
    if name not in readback.ALWAYS and name not in FIRST_ARGUMENTS
)
