# SPDX-License-Identifier: GPL-2.0-or-later
"""The heaps of glibc's malloc, walked chunk by chunk: where each begins, and what is in it.

The main arena has the area that brk moves the end of. Its first chunk is at the beginning of it, or
behind what somebody else took there first: a static program its thread-local storage, a program its
own sbrk. After somebody's sbrk in mid-life malloc puts fences behind its old top and goes on behind
the foreign part (`sysmalloc`). Where the break has been is where a part can begin; who has not seen
it move must search, which is said.

A thread arena has heaps at multiples of HEAP_MAX_SIZE, each of which begins with a `heap_info`; the
first one's is followed by the arena itself. The top is in the newest (`sysmalloc`, `new_heap`).

Pure, like `chain`: a heap that is not glibc's, or that somebody has scribbled over, is told from
one that holds together, never repaired.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from memtrace.collect.chain import (
    OUT_OF_TIME,
    PREV_INUSE,
    SWAPPED,
    Chain,
    End,
    Memory,
    follow,
)
from memtrace.trace.records import WalkedHeap
from memtrace.trace.sizes import PAGE

#: How far a first chunk is searched for.
_SEARCH = 4 << 20
#: A `malloc_state` has 254 bins; what its `system_mem` and `attached_threads` can be.
_STATE_WORDS, _MOST_OF_AN_ARENA, _MOST_THREADS = 254, 1 << 42, 1 << 22
#: The top may end where the break was so many moves ago, if somebody else has moved it since.
_FOREIGN = 8


def main_heap(
    memory: Memory, start: int, end: int, breaks: Sequence[int] | None = None
) -> WalkedHeap | None:
    """The heap that brk made; None where there is none.

    Args:
        memory: of the target.
        start: start_brk.
        end: the break.
        breaks: every value the break has had, in order; None: it was not seen from the beginning.
    """
    if end <= start:
        return None
    parts: list[Chain] = []
    lately = () if breaks is None else breaks[-_FOREIGN:]
    been = sorted(set(breaks or ()))
    at = start if breaks is None else _first_place(start, breaks)
    chain: Chain | None = follow(memory, memory.layout.align(at), end, arena=False, breaks=lately)
    searched = False
    if chain is not None and not chain.began and breaks is None:
        chain = _searched(memory, at, end, holes=False) or chain
        searched = chain.began
    problem = ""
    while chain is not None:
        parts.append(chain)
        at, problem = chain.at, chain.problem
        if chain.end is not End.FENCE or end - at <= memory.layout.least:
            break
        if memory.out_of_time():
            parts[-1].end, problem = End.TIME, OUT_OF_TIME
            break
        chain = _behind_fences(memory, at, end, been, lately)
        if chain is None and breaks is None:
            chain = _searched(memory, at, end, holes=True)
            searched = True
        if chain is None:
            problem = f"where malloc goes on behind the fences before {at:#x} is not to be seen"
    return _row(memory, parts, problem, {
        "kind": "main", "base": start, "end": end, "searched": searched,
    })  # fmt: skip


def _first_place(start: int, breaks: Sequence[int]) -> int:
    """Where the main arena begins: at start_brk, if malloc has moved the break from there, which
    it does by whole pages (`sysmalloc`); else where the break was moved to.
    """
    moved = next((b for b in breaks if b != start), start)
    return start if (moved - start) % PAGE == 0 else moved


def _behind_fences(
    memory: Memory, at: int, end: int, been: Sequence[int], lately: Container[int]
) -> Chain | None:
    """Where malloc goes on: there, or where the break has been since. None: there is no chunk at
    any of these places.
    """
    later = itertools.islice(been, bisect_right(been, at), bisect_left(been, end))
    for place in itertools.chain((at,), later):
        chain = follow(memory, memory.layout.align(place), end, arena=False, breaks=lately)
        if chain.began:
            return chain
        if memory.out_of_time():
            break
    return None


def _searched(memory: Memory, at: int, end: int, *, holes: bool) -> Chain | None:
    """The first chain from an address on that holds. It may lie behind pages that nobody has
    touched only if there are `holes` in what precedes it, and never behind swapped ones.
    """
    align = memory.layout.align
    for place in _candidates(memory, align(at), min(end, at + _SEARCH), end, holes=holes):
        chain = follow(memory, place, end, arena=False)
        if chain.holds or chain.chunks:
            return chain
    return None


def _candidates(memory: Memory, at: int, until: int, end: int, *, holes: bool) -> Iterator[int]:
    """Where a chunk could be that ends before `end`, the one below it in use."""
    word, least = memory.layout.word, memory.layout.least
    while at < until and not memory.out_of_time():
        if memory.look(at):
            if not holes or memory.page(at) == SWAPPED:
                return
            at = memory.layout.align((at // PAGE + 1) * PAGE)
            continue
        base, words = memory.base, memory.words
        stop = min(base + len(words) * word, until)
        heads = words[(at - base) // word + 1 : (stop - base) // word : 16 // word]
        for i, w in enumerate(heads.tolist()):
            if w & 15 == PREV_INUSE and least <= w <= end - at - 16 * i:
                yield at + 16 * i
        at += 16 * max(len(heads), 1)


# -- thread arenas ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heap:
    """A heap_info at `base`: `head` is its own size, the other fields are its own."""

    base: int
    arena: int
    prev: int
    size: int
    opened: int
    head: int


def heaps_at(memory: Memory, bases: Iterable[int]) -> Iterator[Heap]:
    """What may be heaps of thread arenas.

    Args:
        memory: of the target.
        bases: multiples of HEAP_MAX_SIZE that are mapped, read and write.
    """
    for base in bases:
        heap = _heap(memory, base)
        if heap is not None:
            yield heap
        if memory.out_of_time():
            break


def arenas(memory: Memory, found: Iterable[Heap]) -> Iterator[WalkedHeap]:
    """The heaps of thread arenas among these."""
    heaps = {h.base: h for h in found}
    firsts = {h.base + h.head for h in heaps.values() if h.arena == h.base + h.head and not h.prev}
    older = {h.prev for h in heaps.values() if h.arena in firsts}
    for heap in heaps.values():
        if heap.arena in firsts:
            row = _arena_heap(memory, heap, newest=heap.base not in older)
            if row is not None:
                yield row


def _heap(memory: Memory, base: int) -> Heap | None:
    """What is at a base, if it can be a heap_info."""
    if not memory.holds(base):
        return None
    layout = memory.layout
    fields: list[int] = []
    for i in range(0, 6, 2):
        got = memory.header(base + i * layout.word)
        if isinstance(got, str):
            return None
        fields += got
    arena, prev, size, opened, page = fields[:5]
    place = arena & (layout.heap_max - 1)
    if (
        not 0 < size <= opened <= layout.heap_max
        or (size | opened) & (PAGE - 1)
        or place not in layout.heads
        or prev & (layout.heap_max - 1)
    ):
        return None
    if place == layout.heads[0] and layout.word == 8 and page != PAGE:
        return None
    return Heap(base, arena, prev, size, opened, place)


def _arena_heap(memory: Memory, heap: Heap, *, newest: bool) -> WalkedHeap | None:
    """One heap of an arena; None if the arena's first has no chunk where it must be: it is none."""
    end = heap.base + heap.size
    first = heap.base + heap.head
    if heap.arena == first:
        place = _behind_the_state(memory, heap)
        if place is None:
            return None
        first = place
    chain = follow(memory, first, end, arena=True)
    problem = chain.problem
    if chain.holds and (chain.end is End.TOP) is not newest:
        which = "newest" if newest else "a newer"
        problem = f"the arena's top is not where it should be, in its {which} heap"
    return _row(memory, [chain], problem, {
        "kind": "arena", "base": heap.base, "end": end, "opened": heap.opened,
        "arena": heap.arena - heap.head,
    })  # fmt: skip


