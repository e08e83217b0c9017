# SPDX-License-Identifier: GPL-2.0-or-later
"""Children that ask not to be traced: CLONE_UNTRACED is taken out of the call, and put back after.

Such a child would keep the filter and have no tracer, and every memory call of it would fail with
ENOSYS (`__seccomp_filter`); LeakSanitizer's leak-searching task, which is made this way, waits for
ever then. And what it maps in a shared mm would be unseen. So the flag is lent for the time of the
call: taken from the register (clone) or from the caller's struct clone_args (clone3) at the entry,
and given back to the parent at the clone's event or its exit, and to the child at its first stop,
before either executes an instruction. The program finds its registers and its memory as they were.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

from memtrace.collect.abi import CLONE_UNTRACED, NATIVE
from memtrace.collect.ptrace import ENTRY_ARG0, POKEDATA, POKEUSER, registers, request
from memtrace.collect.tracee import Tracee

#: Offsets of the first argument in struct user_regs_struct: rdi, and ebx of i386.
_RDI, _RBX = 14 * 8, 5 * 8
_NATIVE_CS = 0x33


def has_escaped(tracee: Tracee) -> bool:
    """At the exit of a fork, clone or clone3 that has made a child and was told by no event."""
    flags = None if tracee.clone is None else tracee.clone[0]
    return bool((flags or 0) & CLONE_UNTRACED)


@dataclass(frozen=True, slots=True)
class _Loan:
    """The word that was changed: at an address of the task's memory, or in a register.

    `arguments`: the call's six, as they were. `seen`: children that came before their parent's
    event and have theirs back.
    """

    word: int
    offset: int
    address: int | None
    arguments: tuple[int, ...]
    seen: set[int] = field(default_factory=set)

    def give_back(self, tid: int) -> None:
        """To a task that stands still."""
        word = ctypes.c_ulong(self.word)
        if self.address is None:
            request(POKEUSER, tid, self.offset, word)
        else:
            request(POKEDATA, tid, ctypes.c_ulong(self.address), word)

    def is_of(self, child: int) -> bool:
        """Whether a child at its first stop comes from this call: it has its arguments."""
        regs = registers(child)
        if regs is None:
            return False
        if regs.cs == _NATIVE_CS:
            words = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]
        else:
            words = [regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp]
        first = self.word & ~CLONE_UNTRACED if self.address is None else self.arguments[0]
        return [int(w) for w in words] == [first, *self.arguments[1:]]


class Untraced:
    """The flags that are lent at this moment."""

    def __init__(self) -> None:
        self._parents: dict[int, _Loan] = {}
        self._children: dict[int, _Loan] = {}

    def __bool__(self) -> bool:
        return bool(self._parents or self._children)

    def take(self, tracee: Tracee, *, clone3: bool) -> bool:
        """At the entry of a clone that asks for it. False: the task is dying, or its arguments
        cannot be written.
        """
        tid, e = tracee.tid, tracee.entry
        arguments = tuple(e[ENTRY_ARG0 + i] for i in range(6))
        offset = _RDI if tracee.abi is NATIVE else _RBX
        if clone3:
            raw = tracee.mm.bytes_at(arguments[0], 8)
            loan = _Loan(int.from_bytes(raw, "little"), offset, arguments[0], arguments)
            to: int | ctypes.c_ulong = ctypes.c_ulong(arguments[0])
            what = POKEDATA
        else:
            loan = _Loan(arguments[0], offset, None, arguments)
            to, what = offset, POKEUSER
        if request(what, tid, to, ctypes.c_ulong(loan.word & ~CLONE_UNTRACED)) < 0:
            return False
        self._parents[tid] = loan
        return True

    def over(self, parent: int, child: int | None = None) -> None:
        """The parent stands at its call's event, with the child's number, or at its exit."""
        loan = self._parents.pop(parent, None)
        if loan is None:
            return
        loan.give_back(parent)
        if child is not None and child not in loan.seen:
            self._children[child] = loan

    def first_stop(self, child: int) -> None:
        """A child that was born a moment ago."""
        loan = self._children.pop(child, None)
        if loan is None:
            loan = next((p for p in self._parents.values() if p.is_of(child)), None)
            if loan is None:
                return
            loan.seen.add(child)
        loan.give_back(child)

    def gone(self, tid: int) -> None:
        """The task is no more."""
        self._parents.pop(tid, None)
        self._children.pop(tid, None)
