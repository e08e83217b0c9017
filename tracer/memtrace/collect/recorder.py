# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace run` from end to end: output, writer, child, loop, result."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from memtrace.collect import machine
from memtrace.collect.engine import Engine
from memtrace.collect.launch import Launch, resolve
from memtrace.collect.options import Options
from memtrace.collect.redact import Redaction
from memtrace.collect.signals import (
    children_are_waited_for,
    forward_signals,
    stop_ticking,
)
from memtrace.collect.writing import Result, Writer
from memtrace.trace.codec import encode_header
from memtrace.trace.errors import TargetError
from memtrace.trace.records import Header
from memtrace.trace.stream import Output

_WATCH_NS = 500_000_000


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished recording.

    `status` is the program's wait status; `duration_ns` from its start to its end. `withheld`:
    programs that ran without privileges that their file grants, and which. `notes`: what else
    there is to say to the user, a sentence each.
    """

    path: str
    status: int
    duration_ns: int
    result: Result
    withheld: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)


def record(argv: Sequence[str], path: str, options: Options) -> Recording:
    """Run a program under the ptrace engine and write its trace to `path`.

    Raises:
        TargetError: the program cannot be run, may not be traced, or the trace cannot be created.
    """
    machine.require_kernel()
    program = resolve(argv[0])
    redaction = Redaction() if options.redact else None
    again = "memtrace run -o /tmp/trace.json -- PROG ARGS..."
    output = begin(path, machine.header("ptrace", argv, options.manner()), redaction, again)
    no_sigchld = children_are_waited_for()
    writer = Writer(output, redaction)
    try:
        launch = Launch(argv, program, seccomp=options.seccomp, no_sigchld=no_sigchld)
    except TargetError:
        writer.finish("not started")
        output.discard()
        raise
    prepare()
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
    return Recording(path, status, duration, result, engine.family.withheld)


def prepare() -> None:
    """Four descriptors per address space (a child has its own limit already), no pauses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.freeze()
    gc.disable()


def begin(path: str, header: Header, redaction: Redaction | None, again: str) -> Output:
    """Create the trace file and write its header; an existing one is kept as NAME.old.

    Args:
        path: the file.
        header: of the trace.
        redaction: what it is redacted with; None: it is not.
        again: the command to try if it cannot be written.

    Raises:
        TargetError: it cannot be created or written.
    """
    try:
        output = Output(path)
    except OSError as e:
        raise cannot_write(path, e, again) from e
    try:
        output.write(encode_header(header if redaction is None else redaction.header(header)))
    except OSError as e:
        os.close(output.fd)
        output.discard()
        raise cannot_write(path, e, again) from e
    return output


def cannot_write(path: str, e: OSError, again: str) -> TargetError:
    """The error for an output that cannot be written; `again` is its remedy."""
    return TargetError(f"cannot write {path}: {(e.strerror or str(e)).lower()}", hint=again)
