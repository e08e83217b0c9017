# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages a call is about to change: a stack may have grown into them by page faults, which no
call tells (`Observer.look_before`).
"""

from __future__ import annotations

from collections.abc import Sequence

from memtrace.collect.readback import (
    SHM_REMAP,
    TASK_SIZE,
    decides_what_is_inherited,
    normalise,
)
from memtrace.collect.tracee import Tracee
from memtrace.space.calls import INT, MREMAP_FIXED, PR_SET_VMA

_ADDRESS_AND_LENGTH = frozenset((
    "mmap", "munmap", "mprotect", "pkey_mprotect", "madvise", "mlock", "mlock2", "munlock",
    "remap_file_pages", "mseal",
))  # fmt: skip
_ADDRESS = frozenset(("brk", "shmdt"))
_EVERYWHERE = (0, TASK_SIZE)


def changed(name: str, a: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The ranges that a memory call may change, beside what it adds where nothing is mapped.

    >>> changed("mremap", (0x1000, 0x2000, 0x3000, 3, 0x8000, 0))
    ((4096, 12288), (32768, 45056))
    """
    if name in _ADDRESS_AND_LENGTH:
        return ((a[0], a[0] + a[1]),)
    if name == "mremap":
        source = (a[0], a[0] + a[1])
        return (source, (a[4], a[4] + a[2])) if a[3] & MREMAP_FIXED else (source,)
    if name in _ADDRESS:
        return ((a[0], a[0] + 1),)
    if name == "shmat":  # as far as the segment is long, which the call does not say
        return ((a[1], TASK_SIZE),) if a[2] & SHM_REMAP else ()
    if name == "prctl" and a[0] & INT == PR_SET_VMA:
        return ((a[2], a[2] + a[3]),)
    if name == "process_madvise" and decides_what_is_inherited(name, a):
        return (_EVERYWHERE,)
    return ()


def may_meet(tracee: Tracee, name: str, a: list[int]) -> bool:
    """Whether a call, at its entry, may change pages that were mapped by growth."""
    mm = tracee.mm
    if not mm.growing_from:
        return True  # of a mapping like a stack nobody knows where it is
    name, a, _ = normalise(tracee, name, a)
    return any(mm.growing_from < high and low <= mm.in_stack for low, high in changed(name, a))
