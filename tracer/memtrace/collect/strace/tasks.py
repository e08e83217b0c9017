# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is who in a log: its numbers are threads; processes and address spaces follow from the calls.

Lines without a number belong to the only thread there is. Its number comes later, if at all.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from memtrace.collect.strace.assumed import Assumed
from memtrace.collect.strace.descriptors import Descriptors
from memtrace.collect.strace.events import Entered


class Mm:
    """One address space.

    `number`: the trace's, 0 until a record tells of it. `users`: the processes that have it.
    `freeing`: [start, end) that a task's call in flight unmaps, if the kernel has got so far.
    `brk`: the last one that a call answered. `early`: its first calls, while what they prove is
    gathered. `start_brk`: where the heap begins, None if no call told. `line`: of its last call.
    `libraries`: paths of the C libraries named so far. `abi`: of its calls, None: native.
    `reads_exec`: a task of it has had a personality with READ_IMPLIES_EXEC.
    """

    __slots__ = (
        "abi", "brk", "early", "freeing", "libraries", "line", "number", "reads_exec",
        "start_brk", "users",
    )  # fmt: skip

    def __init__(self) -> None:
        self.number = 0
        self.users: set[Process] = set()
        self.freeing: dict[Task, tuple[int, int]] = {}
        self.brk: int | None = None
        self.start_brk: int | None = None
        self.line = 0
        self.early: Assumed | None = None
        self.libraries: set[str] = set()
        self.abi: str | None = None
        self.reads_exec = False

    def copy(self) -> Mm:
        """The forked child's."""
        child = Mm()
        child.brk, child.start_brk, child.abi = self.brk, self.start_brk, self.abi
        child.reads_exec = self.reads_exec
        child.libraries = set(self.libraries)
        return child


class Process:
    """A process. `successor`: the thread whose exec has made it the leader."""

    __slots__ = ("descriptors", "mm", "pid", "successor", "threads")

    def __init__(self, pid: int, mm: Mm, descriptors: Descriptors) -> None:
        self.pid = pid
        self.mm = mm
        self.descriptors = descriptors
        self.threads: set[Task] = set()
        self.successor: int | None = None
        mm.users.add(self)


class Task:
    """A thread. `entered`: its call in flight, if its line was cut; `ending`: the status that its
    exit or exit_group will give it; `told`: the call that made it has returned. `personality`: what
    it has set, or its parent had; `before_exec`: what it was at its exec, where READ_IMPLIES_EXEC
    stays only if the program is a 32-bit one (`SET_PERSONALITY2`).
    """

    __slots__ = (
        "before_exec", "ending", "entered", "personality", "process", "tid", "told",
    )  # fmt: skip

    def __init__(self, tid: int, process: Process) -> None:
        self.tid = tid
        self.process = process
        self.entered: Entered | None = None
        self.ending: int | None = None
        self.told = False
        self.personality = self.before_exec = 0
        process.threads.add(self)


class Tasks:
    """The living, by the number that lines have; 0 stands for the only one."""

    def __init__(self) -> None:
        self.of: dict[int, Task] = {}
        self.unnamed: Task | None = None  # its lines had no number so far

    def add(self, task: Task) -> None:
        """One more: lines without a number no longer mean the other, unless it has no other."""
        only = self.of.get(0)
        if only is not None and only.tid:
            del self.of[0]
        self.of[task.tid] = task
        if not task.tid:
            self.unnamed = task

    def remove(self, task: Task) -> None:
        """It has ended."""
        self.of.pop(task.tid, None)
        if self.of.get(0) is task:
            del self.of[0]
        if self.unnamed is task:
            self.unnamed = None
        task.process.threads.discard(task)

    def only(self, silent: Container[int]) -> Task | None:
        """The one that lines without a number mean, if just one is alive.

        `silent`: those without a line of their own. Where strace follows them, it writes no line
        without a number while they live.
        """
        every = {task for task in self if task.tid not in silent}
        if len(every) > 1:
            every = {task for task in every if task.ending is None}
        if len(every) != 1:
            return None
        task = every.pop()
        self.of[0] = task
        return task

    def name(self, task: Task, tid: int) -> None:
        """It turns out to be number `tid`."""
        task.tid = tid
        if task is self.unnamed:  # else it has ended
            self.of[tid] = task
            self.unnamed = None

    def renumber(self, task: Task, tid: int) -> None:
        """An exec has given it the number of its process."""
        other = self.of.get(tid)
        if other is not None and other is not task:
            self.remove(other)
        self.of.pop(task.tid, None)
        task.tid = tid
        self.of[tid] = task

    def __iter__(self) -> Iterator[Task]:
        return iter(set(self.of.values()))
