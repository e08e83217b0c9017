# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine `python-ptrace`: the same records, witnessed by somebody else's tracer.

It is there to check the ptrace engine by. What stops where, whether a stop is a call's entry or its
exit, which call it is, its arguments and its result: all that is PtraceDebugger's word
(PtraceProcess, SyscallState, PtraceSyscall, GETREGS), and none of it ours. What is read beside the
calls comes from /proc, as in every engine.

It follows one thread of one process. The moment the program is about to make another, or makes a
call that python-ptrace cannot decode, the recording ends, which the trace says as `lost`, and the
program runs on untraced. Every call stops it, recorded or not.

What python-ptrace gets wrong is put right here:

- PTRACE_EVENT_EXIT is an error to it (`PtraceProcess.ptraceEvent`).
- A SIGTRAP of the program's own is never delivered (`PtraceProcess.filterSignal`).
- A group stop looks like the signal that caused it, and restarting the tracee ends it.
- It reads calls of i386 and x32 by the table of x86-64.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import Any

from ptrace.binding import ptrace_syscall
from ptrace.debugger import (
    ProcessEvent,
    ProcessExecution,
    ProcessExit,
    ProcessSignal,
    PtraceDebugger,
    PtraceProcess,
)
from ptrace.error import PtraceError
from ptrace.func_call import FunctionCallOptions
from ptrace.syscall import PtraceSyscall

from memtrace.collect import filters, grown, procfs, wire
from memtrace.collect.abi import (
    CALLS,
    ENOSYS,
    ERESTART,
    FIRST_ARGUMENTS,
    NATIVE,
    X32_BIT,
    Role,
    role_of,
)
from memtrace.collect.channel import Channel
from memtrace.collect.family import Family
from memtrace.collect.observe import Observer
from memtrace.collect.options import Options
from memtrace.collect.ptrace import EVENT_EXIT, GROUP_STOPS, O_EXIT, OP_ENTRY, event_message
from memtrace.collect.readback import ReadBack
from memtrace.collect.tracee import Tracee

_SYSCALL_STOP = signal.SIGTRAP | 0x80  # PTRACE_O_TRACESYSGOOD
_MAKES_A_TASK = frozenset(("fork", "vfork", "clone", "clone3"))
_INT_0X80 = b"\xcd\x80"
#: As the ptrace engine.
_STACK_BYTES = {"mmap": 32, "brk": 40, "mremap": 96}
_NATIVE_ENTRY = NATIVE.audit << 32 | OP_ENTRY
_SIGNED = 1 << 63
_POLL_SECONDS = 0.01


class _Exiting(ProcessEvent):  # type: ignore[misc] # python-ptrace ships no types
    """PTRACE_EVENT_EXIT: the last moment at which the address space is there."""

    def __init__(self, process: _Process) -> None:
        super().__init__(process, f"Process {process.pid} is about to exit")
        self.code = event_message(process.pid, EVENT_EXIT) or 0


class _Process(PtraceProcess):  # type: ignore[misc]
    """A PtraceProcess that knows its exit event, and its registers as last read."""

    registers: Any = None

    def getregs(self) -> Any:
        self.registers = super().getregs()
        return self.registers

    def ptraceEvent(self, event: int) -> ProcessEvent:  # noqa: N802 - its name
        return _Exiting(self) if event == EVENT_EXIT else super().ptraceEvent(event)


class _Debugger(PtraceDebugger):  # type: ignore[misc]
    """A PtraceDebugger of such processes."""

    def __init__(self) -> None:
        super().__init__()
        self.traceExec()
        self.options |= O_EXIT

    def addProcess(self, pid: int) -> _Process:  # noqa: N802 - its name
        """Attach (PTRACE_ATTACH), wait for the stop, set the options."""
        process = _Process(self, pid, is_attached=False)
        self.dict[pid] = process
        self.list.append(process)
        process.waitSignals(signal.SIGSTOP)
        process.setoptions(self.options)
        return process


def name_of(call: PtraceSyscall) -> str:
    """The name of a call as python-ptrace has it; ours where its table has ended (at 440)."""
    unknown = call.name == f"syscall<{call.syscall}>"
    name: str = NATIVE.names.get(call.syscall, "") if unknown else call.name
    return name


