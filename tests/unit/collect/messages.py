# SPDX-License-Identifier: GPL-2.0-or-later
"""The tracer's messages made by hand: numbers of x86-64 and i386 as the kernel gives them."""

from __future__ import annotations

import struct
from typing import Any

from memtrace.collect import wire

X86_64, I386 = 0xC000003E, 0x40000003  # AUDIT_ARCH_*
SECCOMP_STOP = 3  # PTRACE_SYSCALL_INFO_SECCOMP
MM, TID = 1, 100
NR = {"mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25, "execve": 59}


def entry_of(
    number: int, args: list[int], *, arch: int = X86_64, ip: int = 0, sp: int = 0
) -> tuple[int, ...]:
    """The words of struct ptrace_syscall_info as `wire.CALL_ENTRY` unpacks them."""
    return (SECCOMP_STOP | arch << 32, ip, sp, number, *args, *[0] * (6 - len(args)), 0)


def call(
    number: int | str,
    args: list[int],
    ret: int,
    *,
    arch: int = X86_64,
    mm: int = MM,
    t: tuple[int, int] = (0, 0),
    ip: int = 0,
    stack: bytes = b"",
    statm: bytes = b"",
    extra: dict[str, Any] | None = None,
    flags: int = 0,
) -> wire.CallMessage:
    """A CALL as the parser gives it."""
    nr = number if isinstance(number, int) else NR[number]
    entry = entry_of(nr, args, arch=arch, ip=ip)
    return wire.CallMessage(flags, TID, mm, *t, ret, entry, stack, statm, extra)


def encoded(m: wire.Message) -> bytes:
    """A message as the tracer sends it."""
    if isinstance(m, wire.LifeMessage):
        return wire.life(m.fields, m.blob)
    if isinstance(m, wire.HeaderMessage):
        return wire.HEADER_MESSAGE.pack(wire.HEADER, *m)
    if isinstance(m, wire.FreedMessage):
        return wire.FREED_MESSAGE.pack(wire.FREED, *m)
    extra = b"" if m.extra is None else wire.extra(m.extra)
    head = wire.CALL_HEAD.pack(
        wire.CALL, m.flags, len(m.statm), len(m.stack), len(extra), m.tid, m.mm, m.t0, m.t1, m.ret
    )
    return head + wire.CALL_ENTRY.pack(*m.entry) + m.stack + m.statm + extra


def words(*values: int) -> bytes:
    """64-bit words as they lie in memory."""
    return struct.pack(f"<{len(values)}Q", *values)
