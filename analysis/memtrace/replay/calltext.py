# SPDX-License-Identifier: GPL-2.0-or-later
"""A call's arguments and result as text, in the form strace made familiar.

The constants are the kernel's (include/uapi/asm-generic/mman-common.h, linux/mman.h, x86's
asm/mman.h). A bit without a name here is printed in hex, never dropped.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

U64 = (1 << 64) - 1

_PROT = {
    0x1: "PROT_READ", 0x2: "PROT_WRITE", 0x4: "PROT_EXEC", 0x8: "PROT_SEM",
    0x1000000: "PROT_GROWSDOWN", 0x2000000: "PROT_GROWSUP",
}  # fmt: skip
_MAP_TYPE = {
    0: "0", 1: "MAP_SHARED", 2: "MAP_PRIVATE", 3: "MAP_SHARED_VALIDATE", 8: "MAP_DROPPABLE",
}  # fmt: skip
_MAP = {
    0x10: "MAP_FIXED", 0x20: "MAP_ANONYMOUS", 0x40: "MAP_32BIT", 0x80: "MAP_ABOVE4G",
    0x100: "MAP_GROWSDOWN", 0x800: "MAP_DENYWRITE", 0x1000: "MAP_EXECUTABLE",
    0x2000: "MAP_LOCKED", 0x4000: "MAP_NORESERVE", 0x8000: "MAP_POPULATE",
    0x10000: "MAP_NONBLOCK", 0x20000: "MAP_STACK", 0x40000: "MAP_HUGETLB", 0x80000: "MAP_SYNC",
    0x100000: "MAP_FIXED_NOREPLACE", 0x4000000: "MAP_UNINITIALIZED",
}  # fmt: skip
_MREMAP = {1: "MREMAP_MAYMOVE", 2: "MREMAP_FIXED", 4: "MREMAP_DONTUNMAP"}
_MADV = {
    0: "MADV_NORMAL", 1: "MADV_RANDOM", 2: "MADV_SEQUENTIAL", 3: "MADV_WILLNEED",
    4: "MADV_DONTNEED", 8: "MADV_FREE", 9: "MADV_REMOVE", 10: "MADV_DONTFORK", 11: "MADV_DOFORK",
    12: "MADV_MERGEABLE", 13: "MADV_UNMERGEABLE", 14: "MADV_HUGEPAGE", 15: "MADV_NOHUGEPAGE",
    16: "MADV_DONTDUMP", 17: "MADV_DODUMP", 18: "MADV_WIPEONFORK", 19: "MADV_KEEPONFORK",
    20: "MADV_COLD", 21: "MADV_PAGEOUT", 22: "MADV_POPULATE_READ", 23: "MADV_POPULATE_WRITE",
    24: "MADV_DONTNEED_LOCKED", 25: "MADV_COLLAPSE", 100: "MADV_HWPOISON",
    101: "MADV_SOFT_OFFLINE", 102: "MADV_GUARD_INSTALL", 103: "MADV_GUARD_REMOVE",
}  # fmt: skip
_MCL = {1: "MCL_CURRENT", 2: "MCL_FUTURE", 4: "MCL_ONFAULT"}
_MLOCK2 = {1: "MLOCK_ONFAULT"}
_SHM = {
    0x1000: "SHM_RDONLY", 0x2000: "SHM_RND", 0x4000: "SHM_REMAP", 0x8000: "SHM_EXEC",
}  # fmt: skip
_PRCTL = {35: "PR_SET_MM", 41: "PR_SET_THP_DISABLE", 0x53564D41: "PR_SET_VMA"}
_PR_SET_MM = {
    1: "PR_SET_MM_START_CODE", 2: "PR_SET_MM_END_CODE", 3: "PR_SET_MM_START_DATA",
    4: "PR_SET_MM_END_DATA", 5: "PR_SET_MM_START_STACK", 6: "PR_SET_MM_START_BRK",
    7: "PR_SET_MM_BRK", 8: "PR_SET_MM_ARG_START", 9: "PR_SET_MM_ARG_END",
    10: "PR_SET_MM_ENV_START", 11: "PR_SET_MM_ENV_END", 12: "PR_SET_MM_AUXV",
    13: "PR_SET_MM_EXE_FILE", 14: "PR_SET_MM_MAP", 15: "PR_SET_MM_MAP_SIZE",
}  # fmt: skip
_ARCH = {
    0x2001: "ARCH_MAP_VDSO_X32", 0x2002: "ARCH_MAP_VDSO_32", 0x2003: "ARCH_MAP_VDSO_64",
}  # fmt: skip

#: Restart codes of the kernel (include/linux/errno.h): seen by a tracer, never by the program.
_RESTART = {
    512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND",
    516: "ERESTART_RESTARTBLOCK",
}  # fmt: skip

#: Calls whose result is an address.
_ADDRESSES = frozenset(("brk", "mmap", "mremap", "shmat", "map_shadow_stack"))


def errno_name(ret: int | None) -> str | None:
    """The errno's name of a kernel result; None when it is no error (or one without a name).

    >>> errno_name(-22), errno_name(0), errno_name(None)
    ('EINVAL', None, None)
    """
    if ret is None or not -4096 < ret < 0:
        return None
    return errno.errorcode.get(-ret) or _RESTART.get(-ret)


def flags(value: int, names: Mapping[int, str], none: str = "0") -> str:
    """A set of bits by name; what has no name follows in hex.

    >>> flags(0x7, {1: "A", 2: "B"})
    'A|B|0x4'
    """
    words = []
    for bit, name in names.items():
        if value & bit:
            words.append(name)
            value &= ~bit
    if value:
        words.append(hex(value))
    return "|".join(words) or none


def prot(value: int) -> str:
    """A protection."""
    return flags(value & U64, _PROT, "PROT_NONE")


def map_flags(value: int) -> str:
    """The flags of an mmap: the type by value, the rest by bits.

    >>> map_flags(0x22), map_flags(0x100000012)
    ('MAP_PRIVATE|MAP_ANONYMOUS', 'MAP_PRIVATE|MAP_FIXED|0x100000000')
    """
    value &= U64
    kind = _MAP_TYPE.get(value & 0xF, hex(value & 0xF))
    rest = flags(value & ~0xF, _MAP, "")
    return f"{kind}|{rest}" if rest else kind


def address(value: int) -> str:
    """A pointer."""
    return f"{value & U64:#x}" if value else "NULL"


def _size(value: int) -> str:
    return str(value & U64)


def _signed32(value: int) -> str:
    value &= 0xFFFFFFFF
    return str(value - (1 << 32) if value >> 31 else value)


def _of(names: Mapping[int, str]) -> Callable[[int], str]:
    return lambda value: names.get(value, f"{value & U64:#x}")


def _bits(names: Mapping[int, str]) -> Callable[[int], str]:
    return lambda value: flags(value & U64, names)


def _hex(value: int) -> str:
    return f"{value & U64:#x}"


_FORMS: dict[str, Sequence[Callable[[int], str]]] = {
    "brk": (address,),
    "mmap": (address, _size, prot, map_flags, _signed32, _hex),
    "munmap": (address, _size),
    "mremap": (address, _size, _size, _bits(_MREMAP), address),
    "mprotect": (address, _size, prot),
    "pkey_mprotect": (address, _size, prot, _signed32),
    "madvise": (address, _size, _of(_MADV)),
    "process_madvise": (_signed32, address, _size, _of(_MADV), _hex),
    "mlock": (address, _size),
    "mlock2": (address, _size, _bits(_MLOCK2)),
    "munlock": (address, _size),
    "mlockall": (_bits(_MCL),),
    "shmat": (_signed32, address, _bits(_SHM)),
    "shmdt": (address,),
    "remap_file_pages": (address, _size, prot, _size, map_flags),
    "mseal": (address, _size, _hex),
    "map_shadow_stack": (address, _size, _hex),
    "io_setup": (_size, address),
    "io_destroy": (address,),
    "arch_prctl": (_of(_ARCH), address),
}


def arguments(name: str, args: Sequence[int]) -> str:
    """The arguments, decoded; those beyond what is known of the call in hex.

    >>> arguments("mmap", [0, 8192, 3, 0x22, -1, 0])
    'NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0x0'
    """
    if name == "prctl":
        return _prctl(args)
    forms = _FORMS.get(name, ())
    words = [form(value) for form, value in zip(forms, args, strict=False)]
    words += [_hex(value) for value in args[len(forms) :]]
    if name == "mremap" and len(words) == 5 and not args[3] & 6:
        del words[4]  # new_address means something with MREMAP_FIXED or MREMAP_DONTUNMAP only
    return ", ".join(words)


def _prctl(args: Sequence[int]) -> str:
    words = [_hex(value) for value in args]
    if args:
        words[0] = _PRCTL.get(args[0], words[0])
    if len(args) > 1 and args[0] == 35:
        words[1] = _PR_SET_MM.get(args[1], words[1])
    elif len(args) > 1 and args[:2] == [0x53564D41, 0]:
        words[1] = "PR_SET_VMA_ANON_NAME"
    return ", ".join(words)


def called(name: str, args: Sequence[int], ret: int | None) -> str:
    """A call and its result, as strace writes it.

    >>> called("munmap", [0x7000, 4096], 0)
    'munmap(0x7000, 4096) = 0'
    """
    return f"{name}({arguments(name, args)}) = {result(name, ret)}"


def result(name: str, ret: int | None) -> str:
    """The result: an address, a number, or -1 and the errno.

    >>> result("mmap", 0x7000), result("munmap", 0), result("mmap", -12), result("brk", None)
    ('0x7000', '0', '-1 ENOMEM', '?')
    """
    if ret is None:
        return "?"
    if -4096 < ret < 0:
        return f"-1 {errno_name(ret) or -ret}"
    return _hex(ret) if name in _ADDRESSES else str(ret)
