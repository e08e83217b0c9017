# SPDX-License-Identifier: GPL-2.0-or-later
"""The forms of strace's lines that are no calls, and of calls that are not read.

All of strace.c's and syscall.c's own words: `--- SIGCHLD {...} ---`, `+++ exited with 0 +++`,
`strace: Process 12 attached`, `<... read resumed>`, the stacks of -k, the tables of -c.
"""

from __future__ import annotations

import re

from memtrace.collect.strace.calls import NAMES

NAME = re.compile(rb"([A-Za-z_][A-Za-z0-9_]*+|\?{3,4})\(")
RESUMED = re.compile(rb"<\.\.\. ([A-Za-z_?][A-Za-z0-9_?]*+) resumed>")
UNFINISHED = b" <unfinished ...>"
DETACHED = b" <detached ...>"
CANNOT_RESTART = b" <Cannot restart pid "
CHANGED = re.compile(rb" <pid changed to (\d{1,7}+) \.\.\.>\Z")

#: The arguments of a call that is not read and has not ended: no brackets outside strings, no
#: ` = `. A line that another one was glued to has more and is looked at closely.
QUIET_OPEN = rb'(?:[^"()=<\n]++|"(?:[^"\\\n]++|\\.)*+"|=(?! )|<(?!\.\.\. ))*+'
#: From behind `name(` to the end of the line, for a call that is not read.
QUIET = QUIET_OPEN + rb'\) *+= [-0-9?][^"()=\n]*+(?:\([^"()=\n]*+\)(?: <[0-9.]++>)?+)?+'
QUIET_REST = re.compile(QUIET)
QUIET_RESULT = re.compile(rb" *+= [-0-9?\"]")

SIGNAL = re.compile(rb"--- (stopped by )?([A-Z0-9_]++)(?: .*)? ---", re.DOTALL)
CHILD = re.compile(rb" \{si_signo=[^,]*+, si_code=(?:0x[123]\b|CLD_(?:EXITED|KILLED|DUMPED))")
END = re.compile(
    rb"\+\+\+ (?:exited with (\d{1,9})|killed by ([A-Z0-9_]++)(?: \(core dumped\))?"
    rb"|superseded by execve in pid (\d{1,7})) \+\+\+"
)

_MESSAGE = (
    rb"(?:Process (\d{1,7}+) (attached|detached|suspended|resumed)"
    rb"(?: \([^()]*+\)| with \d++ threads)?+"
    rb"|\[ Process PID=(\d{1,7}+) runs in (64 bit|32 bit|x32) mode\. \])"
)
#: strace's own messages begin with the name that it was called by, until 4.9 with nothing.
MESSAGE = re.compile(rb"(?:(?:[^\s()\"]*+/)?+strace: )?+" + _MESSAGE)
OTHER_MESSAGE = re.compile(rb"(?:[^\s()\"]*+/)?+strace: ")
#: The same at the end of a line that it has torn.
TORN_BY = re.compile(rb"(?:strace: )?" + _MESSAGE + rb"\Z")
#: Another thread's line in the middle of one.
INSIDE = re.compile(rb"\[pid ++\d{1,7}+\] (?=[a-z_]++[a-z0-9_]*+\(|<\.\.\. |\+\+\+ |--- )")
MODES = {b"64 bit": None, b"32 bit": "i386", b"x32": "x32"}

#: How a line goes on that was torn at a place where nobody knows who tore it.
CONTINUES = (b")", b",", b"]", b"}", b" => ", UNFINISHED, DETACHED, b" <pid changed to ")
STARTS = (b"+++ ", b"--- ", b"<... ", b"strace: ", b"[ Process PID=")

#: Stacks (-k) and dumps (-e write=...).
BELOW = (b" > ", b" | ")
TABLE = re.compile(rb"% time +seconds +|System call usage summary for ")
TABLE_ROW = re.compile(rb" *+\d++\.\d\d++ .*|-{3,}+[- ]*+")
COLOUR = re.compile(rb"\x1b\[[0-9;]*+[mK]")

INTEREST = {name.encode(): name for name in NAMES}
_CALL = (
    rb"(?:"
    + b"|".join(sorted(INTEREST))
    + rb"|syscall_0x[0-9a-f]++)\(|<\.\.\. [a-z0-9_]++ resumed>"
)
_HIDDEN = re.compile(_CALL)
#: Signs of a line that matters within one that cannot be read.
MATTERS = re.compile(_CALL + rb"|\+\+\+ ")

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NUMBERED = re.compile(rb"syscall_0x[0-9a-f]{1,8}")
#: Calls that are not read whose names differ in one letter from one that is.
_ALIKE = {b"flock", b"lock", b"getgid", b"getpgid", b"getsid", b"getuid"}


def key(name: bytes) -> str | None:
    """The name of a call that is read, None of any other. `???(`: strace could not see which call
    it was, because its thread was killed on entry: the kernel does not run it then
    (ptrace_report_syscall_entry).
    """
    known = INTEREST.get(name)
    if known is None and name.startswith(b"syscall_0x") and _NUMBERED.fullmatch(name):
        return name.decode()
    return known


def hides(text: bytes, start: int, end: int) -> bool:
    """Whether the arguments of a call that is not read hold signs of another one that is."""
    return _HIDDEN.search(_STRING.sub(b"", text[start:end])) is not None


def damaged(name: bytes) -> bool:
    """Whether a name that is not read may be one that is, with one letter wrong, lost or more: a
    damaged line, or a call newer than this table.
    """
    if name in _ALIKE or name in INTEREST:
        return False
    return any(_differ_in_one(name, known) for known in INTEREST)


def _differ_in_one(a: bytes, b: bytes) -> bool:
    if len(a) == len(b):
        return sum(x != y for x, y in zip(a, b, strict=True)) == 1
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) != 1:
        return False
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    return a[same:] == b[same + 1 :]
