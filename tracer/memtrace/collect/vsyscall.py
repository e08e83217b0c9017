# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a 32-bit program made a call.

Its C library calls `__kernel_vsyscall` in the vdso, which saves three registers and makes the call
(arch/x86/entry/vdso/vdso32/system_call.S): at the call's entry, the code that runs is of no file.
glibc's wrapper of a call with six arguments goes through one more function, `__libc_do_syscall`, as
ebp is one of them. So the wrapper is told by what makes it one: it puts the call's number into eax.
What is not told by code and tables is not told at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from memtrace.collect.frames import Frame
from memtrace.collect.tracee import Mm

_WORD = 4
_CODE, _STACK = 8, 240  # bytes: three pops and a return; the frames up to sbrk's caller
_RET, _POP, _ESP = 0xC3, range(0x58, 0x60), 0x5C
_HELPERS = 1  # functions between the wrapper and the system call

#: The frame of a place in the mapped code of a file, and what names the file.
Look = Callable[[int], "tuple[Frame, tuple[str, int]] | None"]


class Where(NamedTuple):
    """Code addresses: in the wrapper (else after the system call), in the function that called it,
    and in that one's caller. 0: not told.
    """

    ip: int
    ret: int = 0
    outer: int = 0


def read(mm: Mm, ip: int, sp: int) -> bytes:
    """What `unwind` goes by, at a call's entry: the code that follows, and the stack."""
    stack = mm.bytes_at(sp, _STACK)
    return mm.bytes_at(ip, _CODE).ljust(_CODE, b"\0") + stack if stack else b""


def unwind(data: bytes, ip: int, number: int, look: Look) -> Where:
    """Who made call `number` (as the kernel has it), whose system call instruction ends at `ip`."""
    code, stack = data[:_CODE], data[_CODE:]
    nowhere, at = Where(ip), 0
    here = look(ip)
    if here is None:
        popped = _pops(code)
        if popped is None:
            return nowhere
        ip, at = _word(stack, popped * _WORD), (popped + 1) * _WORD
        here = look(ip)
        if here is None or not here[0].called:
            return nowhere
    first, file = Where(ip), here[1]
    for _ in range(_HELPERS):
        frame = here[0]
        if number in frame.loads:
            break
        if frame.back is None:
            return first
        ip, at = _word(stack, at + frame.back), at + frame.back + _WORD
        here = look(ip)
        if here is None or here[1] != file or not here[0].called:
            return first
    if number not in here[0].loads:
        return first
    found: list[int] = []
    frame = here[0]
    while frame.back is not None and len(found) < 2:
        address, at = _word(stack, at + frame.back), at + frame.back + _WORD
        called = look(address)
        if called is None or not called[0].called:
            break
        found.append(address)
        frame = called[0]
    return Where(ip, *found)


def _word(stack: bytes, at: int) -> int:
    word = stack[at : at + _WORD]
    return int.from_bytes(word, "little") if len(word) == _WORD else 0


def _pops(code: bytes) -> int | None:
    """How many registers code takes from the stack before it returns, if it does nothing else."""
    for n, byte in enumerate(code):
        if byte == _RET:
            return n
        if byte not in _POP or byte == _ESP:
            return None
    return None
