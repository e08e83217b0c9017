# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place where a failure becomes two lines on stderr and an exit status.

    memtrace: cannot read t.json: no such file
      try: memtrace run -o t.json -- PROG ARGS...

Statuses: an error's own `exit_code`; 2 for the command line; 130 after Ctrl-C; 141 (as after
SIGPIPE, without a word) when the reader of stdout has gone; 125 where the output cannot be written,
and for a fault of memtrace itself.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from shlex import quote
from typing import TYPE_CHECKING

import click

from memtrace.trace.errors import MemtraceError

if TYPE_CHECKING:
    from collections.abc import Callable

USAGE, UNREADABLE, FAULT, INTERRUPTED, PIPE = 2, 3, 125, 130, 141


class Debug:
    """Whether tracebacks are wanted; set by `--debug`, wherever it stands on the line."""

    wanted = False


def exit_status(command: Callable[[], object]) -> int:
    """Run a command; say what went wrong, if anything did.

    Args:
        command: returns its exit status, None for 0.
    """
    try:
        result = command()
        sys.stdout.flush()
    except click.exceptions.Exit as e:
        return e.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as e:
        return _usage(e)
    except MemtraceError as e:
        return _say(e, one_line(e.message), one_line(e.hint), e.exit_code)
    except OSError as e:
        return _os_error(e)
    except Exception as e:  # noqa: BLE001 - the last resort
        what = f"{type(e).__name__}: {e}".splitlines()[0][:200]
        return _say(
            e, f"a fault of memtrace itself: {what}", "the same with --debug, and report it", FAULT
        )
    return result if isinstance(result, int) else 0


def _usage(e: click.ClickException) -> int:
    context = getattr(e, "ctx", None)
    path = context.command_path if context is not None else "memtrace"
    message = " ".join(e.format_message().split()).rstrip(".")
    return _say(e, message[:1].lower() + message[1:], f"{path} --help", USAGE)


def _os_error(e: OSError) -> int:
    if e.errno == errno.EPIPE or not e.filename:
        # The interpreter flushes stdout once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if e.errno == errno.EPIPE:
        return PIPE
    what = (e.strerror or str(e)).lower()
    where = f"cannot use {e.filename}: " if e.filename else "cannot write the output: "
    named = os.fspath(e.filename) if isinstance(e.filename, str | os.PathLike) else "."
    if e.errno == errno.ENOENT:
        named = os.path.dirname(named) or "."
        while not os.path.exists(named):
            named = os.path.dirname(named) or "."
    hint = "df -h ." if e.errno == errno.ENOSPC else f"ls -ld {quote(named)}"
    return _say(e, one_line(f"{where}{what}"), one_line(hint), FAULT)


def one_line(text: str) -> str:
    """Names may hold anything: neither a terminal nor a CI system obeys what stands in one."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _say(e: BaseException, message: str, hint: str, status: int) -> int:
    if Debug.wanted:
        to_stderr("".join(traceback.format_exception(e)))
    to_stderr(f"memtrace: {message}\n" + (f"  try: {hint}\n" if hint else ""))
    return status


def to_stderr(text: str) -> None:
    """Write to stderr. Whoever reads it may have gone: no command fails for that, nor changes its
    status.
    """
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        # The interpreter flushes it once more at exit: let that go nowhere.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
