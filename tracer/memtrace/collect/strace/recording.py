# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace run --engine strace` from end to end: strace, output, writer, loop, result."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from shlex import quote

from memtrace.collect import machine, procfs
from memtrace.collect.job import SUSPENDING, Job
from memtrace.collect.launch import environment, not_executable, resolve
from memtrace.collect.options import Options
from memtrace.collect.ptrace import signal_name
from memtrace.collect.recorder import Recording, begin, prepare
from memtrace.collect.redact import Redaction
from memtrace.collect.strace import command
from memtrace.collect.strace.engine import StraceEngine
from memtrace.collect.strace.lockstep import Lockstep, Unholdable
from memtrace.collect.strace.loop import SIGNALS, Loop
from memtrace.collect.writing import Writer
from memtrace.trace.errors import TargetError


def record(argv: Sequence[str], path: str, options: Options) -> Recording:
    """Run a program under strace and write its trace to `path`.

    Raises:
        TargetError: there is no strace that can do it, the program cannot be run, or the trace
            cannot be created.
    """
    machine.require_kernel()
    strace = command.find()
    program = resolve(argv[0])
    redaction = Redaction() if options.redact else None
    again = "memtrace run --engine strace -o /tmp/trace.json -- PROG ARGS..."
    output = begin(path, machine.header("strace", argv, options.manner()), redaction, again)
    lockstep = Lockstep()
    writer = Writer(output, redaction, lockstep.ends)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    prepare()
    words = strace.command(lockstep.path, seccomp=options.seccomp)
    begun = time.monotonic_ns()
    pid = start([*words, *command.program(argv)], before)
    engine = StraceEngine(writer.channel, options)
    job, signalled = stand_in(engine)
    loop = Loop(engine, lockstep, pid, signalled, job.step)
    error: TargetError | None = None
    unheld = False
    try:
        lockstep.follow(pid)
        loop.run()
    except Unholdable as e:
        unheld = True
        if engine.root:
            engine.lost(f"strace could not be held at its stops any more: {e}")
            loop.drain()
        else:
            error = cannot_hold(e)
            os.kill(pid, signal.SIGKILL)
    lockstep.close()
    _, status = os.waitpid(pid, 0)
    duration = time.monotonic_ns() - begun
    engine.end()
    gone = None if unheld else gone_before(engine, status, path)
    result = writer.finish("the last process ended" if gone is None else "strace ended")
    if engine.refused:
        error = not_executable(program, engine.refused)
    elif not engine.root and error is None:
        error = TargetError(
            f"strace ended with status {os.waitstatus_to_exitcode(status)} and traced nothing",
            hint="memtrace doctor",
        )
    if error is not None:
        output.discard()
        raise error
    if gone is not None and engine.root_status is None:
        raise gone
    notes = [] if gone is None else [f"{gone.message}\n  try: {gone.hint}"]
    ended = engine.root_status if engine.root_status is not None else status
    return Recording(path, ended, duration, result, engine.family.withheld, notes)


def cannot_hold(e: Unholdable) -> TargetError:
    """The error for a strace that goes on while we look."""
    return TargetError(
        f"strace cannot be held at its stops here: {e}",
        hint="strace -f -ttt -T -y -o strace.log -- PROG ARGS..., then memtrace import strace.log",
    )


def gone_before(engine: StraceEngine, status: int, path: str) -> TargetError | None:
    """The error for a strace that has ended before all that it traced; the trace says so, too.

    A filter outlives it, and without a tracer refuses the calls with ENOSYS (SECCOMP_RET_TRACE).
    """
    unseen = sorted({t.pid for t in engine.family.tracees.values() if t.mm.id})
    if not unseen:
        return None
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with status {code}"
    more = f" and {len(unseen) - 5} others" if len(unseen) > 5 else ""
    why = f"strace {how} before the end of process {', '.join(map(str, unseen[:5]))}{more}"
    engine.lost(why)
    living = [pid for pid in unseen if procfs.stat_fields(pid)[:1] not in ([], ["Z"], ["X"])]
    if not living or not engine.options.seccomp:
        return TargetError(f"{why}: the trace ends there", hint=f"memtrace report {quote(path)}")
    return TargetError(
        f"{why}: the trace ends there, and the filter makes the calls of what runs on fail",
        hint=f"kill {' '.join(map(str, living))}",
    )


def start(words: Sequence[str], mask: Iterable[int], *, group: bool = False) -> int:
    """Start strace as the program is to run: its descriptors, environment and signals.

    Args:
        words: its command line, the first a path.
        mask: the signals that are blocked.
        group: it is to have a process group of its own, out of a terminal's reach.
    """
    env = environment()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if group:
            os.setpgid(0, 0)
        os.execve(words[0], list(words), env)  # noqa: S606
    finally:
        os._exit(127)


def stand_in(engine: StraceEngine) -> tuple[Job, Callable[[signal.struct_siginfo], None]]:
    """To its shell and to whoever sends signals memtrace is the program (`job.py`): who sees to
    that, and what is to be told of the signals.
    """
    job = engine.job = Job(engine, engine.source, lambda: None)

    def signalled(info: signal.struct_siginfo) -> None:
        (job.suspended if info.si_signo in SUSPENDING else job.sent)(info.si_signo)

    return job, signalled
