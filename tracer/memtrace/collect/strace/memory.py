# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of memory calls, from their texts.

A pointer whose target strace prints instead of the address (the name of prctl(PR_SET_VMA), the
vector of process_madvise, io_setup's context) is 0 in `args`: the log does not hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from memtrace.collect.abi import ARCH_MAP_VDSO, CALLS, I386, X86_64
from memtrace.collect.strace import flags as f
from memtrace.collect.strace.arguments import descriptor, string
from memtrace.collect.strace.flags import UnclearError, number, value

_IPC = "strace printed ipc's raw arguments: where shmat attached is not in them"
_PAGE = 4096
_X32_BIT = 0x40000000


class Read(NamedTuple):
    """A memory call's arguments, under its canonical name; the fields are those of `Called`."""

    call: str
    args: list[int]
    path: str | None = None
    raw: str | None = None
    name: str | None = None
    address: int | None = None
    abi: str | None = None


Reader = Callable[[bytes], int]


def _names(table: f.Table, what: str) -> Reader:
    """A reader of flags that keeps what it has read: a log has few combinations."""
    known: dict[bytes, int] = {}

    def read(text: bytes) -> int:
        found = known.get(text)
        if found is None:
            found = value(text, table, what)
            if len(known) < 4096:
                known[text] = found
        return found

    return read


PROT = _names(f.PROT, "a protection")
MAP = _names(f.MAP, "a flag of mmap")
MREMAP = _names(f.MREMAP, "a flag of mremap")
MADV = _names(f.MADV, "an advice")


def _fd(text: bytes) -> int:
    return descriptor(text)[0]


def _pointer(text: bytes) -> int:
    """A pointer, or 0 for what it points to (see above)."""
    return 0 if text[:1] in {b"[", b'"', b"{"} else number(text, "an address")


READERS: dict[str, tuple[Reader, ...]] = {
    "brk": (number,),
    "mmap": (number, number, PROT, MAP, _fd, number),
    "munmap": (number, number),
    "mremap": (number, number, number, MREMAP, number),
    "mprotect": (number, number, PROT),
    "madvise": (number, number, MADV),
    "pkey_mprotect": (number, number, PROT, number),
    "mlock": (number, number),
    "munlock": (number, number),
    "mlock2": (number, number, _names(f.MLOCK, "a flag of mlock2")),
    "mlockall": (_names(f.MCL, "a flag of mlockall"),),
    "munlockall": (),
    "shmat": (number, number, _names(f.SHM, "a flag of shmat")),
    "shmdt": (number,),
    "remap_file_pages": (number, number, PROT, number, MAP),
    "mseal": (number, number, number),
    "map_shadow_stack": (number, number, _names(f.SHADOW_STACK, "a flag of map_shadow_stack")),
    "io_setup": (number, _pointer),
    "io_destroy": (number,),
    "personality": (_names(f.PERSONALITY, "a personality"),),
    "process_madvise": (_fd, _pointer, number, MADV, number),
}


def arguments(name: str, args: list[bytes], abi: str | None) -> Read | None:
    """Read a call's arguments; None for one that is not recorded: another option of prctl, a number
    that is none of a memory call.

    Errors: UnclearError.
    """
    raw = None
    if name.startswith("syscall_0x"):
        name, abi = _by_number(name, abi)
        if not name:
            return None
        if name not in READERS:
            raise UnclearError(f"strace did not know {name} and has not decoded it")
        args = args[: CALLS[name]]
    if name == "prctl":
        return _prctl(args, abi)
    if name == "arch_prctl":
        return _arch_prctl(args, abi)
    if name == "ipc":
        if args and number(args[0]) & 0xFFFF in {21, 22}:
            raise UnclearError(
                "strace printed ipc's raw arguments: where shmat attached is not in them"
            )
        return None
    if name in {"mmap2", "old_mmap"}:
        name, raw, abi = "mmap", name, "i386"
    elif name == "mmap" and abi == "i386":
        raw = "old_mmap"
    elif name == "shmat" and len(args) == 4:
        raise UnclearError(
            "strace printed ipc's raw arguments: where shmat attached is not in them"
        )
    readers = READERS[name]
    if name == "mmap" and len(args) == 1:  # old_mmap with -e raw
        raise UnclearError("strace printed only the address of its arguments")
    if len(args) != len(readers) and not (name == "mremap" and len(args) == 4):
        raise UnclearError(f"{name} has {len(readers)} arguments, not {len(args)}")
    values = [read(text) for read, text in zip(readers, args, strict=False)]
    where = address = None
    if name == "mmap":
        if len(args[4]) > 2:
            where = descriptor(args[4])[1]
        # strace prints mmap2's pages as bytes, unless it prints the registers as they are (-e raw):
        # then the length is not decimal.
        if raw == "mmap2" and args[1].startswith(b"0x"):
            values[5] *= _PAGE
    elif name == "mremap" and len(values) == 4:
        values.append(0)  # not printed where the kernel does not read it
    elif name == "io_setup" and args[1].startswith(b"["):
        address = number(args[1][1:-1], "a context")
    return Read(name, values, where, raw, None, address, abi)


def _by_number(name: str, abi: str | None) -> tuple[str, str | None]:
    nr = int(name[10:], 16)
    if abi is None and nr & _X32_BIT:
        abi = "x32"
    table = I386 if abi == "i386" else X86_64
    return table.names.get(nr & ~_X32_BIT, ""), abi


def _prctl(args: list[bytes], abi: str | None) -> Read | None:
    if not args:
        raise UnclearError("prctl has an option")
    option = f.option(args[0], f.PRCTL, b"PR_") & 0xFFFFFFFF
    if option not in f.PRCTL.values():
        return None
    if len(args) != 5:
        raise UnclearError(f"prctl has 5 arguments, not {len(args)}")
    table = {35: f.PR_MM, 0x53564D41: f.PR_VMA}.get(option, f.NONE)
    values = [option, value(args[1], table, "an option of prctl")]
    values += [number(text) for text in args[2:4]]
    values.append(_pointer(args[4]))
    name = string(args[4]) if args[4].startswith(b'"') else None
    return Read("prctl", values, None, None, name, None, abi)


def _arch_prctl(args: list[bytes], abi: str | None) -> Read | None:
    if not args:
        raise UnclearError("arch_prctl has an option")
    option = f.option(args[0], f.ARCH, b"ARCH_")
    if option not in ARCH_MAP_VDSO:
        return None
    if len(args) != 2:
        raise UnclearError(f"arch_prctl has 2 arguments, not {len(args)}")
    return Read("arch_prctl", [option, number(args[1])], abi=abi)
