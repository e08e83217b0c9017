# SPDX-License-Identifier: GPL-2.0-or-later
"""ptrace(2): python-ptrace's bindings, and ctypes for what they lack and for the hot loop.

Importing this module runs `ldconfig` once (python-ptrace looks for libc): import it before any
child exists, because the tracer's waitpid(-1) would reap it.

`request` is the bare libc function without argtypes: plain ints and ctypes buffers only. A call
through it costs half of one with argtypes, which is what a stop is made of.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from typing import Any

from ptrace.binding import ptrace_geteventmsg, ptrace_getregs, ptrace_setregs
from ptrace.binding.func import ptrace as bound_ptrace
from ptrace.error import PtraceError
from ptrace.signames import signalName

POKEDATA, POKEUSER, CONT, DETACH, SYSCALL = 5, 6, 7, 17, 24
#: No request of ptrace(2): the tracee stays where it is.
STAY = -1
SEIZE, INTERRUPT, LISTEN, GET_SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 0x420E
GETSIGINFO = 0x4202

O_SYSGOOD, O_FORK, O_VFORK, O_CLONE, O_EXEC = 1, 2, 4, 8, 16
O_EXIT, O_SECCOMP, O_EXITKILL = 64, 128, 1 << 20
FOLLOW = O_SYSGOOD | O_FORK | O_VFORK | O_CLONE | O_EXEC | O_EXIT

EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC = 1, 2, 3, 4
EVENT_EXIT, EVENT_STOP = 6, 128

#: Wait statuses of the two stops that make up a traced call.
STOP_SECCOMP = 0x7057F
STOP_SYSCALL = 0x857F

OP_ENTRY, OP_EXIT, OP_SECCOMP = 1, 2, 3
GROUP_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
WALL = 0x40000000

#: POKEUSER of this word at this offset (struct user_regs_struct) at a call's entry: it is skipped.
ORIG_RAX, NO_CALL = 15 * 8, ctypes.c_ulong((1 << 64) - 1)

_SYS_KCMP, _KCMP_VM = 312, 1  # x86-64

_libc = ctypes.PyDLL(None, use_errno=True)
request: Callable[..., int] = _libc.ptrace
_libc.ptrace.restype = ctypes.c_long


#: struct ptrace_syscall_info, entry and seccomp form, as eleven words:
#: op | arch << 32, ip, sp, nr, six arguments, seccomp data.
SyscallEntry = ctypes.c_uint64 * 11
ENTRY_OP, ENTRY_IP, ENTRY_SP, ENTRY_NR, ENTRY_ARG0, ENTRY_DATA = 0, 1, 2, 3, 4, 10
ENTRY_SIZE = 88
#: The exit form as signed words; word 3 is the return value.
SyscallExit = ctypes.c_int64 * 6
EXIT_RET, EXIT_SIZE = 3, 40


def seize(tid: int, options: int) -> None:
    """PTRACE_SEIZE.

    Raises:
        OSError: with the kernel's errno.
    """
    try:
        bound_ptrace(SEIZE, tid, 0, options)
    except PtraceError as e:
        raise OSError(e.errno or errno.EPERM, os.strerror(e.errno or errno.EPERM)) from e


_SIGINFO = (ctypes.c_int32 * 32)()


def event_message(tid: int, event: int) -> int | None:
    """PTRACE_GETEVENTMSG of an event stop; None when the tracee is no longer in it: it was killed,
    and may stand at its exit event instead, with another message.
    """
    if request(GETSIGINFO, tid, 0, _SIGINFO) < 0 or _SIGINFO[2] >> 8 != event:  # si_code
        return None
    try:
        value: int = ptrace_geteventmsg(tid)
        return value
    except PtraceError:
        return None


def signal_source(tid: int) -> tuple[int, int]:
    """(si_code, si_pid) of the signal a tracee is stopped before; a code above 0 is the kernel's
    own. (0, 0) when it was killed.
    """
    if request(GETSIGINFO, tid, 0, _SIGINFO) < 0:
        return 0, 0
    return _SIGINFO[2], _SIGINFO[4]


def has_news() -> bool:
    """Whether a tracee's stop or end waits to be taken by waitpid."""
    try:
        waiting = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | WALL
        return os.waitid(os.P_ALL, 0, waiting) is not None
    except ChildProcessError:
        return False


def registers(tid: int) -> Any:
    """PTRACE_GETREGS as python-ptrace's user_regs_struct; None when the tracee was killed."""
    try:
        return ptrace_getregs(tid)
    except PtraceError:
        return None


#: x86-64 calls that fail with EINTR after a stop although no handler ran, nothing having been done:
#: read, readv, write, writev, recvfrom, recvmsg, recvmmsg, sendto, sendmsg, sendmmsg, connect,
#: accept and accept4 with a time limit, semop, semtimedop, rt_sigtimedwait, io_getevents,
#: io_pgetevents, epoll_wait, epoll_pwait, epoll_pwait2, io_uring_enter.
EINTR_CALLS = frozenset((
    0, 19, 1, 20, 45, 47, 299, 44, 46, 307, 42, 43, 288, 65, 220, 128, 208, 333, 232, 281, 441, 426,
))  # fmt: skip
#: The same of i386, but for those that ipc(2) and socketcall(2) hide; the last five take 64-bit
#: times.
_EINTR_CALLS_I386 = frozenset((
    3, 145, 4, 146, 371, 372, 337, 369, 370, 345, 362, 364, 177, 247, 385, 256, 319, 441, 426, 420,
    421, 416, 417,
))  # fmt: skip
MINUS_EINTR = (1 << 64) - errno.EINTR
_MINUS_EINTR = MINUS_EINTR, (1 << 32) - errno.EINTR
_ERESTARTNOHAND = 514
USER_CS_64 = 0x33
_IGNORED_BY_DEFAULT = (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)


def fails_with_eintr(number: int, *, native: bool) -> bool:
    """Whether a call of x86-64, or else of i386, fails with EINTR after a stop."""
    return number in (EINTR_CALLS if native else _EINTR_CALLS_I386)


def was_broken_off(regs: Any) -> bool:
    """Whether these are the registers of such a call that has failed with EINTR."""
    native = regs.cs == USER_CS_64
    return regs.rax in _MINUS_EINTR and fails_with_eintr(regs.orig_rax, native=native)


def rewind(tid: int, regs: Any) -> bool:
    """At a stop on a call's way out, with a signal or an INTERRUPT for its reason: let a call that
    was broken off be made again.

    It is given the result of a restartable one, and `arch_do_signal_or_restart`, where the tracee
    goes from here, does the rest: EINTR after all where a handler runs, whenever the signal comes.
    """
    if not was_broken_off(regs):
        return False
    regs.rax = (1 << 64) - _ERESTARTNOHAND
    return set_registers(tid, regs)


def set_registers(tid: int, regs: Any) -> bool:
    """PTRACE_SETREGS; False when the tracee was killed."""
    try:
        ptrace_setregs(tid, regs)
    except PtraceError:
        return False
    return True


def ignored_by_default(number: int) -> bool:
    """Whether SIG_DFL means that nothing happens."""
    return number in _IGNORED_BY_DEFAULT


def same_mm(a: int, b: int) -> bool | None:
    """Whether two tasks share their mm, by kcmp(2); None when the kernel does not tell."""
    result = _libc.syscall(_SYS_KCMP, a, b, _KCMP_VM, 0, 0)
    return None if result < 0 else result == 0


def signal_name(number: int) -> str:
    """SIGTERM for 15."""
    name: str = signalName(number)
    return name
