# SPDX-License-Identifier: GPL-2.0-or-later
"""The one wait of an attach that only SIGKILL ends, and the process that watches for it.

PTRACE_SEIZE waits for `cred_guard_mutex`, which a thread in execve holds while it waits for its
siblings to be reaped (`de_thread`); those that are seized already only their tracer can reap, and
it waits. Signals restart the request (ERESTARTNOINTR). The tracer's end frees everybody.
"""

from __future__ import annotations

import os
import select
import signal

from memtrace.collect import procfs, ptrace

_LOOK_MS, _LOOKS = 250, 8
_NR_PTRACE = 101  # x86-64


class Watch:
    """Lasts until `end`. The watching process ends with this one, however that ends."""

    def __init__(self, pid: int) -> None:
        self._end: int | None = None
        tracer, writer = os.getpid(), os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(writer[1])
                if os.fork() == 0:  # the tracer's waitpid(-1) is for tracees
                    _watch(tracer, pid, writer[0])
            finally:
                os._exit(0)
        os.close(writer[0])
        os.waitpid(child, 0)
        self._end = writer[1]

    def end(self) -> None:
        """No more threads are seized."""
        if self._end is not None:
            os.close(self._end)
            self._end = None


def _watch(tracer: int, pid: int, ended: int) -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    for low, high in ((0, 2), (3, ended), (ended + 1, 1 << 30)):
        os.closerange(low, high)  # the writer's pipe must see its end
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    before, same = b"", 0
    while not poll.poll(_LOOK_MS):
        now = procfs.read(f"/proc/{tracer}/syscall")
        waits = now.split()[:2] == [b"%d" % _NR_PTRACE, b"0x%x" % ptrace.SEIZE]
        same = same + 1 if waits and now == before else 0
        before = now
        if same >= _LOOKS:
            os.kill(tracer, signal.SIGKILL)
            os.write(2, (
                f"memtrace: a thread of process {pid} executed a program just now, and the kernel "
                f"let neither go on: memtrace has let go\n  try: memtrace attach {pid}\n"
            ).encode())  # fmt: skip
            return
