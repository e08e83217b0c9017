# SPDX-License-Identifier: GPL-2.0-or-later
"""What an ELF file says of itself: its dynamic symbols, looked up as the loader does, and texts.

Read with few small reads and only as far as asked: a program may hold hundreds of libraries, and
some have a hundred megabytes. Nothing in a file is trusted: what does not fit is not there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_MOST = 64 << 20  # bytes of a file that are searched for a text
_BLOCK = 1 << 20
_STEPS = 4096  # of a chain in a hash table
_READS, _MOST_READ = 20_000, 256 << 20  # of one file: it may be made to be read for ever
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 1, 2, 3, 4
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 4, 5, 6, 0x6FFFFEF5


class Segment(NamedTuple):
    """A program header."""

    type: int
    flags: int
    offset: int
    address: int
    size: int


class NotElfError(ValueError):
    """The file is no ELF file, or a broken one."""


class Elf:
    """An ELF file of this machine's byte order.

    Args:
        fd: open for reading; it stays the caller's.

    Raises:
        NotElfError: it is none.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._reads, self._left = _READS, _MOST_READ
        head = self._at(0, 64)
        if len(head) < 52 or head[:4] != b"\x7fELF" or head[5] != 1:
            raise NotElfError
        self.wide = head[4] == 2
        self.machine = int.from_bytes(head[18:20], "little")
        try:
            self.segments = list(self._segments(head))
            self._dynamic = self._read_dynamic()
        except struct.error as e:
            raise NotElfError from e

    @property
    def interpreted(self) -> bool:
        """Whether it names a program interpreter: an executable with shared libraries."""
        return any(s.type == _PT_INTERP for s in self.segments)

    @property
    def dynamic(self) -> bool:
        """Whether it has a table of dynamic symbols."""
        return _DT_SYMTAB in self._dynamic

    def build_id(self) -> str | None:
        """NT_GNU_BUILD_ID, in hexadecimal digits."""
        found = (body for name, kind, body in self.notes() if (name, kind) == (b"GNU\0", 3))
        build_id = next(found, b"")
        return build_id.hex() or None if len(build_id) <= 64 else None

    def notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Owner, type and description of each note."""
        for s in [s for s in self.segments if s.type == _PT_NOTE][:8]:
            notes, at = self._at(s.offset, min(s.size, 65536)), 0
            while at + 12 <= len(notes):
                name, size, kind = struct.unpack_from("<3I", notes, at)
                body = at + 12 + (-(-name // 4) * 4)
                yield notes[at + 12 : at + 12 + name], kind, notes[body : body + size]
                at = body + (-(-size // 4) * 4)

    def defines(self, name: str) -> bool:
        """Whether the loader would find this symbol in the file (`do_lookup_x`)."""
        wanted = name.encode()
        if not self.dynamic:
            return False
        try:
            if _DT_GNU_HASH in self._dynamic:
                return self._in_gnu_hash(wanted)
            return _DT_HASH in self._dynamic and self._in_hash(wanted)
        except (struct.error, ZeroDivisionError):
            return False

    def search(self, texts: Iterable[bytes], *, constants: bool) -> set[bytes]:
        """Which of the texts stand in the file; only in pages to be read alone, if `constants`."""
        wanted = tuple(texts)
        overlap = max(map(len, wanted), default=1) - 1
        found: set[bytes] = set()
        left = _MOST
        for start, size in self._constants() if constants else [(0, _MOST)]:
            last = b""
            for position in range(start, start + min(size, left), _BLOCK):
                block = self._at(position, min(_BLOCK, start + size - position))
                left -= len(block)
                data = last + block
                found.update(text for text in wanted if text not in found and text in data)
                if len(block) < _BLOCK:
                    break
                last = data[-overlap:] if overlap else b""
        return found

    def writable(self, most: int) -> bytes:
        """The first bytes of each segment that can be written to."""
        segments = (s for s in self.segments if s.type == _PT_LOAD and s.flags & 2)
        return b"".join(self._at(s.offset, min(s.size, most)) for s in segments)

    def constants(self, most: int) -> bytes:
        """The first bytes of the pages that are only to be read."""
        data = b""
        for start, size in self._constants():
            data += self._at(start, min(size, most - len(data)))
        return data

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address that the file is to be mapped at."""
        for s in self.segments:
            if s.type == _PT_LOAD and s.address <= address < s.address + s.size:
                return self._at(s.offset + address - s.address, size)
        return b""

    def address(self, offset: int) -> int | None:
        """The address that a byte of the file is to be mapped at."""
        for s in self.segments:
            if s.type == _PT_LOAD and s.offset <= offset < s.offset + s.size:
                return s.address + offset - s.offset
        return None

    # -- inside ---------------------------------------------------------------------------------

    def _constants(self) -> list[tuple[int, int]]:
        loads = [s for s in self.segments if s.type == _PT_LOAD]
        found = [(s.offset, s.size) for s in loads if s.flags & 7 == 4]
        # Linkers put constants and code into one segment until -z separate-code.
        if sum(size for _, size in found) < 4096:
            found += [(s.offset, s.size) for s in loads if s.flags & 7 == 5]
        return found

    def _at(self, offset: int, size: int) -> bytes:
        size = min(size, 4 * _BLOCK, self._left)
        if offset < 0 or size <= 0 or offset >> 62 or not self._reads:
            return b""
        self._reads -= 1
        self._left -= size
        try:
            return os.pread(self._fd, size, offset)
        except OSError:
            return b""

    def _segments(self, head: bytes) -> Iterator[Segment]:
        if self.wide:
            (at,) = struct.unpack_from("<Q", head, 32)
            size, number = struct.unpack_from("<2H", head, 54)
        else:
            (at,) = struct.unpack_from("<I", head, 28)
            size, number = struct.unpack_from("<2H", head, 42)
        table = self._at(at, size * number)
        for i in range(min(number, 256)):
            if self.wide:
                kind, flags, offset, address, _, length = struct.unpack_from(
                    "<2I4Q", table, i * size
                )
            else:
                kind, offset, address, _, length, _, flags = struct.unpack_from(
                    "<7I", table, i * size
                )
            yield Segment(kind, flags, offset, address, length)

    def _read_dynamic(self) -> dict[int, int]:
        form = "<2Q" if self.wide else "<2I"
        for s in self.segments:
            if s.type == _PT_DYNAMIC:
                table = self._at(s.offset, min(s.size, 65536))
                width = struct.calcsize(form)
                return dict(struct.iter_unpack(form, table[: len(table) // width * width]))
        return {}

    def _is(self, index: int, wanted: bytes) -> bool:
        """Whether symbol `index` has this name and is defined here for others."""
        at = self._dynamic[_DT_SYMTAB]
        if self.wide:
            name, info, _, section = struct.unpack("<IBBH", self.read(at + 24 * index, 8))
        else:
            entry = self.read(at + 16 * index, 16)
            (name,) = struct.unpack_from("<I", entry)
            info, _, section = struct.unpack_from("<BBH", entry, 12)
        if not section or info >> 4 not in (1, 2, 10):  # GLOBAL, WEAK, GNU_UNIQUE
            return False
        text = self.read(self._dynamic.get(_DT_STRTAB, 0) + name, len(wanted) + 1)
        return text == wanted + b"\0"

    def _in_gnu_hash(self, wanted: bytes) -> bool:
        at = self._dynamic[_DT_GNU_HASH]
        buckets, first, bloom, _ = struct.unpack("<4I", self.read(at, 16))
        value = 5381
        for c in wanted:
            value = (value * 33 + c) & 0xFFFFFFFF
        table = at + 16 + bloom * (8 if self.wide else 4)
        (index,) = struct.unpack("<I", self.read(table + 4 * (value % buckets), 4))
        if index < first:
            return False
        chain = self.read(table + 4 * buckets + 4 * (index - first), 4 * _STEPS)
        for (entry,) in struct.iter_unpack("<I", chain[: len(chain) // 4 * 4]):
            if (entry ^ value) >> 1 == 0 and self._is(index, wanted):
                return True
            if entry & 1:
                return False
            index += 1
        return False

    def _in_hash(self, wanted: bytes) -> bool:
        at = self._dynamic[_DT_HASH]
        value = 0
        for c in wanted:
            value = (value << 4) + c
            high = value & 0xF0000000
            value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
        buckets, _ = struct.unpack("<2I", self.read(at, 8))
        (index,) = struct.unpack("<I", self.read(at + 8 + 4 * (value % buckets), 4))
        for _ in range(_STEPS):
            if not index:
                return False
            if self._is(index, wanted):
                return True
            (index,) = struct.unpack("<I", self.read(at + 8 + 4 * (buckets + index), 4))
        return False
