# SPDX-License-Identifier: GPL-2.0-or-later
"""When a checkpoint is kept."""

from __future__ import annotations

from memtrace.replay.checkpoint import Keeper
from memtrace.replay.process import Process
from memtrace.replay.tasks import Tasks
from memtrace.space.address_space import AddressSpace
from memtrace.trace.reader import Mark
from memtrace.trace.records import Exec
from memtrace.trace.sidecar import Memory

LIVE = 5000


class Counted(AddressSpace):
    """Counts how often it is looked at."""

    looks = 0

    def __len__(self) -> int:
        Counted.looks += 1
        return super().__len__()


def test_what_many_live_address_spaces_cost_is_not_asked_at_each_block() -> None:
    live = {}
    for mm in range(LIVE):
        p = Process(mm, mm, None, Exec(t=0, pid=mm, tid=mm, mm=mm), None, 0, 0, Counted())
        live[mm] = p
    touched, store = set(live), Memory()
    keeper = Keeper(store, every=10)
    Counted.looks = 0
    for seq in range(10, 2 * LIVE, 10):
        keeper.passing(Mark(0, seq, seq), live, touched, Tasks(), 0)
    assert Counted.looks <= 3 * LIVE
    assert keeper.kept[0][0] == LIVE
    assert not touched
