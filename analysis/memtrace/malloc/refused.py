# SPDX-License-Identifier: GPL-2.0-or-later
"""Why the kernel refused to let the heap grow (brk(2) of mm/mmap.c).

In its order: RLIMIT_DATA against the distance from start_brk (`check_data_rlimit`), one free page
before the next mapping, and stack_guard_gap more before a stack; then RLIMIT_AS and RLIMIT_DATA
against all of the process's memory (`may_expand_vm`), the number of mappings, and what the machine
can promise (`security_vm_enough_memory_mm`). Each alone refuses it. The map is exact, so a mapping
in the way is proven. Limits are known as they were when the program was loaded, or attached to:
setrlimit is not recorded. A limit that the memory is beyond already has been raised since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memtrace.space.canonical import GROWSDOWN
from memtrace.trace.sizes import PAGE, round_up

if TYPE_CHECKING:
    from memtrace.space.address_space import AddressSpace
    from memtrace.trace.records import Start

NEXT_MAPPING, STACK_GAP, DATA, AS, MEMLOCK, OVERCOMMIT, MAPS = (
    "next-mapping", "stack-guard-gap", "RLIMIT_DATA", "RLIMIT_AS", "RLIMIT_MEMLOCK", "overcommit",
    "max-map-count",
)  # fmt: skip
_STACK_GAP = 256 * PAGE  # the kernel's default stack_guard_gap


class Refusal(NamedTuple):
    """A refused growth.

    `cause`: what refuses it, None where that is not proven; then `candidates`: what may have
    (OVERCOMMIT: unless the machine promises anything, vm.overcommit_memory=1).
    `room`: bytes by which the break could have moved up to the next mapping; None where there is
    none above, or not all mappings are known.
    """

    cause: str | None = None
    room: int | None = None
    candidates: tuple[str, ...] = ()


def refusal(space: AddressSpace, start: Start, old: int, asked: int, vm: int | None) -> Refusal:
    """Why the break was not moved from `old` to `asked`.

    Args:
        space: the map, as it is.
        start: what the limits were.
        old: the break.
        asked: for a growth.
        vm: pages mapped, by the kernel's count; None if not recorded.
    """
    low, high = round_up(old), round_up(asked)
    above = next(space.pieces(low, 1 << 64), None)
    room, gap = None, 0
    if above is not None:
        gap = _STACK_GAP if above[2].flags & GROWSDOWN else 0
        if not start.assumed:
            room = max(above[0] - gap - PAGE - old, 0)
        if high + PAGE > above[0]:
            return Refusal(NEXT_MAPPING, room)
    if _limited(space, start, old, asked):
        return Refusal(DATA, room)
    most, pages = start.rlimits.get("AS"), (high - low) // PAGE
    if most is not None and vm is not None and vm <= most // PAGE < vm + pages:
        return Refusal(AS, room)
    near = above is not None and high + PAGE > above[0] - gap
    gaps = (STACK_GAP,) if near else ()
    return Refusal(None, room, (*gaps, DATA, AS, MEMLOCK, OVERCOMMIT, MAPS))


def _limited(space: AddressSpace, start: Start, old: int, asked: int) -> bool:
    """Whether RLIMIT_DATA as it was excludes the growth, and did not exclude what is there."""
    limit, begin = start.rlimits.get("DATA"), space.start_brk
    if limit is None:
        return False
    if begin is not None and old - begin <= limit < asked - begin:
        return True
    if start.assumed or not limit:  # of a limit of 0 the hard one counts
        return False
    pages = _data(space) // PAGE
    return pages <= limit // PAGE < pages + (round_up(asked) - round_up(old)) // PAGE


def _data(space: AddressSpace) -> int:
    """Bytes that the kernel counts as data (`is_data_mapping`)."""
    return sum(
        e - s
        for s, e, a, _ in space.pieces()
        if a.perms[1:2] == "w" and a.perms[3:] == "p" and not a.flags & GROWSDOWN
    )
