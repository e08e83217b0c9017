# SPDX-License-Identifier: GPL-2.0-or-later
"""In which order a log's calls were applied, as far as their lines tell.

strace writes a call's result when the thread has stopped at its exit. Between the kernel's work and
that stop other threads run: one thread's munmap has freed a range, another's mmap gets it and is
written first, then comes the munmap's result. Applied in that order the new mapping would go. But a
call that claims free pages (an mmap without MAP_FIXED, a moving or growing mremap, a growing brk)
proves that an unmap of these pages, still in flight, had got so far: it comes first.

This is all that must be set right in a program that does not race for addresses on purpose: no
thread knows of a mapping before the call that made it has returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from memtrace.collect.strace.tasks import Mm, Task
from memtrace.trace.records import Ext, Life

MAP_FIXED, MREMAP_FIXED, SHM_REMAP = 0x10, 2, 0o40000
_PAGE = 4096
_U64 = (1 << 64) - 1
#: Records that may wait at a time.
LIMIT = 16384

Range = tuple[int, int]
#: A call's row: (time of its end, its duration, task, mm, call, arguments, result, more).
Row = tuple[int | None, int | None, Task, Mm, int, list[int], int | None, Ext | None]


def _up(address: int) -> int:
    return ((address & _U64) + _PAGE - 1) // _PAGE * _PAGE


def _range(address: int, length: int) -> Range:
    address &= _U64
    return address, _up(address + (length & _U64))


def freed(call: str, args: list[int], brk: int | None) -> Range | None:
    """The pages that a call frees if it succeeds; None if it frees none, or nobody knows which.

    Args:
        call: its name.
        args: as far as they are known at its entry.
        brk: the break before.
    """
    if call == "munmap" and len(args) >= 2:
        return _range(args[0], args[1])
    if call == "mremap" and len(args) >= 2:
        return _range(args[0], args[1]) if args[1] else None
    if call == "brk" and args and brk is not None and 0 < args[0] & _U64 < brk:
        return _up(args[0]), _up(brk)
    if call == "shmdt" and args:
        return _range(args[0], 1)  # all of the segment; how long that is no line says
    return None


def claimed(call: str, args: list[int], ret: int | None, brk: int | None) -> Range | None:
    """The pages that a call took from what was free; None if it did not.

    Args:
        call: its name.
        args: all of them.
        ret: the kernel's signed return.
        brk: the break before.
    """
    if ret is None or -4096 < ret < 0:
        return None
    if call == "mmap" and len(args) > 3 and not args[3] & MAP_FIXED:
        return _range(ret, args[1])
    if call == "mremap" and len(args) > 3:
        if ret != args[0] & _U64:
            return None if args[3] & MREMAP_FIXED else _range(ret, args[2])
        low, high = _range(args[0], args[1])[1], _range(ret, args[2])[1]
        return (low, high) if high > low else None
    if call == "brk" and args and brk is not None and args[0] & _U64 == ret > brk:
        return _up(brk), _up(ret)
    if call == "shmat" and len(args) > 2 and not args[2] & SHM_REMAP:
        return _range(ret, 1)
    return None


class Item:
    """A record that waits for its turn.

    `waits`: the tasks whose unmap must come before, or the address space whose first calls are
    being gathered, or the task whose number is not known; empty or None: nothing. `claims`: the
    pages that it took. `proven`: of an unmap, the pages that another's claim proves to be freed.
    """

    __slots__ = ("claims", "content", "mm", "proven", "waits")

    def __init__(self, content: Row | Life, mm: Mm, waits: set[Task | Mm] | None = None) -> None:
        self.content = content
        self.mm = mm
        self.waits = waits
        self.claims: Range | None = None
        self.proven: Range | None = None


class Order:
    """Holds back what must wait; what is behind it waits, too, so that times stay in order.

    Args:
        emit: takes the items in the order of application.
        unfinished: makes the item of a call in flight that cannot be waited for any longer; it is
            given the task and the pages that it is proven to have freed.
        limit: items that may wait at a time.
        reorder: False: in the order of the log, for comparison.
    """

    def __init__(
        self,
        emit: Callable[[Item], None],
        unfinished: Callable[[Mm, Task, Range], Item],
        *,
        limit: int = LIMIT,
        reorder: bool = True,
    ) -> None:
        self.waiting: deque[Item] = deque()
        #: Tasks whose unmap was waited for in vain: it has been applied.
        self.given_up: set[Task] = set()
        self._emit = emit
        self._unfinished = unfinished
        self._limit = limit
        self._reorder = reorder

    def put(self, item: Item) -> None:
        """A record that goes after all that were before it."""
        if not self.waiting and not item.waits:
            self._emit(item)
            return
        self.waiting.append(item)
        if len(self.waiting) > self._limit:
            self._force(self.waiting[0])

    def ended(
        self, item: Item, claims: Range | None, task: Task | None, frees: Range | None
    ) -> None:
        """The result of a call, while others of its address space are in flight or it was.

        Args:
            item: its row.
            claims: the pages that it took from what was free.
            task: whose call it was.
            frees: the pages that it frees, if it was in flight.
        """
        if claims is not None and self._reorder:
            low, high = claims
            freeing = item.mm.freeing.items()
            item.waits = {other for other, (s, e) in freeing if s < high and low < e}
            item.claims = claims
        if task is not None and frees is not None:
            for i, other in enumerate(self.waiting):
                if other.waits and task in other.waits:
                    item.proven = _common(frees, other.claims)
                    self.waiting.insert(i, item)
                    self.release(task)
                    return
        self.put(item)

    def ready(self, mm: Mm) -> None:
        """What was gathered of an address space's first calls is enough."""
        if mm.early is not None:
            self.release(mm)

    def release(self, key: Task | Mm) -> None:
        """What waited for it need not any longer."""
        waiting = self.waiting
        for item in waiting:
            if item.waits:
                item.waits.discard(key)
        while waiting and not waiting[0].waits:
            self._emit(waiting.popleft())

    def finish(self) -> None:
        """Nothing more comes."""
        while self.waiting:
            self._force(self.waiting[0])

    def _force(self, head: Item) -> None:
        """Let the first one go: what it waits for does not come."""
        for key in list(head.waits or ()):
            if isinstance(key, Task) and key in head.mm.freeing:
                pages = _common(head.mm.freeing.pop(key), head.claims)
                self._emit(self._unfinished(head.mm, key, pages))
                self.given_up.add(key)
            self.release(key)


def _common(freed: Range, claimed: Range | None) -> Range:
    """What was freed and then claimed."""
    low, high = claimed or freed
    return max(freed[0], low), min(freed[1], high)
