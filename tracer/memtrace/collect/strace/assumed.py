# SPDX-License-Identifier: GPL-2.0-or-later
"""What must have been mapped when a log's address space began, as its first calls prove.

No line of a log says what execve itself maps: the program, its interpreter, the stack, the vdso.
But some calls succeed on mapped pages only. Where nothing in the log has mapped or unmapped such
pages before, they were there from the beginning. Nothing else is assumed: no call, no page.
"""

from __future__ import annotations

from memtrace.space.address_space import AddressSpace
from memtrace.space.calls import MREMAP_FIXED, apply
from memtrace.space.canonical import ASSUMED, Attr, MapsCache
from memtrace.trace.mapping import ANON_DEV
from memtrace.trace.records import Ext, FileId
from memtrace.trace.sizes import PAGE, round_up

#: Calls that succeed only if every page of [first argument, + second) is mapped: they stop with
#: ENOMEM at a hole (do_mprotect_pkey, apply_vma_lock_flags, madvise_walk_vmas, do_mseal).
_PROVING = frozenset(
    ("mprotect", "pkey_mprotect", "mlock", "mlock2", "munlock", "madvise", "mseal")
)
_PROTECTING = frozenset(("mprotect", "pkey_mprotect"))
_GROWS = 0x03000000  # PROT_GROWSDOWN, PROT_GROWSUP
_TOP = 1 << 47  # TASK_SIZE; five-level paging is asked for by address only
_NOTHING = Attr("----", ANON_DEV, 0, 0, "")


class Assumed:
    """The first calls of one address space, and what they prove of its beginning.

    `calls` counts them. `start_brk`: the break at the start, if the first brk asked for it.
    """

    __slots__ = ("_cache", "_found", "_space", "_touched", "calls", "fresh", "start_brk")

    def __init__(self, *, fresh: bool) -> None:
        self.calls = 0
        self.start_brk: int | None = None
        self.fresh = fresh  # begun by an exec: its first brk is the program's first
        self._space = AddressSpace()
        self._touched = AddressSpace()
        self._found = AddressSpace()
        self._cache = MapsCache()

    def missed(self) -> None:
        """A call may have been missed: the next brk need not be the first."""
        self.fresh = False

    def call(self, name: str, args: list[int], ret: int | None, ext: Ext | None) -> None:
        """One call, in the order of application."""
        self.calls += 1
        if name == "brk":
            if self.fresh and ret and args and args[0] != ret:
                self.start_brk = ret
            self.fresh = False
        elif name in _PROVING and ret == 0 and len(args) > 1:
            # PROT_GROWSDOWN and PROT_GROWSUP go on from where the stack begins or ends.
            if name not in _PROTECTING or not args[2] & _GROWS:
                self._mapped(args[0], args[1])
        elif name == "mremap" and ret is not None and (ret > 0 or ret < -4095) and len(args) > 3:
            self._moved(args)
        file = ext.f if ext is not None and isinstance(ext.f, FileId) else None
        change = apply(self._space, name, args, ret, ext, file, self._cache)
        if change is not None:
            for low, high, _, _ in (*change.removed, *change.added):
                self._touch(low, high)
        if name == "munmap" and ret == 0 and len(args) > 1:
            self._touch(args[0], args[0] + round_up(args[1]))

    def maps(self) -> list[str]:
        """The lines that are proven, as of maps: of their permissions nothing is known."""
        return [
            f"{r.start:x}-{r.end:x} ???? 00000000 {ANON_DEV} 0 {ASSUMED}"
            for r in self._found.canonical()
        ]

    def _moved(self, args: list[int]) -> None:
        # Only what is to grow must be one mapping to its end (`vma_to_resize`): what shrinks or
        # keeps its size may have holes, its first page apart. Since 6.17 a move to a fixed place
        # may begin with one, too (`remap_move`).
        if round_up(args[1]) < round_up(args[2]):
            self._mapped(args[0], args[1])
        elif args[1] and not args[3] & MREMAP_FIXED:
            self._mapped(args[0], PAGE)

    def _mapped(self, low: int, length: int) -> None:
        high = low + round_up(length)
        if low % PAGE or not 0 < low < high <= _TOP:
            return
        position = low
        for s, e, _, _ in [*self._touched.pieces(low, high), (high, high, _NOTHING, 0)]:
            if position < s:
                self._found.cut(position, s)
                self._found.put(position, s, _NOTHING, 0)
            position = e

    def _touch(self, low: int, high: int) -> None:
        """The log changed these pages: what is proven of them later says nothing of the start."""
        if 0 <= low < high <= _TOP:
            self._touched.cut(low, high)
            self._touched.put(low, high, _NOTHING, 0)
