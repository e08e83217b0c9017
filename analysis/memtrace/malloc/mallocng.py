# SPDX-License-Identifier: GPL-2.0-or-later
"""Growths of the break by musl's malloc, which keeps its metadata there and nothing else.

musl's wrappers tell no caller. But `alloc_meta` moves the break by the page that it then fills with
metas (and by one to guard it, the first time), and what malloc maps tells the address of its meta:
so the growth that brought that page was malloc's, and so is every other that the same instruction
made. syscall(2) is another one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memtrace.malloc.roles import OTHER, UNKNOWN

if TYPE_CHECKING:
    from memtrace.malloc.heap import Heap, Step

#: Growths whose instruction is remembered.
_REMEMBERED = 10_000

#: File and offset of an instruction.
Place = tuple[str, int]


class Metadata:
    """Which growths of one heap were for metadata.

    Args:
        page: bytes.
    """

    def __init__(self, page: int) -> None:
        self._page = page
        self._proven: set[Place] = set()
        self._last: dict[int, Place] = {}  # by the address of the growth's last page
        self._seqs: dict[Place, set[int]] = {}
        self._told = False

    def grew(self, heap: Heap, step: Step, place: Place | None) -> None:
        """The last step of the ledger was made by the instruction at `place`."""
        if step.delta <= 0 or step.role != UNKNOWN or place is None:
            return
        if place in self._proven:
            heap.steps[-1] = self._tell(step)
        elif len(self._last) < _REMEMBERED:
            self._seqs.setdefault(place, set()).add(step.seq)
            # A page at a time, and one more to guard the first, which is rounded up to.
            if step.delta < 3 * self._page and not step.end % self._page:
                self._last[step.end - self._page] = place

    def proven(self, heap: Heap, meta: int) -> None:
        """There is a meta at this address; if not in the heap, the break was refused."""
        place = self._last.pop(meta & -self._page, None)
        if place is None or place in self._proven:
            return
        self._proven.add(place)
        seqs = self._seqs.pop(place)
        heap.steps = [self._tell(s) if s.seq in seqs else s for s in heap.steps]

    def finish(self, heap: Heap) -> None:
        """What the steps say now, the heap says."""
        if self._told and heap.steps_total == len(heap.steps):
            heap.verdicts = {s.verdict for s in heap.steps if s.delta}

    def _tell(self, step: Step) -> Step:
        self._told = True
        return replace(step, role=OTHER, verdict="not-applicable", reason="other-allocator")
