# SPDX-License-Identifier: GPL-2.0-or-later
"""Heaps as glibc's malloc leaves them in memory, made by hand: what a walk reads, and the truth."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from memtrace.collect.chain import LAYOUT_64, PRESENT, Layout, Memory

PAGE = 4096
BASE = 0x5_5555_5000


@dataclass
class Image:
    """Bytes of an address space from `base` on, and which of its pages are in memory.

    `asked` holds every range that was read.
    """

    layout: Layout = LAYOUT_64
    base: int = BASE
    data: bytearray = field(default_factory=bytearray)
    states: dict[int, int] = field(default_factory=dict)  # page number -> SWAPPED or 0
    asked: list[tuple[int, int]] = field(default_factory=list)
    patience: int = 1 << 30  # how often it may be asked for the time

    @property
    def end(self) -> int:
        return self.base + len(self.data)

    def word(self, address: int, value: int) -> None:
        """Write one word; the image grows as needed."""
        at, size = address - self.base, self.layout.word
        if len(self.data) < at + size:
            self.data += bytes(at + size - len(self.data))
        struct.pack_into("<Q" if size == 8 else "<I", self.data, at, value)

    def chunk(self, at: int, size: int, *, used: bool, below: int = 0, flags: int = 0) -> int:
        """A chunk's header and, if it is free, its foot; `below`: of the free chunk below it, whose
        size the first word keeps. Returns where the next begins.
        """
        if below:
            self.word(at, below)
        self.word(at + self.layout.word, size | flags | (0 if below else 1))
        if not used:
            self.word(at + size, size)
        return at + size

    def chunks(self, at: int, *sizes: int, flags: int = 0) -> int:
        """Chunks in a row, free ones with a negative size; the last one is left in use or the top.
        Returns where the next would begin.
        """
        below = 0
        for size in sizes:
            at = self.chunk(at, abs(size), used=size > 0, below=below, flags=flags)
            below = -size if size < 0 else 0
        return at

    def pad(self, address: int) -> None:
        """Zeros up to an address."""
        self.data += bytes(max(address - self.end, 0))

    def memory(self) -> Memory:
        """As the walker sees it."""
        return Memory(self._read, self._present, self.layout, self._late)

    def _read(self, address: int, length: int) -> bytes | None:
        self.asked.append((address, length))
        at = address - self.base
        pages = bytes(self.data[max(at, 0) : at + length])
        return pages.ljust(-(-len(pages) // PAGE) * PAGE, b"\0") if at >= 0 else None

    def _present(self, address: int, length: int) -> bytes:
        first, end = address // PAGE, -(-self.end // PAGE)
        return bytes(
            self.states.get(n, PRESENT) if self.base // PAGE <= n < end else 0
            for n in range(first, first + length // PAGE)
        )

    def _late(self) -> bool:
        self.patience -= 1
        return self.patience < 0

    def assert_only_pages_in_memory_were_read(self) -> None:
        for address, length in self.asked:
            assert not address % PAGE
            for n in range(address // PAGE, (address + length) // PAGE):
                assert self.states.get(n, PRESENT) == PRESENT
