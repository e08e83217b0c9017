# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine `strace`: strace traces, and says at every stop what it sees; we look at the target
while strace is held in saying it (`lockstep.py`).

So a trace holds the same as the ptrace engine's: arguments and results are strace's word; the maps,
page counts and return addresses are read from /proc and the target's memory at the very stops. The
one difference: strace lets a thread into its call whenever it gets there. It is held at the entry
until all others of that address space have come to the end of theirs, so that the order of entries
is the order of application (`sequence.py`). The map is compared where none is in flight.
"""

from __future__ import annotations

import re
import signal
import time

from memtrace.collect import grown, procfs, wire
from memtrace.collect.abi import CLONE_VM, ERESTART, NATIVE, Role, role_of
from memtrace.collect.channel import Channel
from memtrace.collect.family import Family
from memtrace.collect.job import Job
from memtrace.collect.observe import Observer
from memtrace.collect.options import Options
from memtrace.collect.ptrace import ENTRY_ARG0
from memtrace.collect.readback import ReadBack
from memtrace.collect.strace.events import (
    Called,
    Ended,
    Entered,
    Event,
    Execed,
    Forked,
    Listened,
    Signalled,
    Superseded,
    Unreadable,
)
from memtrace.collect.strace.parser import Parser
from memtrace.collect.strace.registers import POINTERS, RegisterFiles, fill, fill_again
from memtrace.collect.strace.sequence import Sequence
from memtrace.collect.strace.turns import Turns
from memtrace.collect.tracee import FirstStop, Mm, Tracee

_SENT = re.compile(
    rb"^(\d+) +--- SIG\w+ \{si_signo=\w+, si_code=(-?\w+)(?:, si_pid=(\d+))?", re.MULTILINE
)
_FORKS = frozenset(("fork", "clone", "clone3"))


class StraceEngine:
    """What strace says, as a trace.

    `root`: the process that was started or attached to; `root_status`: its wait status, None as
    long as it is not known. `refused`: errno of the exec of the program, 0 if there was none.
    """

    def __init__(self, channel: Channel, options: Options) -> None:
        self.channel = Sequence(channel)
        self.options = options
        self.observer = Observer(self.channel, options)
        self.observer.still_stands = self._still_stands
        self.family = Family(self.channel, self.observer)
        self.root = 0
        self.root_status: int | None = None
        self.refused = 0
        #: Address spaces whose last map has been taken: what they do now is not recorded.
        self.closed: set[int] = set()
        self.job: Job | None = None
        self._sources: dict[int, tuple[int, int]] = {}  # tid -> of the signal it gets
        self._parser = Parser()
        self._line = bytearray()  # begun, and not ended
        self._read_back = ReadBack()
        self._registers = RegisterFiles()
        self._turns = Turns(self.channel, self._in_flight, self._is_first)
        self._superseded: dict[int, int] = {}
        self._seen: set[int] = set()  # tasks that have come to the end of a call
        self._exiting: set[int] = set()

    # -- what strace says -----------------------------------------------------------------------

    def at(self, piece: bytes) -> None:
        """Where strace is held in writing this: the tracee it writes of stands where it says."""
        whole, newline, begun = piece.rpartition(b"\n")
        if newline:
            text = bytes(self._line) + whole + newline
            if self.job is not None:
                for tid, code, pid in _SENT.findall(text):
                    self._sources[int(tid)] = int(code, 0), int(pid or b"0", 0)
            for event in self._parser.feed(text):
                self._take(event)
            for line in text.splitlines():
                number = line.partition(b" ")[0]
                if number.isdigit() and not line.endswith(b"<unfinished ...>"):
                    self._seen.add(int(number))
            self._line.clear()
        self._line += begun
        if begun:
            entered = self._parser.entry(bytes(self._line))
            if entered is not None:
                self._take(entered)

    def end(self) -> None:
        """All has been said."""
        for event in self._parser.close():
            self._take(event)
        for tracee in list(self.family.tracees.values()):
            self._turns.settle(tracee)

    def _take(self, event: Event) -> None:
        if isinstance(event, Called):
            self._called(event)
        elif isinstance(event, Entered):
            self._entered(event)
        elif isinstance(event, Forked):
            self._forked(event)
        elif isinstance(event, Execed):
            self._execed(event)
        elif isinstance(event, Ended):
            self._ended(event)
        elif isinstance(event, Signalled):
            self._signalled(event)
        elif isinstance(event, Superseded):
            self._superseded[event.tid] = event.by
        elif isinstance(event, Listened):
            self._listened(event)
        elif isinstance(event, Unreadable) and event.lost:
            text = event.text[:80].decode("utf-8", "backslashreplace")
            self.lost(f"strace wrote what cannot be read ({event.why}): {text}")

    def _listened(self, event: Listened) -> None:
        """From here on calls may be made that strace's filter does not see, by children, too."""
        if self.options.seccomp and self.family.process_mm:
            self.lost(
                f"task {event.tid} has got a seccomp filter whose listener may let calls go on "
                "unseen (--no-seccomp shows them)"
            )

    def tick(self) -> None:
        """Now and then: what is in order goes to the writer."""
        self._turns.give_up_late()
        self.channel.flush()

    def lost(self, why: str) -> None:
        """Something is missing from here on, of any process."""
        self.channel.send(wire.life({"rec": "lost", "t": self.channel.now(), "why": why}))

    def _tracee(self, tid: int) -> Tracee | None:
        """The task that a line is about; None while there is no program."""
        tracee = self.family.tracees.get(tid)
        if tracee is None and self.family.process_mm:
            mother = self._mother(tid)
            if mother is None:
                return self.family.early(tid)
            self._born(mother, tid, early=True)
            tracee = self.family.tracees.get(tid)
        return tracee

    def _mother(self, tid: int) -> Tracee | None:
        """Whose fork in flight has made a process that is not known yet."""
        tgid, ppid = procfs.status_field(tid, "Tgid", "PPid")
        if tgid != tid:
            return None
        forking = [
            t for t in self.family.tracees.values()
            if t.pid == ppid and t.pending and t.role is Role.FORK
        ]  # fmt: skip
        if len(forking) > 1:
            word = str(tid).encode()
            forking = [
                t for t in forking
                if word in procfs.read(f"/proc/{t.pid}/task/{t.tid}/children").split()
            ]  # fmt: skip
        return forking[0] if len(forking) == 1 else None

    def _born(self, mother: Tracee, child: int, *, early: bool = False) -> None:
        """A copying fork has been made: where it stands among the mm's calls."""
        flags, stack = mother.clone or (0, None)
        place = self._turns.place(mother)
        if place is None:
            self.family.birth(mother, child, flags or 0, stack, early=early)
            return
        with self.channel.into(place):
            self.family.birth(mother, child, flags or 0, stack, early=early)
        self._turns.settle(mother)

    # -- calls --------------------------------------------------------------------------------

    def _entered(self, event: Entered) -> None:
        tracee = self._tracee(event.tid)
        if tracee is None or tracee.pending:
            return  # before the program, or told a second time: its line was cut
        mm = tracee.mm
        if not mm.id:
            return
        self._first_look(tracee)
        call = event.call
        if call in ("exit", "exit_group"):
            if tracee.tid not in self._exiting:
                self._exiting.add(tracee.tid)
                self._exits(tracee, whole=call == "exit_group")
            return
        if call == "vfork":
            return  # shares the map, changes nothing of it
        tracee.role = Role.FORK if call in _FORKS else role_of(call)
        self.observer.reach(mm, tracee.tid)
        found = self._registers.read(tracee.tid)
        printed = () if tracee.role else event.args or ()
        if not fill(tracee, call, found, printed, evidence=self.options.evidence):
            return  # not its call
        tracee.pending, tracee.t0 = True, time.monotonic_ns()
        if tracee.role is Role.EXEC:
            self._execs(tracee)
            return
        if tracee.role is Role.FORK:
            flags = self._clone_facts(tracee, call)[0]
            if flags is None or flags & CLONE_VM:
                tracee.pending = False  # shares the map, changes nothing of it
                return
        if self.options.evidence:
            self.observer.look_at_chunks(tracee, call)
        if tracee.role is Role.MEMORY and self._quiet(tracee):
            arguments = list(tracee.entry[ENTRY_ARG0 : ENTRY_ARG0 + 6])
            if grown.may_meet(tracee, tracee.name, arguments):
                self.observer.look_before(mm, tracee)
        self._turns.enter(tracee)

    def _clone_facts(self, tracee: Tracee, call: str) -> tuple[int | None, int | None]:
        """The flags and the stack that a child is to have."""
        e = tracee.entry
        if call == "clone3":
            tracee.clone = self.family.clone3_facts(tracee, e[4])
        elif call == "clone":
            tracee.clone = (e[4], e[5] or None)
        else:
            tracee.clone = (0, None)
        return tracee.clone

    def _called(self, event: Called) -> None:
        tracee = self._tracee(event.tid)
        if tracee is None or not tracee.mm.id:
            return
        now, mm = time.monotonic_ns(), tracee.mm
        self.observer.reach(mm, tracee.tid)
        if not tracee.pending:
            self._first_look(tracee)
            found = self._registers.read(tracee.tid)
            fill(tracee, event.call, found, event.args, evidence=self.options.evidence)
            tracee.t0 = now
        tracee.pending, tracee.role = False, Role.MEMORY
        never_made = not tracee.entry[0] if event.ret is None else event.ret in ERESTART
        if never_made:
            self._turns.settle(tracee)
            return
        if event.ret is not None and tracee.abi is NATIVE and event.call not in POINTERS:
            fill_again(tracee, event)
        quiet = self._quiet(tracee)
        self._turns.settle(tracee, self._message(tracee, event.ret, now, quiet=quiet))
        if quiet:
            why = "overlap" if mm.disordered else self.observer.due(mm, now, event.ret or 0)
            if why and self.observer.snapshot(mm, tracee, why):
                mm.disordered = False

    def _message(self, tracee: Tracee, ret: int | None, now: int, *, quiet: bool) -> bytes:
        """What is to be written of a call that has ended."""
        if tracee.mm.id in self.closed:
            return b""
        done = self._turns.done(tracee)
        ended = now if done is None else done.ns
        if ret is None:
            extra = (done.failed if done is not None else b"") or self._read_back.unfinished(tracee)
            return self.observer.call(tracee, 0, ended, b"", extra, wire.UNFINISHED)
        alone = quiet and self._turns.was_last(tracee)
        statm = self.observer.statm(tracee.mm, tracee) if alone else b""
        seen = None if done is None else done.failed if -4096 < ret < 0 else done.made
        extra = self._read_back.after(tracee, ret) if seen is None else seen
        return self.observer.call(tracee, ret, ended, statm, extra)

    def _quiet(self, tracee: Tracee) -> bool:
        """Whether no other call of the mm is in flight: strace is held, so none can begin."""
        return all(t is tracee for t in self._in_flight(tracee.mm))

    def _in_flight(self, mm: Mm) -> list[Tracee]:
        return [t for t in map(self.family.tracees.get, mm.tids) if t is not None and t.pending]

    # -- births, execs and deaths ---------------------------------------------------------------

    def _first_look(self, tracee: Tracee) -> None:
        """A forked child has not done anything yet: its map is its parent's."""
        if tracee.at_first_stop is FirstStop.SNAPSHOT:
            self.observer.snapshot(tracee.mm, tracee, "fork")
        elif tracee.at_first_stop is FirstStop.SEED:
            self.family.seed(tracee.mm, "fork")
        tracee.at_first_stop = FirstStop.NOTHING

    def _forked(self, event: Forked) -> None:
        parent = self._tracee(event.tid)
        if parent is None or not parent.mm.id:
            return
        # One that is not found has ended, or is found out when strace tells of it.
        child = event.child and procfs.numbered_by(parent.tid, event.child)
        if event.ret is not None and event.ret < 0:
            self._failed(parent, event.ret)
        elif child and parent.pending and self._turns.place(parent) is not None:
            self._born(parent, child)
        elif child:
            self.family.birth(parent, child, event.flags, event.stack)
        parent.pending = False
        self._turns.settle(parent)

    def _execed(self, event: Execed) -> None:
        if event.ret is None:
            return
        if not self.family.process_mm:
            # strace's own exec of the program.
            if event.ret < 0:
                self.refused = -event.ret
                return
            self.root = event.tid
            self.family.add_root(event.tid)
            self.family.execed(event.tid, event.tid)
            return
        tracee = self._tracee(event.tid)
        if event.ret < 0:
            if tracee is not None:
                self._failed(tracee, event.ret)
            return
        by = self._superseded.pop(event.tid, event.tid)
        for other in [t for t in self.family.tracees.values() if t.pid == event.tid]:
            self._turns.settle(other)
        self.family.execed(event.tid, by)
        self._registers.forget(by)
        self._registers.forget(event.tid)

    def _failed(self, tracee: Tracee, ret: int) -> None:
        """An exec or a fork that was not made; its arguments are pointers, which /proc told."""
        mm, now = tracee.mm, time.monotonic_ns()
        was_seen = tracee.pending and tracee.entry[0]
        tracee.pending = False
        if not was_seen or ret in ERESTART:
            return  # or restarted as if never made
        searched = tracee.role is Role.EXEC and mm.exec_snap == mm.calls
        statm = self.observer.statm(mm, tracee) if self._quiet(tracee) else b""
        self._turns.settle(tracee, self.observer.call(tracee, ret, now, statm, b""))
        if searched:
            mm.exec_snap = mm.calls  # a search through PATH changes nothing

    def _execs(self, tracee: Tracee) -> None:
        """A process is about to become another program."""
        mm = tracee.mm
        sharing = any(t.pid != tracee.pid for t in map(self.family.tracees.get, mm.tids) if t)
        if not sharing and self._quiet(tracee) and mm.exec_snap != mm.calls:
            self.observer.snapshot(mm, tracee, "exec")
            mm.exec_snap = mm.calls

    def _exits(self, tracee: Tracee, *, whole: bool) -> None:
        """A task, or the whole process, is about to end."""
        mm = tracee.mm
        leaving = {tracee.tid}
        if whole:
            leaving |= {t.tid for t in self.family.tracees.values() if t.pid == tracee.pid}
        self.observer.peek(tracee, final=True)
        if mm.live <= leaving and self._turns.all_ended(mm, tracee):
            self.observer.snapshot(mm, tracee, "exit")
        mm.live -= {tracee.tid}

    def _signalled(self, event: Signalled) -> None:
        """A signal that will kill: the last moment the mm can be read."""
        tracee = self._tracee(event.tid)
        if self.job is not None and tracee is not None and tracee.pid == self.root:
            number = _number(event.signal)
            if event.stopped:
                self.job.stopped(number)
            else:
                self.job.continued()
                self.job.delivered(event.tid, number)
        if event.stopped or tracee is None or not tracee.mm.id:
            return
        self._first_look(tracee)
        if _is_deadly(tracee.tid, event.signal) and self._quiet(tracee):
            mm = tracee.mm
            if all(t.pid == tracee.pid for t in map(self.family.tracees.get, mm.tids) if t):
                self.observer.peek_all(mm)
                self.observer.snapshot(mm, tracee, "exit")

    def source(self, tid: int) -> tuple[int, int]:
        """(si_code, si_pid) of the signal that strace has last told of."""
        return self._sources.pop(tid, (0, 0))

    def _ended(self, event: Ended) -> None:
        tracee = self._tracee(event.tid)
        if event.tid == self.root:
            code = event.code
            self.root_status = code << 8 if code is not None else event.signal or 0
        if tracee is None:
            return
        mm = tracee.mm
        self._exiting.discard(event.tid)
        self._seen.discard(event.tid)
        self._registers.forget(event.tid)
        mm.overlapping.discard(tracee)
        if tracee.pending:
            tracee.pending = False
            if tracee.role is Role.MEMORY:
                self._killed_in_call(tracee)
        self._turns.settle(tracee)
        self.family.ended(event.tid, event.code, event.signal)

    def _killed_in_call(self, tracee: Tracee) -> None:
        """Killed between a call's entry and its exit: whether it was made is not known, but where
        it had gone before its registers could be read (the kernel skips it then).
        """
        if not tracee.entry[0]:
            self._turns.settle(tracee)
            return
        self._turns.settle(tracee, self._message(tracee, None, time.monotonic_ns(), quiet=False))

    def _is_first(self, tid: int) -> bool:
        return self.options.seccomp and tid not in self._seen

    def _still_stands(self, tracee: Tracee) -> bool:
        """Whether the task is in the stop that strace was held at."""
        return procfs.stat_fields(tracee.tid)[:1] == ["t"]


def _number(name: str) -> int:
    """A signal's; 0 for one without a name of its own."""
    found = signal.Signals.__members__.get(name)
    return 0 if found is None else found.value


def _is_deadly(tid: int, name: str) -> bool:
    """Whether the signal ends the process: its default action does, and nothing else is set."""
    number = _number(name)
    if number in (
        0, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGSTOP,
        signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
    ):  # fmt: skip
        return False
    ignored, caught = procfs.dispositions(tid)
    return not (ignored | caught) >> (number - 1) & 1
