# SPDX-License-Identifier: GPL-2.0-or-later
"""Which system calls are recorded, under which number, on which architecture: one table each.

Another architecture is another `Abi` value. Numbers: the kernel's
arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl; argument counts: the SYSCALL_DEFINEs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from memtrace.space.calls import PR_SET_MM, PR_SET_VMA


class Role(IntEnum):
    """What the engine has to do for a call, beyond recording it."""

    MEMORY = 0  # changes one mm: serialised with the mm's other calls
    EXEC = 1  # ends the mm: a snapshot is taken before
    FORK = 2  # copies the mm (unless CLONE_VM): serialised, ends at the fork event
    CLONE3 = 3  # as FORK, with its flags in memory


#: Every name a trace's header lists, in a fixed order: a row's `call` is an index into it.
CALLS: dict[str, int] = {
    "brk": 1, "mmap": 6, "munmap": 2, "mremap": 5, "mprotect": 3, "madvise": 3,
    "pkey_mprotect": 4, "mlock": 2, "munlock": 2, "mlock2": 3, "mlockall": 1, "munlockall": 0,
    "shmat": 3, "shmdt": 1, "remap_file_pages": 5, "mseal": 3, "map_shadow_stack": 3,
    "io_setup": 2, "io_destroy": 1, "prctl": 5, "process_madvise": 5, "arch_prctl": 2,
    "execve": 3, "execveat": 5, "fork": 0, "vfork": 0, "clone": 5, "clone3": 2, "personality": 1,
}  # fmt: skip
NAMES = tuple(CALLS)
INDEX = {name: i for i, name in enumerate(NAMES)}

PR_SET_THP_DISABLE = 41
ARCH_MAP_VDSO = (0x2001, 0x2002, 0x2003)

#: Calls recorded only for some first arguments (ipc: shmat and shmdt).
FIRST_ARGUMENTS = {
    "ipc": (21, 22),
    "prctl": (PR_SET_MM, PR_SET_THP_DISABLE, PR_SET_VMA),
    "arch_prctl": ARCH_MAP_VDSO,
}

_ROLES = {
    "execve": Role.EXEC, "execveat": Role.EXEC,
    "fork": Role.FORK, "clone": Role.FORK, "clone3": Role.CLONE3,
}  # fmt: skip


def role_of(name: str) -> Role:
    """What the engine has to do for a recorded call."""
    return _ROLES.get(name, Role.MEMORY)


@dataclass(frozen=True, slots=True)
class Abi:
    """One system call interface: its AUDIT_ARCH number and its table.

    `names` maps a number to the kernel's name; names that CALLS lacks (mmap2, old_mmap, ipc) are
    normalised by the recorder. `seccomp`: number of seccomp(2), which is not recorded, but may hide
    calls that are (`filters`).
    """

    name: str
    audit: int
    names: dict[int, str]
    word: int
    seccomp: int


# vfork is not here: it shares the mm, and its event says so without a stop at entry.
X86_64 = Abi("x86_64", 0xC000003E, {
    9: "mmap", 10: "mprotect", 11: "munmap", 12: "brk", 25: "mremap", 28: "madvise",
    30: "shmat", 67: "shmdt", 149: "mlock", 150: "munlock", 151: "mlockall", 152: "munlockall",
    157: "prctl", 158: "arch_prctl", 206: "io_setup", 207: "io_destroy", 216: "remap_file_pages",
    135: "personality", 325: "mlock2", 329: "pkey_mprotect", 440: "process_madvise",
    453: "map_shadow_stack", 462: "mseal", 59: "execve", 322: "execveat", 57: "fork", 56: "clone",
    435: "clone3",
}, 8, 317)  # fmt: skip

I386 = Abi("i386", 0x40000003, {
    45: "brk", 90: "old_mmap", 91: "munmap", 117: "ipc", 125: "mprotect", 136: "personality",
    150: "mlock", 151: "munlock", 152: "mlockall", 153: "munlockall", 163: "mremap", 172: "prctl",
    192: "mmap2", 219: "madvise", 245: "io_setup", 246: "io_destroy", 257: "remap_file_pages",
    376: "mlock2", 380: "pkey_mprotect", 384: "arch_prctl", 397: "shmat", 398: "shmdt",
    440: "process_madvise", 462: "mseal", 11: "execve", 358: "execveat", 2: "fork", 120: "clone",
    435: "clone3",
}, 4, 354)  # fmt: skip

NATIVE = X86_64
ABIS = {abi.audit: abi for abi in (X86_64, I386)}
X32_BIT = 0x40000000

CLONE_VM, CLONE_THREAD, CLONE_UNTRACED = 0x100, 0x10000, 0x800000
#: The operation of seccomp(2) that installs a filter, and two of its SECCOMP_FILTER_FLAG_*.
SET_MODE_FILTER, FILTER_TSYNC, FILTER_NEW_LISTENER = 1, 1, 8
ENOSYS = 38
ERESTART = range(-516, -511)
