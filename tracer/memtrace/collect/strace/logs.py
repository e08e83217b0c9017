# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of logs: files, compressed or not, and standard input."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from memtrace.trace import zstd

BLOCK = 1 << 18
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Source:
    """A log's bytes, unpacked, block by block.

    `damage`: why they ended before the file's end, "" if they did not: final after the last block.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == "-" else name
        self.damage = ""
        self._file: Any = (
            sys.stdin.buffer if name == "-" else open(name, "rb", buffering=BLOCK)  # noqa: SIM115
        )

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
            while block := f.read1(BLOCK) if f is raw else f.read(BLOCK):
                yield block
        except (EOFError, zlib.error, zstd.ZstdError, gzip.BadGzipFile) as e:
            self.damage = f"the compressed log is cut short or damaged ({e})"
        finally:
            raw.close()
