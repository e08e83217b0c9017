# SPDX-License-Identifier: GPL-2.0-or-later
"""Mapped chunks: what proves one, what speaks against one, and whose free moves the threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace.malloc import origin
from memtrace.malloc.caller import ALLOCATOR, LIBRARY, LOADER, PROGRAM, Callers
from memtrace.malloc.regions import Region, Regions
from memtrace.malloc.verdicts import hold, rule_on

if TYPE_CHECKING:
    from memtrace.malloc.copies import Key
    from memtrace.malloc.mallocs import Mallocs
    from memtrace.space.calls import Change

#: Who unmaps otherwise than by free.
_NOT_FREE = frozenset({PROGRAM, LIBRARY, ALLOCATOR, LOADER})


class Chunks:
    """The mapped chunks of one address space.

    Attributes:
        waiting: seq of the mmap -> what may turn out to be a chunk by its header.
    """

    def __init__(self, regions: Regions, mallocs: Mallocs, callers: Callers) -> None:
        self._regions = regions
        self._mallocs = mallocs
        self._callers = callers
        self.waiting: dict[int, Region] = {}

    def stays(self, args: list[int]) -> None:
        """An mremap failed: realloc (`mremap_chunk`) goes on to copy, and unmaps without a rise."""
        for r in self._regions.alive.values():
            if args and r.start == args[0] and r.kind == "malloc-chunk":
                r.stuck = True

    def alive(self) -> int:
        """How many there are now."""
        return self._regions.alive_of("malloc-chunk")

    def most(self) -> int:
        """How many there have been at one time, at most."""
        return self._regions.most_of("malloc-chunk")

    def unseen_bytes(self) -> int:
        """Bytes older than the trace that may be chunks whose headers were not found."""
        if not self._regions.older:
            return 0
        unknown = self._regions.kinds.get("unknown")
        return 0 if unknown is None else unknown.bytes

    def _note_threshold(self, r: Region) -> None:
        threshold = self._mallocs.of(r.libc).threshold
        r.t_low, r.t_high = threshold.low, threshold.high if threshold.unseen else None

    def header(self, seq: int, mmap_seq: int, word: int) -> None:
        """What was read in the mapping born at `mmap_seq`: the size word of a chunk; the address of
        a meta of musl's malloc, whose low bits are 0; or 0: no header.
        """
        r = self.waiting.get(mmap_seq)
        if r is None:
            return
        mallocs = self._mallocs
        if word and not word & 7:
            self._group(seq, mmap_seq, r)
            return
        it, layout = mallocs.of(r.libc), mallocs.of(r.libc).layout
        possible = mallocs.serving.name in ("glibc", "unknown") or mallocs.claimed is not None
        if possible and not r.unrounded and layout.known and word and (
            layout.is_header(word, r.length) or layout.is_header(word, r.bytes)
        ):  # fmt: skip
            del self.waiting[mmap_seq]
            if r.site is not None:
                self._callers.malloc.add(r.site)
            if not mallocs.glibc:
                mallocs.header_proves(seq, f"#{mmap_seq}")
                self._note_threshold(r)
            if r.kind == "malloc-chunk":
                r.evidence = "header"
                self._regions.settle(r)
            else:
                self._regions.become(r, "malloc-chunk", "header")
                hold(r, mallocs)
            if it.threshold.unseen and not r.no_arena and it.one_glibc:
                it.threshold.mapped(r.born_seq, r.born_t, layout.chunk(r.length)[1])
        elif not word:
            if r.kind == "malloc-chunk":  # the page was there and held no header
                self._doubt(r)
            elif r.candidates == origin.FALLBACKS and mallocs.inner(r.libc):
                # Its malloc made the mapping, and no chunk: sysmalloc_mmap_fallback, for the break
                # is not its own (`__always_fail_morecore`).
                self._regions.become(r, "main-arena", "caller")
                r.verdict, r.reason = "explained", "inner-libc"
            self._regions.settle(r)

    def _group(self, seq: int, mmap_seq: int, r: Region) -> None:
        """It begins with what musl's malloc writes where it has mapped a group of slots."""
        del self.waiting[mmap_seq]
        if r.kind == "malloc-chunk":
            self._doubt(r)
        if r.kind == "unknown" and r.site is None:  # musl's wrappers tell no caller
            self._regions.become(r, "runtime-heap", "header", "musl")
            rule_on(r)
            self._mallocs.group_proves(seq, f"#{mmap_seq}")
        self._regions.settle(r)

    def perhaps_freed(
        self, seq: int, t: int, args: list[int], change: Change, copy: Key | None = None
    ) -> None:
        """Libc, or nobody known, unmaps what may be a chunk: it would raise the threshold."""
        for _, _, attr, tag in change.removed:
            r = self._regions.alive.get(tag)
            if r is None or attr.is_file or attr.perms != "rw-p":
                return
            maybe = r.kind == "unknown" and (r.older or "malloc-chunk" in r.candidates)
            if not maybe and not (r.older and r.kind == "thread-stack"):
                return
        size = sum(e - s for s, e, _, _ in change.removed)
        if len(args) < 2 or args[1] != size:
            return
        for it, _ in self._mallocs.thresholds(copy):
            it.threshold.perhaps_freed(seq, t, size, it.layout)

    def unmapped_elsewhere(self, change: Change) -> None:
        """Not free's munmap: a chunk by its caller alone was mapped there as well, it seems."""
        for _, _, _, tag in change.removed:
            r = self._regions.alive.get(tag)
            if r is not None and r.kind == "malloc-chunk" and r.evidence == "caller":
                self._doubt(r)

    def _doubt(self, r: Region) -> None:
        """The caller said malloc, but something else speaks against it; see `_elsewhere`."""
        r.verdict, r.reason = "unknown", None
        self._regions.become(r, "unknown", "none")
        r.candidates = ("malloc-chunk", "anon")

    def unmapped(
        self, seq: int, t: int, args: list[int], who: str, r: Region,
        freed: tuple[int, int] | None = None, copy: Key | None = None, *, jumped: bool = False,
    ) -> None:  # fmt: skip
        """A region died by a munmap of `args`: a free, if it was a chunk and `who` was libc.

        `freed`: the size words at its start, and of an aligned chunk in it (`Ext.freed`). `copy`:
        of libc, where there are several and it is told. `jumped`: free may have ended in a jump to
        munmap, or its caller called that.
        """
        if r.kind != "malloc-chunk" or who in _NOT_FREE or r.verdict == "not-applicable":
            return
        size = r.bytes
        if not self._mallocs.glibc:
            return
        whole = len(args) > 1 and args[0] == r.start and args[1] == size
        if whole and r.end - r.start == size:
            word = None if freed is None else freed[1] or freed[0]
            # The header of an aligned chunk that has moved may be anywhere.
            told = not jumped and not r.stuck and (word is not None or not r.resized)
            for it, sure in self._mallocs.thresholds(copy):
                it.threshold.freed(seq, t, size, it.layout, sure=sure and told, word=word)
