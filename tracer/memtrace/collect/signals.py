# SPDX-License-Identifier: GPL-2.0-or-later
"""The tracer's own signals while a program runs under it.

PEP 475: waitpid goes on after a handler, so a handler itself does what has to happen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from memtrace.collect.engine import Engine
from memtrace.collect.job import RELAYED, SUSPENDING, Job
from memtrace.collect.ptrace import INTERRUPT, request

FIRST_SECONDS = 0.002
#: A signal that comes just before waitpid begins to wait interrupts nothing, and no handler of
#: Python's runs until the next one.
LOST_SECONDS = 0.2


def children_are_waited_for() -> bool:
    """Where SIGCHLD is ignored the kernel reaps children by itself and no exit status is ever seen
    (`do_notify_parent`). Returns whether it was, for the program inherits it.
    """
    return signal.signal(signal.SIGCHLD, signal.SIG_DFL) is signal.SIG_IGN


def forward_signals(engine: Engine) -> None:
    """The tracer's manners: what is sent to it is sent on to the program, it stops when the program
    does (`job.py`), and a timer makes the engine flush.
    """
    job = engine.job = Job(engine)
    for number in RELAYED:
        signal.signal(number, job.sent)
    for number in SUSPENDING:
        signal.signal(number, job.suspended)
    _tick(engine, engine.tick)


def leave_on_signals(engine: Engine, each_tick: Callable[[], bool]) -> None:
    r"""The manners of an attach: every signal by which people end a program detaches, and nothing
    stops the tracer, for the target would stand still at its next call.

    Args:
        engine: told to leave.
        each_tick: called at every tick; true: it is time to leave.
    """

    def leave(_: int = 0, __: object = None) -> None:
        if not engine.leaving[0]:
            engine.leaving[0] = True
            # waitpid goes on after a handler (PEP 475), and an exception out of it could swallow
            # a stop that it has just returned. A child that ends at once makes it return.
            try:
                if os.fork() == 0:
                    os._exit(0)
            except OSError:  # no more processes: a stop does it, too
                for tid in list(engine.family.tracees)[:1]:
                    request(INTERRUPT, tid, 0, 0)

    def ticked() -> float:
        delay = engine.tick()
        if each_tick():
            leave()
        return delay

    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    for number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _tick(engine, ticked)


def _tick(engine: Engine, do: Callable[[], float]) -> None:
    """Call `do` while the loop waits and nothing is half done; it returns the seconds until it is
    to be called again.
    """

    def tick() -> None:
        signal.setitimer(signal.ITIMER_REAL, do(), LOST_SECONDS)

    def alarm(_: int, __: object) -> None:
        if not engine.idle[0]:
            engine.tick_due[0] = True  # the loop does it before it waits again
            return
        engine.idle[0] = False  # a tick that waits for the writer is not ticked into
        try:
            tick()
        finally:
            engine.idle[0] = True

    engine.when_due = tick
    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, FIRST_SECONDS, LOST_SECONDS)


def stop_ticking() -> None:
    """Nothing is left to trace. Ignored before it is switched off, because the interpreter gives
    SIGALRM its deadly default back when it ends, and the handler may set the timer again.
    """
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)
