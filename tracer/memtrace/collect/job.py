# SPDX-License-Identifier: GPL-2.0-or-later
"""The tracer stands in for the program: to its shell, and to whoever has its pid, it is that.

So two things pass through it. A signal sent to memtrace is sent on to the program, unless the
program got its own: a terminal, `kill %1` and systemd send to every process of a group, and a
program that answers the second SIGTERM by giving up must not be sent two for one. And when the
program stands still by job control, so does the tracer, by the same signal, because that is what
the shell waits for (WUNTRACED); but only then. If the tracer were stopped by ^Z itself, a program
that puts the terminal in order before it stops could not run to do so.

While the tracer is stopped nobody serves the program: a SIGCONT to the program alone has its effect
when the tracer is continued.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from memtrace.collect import ptrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from memtrace.collect.engine import Engine
    from memtrace.collect.strace.engine import StraceEngine


#: What is sent on; the other signals that end a process by default are the tracer's own affair.
RELAYED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGCONT,
)  # fmt: skip
SUSPENDING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
#: A signal that the program got this long before the tracer got it was sent to both.
SAME_NS = 50_000_000
SOON = 0.005


class Job:
    """The signals and stops of the program that `run` started.

    Signal handlers only take down what has happened; `step` acts, when the loop has nothing to do.

    Args:
        engine: traces the program.
        source: (si_code, si_pid) of the signal that a tracee is about to get.
        soon: makes the loop call `step` before long.
    """

    def __init__(
        self,
        engine: Engine | StraceEngine,
        source: Callable[[int], tuple[int, int]] = lambda tid: ptrace.signal_source(tid),  # noqa: PLW0108 - found when asked
        soon: Callable[[], None] = lambda: _in(SOON),
    ) -> None:
        self.engine = engine
        self._source = source
        self._soon = soon
        self._seen: dict[int, int] = {}  # when the program last got a signal
        self._owed: set[int] = set()  # signals that the tracer got and the program not yet
        self._stop = 0  # what the program stands stopped by
        self._shown = False  # that stop is the shell's business
        self._suspended = False  # the tracer was sent a stop signal, too
        self._interrupts = 0

    # -- what the tracer is sent -----------------------------------------------------------------

    def sent(self, number: int, _: object = None) -> None:
        """The tracer got one of RELAYED."""
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts >= 3:
                self._kill(signal.SIGKILL)
        if self.engine.root_status is not None:
            if number in (signal.SIGTERM, signal.SIGHUP):
                self._kill(number)  # to what the program left running
        elif time.monotonic_ns() - self._seen.get(number, -SAME_NS) >= SAME_NS:
            self._owed.add(number)
            self._soon()

    def suspended(self, number: int, _: object = None) -> None:
        """The tracer got one of SUSPENDING."""
        if self.engine.root_status is not None:
            _stop_like(number)
        elif self._stop:
            self._shown = True
            self._soon()
        else:
            self._suspended = True

    def _kill(self, number: int) -> None:
        engine = self.engine
        pids = {engine.root}
        if engine.root_status is not None:
            pids = {t.pid for t in list(engine.family.tracees.values())}
        for pid in pids - {0}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # -- what the program gets -------------------------------------------------------------------

    def delivered(self, tid: int, number: int) -> None:
        """A thread of the program is about to get a signal."""
        self._seen[number] = time.monotonic_ns()
        self._owed.discard(number)
        if number in ptrace.GROUP_STOPS:
            # By the terminal or by one of its own: the job stops. By anybody else: that process.
            code, pid = self._source(tid)
            own = code > 0 or pid in {t.pid for t in self.engine.family.tracees.values()}
            self._shown = own or self._suspended
            self._suspended = False

    def stopped(self, number: int) -> None:
        """A thread of the program has taken part in a group stop."""
        self._stop = number
        if self._shown:
            self._soon()

    def continued(self) -> None:
        """A thread of the program is no longer in a group stop."""
        if self._stop:
            self._stop = 0
            self._owed.discard(signal.SIGCONT)

    # -- acting --------------------------------------------------------------------------------

    def step(self) -> bool:
        """Called from the engine's tick; true: call again soon."""
        if not self._owed and not (self._stop and self._shown):
            return False
        if ptrace.has_news():  # it may make what is owed unnecessary, or belong to the stop
            return True
        for number in sorted(self._owed):
            self._owed.discard(number)
            self._kill(number)
        if self._stop and self._shown:
            self._shown = False
            self._stop_too()
        return bool(self._owed)

    def _stop_too(self) -> None:
        """Stop as the program did. A shell under memtrace has a group of its own, and the terminal
        with it; the shell outside knows only the tracer's group, and gives it the terminal back.
        """
        try:
            theirs = os.getpgid(self.engine.root)
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            _stop_like(self._stop)
            return
        try:
            had_it = os.tcgetpgrp(terminal) == theirs
            _stop_like(self._stop)
            if had_it and os.tcgetpgrp(terminal) == os.getpgrp() != theirs:
                os.tcsetpgrp(terminal, theirs)
        except OSError:
            pass  # hung up
        finally:
            os.close(terminal)


def _in(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)  # the first may be lost (signals.py)


def _stop_like(number: int) -> None:
    """Stop this process by that signal; returns when it is continued."""
    if number == signal.SIGSTOP:
        os.kill(os.getpid(), number)
        return
    handler = signal.signal(number, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    signal.signal(number, handler)
