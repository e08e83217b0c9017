# SPDX-License-Identifier: GPL-2.0-or-later
"""strace's output through a pipe that holds it at every piece it writes.

strace writes while the tracee that it writes of stands in a stop: the beginning of a line at a
call's entry, the rest at its exit, each with a write(2) of its own. Into a pipe with room for a
single packet, which is never empty, every one of these writes blocks, and so strace with all that
it traces: whoever reads the pipe may look at the tracee meanwhile, and at strace's buffer, where
what it is about to say stands already. Then the packet before is read, which lets strace go on.

What is relied on: a pipe in packet mode (O_DIRECT) keeps the bytes of one write apart from the
next, and a writer that finds it full sends SIGIO to the reader before it sleeps (`pipe_write`,
`kill_fasync`; 5.5). strace opens its output by itself; packet mode is set on its own descriptor
(pidfd_getfd, 5.6) while it is blocked in its first write.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import termios

_F_SETPIPE_SZ, _F_SETSIG = 1031, 10
_SYS_PIDFD_GETFD = 438
_NR_WRITE = b"1"  # x86-64
_MAX_PIECE = 1 << 20
#: A real-time signal: each is queued.
NEWS = signal.SIGRTMIN + 5
FILLER = b"\0"

_libc = ctypes.CDLL(None, use_errno=True)
_IOVEC = struct.Struct("=QQ")


class Unholdable(Exception):  # noqa: N818 - not an error of the program's
    """strace cannot be held: `why`."""


class Lockstep:
    """Both ends of the pipe until strace has opened it, then the reading one.

    `path` is what strace is to be given as its output; `ends` are the descriptors. What strace
    wrote without being held, which happens only when it ends, comes from `rest`.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        fcntl.fcntl(self._write, _F_SETPIPE_SZ, 4096)
        fcntl.fcntl(self._write, fcntl.F_SETFL, os.O_DIRECT)
        os.write(self._write, FILLER)
        fcntl.fcntl(self._read, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._read, _F_SETSIG, NEWS)
        flags = fcntl.fcntl(self._read, fcntl.F_GETFL)
        fcntl.fcntl(self._read, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
        self.path = f"/proc/{os.getpid()}/fd/{self._write}"
        self.ends = self._read, self._write
        self._peek = _Peek()
        self._pid = 0
        self._syscall = self._fd = -1
        self._ahead = bytearray(FILLER)  # known, and still in the pipe or on its way
        self.rest = bytearray()

    def follow(self, pid: int) -> None:
        """Whom to follow: strace was started as `pid`.

        Raises:
            Unholdable: its buffer or its descriptors cannot be reached.
        """
        self._pid = pid
        try:
            self._syscall = os.open(f"/proc/{pid}/syscall", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise Unholdable(f"/proc/{pid}/syscall: {(e.strerror or '').lower()}") from e

    def take(self, fd: int) -> None:
        """At its first write strace is blocked, to its descriptor `fd`.

        Raises:
            Unholdable: the kernel is older than 5.6, or forbids it.
        """
        pidfd = os.pidfd_open(self._pid)
        theirs = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
        error = ctypes.get_errno()
        os.close(pidfd)
        if theirs < 0:
            raise Unholdable(f"pidfd_getfd: {os.strerror(error).lower()}")
        fcntl.fcntl(theirs, fcntl.F_SETFL, fcntl.fcntl(theirs, fcntl.F_GETFL) | os.O_DIRECT)
        os.close(theirs)
        os.close(self._write)
        self._write = -1

    def held(self) -> bytes | None:
        """The piece that strace is blocked in writing, b"" if it is not now, None when it is to be
        asked again at once.

        Raises:
            Unholdable: it is blocked, and what it writes cannot be read.
        """
        # In this order: if all that is known is in the pipe already, a blocked write is a new one.
        there, known = self._in_pipe(), len(self._ahead)
        try:
            words = os.pread(self._syscall, 256, 0).split()
        except OSError:
            return b""  # it has ended
        if not words or words[0] != _NR_WRITE:
            return None if words[:1] == [b"running"] else b""
        fd, address, count = (int(w, 16) for w in words[1:4])
        if not self._is_ours(fd):
            return b""  # a message of strace's own, to stderr
        if there < known:
            if there:
                self.release()  # the first part of a piece that is larger than a packet
            return None
        if self._write >= 0:
            self.take(fd)
        piece = self._peek.bytes_at(self._pid, address, min(count, _MAX_PIECE))
        if piece is None:
            raise Unholdable("process_vm_readv: " + os.strerror(ctypes.get_errno()).lower())
        self._ahead += piece
        return piece

    def _is_ours(self, fd: int) -> bool:
        """Whether a descriptor of strace's is the pipe."""
        if self._fd < 0:
            try:
                theirs = os.stat(f"/proc/{self._pid}/fd/{fd}")
            except OSError:
                return False
            if os.path.samestat(theirs, os.fstat(self._read)):
                self._fd = fd
        return fd == self._fd

    def _in_pipe(self) -> int:
        n = array.array("i", [0])
        fcntl.ioctl(self._read, termios.FIONREAD, n)
        return n[0]

    def release(self) -> bool:
        """Read what is in the pipe: a blocked write goes on. False when there was nothing."""
        try:
            data = os.read(self._read, 1 << 16)
        except BlockingIOError:
            return False
        known = min(len(data), len(self._ahead))
        if data[:known] != self._ahead[:known]:
            raise Unholdable("strace wrote something else than it was about to")
        del self._ahead[:known]
        self.rest += data[known:]
        return bool(data)

    def skip(self) -> None:
        """Read what is in the pipe, whatever it is: a signal may have cut strace's write short."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 1 << 16)

    def close(self) -> None:
        """Let go of everything."""
        for fd in (self._read, self._write, self._syscall):
            if fd >= 0:
                os.close(fd)
        self._read = self._write = self._syscall = -1


class _Peek:
    """Reads another process's memory (process_vm_readv), always into one buffer."""

    def __init__(self) -> None:
        self._size = 0
        self._reserve(1 << 12)

    def _reserve(self, size: int) -> None:
        self._size = size
        self._buffer = ctypes.create_string_buffer(size)
        self._view = memoryview(self._buffer)

    def bytes_at(self, pid: int, address: int, size: int) -> bytes | None:
        """The bytes, None if they cannot be had."""
        if size > self._size:
            self._reserve(size)
        local = _IOVEC.pack(ctypes.addressof(self._buffer), size)
        remote = _IOVEC.pack(address, size)
        n = _libc.process_vm_readv(pid, local, 1, remote, 1, 0)
        return bytes(self._view[:n]) if n == size else None
