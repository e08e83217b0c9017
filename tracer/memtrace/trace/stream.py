# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing a trace file so that a crash at any moment leaves it readable.

Lines are gathered into blocks; `flush` hands a block to the kernel whole. Compressed files are
flushed block by block (a gzip sync flush, a zstd frame of its own), so that a file cut anywhere
still gives every whole block before the cut.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from typing import Protocol

from memtrace.trace.beside import keep_along

BLOCK = 1 << 16
REMOVED = "it was removed while it was written"
_MAX_LINKS = 40  # path_resolution(7)


class _Compressor(Protocol):
    def block(self, data: bytes) -> bytes: ...
    def end(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._z = zlib.compressobj(6, zlib.DEFLATED, 31)

    def block(self, data: bytes) -> bytes:
        return self._z.compress(data) + self._z.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._z.flush(zlib.Z_FINISH)


class _Zstd:
    def __init__(self) -> None:
        from memtrace.trace.zstd import compress

        self._compress = compress

    def block(self, data: bytes) -> bytes:
        return self._compress(data, 3)

    def end(self) -> bytes:
        return b""


class Output:
    """An append-only trace file.

    It is a new file, for its owner only: a trace holds a program's secrets. What had the name
    before, a symbolic link included, is kept as `NAME.old`, as readable as it was, and its cache as
    that of `NAME.old`. Only what is no file in a folder is written to as it stands: a pipe, a
    device, one of our own descriptors (/dev/stdout). `.gz` and `.zst` compress.

    Raises:
        OSError: the file cannot be created (and later, from `write` and `close`, written).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.kept_old = False
        self._created: tuple[int, int] | None = None
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
        if is_special(path):
            self.fd = os.open(path, flags | os.O_APPEND)
        else:
            self.kept_old = keep_old(path)
            # O_EXCL also means: through no link.
            self.fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            st = os.fstat(self.fd)
            self._created = st.st_dev, st.st_ino
        self.bytes_written = 0
        self._compressor: _Compressor | None = None
        if path.endswith(".gz"):
            self._compressor = _Gzip()
        elif path.endswith(".zst"):
            self._compressor = _Zstd()

    def write(self, block: bytes) -> None:
        """Write one block of whole lines, through to the kernel."""
        if self._compressor is not None:
            block = self._compressor.block(block)
        self._write_all(block)

    def close(self) -> None:
        """End the compression stream and close the file."""
        if self._compressor is not None:
            self._write_all(self._compressor.end())
        removed = self._created is not None and not os.fstat(self.fd).st_nlink
        os.close(self.fd)
        if removed:
            raise OSError(errno.ENOENT, REMOVED, self.path)

    def discard(self) -> None:
        """Remove the file and put back what it had replaced: there is nothing to trace."""
        try:
            st = os.lstat(self.path)
            if self._created == (st.st_dev, st.st_ino):
                os.unlink(self.path)
                if self.kept_old:
                    os.replace(self.path + ".old", self.path)
                    keep_along(self.path + ".old", self.path)
        except OSError:
            pass

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            n = os.write(self.fd, view)
            self.bytes_written += n
            view = view[n:]


def keep_old(path: str) -> bool:
    """Rename what has the name to `NAME.old`, and its cache; returns whether there was anything."""
    try:
        os.replace(path, path + ".old")
    except FileNotFoundError:
        # Nothing of that name, or no such folder: opening it tells.
        keep_along(path, "")
        return False
    keep_along(path, path + ".old")
    return True


def is_special(path: str) -> bool:
    """Whether the name is not one for a new file: a pipe, a device, a folder, one of our own
    descriptors. A link is what it leads to; one that leads to a file, or nowhere, is a name.

    Raises:
        PermissionError: it is somebody else's trap (`is_planted`).
    """
    try:
        st = os.lstat(path)
        if stat.S_ISREG(st.st_mode):
            return False
        if _is_own_descriptor(path):
            return True
        if is_planted(st, os.stat(os.path.dirname(path) or "."), os.geteuid()):
            raise PermissionError(errno.EACCES, "another user has put it there", path)
        return not stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:
        raise
    except OSError:  # absent; a link to nowhere, or to itself
        return False


def is_planted(entry: os.stat_result, folder: os.stat_result, user: int) -> bool:
    """Whether a name is another user's in a folder like /tmp: the kernel's rule for links, and for
    pipes (`may_follow_link`, `may_create_in_sticky`), where fs.protected_* does not have it so.
    """
    everybodys = stat.S_ISVTX | stat.S_IWOTH
    return (
        folder.st_mode & everybodys == everybodys
        and entry.st_uid not in (user, folder.st_uid)
    )  # fmt: skip


def _is_own_descriptor(path: str) -> bool:
    """Whether links lead to an entry of our /proc/PID/fd."""
    for _ in range(_MAX_LINKS):
        folder = os.path.realpath(os.path.dirname(path) or ".")
        if folder == os.path.realpath("/proc/self/fd"):
            return True
        try:
            path = os.path.join(folder, os.readlink(path))
        except OSError:
            return False
    return False
