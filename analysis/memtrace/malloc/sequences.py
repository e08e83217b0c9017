# SPDX-License-Identifier: GPL-2.0-or-later
"""What the calls after a mapping tell of it: stacks with their guards, and thread arenas.

glibc's allocate_stack maps a stack without access and opens all but the guard; its alloc_new_heap
reserves, trims to an aligned half and opens the beginning, which grow_heap and shrink_heap then
move the end of. Both are told by the same thread's next calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace.malloc import origin
from memtrace.malloc.caller import LIBC, Callers
from memtrace.malloc.origin import Decision
from memtrace.malloc.regions import Region, Regions
from memtrace.malloc.tags import CARVED
from memtrace.malloc.verdicts import rule_on
from memtrace.space.calls import MAP_ANONYMOUS, MAP_STACK, MAP_TYPE
from memtrace.trace.sizes import round_up

if TYPE_CHECKING:
    from memtrace.malloc.arenas import Arenas
    from memtrace.malloc.mallocs import Mallocs
    from memtrace.space.address_space import AddressSpace
    from memtrace.trace.records import Call, Clone

MADV_DONTNEED = 4
#: Bytes that may lie above a new thread's stack in its mapping: static TLS and its descriptor.
_ABOVE_STACK = 64 * 1024


class Sequences:
    """The mappings of one address space that wait for their thread's next calls, and its arenas.

    Attributes:
        stacks: thread -> what it may have mapped as a stack.
        reserves: thread -> what it may have reserved as an arena.
    """

    def __init__(
        self,
        space: AddressSpace,
        regions: Regions,
        arenas: Arenas,
        mallocs: Mallocs,
        callers: Callers,
    ) -> None:
        self._space = space
        self._regions = regions
        self._arenas = arenas
        self._mallocs = mallocs
        self._callers = callers
        self.stacks: dict[int, Region] = {}
        self.reserves: dict[int, Region] = {}

    def wait(self, what: str, tid: int, r: Region) -> None:
        """The thread's next call tells what a region is (`Decision.wait`)."""
        table = self.stacks if what == "stack" else self.reserves
        before = table.pop(tid, None)
        if before is not None:
            self._regions.settle(before)
        table[tid] = r

    # -- arenas ---------------------------------------------------------------------------------

    def opened_or_shrunk(self, call: Call, name: str) -> None:
        """What an arena does to its reservation."""
        args = call.args
        if name == "madvise":
            if len(args) > 2 and args[2] == MADV_DONTNEED and self._arenas.alive:
                self._arenas.shrunk(args[0], args[1])
        elif name == "mprotect" and len(args) > 2 and args[2] == origin.PROT_RW:
            self._opened(call.tid, call)

    def closed(self, low: int, length: int) -> Decision | None:
        """shrink_heap maps the tail of an arena anew, PROT_NONE; None: there is no arena."""
        if self._arenas.at(low) is None:
            return None
        self._arenas.closed(low, length)
        return Decision("arena", "sequence")

    def _opened(self, tid: int, call: Call) -> None:
        """An mprotect to read and write: an arena grows."""
        address, length = call.args[0], call.args[1]
        if address & (self._arenas.size - 1) and self._arenas.at(address) is None:
            self._older_arena(address, length, call)
            return
        piece = self._space.at(address)
        r = None if piece is None else self._regions.alive.get(piece[3])
        if r is not None and r.kind == "arena":
            size = round_up(length, self._mallocs.layout.page)
            self._arenas.opened(address, size, tid, r.born_seq)

    def _older_arena(self, address: int, length: int, call: Call) -> None:
        """Libc opens more of what looked like an arena at the attach (`grow_heap`)."""
        piece = self._space.at(address)
        r = None if piece is None else self._regions.alive.get(piece[3])
        if r is None or not r.older or r.candidates[:1] != ("arena",):
            return
        if self._callers.of(call.site).who != LIBC or not self._mallocs.glibc:
            return
        end = address + round_up(length, self._mallocs.layout.page)
        opened = [x[2].perms[:2] == "rw" for x in self._space.pieces(r.start, end)]
        if end <= r.end and all(opened):
            self._regions.become(r, "arena", "caller")
            rule_on(r)
            self._arenas.opened(r.start, end - r.start, None, r.born_seq)

    def reserve_step(self, tid: int, name: str, args: list[int]) -> None:
        """alloc_new_heap without a known caller: trims, then mprotect of the aligned half."""
        r = self.reserves[tid]
        if name == "munmap" and args and r.start <= args[0] < r.end:
            return
        del self.reserves[tid]
        size = self._arenas.size
        aligned = r.start <= args[0] < r.end and not args[0] & (size - 1) if args else False
        if name == "mprotect" and aligned and args[2:] == [3] and r.bytes == size:
            self._regions.become(r, "arena", "sequence")
            rule_on(r)
        else:
            self._regions.settle(r)

    # -- stacks ---------------------------------------------------------------------------------

    def stack_step(self, seq: int, tid: int, name: str, args: list[int]) -> None:
        """allocate_stack opens all of its mapping but the guard (`setup_stack_prot`)."""
        r = self.stacks[tid]
        if name == "mprotect" and args and r.start < args[0] < r.end:
            if r.kind != "thread-stack":
                return  # a clone onto it may come
            self._carve_guard(seq, r)
        del self.stacks[tid]
        self._regions.settle(r)

    def _carve_guard(self, seq: int, r: Region) -> None:
        """Make the PROT_NONE part below a stack a region of its own."""
        space = self._space
        pieces = [x for x in space.pieces(r.start, r.end) if x[3] == r.tag]
        if len(pieces) < 2 or pieces[0][2].accessible:
            return
        low, high = pieces[0][:2]
        # Not a new tag: a replay without accounts must come to the same tags.
        guard = Region(r.tag | CARVED, low, high, seq, r.tid)
        guard.kind, guard.evidence, guard.call = "guard", "sequence", r.call
        guard.prot = 0
        rule_on(guard)
        space.retag(low, high, guard.tag)
        self._regions.carve(r, guard)
        r.start = high

    def clone(self, seq: int, record: Clone) -> None:
        """A task starts on a stack of its own."""
        if not record.stack or record.child_pid != record.pid:
            return
        piece = self._space.at(record.stack - 1)
        r = None if piece is None else self._regions.alive.get(piece[3])
        if piece is None or r is None:
            return
        if r.older and r.candidates[:1] == ("thread-stack",):
            if piece[1] - record.stack <= _ABOVE_STACK:  # libc keeps the stacks of dead threads
                self._regions.become(r, "thread-stack", "sequence")
                rule_on(r)
            return
        if r.call != "mmap" or r.flags is None or not r.flags & MAP_ANONYMOUS:
            return
        # musl maps without MAP_STACK and puts the thread's own block above the stack. Go's first
        # stacks lie somewhere in its heap: a mapping is a stack if one begins at its end.
        at_end = r.kind == "unknown" and piece[1] - record.stack <= _ABOVE_STACK
        by_shape = r.flags & MAP_STACK or at_end
        if r.kind in ("unknown", "anon") and by_shape and r.flags & MAP_TYPE == 2:
            self.stacks = {tid: x for tid, x in self.stacks.items() if x is not r}
            self._carve_guard(seq, r)
            self._regions.become(r, "thread-stack", "sequence")
            rule_on(r)
