# SPDX-License-Identifier: GPL-2.0-or-later
"""The file beside a trace by its name: what a recorder has to know of a cache (`sidecar`)."""

from __future__ import annotations

import contextlib
import os
import stat

SUFFIX = ".cache"
#: What a cache begins with.
MAGIC = b"memtrace cache 1\n"


def keep_along(path: str, kept: str) -> None:
    """A trace has got another name: its cache gets it, too, and no cache stays beside a trace that
    it was not made of. What is no cache stays where it is.

    Args:
        path: the name that the trace had.
        kept: the one that it has; "" if there was none of the name.
    """
    one, other = path + SUFFIX, kept + SUFFIX
    with contextlib.suppress(OSError):  # it will not fit, and will not be used
        if kept and is_cache(other):
            os.unlink(other)
        if is_cache(one):
            if kept:
                with contextlib.suppress(OSError):  # something else has the name
                    os.link(one, other, follow_symlinks=False)
            os.unlink(one)


def is_cache(path: str) -> bool:
    """Whether a file says of itself that it is a cache."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.read(fd, len(MAGIC)) == MAGIC
    except OSError:
        return False
    finally:
        os.close(fd)
