# SPDX-License-Identifier: GPL-2.0-or-later
"""What threads may know of each other's calls.

malloc looks at the threshold without a lock, and free moves it without one, some time before its
munmap. So a thread on its way to mmap has seen the threshold as it was at some moment since that
thread's last call, and where the threshold stands now another thread's next munmap may tell.
"""

from __future__ import annotations


class Threads:
    """The threads of one address space, from when on there are several.

    Attributes:
        several: there are, or there were.
        before: the call before this one of the thread that makes it; 0: it is not known.
    """

    __slots__ = ("_last", "before", "several")

    def __init__(self, *, several: bool = False) -> None:
        self.several = several
        self.before = 0
        self._last: dict[int, int] = {}

    def starts(self, tid: int, seq: int) -> None:
        """A thread begins to run."""
        self.several = True
        self._last.setdefault(tid, seq)

    def calls(self, tid: int, seq: int) -> None:
        """It makes a call."""
        self.before = self._last.get(tid, 0)
        self._last[tid] = seq
