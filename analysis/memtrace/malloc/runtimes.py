# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of runtimes and allocators that a program holds among its own code.

Its text makes their calls and its own; whose a mapping is, its place does not tell. Two things do.
Go's runtime makes all of its mappings with one instruction, and it alone reserves its first arena
at 0xc000000000 (`mallocinit`): so what that place maps is the runtime's, whatever maps elsewhere.
And an allocator may name its memory (prctl(PR_SET_VMA)), which is seen even where the kernel knows
no such names and refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from memtrace.malloc.origin import PLAIN, Decision
from memtrace.malloc.regions import Region, Regions
from memtrace.malloc.verdicts import rule_on

if TYPE_CHECKING:
    from memtrace.space.address_space import AddressSpace
    from memtrace.trace.records import Call

_GO_ARENA, _GO_ARENA_SIZE = 0xC000000000, 64 << 20  # arenaHint, heapArenaBytes
_PR_SET_VMA = 0x53564D41
#: Of mappings whose place may still turn out to be the runtime's, per place.
_WAITING = 10_000
#: Beginnings of names, whose they are and what kind of memory it is.
_NAMES = (
    (" glibc: malloc arena", None, "arena"),
    (" glibc: pthread ", None, "thread-stack"),
    (" glibc: loader malloc", None, "loader"),
    ("Go: ", "go", "runtime-heap"),
    ("jemalloc_pg", "jemalloc", "runtime-heap"),
    ("mimalloc", "mimalloc", "runtime-heap"),
    ("tcmalloc_region", "google-tcmalloc", "runtime-heap"),
)

Place = tuple[str, int]


class Runtimes:
    """What is known of the runtimes of one address space.

    Args:
        space: its map.
        regions: its regions.
    """

    def __init__(self, space: AddressSpace, regions: Regions) -> None:
        self._space = space
        self._regions = regions
        self._go: set[Place] = set()
        self._waiting: dict[Place, list[Region]] = {}

    def inherit(self, other: Runtimes) -> None:
        """A forked child runs the same code."""
        self._go |= other._go

    def go(self, args: list[int], place: Place | None, r: Region) -> Decision:
        """A mapping made by the text of a Go program at `place`."""
        if place is None:
            return _untold("")
        if place not in self._go and _is_arena(args):
            self._go.add(place)
            for waiting in self._waiting.pop(place, ()):
                if waiting.kind == "unknown" and waiting.died_seq is None:
                    self._regions.become(waiting, "runtime-heap", "sequence", "go")
                    rule_on(waiting)
        if place in self._go:
            return Decision("runtime-heap", "caller", "go")
        waiting_here = self._waiting.setdefault(place, [])
        if len(waiting_here) < _WAITING:
            waiting_here.append(r)
        return _untold("runtime")

    def named(self, call: Call, changed: Callable[[], None]) -> None:
        """prctl(PR_SET_VMA): whose memory it is says who names it. `changed` is called if that
        tells a kind that was not known.
        """
        ext, args = call.ext, call.args
        if ext is None or not ext.name or len(args) < 4 or args[0] != _PR_SET_VMA:
            return
        known = next((n for n in _NAMES if ext.name.startswith(n[0])), None)
        if known is None:
            return
        _, owner, kind = known
        for _, _, attr, tag in list(self._space.pieces(args[2], args[2] + args[3])):
            r = self._regions.alive.get(tag)
            if r is None or attr.is_file or tag == self._space.heap_tag:
                continue
            # What the program's text maps is its allocator's, if the program says so.
            if r.kind == "unknown" or (r.kind == "anon" and kind == "runtime-heap"):
                self._regions.become(r, kind, "sequence", owner)
                rule_on(r)
                changed()


def _is_arena(args: list[int]) -> bool:
    return len(args) > 3 and args[:4] == [_GO_ARENA, _GO_ARENA_SIZE, 0, PLAIN]


def _untold(wait: str) -> Decision:
    return Decision("unknown", "none", None, ("runtime-heap", "anon"), wait)