def _behind_the_state(memory: Memory, heap: Heap) -> int | None:
    """The first chunk of an arena: behind its `malloc_state`, whose size differs from version to
    version, and whose last fields are `next`, `next_free`, `attached_threads`, `system_mem` and
    `max_system_mem`.
    """
    word = memory.layout.word
    start = heap.base + heap.head
    if memory.look(start):
        return None
    words, i = memory.words, (start - memory.base) // word
    for at in range(i + _STATE_WORDS, min(i + 4096 // word, len(words) - 2)):
        now, most = words[at], words[at + 1]
        if (
            heap.size <= now <= most < _MOST_OF_AN_ARENA
            and not (now | most) % PAGE
            and words[at - 1] < _MOST_THREADS
            and words[at - 3]
            and not words[at - 3] % word
        ):
            return memory.layout.align(memory.base + (at + 2) * word)
    return None


# -- the result -------------------------------------------------------------------------------


def _row(memory: Memory, parts: list[Chain], problem: str, fields: dict[str, Any]) -> WalkedHeap:
    """As the record has it: what was counted only if all of it held, or time was lacking."""
    base, end, complete = fields["base"], fields["end"], not problem
    fields |= {
        "complete": complete, "problem": problem or None,
        "resident": memory.resident(base // PAGE * PAGE, -(-end // PAGE) * PAGE),
    }  # fmt: skip
    if parts:
        fields |= {"first": parts[0].first, "walked": parts[-1].at}
    if not complete and not (parts and parts[-1].end is End.TIME):
        return WalkedHeap(**fields)
    last = parts[-1]
    chunks, free_chunks = sum(c.chunks for c in parts), sum(c.free_chunks for c in parts)
    used, free = sum(c.used for c in parts), sum(c.free for c in parts)
    fields |= {
        "chunks": chunks, "used": used, "used_chunks": chunks - free_chunks,
        "free": free, "free_chunks": free_chunks, "largest_free": max(c.largest for c in parts),
        "free_resident": sum(c.free_resident for c in parts),
    }  # fmt: skip
    if complete:
        fields["other"] = end - base - used - free - (last.top[1] if last.top else 0)
    if last.top is not None:
        fields |= {"top": last.top, "top_resident": _top_resident(memory, *last.top)}
        fields |= {"pin": last.pin, "below_pin": last.below}
    return WalkedHeap(**fields)


def _top_resident(memory: Memory, address: int, size: int) -> int | None:
    """What `systrim` could give back of the top: whole pages, at its end, all but MINSIZE of it."""
    end = address + size
    return memory.resident(end - max(size - memory.layout.least - 1, 0) // PAGE * PAGE, end)
