# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace run` from end to end: output, writer, child, loop, result."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

from memtrace.collect import machine
from memtrace.collect.engine import Engine
from memtrace.collect.launch import Launch, resolve
from memtrace.collect.options import Options
from memtrace.collect.signals import children_are_waited_for, forward_signals, stop_ticking
from memtrace.collect.writing import Result, Writer
from memtrace.trace.codec import encode_header
from memtrace.trace.errors import TargetError
from memtrace.trace.stream import Output


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
    output = open_output(path)
    try:
        output.write(encode_header(machine.header("ptrace", argv)))
    except OSError as e:
        os.close(output.fd)
        output.discard()
        raise cannot_write(path, e) from e
    no_sigchld = children_are_waited_for()
    writer = Writer(output)
    try:
        launch = Launch(argv, program, seccomp=options.seccomp, no_sigchld=no_sigchld)
    except TargetError:
        writer.finish("not started")
        output.discard()
        raise
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:  # four descriptors per address space; the child has its own limit already
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.freeze()
    gc.disable()
    engine = Engine(writer.channel, options)
    forward_signals(engine)
    begun = time.monotonic_ns()
    launch.go()
    status = engine.loop(launch.pid)
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


def open_output(path: str) -> Output:
    """Create the trace file; an existing one is kept as NAME.old.

    Raises:
        TargetError: it cannot be created.
    """
    try:
        return Output(path)
    except OSError as e:
        raise cannot_write(path, e) from e


def cannot_write(path: str, e: OSError) -> TargetError:
    """The error for an output that cannot be written."""
    return TargetError(
        f"cannot write {path}: {(e.strerror or str(e)).lower()}",
        hint="memtrace run -o /tmp/trace.json -- PROG ARGS...",
    )
