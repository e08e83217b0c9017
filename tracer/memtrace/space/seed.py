# SPDX-License-Identifier: GPL-2.0-or-later
"""How an address space begins: with the kernel's own map, at an exec or when it was attached to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from memtrace.space.address_space import AddressSpace
from memtrace.space.canonical import DONTFORK, GROWSDOWN, Attr
from memtrace.trace.records import Attach, Start


def seed(space: AddressSpace, record: Start, parsed: Iterable[tuple[int, int, Attr, str]]) -> None:
    """Fill an empty space from the record that begins it.

    At an exec the break stands at its start. In mid-life no file of /proc tells it. The line that
    `vma_is_initial_heap` labels [heap] holds some of the heap; it is longer by what lies right
    above and is alike (`vma_merge`), and shorter, or not there, where the heap's end was unmapped.
    The first brk tells.

    Args:
        space: empty.
        record: the exec or attach.
        parsed: `record.maps`, parsed by a `MapsCache`.

    Raises:
        ValueError: from the parser, if it is lazy: a line is not one of maps.
    """
    lines = list(parsed)
    space.load(lines)
    space.personality = record.personality
    space.assumed = record.assumed
    space.start_stack = record.start_stack or None
    space.start_brk = space.brk = record.start_brk or None
    if not isinstance(record, Attach):
        return
    for ranges, flag in ((record.dontfork, DONTFORK), (record.growsdown, GROWSDOWN)):
        for low, high in disjoint(ranges):
            space.flag(low, high, flag)
    heap = max((end for _, end, _, path in lines if path == "[heap]"), default=None)
    space.brk_by_label = heap is not None or space.brk is not None
    if heap is not None:
        space.brk = heap
        piece = space.at(heap - 1)
        space.heap_tag = piece[3] if piece is not None else 0


def disjoint(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same pages, each once: a hostile trace repeats ranges, and every one costs its pieces.

    >>> list(disjoint([(5, 9), (1, 3), (2, 4), (7, 6)]))
    [(1, 4), (5, 9)]
    """
    start = end = -1
    for low, high in sorted(ranges):
        if low > end:
            if start < end:
                yield start, end
            start = low
        end = max(end, high)
    if start < end:
        yield start, end
