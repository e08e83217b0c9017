# SPDX-License-Identifier: GPL-2.0-or-later
"""What surrounds a call on its line: who and when before it, the result behind it.

strace's printleader() writes, each part only with its option: `[pid  N] ` or `N    ` (with -Y
`N<comm> `), a security context (--secontext), the time of day or since the epoch (-t, -tt, -ttt),
the time since the line before (-r), `[   9] ` (-n) and `[00007f...] ` (-i).
"""

from __future__ import annotations

import re
from typing import NamedTuple, cast

from memtrace.collect.strace.arguments import ANGLE
from memtrace.collect.strace.flags import ERRORS, UnclearError

#: PID_MAX_LIMIT is 4194304: a longer number is a time (-ttt) without its fraction.
_LEADER = re.compile(
    rb"(?:\[pid ++(\d{1,7}+)(?:<(?:[^<>\\]++|\\.)*+>)?+\] ++"
    rb"|(\d{1,7}+)(?:<(?:[^<>\\]++|\\.)*+>)?+ ++)?+"
    rb"(?:\[[A-Za-z0-9]*+[_:][^\[\] ]*+\] )?+"
    rb"(?:(?:(\d\d):(\d\d):(\d\d)|(\d{8,11}+))(?:\.(\d{9}|\d{6}|\d{3}))?+ )?+"
    rb"(?:(?:\(\+)?+ *+(\d{1,10}+)(?:\.(\d{9}|\d{6}|\d{3}))?+\)?+ )?+"
    rb"(?:\[(?: *+\d{1,4}+|\?\?\?)\] )?+"
    rb"(?:\[(?:([0-9a-f]{8,16}+)|\?++)\] )?+"
)

_RESULT = re.compile(
    rb" *+= (?:\?|(-?[0-9]{1,20}+|0x[0-9a-f]{1,16}+))(" + ANGLE + rb")?+(\(deleted\))?+"
    rb"(?:\[[^\[\]]*+\])?+"
    rb"(?: /\* ([0-9]++) in strace's PID NS \*/)?+"
    rb"(?: (?:(E[A-Z0-9_]++)|\(errno ([0-9]{1,4}+)\)|(<unavailable>))(?![^ ]))?+"
    rb"((?: (?:\((?:[^()]++|\([^()]*+\))*+\)|/\*(?:[^*]++|\*(?!/))*+\*/))*+)"
    rb"(?: <([0-9]{1,9}+)(?:\.(\d{9}|\d{6}|\d{3}))?+>)?+ *+",
    re.DOTALL,
)
SCALE = {0: 1_000_000_000, 3: 1_000_000, 6: 1000, 9: 1}


def leader(line: bytes) -> re.Match[bytes]:
    """What printleader() wrote; it matches always, as every part of it is optional.

    Groups: pid in brackets, bare pid; hours, minutes, seconds, seconds since the epoch, their
    fraction; relative seconds, their fraction; instruction pointer.
    """
    return cast("re.Match[bytes]", _LEADER.match(line))


class Result(NamedTuple):
    """What stands behind `=`. `ret`: signed, -errno; None for `?`. `pid`: what strace says in its
    own PID namespace of a pid that was returned. `angle`: what -y or -Y put behind the number.
    `took`: ns (-T).
    """

    ret: int | None
    angle: bytes | None
    pid: int | None
    injected: bool
    deleted: bool
    took: int | None


def result(text: bytes, at: int, *, exact: bool = True) -> Result:
    """Read a result, from behind the closing bracket to the end of the line. If it need not be
    `exact`, an error that is newer than this table is -1.

    Errors: UnclearError.
    """
    found = _RESULT.fullmatch(text, at)
    if found is None:
        raise UnclearError("its result cannot be read")
    shown, angle, deleted, pid, name, errno, unavailable, notes, whole, part = found.groups()
    took = None
    if whole is not None:
        took = nanoseconds(whole, part)
    ret: int | None
    if name is not None:
        if name not in ERRORS and exact:
            raise UnclearError(f"the error {name[:30].decode()} has no known number")
        ret = -ERRORS.get(name, 1)
    elif errno is not None:
        ret = -int(errno)
    elif shown is None or unavailable is not None:
        ret = None
    else:
        ret = int(shown, 16) if shown[:2] == b"0x" else int(shown)
        if ret >> 63 and ret > 0:
            ret -= 1 << 64
    if (name is not None or errno is not None) and shown is not None and not shown.startswith(b"-"):
        raise UnclearError("an error follows a result that is none")
    return Result(
        ret,
        angle,
        None if pid is None else int(pid),
        b"(INJECTED)" in notes or b"retval)" in notes,
        deleted is not None,
        took,
    )


def nanoseconds(whole: bytes, part: bytes | None) -> int:
    """Seconds and their fraction of 3, 6 or 9 digits, in ns."""
    seconds = int(whole) * 1_000_000_000
    return seconds if part is None else seconds + int(part) * SCALE[len(part)]
