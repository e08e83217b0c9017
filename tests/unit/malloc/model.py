# SPDX-License-Identifier: GPL-2.0-or-later
"""glibc's main arena as far as the break goes: `sysmalloc`, `systrim` and who calls them, from
malloc/malloc.c. It keeps only the top chunk and knows what it does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PAGE = 4096
CONSOLIDATION = 65536  # FASTBIN_CONSOLIDATION_THRESHOLD


@dataclass
class Told:
    """A move of the break: who made it, and for a chunk of which size."""

    by: str
    old: int
    new: int
    nb: int | None = None


@dataclass
class Arena:
    """A main arena above `brk`; `word` is SIZE_SZ."""

    brk: int
    word: int = 8
    top_pad: int = 131072
    trim_threshold: int = 131072
    top: int = 0
    top_size: int = 0
    told: list[Told] = field(default_factory=list)

    @property
    def minsize(self) -> int:
        return 4 * self.word

    def chunk(self, request: int) -> int:
        """checked_request2size."""
        return max(self.minsize, (request + self.word + 15) & ~15)

    def morecore(self, by: str, size: int, nb: int | None = None) -> int:
        old, self.brk = self.brk, self.brk + size
        if size:
            self.told.append(Told(by, old, self.brk, nb))
        return old

    def malloc(self, request: int) -> int:
        """A request that no bin serves; the chunk's size."""
        nb = self.chunk(request)
        if self.top_size < nb + self.minsize:
            self.sysmalloc(nb)
        assert self.top_size >= nb + self.minsize
        self.top += nb
        self.top_size -= nb
        return nb

    def sysmalloc(self, nb: int) -> None:
        old_end, old_size = self.top + self.top_size, self.top_size
        size = nb + self.top_pad + self.minsize - old_size
        size = (size + PAGE - 1) & -PAGE
        brk = self.morecore("grow", size, nb)
        if brk == old_end:
            self.top_size = old_size + size
            return
        misalign = (brk + 2 * self.word) & 15
        correction = 16 - misalign if misalign else 0
        aligned = brk + correction
        correction += old_size
        end = brk + size + correction
        correction += -end % PAGE
        second = self.morecore("align", correction, nb)
        self.top, self.top_size = aligned, second - aligned + correction

    def free(self, size: int) -> None:
        """The chunk right below the top, consolidated to `size` bytes."""
        self.top -= size
        self.top_size += size
        if self.top_size >= CONSOLIDATION and self.top_size >= self.trim_threshold:
            self.systrim("free", self.top_pad)

    def malloc_trim(self, pad: int) -> None:
        self.systrim("malloc_trim", pad)

    def systrim(self, by: str, pad: int) -> None:
        area = self.top_size - self.minsize - 1
        if area <= pad:
            return
        extra = (area - pad) & -PAGE
        if extra and self.brk == self.top + self.top_size:
            self.morecore(by, -extra)
            self.top_size -= extra
