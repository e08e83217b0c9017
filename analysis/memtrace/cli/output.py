# SPDX-License-Identifier: GPL-2.0-or-later
"""Result files: whole or not at all."""

from __future__ import annotations

import locale
import os
import stat
from collections.abc import Iterable
from pathlib import Path


def write_file(name: str, data: Iterable[bytes]) -> None:
    """Write a file through a new one beside it, so that no cut-off result ever bears the name.

    What is no regular file (/dev/stdout, a pipe) is written directly.

    Raises:
        OSError: it cannot be written; a file that was there before is untouched, as it is when
            `data` raises.
    """
    path = Path(name)
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        regular = True
    if not regular:
        with path.open("wb") as f:
            f.writelines(data)
        return
    path = path.resolve()  # through a link, not over it
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("xb") as f:  # never through a link that waits in /tmp
            f.writelines(data)
        new.replace(path)
    except FileExistsError as e:
        e.filename = name
        raise
    except BaseException as e:  # what gives the data may fail, too
        new.unlink(missing_ok=True)
        if isinstance(e, OSError):
            e.filename = name
        raise


def ascii_only() -> bool:
    """Whether the locale's terminal shows ASCII at best (`LC_ALL=C`)."""
    return locale.getencoding().lower().replace("-", "") != "utf8"


def same_file(one: str, other: str) -> bool:
    """Whether both names are the same existing file."""
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
