# SPDX-License-Identifier: GPL-2.0-or-later
"""What the ptrace engine makes of a task that cannot be looked at any more."""

from __future__ import annotations

import os

import pytest
from tests.unit.collect.messages import NR, entry_of

from memtrace.collect.channel import Channel, Wishes
from memtrace.collect.engine import Engine
from memtrace.collect.options import Options
from memtrace.collect.tracee import Mm, Tracee

MLOCK = 149


@pytest.mark.parametrize(
    ("number", "killed", "doubts"),
    [
        pytest.param(NR["mmap"], False, 1, id="it may have been made"),
        pytest.param(NR["mmap"], True, 0, id="killed at the entry: skipped"),
        pytest.param(MLOCK, False, 0, id="it changes no map"),
    ],
)
def test_a_call_whose_task_was_killed_again_at_its_exit_event(
    number: int, *, killed: bool, doubts: int
) -> None:
    engine = Engine(Channel(-1, Wishes()), Options())
    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    tracee = Tracee(gone, gone, Mm(1, gone))
    tracee.entry[:] = entry_of(number, [0, 4096, 3, 0x22])
    tracee.pending, tracee.killed = True, killed
    tracee.mm.holder = tracee
    engine._killed_in_call(tracee, 9)
    assert not tracee.pending
    assert tracee.mm.holder is None
    assert tracee.mm.calls == 1  # written as unfinished
    assert (tracee.mm.in_doubt, tracee.mm.disordered) == (doubts, bool(doubts))
