# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace attach` from end to end: the right to, output, writer, loop, detach, result."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from memtrace.collect import access, machine, procfs
from memtrace.collect.attach import Attachment
from memtrace.collect.detach import Departure
from memtrace.collect.engine import Engine
from memtrace.collect.family import Family
from memtrace.collect.options import Options
from memtrace.collect.recorder import begin, prepare
from memtrace.collect.redact import Redaction
from memtrace.collect.signals import leave_on_signals, stop_ticking
from memtrace.collect.writing import Result, Writer
from memtrace.trace.errors import TargetError
from memtrace.trace.sizes import PAGE

WATCH_NS = 500_000_000
_WRITER_MS = 3_000


@dataclass(frozen=True, slots=True)
class Progress:
    """An attach under way: what one line can say. `name` is the comm; sizes are bytes."""

    pid: int
    name: str
    elapsed_ns: int
    calls: int
    processes: int
    threads: int
    mapped: int
    resident: int


@dataclass(frozen=True, slots=True)
class Attached:
    """A finished attach. `ended`: everything that was traced has ended; `status` is then the
    target's wait status, unless its first thread had ended before. `serve` is to be called while
    this process waits for anything: threads that sleep are let go when they wake up, or when it
    ends.
    """

    path: str
    pid: int
    argv: list[str]
    ended: bool
    status: int | None
    duration_ns: int
    result: Result
    serve: Callable[[], object]


def record_attached(
    pid: int,
    path: str,
    options: Options,
    *,
    for_ns: int | None,
    say: Callable[[str], None],
    watch: Callable[[Progress], None],
) -> Attached:
    """Attach to a process, record it until it ends or a signal says to leave, and detach.

    Args:
        pid: the process, or one of its threads.
        path: the trace to write.
        options: `seccomp` is not used: a filter could never be taken away again.
        for_ns: leave this long after the map was read; None: when told.
        say: takes a line for the user.
        watch: called once when all is under control, then twice a second.

    Raises:
        TargetError: it cannot be attached to, or the trace cannot be created.
    """
    machine.require_kernel()
    facts = access.before(pid)
    refused = access.refusal(facts)
    if refused is not None:
        raise refused
    for note in access.notes(facts):
        say(note)
    argv = procfs.exec_facts(procfs.living_task(facts.pid))["argv"]
    redaction = Redaction() if options.redact else None
    again = f"memtrace attach -o /tmp/trace.json {pid}"
    output = begin(path, machine.header("ptrace", argv, options.manner()), redaction, again)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    writer = Writer(output, redaction)
    writer.channel.be_impatient(_WRITER_MS)
    prepare()
    engine = Engine(writer.channel, replace(options, seccomp=False))
    attachment = engine.attachment = Attachment(engine, facts.pid, say)
    clock = _Clock(engine, attachment, for_ns, watch, facts.name)
    leave_on_signals(engine, clock.tick)
    departure = Departure(engine)
    error: TargetError | None = None
    try:
        attachment.seize()
        now = access.before(facts.pid)
        if now.start_time != facts.start_time:
            error = access.refusal(now, errno.ESRCH, earlier=facts)
            engine.leaving[0] = True
        engine.loop()
    except TargetError as e:
        error = e
    finally:
        stop_ticking()
    left = bool(engine.family.tracees)
    if left:
        departure.go()
    duration = time.monotonic_ns() - (clock.begun or time.monotonic_ns())
    reason = "detached" if left else "the last process ended"
    result = writer.finish(reason, departure.serve)
    if error is None and result.error is None and not (clock.begun or result.counts["records"]):
        error = nothing(facts)
    if error is not None:
        output.discard()
        raise error
    status = engine.root_status
    return Attached(path, facts.pid, argv, not left, status, duration, result, departure.serve)


class _Clock:
    """What happens at every tick of an attach."""

    def __init__(
        self,
        engine: Engine,
        attachment: Attachment,
        for_ns: int | None,
        watch: Callable[[Progress], None],
        name: str,
    ) -> None:
        self.begun = 0
        self.name = name
        self._engine = engine
        self._attachment = attachment
        self._for_ns = for_ns
        self._watch = watch
        self._shown = 0

    def tick(self) -> bool:
        """Whether it is time to leave."""
        if self._engine.channel.in_vain():
            return True
        if self._attachment.facts is None:
            return False
        now = time.monotonic_ns()
        self.begun = self.begun or now
        if now - self._shown >= WATCH_NS:
            self._shown = now
            self._watch(
                progress(self._engine.family, self._attachment.pid, self.name, now - self.begun)
            )
        return self._for_ns is not None and now - self.begun >= self._for_ns


def progress(family: Family, pid: int, name: str, elapsed: int) -> Progress:
    """How an attach to `pid` stands, `elapsed` ns after it began."""
    task = procfs.living_task(pid)
    vm, rss = procfs.statm(procfs.read(f"/proc/{task}/statm")) or (0, 0)
    calls = sum(mm.calls for mm in family.mms.values())
    return Progress(
        pid,
        name,
        elapsed,
        calls,
        len(family.process_mm),
        len(family.tracees),
        vm * PAGE,
        rss * PAGE,
    )


def nothing(earlier: access.Facts) -> TargetError:
    """The attach ended before the map was read."""
    now = access.before(earlier.pid)
    if now.exists and now.start_time == earlier.start_time and now.alive:
        return TargetError(
            f"memtrace was told to leave before the map of process {now.pid} was read",
            hint=f"memtrace attach {now.pid}",
        )
    return access.refusal(now, errno.ESRCH, earlier=earlier) or TargetError(
        f"process {earlier.pid} ended while memtrace attached to it",
        hint="memtrace run -- PROG ARGS...",
    )
