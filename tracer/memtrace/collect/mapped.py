# SPDX-License-Identifier: GPL-2.0-or-later
"""The file behind a mapping, opened for reading: the very one, or none.

A path says little: the file may have been replaced since, by a pipe that nobody writes to, or by
the next program of a build, which often gets the same inode number. And to open a device does
something to it, so only regular files are opened at all.
"""

from __future__ import annotations

import os
import stat
import time

#: A file's times are those of the last tick (`current_time`).
_TICK_NS = round(time.clock_getres(getattr(time, "CLOCK_REALTIME_COARSE", 5)) * 1e9)


def open_mapped(pid: int, ino: int, path: str, *, at: int | None = None) -> int | None:
    """A descriptor of the regular file with inode `ino` at a path, as process `pid` sees it or else
    as this one does; None if there is none. The caller closes it.

    Args:
        pid: of the process that has it mapped.
        ino: of the mapped file.
        path: of the file.
        at: CLOCK_REALTIME ns when it was mapped: one that has been made or written to since is
            another, or another's.
    """
    for candidate in (f"/proc/{pid}/root{path}", path):
        found = open_inode(candidate, ino, at=at)
        if found is not None:
            return found
    return None


def open_inode(path: str, ino: int, *, at: int | None = None) -> int | None:
    """The same of one path."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        found = os.fstat(place)
        if found.st_ino != ino or not stat.S_ISREG(found.st_mode):
            return None
        if at is not None and found.st_ctime_ns > at - _TICK_NS:
            return None
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    finally:
        os.close(place)
