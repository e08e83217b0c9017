# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way memtrace can fail, and what to do about it.

    MemtraceError             message (the cause), hint (the line to type), exit_code
    +-- UsageError        2   the command line asks for something that cannot be
    +-- TraceFormatError  3   a trace file that cannot be read
    +-- TargetError     125   the kernel or the target refused
        +-- NotExecutableError  126
        +-- NotFoundError       127

The error carries its own wording; the command line only prints it.
"""

from __future__ import annotations


class MemtraceError(Exception):
    """A failure a person can act on.

    Args:
        message: one sentence with the cause.
        hint: one line with the remedy, ideally a command to paste.
    """

    exit_code = 125

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MemtraceError):
    """The request itself makes no sense; nothing was started or read."""

    exit_code = 2


class TraceFormatError(MemtraceError):
    """A file that is not a readable trace."""

    exit_code = 3


class TargetError(MemtraceError):
    """The target process or the kernel refused to be traced."""

    exit_code = 125


class NotExecutableError(TargetError):
    """The program exists but cannot be executed."""

    exit_code = 126


class NotFoundError(TargetError):
    """The program does not exist."""

    exit_code = 127
