# SPDX-License-Identifier: GPL-2.0-or-later
"""Which C library a mapped file is, read from the file itself: name, version banner, build id."""

from __future__ import annotations

import os
import re
from typing import Any

from memtrace.collect.mapped import open_inode, open_mapped

_NAMES = re.compile(
    r"/(?:libc\.so\.6|libc-2\.\d+\.so|ld-musl-[\w-]+\.so\.1|libc\.musl-[\w-]+\.so\.1)\Z"
)
_GLIBC = re.compile(rb"GNU C Library [^\0\n]*? version (\d+\.\d+(?:\.\d+)?)")
_MAX_FILE = 64 << 20


#: The function around a syscall instruction, as far back as its first byte may be.
_WRAPPER_BYTES = 256


class LibcFinder:
    """Answers once per file and mm-independent: results are remembered by (dev, inode)."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], dict[str, Any] | None] = {}

    def look(self, pid: int, dev: str, ino: int, path: str) -> dict[str, Any] | None:
        """{"name", "version", "build_id"} when the file is a C library, else None.

        The file is opened through the process's root and used only if it is the mapped inode.
        """
        if not _NAMES.search(path.removesuffix(" (deleted)")):
            return None
        key = (dev, ino)
        if key not in self._known:
            data = _read(pid, ino, path)
            self._known[key] = {"name": _name(path)} if data is None else identify(path, data)
        return self._known[key]

    def look_into(self, pid: int, dev: str, ino: int, path: str) -> dict[str, Any] | None:
        """The same of a file of any name, if its bytes say that it is a C library."""
        key = (dev, ino)
        if key not in self._known:
            data = _read(pid, ino, path)
            self._known[key] = None if data is None else proven(data)
        return self._known[key]


def calls_directly(pid: int, ino: int, path: str, ret: int, ip: int) -> bool:
    """Whether the code before file offset `ret` is `call rel32` into the function around `ip`.

    Only then is the word at the stack pointer of a syscall wrapper its caller: a function that
    ends in a jump to the wrapper leaves the return address of its own caller there. False also
    when the file cannot be read. x86-64; both offsets are in one segment, so that their distance
    is the distance of the addresses.
    """
    if ret < 5:
        return False
    fd = open_mapped(pid, ino, path)
    if fd is None:
        return False
    try:
        code = os.pread(fd, 5, ret - 5)
    except OSError:
        return False
    finally:
        os.close(fd)
    target = ret + int.from_bytes(code[1:], "little", signed=True)
    return code[:1] == b"\xe8" and len(code) == 5 and target < ip <= target + _WRAPPER_BYTES


def _read(pid: int, ino: int, path: str) -> bytes | None:
    for candidate in (f"/proc/{pid}/root{path}", path):
        data = _read_if(candidate, ino)
        if data is not None:
            return data
    return None


def _read_if(path: str, ino: int) -> bytes | None:
    fd = open_inode(path, ino)
    if fd is None:
        return None
    try:
        with open(fd, "rb") as f:
            return f.read(_MAX_FILE) if os.fstat(fd).st_size < _MAX_FILE else None
    except OSError:
        return None


def _name(path: str) -> str:
    return "musl" if "musl" in os.path.basename(path) else "glibc"


def proven(data: bytes) -> dict[str, Any] | None:
    """The same of a file of any name, if its bytes say that it is a C library."""
    if _GLIBC.search(data):
        return identify("libc.so.6", data)
    return identify("ld-musl-", data) if b"musl libc (" in data else None


def identify(path: str, data: bytes) -> dict[str, Any]:
    """Name, version and build id of a C library's bytes; unknown facts are left out."""
    facts: dict[str, Any] = {"name": _name(path)}
    banner = _GLIBC.search(data)
    if banner:
        facts["version"] = banner[1].decode()
    elif facts["name"] == "musl":
        version = re.search(rb"\0(1\.\d+\.\d+)\0", data)
        if version:
            facts["version"] = version[1].decode()
    # NT_GNU_BUILD_ID: namesz 4, descsz 20, type 3, "GNU\0".
    note = data.find(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
    if note >= 0:
        facts["build_id"] = data[note + 16 : note + 36].hex()
    return facts
