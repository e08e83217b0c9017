# SPDX-License-Identifier: GPL-2.0-or-later
"""The regions that an address space has without a call of its own: at an exec, at an attach, at a
fork, and those that only a snapshot shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace.malloc import older, origin
from memtrace.malloc.origin import Decision
from memtrace.malloc.regions import Region, Regions
from memtrace.malloc.verdicts import rule_on
from memtrace.space.address_space import AddressSpace, Piece
from memtrace.space.canonical import ASSUMED, Attr
from memtrace.trace.mapping import ANON_DEV

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from memtrace.malloc.account import Account
    from memtrace.malloc.glibc import Layout
    from memtrace.trace.records import Attach, Exec

_NOTHING = Attr("---p", ANON_DEV, 0, 0, "")


class Legacy:
    """What a child has of its parent's account, as it was at a fork. It never changes, so that all
    children of which nothing more is known than their birth share it.

    Args:
        parent: the account.
        child: just born.
    """

    __slots__ = (
        "arenas", "callers", "heap", "in_flight", "libraries", "loading", "mallocs", "regions",
        "runtimes", "tag",
    )  # fmt: skip

    def __init__(self, parent: Account, child: AddressSpace) -> None:
        self.loading = parent.loading
        self.callers = parent.callers.fork()
        self.in_flight = parent.in_flight()
        self.heap = parent.heap.fork()
        self.arenas = parent.arenas.fork()
        self.mallocs = parent.mallocs.fork()
        self.libraries = frozenset(parent.libraries)
        self.runtimes = parent.runtimes
        self.tag = child.next_tag
        self.regions: list[Region] = []
        sizes: dict[int, tuple[int, int, int]] = {}
        for s, e, _, tag in child.pieces():
            low, high, size = sizes.get(tag, (s, e, 0))
            sizes[tag] = min(low, s), max(high, e), size + e - s
        for tag, (low, high, size) in sizes.items():
            mother = parent.regions.alive.get(tag)
            r = Region(tag, low, high, 0, None) if mother is None else mother.copy(0)
            r.start, r.end, r.bytes = low, high, size
            self.regions.append(r)


def loaded(
    space: AddressSpace, seq: int, record: Exec, libraries: AbstractSet[tuple[str, int]]
) -> list[Region]:
    """The first map of a program: the kernel's work.

    Args:
        space: as the exec left it.
        seq: of the exec.
        record: the exec.
        libraries: (dev, inode) of the files with executable pages.
    """
    found = []
    for s, e, attr, tag in list(space.pieces()):
        r = Region(tag, s, e, seq, record.tid)
        r.path = space.path_of(attr)
        r.call = "exec"
        d = _of_start(attr, s, e, space, libraries)
        r.kind, r.evidence, r.candidates = d.kind, d.evidence, d.candidates
        rule_on(r)
        found.append(r)
    return found


def _of_start(
    attr: Attr, s: int, e: int, space: AddressSpace, libraries: AbstractSet[tuple[str, int]]
) -> Decision:
    named = origin.special(attr, heap=False)
    if named is not None:
        return named
    if attr.name == ASSUMED:
        return Decision("unknown", "none")
    if attr.is_file:
        known = (attr.dev, attr.ino) in libraries
        return Decision("library" if known else "file", "sequence")
    if space.start_stack is not None and s <= space.start_stack < e:
        return Decision("stack", "sequence")
    start, brk = space.start_brk, space.brk
    if start is not None and brk is not None and s < brk and e > start:
        return Decision("heap", "sequence")
    return Decision("loader", "sequence")  # bss of program and loader (load_elf_binary)


def found(space: AddressSpace, seq: int, record: Attach, layout: Layout) -> list[Region]:
    """The map of a running program, of which nobody knows how it came about.

    Args:
        space: as the attach found it; regions that lie in one line get tags of their own.
        seq: of the attach.
        record: the attach.
        layout: of mapped chunks, the version not known yet.
    """
    there = []
    for f in older.regions(space, record, layout):
        r = Region(f.tag, f.start, f.end, seq, None)
        r.length = r.bytes = r.peak = f.size
        r.path, r.call, r.older = f.path, "attach", True
        d = f.decision
        r.kind, r.evidence, r.owner, r.candidates, _ = d
        rule_on(r)
        there.append(r)
    return there


def compared(space: AddressSpace, seq: int, regions: Regions) -> None:
    """A snapshot was not as replayed: stacks may have grown; after a drift the map is the
    kernel's.
    """
    sizes: dict[int, list[Piece]] = {}
    for piece in space.pieces():
        sizes.setdefault(piece[3], []).append(piece)
    for tag, r in list(regions.alive.items()):
        pieces = sizes.pop(tag, [])
        size = sum(e - s for s, e, _, _ in pieces)
        if not size:
            regions.shift([(r.start, r.start + r.bytes, _NOTHING, tag)], [], seq)
        elif size != r.bytes:
            regions.grown(r, size - r.bytes)
    for tag, pieces in sizes.items():
        r = Region(tag, pieces[0][0], pieces[-1][1], seq, None)
        r.length = r.bytes = r.peak = sum(e - s for s, e, _, _ in pieces)
        attr = pieces[0][2]
        r.call = "snapshot"
        r.path = space.paths.get((attr.dev, attr.ino), "") if attr.is_file else ""
        d = origin.special(attr, heap=tag == space.heap_tag) or origin.of_other("", attr)
        r.kind, r.evidence = d.kind, d.evidence
        rule_on(r)
        regions.born(r)
