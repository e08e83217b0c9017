# SPDX-License-Identifier: GPL-2.0-or-later
"""Which thread belongs to which process, and which process uses which address space, as of now."""

from __future__ import annotations

from collections.abc import Iterable

from memtrace.trace.records import Attach, Call, Clone, Exec, Exit, Fork, Gone, Record


class Tasks:
    """Threads, processes and their mm, followed through the life-cycle records.

    `pid_of`: tid -> pid, `mm_of`: pid -> mm, `users`: mm -> the pids that use it now. A process is
    here from its first record until its mm is gone, or until its last thread exits if others go on
    using the mm (a vfork child that never execs).
    """

    __slots__ = ("_threads", "mm_of", "pid_of", "users")

    def __init__(self) -> None:
        self.pid_of: dict[int, int] = {}
        self.mm_of: dict[int, int] = {}
        self.users: dict[int, set[int]] = {}
        self._threads: dict[int, set[int]] = {}  # where they are more or less than the leader

    def apply(self, record: Record) -> None:
        """Follow one record; calls change nothing."""
        kind = record.__class__
        if kind is Call:
            return
        if isinstance(record, Exec):
            self.end(record.pid)
            self._begin(record.pid, record.mm)
        elif isinstance(record, Attach):
            self.end(record.pid)
            self._begin(record.pid, record.mm)
            if record.tids:  # its leader may have ended before
                self._have(record.pid, record.tids)
                self.pid_of.update((tid, record.pid) for tid in record.tids)
        elif isinstance(record, Fork):
            self.end(record.child)
            self._begin(record.child, record.child_mm)
        elif isinstance(record, Clone):
            if record.child_pid != record.pid:
                self.end(record.child_pid)
                self._begin(record.child_pid, record.mm)
            self.pid_of[record.child] = record.child_pid
            leader = record.child == record.child_pid and record.child in self.mm_of
            if not leader or record.child in self._threads:
                self._threads_of(record.child_pid).add(record.child)
        elif isinstance(record, Exit):
            if record.pid not in self.mm_of and record.pid not in self._threads:
                return
            threads = self._threads_of(record.pid)
            threads.discard(record.tid)
            if record.tid != record.pid:
                self.pid_of.pop(record.tid, None)
            if not threads and len(self.users.get(self.mm_of.get(record.pid, -1), ())) > 1:
                self.end(record.pid)
        elif isinstance(record, Gone):
            for pid in list(self.users.get(record.mm, ())):
                self.end(pid)

    def end(self, pid: int) -> None:
        """The process and its threads are no more."""
        for tid in self._threads.pop(pid, ()):
            self.pid_of.pop(tid, None)
        mm = self.mm_of.pop(pid, None)
        self.pid_of.pop(pid, None)
        if mm is not None:
            users = self.users.get(mm)
            if users is not None:
                users.discard(pid)
                if not users:
                    del self.users[mm]

    def save(self) -> list[tuple[int, int, list[int]]]:
        """(pid, mm, its threads) of each process, for `of`."""
        return [(pid, mm, sorted(self._threads.get(pid, (pid,)))) for pid, mm in self.mm_of.items()]

    @classmethod
    def of(cls, saved: Iterable[tuple[int, int, list[int]]]) -> Tasks:
        """What `save` has saved."""
        tasks = cls()
        for pid, mm, threads in saved:
            tasks._begin(pid, mm)
            tasks._have(pid, threads)
            tasks.pid_of.update((tid, pid) for tid in threads)
        return tasks

    def _begin(self, pid: int, mm: int) -> None:
        self.pid_of[pid] = pid
        self.mm_of[pid] = mm
        self.users.setdefault(mm, set()).add(pid)
        self._threads.pop(pid, None)

    def _have(self, pid: int, threads: list[int]) -> None:
        """These are the threads of a process just begun."""
        if threads != [pid]:
            self._threads[pid] = set(threads)

    def _threads_of(self, pid: int) -> set[int]:
        """The threads of a process, to be changed."""
        threads = self._threads.get(pid)
        if threads is None:
            threads = self._threads[pid] = {pid} if pid in self.mm_of else set()
        return threads
