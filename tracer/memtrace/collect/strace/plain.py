# SPDX-License-Identifier: GPL-2.0-or-later
"""The short way for the lines that most of a log consists of: the five frequent memory calls,
openat and close, whole, with plain arguments, and whole calls that are not read.

The expressions accept nothing that the long way (reading.py) reads differently: whatever is not of
exactly this form goes there.
"""

from __future__ import annotations

import re

from memtrace.collect.strace.forms import QUIET, QUIET_OPEN
from memtrace.collect.strace.memory import MADV, MAP, PROT

_THREAD = rb"(?:\[pid ++(\d{1,7}+)\] |(\d{1,7}+) ++)"
_LEAD = (
    _THREAD + rb"?+"
    rb"(?:(\d{10}|\d\d:\d\d:\d\d)(?:\.(\d{6}))?+ )?+"
)
_NAME = rb"([a-z][a-z0-9_]*+)"
_ADDRESS = rb"(0x[0-9a-f]{1,16}+|NULL)"
_LENGTH = rb"([1-9][0-9]{0,18}+|0)"
_FLAGS = rb"([A-Za-z0-9_|]++)"
_ARGUMENTS = (
    _ADDRESS + rb"(?:, " + _LENGTH + rb"(?:, " + _FLAGS + rb"(?:, " + _FLAGS +
    rb"(?:, (-1|0|[1-9][0-9]{0,8}+)(?:<(/[^<>\"\\]*+)>)?+, (0x[0-9a-f]{1,16}+|0))?+)?+)?+)?+"
)  # fmt: skip
_RESULT = rb"\) *+= (0x[0-9a-f]{1,16}+|0)(?: <(\d{1,9}+)\.(\d{6})>)?+"

THREAD = re.compile(_THREAD)
#: A whole call. Groups: pid in brackets or bare; second, its fraction; name; address, length,
#: protection or advice, flags, descriptor, its path, offset; result; seconds that it took, their
#: fraction.
PLAIN = re.compile(_LEAD + _NAME + rb"\((?:" + _ARGUMENTS + _RESULT + rb"|" + QUIET + rb")")
#: The same up to ` <unfinished ...>`, without what follows the arguments.
BEGUN = re.compile(_LEAD + _NAME + rb"\((?:" + _ARGUMENTS + rb"|" + QUIET_OPEN + rb")")
#: Its end: the groups before the arguments and behind them.
RESUMED = re.compile(
    _LEAD + rb"<\.\.\. " + _NAME + rb" resumed>(?: ?" + _RESULT + rb"|" + QUIET + rb")"
)

#: From the arguments on. Groups: descriptor; path, flags, descriptor, its path.
FILE = re.compile(
    rb"(?:(0|[1-9][0-9]{0,8}+)(?:</[^<>\"\\]*+>)?+\) *+= 0"
    rb"|AT_FDCWD, \"(/[^\"\\]*+)\", ([A-Z_|]++)(?:, 0[0-7]*+)?+\) *+= "
    rb"(?:(0|[1-9][0-9]{0,8}+)(?:<(/[^<>\"\\]*+)>)?+|-1 ENOENT \([^()]++\)))"
    rb"(?: <\d{1,9}+\.\d{6}>)?+"
)
FILES = {b"openat", b"close"}
HOT: dict[bytes, str] = {
    name.encode(): name for name in ("brk", "munmap", "mprotect", "madvise", "mmap")
}


def arguments(
    name: bytes, address: bytes, length: bytes | None, first: bytes | None, second: bytes | None,
    fd: bytes | None, offset: bytes | None,
) -> list[int] | None:  # fmt: skip
    """The arguments of a plain line; None when it has not as many as the call.

    Errors: UnclearError.
    """
    at = 0 if address == b"NULL" else int(address, 16)
    if length is None:
        return [at] if name == b"brk" else None
    if first is None:
        return [at, int(length)] if name == b"munmap" else None
    if second is None:
        if name == b"mprotect":
            return [at, int(length), PROT(first)]
        return [at, int(length), MADV(first)] if name == b"madvise" else None
    if fd is None or offset is None or name != b"mmap":
        return None
    return [at, int(length), PROT(first), MAP(second), int(fd), int(offset, 16)]
