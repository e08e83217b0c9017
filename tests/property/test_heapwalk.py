# SPDX-License-Identifier: GPL-2.0-or-later
"""Heaps of any shape, whose truth is known: counted exactly, and damaged ones never wrongly."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.collect.heaps import BASE, PAGE, Image

from memtrace.collect.chain import LAYOUT_32, LAYOUT_64, Layout
from memtrace.collect.heapwalk import arenas, heaps_at, main_heap
from memtrace.trace.records import WalkedHeap

LAYOUTS = (LAYOUT_64, LAYOUT_32)


@dataclass(frozen=True)
class Truth:
    """A heap and what is in it; `headers` is where each chunk begins, the top last."""

    image: Image
    end: int
    breaks: list[int]
    sizes: list[int]  # free ones negative, without the top
    other: int
    headers: list[int]
    resumed: list[int]

    @property
    def used(self) -> int:
        return sum(s for s in self.sizes if s > 0)

    @property
    def free(self) -> int:
        return -sum(s for s in self.sizes if s < 0)

    def walked(self) -> WalkedHeap:
        row = main_heap(self.image.memory(), self.image.base, self.end, self.breaks)
        assert row is not None
        return row


@st.composite
def chunk_sizes(draw: st.DrawFn, layout: Layout) -> list[int]:
    """Sizes of chunks in a row: no two neighbours are free, the last is in use."""
    small = st.integers(layout.least // 16, 12).map(lambda n: 16 * n)
    large = st.integers(layout.least // 16, 3000).map(lambda n: 16 * n)
    sizes: list[int] = []
    for size, free in draw(st.lists(st.tuples(small | large, st.booleans()), max_size=40)):
        sizes.append(-size if free and sizes and sizes[-1] > 0 else size)
    if sizes and sizes[-1] < 0:
        sizes.append(draw(small))
    return sizes


@st.composite
def heaps(draw: st.DrawFn) -> Truth:
    """One or more parts of the main arena, with somebody else's between, before and behind."""
    layout = draw(st.sampled_from(LAYOUTS))
    image = Image(layout, 0x5655_5000)
    at, breaks, sizes, other = image.base, [image.base], [], 0
    headers: list[int] = []
    resumed: list[int] = []
    parts = draw(st.integers(1, 3))
    before = draw(st.just(0) | st.integers(1, 3000))
    for i in range(parts):
        if before:  # sbrk
            at += before
            breaks.append(at)
            image.pad(at)
        first = layout.align(at)
        other += first - at + before
        row = draw(chunk_sizes(layout))
        resumed += [first] if i else []
        begin = first
        for size in row:
            headers.append(begin)
            begin += abs(size)
        end = -(-(begin + layout.least + 64) // PAGE) * PAGE
        if i < parts - 1:
            # The old top: a free chunk, unless the one below it is free, and two fences.
            room = (end - 2 * layout.fence - begin) // 16 * 16
            row.append(-room)
            image.chunks(first, *row)
            fence = begin + room
            image.word(fence, room)
            image.word(fence + layout.word, layout.fence)
            image.word(fence + layout.fence + layout.word, layout.fence | 1)
            other += end - fence
            headers.append(begin)
        else:
            image.chunks(first, *row, end - begin)
            headers.append(begin)
        sizes += row
        image.pad(end)
        at = end
        breaks.append(at)
        before = draw(st.integers(1, 3000))
    return Truth(image, at, breaks, sizes, other, headers, resumed)


@settings(max_examples=300, deadline=None)
@given(heaps())
def test_every_heap_is_counted_exactly(truth: Truth) -> None:
    row = truth.walked()
    truth.image.assert_only_pages_in_memory_were_read()
    assert (row.complete, row.problem) == (True, None)
    assert (row.used, row.free, row.other) == (truth.used, truth.free, truth.other)
    assert row.chunks == len(truth.sizes)
    assert row.free_chunks == sum(s < 0 for s in truth.sizes)
    assert row.largest_free == max((-s for s in truth.sizes if s < 0), default=0)
    assert row.top == (truth.headers[-1], truth.end - truth.headers[-1])


@settings(max_examples=300, deadline=None)
@given(heaps(), st.data())
def test_a_header_written_over_is_noticed(truth: Truth, data: st.DataObject) -> None:
    word = truth.image.layout.word
    value = data.draw(st.integers(0, 2 ** (8 * word) - 1) | st.integers(0, 200))
    before = truth.walked()
    # But for the first behind somebody else's memory: as little can be told from that memory.
    own = [h for h in truth.headers if h not in truth.resumed]
    at = data.draw(st.sampled_from(own)) + word
    size = int.from_bytes(truth.image.data[at - truth.image.base :][:word], "little")
    if value & ~7 != size & ~7:
        # Some other sizes fit: those that lead to the header of a later chunk.
        others = {h - at + word for h in truth.headers} | {truth.end - at + word}
        if value & ~7 in others:
            return
    truth.image.word(at, value)
    row = truth.walked()
    assert not row.complete or row == before


@settings(max_examples=200, deadline=None)
@given(heaps(), st.data())
def test_with_pages_gone_nothing_else_is_said(truth: Truth, data: st.DataObject) -> None:
    first, last = truth.image.base // PAGE, truth.end // PAGE
    pages = set(range(first, last)) - {h // PAGE for h in truth.resumed}
    gone = data.draw(st.lists(st.sampled_from(sorted(pages)), max_size=3)) if pages else []
    before = truth.walked()
    truth.image.asked.clear()
    truth.image.states |= {n: data.draw(st.sampled_from((0, 2))) for n in gone}
    row = truth.walked()
    truth.image.assert_only_pages_in_memory_were_read()
    if row.complete:
        assert (row.used, row.free, row.top) == (before.used, before.free, before.top)
        assert row.resident == before.resident - PAGE * len(set(gone))  # type: ignore[operator]
    else:
        assert (row.used, row.free, row.top) == (None, None, None)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_words_are_walked_to_an_end(data: st.DataObject) -> None:
    """Whatever a program writes: no error, no endless chain, no page that is not in memory."""
    layout = data.draw(st.sampled_from(LAYOUTS))
    pages = data.draw(st.integers(1, 4))
    image = Image(layout, data.draw(st.sampled_from((BASE, layout.heap_max))))
    size = st.integers(0, 40) | st.integers(0, pages * PAGE // 8).map(lambda n: 8 * n)
    size |= st.sampled_from((PAGE - 8, PAGE - 4, 0x20, 0x1000))
    words = size | size.map(lambda n: n | 1) | st.integers(0, 2**32 - 1)
    place = st.integers(0, pages * PAGE // 8 - 1).map(lambda n: 8 * n)
    image.pad(image.base + pages * PAGE)
    for at, word in data.draw(st.lists(st.tuples(place, words), max_size=20)):
        image.word(image.base + at, word)
    at = layout.align(image.base)  # a chain that leads somewhere
    for step in data.draw(st.lists(size, max_size=8)):
        if at + 2 * layout.word <= image.end:
            image.word(at + layout.word, step | 1)
            at = at + max(step, layout.word)
    if at + 2 * layout.word <= image.end:
        image.word(at + layout.word, data.draw(st.sampled_from((0, 1, 9, 17, 33))))
    gone = data.draw(st.sets(st.integers(1, pages)))
    image.states = {image.base // PAGE + n: 0 for n in gone}
    breaks = data.draw(st.none() | st.lists(place.map(lambda n: n + image.base), max_size=8))
    if breaks is not None:
        breaks = [image.base, image.base + PAGE, *breaks, at, image.end]
    row = main_heap(image.memory(), image.base, image.end, breaks)
    assert row is not None
    if row.complete:
        total = row.used, row.free, row.other, row.top[1] if row.top else 0
        assert sum(n or 0 for n in total) == image.end - image.base
    memory = image.memory()
    list(arenas(memory, heaps_at(memory, [image.base])))
    image.assert_only_pages_in_memory_were_read()
