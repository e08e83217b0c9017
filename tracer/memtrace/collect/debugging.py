# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace run --engine python-ptrace` from end to end."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import time
from collections.abc import Sequence
from dataclasses import replace

from memtrace.collect import machine
from memtrace.collect.debugger import DebuggerEngine
from memtrace.collect.launch import Launch, resolve
from memtrace.collect.options import Options
from memtrace.collect.recorder import Recording, begin, prepare
from memtrace.collect.redact import Redaction
from memtrace.collect.signals import children_are_waited_for
from memtrace.collect.writing import Writer
from memtrace.trace.errors import TargetError

_SENT_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def record(argv: Sequence[str], path: str, options: Options) -> Recording:
    """Run a program of one thread under PtraceDebugger and write its trace to `path`.

    Args:
        argv: the program's arguments, its name first.
        path: the trace to write.
        options: `seccomp` is not used.

    Raises:
        TargetError: the program cannot be run, may not be traced or is a 32-bit one, or the trace
            cannot be created.
    """
    machine.require_kernel()
    logging.disable(logging.CRITICAL)  # python-ptrace tells its story to whoever set logging up
    program = resolve(argv[0])
    again = shlex.join(("memtrace", "run", "--", *argv))
    if _is_elf32(program):
        raise TargetError(
            f"{program} is a 32-bit program, which the python-ptrace engine cannot decode",
            hint=again,
        )
    redaction = Redaction() if options.redact else None
    elsewhere = "memtrace run -o /tmp/trace.json -- PROG ARGS..."
    output = begin(
        path, machine.header("python-ptrace", argv, options.manner()), redaction, elsewhere
    )
    no_sigchld = children_are_waited_for()
    writer = Writer(output, redaction)
    engine = DebuggerEngine(writer.channel, replace(options, seccomp=False))
    try:
        launch = Launch(argv, program, seccomp=False, no_sigchld=no_sigchld, take=engine.take)
    except TargetError:
        writer.finish("not started")
        output.discard()
        raise
    prepare()
    _send_on(launch.pid)
    begun = time.monotonic_ns()
    launch.go()
    engine.loop()
    error = launch.error()
    reason = engine.left or ("the last process ended" if error is None else "not started")
    result = writer.finish(reason)
    if error is not None:
        output.discard()
        raise error
    status = engine.root_status
    if status is None:
        status = os.waitpid(launch.pid, 0)[1]
    duration = time.monotonic_ns() - begun
    notes = [f"{engine.left}: the recording ended there\n  try: {again}"] if engine.left else []
    return Recording(path, status, duration, result, engine.family.withheld, notes)


def _send_on(pid: int) -> None:
    """What this process is sent, the program gets; what a terminal sends goes to both anyway."""
    for number in _SENT_ON:
        signal.signal(number, lambda n, _: os.kill(pid, n))
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def _is_elf32(path: str) -> bool:
    try:
        with open(path, "rb") as f:
            return f.read(5) == b"\x7fELF\x01"
    except OSError:
        return False
