# SPDX-License-Identifier: GPL-2.0-or-later
"""The tracer's end of the pipe to the writer, and the page through which the writer asks back.

The tracer never waits for the disk: it waits only while the pipe is full, so that nothing is lost
and the target is slowed instead. A dead writer ends the recording, never the target.
"""

from __future__ import annotations

import mmap
import os
import time

BLOCK = 1 << 15


def wish_slot(mm: int) -> int:
    """The byte of an mm in the page of wishes; two mms may share one, which costs a snapshot."""
    return mm % mmap.PAGESIZE


class Wishes:
    """A page shared with the writer: one byte per mm, set when its model and the kernel's page
    count disagree and a snapshot is wanted at the next stop."""

    def __init__(self) -> None:
        self.page = mmap.mmap(-1, mmap.PAGESIZE)

    def ask(self, mm: int) -> None:
        """Writer: want a snapshot."""
        self.page[wish_slot(mm)] = 1


class Channel:
    """Messages out, in order. `broken` is set when the writer has gone."""

    def __init__(self, fd: int, wishes: Wishes) -> None:
        self.fd = fd
        self.wishes = wishes.page
        self.out = bytearray()
        self.broken = False
        self.start_ns = time.monotonic_ns()

    def now(self) -> int:
        """Nanoseconds since the trace's start."""
        return time.monotonic_ns() - self.start_ns

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
                view = view[os.write(self.fd, view) :]
        except OSError:
            self.broken = True

    def close(self) -> None:
        """Flush and let the writer see the end."""
        self.flush()
        os.close(self.fd)
