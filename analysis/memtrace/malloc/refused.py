# SPDX-License-Identifier: GPL-2.0-or-later
"""Why the kernel refused to let the heap grow (brk(2) of mm/mmap.c).

In its order: RLIMIT_DATA against the distance from start_brk (`check_data_rlimit`), one free page
before the next mapping, and stack_guard_gap more before a stack; then RLIMIT_AS and RLIMIT_DATA
against all of the process's memory (`may_expand_vm`), the number of mappings, and what the machine
can promise (`security_vm_enough_memory_mm`). Each alone refuses it. The map is exact, so a mapping
in the way is proven. The limits are as they were when the program was loaded, or attached to:
setrlimit is not recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memtrace.space.canonical import GROWSDOWN
from memtrace.trace.sizes import PAGE, round_up

if TYPE_CHECKING:
    from memtrace.space.address_space import AddressSpace
    from memtrace.trace.records import Start

NEXT_MAPPING, STACK_GAP, DATA, AS, OVERCOMMIT, MAPS = (
    "next-mapping", "stack-guard-gap", "RLIMIT_DATA", "RLIMIT_AS", "overcommit", "max-map-count",
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
    pages = high - low
    data, most = start.rlimits.get("DATA"), start.rlimits.get("AS")
    begin = space.start_brk
    if data is not None and (
        (begin is not None and asked - begin > data)
        or (not start.assumed and data and (_data(space) + pages) // PAGE > data // PAGE)
    ):
        return Refusal(DATA, room)
    if most is not None and vm is not None and vm + pages // PAGE > most // PAGE:
        return Refusal(AS, room)
    candidates = []
    if above is not None and high + PAGE > above[0] - gap:
        candidates.append(STACK_GAP)
    candidates += [DATA] if data is not None else []
    candidates += [AS] if most is not None and vm is None else []
    return Refusal(None, room, (*candidates, OVERCOMMIT, MAPS))


def _data(space: AddressSpace) -> int:
    """Bytes that the kernel counts as data (`is_data_mapping`)."""
    return sum(
        e - s
        for s, e, a, _ in space.pieces()
        if a.perms[1:2] == "w" and a.perms[3:] == "p" and not a.flags & GROWSDOWN
    )
