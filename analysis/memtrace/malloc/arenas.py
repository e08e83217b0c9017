# SPDX-License-Identifier: GPL-2.0-or-later
"""Thread arenas: 64 MiB reserved for each of their heaps (1 MiB in i386 programs), opened by
mprotect page by page, shrunk by madvise (glibc's malloc/arena.c); and how many there may be.

What no call tells: which heaps belong to one arena, which thread uses it (that of a dead thread is
used again), and how much of it is open after it shrank, for growing back makes no call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from memtrace.malloc.glibc import HEAP_MAX, configured, secured

if TYPE_CHECKING:
    from memtrace.malloc.glibc import Layout
    from memtrace.trace.records import Start


@dataclass(slots=True)
class Arena:
    """One heap of a thread arena (`heap_info`), at a multiple of what it reserves.

    `committed` is None once madvise(MADV_DONTNEED) shrank it: growing back to the old mark makes no
    call. `tid` is the thread whose malloc reserved it, by the mmap `born_seq`; `died_seq` unmapped
    it, when it was empty. `shrinks` times it gave `given_back` bytes back. `shown_seq`: the walk
    that showed what a reservation older than the trace is. Sizes in bytes.
    """

    base: int
    tid: int | None
    born_seq: int = 0
    reserved: int = HEAP_MAX
    committed: int | None = 0
    committed_peak: int = 0
    shrinks: int = 0
    given_back: int = 0
    died_seq: int | None = None
    inherited: bool = False
    shown_seq: int | None = None

    def opened(self, end: int) -> None:
        """An mprotect made everything up to `end` usable (`grow_heap`)."""
        size = end - self.base
        self.committed_peak = max(self.committed_peak, size)
        if self.committed is not None:
            self.committed = max(self.committed, size)


class Arenas:
    """The heaps of one address space's thread arenas.

    Args:
        size: what each reserves, in bytes (HEAP_MAX_SIZE).
    """

    def __init__(self, size: int = HEAP_MAX) -> None:
        self.size = size
        self.alive: dict[int, Arena] = {}
        self.all: list[Arena] = []

    def __len__(self) -> int:
        return len(self.all)

    def at(self, address: int) -> Arena | None:
        """The heap whose reservation holds the address."""
        return self.alive.get(address & -self.size)

    def opened(self, address: int, length: int, tid: int | None, born_seq: int) -> Arena:
        """An mprotect to read and write inside a reservation; the first one founds the heap."""
        base = address & -self.size
        arena = self.alive.get(base)
        if arena is None:
            arena = self.alive[base] = Arena(base, tid, born_seq, self.size)
            self.all.append(arena)
        arena.opened(address + length)
        return arena

    def found(self, base: int, opened: int, born_seq: int, seq: int, *, inherited: bool) -> None:
        """The walk `seq` has shown that an older reservation is a heap (`heap_info`), of which
        `opened` bytes were ever opened (`mprotect_size`).
        """
        if base in self.alive:
            return
        arena = Arena(
            base, None, born_seq, self.size, opened, opened, inherited=inherited, shown_seq=seq
        )
        self.alive[base] = arena
        self.all.append(arena)

    def shrunk(self, address: int, length: int) -> None:
        """madvise(MADV_DONTNEED) (`shrink_heap`): how much is in use is unknown from here on."""
        arena = self.at(address)
        if arena is not None:
            arena.committed = None
            arena.shrinks += 1
            arena.given_back += length

    def closed(self, address: int, length: int) -> None:
        """The tail was mapped PROT_NONE (`shrink_heap` of a secure or no-overcommit program)."""
        arena = self.at(address)
        if arena is not None and address > arena.base:
            arena.shrinks += 1
            arena.given_back += length
            if arena.committed is not None:
                arena.committed = min(arena.committed, address - arena.base)

    def unmapped(self, low: int, high: int, seq: int) -> None:
        """The whole reservation was unmapped (`delete_heap`)."""
        for base in [b for b in self.alive if low <= b and b + self.size <= high]:
            arena = self.alive.pop(base)
            arena.given_back += arena.committed or 0
            arena.committed, arena.died_seq = 0, seq

    def fork(self, seq: int = 0) -> Arenas:
        """The child's copy, born by the fork `seq`."""
        child = Arenas(self.size)
        for base, arena in self.alive.items():
            child.alive[base] = replace(
                arena, tid=None, born_seq=seq, shrinks=0, given_back=0, inherited=True
            )
            child.all.append(child.alive[base])
        return child


class Limit(NamedTuple):
    """How many arenas malloc makes at most, the main arena counted; None: not known.

    `reason`: "environ" or "tunable" (arena_max is set there), "cpus-online" (8 for each CPU, 2 in
    i386 programs), "cpus-allowed" (these releases may count only the CPUs that the process may run
    on: there may be fewer), None where it is not known. `cpus`: how many are online.
    """

    most: int | None = None
    reason: str | None = None
    cpus: int | None = None


def limit(start: Start, layout: Layout, cpus: int | None) -> Limit:
    """The limit as configured (`arena_get2`). It is looked at only when more than arena_test exist,
    so that there can always be one more than that.

    Args:
        start: the environment of the process.
        layout: which glibc.
        cpus: online; None: not recorded.
    """
    if start.env_lost and not start.at_secure:
        return Limit(cpus=cpus)
    found = {}
    secure = secured(start.env, at_secure=start.at_secure, version=layout.version)
    for name, alias in (("arena_max", "MALLOC_ARENA_MAX"), ("arena_test", "MALLOC_ARENA_TEST")):
        setting = configured(start.env, name, alias, layout.version)
        if setting is None or secure:
            continue
        if not setting.certain or secure is None or not setting.value:
            return Limit(cpus=cpus)
        found[name] = setting
    most = found.get("arena_max")
    if most is not None:
        return Limit(most.value, most.source, cpus)
    if cpus is None:
        return Limit()
    each = 2 if layout.i386 else 8  # NARENAS_FROM_NCORES
    test = found["arena_test"].value if "arena_test" in found else each
    # sched_getaffinity until "malloc: Use __get_nprocs on arena_get2".
    allowed = layout.version is None or (2, 34) <= layout.version < (2, 39)
    return Limit(max(each * cpus, test + 1), "cpus-allowed" if allowed else "cpus-online", cpus)
