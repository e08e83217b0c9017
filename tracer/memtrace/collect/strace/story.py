# SPDX-License-Identifier: GPL-2.0-or-later
"""A log's events as a trace's records: whose call it was, on which address space, in which order.

A log names threads by number and tells when one began another; the rest follows. What no line tells
stays unknown: a process that was there before the log begins as an `attach` with an empty map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from memtrace.collect.abi import INDEX
from memtrace.collect.procfs import ENVIRONMENT, ENVIRONMENT_PREFIXES
from memtrace.collect.strace import events as ev
from memtrace.collect.strace.clock import Clock
from memtrace.collect.strace.lineage import FORKS, NOBODY, Lineage
from memtrace.collect.strace.mapped import PROT_EXEC, Files, libc_of, unknown_effect
from memtrace.collect.strace.order import Item, Order, Range, Row, claimed, freed
from memtrace.collect.strace.tasks import Mm, Process, Task
from memtrace.space.address_space import READ_IMPLIES_EXEC
from memtrace.space.calls import MAP_ANONYMOUS
from memtrace.trace.records import (
    MMAP_TAIL,
    Exec,
    Exit,
    Ext,
    Gone,
    Libc,
    Life,
    Lost,
    Start,
)

#: Calls of a new address space that are gathered before it is written how it began.
EARLY = 256
#: Events that wait for the line that says whose child a thread is.
HELD = 16384
#: Lines that could not be read with a record each; more are counted.
TOLD = 1000
_UNMAPS = frozenset(("munmap", "mremap", "brk", "shmdt"))
_MAYMOVE_TO = 6  # MREMAP_FIXED | MREMAP_DONTUNMAP: a fifth argument
_INT = 0xFFFFFFFF


class Story(Lineage):
    """Events in, records out, in the order of application.

    Args:
        emit: takes each row or life-cycle record.
        clock: of the log.
        reorder: False: calls in the order of their lines, for comparison.
        quoting: whether records may hold text of lines.

    After `finish`: `unreadable` lines and `foreign` ones (another's, which held no call), `reason`:
    why something is missing, "" if nothing is; `missed`: children that the log does not follow;
    `shared`: threads, or processes, run in one address space; `detached` processes; `unnamed`: a
    process has no number, because no line tells it; `heap_peak` in bytes, None if no call told
    where a heap is.
    """

    def __init__(
        self,
        emit: Callable[[Row | Life], None],
        clock: Clock,
        *,
        reorder: bool = True,
        quoting: bool = True,
    ) -> None:
        self.files = Files()
        super().__init__(Order(self._emit_item, self._unfinished, reorder=reorder), clock)
        self.unreadable = self.foreign = 0
        self.heap_peak: int | None = None
        self.reason = ""
        self.missed: set[int] = set()
        self.detached: set[int] = set()
        self.unnamed = False
        self._emit = emit
        self._awaited = 0
        self._lost = 0
        self._first_lost = 0
        self._forks = self._orphan = False
        self._quoting = quoting
        # Each answers whether it is done with the event; False: what it is about is not known yet.
        self._take: dict[type, Callable[[Any], bool]] = {
            ev.Called: self._called, ev.Entered: self._entered, ev.Forked: self._forked,
            ev.Execed: self._execed, ev.Opened: self._opened, ev.Duplicated: self._duplicated,
            ev.Closed: self._closed, ev.Named: self._named, ev.Listened: self._listened,
            ev.Signalled: self._signalled,
            ev.Ended: self._ended, ev.Superseded: self._superseded,
            ev.Attached: self._attached_to, ev.Mode: self._mode, ev.Unreadable: self._not_read,
        }  # fmt: skip

    # -- events -------------------------------------------------------------------------------

    def feed(self, events: Iterable[ev.Event]) -> None:
        """Take events, in the order of their lines."""
        held, take = self._held, self._take
        for e in events:
            if held:
                self._hold(e)
            elif not take[e.__class__](e):
                self._wait_for(e)

    def finish(self) -> None:
        """The log has ended."""
        while self._held:
            self._hopeless.add(self._awaited)
            self._resume()
        for task in sorted(self.tasks, key=lambda task: task.tid):
            if task.ending is not None:
                self._end(task, None, task.ending, None)
        if self._lost > TOLD:
            n = self._lost - TOLD
            self._put(Lost(t=None, why=f"{n:,} more lines cannot be read", count=n), None)
        self.missed = self._silent
        self.reason = self._incomplete()
        self.unnamed = self.waits_for_name
        self.order.finish()

    def _incomplete(self) -> str:
        """Why something is missing, "" if nothing is."""
        if self.unreadable:
            first = f"the first is line {self._first_lost}"
            lines = "line" if self.unreadable == 1 else "lines"
            return f"{self.unreadable:,} {lines} of the log cannot be read, {first}"
        if self._gap:
            return self._gap
        if self.missed:
            n = len(self.missed)
            who = "a child process or thread is" if n == 1 else f"{n:,} children are"
            return f"{who} not in the log (was it recorded without -f?)"
        if self._orphan and not self._forks:
            what = "a child process has ended, but no call that made it is in the log"
            return f"{what} (what did -e trace= name?)"
        running = sorted({
            task.process.pid for task in self.tasks
            if task.process.mm.number and task.tid not in self.detached
        })  # fmt: skip
        if running:
            who = f"process {running[0]}" + (f" and {len(running) - 1:,} more" * (len(running) > 1))
            verb = "is" if len(running) == 1 else "are"
            return f"the log ends while {who} {verb} running"
        return ""

    def _wait_for(self, e: Any) -> None:
        """Whose child a thread is will be said: until then everything waits."""
        self._awaited = e.tid
        self._held.appendleft(e)

    def _hold(self, e: ev.Event) -> None:
        self._held.append(e)
        if isinstance(e, ev.Forked) and e.child is not None:
            self._ahead[e.child] = e
            if e.child == self._awaited:
                self._resume()
        elif len(self._held) > HELD:
            self._hopeless.add(self._awaited)
            self._resume()

    def _resume(self) -> None:
        held = self._held
        while held:
            e = held.popleft()
            if not self._take[e.__class__](e):
                self._wait_for(e)
                return

    # -- calls --------------------------------------------------------------------------------

    def _called(self, e: ev.Called) -> bool:
        task = self.tasks.of.get(e.tid)
        if task is None or e.tid in self._silent or task.ending is not None:
            found = self._find(e.tid, e)
            if found is None:
                return False
            task = found
            if task is NOBODY:
                return True
        process = task.process
        mm = process.mm
        if not mm.number:
            self._older(task, e.t0)
        mm.line = e.line
        call, args, ret, ext = e.call, e.args, e.ret, None
        t1 = e.t1
        t = self._ns(t1 if t1 is not None else e.t0)
        dur = None if t1 is None or e.t0 is None or t1 < e.t0 else t1 - e.t0
        library = None
        brk = mm.brk
        if call == "mmap":
            if ret is None or not -4096 < ret < 0:
                flags = args[3]
                if flags & 0x2F != 0x22:  # not MAP_PRIVATE | MAP_ANONYMOUS
                    file, path = self.files.of(args, e.path, process.descriptors)
                    if file is not None:
                        ext = Ext(f=file)
                        library = self._library(mm, path) if args[2] & PROT_EXEC else None
                elif args[5] == 0 and args[4] & _INT == _INT:
                    args = args[:4]
            elif args[3] & MAP_ANONYMOUS and args[5] == 0 and args[4] & _INT == _INT:
                args = args[:4]
        elif call == "brk":
            if ret is not None:
                mm.brk = ret
                if mm.start_brk is not None and ret - mm.start_brk > (self.heap_peak or -1):
                    self.heap_peak = ret - mm.start_brk
        elif call == "personality" and ret is not None and ret >= 0:
            self._personality(e, task, ret)
        elif call == "mremap" and len(args) > 4 and not args[3] & _MAYMOVE_TO:
            args = args[:4]
        if e.abi is not None or e.raw is not None or e.name is not None:
            ext = ext or Ext()
            ext.abi, ext.raw, ext.name = e.abi, e.raw, e.name
            mm.abi = e.abi
        if mm.reads_exec:
            ext = ext or Ext()
            ext.personality = task.personality
        row = (t, dur, task, mm, INDEX[call], args, ret, ext)
        if mm.early is not None:
            full = args if call != "mmap" or len(args) > 4 else [*args, *MMAP_TAIL]
            mm.early.call(call, full, ret, ext)
            if mm.start_brk is None and mm.early.start_brk is not None:
                mm.start_brk = mm.early.start_brk
                self.heap_peak = self.heap_peak or 0
        if mm.freeing or task in self.order.given_up:
            self._among_unmaps(Item(row, mm), task, call, args, ret, brk)
        elif self.order.waiting:
            self.order.put(Item(row, mm))
        else:
            self._emit(row)
        if task.entered is not None:
            task.entered = None
            self._forking.pop(task, None)
        if library is not None:
            self._put(library, mm)
        elif ret is not None and not -4096 < ret < 0:
            why = unknown_effect(call, args)
            if why:
                self._missing(f"{call} at line {e.line}: {why} is not in the log", mm)
        if mm.early is not None and mm.early.calls >= EARLY:
            self.order.ready(mm)
        return True

    def _personality(self, e: ev.Called, task: Task, before: int) -> None:
        """It belongs to the task, and is shown with each call once it matters."""
        mm = task.process.mm
        if (before ^ task.personality) & READ_IMPLIES_EXEC:
            what = f"line {e.line} tells of a personality that no line before has set"
            self._missing(what, mm)
            task.personality = before
        if e.args[0] & _INT != _INT:  # that one only asks
            task.personality = e.args[0] & _INT
        mm.reads_exec = mm.reads_exec or bool(task.personality & READ_IMPLIES_EXEC)

    def _among_unmaps(
        self, item: Item, task: Task, call: str, args: list[int], ret: int | None, brk: int | None
    ) -> None:
        """A call that ends while others that free pages are in flight, or is one of them."""
        mm, order = item.mm, self.order
        mine = mm.freeing.pop(task, None)
        if task in order.given_up:
            order.given_up.discard(task)
            self._missing(f"the result of a {call} by thread {task.tid} came too late", mm)
            return
        order.ended(item, claimed(call, args, ret, brk), task, mine)

    def _unfinished(self, mm: Mm, task: Task, pages: Range) -> Item:
        """A call in flight whose result never comes, though it is known to have done its work."""
        e = task.entered
        call, args = ("munmap", [0, 0]) if e is None else (e.call, e.args or [])
        x = Ext(x=(*pages, []))
        t = None if e is None else self._ns(e.t0)
        return Item((t, None, task, mm, INDEX[call], args, None, x), mm)

    def _library(self, mm: Mm, path: str) -> Libc | None:
        if path in mm.libraries:
            return None
        known = libc_of(path)
        if known is None:
            return None
        mm.libraries.add(path)
        return Libc(t=None, mm=mm.number, path=path, name=known[0], version=known[1])

    def _entered(self, e: ev.Entered) -> bool:
        task = self._find(e.tid, e)
        if task is None:
            return False
        if task is NOBODY:
            return True
        task.entered = e
        call = e.call
        if call in FORKS:
            self._forking[task] = e
        elif call in ("exit", "exit_group"):
            task.ending = e.args[0] & 0xFF if e.args else 0
        elif call in _UNMAPS and e.args is not None:
            mm = task.process.mm
            pages = freed(call, e.args, mm.brk)
            if pages is not None:
                mm.freeing[task] = pages
        return True

    def _named(self, e: ev.Named) -> bool:
        task = self._find(e.tid, e)
        if task is None:
            return False
        own = e.own or e.pid
        if task is self.tasks.unnamed and own:
            self._name(task, own)
        return True

    def _forked(self, e: ev.Forked) -> bool:
        task = self._find(e.tid, e)
        if task is None:
            return False
        if task is NOBODY:
            return True
        self._forking.pop(task, None)
        self._forks = True
        if e.child is not None:
            self._ahead.pop(e.child, None)
            self._born_ahead.discard(e.child)
            before = self.tasks.of.get(e.child)
            if before is not None and before.told:
                self._again(before)
                before = None
            if before is not None:
                before.told = True
            elif e.child in self._gone_early:
                self._gone_early.discard(e.child)
            else:
                self._born(task, e.child, e.flags, e.stack, e.t1 if e.t1 is not None else e.t0)
                self.tasks.of[e.child].told = True
                self._silent.add(e.child)  # else its own lines came first
        task.entered = None
        return True

    def _execed(self, e: ev.Execed) -> bool:
        if e.ret != 0 and e.tid not in self.tasks.of:
            return True  # before the program began
        task = self._find(e.tid, e)
        if task is None:
            return False
        task.entered = None
        if e.ret != 0 or task is NOBODY:
            return True
        process, tid = task.process, task.tid
        for other in list(process.threads - {task}):
            self._forking.pop(other, None)
            self.tasks.remove(other)
        if process.successor is not None:
            tid, process.successor = process.successor, None
        elif tid != process.pid:
            self.tasks.renumber(task, process.pid)
        process.descriptors.executed()
        t = self._ns(e.t1 if e.t1 is not None else e.t0)
        old, process.mm = process.mm, Mm()
        process.mm.users.add(process)
        env = _kept(e.env)
        record = Exec(
            t=t, pid=process.pid, tid=tid, mm=0, old_mm=old.number or None, exe=e.path,
            argv=e.argv or [], env=env or {}, env_lost=env is None, assumed=True,
        )  # fmt: skip
        task.ending = None
        task.before_exec, task.personality = task.personality, 0
        self._leave(process, old)
        self._begin(task, record, fresh=True)
        return True

    # -- ends ---------------------------------------------------------------------------------

    def _ended(self, e: ev.Ended) -> bool:
        task = self.tasks.of.get(e.tid)
        if task is None and self.tasks.of and (e.tid == 0 or self.tasks.unnamed is not None):
            task = self._find(e.tid, e)
        if task is not None and task is not NOBODY:
            self._silent.discard(e.tid)
            if not task.told and (self._forking or e.tid in self._born_ahead):
                self._gone_early.add(e.tid)
            self._end(task, e.t, e.code, e.signal)
        return True

    def _end(self, task: Task, t: int | None, code: int | None, signal: int | None) -> None:
        process = task.process
        mm, ns = process.mm, self._ns(t)
        self._forking.pop(task, None)
        self.tasks.remove(task)
        if mm.number:
            self._put(
                Exit(t=ns, pid=process.pid, tid=task.tid, mm=mm.number, code=code, signal=signal),
                mm,
            )
        if not process.threads and self._leave(process, mm):
            self._put(Gone(t=ns, mm=mm.number), mm)
            self.order.ready(mm)

    def _again(self, task: Task) -> None:
        self._end(task, None, task.ending, None)

    def _leave(self, process: Process, mm: Mm) -> bool:
        """A process has the address space no more; whether it was the last."""
        mm.users.discard(process)
        if mm.users or not mm.number:
            return False
        self.order.ready(mm)
        return True

    def _superseded(self, e: ev.Superseded) -> bool:
        task = self.tasks.of.get(e.by)
        if task is not None and task.tid == e.by:
            task.process.successor = e.by
            self.tasks.renumber(task, e.tid)
        return True

    # -- the rest -----------------------------------------------------------------------------

    def _opened(self, e: ev.Opened) -> bool:
        task = self._find(e.tid, e)
        if task is None:
            return False
        table = task.process.descriptors
        path: str | None = e.path or None
        if path is not None and e.at is not None:
            below = table.path(e.at)
            path = None if below is None else f"{below}/{path}"
        table.opened(e.fd, path, cloexec=e.cloexec)
        return True

    def _duplicated(self, e: ev.Duplicated) -> bool:
        task = self._find(e.tid, e)
        if task is not None:
            task.process.descriptors.duplicated(e.old, e.new, cloexec=e.cloexec)
        return task is not None

    def _listened(self, _e: ev.Listened) -> bool:
        return True  # nothing is hidden, unless --seccomp-bpf was given, which no log says

    def _closed(self, e: ev.Closed) -> bool:
        task = self._find(e.tid, e)
        if task is not None:
            task.process.descriptors.closed(e.first, e.last)
        return task is not None

    def _attached_to(self, e: ev.Attached) -> bool:
        if e.detached:
            self.detached.add(e.tid)
        elif e.tid not in self.tasks.of:
            if self._forking:
                return self._find(e.tid, e) is not None
            if self.tasks.of:
                self._newborn.add(e.tid)
            else:
                self._attached.append(e.tid)
        return True

    def _mode(self, e: ev.Mode) -> bool:
        task = self.tasks.of.get(e.tid)
        if task is None:
            self._modes[e.tid] = e.abi
        else:
            task.process.mm.abi = e.abi
            if e.abi == "i386" and task.before_exec & READ_IMPLIES_EXEC:
                task.personality, task.process.mm.reads_exec = task.before_exec, True
            task.before_exec = 0
        return True

    def _signalled(self, e: ev.Signalled) -> bool:
        self._orphan = self._orphan or e.child
        if self.tasks.unnamed is not None and e.tid not in self.tasks.of and e.tid:
            return self._find(e.tid, e) is not None
        return True

    def _not_read(self, e: ev.Unreadable) -> bool:
        if not e.lost:
            self.foreign += 1
            return True
        self.unreadable += 1
        for mm in self._early:
            if mm.early is not None:
                mm.early.missed()
        self._lost += 1
        self._first_lost = self._first_lost or e.line
        if self._lost <= TOLD:
            why = f"line {e.line}: {e.why}"
            if self._quoting:
                why += f": {e.text.decode('utf-8', 'backslashreplace').strip()}"
            self._put(Lost(t=None, why=why, count=1), None)
        return True

    # -- out ----------------------------------------------------------------------------------

    def _emit_item(self, item: Item) -> None:
        content = item.content
        if isinstance(content, Start):
            early = item.mm.early
            if early is not None:
                content.maps = early.maps()
                content.start_brk = early.start_brk or 0
                item.mm.early = None
                self._early.discard(item.mm)
            content.abi = item.mm.abi or ""
        elif content.__class__ is tuple and content[6] is None and item.proven is not None:
            self._emit_proven(content, item.proven)
            return
        self._emit(content)

    def _emit_proven(self, row: Row, pages: Range) -> None:
        """An unmap that never returned, though a later call proves that it had freed pages."""
        t, dur, task, mm, index, args, ret, ext = row
        ext = ext or Ext()
        ext.x = (*pages, [])
        self._emit((t, dur, task, mm, index, args, ret, ext))


def _kept(env: list[str] | None) -> dict[str, str] | None:
    """The variables that say how malloc is set up; the first of two equal names counts."""
    if env is None:
        return None
    kept: dict[str, str] = {}
    for entry in env:
        name, eq, value = entry.partition("=")
        if eq and (name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)):
            kept.setdefault(name, value)
    return kept
