# SPDX-License-Identifier: GPL-2.0-or-later
"""Thread arenas: 64 MiB reserved each, opened by mprotect page by page (glibc's malloc/arena.c)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from memtrace.malloc.glibc import HEAP_MAX


@dataclass(slots=True)
class Arena:
    """One heap of a thread arena (`heap_info`), at a multiple of 64 MiB.

    `committed` is None once madvise(MADV_DONTNEED) shrank it: growing back to the old mark makes no
    call. `tid` is the thread whose malloc reserved it. Sizes in bytes.
    """

    base: int
    tid: int | None
    reserved: int = HEAP_MAX
    committed: int | None = 0
    committed_peak: int = 0

    def opened(self, end: int) -> None:
        """An mprotect made everything up to `end` usable (`grow_heap`)."""
        size = end - self.base
        self.committed_peak = max(self.committed_peak, size)
        if self.committed is not None:
            self.committed = max(self.committed, size)


class Arenas:
    """The thread arenas of one address space."""

    def __init__(self) -> None:
        self.alive: dict[int, Arena] = {}
        self.all: list[Arena] = []

    def __len__(self) -> int:
        return len(self.all)

    def at(self, address: int) -> Arena | None:
        """The arena whose 64 MiB hold the address."""
        return self.alive.get(address & -HEAP_MAX)

    def opened(self, address: int, length: int, tid: int | None) -> Arena:
        """An mprotect to read and write inside a reservation; the first one founds the arena."""
        base = address & -HEAP_MAX
        arena = self.alive.get(base)
        if arena is None:
            arena = self.alive[base] = Arena(base, tid)
            self.all.append(arena)
        arena.opened(address + length)
        return arena

    def shrunk(self, address: int) -> None:
        """madvise(MADV_DONTNEED) (`shrink_heap`): how much is in use is unknown from here on."""
        arena = self.at(address)
        if arena is not None:
            arena.committed = None

    def closed(self, address: int) -> None:
        """The tail was mapped PROT_NONE (`shrink_heap` of a secure or no-overcommit program)."""
        arena = self.at(address)
        if arena is not None and address > arena.base and arena.committed is not None:
            arena.committed = min(arena.committed, address - arena.base)

    def unmapped(self, low: int, high: int) -> None:
        """The whole reservation was unmapped (`delete_heap`)."""
        for base in [b for b in self.alive if low <= b and b + HEAP_MAX <= high]:
            self.alive.pop(base).committed = 0

    def fork(self) -> Arenas:
        """The child's copy."""
        child = Arenas()
        for base, arena in self.alive.items():
            child.alive[base] = replace(arena, tid=None)
            child.all.append(child.alive[base])
        return child
