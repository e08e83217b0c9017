# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose line it is: a log's numbers as threads of processes with address spaces.

A line may come before the one that says who began its thread, and a log may have no such line. What
can be known is: a child's lines may come as soon as the call that makes it is in flight; a thread
with a call in flight cannot make another; a line without a number is the only thread's. What cannot
be known is said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from memtrace.collect.strace import events as ev
from memtrace.collect.strace.assumed import Assumed
from memtrace.collect.strace.clock import Clock
from memtrace.collect.strace.descriptors import Descriptors
from memtrace.collect.strace.order import Item, Order
from memtrace.collect.strace.tasks import Mm, Process, Task, Tasks
from memtrace.trace.records import Attach, Clone, Fork, Life, Lost, Overlap, Start

CLONE_VM, CLONE_FILES, CLONE_THREAD, CLONE_VFORK = 0x100, 0x400, 0x10000, 0x4000
FORKS = frozenset(("fork", "vfork", "clone", "clone3"))


class Lineage:
    """Who is alive, who began whom; births become records.

    Args:
        order: takes the records.
        clock: of the log.

    `shared`: threads, or processes, run in one address space.
    """

    def __init__(self, order: Order, clock: Clock) -> None:
        self.tasks = Tasks()
        self.order = order
        self.shared = False
        self._ns = clock.ns
        self._mms = 0
        self._held: deque[ev.Event] = deque()  # until it is known whose they are
        self._hopeless: set[int] = set()
        self._ahead: dict[int, ev.Forked] = {}
        self._forking: dict[Task, ev.Entered] = {}
        self._early: set[Mm] = set()
        self._born_ahead: set[int] = set()  # of a call that is known to end so, and has not yet
        self._gone_early: set[int] = set()  # ended before the call that made them has
        self._attached: list[int] = []
        self._newborn: set[int] = set()
        self._modes: dict[int, str | None] = {}
        self._silent: set[int] = set()
        self._children: set[int] = set()
        self._root: Task | None = None
        self._origins = 0
        self._gap = ""

    def ahead(self, e: ev.Forked) -> None:
        """A call that will end so is in flight: whose child its child is."""
        if e.child is not None:
            self._ahead[e.child] = e

    # -- whose line it is ---------------------------------------------------------------------

    def _find(self, tid: int, e: ev.Event) -> Task | None:
        """The thread of a line; None: not known yet, `NOBODY`: it cannot be known."""
        task = self.tasks.of.get(tid)
        if task is not None:
            calls = isinstance(e, ev.Called | ev.Entered)
            if task.ending is None or not calls or not self._forking:
                self._silent.discard(tid)
                return task
            self._again(task)  # a child that has its number: exit never returns
        if tid == 0:
            return self._without_number(e)
        ahead = self._ahead.get(tid)
        if ahead is not None:
            parent = self.tasks.of.get(ahead.tid)
            if parent is not None:
                del self._ahead[tid]
                self._born_ahead.add(tid)
                return self._born(parent, tid, ahead.flags, ahead.stack, time_of(e))
        flying = self._forking
        unnamed = self.tasks.unnamed
        if unnamed is not None and (unnamed not in flying or isinstance(e, ev.Forked)):
            self._name(unnamed, tid)
            return unnamed
        if flying and tid not in self._hopeless:
            if len(flying) > 1:
                return None
            parent, entered = next(iter(flying.items()))
            flags, stack = at_entry(entered)
            return None if flags is None else self._born(parent, tid, flags, stack, time_of(e))
        return self._of_unknown_origin(tid)

    def _again(self, task: Task) -> None:
        """A number is a new thread's, though no line told the old one's end (strace -qqq)."""
        raise NotImplementedError

    def _of_unknown_origin(self, tid: int) -> Task:
        """A thread that no line begins: it was there before, or the line is missing.

        Where strace has attached to one process, whose threads it then follows, it is one of them,
        unless it was born later: then it may be a child whose fork is not in the log, too.
        Else nobody knows whether two such are of one process: that is said.
        """
        group = next(iter(set(self._attached))) if len(set(self._attached)) == 1 else 0
        leader = next((t for t in self.tasks if t.process.pid == group), None)
        unclear = tid in self._hopeless or tid in self._newborn
        if leader is not None and not unclear:
            task = Task(tid, leader.process)
        else:
            task = Task(tid, Process(group or tid, Mm(), Descriptors()))
            task.process.mm.abi = self._modes.pop(tid, None)
            if self._origins or unclear:
                self._missing(
                    f"no line of the log says which process thread {tid} belongs to: it is shown "
                    "as one of its own",
                    None,
                )
        self._origins += 1
        self._hopeless.discard(tid)
        self.tasks.add(task)
        return task

    def _without_number(self, e: ev.Event) -> Task:
        task = self.tasks.only(self._silent)
        if task is not None:
            return task
        if self.tasks.of:
            if isinstance(e, ev.Called | ev.Forked | ev.Execed):
                text = f"line {e.line} does not say whose it is: several processes are there"
                self._missing(text, None)
            return NOBODY
        named = self._attached[0] if len(set(self._attached)) == 1 else 0
        task = Task(named, Process(named, Mm(), Descriptors()))
        self.tasks.add(task)
        self.tasks.of[0] = task
        self._root = task
        return task

    def _name(self, task: Task, tid: int) -> None:
        """The number of the process whose lines had none."""
        if task.process.mm.number and not any(task in (i.waits or ()) for i in self.order.waiting):
            if task is self.tasks.unnamed:
                self.tasks.of[tid] = task  # its records say 0 already: it stays 0
            return
        self.tasks.name(task, tid)
        process = task.process
        if not process.pid:
            process.pid = tid
        for item in self.order.waiting:
            record = item.content
            if isinstance(record, Life):
                for field in ("pid", "tid", "child_pid", "ppid"):
                    if getattr(record, field, None) == 0:
                        setattr(record, field, tid)
                if isinstance(record, Attach):
                    record.tids = [tid if n == 0 else n for n in record.tids]
        self.order.release(task)

    def seen(self, tids: Iterable[int]) -> None:
        """Numbers that lines had, calls of no interest included: if all but one are children of
        somebody, that one is the process whose lines had none.
        """
        if not self.waits_for_name or self._held or self._root is None:
            return
        others = set(tids) - self._children
        if len(others) == 1:
            self._name(self._root, others.pop())

    @property
    def waits_for_name(self) -> bool:
        """Whether there is a process whose lines had no number so far."""
        return self._root is not None and not self._root.tid

    # -- births -------------------------------------------------------------------------------

    def _older(self, task: Task, t: int | None) -> None:
        """A process that was there before the log: nothing of its map is known."""
        process = task.process
        record = Attach(
            t=self._ns(t), pid=process.pid, mm=0, tids=[task.tid], env_lost=True, assumed=True,
            why="log",
        )  # fmt: skip
        self._begin(task, record, fresh=False)

    def _begin(self, task: Task, record: Start, *, fresh: bool) -> None:
        mm = task.process.mm
        self._mms += 1
        mm.number = record.mm = self._mms
        mm.early = Assumed(fresh=fresh)
        self._early.add(mm)
        waits: set[Task | Mm] = {mm}
        if task is self.tasks.unnamed:
            waits.add(task)
        self.order.put(Item(record, mm, waits))

    def _born(self, parent: Task, tid: int, flags: int, stack: int | None, t: int | None) -> Task:
        mother = parent.process
        if self.waits_for_name:
            self._children.add(tid)
        if not mother.mm.number:
            self._older(parent, t)
        mm, ns = mother.mm, self._ns(t)
        self.shared = self.shared or flags & (CLONE_VM | CLONE_VFORK) == CLONE_VM
        if flags & CLONE_THREAD:
            task = Task(tid, mother)
        else:
            shared = flags & CLONE_FILES
            table = mother.descriptors if shared else mother.descriptors.copy()
            child_mm = mm
            if not flags & CLONE_VM:
                child_mm = mm.copy()
                self._mms += 1
                child_mm.number = self._mms
            task = Task(tid, Process(tid, child_mm, table))
        task.personality, task.before_exec = parent.personality, parent.before_exec
        record: Life
        if flags & CLONE_VM:
            record = Clone(
                t=ns, pid=mother.pid, tid=parent.tid, mm=mm.number, child=tid,
                child_pid=task.process.pid, flags=flags, stack=stack,
            )  # fmt: skip
        else:
            record = Fork(
                t=ns, pid=mother.pid, tid=parent.tid, mm=mm.number, child=tid,
                child_mm=task.process.mm.number,
            )  # fmt: skip
        self.tasks.add(task)
        self._put(record, mm)
        begun = parent.entered
        if isinstance(record, Fork) and (
            mm.freeing or (begun is not None and begun.call in FORKS and mm.line > begun.line)
        ):
            # What it copied, of what others changed meanwhile, no line tells (`dup_mmap`).
            tids = [parent.tid, *(other.tid for other in mm.freeing)]
            self._put(Overlap(t=ns, mm=record.child_mm, tids=tids), task.process.mm)
        return task

    # -- out ----------------------------------------------------------------------------------

    def _missing(self, what: str, mm: Mm | None) -> None:
        """Something that the log does not hold."""
        self._gap = self._gap or what
        self._put(Lost(t=None, mm=mm.number if mm is not None else None, why=what), mm)

    def _put(self, record: Life, mm: Mm | None) -> None:
        self.order.put(Item(record, mm or _NOWHERE))


def at_entry(e: ev.Entered) -> tuple[int | None, int | None]:
    """(flags, stack) of a fork-like call in flight; flags None where its line does not say."""
    if e.call == "fork":
        return 0, None
    if e.call == "vfork":
        return CLONE_VM | CLONE_VFORK, None
    if not e.args:
        return None, None
    return e.args[0] & ~0xFF, e.args[1] if len(e.args) > 1 else None


def time_of(e: ev.Event) -> int | None:
    """When an event began."""
    return getattr(e, "t0", None) if hasattr(e, "t0") else getattr(e, "t", None)


_NOWHERE = Mm()
NOBODY = Task(-1, Process(-1, _NOWHERE, Descriptors()))
