# SPDX-License-Identifier: GPL-2.0-or-later
"""What a call says: from its name, its arguments as texts and its result to one event."""

from __future__ import annotations

from collections.abc import Callable

from memtrace.collect.abi import FILTER_NEW_LISTENER
from memtrace.collect.strace import flags as f
from memtrace.collect.strace.arguments import descriptor, fields, strings, value_of
from memtrace.collect.strace.events import (
    Called,
    Entered,
    Event,
    Execed,
    Forked,
    Listened,
    Named,
)
from memtrace.collect.strace.files import closed, duplicated, has, opened, path_argument
from memtrace.collect.strace.flags import UnclearError, number, value
from memtrace.collect.strace.inflight import Begun, Ending
from memtrace.collect.strace.memory import READERS, arguments


def ended(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    """The event of a call that has ended; None for one that is not recorded (`prctl(PR_SET_NAME)`)
    or had no effect (a failed open).

    Errors: UnclearError.
    """
    if begun.name != "clone":  # names its arguments with and without -N
        args = [value_of(a) for a in args]
    return _decoder(begun.name)(begun, args, end)


def entered(begun: Begun, args: list[bytes], abi: str | None) -> Entered | None:
    """The event of a call in flight, from the arguments that strace has printed so far. Of clone
    and clone3 `args` are the flags, without the signal, and the child's stack pointer or 0.
    """
    name = begun.name
    values: list[int] | None
    try:
        if name != "clone":
            args = [value_of(a) for a in args]
        if name in {"exit", "exit_group"}:
            values = [number(a) for a in args] or None
        elif name in {"clone", "clone3"}:
            flags, stack = _CLONES[name](args)
            values = [flags, stack or 0]
        elif name in {"fork", "vfork"}:
            values = []
        elif name in {"execve", "execveat"}:
            values = None
        elif _decoder(name) is _memory:
            if name == "io_setup" and len(args) == 1:
                args = [*args, b"NULL"]
            read = arguments(name, args, abi)
            if read is None:
                return None
            name, values = read.call, read.args
        else:
            return None
    except UnclearError:
        if _decoder(name) is _memory and name not in READERS:
            return None  # one of many options or numbers: nobody knows whether it is recorded
        values = None
    return Entered(begun.line, begun.tid, begun.t0, name, values)


def t1(begun: Begun, end: Ending) -> int | None:
    """When it ended: by -T, else by the time of the line that resumed it."""
    if end.result.took is not None:
        return None if begun.t0 is None else begun.t0 + end.result.took
    return end.time


def _memory(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    read = arguments(begun.name, args, end.abi)
    if read is None:
        return None
    ret = end.result.ret
    if end.result.injected and (ret is None or ret >= 0 or read.call == "madvise"):
        raise UnclearError(
            "strace has made up its result (INJECTED): the kernel never ran it", lost=False
        )
    return Called(
        end.line, begun.line, end.tid, begun.t0, t1(begun, end), read.call, read.args, ret,
        read.path, read.abi, read.raw, read.name, read.address, begun.ip,
    )  # fmt: skip


def _clone(args: list[bytes]) -> tuple[int, int | None]:
    shown = dict(part for part in (a.partition(b"=")[::2] for a in args) if part[1])
    if b"flags" in shown:
        flags = value(shown[b"flags"], f.CLONE_OR_SIGNAL, "a flag of clone")
        stack = shown.get(b"child_stack", shown.get(b"stack"))
        if stack is None:
            raise UnclearError("clone's stack is not printed")
    elif len(args) == 5:
        flags, stack = number(args[0]), args[1]
    else:
        raise UnclearError("clone's flags are not printed")
    return flags & ~f.CSIGNAL, number(stack) or None


def _clone3(args: list[bytes]) -> tuple[int, int | None]:
    shown = fields(args[0] if args else b"")
    if b"flags" not in shown or b"stack" not in shown:
        raise UnclearError("clone3's flags are not printed")
    flags = value(shown[b"flags"], f.CLONE, "a flag of clone3")
    stack = number(shown[b"stack"])
    return flags, stack + number(shown.get(b"stack_size", b"0")) if stack else None


_CLONES = {"clone": _clone, "clone3": _clone3}
_SHARED = {"fork": 0, "vfork": f.CLONE[b"CLONE_VM"] | f.CLONE[b"CLONE_VFORK"]}


def _fork(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    ret = end.result.ret
    child = None
    if ret is not None and ret > 0:
        child = ret if end.result.pid is None else end.result.pid
    try:
        if begun.name in _SHARED:
            flags, stack = _SHARED[begun.name], None
        else:
            flags, stack = _CLONES[begun.name](args)
    except UnclearError as error:
        if ret is not None and ret <= 0:  # no child: it changed nothing, whatever it asked for
            error.lost = False
        raise
    return Forked(
        end.line,
        begun.line,
        end.tid,
        begun.t0,
        t1(begun, end),
        begun.name,
        child,
        flags,
        stack,
        ret,
    )


def _exec(begun: Begun, args: list[bytes], end: Ending) -> Event:
    below = None
    if begun.name == "execveat" and args:
        below = descriptor(args[0])[1]
        args = args[1:]
    if len(args) < 3:
        raise UnclearError(f"{begun.name}'s arguments are not all there")
    program, argv, env = args[:3]
    variables = strings(env)
    if variables is not None and any(v.endswith("...") or v[:1] == "/" for v in variables):
        variables = None  # cut off by -s, or only counted
    where = path_argument(program)
    if below is not None and program.startswith(b'"') and not where.startswith("/"):
        where = f"{below}/{where}" if where else below  # AT_EMPTY_PATH
    return Execed(
        end.line, begun.line, end.tid, begun.t0, t1(begun, end),
        where, strings(argv), variables, end.result.ret,
    )  # fmt: skip


def _exit(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    if begun.line != end.line:
        return None  # told when it was entered
    return entered(begun, args, end.abi)


def _own(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    ret = end.result.ret if end.result.pid is None else end.result.pid
    if ret is None or ret < 0 or (ret == 0 and begun.name != "getppid"):
        return None
    out = Named(end.line, end.tid)
    if begun.name == "getpid":
        out.pid = ret
    elif begun.name == "getppid":
        out.ppid = ret
    else:
        out.own = ret
    return out


def _seccomp(_begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    ret = end.result.ret
    if ret is None or ret < 0 or len(args) < 2:
        return None
    # Only the operation that installs a filter has flags.
    name = b"SECCOMP_FILTER_FLAG_NEW_LISTENER"
    return Listened(end.line, end.tid) if has(args[1], name, FILTER_NEW_LISTENER) else None


Decoder = Callable[[Begun, list[bytes], Ending], Event | None]
_GROUPS: tuple[tuple[tuple[str, ...], Decoder], ...] = (
    ((*READERS, "mmap2", "old_mmap", "ipc", "prctl", "arch_prctl"), _memory),
    (("fork", "vfork", "clone", "clone3"), _fork),
    (("execve", "execveat"), _exec),
    (("exit", "exit_group"), _exit),
    (("open", "openat", "openat2", "creat", "memfd_create"), opened),
    (("dup", "dup2", "dup3", "fcntl", "fcntl64"), duplicated),
    (("close", "close_range"), closed),
    (("gettid", "set_tid_address", "getpid", "getppid"), _own),
    (("seccomp",), _seccomp),
)
_DECODERS = {name: decoder for names, decoder in _GROUPS for name in names}
#: Every name whose calls are read. Beside them: `syscall_0x...`, a number without a name.
NAMES = frozenset(_DECODERS)


def exact(name: str) -> bool:
    """Whether the number of a call's error matters, not only that it failed."""
    return _decoder(name) in {_memory, _fork, _exec}


def _decoder(name: str) -> Decoder:
    return _DECODERS.get(name, _memory)
