# SPDX-License-Identifier: GPL-2.0-or-later
"""The tracer's view of tasks and address spaces: identity, and who waits for whom.

Everything is keyed by mm, never by pid: threads, vfork children and CLONE_VM processes share one.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Any

from memtrace.collect.abi import NATIVE, Abi
from memtrace.collect.channel import wish_slot
from memtrace.collect.freed import LEAST
from memtrace.collect.ptrace import SyscallEntry
from memtrace.space.address_space import READ_IMPLIES_EXEC
from memtrace.trace.sizes import PAGE

#: An address that no call has.
NOWHERE = 1 << 64
#: How far down a stack is expected: as far as its limit, which may be raised, and not as far as
#: where mmap_base may lie (of 4 GiB it leaves it 128 MiB).
_STACK_AT_LEAST, _STACK_WITHOUT_LIMIT, _STACK_SHARE = 64 << 20, 1 << 36, 64


class FirstStop(Enum):
    """What a new process's first stop is for: to compare its map with its parent's, to begin with
    its map, or to let it go.
    """

    NOTHING = 0
    SNAPSHOT = 1
    SEED = 2
    RELEASE = 3

    def __bool__(self) -> bool:
        return self is not FirstStop.NOTHING


class Walked:
    """What decides when an mm's heaps are walked, and where they are (`walking.py`).

    `breaks`: the values the break has had, in order; None: it was not seen from the beginning.
    `brk` is the last of them, 0: not known. `size`: bytes of the heap at the last walk; `cost`:
    what that one took, `spent`: what all have taken, ns. `since`: when the mm began,
    CLOCK_MONOTONIC ns; `forked`: as a copy. `again`: a heap did not hold together, and is looked at
    once more.
    """

    __slots__ = ("again", "breaks", "brk", "cost", "forked", "since", "size", "spent", "start")

    def __init__(self, start: int, *, seen: bool) -> None:
        self.start = start
        self.breaks: list[int] | None = [] if seen else None
        self.brk = self.size = self.cost = self.spent = 0
        self.since = time.monotonic_ns()
        self.forked = self.again = False

    def copy(self) -> Walked:
        """That of a forked child."""
        new = Walked(self.start, seen=False)
        new.breaks = None if self.breaks is None else self.breaks.copy()
        new.brk, new.size, new.cost = self.brk, self.size, self.cost
        new.forked = True
        return new


class Mm:
    """One address space being traced; number 0 is memtrace's own child before its exec.

    Calls of one mm are serialised: `holder` is the tracee inside a call, `waiting` those stopped at
    their entry. `overlapping` holds those whose call outlasted the time limit: the holder's runs
    beside them. `disordered` is set from then to the next snapshot. `exec_snap` is the number of
    calls at the last snapshot before an exec. `tids` are its tasks, `live` those that have not
    reached their exit stop. `in_doubt` counts calls of killed threads of which it is not known
    whether they were made. `blind` is set when the kernel does not let its map be read.

    `keeper` is a task that is kept in its exit stop since `kept_ns` (CLOCK_MONOTONIC), so that the
    mm can be read once all others, which were killed with it, have gone.

    `seeded` is False while an attach has not read the map: what happens until then is before the
    beginning, and the writer drops it. `seed_due`: to be read as soon as no call is in flight.
    `stacks`: stack pointers of its tasks at their first stop.

    `reads_exec` is set once a task's personality has READ_IMPLIES_EXEC: from then on each call says
    what its own is. `growing_from`: a call on pages from here on may meet pages that were mapped by
    stack growth, which no call tells (`grown.may_meet`); `stack_at` is where the main stack
    was last seen to begin, `in_stack` an address in it. `brk_told` is unset from an attach to the
    first brk. `freed` is the size of the largest mapped chunk that was looked at when it was freed:
    what is no larger does not move malloc's threshold any more. `no_chunk`: of the fresh mapping
    that was looked at last and is no chunk, whose it was, its address and the number of calls then:
    a munmap that is the very next call need not look again. `walk_due`: why its heaps are to be
    walked at the next stop, "": they are not. `was_short`: a call has failed
    with ENOMEM.
    """

    __slots__ = (
        "blind", "brk_told", "calls", "disordered", "exec_snap", "freed", "fresh", "growing_from",
        "holder", "id", "in_doubt", "in_stack",
        "keeper", "kept_ns", "last_snap_calls", "live", "maps_fd", "mem_fd", "next_snap",
        "no_chunk", "overlapping", "pagemap_fd",
        "pid", "reads_exec", "seed_due", "seeded", "slot", "stack_at", "stacks", "statm_fd",
        "tids", "waiting", "walk_due", "walked", "was_short",
    )  # fmt: skip

    def __init__(self, number: int, pid: int) -> None:
        self.id = number
        self.pid = pid
        self.slot = wish_slot(number)
        self.holder: Tracee | None = None
        self.waiting: deque[Tracee] = deque()
        self.overlapping: set[Tracee] = set()
        self.disordered = False
        self.in_doubt = 0
        self.keeper: Tracee | None = None
        self.kept_ns = 0
        self.blind = False
        self.seeded = True
        self.seed_due = False
        self.stacks: dict[int, int] = {}
        self.tids: set[int] = set()
        self.live: set[int] = set()
        self.calls = 0
        self.last_snap_calls = 0
        self.exec_snap = -1
        self.reads_exec = False
        self.brk_told = True
        self.growing_from = NOWHERE
        self.in_stack = self.stack_at = 0
        self.next_snap = 0
        self.freed = LEAST
        self.no_chunk = 0, 0, 0
        self.walk_due = ""
        self.walked = Walked(0, seen=False)
        self.was_short = False
        self.fresh: dict[int, Tracee] = {}
        self.mem_fd = self.statm_fd = self.maps_fd = self.pagemap_fd = -1

    def open(self, tid: int) -> str:
        """Open what is read at every stop, through a task that uses the mm now; returns why its
        map cannot be read, "" when it can or the task is gone.

        /proc/PID/mem and maps pin the mm they were opened on; statm follows the task.
        """
        self.close()
        refused = ""
        for name, slot in (
            ("mem", "mem_fd"),
            ("statm", "statm_fd"),
            ("maps", "maps_fd"),
            ("pagemap", "pagemap_fd"),
        ):
            try:
                setattr(self, slot, os.open(f"/proc/{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
            except OSError as e:
                if name == "maps" and e.errno not in (errno.ENOENT, errno.ESRCH):
                    refused = (e.strerror or str(e)).lower()
        return refused

    def begins(self, fields: dict[str, Any], personalities: Iterable[int] = ()) -> None:
        """Take from an exec or attach record what decides how calls are looked at."""
        flags = [fields.get("personality", 0), *personalities]
        self.reads_exec = any(p & READ_IMPLIES_EXEC for p in flags)
        self.brk_told = "tids" not in fields  # an attach record's
        self.walked = Walked(fields.get("start_brk", 0), seen=self.brk_told)
        self.in_stack = fields.get("start_stack", 0)
        if self.in_stack:
            limit = fields.get("rlimits", {}).get("STACK") or _STACK_WITHOUT_LIMIT
            room = min(max(limit, _STACK_AT_LEAST), self.in_stack // _STACK_SHARE)
            self.growing_from = self.in_stack - room
        if any(not low <= self.in_stack < high for low, high in fields.get("growsdown", ())):
            self.growing_from = 0

    def inherits(self, parent: Mm) -> None:
        """It is a copy: the same holds of it."""
        self.reads_exec, self.brk_told = parent.reads_exec, parent.brk_told
        self.growing_from, self.in_stack = parent.growing_from, parent.in_stack
        self.walked = parent.walked.copy()

    def reopen_statm(self, tid: int) -> None:
        """Follow another task: the one it was opened on has exited."""
        if self.statm_fd >= 0:
            os.close(self.statm_fd)
        try:
            self.statm_fd = os.open(f"/proc/{tid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.statm_fd = -1

    def bytes_at(self, address: int, size: int) -> bytes:
        """Up to `size` bytes of the target's memory; fewer where a page is not mapped."""
        try:
            return os.pread(self.mem_fd, size, address)
        except (OSError, OverflowError):
            return b""

    def present(self, address: int, size: int) -> bytes | None:
        """The target's memory where its page is present; b"" where it has none, None where that
        cannot be told. Nothing is faulted in. The bytes are of one page.
        """
        try:
            entry = os.pread(self.pagemap_fd, 8, address // PAGE * 8)
            if len(entry) == 8:
                state = entry[7] >> 6  # pagemap: present, swapped
                if not state:
                    return b""
                if state & 2:
                    data = os.pread(self.mem_fd, size, address)
                    return data if len(data) == size else None
        except (OSError, OverflowError):
            pass
        return None

    def close(self) -> None:
        """Close the descriptors."""
        for slot in ("mem_fd", "statm_fd", "maps_fd", "pagemap_fd"):
            fd = getattr(self, slot)
            if fd >= 0:
                os.close(fd)
            setattr(self, slot, -1)


class Tracee:
    """One task.

    `pending` is set between a recorded call's entry and its exit. `killed`: SIGKILL came while it
    stood at the entry, and the kernel skips the call (`__seccomp_filter`). `fresh` is a
    malloc-shaped mapping whose first words have not been read yet: (address, length, call number).
    `wait_ends`: CLOCK_MONOTONIC ns at which a call that was broken off has waited long enough, 0
    when it is in none (`broken_off`). `looks`: the map is looked at before its call is made.
    `every_call`: it stops at every call, though others stop only where the filter says so
    (`filters`).
    """

    __slots__ = (
        "abi", "announced", "at_first_stop", "clone", "entry", "every_call", "fresh", "killed",
        "looks", "mm", "name", "pending", "pid", "role", "stack", "t0", "tid", "wait_ends",
    )  # fmt: skip

    def __init__(self, tid: int, pid: int, mm: Mm) -> None:
        self.tid = tid
        self.pid = pid
        self.mm = mm
        self.entry: Any = SyscallEntry()
        self.pending = False
        self.killed = False
        self.looks = False
        self.every_call = False
        self.role = 0
        self.name = ""
        self.abi: Abi = NATIVE
        self.t0 = 0
        self.stack = b""
        self.fresh: tuple[int, int, int] | None = None
        self.announced = False
        self.at_first_stop = FirstStop.NOTHING
        self.clone: tuple[int | None, int | None] | None = None
        self.wait_ends = 0
        mm.tids.add(tid)
        mm.live.add(tid)
