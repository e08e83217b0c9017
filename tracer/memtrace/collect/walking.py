# SPDX-License-Identifier: GPL-2.0-or-later
"""When the heaps of a target are walked (`--heap-walk`), and how its memory is read for it.

At an attach, before an exec, at the end, and when the break is where it has never been: a tenth and
a MiB above the last walk, and as long as no more than a fiftieth of the time goes into it. A walk
is made at the entry of a call, or while all tasks sleep: there malloc has its heap in order, while
at the exit of the brk that made it grow it has not taken over the new part yet (`sysmalloc`). Other
threads may run meanwhile. A heap that does not hold together is read once more, at a later stop.

Only pages in memory are read (pagemap), so that a walk faults nothing in.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable

from memtrace.collect import procfs, wire
from memtrace.collect.chain import LAYOUT_32, LAYOUT_64, PRESENT, SWAPPED, Layout, Memory
from memtrace.collect.channel import Channel
from memtrace.collect.heapwalk import arenas, heaps_at, main_heap
from memtrace.collect.tracee import Mm, Tracee
from memtrace.trace.mapping import decode_maps, parse_line
from memtrace.trace.records import WalkedHeap
from memtrace.trace.sizes import PAGE

#: The most that one walk may take, ns. Of an mm's time, walks at peaks may take one part in SHARE,
#: and while the heap has doubled some more: programs that live for a second have a peak, too.
LIMIT_NS, SHARE, ALLOWANCE_NS = 2_000_000_000, 50, 250_000_000
_NS_PER_BYTE = 6  # with chunks of 40 bytes
_GROWN_BY = 1 << 20
_ANONYMOUS = ["rw-p", "00000000", "00:00", "0"]
_MOST_HEAPS, _MOST_PLACES, _MOST_BREAKS, _MOST_TASKS = 1000, 50_000, 100_000, 500
#: By the top byte of a pagemap entry: bit 63 present, bit 62 swapped.
_STATES = bytes(PRESENT if b & 0x80 else SWAPPED if b & 0x40 else 0 for b in range(256))


class Walks:
    """Walks heaps through an mm's kept-open descriptors and queues the records."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    # -- when ---------------------------------------------------------------------------------

    @staticmethod
    def moved(mm: Mm, brk: int) -> None:
        """A brk call has returned: where the break is."""
        walked = mm.walked
        if brk == walked.brk:
            return
        walked.brk = brk
        if walked.breaks is not None:
            walked.breaks.append(brk)
            if len(walked.breaks) > _MOST_BREAKS:
                walked.breaks = None
        size = brk - walked.start
        if size < walked.size + max(_GROWN_BY, walked.size // 10) or mm.walk_due:
            return
        each = walked.cost / walked.size if walked.size else _NS_PER_BYTE
        share = (time.monotonic_ns() - walked.since) // SHARE
        lacking = walked.spent + size * each - share
        doubled = size >= 2 * walked.size and not walked.forked
        if lacking <= 0 or (doubled and lacking <= ALLOWANCE_NS):
            mm.walk_due = "peak"

    def due(self, mm: Mm, tracee: Tracee) -> None:
        """The walk that is due, if the task is stopped, or every task sleeps; no call of the mm is
        in flight.
        """
        why, walked = mm.walk_due, mm.walked
        mm.walk_due = ""
        again, walked.again = walked.again, False
        holds = self._walk(mm, tracee, why, tell_broken=again)
        if not holds and not again:
            mm.walk_due, walked.again = why, True

    def last(
        self, mm: Mm, tracee: Tracee, why: str, stands: Callable[[Tracee], bool] | None = None
    ) -> None:
        """The mm is as it was at the end of its program, or of the recording. A child that has
        lived for a moment is spared what its parent's heap takes. `stands`, asked when all has been
        read: whether the task has not been killed meanwhile, and its memory with it.
        """
        walked = mm.walked
        if walked.forked and time.monotonic_ns() - walked.since < SHARE * walked.cost:
            return
        mm.walk_due = ""
        self._walk(mm, tracee, why, tell_broken=True, stands=stands)

    @staticmethod
    def all_sleep(mm: Mm) -> bool:
        """Whether no task of the mm runs: then its heap stands still, and malloc's hand is not in
        it, unless a task waits for another that is.
        """
        return _running(mm) is not None

    # -- how ----------------------------------------------------------------------------------

    def _walk(
        self, mm: Mm, tracee: Tracee, why: str, *, tell_broken: bool,
        stands: Callable[[Tracee], bool] | None = None,
    ) -> bool:  # fmt: skip
        """Walk all heaps; whether they held together. Else the record is only sent if wanted."""
        begun = time.monotonic_ns()
        before = _running(mm)
        heaps, left_out = self._heaps(mm, tracee, begun + LIMIT_NS)
        still = before is not None and before == _running(mm)
        walked = mm.walked
        walked.cost = time.monotonic_ns() - begun
        walked.spent += walked.cost
        if heaps and heaps[0].kind == "main":
            walked.size = heaps[0].end - heaps[0].base
        broken = any(not h.complete for h in heaps)
        if heaps and (tell_broken or not broken) and (stands is None or stands(tracee)):
            self.channel.send(wire.life({
                "rec": "walk", "t": begun - self.channel.start_ns, "mm": mm.id, "pid": tracee.pid,
                "tid": tracee.tid, "why": why, "took": walked.cost, "still": still, "heaps": heaps,
                "left_out": left_out,
            }))  # fmt: skip
        return not broken

    def _heaps(self, mm: Mm, tracee: Tracee, deadline: int) -> tuple[list[WalkedHeap], int]:
        raw = procfs.read_fd(mm.maps_fd)
        stat = procfs.stat_fields(tracee.tid)
        if not raw or len(stat) < 45 or min(mm.mem_fd, mm.pagemap_fd) < 0:
            return [], 0
        layout = LAYOUT_32 if procfs.is_elf32(tracee.tid) else LAYOUT_64
        memory = Memory(
            lambda address, length: _read(mm, address, length),
            lambda address, length: _present(mm, address, length),
            layout,
            lambda: time.monotonic_ns() > deadline,
        )
        start, walked = int(stat[44]), mm.walked
        if start != walked.start:  # prctl(PR_SET_MM)
            walked.start, walked.breaks, walked.brk = start, None, 0
        heap_end, bases = _places(raw, layout)
        main = main_heap(memory, start, walked.brk or heap_end, walked.breaks) if start else None
        found = [] if main is None else [main]
        # A program may have terabytes mapped (a sanitizer's shadow), few of them in memory.
        places = itertools.islice(itertools.chain.from_iterable(bases), _MOST_PLACES)
        begun = list(itertools.islice(heaps_at(memory, places), _MOST_HEAPS))
        found += arenas(memory, begun)
        return found, sum(1 for _ in heaps_at(memory, places))


def _places(raw: bytes, layout: Layout) -> tuple[int, list[range]]:
    """(end of what maps calls [heap], where heaps of arenas can begin)."""
    heap_end = 0
    bases: list[range] = []
    for line in decode_maps(raw):
        columns = line.split(None, 5)
        path = columns[5] if len(columns) == 6 else ""
        if path == "[heap]":
            heap_end = parse_line(line).end
        elif columns[1:5] == _ANONYMOUS and (not path or path.startswith("[anon:")):
            m = parse_line(line)
            first = -(-m.start // layout.heap_max) * layout.heap_max
            bases.append(range(first, m.end, layout.heap_max))
    return heap_end, bases


def _read(mm: Mm, address: int, length: int) -> bytes | None:
    try:
        return os.pread(mm.mem_fd, length, address)
    except (OSError, OverflowError):
        return None


def _present(mm: Mm, address: int, length: int) -> bytes:
    try:
        entries = os.pread(mm.pagemap_fd, length // PAGE * 8, address // PAGE * 8)
    except (OSError, OverflowError):
        return b""
    return entries[7::8].translate(_STATES)


def _running(mm: Mm) -> dict[int, tuple[int, ...]] | None:
    """How often each task of the mm has left the CPU; None if one has it now, or may have it.

    A task that sleeps or is stopped before and after, and has not left the CPU in between, has not
    run.
    """
    if len(mm.live) > _MOST_TASKS:
        return None
    counts = {}
    for tid in mm.live:
        found = procfs.run_state(tid)
        if found is None:
            continue  # it has ended
        state, switches = found
        if state == "R":
            return None
        counts[tid] = switches
    return counts
