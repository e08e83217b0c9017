# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk of malloc's heaps: what holds together is counted, what does not is told of."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.collect.heaps import BASE, PAGE, Image

from memtrace.collect.chain import LAYOUT_32, LAYOUT_64, NON_MAIN_ARENA, SWAPPED
from memtrace.collect.heapwalk import arenas, heaps_at, main_heap
from memtrace.trace.records import WalkedHeap

A64, B64 = 64 << 20, 128 << 20  # where arenas can be


@pytest.fixture
def image() -> Image:
    return Image()


def heap(image: Image, *, end: int = 0, breaks: list[int] | None = None) -> WalkedHeap:
    """The main heap from the image's base to its end."""
    row = main_heap(image.memory(), image.base, end or image.end, breaks)
    assert row is not None
    image.assert_only_pages_in_memory_were_read()
    return row


def rows_at(image: Image, *bases: int) -> list[WalkedHeap]:
    """The heaps of arenas that begin there."""
    memory = image.memory()
    return list(arenas(memory, heaps_at(memory, bases)))


def is_broken(row: WalkedHeap, problem: str) -> bool:
    """Not walked to the end, for this reason, and without a number."""
    assert not row.complete
    assert row.problem is not None
    counted = (row.chunks, row.used, row.free, row.largest_free, row.top, row.pin, row.other)
    assert counted == (None,) * 7
    return problem in row.problem


# -- what is counted ------------------------------------------------------------------------------


def test_used_free_and_top_are_counted(image: Image) -> None:
    image.chunks(BASE, 0x290, 0x40, -0x1000, 0x30, -0x500, 0x20, 0x21000 - 0x1820)
    image.pad(BASE + 0x21000)
    row = heap(image)
    assert (row.complete, row.problem, row.searched) == (True, None, False)
    assert (row.chunks, row.used_chunks, row.free_chunks) == (6, 4, 2)
    assert (row.used, row.free, row.largest_free) == (0x290 + 0x40 + 0x30 + 0x20, 0x1500, 0x1000)
    assert row.top == (BASE + 0x1820, 0x21000 - 0x1820)
    assert row.pin == (BASE + 0x1800, 0x20)
    assert (row.below_pin, row.other) == (0x500, 0)
    assert (row.first, row.walked) == (BASE, BASE + 0x21000)


def test_a_heap_that_is_all_top(image: Image) -> None:
    image.chunks(BASE, 0x21000)
    image.pad(BASE + 0x21000)
    row = heap(image)
    assert (row.complete, row.chunks, row.used, row.free, row.pin) == (True, 0, 0, 0, None)
    assert row.top == (BASE, 0x21000)


def test_no_heap_is_no_row(image: Image) -> None:
    assert main_heap(image.memory(), BASE, BASE) is None


def test_nothing_free_right_below_the_pin(image: Image) -> None:
    image.chunks(BASE, 0x290, -0x40, 0x30, 0x20, 0x1000 - 0x320)
    row = heap(image, end=BASE + 0x1000)
    assert (row.pin, row.below_pin) == ((BASE + 0x300, 0x20), 0)


def test_chunks_larger_than_what_is_read_at_once_and_very_many(image: Image) -> None:
    small = [0x20, -0x30, 0x40] * 40_000
    image.chunks(BASE, *small, 3 << 20, 0x40, -(5 << 20), 0x30, 0x1000)
    image.pad(image.end + 0x1000)
    size = 40_000 * 0x90 + (8 << 20) + 0x70 + 0x1000
    row = heap(image, end=BASE + size)
    assert row.complete
    assert (row.chunks, row.free_chunks) == (120_004, 40_001)
    assert (row.free, row.largest_free) == (40_000 * 0x30 + (5 << 20), 5 << 20)
    assert (row.used or 0) + (row.free or 0) + 0x1000 == size


def test_pages_inside_a_chunk_need_not_be_there(image: Image) -> None:
    image.chunks(BASE, 0x290, -0x8000, 0x40, 0x10000 - 0x82D0)
    image.pad(BASE + 0x10000)
    first = BASE // PAGE
    image.states |= {first + 3: 0, first + 4: SWAPPED, first + 5: 0, first + 15: 0}
    row = heap(image)
    assert row.complete
    assert row.resident == 12 * PAGE
    # Of the free chunk, whole pages 1 to 7; the header is in page 0, the last bytes in page 8.
    assert row.free_resident == (7 - 3) * PAGE
    # `systrim` keeps MINSIZE and a byte of the top, which begins in page 8.
    assert row.top_resident == (7 - 1) * PAGE


