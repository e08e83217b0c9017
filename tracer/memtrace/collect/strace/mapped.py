# SPDX-License-Identifier: GPL-2.0-or-later
"""What is behind a mapping, as far as a log tells: a path. Device and inode it never tells.

So a file is numbered by its path: the device is `??:??`, the inode a running number. Two files that
had one path in turn are one file here; a file descriptor that no line told the path of is another
file at each mapping.
"""

from __future__ import annotations

import re

from memtrace.collect.strace.descriptors import Descriptors
from memtrace.space.calls import (
    INT,
    MADV_DOFORK,
    MADV_DONTFORK,
    MAP_ANONYMOUS,
    MAP_TYPE,
    PR_SET_MM,
    PR_SET_MM_MAP,
)
from memtrace.trace.codec import Interner
from memtrace.trace.records import FileId

DEV = "??:??"
PROT_EXEC = 4
MAP_HUGETLB = 0x40000
_SHARED = (1, 3)

_GLIBC = re.compile(r"/(?:libc\.so\.6|libc-(2\.\d+)\.so)\Z", re.ASCII)
_MUSL = re.compile(r"/(?:ld-musl-[\w-]+\.so\.1|libc\.musl-[\w-]+\.so\.1)\Z", re.ASCII)


class Files:
    """Numbers the files of a trace."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._last = 0
        self._names = Interner()

    def of(
        self, args: list[int], path: str | None, descriptors: Descriptors
    ) -> tuple[int | FileId | None, str]:
        """The file that an mmap mapped, as a row refers to it, and its path.

        None for private memory of no file. Each shared memory without a file is one of its own
        (`shmem_zero_setup`), and so is what /dev/zero shares.
        """
        flags = args[3]
        shared = flags & MAP_TYPE in _SHARED
        if flags & MAP_ANONYMOUS:
            if not shared:
                return None, ""
            huge = flags & MAP_HUGETLB
            path = "/anon_hugepage (deleted)" if huge else "/dev/zero (deleted)"
            return self._new(path), path
        fd = args[4] & 0xFFFFFFFF
        if path is None:
            path = descriptors.path(fd)
        if path is None:
            path = f"fd {fd - (1 << 32) if fd >> 31 else fd}"
            return self._new(path), path
        if path == "/dev/zero" and shared:
            path = "/dev/zero (deleted)"
            return self._new(path), path
        number = self._numbers.get(path)
        if number is None:
            number = self._numbers[path] = self._last = self._last + 1
        return self._names.file(DEV, number, path), path

    def _new(self, path: str) -> int | FileId:
        self._last += 1
        return self._names.file(DEV, self._last, path)


def libc_of(path: str) -> tuple[str, str | None] | None:
    """(name, version) of the C library that a path names; None for another file.

    >>> libc_of("/lib/libc-2.31.so"), libc_of("/lib/libc.so.6"), libc_of("/lib/libm.so.6")
    (('glibc', '2.31'), ('glibc', None), None)
    """
    found = _GLIBC.search(path)
    if found:
        return "glibc", found[1]
    return ("musl", None) if _MUSL.search(path) else None


def unknown_effect(call: str, args: list[int]) -> str:
    """What of a successful call's effect on the map no line tells; "" if there is nothing."""
    if call == "shmat":
        return "how long the shared memory is"
    if call == "io_setup":
        return "how long the ring is"
    if call == "arch_prctl":
        return "where the vdso is mapped"
    if call == "prctl" and [v & INT for v in args[:2]] == [PR_SET_MM, PR_SET_MM_MAP]:
        return "where the break is put"
    if call == "process_madvise" and args[3] & INT in (MADV_DONTFORK, MADV_DOFORK):
        return "what a child inherits"
    return ""
