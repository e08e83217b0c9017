# SPDX-License-Identifier: GPL-2.0-or-later
"""The tracer's end of the pipe to the writer, and the page through which the writer asks back.

The tracer never waits for the disk: it waits only while the pipe is full, so that nothing is lost
and the target is slowed instead. A dead writer ends the recording, never the target.
"""

from __future__ import annotations

import mmap
import os
import select
import time

BLOCK = 1 << 15
_FAILED = mmap.PAGESIZE  # behind the slots


def wish_slot(mm: int) -> int:
    """The byte of an mm in the page of wishes; two mms may share one, which costs a snapshot."""
    return mm % mmap.PAGESIZE


class Wishes:
    """Memory shared with the writer: one byte per mm, set when its model and the kernel's page
    count disagree and a snapshot is wanted at the next stop; and one for a writer that cannot write
    any more."""

    def __init__(self) -> None:
        self.page = mmap.mmap(-1, _FAILED + 1)

    def ask(self, mm: int) -> None:
        """Writer: want a snapshot."""
        self.page[wish_slot(mm)] = 1

    def fail(self) -> None:
        """Writer: what comes from now on is read and dropped."""
        self.page[_FAILED] = 1


class Channel:
    """Messages out, in order. `broken` is set when the writer has gone."""

    def __init__(self, fd: int, wishes: Wishes) -> None:
        self.fd = fd
        self.wishes = wishes.page
        self.out = bytearray()
        self.broken = False
        self.stuck = False
        self._patience_ms: int | None = None
        self.start_ns = time.monotonic_ns()

    def now(self) -> int:
        """Nanoseconds since the trace's start."""
        return time.monotonic_ns() - self.start_ns

    def in_vain(self) -> bool:
        """Whether nothing that is sent will be written: the writer has gone or cannot write."""
        if self.broken or self.wishes[_FAILED]:
            return True
        poll = select.poll()
        poll.register(self.fd, 0)
        return bool(poll.poll(0))  # a pipe that nobody reads is in error (`pipe_poll`)

    def be_impatient(self, ms: int) -> None:
        """Give up a writer that takes nothing for so long (stopped, or a disk that hangs): for who
        was there before the trace, the trace is not worth to stand still.
        """
        self._patience_ms = ms
        os.set_blocking(self.fd, False)

    def send(self, message: bytes) -> None:
        """Queue one message."""
        self.out += message
        if len(self.out) > BLOCK:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the writer."""
        if self.broken:
            self.out.clear()
            return
        view = memoryview(bytes(self.out))
        self.out.clear()
        try:
            while view:
                try:
                    view = view[os.write(self.fd, view) :]
                except BlockingIOError:
                    self._wait()
        except OSError:
            self.broken = True

    def _wait(self) -> None:
        """Until the pipe takes something.

        Raises:
            OSError: it has not for too long.
        """
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        if not poll.poll(self._patience_ms):
            self.stuck = True
            raise TimeoutError

    def close(self) -> None:
        """Flush and let the writer see the end."""
        self.flush()
        os.close(self.fd)