def test_a_header_in_a_page_that_is_not_in_memory_ends_the_walk(image: Image) -> None:
    image.chunks(BASE, 0x290, 0x3000, 0x40, 0x5000 - 0x32D0)
    image.pad(BASE + 0x5000)
    image.states[BASE // PAGE + 3] = 0
    assert is_broken(heap(image), f"{BASE + 0x3290:#x} is not in memory")


def test_a_swapped_page_is_not_read(image: Image) -> None:
    image.chunks(BASE, 0x290, 0x3000, 0x40, 0x5000 - 0x32D0)
    image.states[BASE // PAGE] = SWAPPED
    assert is_broken(heap(image, end=BASE + 0x5000, breaks=[]), "is swapped out")
    assert is_broken(heap(image, end=BASE + 0x5000), "is swapped out")
    image.states = {BASE // PAGE + 3: SWAPPED}
    assert is_broken(heap(image, end=BASE + 0x5000), "is swapped out")


# -- what does not hold ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        (0, "no chunk follows"),
        (0x18, "no chunk follows"),
        (0x31 | 2, "no chunk follows"),  # IS_MMAPPED
        (0x31 | 4, "no chunk follows"),  # of an arena
        (0x38 | 1, "no chunk follows"),  # no multiple of 16
        (0x7FFF_FFFF_FFF1, "reach over the end"),
        (0x41, "no chunk follows"),  # into the middle of the next
        (0x30, "is not what the next one says"),  # the one below is not free
    ],
)  # fmt: skip
def test_a_header_that_was_written_over(image: Image, word: int, problem: str) -> None:
    image.chunks(BASE, 0x290, 0x40, 0x30, 0x50, 0x2000 - 0x350)
    image.pad(BASE + 0x2000)
    image.word(BASE + 0x2D0 + 8, word)
    assert is_broken(heap(image, breaks=[BASE, BASE + 0x2000]), problem)


def test_the_size_of_a_free_chunk_is_written_twice(image: Image) -> None:
    image.chunks(BASE, 0x290, -0x40, 0x30, 0x2000 - 0x300)
    image.word(BASE + 0x2D0, 0x50)
    assert is_broken(heap(image, end=BASE + 0x2000), "is not what the next one says")


def test_two_free_neighbours_would_be_one(image: Image) -> None:
    image.chunks(BASE, 0x290, -0x40, -0x50, 0x30, 0x2000 - 0x350)
    assert is_broken(heap(image, end=BASE + 0x2000), "is not what the next one says")


def test_a_free_chunk_below_the_top_would_be_part_of_it(image: Image) -> None:
    image.chunks(BASE, 0x290, -0x40, 0x2000 - 0x2D0)
    assert is_broken(heap(image, end=BASE + 0x2000), "a free chunk ends at the top")


def test_a_heap_that_is_not_mallocs(image: Image) -> None:
    image.pad(BASE + 0x3000)
    assert is_broken(heap(image, breaks=[BASE, BASE + 0x3000]), "no chunk of glibc's malloc begins")
    assert is_broken(heap(image), "no chunk of glibc's malloc begins")


def test_a_broken_chain_is_not_passed_over_for_one_further_up(image: Image) -> None:
    image.chunks(BASE, 0x290, 0x40, 0x30, 0x2000 - 0x300, 0x40, 0x2000 - 0x40)
    image.pad(BASE + 0x4000)
    image.word(BASE + 0x2D0 + 8, 0)
    breaks = [BASE, BASE + 0x2000, BASE + 0x4000]  # at the second a chunk begins
    row = heap(image, breaks=breaks)
    assert is_broken(row, "no chunk follows")
    assert (row.first, row.walked) == (BASE, BASE + 0x290)
    assert is_broken(heap(image), "no chunk follows")


def test_too_many_chunks_for_the_time(image: Image) -> None:
    image.chunks(BASE, *[0x20, -0x40, 0x30] * 50_000, 0x1000)
    image.patience = 3
    row = heap(image, end=BASE + 50_000 * 0x90 + 0x1000)
    assert not row.complete
    assert "more chunks than" in (row.problem or "")
    assert row.walked is not None
    assert 0 < row.walked - BASE == (row.used or 0) + (row.free or 0) < 50_000 * 0x90
    assert (row.chunks or 0) > 1000
    assert (row.top, row.other) == (None, None)


# -- others in the heap's area --------------------------------------------------------------------


def test_malloc_begins_where_the_break_was(image: Image) -> None:
    """As in a static program, whose thread-local storage comes first."""
    for i in range(0, 0xD40, 8):
        image.word(BASE + i, 0x21)
    start = BASE + 0xD40
    image.chunks(start, 0x290, 0x30, 0x21000 - 0x2C0)
    image.pad(start + 0x21000)
    row = heap(image, breaks=[BASE, start - 8, start + 0x21000])
    assert row.complete
    assert (row.first, row.other, row.searched) == (start, 0xD40, False)


def test_without_the_breaks_it_is_searched_and_that_is_told(image: Image) -> None:
    for i in range(0, 0x3D40, 8):
        image.word(BASE + i, i * 0x1234567)
    start = BASE + 0x3D40
    image.chunks(start, 0x290, 0x30, 0x21000 - 0x2C0)
    image.pad(start + 0x21000)
    row = heap(image)
    assert row.complete
    assert (row.first, row.other, row.searched) == (start, 0x3D40, True)
    image.states[BASE // PAGE + 1] = 0  # what was there is not to be known: chunks, perhaps
    image.asked.clear()
    assert is_broken(heap(image), "no chunk of glibc's malloc begins")


def fenced(image: Image, at: int) -> int:
    """Chunks, what is left of the top as a free chunk, and the two fences behind it."""
    at = image.chunks(at, 0x290, 0x50, -0xD00)
    image.word(at + 8, 0x10)
    image.word(at + 16 + 8, 0x11)
    return at + 32


def test_malloc_goes_on_behind_somebodys_sbrk(image: Image) -> None:
    fence = fenced(image, BASE)
    again = fence + 3 * PAGE + 24
    image.chunks(again + 8, 0x60, -0x100, 0x20, 0x1000)
    end = again + 8 + 0x1180
    image.pad(end)
    row = heap(image, breaks=[BASE, fence, again, end])
    assert row.complete
    assert (row.chunks, row.free, row.largest_free) == (6, 0xE00, 0xD00)
    assert row.other == 32 + 3 * PAGE + 32
    assert row.top == (end - 0x1000, 0x1000)
    assert row.first == BASE
    assert heap(image).searched  # by who has not seen the break move


def test_fences_at_the_end_malloc_has_its_top_elsewhere(image: Image) -> None:
    """Its heap could not grow (`sysmalloc_mmap_fallback`)."""
    fence = fenced(image, BASE)
    row = heap(image, end=fence)
    assert (row.complete, row.top, row.pin, row.other) == (True, None, None, 32)
    assert (row.chunks, row.used_chunks, row.free) == (3, 2, 0xD00)


def test_fences_and_nothing_to_be_seen_behind_them(image: Image) -> None:
    fence = fenced(image, BASE)
    image.pad(fence + 0x4000)
    assert is_broken(heap(image, breaks=[BASE, fence, fence + 0x4000]), "behind the fences")


def test_the_top_may_end_where_the_break_was(image: Image) -> None:
    end = image.chunks(BASE, 0x290, 0x50, 0x2000 - 0x2E0)
    image.pad(end + 0x1000)
    for i in range(0, 0x1000, 8):
        image.word(end + i, 0xFFFF_FFFF)
    breaks = [BASE, end, end + 0x1000]
    row = heap(image, breaks=breaks)
    assert (row.complete, row.top, row.other) == (True, (BASE + 0x2E0, 0x2000 - 0x2E0), 0x1000)
    image.states[end // PAGE] = 0  # or nobody has touched it
    image.asked.clear()
    assert heap(image, breaks=breaks) == replace(row, resident=(row.resident or 0) - PAGE)
    assert is_broken(heap(image), "")  # for all that is known, a header was written over


# -- i386 -----------------------------------------------------------------------------------------


def test_i386(image: Image) -> None:
    image = Image(LAYOUT_32, 0x5655_5000)
    base = image.base
    image.chunks(base + 8, 0x190, 0x10, -0x1000, 0x20, 0x4000 - 0x11C8)
    image.pad(base + 0x4000)
    row = heap(image)
    assert row.complete
    assert (row.used, row.free, row.other) == (0x190 + 0x10 + 0x20, 0x1000, 8)
    assert row.top == (base + 0x11C8, 0x4000 - 0x11C8)
    assert row.pin == (base + 0x11A8, 0x20)


def test_i386_fences_leave_eight_bytes() -> None:
    image = Image(LAYOUT_32, 0x5655_5000)
    at = image.chunks(image.base + 8, 0x190, 0x20, -0xE30)
    image.word(at + 4, 8)
    image.word(at + 8 + 4, 9)
    old = at + 24
    end = old + 0x2000
    image.chunks(old + 8, 0x30, 0x2000 - 0x38)
    image.pad(end)
    row = heap(image, end=end, breaks=[image.base, old, end])
    assert row.complete
    assert (row.free, row.chunks) == (0xE30, 4)


# -- thread arenas --------------------------------------------------------------------------------


def arena_heap(
    image: Image, base: int, size: int, *, arena: int, prev: int = 0, page: int = PAGE
) -> None:
    """A heap_info of glibc 2.35 and later."""
    image.pad(base + size)
    for i, word in enumerate((arena, prev, size, size + 2 * PAGE, page)):
        image.word(base + 8 * i, word)


def one_arena(image: Image, base: int = A64, head: int = 0x30) -> int:
    """An arena with one heap of 33 pages; returns where its first chunk is."""
    arena_heap(image, base, 33 * PAGE, arena=base + head, page=PAGE if head == 0x30 else 0)
    first = base + head + 0x8A0
    # malloc_state ends with next, next_free, attached_threads, system_mem, max_system_mem; its bins
    # hold pointers, which may be whole pages.
    for i in range(100, 250):
        image.word(base + head + 8 * i, base + 32 * PAGE)
    for i, word in enumerate((0x7F0000000C60, 0, 3, 33 * PAGE, 40 * PAGE)):
        image.word(first - 48 + 8 * i, word)
    image.chunks(first, 0x290, 0x60, flags=NON_MAIN_ARENA)
    image.chunk(first + 0x2F0, 0x400, used=False, flags=0)
    image.chunk(first + 0x6F0, 0x40, used=True, below=0x400, flags=NON_MAIN_ARENA)
    image.chunk(first + 0x730, base + 33 * PAGE - first - 0x730, used=True)
    return first


@pytest.mark.parametrize("head", [0x30, 0x20])
def test_an_arena(head: int) -> None:
    image = Image(base=A64)
    first = one_arena(image, head=head)
    (row,) = rows_at(image, A64)
    assert (row.kind, row.base, row.end, row.arena) == ("arena", A64, A64 + 33 * PAGE, A64)
    assert row.opened == 35 * PAGE
    assert (row.complete, row.first) == (True, first)
    assert (row.used, row.free, row.free_chunks) == (0x290 + 0x60 + 0x40, 0x400, 1)
    assert row.top == (first + 0x730, A64 + 33 * PAGE - first - 0x730)
    assert row.pin == (first + 0x6F0, 0x40)
    assert row.below_pin == 0x400
    assert row.other == first - A64


def test_an_arena_with_two_heaps_has_one_top() -> None:
    image = Image(base=A64)
    first = one_arena(image)
    # The old top has become a free chunk, a fence and a chunk of no size (`sysmalloc`).
    top, end = first + 0x730, A64 + 33 * PAGE
    image.chunk(top, end - 32 - top, used=False)
    image.word(end - 32 + 8, 0x10)
    image.word(end - 16 + 8, 1)
    arena_heap(image, B64, 2 * PAGE, arena=A64 + 0x30, prev=A64)
    image.chunk(B64 + 0x30, 0x1000, used=True, flags=NON_MAIN_ARENA)
    image.chunk(B64 + 0x1030, 2 * PAGE - 0x1030, used=True)
    old, new = rows_at(image, A64, B64)
    assert (old.complete, old.top, old.free) == (True, None, 0x400 + end - 32 - top)
    assert (old.other, old.arena) == (first - A64 + 32, A64)
    assert (new.complete, new.top, new.used) == (True, (B64 + 0x1030, PAGE - 0x30), 0x1000)
    assert (new.other, new.arena, new.pin) == (0x30, A64, (B64 + 0x30, 0x1000))


def test_what_is_no_arena_is_not_told_of() -> None:
    image = Image(base=A64)
    image.pad(A64 + 8 * PAGE)
    assert rows_at(image, A64) == []
    arena_heap(image, A64, 8 * PAGE, arena=A64 + 0x30)  # two words that look like it, no chunks
    assert rows_at(image, A64) == []
    assert rows_at(image, B64) == []


@pytest.mark.parametrize(
    ("word", "value"),
    [(0, A64 + 0x48), (0, B64 + 0x30), (1, 0x1000), (2, 0), (2, 33 * PAGE + 8), (3, 32 * PAGE),
     (3, 65 << 20), (4, 8192)],
)  # fmt: skip
def test_a_heap_info_that_cannot_be(word: int, value: int) -> None:
    image = Image(base=A64)
    one_arena(image)
    image.word(A64 + 8 * word, value)
    assert rows_at(image, A64) == []


def test_an_arena_whose_chunks_do_not_hold() -> None:
    image = Image(base=A64)
    first = one_arena(image)
    image.word(first + 0x290 + 8, 0x61)  # a used chunk of an arena has NON_MAIN_ARENA
    (row,) = rows_at(image, A64)
    assert is_broken(row, "is of another arena")
    image.word(first + 0x290 + 8, 0x10000065)
    (row,) = rows_at(image, A64)
    assert is_broken(row, "reach over the end")
    image.word(first + 8, 0)
    (row,) = rows_at(image, A64)
    assert is_broken(row, "no chunk of glibc's malloc begins")


def test_an_arenas_heap_without_the_top_it_should_have() -> None:
    image = Image(base=A64)
    first = one_arena(image)
    top, end = first + 0x730, A64 + 33 * PAGE
    image.chunk(top, end - 32 - top, used=False)
    image.word(end - 32 + 8, 0x10)
    image.word(end - 16 + 8, 1)
    (row,) = rows_at(image, A64)
    assert is_broken(row, "the arena's top is not where it should be")


def test_layouts() -> None:
    assert LAYOUT_64.align(0x1001) == 0x1010
    assert LAYOUT_64.align(0x1000) == 0x1000
    assert [LAYOUT_32.align(a) for a in (0x1000, 0x1008, 0x1009)] == [0x1008, 0x1008, 0x1018]


# -- what a program may have left there to mislead ------------------------------------------------


def test_a_size_of_nothing_where_the_break_was_does_not_lead_in_circles(image: Image) -> None:
    image.chunks(BASE, 0x100, 0x1F00)
    image.word(BASE + 0x2008, 1)  # somebody's own number, behind the top
    image.pad(BASE + 0x4000)
    row = heap(image, breaks=[BASE, BASE + 0x2000, BASE + 0x4000])
    assert (row.complete, row.chunks, row.top) == (True, 1, (BASE + 0x100, 0x1F00))


def test_a_header_across_the_end_of_what_is_in_memory(image: Image) -> None:
    image.word(BASE + 8, 0xFF8 | 1)  # no size that malloc makes: the next would begin at ...ff8
    image.pad(BASE + 0x4000)
    image.states[BASE // PAGE + 1] = 0
    assert is_broken(heap(image, breaks=[BASE, BASE + 0x4000]), "only partly in memory")


def test_fences_across_the_end_of_what_is_in_memory(image: Image) -> None:
    image.word(BASE + 8, 0xFE8 | 1)
    image.word(BASE + 0xFE8 + 8, 0x10 | 1)  # one fence, and no room for the word behind it
    image.pad(BASE + 0x4000)
    image.states[BASE // PAGE + 1] = 0
    assert is_broken(heap(image, breaks=[BASE, BASE + 0x4000]), "no chunk follows")


def test_a_break_that_somebody_has_put_at_the_end_of_the_world(image: Image) -> None:
    """prctl(PR_SET_MM): there are more pages than can be looked at."""
    image.chunks(BASE, 0x100, -0x1000, 0x20, (1 << 46) - 0x1120)
    image.pad(BASE + 0x3000)
    image.patience = 1000
    row = heap(image, end=BASE + (1 << 46))
    assert (row.complete, row.used, row.free, row.resident) == (True, 0x120, 0x1000, None)
    assert row.top_resident is None


def test_a_free_chunk_of_the_size_of_the_world_takes_its_time(image: Image) -> None:
    image.word(BASE + 8, 1 << 45 | 1)
    image.word(BASE + (1 << 13) + 8, 1)
    image.patience = 100
    end = BASE + (1 << 46)
    memory = image.memory()
    memory._read = lambda a, n: (
        image._read(a, n) if a < BASE + (1 << 40) else (1 << 45).to_bytes(8, "little") * (n // 8)
    )
    memory._present = lambda a, n: bytes([1]) * (n // PAGE)
    row = main_heap(memory, BASE, end, None)
    assert row is not None
    assert not row.complete
    assert row.free_chunks in (None, 0)


def test_many_foreign_parts_take_no_more_than_the_time(image: Image) -> None:
    at, breaks = BASE, [BASE, BASE + PAGE]
    for _ in range(3000):
        image.chunk(at, 0x20, used=True)
        for fence in (at + 0x20, at + 0x30):
            image.word(fence + 8, 0x11)
        breaks.append(at + 0x40)
        at += 0x60  # somebody else's 32 bytes
        image.pad(at)
        breaks.append(at)
    image.chunk(at, 0x1000, used=True)
    image.pad(at + 0x1000)
    everything = heap(image, breaks=breaks)
    assert (everything.complete, everything.used_chunks) == (True, 3000)
    image.patience = 100
    row = heap(image, breaks=breaks)
    assert (row.complete, row.walked) == (False, row.walked)
    assert row.used_chunks is not None
    assert row.used_chunks < 200
