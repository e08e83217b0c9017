# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls that make, copy and close file descriptors: what a mapped descriptor stands for."""

from __future__ import annotations

from memtrace.collect.strace import flags as f
from memtrace.collect.strace.arguments import AT_FDCWD, descriptor, fields, path, string
from memtrace.collect.strace.events import Closed, Duplicated, Event, Opened
from memtrace.collect.strace.flags import UnclearError, number, value
from memtrace.collect.strace.inflight import Begun, Ending

_EBADF = 9


def path_argument(text: bytes) -> str:
    """A path argument; "" where strace prints its address."""
    if text.startswith(b'"'):
        return string(text)
    number(f.without_comments(text), "a path")
    return ""


def has(text: bytes, name: bytes, bit: int) -> bool:
    """Whether a flag is set; what the other flags are does not matter."""
    for piece in f.without_comments(text).split(b"|"):
        if piece == name or (piece[:1].isdigit() and number(piece) & bit):
            return True
    return False


def opened(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    """open, openat, openat2, creat, memfd_create; None for one that failed."""
    name, fd = begun.name, end.result.ret
    if fd is None or fd < 0:
        return None
    at = AT_FDCWD
    below = None
    if name in {"openat", "openat2"} and args:
        at, below = descriptor(args[0])
        args = args[1:]
    if len(args) < 2:
        raise UnclearError(f"{name}'s arguments are not all there")
    where = path_argument(args[0])
    if name == "memfd_create" and where:
        where = f"/memfd:{where} (deleted)"  # as the kernel names it in maps
    if name == "creat":
        cloexec = False
    elif name == "memfd_create":
        cloexec = has(args[1], b"MFD_CLOEXEC", f.MFD_CLOEXEC)
    else:
        how = args[1]
        if name == "openat2" and how.startswith(b"{"):
            how = fields(how).get(b"flags", b"")
        cloexec = name != "openat2" or how != args[1]
        cloexec = cloexec and has(how, b"O_CLOEXEC", f.O_CLOEXEC)
    out = Opened(end.line, end.tid, fd, where, cloexec)
    if end.result.angle is not None:  # -y knows better
        out.path = path(end.result.angle, deleted=end.result.deleted)
    elif not where.startswith("/") and where:
        if below is not None:
            out.path = f"{below}/{where}"
        elif at != AT_FDCWD:
            out.at = at
    return out


def duplicated(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    """dup, dup2, dup3 and the commands of fcntl that do the same or set FD_CLOEXEC."""
    name, ret = begun.name, end.result.ret
    if ret is None or ret < 0:
        return None
    if not args:
        raise UnclearError(f"{name}'s arguments are not all there")
    old = descriptor(args[0])[0]
    cloexec = False
    if name == "dup3":
        cloexec = len(args) == 3 and has(args[2], b"O_CLOEXEC", f.O_CLOEXEC)
    elif name in {"fcntl", "fcntl64"}:
        command = f.option(args[1] if len(args) > 1 else b"", f.FCNTL, b"F_")
        if command == f.FCNTL[b"F_SETFD"]:  # the same file under the same number
            ret = old
            cloexec = len(args) > 2 and has(args[2], b"FD_CLOEXEC", f.FD_CLOEXEC)
        elif command in f.FCNTL.values():
            cloexec = command != f.FCNTL[b"F_DUPFD"]
        else:
            return None
    return Duplicated(end.line, end.tid, old, ret, cloexec)


def closed(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    """Close and close_range; None for one that has closed nothing."""
    ret = end.result.ret
    if ret is None:
        return None
    if begun.name == "close":
        # close(2): the descriptor is released whatever error it reports, but for a bad number.
        if ret == -_EBADF:
            return None
        first = descriptor(args[0] if args else b"")[0]
        return Closed(end.line, end.tid, first, first)
    if ret < 0:
        return None
    if len(args) != 3:
        raise UnclearError(f"close_range has 3 arguments, not {len(args)}")
    if (
        value(args[2], f.CLOSE_RANGE, "a flag of close_range")
        & f.CLOSE_RANGE[b"CLOSE_RANGE_CLOEXEC"]
    ):
        return None
    return Closed(end.line, end.tid, number(args[0]), number(args[1]))
