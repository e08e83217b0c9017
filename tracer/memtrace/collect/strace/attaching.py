# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace attach --engine strace` from end to end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from memtrace.collect import access, machine, procfs
from memtrace.collect.attach import sleeps_elsewhere
from memtrace.collect.attaching import WATCH_NS, Attached, Progress, nothing, progress
from memtrace.collect.options import Options
from memtrace.collect.recorder import begin, prepare
from memtrace.collect.redact import Redaction
from memtrace.collect.strace import command
from memtrace.collect.strace.engine import StraceEngine
from memtrace.collect.strace.lockstep import Lockstep, Unholdable
from memtrace.collect.strace.loop import SIGNALS, Loop
from memtrace.collect.strace.recording import cannot_hold, gone_before, start
from memtrace.collect.tracee import Mm
from memtrace.collect.writing import Writer
from memtrace.trace.errors import TargetError

_LEAVING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
#: A task that runs is in a call that it began before the attach no longer than this.
_SETTLED_NS = 100_000_000
#: How long a moment for the last comparison is waited for.
_PATIENCE_NS = 500_000_000


def record_attached(
    pid: int,
    path: str,
    options: Options,
    *,
    for_ns: int | None,
    say: Callable[[str], None],
    watch: Callable[[Progress], None],
) -> Attached:
    """As `collect.attaching.record_attached`, by strace.

    Raises:
        TargetError: it cannot be attached to, there is no strace that can do it, or the trace
            cannot be created.
    """
    machine.require_kernel()
    facts = access.before(pid)
    refused = access.refusal(facts)
    if refused is not None:
        raise refused
    for note in access.notes(facts):
        say(note)
    strace = command.find()
    argv = procfs.exec_facts(procfs.living_task(facts.pid))["argv"]
    redaction = Redaction() if options.redact else None
    again = f"memtrace attach --engine strace -o /tmp/trace.json {pid}"
    output = begin(path, machine.header("strace", argv, options.manner()), redaction, again)
    lockstep = Lockstep()
    writer = Writer(output, redaction, lockstep.ends)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    prepare()
    words = strace.command(lockstep.path, seccomp=False, leaves=True)
    strace_pid = start([*words, "-q", "-p", str(facts.pid)], before, group=True)
    engine = StraceEngine(writer.channel, replace(options, seccomp=False))
    visit = _Visit(engine, facts.pid, strace_pid, for_ns, watch, facts.name)
    loop = Loop(engine, lockstep, strace_pid, visit.signalled)
    error: TargetError | None = None
    left = False
    try:
        lockstep.follow(strace_pid)
        left = loop.run(visit.each)
        if left:
            os.kill(strace_pid, signal.SIGINT)
            loop.drain()
    except Unholdable as e:
        if visit.begun:
            engine.lost(f"strace could not be held at its stops any more: {e}")
        else:
            error = cannot_hold(e)
        os.kill(strace_pid, signal.SIGINT)
        loop.drain()
    lockstep.close()
    _, status = os.waitpid(strace_pid, 0)
    engine.end()
    gone = None if left or error or not visit.begun else gone_before(engine, status, path)
    duration = time.monotonic_ns() - (visit.begun or time.monotonic_ns())
    reason = "detached" if left else "strace ended" if gone else "the last process ended"
    result = writer.finish(reason)
    if error is None and result.error is None and not visit.begun:
        error = nothing(facts)
    if error is not None:
        output.discard()
        raise error
    if gone is not None:
        raise gone
    return Attached(
        path, facts.pid, argv, not left, engine.root_status, duration, result, lambda: None
    )


class _Visit:
    """What happens beside the calls: the beginning, the line for the user, the end."""

    def __init__(
        self,
        engine: StraceEngine,
        pid: int,
        strace: int,
        for_ns: int | None,
        watch: Callable[[Progress], None],
        name: str,
    ) -> None:
        self.begun = 0
        self._engine = engine
        self._pid = pid
        self._strace = strace
        self._for_ns = for_ns
        self._watch = watch
        self._name = name
        self._shown = 0
        self._under_control = 0
        self._mm: Mm | None = None
        self._leaving = 0

    def signalled(self, info: signal.struct_siginfo) -> None:
        """Somebody may want us to leave; nothing else is heard, and nothing stops us."""
        if info.si_signo in _LEAVING:
            self._leaving = self._leaving or time.monotonic_ns()

    def each(self) -> bool:
        """Whether to leave now."""
        now = time.monotonic_ns()
        if self._engine.channel.in_vain():
            return True
        if not self.begun:
            self._try_to_begin(now)
            return bool(self._leaving) and not self.begun
        if now - self._shown >= WATCH_NS:
            self._shown = now
            family = self._engine.family
            self._watch(progress(family, self._pid, self._name, now - self.begun))
        if self._for_ns is not None and now - self.begun >= self._for_ns:
            self._leaving = self._leaving or now
        return bool(self._leaving) and self._close(now)

    def _try_to_begin(self, now: int) -> None:
        """Read the map, once every thread is strace's and no call can be in flight."""
        family, pid = self._engine.family, self._pid
        tasks = procfs.tasks(pid)
        if any(_tracer_of(task) != self._strace for task in tasks):
            self._under_control = 0
            return
        self._under_control = self._under_control or now
        if self._mm is None:
            self._engine.root = pid
            self._mm = family.unseeded(pid, pid)
        for task in tasks:
            if task not in family.tracees:
                family.take(self._mm, pid, task)
        settled = now - self._under_control > _SETTLED_NS
        if self._stands_still(self._mm, settled=settled) and family.seed(self._mm):
            self.begun = now

    def _stands_still(self, mm: Mm, *, settled: bool = True) -> bool:
        """Whether no memory call of the mm is in flight. None can begin: strace is not let write
        of its entry.
        """
        family = self._engine.family
        tasks = [t for t in map(family.tracees.get, mm.tids) if t is not None]
        return not any(t.pending and not t.role for t in tasks) and all(
            settled or procfs.stat_fields(t.tid)[:1] == ["t"] or sleeps_elsewhere(t.tid)
            for t in tasks
        )

    def _close(self, now: int) -> bool:
        """Take the last map of each mm, where it stands still; True when there is none left to take
        or no time.
        """
        engine = self._engine
        for mm in list(engine.family.mms.values()):
            tracee = next((t for t in map(engine.family.tracees.get, mm.tids) if t), None)
            if mm.id not in engine.closed and tracee is not None and self._stands_still(mm):
                engine.observer.snapshot(mm, tracee, "detach")
                engine.closed.add(mm.id)
        left = {mm.id for mm in engine.family.mms.values()} - engine.closed
        return not left or now - self._leaving > _PATIENCE_NS


def _tracer_of(tid: int) -> int | None:
    (tracer,) = procfs.status_field(tid, "TracerPid")
    return tracer
