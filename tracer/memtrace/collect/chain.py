# SPDX-License-Identifier: GPL-2.0-or-later
"""One chain of glibc's chunk headers, followed through memory that may not be what it should be.

A chunk begins with two words: the size of the chunk below it, kept only while that one is free, and
its own size, whose low bits are flags: PREV_INUSE (1), IS_MMAPPED (2), NON_MAIN_ARENA (4) (`struct
malloc_chunk`). The next one begins where it ends, so the headers are a chain from the first chunk
to the top. Everything that malloc keeps true is held against each link; the first that does not
hold ends the chain. Pure: memory comes from two functions, and only pages in memory are read.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from memtrace.trace.sizes import PAGE

PREV_INUSE, IS_MMAPPED, NON_MAIN_ARENA = 1, 2, 4
_FLAGS = 7
_ALIGNMENT = 16  # MALLOC_ALIGNMENT
_WINDOW_PAGES, _BLOCK_PAGES = 256, 4096

OUT_OF_TIME = "there are more chunks than could be read in the time"
#: The bytes at an address, fewer or None where they cannot be read.
Read = Callable[[int, int], bytes | None]
#: One byte for each page from an address on, for so many bytes: PRESENT, SWAPPED or 0.
Present = Callable[[int, int], bytes]
PRESENT, SWAPPED = 1, 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes in bytes. `word` is SIZE_SZ; chunks begin at `phase` modulo 16, so that what malloc
    returns, two words further, is aligned (MALLOC_ALIGNMENT). `least` is MINSIZE. Thread arenas lie
    at multiples of `heap_max` (HEAP_MAX_SIZE) and begin with one of `heads` (sizeof (heap_info)):
    that of glibc 2.35 and later, and that of before.
    """

    word: int
    phase: int
    least: int
    heap_max: int
    heads: tuple[int, ...]

    @property
    def fence(self) -> int:
        """A chunk too small to be one: behind the last chunk of an area that is not the last."""
        return 2 * self.word

    def align(self, address: int) -> int:
        """The first place from an address on at which a chunk may begin."""
        return address + (self.phase - address) % _ALIGNMENT


LAYOUT_64 = Layout(8, 0, 32, 64 << 20, (0x30, 0x20))
LAYOUT_32 = Layout(4, 8, 16, 1 << 20, (0x18,))  # i386, glibc 2.26 and later