class DebuggerEngine:
    """Traces one process of one thread.

    `root_status`: its wait status, None as long as it is not known. `left`: why the recording ended
    before the program did; "": it did not.
    """

    def __init__(self, channel: Channel, options: Options) -> None:
        self.channel = channel
        self.options = options
        self.observer = Observer(channel, options)
        self.family = Family(channel, self.observer)
        self.root = 0
        self.root_status: int | None = None
        self.left = ""
        self._debugger = _Debugger()
        self._decoding = FunctionCallOptions(replace_socketcall=False)
        self._read_back = ReadBack()
        self._process: Any = None
        self._tracee: Any = None
        self._name = ""

    def take(self, pid: int) -> None:
        """Make a child that waits our tracee.

        Raises:
            OSError: the kernel refuses.
        """
        try:
            self._process = self._debugger.addProcess(pid)
        except PtraceError as e:
            number = e.errno or errno.EPERM
            raise OSError(number, os.strerror(number)) from e
        self._process.syscall_state.ignore_callback = self._is_ignored
        self.root = pid
        self._tracee = self.family.add_root(pid)

    def loop(self) -> None:
        """Trace until the program ends, or cannot be followed any further."""
        self._process.syscall()
        while self._debugger.list:
            self.channel.flush()
            try:
                event = self._debugger.waitSyscall()
            except ProcessEvent as other:
                event = other
            try:
                self._happened(event)
            except PtraceError as e:
                if e.errno != errno.ESRCH:  # SIGKILL ends every stop; the status follows
                    raise

    def _happened(self, event: ProcessEvent) -> None:
        number = 0
        if isinstance(event, ProcessExit):
            self._ended(event)
            return
        if isinstance(event, ProcessExecution):
            self._tracee = self.family.execed(self.root, self.root)[0]
            if procfs.is_elf32(self.root):
                self._leave("the program has become a 32-bit one")
        elif isinstance(event, _Exiting):
            if self._tracee.pending:
                self._killed_in_call(event.code)
            self.family.exiting(self._tracee)
        elif isinstance(event, ProcessSignal) and event.signum == _SYSCALL_STOP:
            self._syscall_stop()
        else:
            number = event.signum
            if number in GROUP_STOPS and self._in_group_stop():
                self._until_continued()
                number = 0
        if not self.left:
            # PtraceProcess.syscall takes a SIGTRAP away.
            ptrace_syscall(self.root, number)

    # -- calls --------------------------------------------------------------------------------

    def _is_ignored(self, call: PtraceSyscall) -> bool:
        """Asked by SyscallState at each entry; it decodes and follows only what is not ignored."""
        self._name = name_of(call)
        return not (
            self._tracee.mm.id
            and self._name in CALLS
            and role_of(self._name) is Role.MEMORY
            and self._name not in _MAKES_A_TASK
        )

    def _syscall_stop(self) -> None:
        state = self._process.syscall_state
        entering = state.next_event == "enter"
        call = state.event(self._decoding)
        if not self._tracee.mm.id:
            return  # memtrace's own child, before its exec
        if entering:
            self._enter(call)
        elif self._tracee.pending:
            self._tracee.pending = False
            value = self._process.getreg("rax") if call is None else call.result
            self._leave_call(_signed(value))

    def _enter(self, call: PtraceSyscall | None) -> None:
        tracee, mm, regs, name = self._tracee, self._tracee.mm, self._process.registers, self._name
        if regs.orig_rax & X32_BIT and regs.orig_rax < _SIGNED:
            self._leave("the program has made a call of the x32 interface")
            return
        if mm.bytes_at(regs.rip - len(_INT_0X80), len(_INT_0X80)) == _INT_0X80:
            self._leave("the program has made a call of the i386 interface")
            return
        if name in _MAKES_A_TASK:
            self._leave(f"the program has called {name}")
            return
        role = role_of(name)
        if call is None and role is not Role.EXEC:
            return
        arguments = PtraceSyscall(self._process, self._decoding, regs).readArgumentValues(regs)
        values = FIRST_ARGUMENTS.get(name)
        if values and arguments[0] & 0xFFFFFFFF not in values:
            return
        e = tracee.entry
        e[0], e[1], e[2], e[3] = _NATIVE_ENTRY, regs.rip, regs.rsp, regs.orig_rax
        e[4], e[5], e[6], e[7], e[8], e[9] = arguments
        tracee.role, tracee.name, tracee.pending, tracee.stack = role, name, True, b""
        self.observer.reach(mm, tracee.tid)
        if self.options.evidence:
            tracee.stack = mm.bytes_at(regs.rsp, _STACK_BYTES.get(name, 8))
            self.observer.look_at_chunks(tracee, name)
        if role is Role.EXEC and mm.exec_snap != mm.calls:
            self.observer.snapshot(mm, tracee, "exec")
            mm.exec_snap = mm.calls
        elif grown.may_meet(tracee, name, arguments):
            self.observer.look_before(mm, tracee)
        tracee.t0 = time.monotonic_ns()

    def _leave_call(self, ret: int) -> None:
        tracee, mm, observer = self._tracee, self._tracee.mm, self.observer
        if (
            ret in ERESTART
            or filters.kept_out(tracee.tid, tracee.entry[3], ret)
            or (tracee.role is Role.EXEC and ret >= 0)
        ):
            # Restarted as if never made, kept from being made by a filter of the program's own, or
            # told by its event.
            return
        now = time.monotonic_ns()
        observer.reach(mm, tracee.tid)
        statm = observer.statm(mm, tracee)
        self._write_call(ret, now, statm, self._read_back.after(tracee, ret))
        if tracee.role is Role.EXEC and mm.exec_snap == mm.calls - 1:
            mm.exec_snap = mm.calls  # a failed exec (a search through PATH) changed nothing
        why = observer.due(mm, now, ret)
        if why:
            observer.snapshot(mm, tracee, why)

    def _write_call(self, ret: int, t1: int, statm: bytes, extra: bytes, flags: int = 0) -> None:
        self.channel.send(self.observer.call(self._tracee, ret, t1, statm, extra, flags))

    def _killed_in_call(self, code: int) -> None:
        """It dies between a call's entry and its exit, of what its exit code says: rax is still
        -ENOSYS if the call has not been made (`syscall_enter_from_user_mode`), else its result.
        """
        tracee = self._tracee
        tracee.pending = False
        if tracee.role is not Role.MEMORY:
            return
        ret, now = _signed(self._process.getreg("rax")), time.monotonic_ns()
        statm = self.observer.statm(tracee.mm, tracee)
        if ret == -ENOSYS:
            self._write_call(0, now, statm, b"", wire.UNFINISHED)
        elif not filters.kept_out(tracee.tid, tracee.entry[3], ret, code):
            self._write_call(ret, now, statm, self._read_back.after(tracee, ret))

    # -- all else -----------------------------------------------------------------------------

    def _ended(self, event: ProcessExit) -> None:
        tracee: Tracee = self._tracee
        code, number = event.exitcode, event.signum
        self.root_status = code << 8 if code is not None else number or 0
        if tracee.pending and tracee.role is Role.MEMORY:
            # SIGKILL, and no exit event: whether the call was made is unknown.
            self._write_call(0, time.monotonic_ns(), b"", b"", wire.UNFINISHED)
        tracee.pending = False
        self.family.ended(tracee.tid, code, number)

    def _leave(self, why: str) -> None:
        """Let the program go, at a stop."""
        tracee = self._tracee
        tracee.pending = False
        self.observer.snapshot(tracee.mm, tracee, "detach")
        self.left = f"{why}, which the python-ptrace engine does not follow"
        self.channel.send(wire.life({
            "rec": "lost", "t": self.channel.now(), "mm": tracee.mm.id, "why": self.left,
        }))  # fmt: skip
        self._process.detach()

    def _in_group_stop(self) -> bool:
        """Only a signal about to be delivered has a siginfo (ptrace(2), "Group-stop")."""
        try:
            self._process.getsiginfo()
        except PtraceError as e:
            return bool(e.errno == errno.EINVAL)
        return False

    def _until_continued(self) -> None:
        """Stay in a group stop until SIGCONT comes. Without PTRACE_LISTEN nobody tells of it, but
        it is pending until the tracee goes on. SIGKILL ends the stop, and is seen by that.
        """
        self.channel.flush()
        bit = 1 << signal.SIGCONT - 1
        while procfs.stat_fields(self.root)[:1] == ["t"]:
            if procfs.pending(self.root) & bit:
                return
            time.sleep(_POLL_SECONDS)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= _SIGNED else value
