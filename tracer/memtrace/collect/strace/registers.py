# SPDX-License-Identifier: GPL-2.0-or-later
"""A call's entry as the recorder wants it (struct ptrace_syscall_info), put together from strace's
line and from /proc/TID/syscall, which tells the registers of a task in a stop.

Arguments are strace's word, but where it prints what a pointer points to, and for calls of i386,
of which some have their arguments in memory: there the registers'.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from memtrace.collect import procfs
from memtrace.collect.abi import I386, NATIVE, X32_BIT, Abi
from memtrace.collect.ptrace import ENTRY_ARG0, ENTRY_NR, ENTRY_OP, OP_ENTRY
from memtrace.collect.strace.events import Called
from memtrace.collect.tracee import Tracee

#: Calls of whose pointers strace prints what they point to.
POINTERS = frozenset(("prctl", "io_setup", "process_madvise"))
_NUMBERS = {name: number for number, name in NATIVE.names.items()}
_OLD = frozenset(("mmap2", "old_mmap", "ipc"))
#: The return address, and what may lie below it; for two calls one word more (`Site`).
_STACK_BYTES = {"mmap": 32, "brk": 40, "mremap": 96}
_U64 = (1 << 64) - 1


class Registers(NamedTuple):
    """What /proc tells of a task in a call's stop."""

    number: int
    args: tuple[int, ...]
    sp: int
    ip: int


class RegisterFiles:
    """/proc/TID/syscall of every task, kept open: to open it takes longer than all the rest."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def read(self, tid: int) -> Registers | None:
        """The registers of a task; None if they are not to be known, or it is in no call."""
        fd = self._fds.get(tid, -1)
        try:
            if fd < 0:
                fd = os.open(f"/proc/{tid}/syscall", os.O_RDONLY | os.O_CLOEXEC)
                self._fds[tid] = fd
            words = os.pread(fd, 256, 0).split()
        except OSError:
            self.forget(tid)
            words = procfs.read(f"/proc/{tid}/syscall").split()
        if len(words) != 9:
            return None
        args = tuple(int(w, 16) for w in words[1:7])
        return Registers(int(words[0]), args, int(words[7], 16), int(words[8], 16))

    def forget(self, tid: int) -> None:
        """The task is gone, or its number now means another one."""
        fd = self._fds.pop(tid, -1)
        if fd >= 0:
            os.close(fd)


def interface(number: int, call: str) -> Abi | None:
    """By which system call interface a number means that call; None by none."""
    if NATIVE.names.get(number & ~X32_BIT) == call:
        return NATIVE
    name = I386.names.get(number, "")
    return I386 if name == call or name in _OLD else None


def fill(
    tracee: Tracee, call: str, found: Registers | None, args: Sequence[int], *, evidence: bool
) -> bool:
    """Fill `tracee.entry`, `stack`, `abi` and `name` at a call's entry.

    Returns False if the registers say that the task is in another call. Where one is killed at its
    entry, and has left that stop, strace 6.1 prints the call that it read last, another task's
    (`get_scno`); the kernel skips the true one. The entry is then without registers.

    Args:
        tracee: stands in the stop.
        call: its canonical name.
        found: its registers.
        args: as strace prints them.
        evidence: also read the words at the stack pointer.
    """
    e = tracee.entry
    tracee.abi, tracee.name, tracee.stack = NATIVE, call, b""
    e[ENTRY_OP] = e[1] = e[2] = 0
    abi = None if found is None else interface(found.number, call)
    if found is None or abi is None:
        set_arguments(tracee, _NUMBERS.get(call, 0), args)
        return found is None
    tracee.abi, e[1], e[2] = abi, found.ip, found.sp
    if evidence:
        tracee.stack = tracee.mm.bytes_at(found.sp, _STACK_BYTES.get(call, 8))
    e[ENTRY_OP] = abi.audit << 32 | OP_ENTRY
    if abi is I386:
        tracee.name = I386.names[found.number]
        set_arguments(tracee, found.number, found.args)
        return True
    told = args and call not in POINTERS and all(map(_same, args, found.args))
    set_arguments(tracee, found.number, args if told else found.args)
    return True


def _same(printed: int, register: int) -> bool:
    """Whether strace has printed that register, which it may take for an int."""
    return not (printed ^ register) & 0xFFFFFFFF


def fill_again(tracee: Tracee, event: Called) -> None:
    """At the exit: arguments that only the whole line tells."""
    e = tracee.entry
    number = e[ENTRY_NR] if e[ENTRY_OP] else _NUMBERS[event.call]
    e[ENTRY_OP] = NATIVE.audit << 32 | OP_ENTRY
    if event.abi == "x32":
        number |= X32_BIT
    set_arguments(tracee, number, event.args)


def set_arguments(tracee: Tracee, number: int, args: Sequence[int]) -> None:
    """The call's number and up to six arguments; 0 for those that it has not."""
    e = tracee.entry
    e[ENTRY_NR] = number
    for i in range(6):
        e[ENTRY_ARG0 + i] = (args[i] if i < len(args) else 0) & _U64
