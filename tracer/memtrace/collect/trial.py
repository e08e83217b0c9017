# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether tracing works here, by doing it: a process of our own traces a child of its own for one
system call, the way `run` does, and tells how far it came.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from dataclasses import dataclass

from memtrace.collect import facts, procfs, ptrace
from memtrace.collect.seccomp import Filter

_SECONDS = 20
_SYS_BRK = 12  # x86-64; a call that the filter stops
_RESULT = struct.Struct("=5i16s")


@dataclass(frozen=True, slots=True)
class Trial:
    """How far it came.

    Attributes:
        ended: it came to its end; False: something killed it or kept it waiting.
        seize: errno of PTRACE_SEIZE, 0 if it worked. The rest is known only then.
        install: errno of the seccomp filter, 0 if it was installed.
        filtered: the filter stopped the call.
        told: PTRACE_GET_SYSCALL_INFO told of its entry and of its exit.
        tracer: who traced the child before us (pid), 0 for nobody; `tracer_name` its comm.
    """

    ended: bool = True
    seize: int = 0
    install: int = 0
    filtered: bool = True
    told: bool = True
    tracer: int = 0
    tracer_name: str = ""


def attempt() -> Trial:
    """Make the trial. Takes some milliseconds; leaves nothing behind."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(_SECONDS)  # nobody shall wait for a trial that hangs
            os.close(read_end)
            os.write(write_end, _pack(_traced_child()))
        finally:
            os._exit(0)
    os.close(write_end)
    data = os.read(read_end, _RESULT.size)
    os.close(read_end)
    os.waitpid(pid, 0)
    return _unpack(data)


def _pack(t: Trial) -> bytes:
    name = t.tracer_name.encode()[:16]
    return _RESULT.pack(t.seize, t.install, t.filtered, t.told, t.tracer, name)


def _unpack(data: bytes) -> Trial:
    if len(data) < _RESULT.size:
        return Trial(ended=False, filtered=False, told=False)
    seize, install, filtered, told, tracer, name = _RESULT.unpack(data)
    text = name.rstrip(b"\0").decode("utf-8", "replace")
    return Trial(True, seize, install, bool(filtered), bool(told), tracer, text)


def _traced_child() -> Trial:
    wanted = Filter()
    libc = ctypes.CDLL(None)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go)
            if os.read(ready, 1):
                number = wanted.install()
                libc.syscall(_SYS_BRK, 0)
                os._exit(number)
        finally:
            os._exit(0)
    try:
        ptrace.seize(child, ptrace.FOLLOW | ptrace.O_SECCOMP | ptrace.O_EXITKILL)
    except OSError as e:
        (tracer,) = procfs.status_field(child, "TracerPid")
        os.close(go)
        os.waitpid(child, 0)
        name = facts.comm(tracer) if tracer else ""
        return Trial(True, e.errno or errno.EPERM, 0, False, False, tracer or 0, name)
    os.write(go, b"x")
    return _follow(child)


def _follow(child: int) -> Trial:
    """See the child through its call to its end."""
    filtered = entry = leaving = False
    entered, left = ptrace.SyscallEntry(), ptrace.SyscallExit()
    while True:
        _, status = os.waitpid(child, ptrace.WALL)
        if not os.WIFSTOPPED(status):
            break
        onward, deliver = ptrace.CONT, 0
        if status == ptrace.STOP_SECCOMP:
            filtered, onward = True, ptrace.SYSCALL
            entry = _told(child, entered, ptrace.ENTRY_SIZE) == ptrace.OP_SECCOMP
            entry = entry and entered[ptrace.ENTRY_NR] == _SYS_BRK
        elif status == ptrace.STOP_SYSCALL:
            leaving = _told(child, left, ptrace.EXIT_SIZE) == ptrace.OP_EXIT
        elif not status >> 16:
            deliver = os.WSTOPSIG(status)
        ptrace.request(onward, child, 0, deliver)
    install = os.WEXITSTATUS(status) if os.WIFEXITED(status) else errno.EPERM
    return Trial(True, 0, install, filtered, entry and leaving)


def _told(child: int, words: ctypes.Array[ctypes.c_uint64] | ctypes.Array[ctypes.c_int64],
          size: int) -> int:  # fmt: skip
    got = ptrace.request(ptrace.GET_SYSCALL_INFO, child, size, words)
    return words[0] & 0xFF if got > 0 else -1
