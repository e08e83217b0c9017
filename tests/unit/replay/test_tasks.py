# SPDX-License-Identifier: GPL-2.0-or-later
"""Who belongs to whom, as the life-cycle records tell it."""

from __future__ import annotations

from memtrace.replay.tasks import Tasks
from memtrace.trace.records import Attach, Clone, Exec, Exit, Fork, Gone, Record


def after(*records: Record) -> Tasks:
    tasks = Tasks()
    tasks.apply(Exec(t=1, pid=1, tid=1, mm=1))
    for record in records:
        tasks.apply(record)
    saved = tasks.save()
    again = Tasks.of(saved)
    assert again.save() == saved
    assert (again.mm_of, again.users) == (tasks.mm_of, tasks.users)
    return tasks


def thread(tid: int, pid: int = 1, mm: int = 1, of: int = 1) -> Clone:
    return Clone(t=2, pid=of, tid=of, mm=mm, child=tid, child_pid=pid)


def ended(tid: int, pid: int = 1, mm: int = 1) -> Exit:
    return Exit(t=3, pid=pid, tid=tid, mm=mm, code=0)


def test_a_process_alone_is_its_own_thread() -> None:
    tasks = after(Fork(t=2, pid=1, tid=1, mm=1, child=2, child_mm=2))
    assert tasks.save() == [(1, 1, [1]), (2, 2, [2])]
    assert tasks.pid_of == {1: 1, 2: 2}


def test_threads_come_and_go_the_leader_too() -> None:
    assert after(thread(5), thread(6)).save() == [(1, 1, [1, 5, 6])]
    assert after(thread(5), ended(1)).save() == [(1, 1, [5])]
    gone = after(thread(5), ended(5))
    assert (gone.save(), gone.pid_of) == ([(1, 1, [1])], {1: 1})
    assert after(ended(1)).save() == [(1, 1, [])]
    assert after(thread(5), Gone(t=4, mm=1)).pid_of == {}


def test_a_child_in_the_same_space_ends_with_its_last_thread() -> None:
    tasks = after(thread(7, 7), ended(7, 7))
    assert (tasks.save(), tasks.users) == ([(1, 1, [1])], {1: {1}})
    tasks = after(thread(7, 7), thread(8, 7, of=7), ended(7, 7))
    assert tasks.save() == [(1, 1, [1]), (7, 1, [8])]


def test_a_process_found_without_its_leader() -> None:
    tasks = after(Attach(t=2, pid=9, mm=9, maps=[], tids=[10, 11]))
    assert tasks.save() == [(1, 1, [1]), (9, 9, [10, 11])]
    # A number that is used again has nothing of the process before.
    tasks.apply(Exec(t=3, pid=9, tid=9, mm=12))
    assert tasks.save() == [(1, 1, [1]), (9, 12, [9])]
