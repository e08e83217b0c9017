# SPDX-License-Identifier: GPL-2.0-or-later
"""What findings are made of: one address space's account at its end, and what the trace's header
says of the machine.

A finding sees nothing else. What is absent here it cannot state: an imported log has no evidence
of kinds, an attach none of what was before, and a trace with gaps proves nothing that rests on
something not having happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memtrace.malloc.allocator import UNKNOWN, Allocator
from memtrace.malloc.arenas import Limit, limit
from memtrace.malloc.churn import Pairs
from memtrace.malloc.heap import NoTrim, Step
from memtrace.malloc.limits import Refusal
from memtrace.malloc.threshold import Move

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memtrace.malloc.account import Account
    from memtrace.malloc.heap import Heap
    from memtrace.malloc.regions import Region
    from memtrace.malloc.threshold import Threshold
    from memtrace.malloc.walks import Taken
    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay
    from memtrace.trace.records import WalkedHeap

#: Pairs of one size that are worth being told, at least.
PAIRS = 100
_NO_LIMIT = Limit()
#: Calls that map, or cut a mapping in two (`split_vma`).
_ADD_MAPPINGS = frozenset({
    "mmap", "mmap2", "mprotect", "pkey_mprotect", "munmap", "madvise", "mremap", "mlock", "mlock2",
    "munlock", "shmat", "remap_file_pages",
})  # fmt: skip
#: Chunks that are named, at most.
_CHUNKS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdFacts:
    """glibc's mmap threshold: `Threshold`, at the end. `trim`: what the trim threshold is at least.
    `sure`: the sizes of all freed chunks are known, so that none of memalign's passes for a plain
    one.
    """

    initial: int | None = None
    low: int | None = None
    high: int | None = None
    fixed_by: str | None = None
    inherited: bool = False
    rises: int = 0
    trim: int | None = None
    sure: bool = False
    moves: tuple[Move, ...] = ()

    def first(self, cause: str) -> Move | None:
        """The first move for that cause."""
        return next((m for m in self.moves if m.cause == cause), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeapFacts:
    """The break: `Heap`, at the end. `steps` are the largest ones, or `all_steps`. `no_trim`: why
    malloc kept most of the heap's largest extent.
    """

    start: int | None = None
    final: int | None = None
    growths: int = 0
    shrinks: int = 0
    refused: int = 0
    grown: int = 0
    peak: int | None = None
    steps: tuple[Step, ...] = ()
    all_steps: bool = True
    no_trim: NoTrim | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideFacts:
    """The last walk's word about the main heap, walked to its end while nothing ran: record `seq`.

    `used`, `free`, `top`: bytes of chunks in use (or kept for reuse by malloc's caches), of free
    ones below the top, of the top. `pin`: (address, size) of the used chunk right below the top.
    """

    seq: int
    why: str
    size: int
    used: int
    free: int
    top: int
    pin: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkFacts:
    """Chunks that malloc had mapped and that are mapped at the end, neither inherited nor older
    than the trace: `largest` of them as (seq of the mmap, bytes).
    """

    alive: int = 0
    bytes: int = 0
    largest: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaFacts:
    """A heap of a thread arena that is there at the end, not copied by fork. `seq`: the mmap that
    reserved it, or the walk that showed it, None if not known; `peak`: the most that was open.
    Bytes.
    """

    base: int
    reserved: int
    peak: int
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of one address space, at its end.

    Attributes:
        whole: no event is known to be lost and the map was never found wrong.
        assumed: it comes from a log without callers, headers and kernel maps.
        attached: it is older than the trace; `inherited`: a fork's copy.
        exited: its process has exited by itself, with a status.
        timed: records have times.
        calls: memory calls made.
        other_heaps: (owner, regions, bytes at most at one time, the first region's first record) of
            runtimes and other allocators.
        all_regions: there were not so many regions that some are left out of that.
        fallbacks: (mmap, bytes) of what stands in for a refused heap.
        mapping_calls: (call, how often), the most first, of those that can add mappings.
        failed: (call, errno) -> (how often, the first).
        maps_peak: lines of maps, the most that was read; None if never read. `maps_seq`: where.
        maps_limit: vm.max_map_count.
    """

    whole: bool = True
    assumed: bool = False
    attached: bool = False
    inherited: bool = False
    exited: bool = True
    timed: bool = True
    born_seq: int = 1
    allocator: Allocator = UNKNOWN
    allocators: tuple[Allocator, ...] = ()
    i386: bool = False
    threshold: ThresholdFacts = ThresholdFacts()
    heap: HeapFacts = HeapFacts()
    inside: InsideFacts | None = None
    chunks: ChunkFacts = ChunkFacts()
    arenas: tuple[ArenaFacts, ...] = ()
    other_heaps: tuple[tuple[str, int, int, int], ...] = ()
    all_regions: bool = True
    fallbacks: tuple[tuple[int, int], ...] = ()
    mapping_calls: tuple[tuple[str, int], ...] = ()
    churn: tuple[Pairs, ...] = ()
    calls: int = 0
    failed: tuple[tuple[str, int, int, int], ...] = ()
    refusals: tuple[Refusal, ...] = ()
    maps_peak: int | None = None
    maps_seq: int | None = None
    maps_limit: int | None = None
    arena_limit: Limit = _NO_LIMIT

    @property
    def glibc(self) -> bool:
        """Whether glibc's malloc serves the process."""
        return self.allocator.name == "glibc"


def facts_of(a: Account, result: Replay, rows: Sequence[Region]) -> Facts:
    """The facts of a process at its end.

    Args:
        a: its account, finished.
        result: the pass so far.
        rows: its largest regions.
    """
    p, header, t = a.p, result.header, a.mallocs.threshold
    return Facts(
        whole=not (result.lost or p.drifted or result.problems_total),
        assumed=p.start.assumed,
        attached=p.attached,
        inherited=p.inherited,
        exited=p.died_seq is not None and p.exit_code is not None,
        timed=result.timed,
        born_seq=p.born_seq,
        allocator=a.mallocs.serving,
        allocators=tuple(a.mallocs.every),
        i386=a.mallocs.layout.i386,
        threshold=ThresholdFacts(
            initial=t.initial, low=t.low, high=t.high, fixed_by=t.fixed_by, inherited=t.inherited,
            rises=t.rises, trim=t.trim_floor(), sure=t.floor == t.low == t.high == t.ceiling,
            moves=tuple(t.history),
        ),
        heap=_heap(a.heap, t),
        inside=None if a.walks.last is None else _inside(a.walks.last),
        chunks=_chunks(a),
        arenas=_arenas(a),
        other_heaps=_others(a, rows),
        all_regions=len(rows) == a.regions.total,
        fallbacks=tuple(
            sorted(
                (r.born_seq, r.peak)
                for r in rows
                if r.kind == "main-arena" and r.reason == "brk-failed" and not r.inherited
            )
        ),
        mapping_calls=_mapping_calls(p),
        churn=a.churn.most(PAIRS),
        calls=p.events,
        failed=tuple((n, e, *found) for (n, e), found in sorted(a.refusals.first.items())),
        refusals=tuple(a.refusals.enomem),
        maps_peak=p.maps_peak or None,
        maps_seq=p.maps_peak_seq,
        maps_limit=header.max_map_count,
        arena_limit=limit(p.start, a.mallocs.layout, header.cpus_online),
    )  # fmt: skip


def _mapping_calls(p: Process) -> tuple[tuple[str, int], ...]:
    made = [(n, count - failed) for n, (count, failed) in p.calls.items() if n in _ADD_MAPPINGS]
    return tuple(sorted(((n, c) for n, c in made if c), key=lambda x: (-x[1], x[0])))


def _heap(h: Heap, t: Threshold) -> HeapFacts:
    return HeapFacts(
        start=h.start,
        final=h.final(),
        growths=h.growths,
        shrinks=h.shrinks,
        refused=h.refused,
        grown=h.grown_bytes,
        peak=None if h.final() is None else h.peak,
        steps=tuple(h.steps),
        all_steps=len(h.steps) == h.steps_total,
        no_trim=h.no_trim(t),
    )


def _inside(walk: Taken) -> InsideFacts | None:
    main: WalkedHeap | None = next((h for h in walk.heaps if h.kind == "main"), None)
    if main is None or not main.complete or not walk.still or main.top is None:
        return None
    return InsideFacts(
        seq=walk.seq, why=walk.why, size=main.end - main.base, used=main.used or 0,
        free=main.free or 0, top=main.top[1], pin=main.pin,
    )  # fmt: skip


def _chunks(a: Account) -> ChunkFacts:
    kind = a.regions.kinds.get("malloc-chunk")
    if kind is None or not kind.alive:
        return ChunkFacts()
    alive = [
        (r.bytes, r.born_seq)
        for r in a.regions.alive.values()
        if r.kind == "malloc-chunk" and not r.inherited and not r.older
    ]
    alive.sort(key=lambda x: (-x[0], x[1]))
    largest = tuple((seq, size) for size, seq in alive[:_CHUNKS])
    return ChunkFacts(alive=len(alive), bytes=sum(size for size, _ in alive), largest=largest)


def _arenas(a: Account) -> tuple[ArenaFacts, ...]:
    if not a.arenas.alive:
        return ()
    return tuple(
        ArenaFacts(
            base=x.base,
            reserved=x.reserved,
            peak=x.committed_peak,
            seq=x.shown_seq or x.born_seq or None,
        )
        for x in a.arenas.alive.values()
        if not x.inherited
    )


def _others(a: Account, rows: Sequence[Region]) -> tuple[tuple[str, int, int, int], ...]:
    """Of each owner how many regions, and the most that they can have had at one time: what those
    alive together had at their peaks, and no more than the kind's own peak.
    """
    kind = a.regions.kinds.get("runtime-heap")
    lives: dict[str, list[tuple[int, int]]] = {}
    for r in rows:
        if r.kind == "runtime-heap" and r.owner:
            life = lives.setdefault(r.owner, [])
            life.append((r.born_seq, r.peak))
            if r.died_seq is not None:
                life.append((r.died_seq, -r.peak))
    if kind is None:
        return ()
    every = len(rows) == a.regions.total
    return tuple(
        (
            owner,
            sum(size > 0 for _, size in life),
            min(_most(life), kind.peak) if every else kind.peak,
            min(life)[0],
        )
        for owner, life in sorted(lives.items())
    )


def _most(life: list[tuple[int, int]]) -> int:
    most = now = 0
    for _, size in sorted(life, key=lambda x: (x[0], -x[1])):  # what one call replaces counts twice
        now += size
        most = max(most, now)
    return most
