# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of logs: files, compressed or not, and standard input."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from shlex import quote
from typing import Any

from memtrace.trace import zstd
from memtrace.trace.errors import TraceFormatError

BLOCK = 1 << 18
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Source:
    """A log's bytes, unpacked, block by block.

    `damage`: why they ended before the file's end, "" if they did not: final after the last block.

    Raises:
        TraceFormatError: it cannot be read.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == "-" else name
        self.damage = ""
        if name == "-" and sys.stdin is None:
            raise TraceFormatError(
                "cannot read standard input: it is closed", hint="memtrace import - < LOG"
            )
        try:
            self._file: Any = (
                sys.stdin.buffer if name == "-" else open(name, "rb", buffering=BLOCK)  # noqa: SIM115
            )
        except OSError as e:
            raise _unreadable(name, e) from e

    def blocks(self) -> Iterator[bytes]:
        """The bytes; the file is closed behind the last of them."""
        raw = self._file
        head = raw.peek(4)[:4] if isinstance(raw, io.BufferedReader) else b""
        f: Any = raw
        if head[:2] == _GZIP:
            f = gzip.GzipFile(fileobj=raw)
        elif head == _ZSTD:
            f = zstd.ZstdFile(raw)
        try:
            while block := f.read1(BLOCK):
                yield block
        except (EOFError, zlib.error, zstd.ZstdError, gzip.BadGzipFile) as e:
            self.damage = f"the compressed log is cut short or damaged ({e})"
        except OSError as e:
            raise _unreadable(self.name, e) from e
        finally:
            raw.close()


def _unreadable(name: str, e: OSError) -> TraceFormatError:
    what = (e.strerror or str(e)).lower()
    return TraceFormatError(f"cannot read {name}: {what}", hint=f"ls -ld {quote(name)}")
