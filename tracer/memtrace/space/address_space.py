# SPDX-License-Identifier: GPL-2.0-or-later
"""One process's address space: disjoint pieces, cut and put.

`AddressSpace` knows ranges, not syscalls (those are in `space/calls.py`). A piece is
[start, end) with an `Attr` and a tag, an integer that names the region the piece came from: it
follows the pages through splits, mprotect and mremap, so that a replay can say which mapping a page
belongs to.

Structure: a sorted list of starts and a dict start -> (end, attr, tag). Pieces are never coalesced
while replaying; neighbours are merged only on output. An exact munmap is one dict hit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator

from memtrace.space.canonical import (
    DONTFORK,
    GROWSDOWN,
    PLAIN,
    Attr,
    Run,
    is_given,
    is_label,
    may_hide,
    merge,
)
from memtrace.trace.mapping import Mapping

Piece = tuple[int, int, Attr, int]

READ_IMPLIES_EXEC = 0x0400000  # personality(2)

ANON_RW, ANON_RWX = PLAIN["rw-p"], PLAIN["rwxp"]


class AddressSpace:
    """The mapped pages of one mm.

    `total` is the mapped bytes: what statm's first field counts (`mm->total_vm`). `brk` and
    `start_brk` are byte exact, None while unknown; while `brk_by_label` is set, no call has told
    the break, and `brk` is where the kernel's [heap] line ended (`seed`). `paths` gives the last
    seen path of each (dev, inode). `assumed`: pages may be mapped that it does not hold, because
    nobody saw how it began.
    """

    __slots__ = (
        "_ends", "_starts", "assumed", "brk", "brk_by_label", "heap_tag", "next_tag", "paths",
        "personality", "start_brk", "start_stack", "total",
    )  # fmt: skip
    #: What it knows besides its pieces and paths; a copy takes all of it along.
    SCALARS = (
        "start_brk", "brk", "brk_by_label", "start_stack", "personality", "assumed", "heap_tag",
        "next_tag",
    )  # fmt: skip

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: dict[int, tuple[int, Attr, int]] = {}
        self.total = 0
        self.start_brk: int | None = None
        self.brk: int | None = None
        self.brk_by_label = False
        self.start_stack: int | None = None
        self.personality = 0
        self.assumed = False
        self.heap_tag = 0
        self.next_tag = 1
        self.paths: dict[tuple[str, int], str] = {}

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def store(self) -> int:
        """The same number for those that have their pieces in common (see `fork`)."""
        return id(self._ends)

    def new_tag(self) -> int:
        """A tag no piece has."""
        tag = self.next_tag
        self.next_tag = tag + 1
        return tag

    def fork(self) -> AddressSpace:
        """The child's copy: everything but VM_DONTCOPY (`dup_mmap`). Tags are kept."""
        child = AddressSpace()
        for name in self.SCALARS:
            setattr(child, name, getattr(self, name))
        child.paths = dict(self.paths)
        ends = self._ends
        if self.__class__ is _Shared or not any(e[1].flags & DONTFORK for e in ends.values()):
            child._starts, child._ends, child.total = self._starts, ends, self.total
            self.__class__ = child.__class__ = _Shared
            return child
        child._starts = [s for s in self._starts if not ends[s][1].flags & DONTFORK]
        child._ends = {s: ends[s] for s in child._starts}
        child.total = sum(e[0] - s for s, e in child._ends.items())
        return child

    # -- reading ------------------------------------------------------------------------------

    def pieces(self, low: int = 0, high: int = 1 << 64) -> Iterator[Piece]:
        """The pieces that touch [low, high), clipped to it, in address order."""
        starts, ends = self._starts, self._ends
        i = bisect_right(starts, low) - 1
        if i < 0 or ends[starts[i]][0] <= low:
            i += 1
        while i < len(starts):
            s = starts[i]
            if s >= high:
                return
            e, attr, tag = ends[s]
            yield (s if s > low else low), (e if e < high else high), attr, tag
            i += 1

    def at(self, address: int) -> Piece | None:
        """The piece that holds the address, unclipped."""
        i = bisect_right(self._starts, address) - 1
        if i < 0:
            return None
        s = self._starts[i]
        e, attr, tag = self._ends[s]
        return (s, e, attr, tag) if address < e else None

    def begun_at(self, address: int) -> list[Piece]:
        """The pieces from an address on whose file would begin there: what is left of a mapping of
        the whole file that was made there, and what else looks like it.
        """
        starts, ends = self._starts, self._ends
        return [
            (s, *ends[s])
            for s in starts[bisect_left(starts, address) :]
            if ends[s][1].delta == -address
        ]

    def path_of(self, attr: Attr) -> str:
        """What maps shows in its last column: the path of a file ("" if it is not known), or a
        special name.
        """
        return self.paths.get((attr.dev, attr.ino), "") if attr.is_file else attr.name

    def is_free(self, low: int, high: int) -> bool:
        """Whether nothing is mapped in [low, high)."""
        return next(self.pieces(low, high), None) is None

    def canonical(self, low: int = 0, high: int = 1 << 64) -> list[Run]:
        """Maximal runs, see `space/canonical.py`."""
        return merge((s, e, a) for s, e, a, _ in self.pieces(low, high))

    def agrees(self, parsed: Iterable[tuple[int, int, Attr, str]]) -> int | None:
        """How many maximal runs there are, if a kernel map (parsed by `MapsCache`) has the same
        ones; None if it has others. Equal canonical forms, without making them, but for names
        that a label hides.
        """
        starts, ends = self._starts, self._ends
        i, count, runs = 0, len(starts), 0
        reached = end = -1  # how far the model's piece at hand, and the kernel's last line, go
        ours = key = None
        for s, e, attr, label in parsed:
            if s != end:
                if reached > end or s < end:
                    return None
                runs += 1
            elif attr is not key and (key is None or attr[:5] != key[:5]):
                runs += 1
            position, end, key = s, e, attr
            while position < e:
                if reached <= position:
                    if i == count or starts[i] != position:
                        return None
                    reached, ours, _tag = ends[position]
                    i += 1
                if ours is not attr and (
                    ours is None or (ours[:5] != attr[:5] and not may_hide(label, attr, ours))
                ):
                    return None
                position = reached if reached < e else e
        return runs if i == count and reached <= end else None

    def shown(self, parsed: Iterable[tuple[int, int, Attr, str]]) -> list[Run]:
        """The canonical form of a kernel map, with the names that its labels hide as held here."""
        return merge(
            piece for s, e, attr, label in parsed for piece in _under(label, s, e, attr, self)
        )

    def mappings(self) -> list[Mapping]:
        """Canonical runs as lines of maps, with paths and the [heap] and [stack] labels put back.

        Labels go by address, as the kernel's `vma_is_initial_heap` and `vma_is_initial_stack` do;
        but a given name stands where the kernel would hide it.
        """
        out = []
        for r in self.canonical():
            name, offset = r.name, 0
            if r.is_file:
                name = self.paths.get((r.dev, r.ino), "")
                offset = r.delta + r.start
            elif not name and self._in_heap(r):
                name = "[heap]"
            elif not name and self.start_stack is not None and r.start <= self.start_stack < r.end:
                name = "[stack]"
            out.append(Mapping(r.start, r.end, r.perms, offset, r.dev, r.ino, name))
        return out

    def _in_heap(self, r: Run) -> bool:
        if self.start_brk is None or self.brk is None:
            return False
        return r.start < self.brk and r.end > self.start_brk

    # -- changing -----------------------------------------------------------------------------

    def cut(self, low: int, high: int) -> list[Piece]:
        """Unmap [low, high); returns what was there, clipped. Holes are fine, as for munmap."""
        starts, ends = self._starts, self._ends
        known = ends.get(low)
        if known is not None and known[0] == high:
            del ends[low]
            del starts[bisect_left(starts, low)]
            self.total -= high - low
            return [(low, high, known[1], known[2])]
        if high <= low:
            return []
        i = bisect_right(starts, low) - 1
        if i < 0 or ends[starts[i]][0] <= low:
            i += 1
        first, removed, keep = i, [], []
        while i < len(starts) and starts[i] < high:
            s = starts[i]
            e, attr, tag = ends.pop(s)
            if s < low:
                ends[s] = (low, attr, tag)
                keep.append(s)
            if e > high:
                ends[high] = (e, attr, tag)
                keep.append(high)
            a, b = (s if s > low else low), (e if e < high else high)
            self.total -= b - a
            removed.append((a, b, attr, tag))
            i += 1
        starts[first:i] = keep
        return removed

    def place(self, low: int, high: int, attr: Attr, tag: int) -> list[Piece]:
        """Map [low, high) over whatever is there; returns what that was, clipped."""
        starts, ends = self._starts, self._ends
        i = bisect_right(starts, low)
        if (i and ends[starts[i - 1]][0] > low) or (i < len(starts) and starts[i] < high):
            removed = self.cut(low, high)
            self.put(low, high, attr, tag)
            return removed
        starts.insert(i, low)
        ends[low] = high, attr, tag
        self.total += high - low
        return []

    def put(self, low: int, high: int, attr: Attr, tag: int) -> None:
        """Map [low, high), which must be free."""
        insort(self._starts, low)
        self._ends[low] = (high, attr, tag)
        self.total += high - low

    def grow_down(self, stack: int, start: int) -> int:
        """Move the start of the growing piece at `stack` down to `start` (`expand_downwards`)."""
        e, attr, tag = self._ends.pop(stack)
        i = bisect_left(self._starts, stack)
        self._starts[i] = start
        self._ends[start] = (e, attr, tag)
        self.total += stack - start
        return stack - start

    def retag(self, low: int, high: int, tag: int) -> list[Piece]:
        """Give [low, high) a region of its own; returns the pieces as they were."""
        removed = self.cut(low, high)
        for s, e, attr, _ in removed:
            self.put(s, e, attr, tag)
        return removed

    def flag(self, low: int, high: int, flag: int) -> None:
        """Set a flag that maps does not show on every page of [low, high)."""
        self.alter(low, high, lambda attr: attr._replace(flags=attr.flags | flag))

    def alter(
        self, low: int, high: int, how: Callable[[Attr], Attr]
    ) -> tuple[list[Piece], list[Piece]]:
        """Give the pages of [low, high) other attributes, however many pieces they are in.

        Returns:
            The pieces as they were, clipped, and as they are.
        """
        was: list[Piece] = []
        now: list[Piece] = []
        if high <= low:
            return was, now
        self._split(low)
        self._split(high)
        starts, ends = self._starts, self._ends
        last = new = None
        for s in starts[bisect_left(starts, low) : bisect_left(starts, high)]:
            e, attr, tag = ends[s]
            if new is None or attr is not last:
                last, new = attr, how(attr)
            was.append((s, e, attr, tag))
            now.append((s, e, new, tag))
            ends[s] = e, new, tag
        return was, now

    def _split(self, address: int) -> None:
        """Make two pieces of the one that has the address within."""
        i = bisect_left(self._starts, address)
        if not i:
            return
        s = self._starts[i - 1]
        e, attr, tag = self._ends[s]
        if e > address:
            self._ends[s] = address, attr, tag
            self._ends[address] = e, attr, tag
            self._starts.insert(i, address)

    def load(self, parsed: Iterable[tuple[int, int, Attr, str]]) -> None:
        """Replace everything by a kernel map (parsed by `MapsCache`); see `_continue` for what
        pages keep. A hostile, overlapping map is cut to disjoint pieces.
        """
        old = AddressSpace()
        old._starts, old._ends = self._starts, self._ends
        self._starts, self._ends, self.total = [], {}, 0
        for start, end, attr, path in parsed:
            if end <= start:
                continue
            if not self.is_free(start, end):
                self.cut(start, end)
            if path and attr.is_file:
                self.paths[attr.dev, attr.ino] = path
            for s, e, shown in _under(path, start, end, attr, old):
                for piece in self._continue(s, e, shown, old.pieces(s, e)):
                    self.put(*piece)

    def set_range(
        self, low: int, high: int, parsed: Iterable[tuple[int, int, Attr, str]]
    ) -> tuple[list[Piece], list[Piece]]:
        """Make [low, high) what the kernel said it is; returns (removed, added), only what
        differed.
        """
        want: list[tuple[int, int, Attr]] = []
        for start, end, attr, path in parsed:
            if start < high and end > low:
                want += _under(path, max(start, low), min(end, high), attr, self)
                if path and attr.is_file:
                    self.paths[attr.dev, attr.ino] = path
        if merge(want) == self.canonical(low, high):
            return [], []
        removed = self.cut(low, high)
        before = AddressSpace()
        for piece in removed:
            before.put(*piece)
        added: list[Piece] = []
        for s, e, attr in want:
            if not self.is_free(s, e):  # a hostile trace's lines overlap
                continue
            pieces = self._continue(s, e, attr, before.pieces(s, e))
            for piece in pieces:
                self.put(*piece)
            added += pieces
        return removed, added

    def _continue(self, low: int, high: int, attr: Attr, old: Iterable[Piece]) -> list[Piece]:
        """The pieces of a kernel line [low, high): where the same backing was before, its pages
        keep their tag and what maps does not show (VM_DONTCOPY, VM_GROWSDOWN), whatever their
        permissions and given names have become; mprotect that stops at a hole has re-protected the
        part before, and prctl(PR_SET_VMA_ANON_NAME) named it.
        """
        out: list[Piece] = []
        position = low
        for start, end, was, tag in old:
            a, b = max(start, low), min(end, high)
            if a >= b or was[1:4] != attr[1:4] or not _as_named(was, attr):
                continue
            if a > position:
                out.append((position, a, attr, self.new_tag()))
            out.append((a, b, was._replace(perms=attr.perms, name=attr.name), tag))
            position = b
        if position < high:
            out.append((position, high, attr, self.new_tag()))
        return out

    def lowest_growing(self) -> Iterator[tuple[int, int, Attr]]:
        """The pieces whose start a page fault may move down."""
        for s in self._starts:
            e, attr, _ = self._ends[s]
            if attr.flags & GROWSDOWN:
                yield s, e, attr