class Memory:
    """What of the target is present, and its words. `out_of_time` is asked now and then."""

    def __init__(
        self, read: Read, present: Present, layout: Layout, out_of_time: Callable[[], bool]
    ) -> None:
        self.layout = layout
        self.out_of_time = out_of_time
        self._read = read
        self._present = present
        self._blocks: dict[int, bytes] = {}
        self._format: Literal["Q", "I"] = "Q" if layout.word == 8 else "I"
        self.base = 0
        self.words = memoryview(b"").cast(self._format)

    def _pages(self, number: int) -> bytes:
        """The block of pages that page `number` is in."""
        block = number // _BLOCK_PAGES
        found = self._blocks.get(block)
        if found is None:
            if len(self._blocks) > 64:
                self._blocks.clear()
            size = _BLOCK_PAGES * PAGE
            found = self._blocks[block] = self._present(block * size, size).ljust(
                _BLOCK_PAGES, b"\0"
            )
        return found

    def page(self, address: int) -> int:
        """PRESENT, SWAPPED or 0: the page at an address."""
        number = address // PAGE
        return self._pages(number)[number % _BLOCK_PAGES]

    def holds(self, address: int) -> bool:
        """Whether the page at an address is in memory; asked of it alone."""
        return self._present(address // PAGE * PAGE, PAGE)[:1] == bytes((PRESENT,))

    def resident(self, low: int, high: int) -> int | None:
        """Bytes of pages in memory of the whole pages between two addresses; None if there are so
        many that the time was over before they were counted.
        """
        at, end = -(-low // PAGE), high // PAGE
        count = 0
        while at < end:
            if at // _BLOCK_PAGES not in self._blocks and self.out_of_time():
                return None
            offset = at % _BLOCK_PAGES
            stop = min(_BLOCK_PAGES, offset + end - at)
            count += self._pages(at).count(PRESENT, offset, stop)
            at += stop - offset
        return count * PAGE

    def look(self, address: int) -> str:
        """Make `words` those of the pages in memory from the address's on; why not, or ""."""
        self.base = start = address // PAGE * PAGE
        self.words = memoryview(b"").cast(self._format)
        state = self.page(start)
        if state != PRESENT:
            what = "is swapped out" if state == SWAPPED else "is not in memory"
            return f"the page of the chunk at {address:#x} {what}"
        first = start // PAGE
        offset = first % _BLOCK_PAGES
        run = self._pages(first)[offset : offset + _WINDOW_PAGES]
        length = (len(run) - len(run.lstrip(b"\x01"))) * PAGE
        data = self._read(start, length) or b""
        if len(data) < PAGE:
            return f"the page of the chunk at {address:#x} cannot be read"
        self.words = memoryview(data[: len(data) // PAGE * PAGE]).cast(self._format)
        return ""

    def header(self, address: int) -> tuple[int, int] | str:
        """The two words at an address, or why they are not to be had."""
        word = self.layout.word
        i = (address - self.base) // word
        if not 0 <= i <= len(self.words) - 2:
            why = self.look(address)
            if why:
                return why
            i = (address - self.base) // word
            if i > len(self.words) - 2:  # it lies across the end of what is in memory
                return _cut(address)
        return self.words[i], self.words[i + 1]


def _cut(address: int) -> str:
    return f"the header at {address:#x} is only partly in memory"


class End(Enum):
    """How a chain ended: at the end of its area, with the top; at a place where the break once was
    and where no chunk follows, with the top, too; before fences; with a link that does not hold;
    for lack of time.
    """

    TOP = "top"
    BREAK = "break"
    FENCE = "fence"
    BROKEN = "broken"
    TIME = "time"


@dataclass(slots=True)
class Chain:
    """The chunks from `first` to `at`; sizes are bytes. The `top`, (address, size), is not counted
    among them. `pin` is the chunk right below the top and in use, `below` the size of the free one
    right below that. `free_resident`: of free chunks, the whole pages that are in memory. `began`:
    what is at `first` can be a header.
    """

    first: int
    at: int
    end: End = End.BROKEN
    problem: str = ""
    began: bool = False
    chunks: int = 0
    used: int = 0
    free: int = 0
    free_chunks: int = 0
    largest: int = 0
    free_resident: int = 0
    top: tuple[int, int] | None = None
    pin: tuple[int, int] | None = None
    below: int = 0

    @property
    def holds(self) -> bool:
        """Whether every link of it held."""
        return self.end not in (End.BROKEN, End.TIME)


def follow(
    memory: Memory, first: int, end: int, *, arena: bool, breaks: Container[int] = ()
) -> Chain:
    """Follow the chain from the chunk at `first` to `end`.

    Args:
        memory: of the target.
        first: where a chunk is taken to begin.
        end: where the area ends: the break, or the end of an arena's heap.
        arena: a thread arena's chunks have NON_MAIN_ARENA while they are in use.
        breaks: where the break has been: behind such a place may lie what malloc knows nothing of.
    """
    chain = Chain(first, first)
    layout = memory.layout
    got = memory.header(first)
    if isinstance(got, str):
        chain.problem = got
        return chain
    word, least = layout.word, layout.least
    shift, body = (3 if word == 8 else 2), 6 * word  # sizeof (struct malloc_chunk)
    need = NON_MAIN_ARENA if arena else 0
    # A size is a multiple of 16; only the top's need not be, where chunks begin at 8 modulo 16.
    bad = IS_MMAPPED | 8 | (0 if arena else NON_MAIN_ARENA)
    p = before = first
    cur = got[1]
    size = cur & ~_FLAGS
    if not cur & PREV_INUSE or cur & bad & ~8 or size < least or size > end - first:
        chain.problem = f"no chunk of glibc's malloc begins at {first:#x}"
        return chain
    chain.began = True
    base, words = memory.base, memory.words
    room = len(words) - 1
    chunks = free = free_chunks = largest = free_resident = 0
    free_end = free_size = 0
    how, problem, last = End.BROKEN, "", False
    while True:
        n = p + size
        i = n - base >> shift
        if n >= end or i >= room:
            if n == end:
                how = End.TOP
                break
            if n > end:
                problem = f"the chunk at {p:#x} would reach over the end"
                break
            if memory.out_of_time():
                how, problem = End.TIME, OUT_OF_TIME
                break
            problem = memory.look(n) if n + 2 * word <= end else f"no chunk has room at {n:#x}"
            if problem:
                how = End.BREAK if n in breaks else End.BROKEN
                break
            base, words = memory.base, memory.words
            room = len(words) - 1
            i = n - base >> shift
            if i >= room:
                problem = _cut(n)
                break
        w = words[i + 1]
        if w & bad or w < least:
            fences = _fences(memory, n, w, end, arena=arena)
            if fences:
                how, chain.at, last = End.FENCE, n + fences, True
                if cur & NON_MAIN_ARENA != need and w & PREV_INUSE and size <= 4 * word:
                    break  # what was left of an old top, too small to be freed (`sysmalloc`)
            elif (
                w & (bad & ~8)
                or w <= _FLAGS  # of no size: the chain would go round for ever
                or not (n + (w & ~_FLAGS) == end or n + (w & ~_FLAGS) in breaks)
            ):
                how = End.BREAK if n in breaks else End.BROKEN
                problem = f"no chunk follows the one at {p:#x}"
                break
        if w & PREV_INUSE:
            if cur & NON_MAIN_ARENA != need:
                how, problem = End.BROKEN, f"the chunk at {p:#x} is of another arena"
                break
        else:
            if words[i] != size or not cur & PREV_INUSE:
                how, problem = End.BROKEN, f"the chunk at {p:#x} is not what the next one says"
                break
            if size > PAGE:
                resident = memory.resident(p + body, n)
                if resident is None:
                    how, problem = End.TIME, OUT_OF_TIME
                    break
                free_resident += resident
            free += size
            free_chunks += 1
            if size > largest:
                largest = size
            free_end, free_size = n, size
        chunks += 1
        before, p, cur = p, n, w
        if last:
            break
        size = w & ~_FLAGS
    if how in (End.TOP, End.BREAK):
        if cur & PREV_INUSE:
            chain.top, chain.at, problem = (p, size), p + size, ""
            if before != p:
                chain.pin = before, p - before
                chain.below = free_size if free_end == before else 0
        else:  # it would have become part of the top (`_int_free`)
            how, problem = End.BROKEN, f"a free chunk ends at the top, {p:#x}"
    elif how is not End.FENCE:
        chain.at = p
    chain.end, chain.problem = how, problem
    chain.used = p - first - free
    chain.chunks, chain.free, chain.free_chunks, chain.largest = chunks, free, free_chunks, largest
    chain.free_resident = free_resident
    return chain


def _fences(memory: Memory, at: int, word: int, end: int, *, arena: bool) -> int:
    """Bytes of the fences at an address whose size word is `word`; 0: there are none.

    The old top of the main arena ends with two chunks of two words each, that of a thread arena's
    heap with one and a chunk of no size (`sysmalloc`).
    """
    fence = memory.layout.fence
    if arena:
        left = end - at
        if 0 <= left - fence < _ALIGNMENT and word == PREV_INUSE:
            return left
        if not 0 <= left - 2 * fence < _ALIGNMENT or word & ~PREV_INUSE != fence:
            return 0
        got = memory.header(at + fence)
        return left if not isinstance(got, str) and got[1] == PREV_INUSE else 0
    count = 0
    while word & ~PREV_INUSE == fence and count < 3:
        count += 1
        got = memory.header(at + count * fence) if at + (count + 1) * fence <= end else "the end"
        if isinstance(got, str):
            break
        word = got[1]
        if not word & PREV_INUSE:
            break
    return count * fence if count > 1 else 0
