# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing a trace file so that a crash at any moment leaves it readable.

Lines are gathered into blocks; `flush` hands a block to the kernel whole. Compressed files are
flushed block by block (a gzip sync flush, a zstd frame of its own), so that a file cut anywhere
still gives every whole block before the cut.
"""

from __future__ import annotations

import os
import stat
import zlib
from typing import Protocol

BLOCK = 1 << 16


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

    An existing regular file of that name is kept as `NAME.old`. `.gz` and `.zst` compress.

    Raises:
        OSError: the file cannot be created (and later, from `write` and `close`, written).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.kept_old = keep_old(path)
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
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
        os.close(self.fd)

    def discard(self) -> None:
        """Remove the file and put back what it had replaced: there is nothing to trace."""
        try:
            if stat.S_ISREG(os.stat(self.path).st_mode):
                os.unlink(self.path)
            if self.kept_old:
                os.replace(self.path + ".old", self.path)
        except OSError:
            pass

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            n = os.write(self.fd, view)
            self.bytes_written += n
            view = view[n:]


def keep_old(path: str) -> bool:
    """Rename an existing regular file to `NAME.old`; special and absent ones are left alone."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    os.replace(path, path + ".old")
    return True