def _as_named(was: Attr, attr: Attr) -> bool:
    return was.name == attr.name or (is_given(was.name) and is_given(attr.name))


def _under(
    label: str, low: int, high: int, attr: Attr, held: AddressSpace
) -> list[tuple[int, int, Attr]]:
    """A kernel line [low, high) with the given names that its label hides, as they are held."""
    if not is_label(label):
        return [(low, high, attr)]
    out = []
    position = low
    for s, e, was, _ in held.pieces(low, high):
        if was.name and was[1:4] == attr[1:4] and is_given(was.name):
            if s > position:
                out.append((position, s, attr))
            out.append((s, e, attr._replace(name=was.name)))
            position = e
    if position < high:
        out.append((position, high, attr))
    return out


class _Shared(AddressSpace):
    """One that has its pieces in common with a child or a parent, none of them VM_DONTCOPY, until
    either changes: most children exec, or only end. A class of its own, so that changing what is
    not shared costs nothing.
    """

    __slots__ = ()

    def cut(self, low: int, high: int) -> list[Piece]:
        """See `AddressSpace`, as for all here."""
        self._own()
        return self.cut(low, high)

    def place(self, low: int, high: int, attr: Attr, tag: int) -> list[Piece]:
        self._own()
        return self.place(low, high, attr, tag)

    def put(self, low: int, high: int, attr: Attr, tag: int) -> None:
        self._own()
        self.put(low, high, attr, tag)

    def grow_down(self, stack: int, start: int) -> int:
        self._own()
        return self.grow_down(stack, start)

    def alter(
        self, low: int, high: int, how: Callable[[Attr], Attr]
    ) -> tuple[list[Piece], list[Piece]]:
        self._own()
        return self.alter(low, high, how)

    def load(self, parsed: Iterable[tuple[int, int, Attr, str]]) -> None:
        self._own()
        self.load(parsed)

    def _own(self) -> None:
        self._starts, self._ends = list(self._starts), dict(self._ends)
        self.__class__ = AddressSpace  # type: ignore[assignment]
