# SPDX-License-Identifier: GPL-2.0-or-later
"""What a line of strace's output says, as values: the parser's result, and nothing of what it means
for an address space.

Common fields. `line`: the number (from 1) of the line on which it ended; `since`: the line that it
began on, another one where strace cut the call into `<unfinished ...>` and `<... resumed>`. `tid`:
the number before the line, 0 where the log names none (a single process without `-o`, or a log
without `-f`). `t0`, `t1`: ns of the log's own clock at entry and at exit, None where it says none;
`t1` is `t0` and the time of `-T`, or the time of the line that resumed the call. Integers are as
the kernel got them, signed 64-bit or unsigned: take them modulo 2^64.
"""

from __future__ import annotations

import msgspec


class Called(msgspec.Struct, gc=False):
    """A memory call that has ended: one of `abi.CALLS` in Role.MEMORY, under its canonical name.

    `ret`: the kernel's signed return, -errno for an error; None when it never returned (`= ?`).
    `path`: what `-y` says of the file descriptor. `abi`: i386 or x32 when not the native one.
    `raw`: the name that the program used, where it is not `call` (mmap2, old_mmap, ipc). `name`:
    the string of prctl(PR_SET_VMA_ANON_NAME). `address`: io_setup's context, which is the address
    of its ring.
    `ip`: the instruction pointer of `-i`.
    """

    line: int
    since: int
    tid: int
    t0: int | None
    t1: int | None
    call: str
    args: list[int]
    ret: int | None
    path: str | None = None
    abi: str | None = None
    raw: str | None = None
    name: str | None = None
    address: int | None = None
    ip: int | None = None


class Entered(msgspec.Struct, gc=False):
    """A call is in flight: its line was cut (`<unfinished ...>`), or ends here.

    `args`: as far as strace prints them at the entry, None where they cannot be read from that. Of
    every recorded call, exec, fork, vfork, clone, clone3, exit and exit_group; of no others.
    """

    line: int
    tid: int
    t0: int | None
    call: str
    args: list[int] | None


class Forked(msgspec.Struct, gc=False):
    """fork, vfork, clone or clone3 has ended. `child`: None if it failed or never returned;
    `flags`: CLONE_*, without the signal, 0 for fork, CLONE_VM | CLONE_VFORK for vfork; `stack`:
    where the child's stack pointer starts, if it is said; `ret`: the kernel's signed return, None
    when it never returned.
    """

    line: int
    since: int
    tid: int
    t0: int | None
    t1: int | None
    call: str
    child: int | None
    flags: int
    stack: int | None = None
    ret: int | None = None


class Execed(msgspec.Struct, gc=False):
    """execve or execveat has ended. `ret`: 0 when it succeeded, None when it never returned.
    `argv`: as far as it is printed (`...` where strace has cut it off, `None` when it is no
    array); `env`: the variables, None unless they were printed (`-v`) in full.
    """

    line: int
    since: int
    tid: int
    t0: int | None
    t1: int | None
    path: str
    argv: list[str] | None
    env: list[str] | None
    ret: int | None


class Opened(msgspec.Struct, gc=False):
    """A file descriptor now stands for `path`: what `-y` says of the result, else as the call names
    it. `at`: the descriptor of the directory that a relative one starts from, None for the current
    one. "" where strace printed only an address.
    """

    line: int
    tid: int
    fd: int
    path: str
    cloexec: bool
    at: int | None = None


class Duplicated(msgspec.Struct, gc=False):
    """dup, dup2, dup3 or fcntl(F_DUPFD): `new` now stands for what `old` does."""

    line: int
    tid: int
    old: int
    new: int
    cloexec: bool


class Closed(msgspec.Struct, gc=False):
    """File descriptors `first` to `last`, both included, were closed."""

    line: int
    tid: int
    first: int
    last: int


class Named(msgspec.Struct, gc=False):
    """A call that answered with the caller's own number: `own` by gettid or set_tid_address, `pid`
    by getpid (its process), `ppid` by getppid; None for those that are not said.
    """

    line: int
    tid: int
    own: int | None = None
    pid: int | None = None
    ppid: int | None = None


class Listened(msgspec.Struct, gc=False):
    """seccomp(2) has given the caller a filter with a listener (NEW_LISTENER): under strace's own
    filter (--seccomp-bpf) what the listener lets go on is not told (`filters`).
    """

    line: int
    tid: int


class Signalled(msgspec.Struct, gc=False):
    """`--- SIGCHLD {...} ---`, `--- stopped by SIGSTOP ---`: `stopped` tells which. `child`: a
    child has ended (CLD_EXITED, CLD_KILLED, CLD_DUMPED).
    """

    line: int
    tid: int
    t: int | None
    signal: str
    stopped: bool
    child: bool = False


class Ended(msgspec.Struct, gc=False):
    """`+++ exited with 0 +++` or `+++ killed by SIGKILL +++`; `signal` is its number."""

    line: int
    tid: int
    t: int | None
    code: int | None
    signal: int | None


class Superseded(msgspec.Struct, gc=False):
    """`+++ superseded by execve in pid N +++`: the thread `by` has become the process `tid`, or the
    note `<pid changed to N ...>` said the same.
    """

    line: int
    tid: int
    t: int | None
    by: int


class Attached(msgspec.Struct, gc=False):
    """`strace: Process N attached`; `detached` when it says that instead."""

    line: int
    tid: int
    detached: bool = False


class Mode(msgspec.Struct, gc=False):
    """`[ Process PID=N runs in 32 bit mode. ]`: from here on calls are of `abi`; None: native."""

    line: int
    tid: int
    abi: str | None


class Unreadable(msgspec.Struct, gc=False):
    """A line that is not strace's, or is damaged. `text`: its first 200 bytes. `lost`: it may have
    held a call that matters; False for one that certainly did not.
    """

    line: int
    text: bytes
    why: str
    lost: bool = True


Event = (
    Called | Entered | Forked | Execed | Opened | Duplicated | Closed | Named | Listened | Signalled
    | Ended | Superseded | Attached | Mode | Unreadable
)  # fmt: skip
