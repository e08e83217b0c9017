# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that wait, and are broken off although the program would not have noticed without a tracer.

Theory of operation. Where a signal has no handler, most calls are made again by the kernel, with
what is left of their time limit (`arch_do_signal_or_restart`). epoll_wait and its like fail with
EINTR instead. Without a tracer that is rare, because a signal that is ignored wakes nobody
(`sig_ignored`) and one that is caught wakes one thread; a traced thread gets the ignored ones too,
and every thread that leaves a stop while a signal waits for the process counts as having one
(`recalc_sigpending_tsk`), whoever takes it in the end. So the result EINTR is replaced by that of
a restartable call, and the kernel decides: EINTR after all where a handler runs, else the call is
made again. It begins with its whole time limit then; when that has passed since it was broken off
for the first time, the call gets the result of its time limit.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from memtrace.collect import procfs
from memtrace.collect.ptrace import (
    INTERRUPT,
    USER_CS_64,
    ignored_by_default,
    registers,
    request,
    rewind,
    set_registers,
    was_broken_off,
)

if TYPE_CHECKING:
    from typing import Any

    from memtrace.collect.tracee import Tracee

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_PIDFD_GETFD = 438

_NEVER = 1 << 63
_MILLISECONDS, _TIMESPEC = -1, -2
_SO_RCVTIMEO, _SO_SNDTIMEO = 20, 21
#: x86-64 number -> (what limits it: one of the two above or a socket option, the register that says
#: how long or which socket, the result when it is reached).
_LIMITS = {
    232: (_MILLISECONDS, "r10", 0),  # epoll_wait
    281: (_MILLISECONDS, "r10", 0),  # epoll_pwait
    441: (_TIMESPEC, "r10", 0),  # epoll_pwait2
    220: (_TIMESPEC, "r10", -errno.EAGAIN),  # semtimedop
    128: (_TIMESPEC, "rdx", -errno.EAGAIN),  # rt_sigtimedwait
    208: (_TIMESPEC, "r8", 0),  # io_getevents
    333: (_TIMESPEC, "r8", 0),  # io_pgetevents
    # read, readv, recvfrom, recvmsg, recvmmsg, accept, accept4;
    # write, writev, sendto, sendmsg, sendmmsg.
    **dict.fromkeys((0, 19, 45, 47, 299, 43, 288), (_SO_RCVTIMEO, "rdi", -errno.EAGAIN)),
    **dict.fromkeys((1, 20, 44, 46, 307), (_SO_SNDTIMEO, "rdi", -errno.EAGAIN)),
}
_FILE_CALLS, _FILE_CALLS_I386 = (0, 19, 1, 20), (3, 145, 4, 146)  # read, readv, write, writev


def put_back(tracee: Tracee) -> None:
    """At the exit stop of a call that failed with EINTR: let it be made again."""
    regs = registers(tracee.tid)
    if regs is None or not was_broken_off(regs):
        return
    native = regs.cs == USER_CS_64
    files = _FILE_CALLS if native else _FILE_CALLS_I386
    # Only a socket's EINTR is known to mean a signal; a file system may have its own.
    fd = regs.rdi if native else regs.rbx
    if regs.orig_rax in files and not procfs.is_socket(tracee.tid, fd):
        return
    # The interrupt makes sure that the kernel looks at the result (`exit_to_user_mode_loop`): the
    # program must not see the one of a restartable call.
    if request(INTERRUPT, tracee.tid, 0, 0) == 0:
        _again(tracee, regs)


def delivered(tracee: Tracee, number: int, *, exits: bool) -> None:
    """At the delivery of a signal: the same, if the program ignores it.

    Args:
        tracee: it is about to get the signal.
        number: the signal.
        exits: whether its calls stop at their exits, so that the end of a wait is seen.
    """
    regs = registers(tracee.tid)
    again = regs is not None and was_broken_off(regs)
    if not again and not tracee.wait_ends:
        return
    ignored, caught = procfs.dispositions(tracee.tid)
    bit = 1 << number - 1
    if not (bit & ignored or (ignored_by_default(number) and not bit & caught)):
        tracee.wait_ends = 0  # a handler runs, and the call ends
    elif again and exits:
        _again(tracee, regs)
    elif again:
        rewind(tracee.tid, regs)


def _again(tracee: Tracee, regs: Any) -> None:
    kind, register, result = _LIMITS.get(regs.orig_rax, (None, "", 0))
    now = time.monotonic_ns()
    if regs.cs != USER_CS_64 or kind is None:
        rewind(tracee.tid, regs)
        return
    if not tracee.wait_ends:
        limit = limit_ns(tracee, kind, getattr(regs, register))
        tracee.wait_ends = _NEVER if limit is None else now + limit
    if now < tracee.wait_ends:
        rewind(tracee.tid, regs)
    else:
        tracee.wait_ends = 0
        regs.rax = result % (1 << 64)
        set_registers(tracee.tid, regs)


def limit_ns(tracee: Tracee, kind: int, value: int) -> int | None:
    """How long a call waits at most; None: for ever, or nobody knows.

    Args:
        tracee: at a stop.
        kind: what limits it.
        value: the argument that says it: milliseconds, an address, or a descriptor.
    """
    if kind == _MILLISECONDS:
        ms = value & 0xFFFFFFFF
        return None if ms >= 1 << 31 else ms * 1_000_000  # an int: negative is for ever
    if kind == _TIMESPEC:
        raw = tracee.mm.bytes_at(value, 16) if value else b""
        if len(raw) < 16:
            return None
        seconds, ns = struct.unpack("<qq", raw)
        return int(seconds) * 1_000_000_000 + int(ns)
    return _socket_limit_ns(tracee.pid, value & 0xFFFFFFFF, kind)


def _socket_limit_ns(pid: int, fd: int, option: int) -> int | None:
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return None
    own = _libc.syscall(_SYS_PIDFD_GETFD, process, fd, 0)  # Linux 5.6
    os.close(process)
    if own < 0:
        return None
    value, size = (ctypes.c_int64 * 2)(), ctypes.c_uint32(16)  # struct timeval
    failed = _libc.getsockopt(own, socket.SOL_SOCKET, option, value, ctypes.byref(size))
    os.close(own)
    return None if failed else (value[0] * 1_000_000 + value[1]) * 1000 or None
