# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages a call may change, and whether a stack may have grown into them."""

from __future__ import annotations

import os
import struct

import pytest
from tests.unit.collect.messages import entry_of
from tests.unit.collect.test_observe import Place, place

from memtrace.collect import grown
from memtrace.collect.abi import CALLS, I386, NATIVE, Role, role_of
from memtrace.collect.tracee import Mm, Tracee

__all__ = ["place"]  # a fixture

FREE, LOW, IN_STACK = 0x7000_0000, 0x7FFC_0000_0000, 0x7FFF_FFFF_0000
STACK, PAGE = IN_STACK - 0x100_0000, 0x1000
FIXED, REMAP, SHMAT, VMA, DONTFORK = 3, 0o40000, 21, 0x53564D41, 10


@pytest.mark.parametrize(("name", "arguments", "meets"), [
    ("mprotect", [STACK, PAGE, 1], True),
    ("mprotect", [FREE, PAGE, 1], False),
    ("mprotect", [FREE, STACK - FREE, 1], True),
    ("munmap", [IN_STACK + PAGE, PAGE], False),
    ("mmap", [0, PAGE, 3, 0x22, -1, 0], False),
    ("mremap", [FREE, PAGE, PAGE, FIXED, STACK], True),
    ("mremap", [FREE, PAGE, STACK - FREE, FIXED, FREE + PAGE], True),
    ("mremap", [FREE, PAGE, PAGE, 1, STACK], False),  # without MREMAP_FIXED it is no address
    ("mremap", [STACK, PAGE, PAGE, 1, 0], True),
    ("shmat", [7, STACK, REMAP], True),
    ("shmat", [7, FREE, REMAP], True),  # nobody knows how long it is
    ("shmat", [7, STACK, 0], False),  # fails where something is
    ("shmdt", [FREE, STACK, STACK], False),
    ("brk", [FREE, STACK, STACK], False),  # no length
    ("prctl", [VMA, 0, STACK, PAGE, 0], True),
    ("prctl", [VMA, 0, FREE, PAGE, STACK], False),
    ("process_madvise", [3, FREE, 1, DONTFORK, 0], True),  # an iovec's
    ("process_madvise", [3, FREE, 1, 20, 0], False),
    ("ipc", [SHMAT, 7, REMAP, FREE, STACK], True),
    ("ipc", [SHMAT, STACK, 0, STACK, FREE], False),
    ("mmap2", [STACK, PAGE, 3, 0x32, 0, 0], True),
])  # fmt: skip
def test_only_what_may_change_the_stack(name: str, arguments: list[int], *, meets: bool) -> None:
    tracee = Tracee(100, 100, Mm(1, 100))
    tracee.mm.growing_from, tracee.mm.in_stack = LOW, IN_STACK
    tracee.entry[:] = entry_of(0, [v % (1 << 64) for v in arguments])
    tracee.abi = NATIVE if name in CALLS else I386
    arguments = arguments + [0] * (6 - len(arguments))
    assert grown.may_meet(tracee, name, arguments) == meets
    tracee.mm.growing_from = 0  # of a mapping like a stack nobody knows
    assert grown.may_meet(tracee, name, arguments)


def test_old_mmap_has_its_arguments_in_memory(place: Place) -> None:
    tracee = Tracee(100, 100, Mm(1, 100))
    tracee.mm.open(os.getpid())
    tracee.mm.growing_from, tracee.mm.in_stack, tracee.abi = 0xFF00_0000, 0xFFFF_0000, I386
    for address, meets in ((0xFFF0_0000, True), (0x1000_0000, False)):
        place.memory[:24] = struct.pack("<6I", address, PAGE, 3, 0x32, 0, 0)
        assert grown.may_meet(tracee, "old_mmap", [place.address, 0, 0, 0, 0, 0]) == meets
    tracee.mm.close()


@pytest.mark.parametrize("name", CALLS)
def test_every_memory_call_has_its_ranges_or_is_known_to_have_none(name: str) -> None:
    nothing = {
        "mlockall", "munlockall", "map_shadow_stack", "io_setup", "io_destroy", "arch_prctl",
        "personality", "prctl", "process_madvise", "shmat", "vfork",
    }  # fmt: skip
    if role_of(name) is Role.MEMORY:
        assert (not grown.changed(name, [STACK, 0, 0, 0, 0, 0])) == (name in nothing)
