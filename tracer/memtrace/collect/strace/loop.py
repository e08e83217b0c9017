# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop of the strace engine: wait until strace is held, look, let it go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from memtrace.collect.job import RELAYED, SOON, SUSPENDING
from memtrace.collect.strace.engine import StraceEngine
from memtrace.collect.strace.lockstep import NEWS, Lockstep

#: All that the loop waits for: they must be blocked.
SIGNALS = frozenset((NEWS, signal.SIGCHLD, *RELAYED, *SUSPENDING))
_FLUSH_NS = 150_000_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1
#: How often strace is looked at again at once when it runs: it may be about to block.
_SPINS = 40


class Loop:
    """strace, its output, and the engine that reads it.

    Args:
        engine: is told of each piece while strace is held in writing it.
        lockstep: has been told of strace's pid.
        pid: of strace, a child of ours.
        signalled: what to do with one of the other signals.
        idle: called now and then when nothing is to be seen.
    """

    def __init__(
        self,
        engine: StraceEngine,
        lockstep: Lockstep,
        pid: int,
        signalled: Callable[[signal.struct_siginfo], None],
        idle: Callable[[], object] = lambda: None,
    ) -> None:
        self.engine = engine
        self._lockstep = lockstep
        self._pid = pid
        self._signalled = signalled
        self._idle = idle
        self._ended = False

    def run(self, each: Callable[[], bool] | None = None) -> bool:
        """Until strace has ended (False), or `each` says that it is enough (True).

        Args:
            each: called after the engine has looked, and now and then when nothing is to be seen.
        """
        lockstep, at = self._lockstep, self.engine.at
        pause, spins, flushed = _FIRST_PAUSE, 0, time.monotonic_ns()
        while True:
            piece = lockstep.held()
            now = time.monotonic_ns()
            if now - flushed > _FLUSH_NS:
                self.engine.tick()
                flushed = now
            if piece:
                at(piece)
                if each is not None and each():
                    return True
                lockstep.release()
                pause, spins = _FIRST_PAUSE, 0
                # One signal says that this write has ended, the next that another one waits.
                if self._wait(pause):
                    self._wait(pause)
            elif piece is None and spins < _SPINS:
                spins += 1
                os.sched_yield()
            elif self._ended and not lockstep.release():
                at(bytes(lockstep.rest))
                return False
            elif self._wait(pause):
                pause, spins = _FIRST_PAUSE, 0
            else:
                if pause > SOON:
                    self._idle()
                pause = min(pause * 2, _LONGEST_PAUSE)
                if each is not None and each():
                    return True

    def drain(self) -> None:
        """Let strace go on to its end, whatever it says."""
        while not self._ended:
            self._lockstep.skip()
            self._wait(_FIRST_PAUSE)

    def _wait(self, seconds: float) -> bool:
        """Whether a signal came within that time."""
        info = signal.sigtimedwait(SIGNALS, seconds)
        if info is None:
            return False
        if info.si_signo == signal.SIGCHLD:
            done = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self._ended = self._ended or done is not None
        elif info.si_signo != NEWS:
            self._signalled(info)
        return True
