# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace run` from end to end: output, writer, child, loop, result."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from memtrace.collect import access, machine, procfs
from memtrace.collect.attach import Attachment
from memtrace.collect.detach import Departure
from memtrace.collect.engine import Engine
from memtrace.collect.launch import Launch, resolve
from memtrace.collect.options import Options
from memtrace.collect.redact import Redaction
from memtrace.collect.signals import (
    children_are_waited_for,
    forward_signals,
    leave_on_signals,
    stop_ticking,
)
from memtrace.collect.writing import Result, Writer
from memtrace.trace.codec import encode_header
from memtrace.trace.errors import TargetError
from memtrace.trace.records import Header
from memtrace.trace.sizes import PAGE
from memtrace.trace.stream import Output

_WATCH_NS = 500_000_000


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished recording.

    `status` is the program's wait status; `duration_ns` from its start to its end.
    """

    path: str
    status: int
    duration_ns: int
    result: Result


def record(argv: Sequence[str], path: str, options: Options) -> Recording:
    """Run a program under the ptrace engine and write its trace to `path`.

    Raises:
        TargetError: the program cannot be run, may not be traced, or the trace cannot be created.
    """
    machine.require_kernel()
    program = resolve(argv[0])
    redaction = Redaction() if options.redact else None
    output = begin(path, machine.header("ptrace", argv), redaction)
    no_sigchld = children_are_waited_for()
    writer = Writer(output, redaction)
    try:
        launch = Launch(argv, program, seccomp=options.seccomp, no_sigchld=no_sigchld)
    except TargetError:
        writer.finish("not started")
        output.discard()
        raise
    _prepare()
    engine = Engine(writer.channel, options)
    forward_signals(engine)
    begun = time.monotonic_ns()
    engine.launched(launch.pid)
    launch.go()
    engine.loop()
    status = engine.root_status
    stop_ticking()
    duration = time.monotonic_ns() - begun
    error = launch.error()
    result = writer.finish("the last process ended" if error is None else "not started")
    if error is not None:
        output.discard()
        raise error
    if status is None:  # pragma: no cover - waitpid always reports the root
        raise TargetError("the program's exit status was not seen", hint="memtrace run --debug ...")
    return Recording(path, status, duration, result)


@dataclass(frozen=True, slots=True)
class Progress:
    """An attach under way: what one line can say. Sizes are bytes."""

    pid: int
    elapsed_ns: int
    calls: int
    processes: int
    threads: int
    mapped: int
    resident: int


@dataclass(frozen=True, slots=True)
class Attached:
    """A finished attach. `status` is the wait status of a target that ended meanwhile."""

    path: str
    pid: int
    argv: list[str]
    status: int | None
    duration_ns: int
    result: Result


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
        for_ns: leave after this time; None: when told.
        say: takes a line for the user.
        watch: called twice a second.

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
    argv = procfs.exec_facts(facts.pid)["argv"]
    redaction = Redaction() if options.redact else None
    output = begin(path, machine.header("ptrace", argv), redaction)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    writer = Writer(output, redaction)
    _prepare()
    engine = Engine(writer.channel, replace(options, seccomp=False))
    attachment = engine.attachment = Attachment(engine, facts.pid, say)
    begun = time.monotonic_ns()
    shown = [begun]

    def each_tick() -> bool:
        now = time.monotonic_ns()
        if now - shown[0] >= _WATCH_NS and attachment.facts is not None:
            shown[0] = now
            watch(_progress(engine, facts.pid, now - begun))
        return for_ns is not None and now - begun >= for_ns

    try:
        attachment.seize()
    except TargetError:
        writer.finish("not attached")
        output.discard()
        raise
    leave_on_signals(engine, each_tick)
    engine.loop()
    stop_ticking()
    departure = Departure(engine)
    left = bool(engine.family.tracees)
    if left:
        departure.go()
    duration = time.monotonic_ns() - begun
    reason = "detached" if left else "the last process ended"
    result = writer.finish(reason, departure.serve)
    if attachment.facts is None and not result.counts.get("records"):
        output.discard()
        raise access.refusal(access.before(facts.pid), errno.ESRCH, earlier=facts) or TargetError(
            f"process {facts.pid} could not be read before the attach ended",
            hint=f"memtrace doctor {facts.pid}",
        )
    return Attached(path, facts.pid, argv, engine.root_status, duration, result)


def _progress(engine: Engine, pid: int, elapsed: int) -> Progress:
    family = engine.family
    vm, rss = procfs.statm(procfs.read(f"/proc/{pid}/statm")) or (0, 0)
    return Progress(
        pid, elapsed, sum(mm.calls for mm in family.mms.values()), len(family.process_mm),
        len(family.tracees), vm * PAGE, rss * PAGE,
    )  # fmt: skip


def _prepare() -> None:
    """Four descriptors per address space (a child has its own limit already), no pauses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.freeze()
    gc.disable()


def begin(path: str, header: Header, redaction: Redaction | None) -> Output:
    """Create the trace file and write its header; an existing one is kept as NAME.old.

    Raises:
        TargetError: it cannot be created or written.
    """
    try:
        output = Output(path)
    except OSError as e:
        raise cannot_write(path, e) from e
    try:
        output.write(encode_header(header if redaction is None else redaction.header(header)))
    except OSError as e:
        os.close(output.fd)
        output.discard()
        raise cannot_write(path, e) from e
    return output


def cannot_write(path: str, e: OSError) -> TargetError:
    """The error for an output that cannot be written."""
    return TargetError(
        f"cannot write {path}: {(e.strerror or str(e)).lower()}",
        hint="memtrace run -o /tmp/trace.json -- PROG ARGS...",
    )
