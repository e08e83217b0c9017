# SPDX-License-Identifier: GPL-2.0-or-later
"""What a call says: from its name, its arguments as texts and its result to one event.

A pointer whose target strace prints instead of the address (the name of prctl(PR_SET_VMA), the
vector of process_madvise, io_setup's context) is 0 in `Called.args`: the log does not hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from memtrace.collect.abi import ARCH_MAP_VDSO, CALLS, I386, X86_64
from memtrace.collect.strace import flags as f
from memtrace.collect.strace.arguments import (
    AT_FDCWD,
    descriptor,
    fields,
    path,
    string,
    strings,
    value_of,
)
from memtrace.collect.strace.events import (
    Called,
    Closed,
    Duplicated,
    Entered,
    Event,
    Execed,
    Forked,
    Named,
    Opened,
)
from memtrace.collect.strace.flags import UnclearError, number, value
from memtrace.collect.strace.line import Result

_EBADF = 9
_IPC = "strace printed ipc's raw arguments: where shmat attached is not in them"
_PAGE = 4096
_X32_BIT = 0x40000000


class Begun(NamedTuple):
    """The beginning of a call, and its arguments as far as they were printed: `text`; `args` and
    the descriptor's `path` where they have been read already.
    """

    line: int
    tid: int
    t0: int | None
    ip: int | None
    name: str
    text: bytes
    args: list[int] | None = None
    path: str | None = None


class Ending(NamedTuple):
    """Where, when and how it ended. `abi`: the mode that its thread runs in, None for native."""

    line: int
    tid: int
    time: int | None
    result: Result
    abi: str | None


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
            read = _arguments(name, args, abi)
            if read is None:
                return None
            name, values = read.call, read.args
        else:
            return None
    except UnclearError:
        if _decoder(name) is _memory and name not in _READERS:
            return None  # one of many options or numbers: nobody knows whether it is recorded
        values = None
    return Entered(begun.line, begun.tid, begun.t0, name, values)


def t1(begun: Begun, end: Ending) -> int | None:
    """When it ended: by -T, else by the time of the line that resumed it."""
    if end.result.took is not None:
        return None if begun.t0 is None else begun.t0 + end.result.took
    return end.time if end.line != begun.line else None


# ---- memory calls ----


class _Read(NamedTuple):
    call: str
    args: list[int]
    path: str | None = None
    raw: str | None = None
    name: str | None = None
    address: int | None = None
    abi: str | None = None


Reader = Callable[[bytes], int]


def _names(table: f.Table, what: str) -> Reader:
    """A reader of flags that keeps what it has read: a log has few combinations."""
    known: dict[bytes, int] = {}

    def read(text: bytes) -> int:
        found = known.get(text)
        if found is None:
            found = value(text, table, what)
            if len(known) < 4096:
                known[text] = found
        return found

    return read


PROT = _names(f.PROT, "a protection")
MAP = _names(f.MAP, "a flag of mmap")
MREMAP = _names(f.MREMAP, "a flag of mremap")
MADV = _names(f.MADV, "an advice")


def _fd(text: bytes) -> int:
    return descriptor(text)[0]


def _pointer(text: bytes) -> int:
    """A pointer, or 0 for what it points to (see above)."""
    return 0 if text[:1] in {b"[", b'"', b"{"} else number(text, "an address")


_READERS: dict[str, tuple[Reader, ...]] = {
    "brk": (number,),
    "mmap": (number, number, PROT, MAP, _fd, number),
    "munmap": (number, number),
    "mremap": (number, number, number, MREMAP, number),
    "mprotect": (number, number, PROT),
    "madvise": (number, number, MADV),
    "pkey_mprotect": (number, number, PROT, number),
    "mlock": (number, number),
    "munlock": (number, number),
    "mlock2": (number, number, _names(f.MLOCK, "a flag of mlock2")),
    "mlockall": (_names(f.MCL, "a flag of mlockall"),),
    "munlockall": (),
    "shmat": (number, number, _names(f.SHM, "a flag of shmat")),
    "shmdt": (number,),
    "remap_file_pages": (number, number, PROT, number, MAP),
    "mseal": (number, number, number),
    "map_shadow_stack": (number, number, _names(f.SHADOW_STACK, "a flag of map_shadow_stack")),
    "io_setup": (number, _pointer),
    "io_destroy": (number,),
    "process_madvise": (_fd, _pointer, number, MADV, number),
}


def _memory(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    read = _arguments(begun.name, args, end.abi)
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


def _arguments(name: str, args: list[bytes], abi: str | None) -> _Read | None:
    raw = None
    if name.startswith("syscall_0x"):
        name, abi = _by_number(name, abi)
        if name not in _READERS:
            if name in _DECODERS:
                raise UnclearError(f"strace did not know {name} and has not decoded it")
            return None
        args = args[: CALLS[name]]
    if name == "prctl":
        return _prctl(args, abi)
    if name == "arch_prctl":
        return _arch_prctl(args, abi)
    if name == "ipc":
        if args and number(args[0]) & 0xFFFF in {21, 22}:
            raise UnclearError(
                "strace printed ipc's raw arguments: where shmat attached is not in them"
            )
        return None
    if name in {"mmap2", "old_mmap"}:
        name, raw, abi = "mmap", name, "i386"
    elif name == "mmap" and abi == "i386":
        raw = "old_mmap"
    elif name == "shmat" and len(args) == 4:
        raise UnclearError(
            "strace printed ipc's raw arguments: where shmat attached is not in them"
        )
    readers = _READERS[name]
    if name == "mmap" and len(args) == 1:  # old_mmap with -e raw
        raise UnclearError("strace printed only the address of its arguments")
    if len(args) != len(readers) and not (name == "mremap" and len(args) == 4):
        raise UnclearError(f"{name} has {len(readers)} arguments, not {len(args)}")
    values = [read(text) for read, text in zip(readers, args, strict=False)]
    where = address = None
    if name == "mmap":
        if len(args[4]) > 2:
            where = descriptor(args[4])[1]
        # strace prints mmap2's pages as bytes, unless it prints the registers as they are (-e raw):
        # then the length is not decimal.
        if raw == "mmap2" and args[1].startswith(b"0x"):
            values[5] *= _PAGE
    elif name == "mremap" and len(values) == 4:
        values.append(0)  # not printed where the kernel does not read it
    elif name == "io_setup" and args[1].startswith(b"["):
        address = number(args[1][1:-1], "a context")
    return _Read(name, values, where, raw, None, address, abi)


def _by_number(name: str, abi: str | None) -> tuple[str, str | None]:
    nr = int(name[10:], 16)
    if abi is None and nr & _X32_BIT:
        abi = "x32"
    table = I386 if abi == "i386" else X86_64
    return table.names.get(nr & ~_X32_BIT, ""), abi


def _option(text: bytes, table: f.Table, prefix: bytes) -> int:
    text = f.without_comments(text)
    if text in table:
        return table[text]
    return f.OTHER if text.startswith(prefix) else number(text, "an option")


def _prctl(args: list[bytes], abi: str | None) -> _Read | None:
    if not args:
        raise UnclearError("prctl has an option")
    option = _option(args[0], f.PRCTL, b"PR_") & 0xFFFFFFFF
    if option not in f.PRCTL.values():
        return None
    if len(args) != 5:
        raise UnclearError(f"prctl has 5 arguments, not {len(args)}")
    table = {35: f.PR_MM, 0x53564D41: f.PR_VMA}.get(option, f.NONE)
    values = [option, value(args[1], table, "an option of prctl")]
    values += [number(text) for text in args[2:4]]
    values.append(_pointer(args[4]))
    name = string(args[4]) if args[4].startswith(b'"') else None
    return _Read("prctl", values, None, None, name, None, abi)


def _arch_prctl(args: list[bytes], abi: str | None) -> _Read | None:
    if not args:
        raise UnclearError("arch_prctl has an option")
    option = _option(args[0], f.ARCH, b"ARCH_")
    if option not in ARCH_MAP_VDSO:
        return None
    if len(args) != 2:
        raise UnclearError(f"arch_prctl has 2 arguments, not {len(args)}")
    return _Read("arch_prctl", [option, number(args[1])], abi=abi)


# ---- processes ----


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
    if begun.name == "execveat":
        args = args[1:]
    if len(args) < 3:
        raise UnclearError(f"{begun.name}'s arguments are not all there")
    program, argv, env = args[:3]
    variables = strings(env)
    if variables is not None and any(v.endswith("...") or v[:1] == "/" for v in variables):
        variables = None  # cut off by -s, or only counted
    return Execed(
        end.line, begun.line, end.tid, begun.t0, t1(begun, end),
        _path(program), strings(argv), variables, end.result.ret,
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


# ---- file descriptors ----


def _path(text: bytes) -> str:
    """A path argument; "" where strace prints its address."""
    if text.startswith(b'"'):
        return string(text)
    number(f.without_comments(text), "a path")
    return ""


def _has(text: bytes, name: bytes, bit: int) -> bool:
    """Whether a flag is set; what the other flags are does not matter."""
    for piece in f.without_comments(text).split(b"|"):
        if piece == name or (piece[:1].isdigit() and number(piece) & bit):
            return True
    return False


def _open(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    name, fd = begun.name, end.result.ret
    if fd is None or fd < 0:
        return None
    at = AT_FDCWD
    below = None
    if name in {"openat", "openat2"} and args:
        at, below = descriptor(args[0])
        args = args[1:]
    if len(args) < 2:
        raise UnclearError(f"{name}'s arguments are not all there")
    where = _path(args[0])
    if name == "memfd_create" and where:
        where = f"/memfd:{where} (deleted)"  # as the kernel names it in maps
    if name == "creat":
        cloexec = False
    elif name == "memfd_create":
        cloexec = _has(args[1], b"MFD_CLOEXEC", f.MFD_CLOEXEC)
    else:
        how = args[1]
        if name == "openat2" and how.startswith(b"{"):
            how = fields(how).get(b"flags", b"")
        cloexec = name != "openat2" or how != args[1]
        cloexec = cloexec and _has(how, b"O_CLOEXEC", f.O_CLOEXEC)
    out = Opened(end.line, end.tid, fd, where, cloexec)
    if end.result.angle is not None:  # -y knows better
        out.path = path(end.result.angle, deleted=end.result.deleted)
    elif not where.startswith("/") and where:
        if below is not None:
            out.path = f"{below}/{where}"
        elif at != AT_FDCWD:
            out.at = at
    return out


def _dup(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    name, ret = begun.name, end.result.ret
    if ret is None or ret < 0:
        return None
    if not args:
        raise UnclearError(f"{name}'s arguments are not all there")
    old = descriptor(args[0])[0]
    cloexec = False
    if name == "dup3":
        cloexec = len(args) == 3 and _has(args[2], b"O_CLOEXEC", f.O_CLOEXEC)
    elif name in {"fcntl", "fcntl64"}:
        command = _option(args[1] if len(args) > 1 else b"", f.FCNTL, b"F_")
        if command == f.FCNTL[b"F_SETFD"]:  # the same file under the same number
            ret = old
            cloexec = len(args) > 2 and _has(args[2], b"FD_CLOEXEC", f.FD_CLOEXEC)
        elif command in f.FCNTL.values():
            cloexec = command != f.FCNTL[b"F_DUPFD"]
        else:
            return None
    return Duplicated(end.line, end.tid, old, ret, cloexec)


def _close(begun: Begun, args: list[bytes], end: Ending) -> Event | None:
    ret = end.result.ret
    if ret is None:
        return None
    if begun.name == "close":
        # close(2): the descriptor is released whatever error it reports, but for a bad number.
        if ret == -_EBADF:
            return None
        first = descriptor(args[0] if args else b"")[0]
        return Closed(end.line, end.tid, first, first)
    if ret < 0:
        return None
    if len(args) != 3:
        raise UnclearError(f"close_range has 3 arguments, not {len(args)}")
    if (
        value(args[2], f.CLOSE_RANGE, "a flag of close_range")
        & f.CLOSE_RANGE[b"CLOSE_RANGE_CLOEXEC"]
    ):
        return None
    return Closed(end.line, end.tid, number(args[0]), number(args[1]))


Decoder = Callable[[Begun, list[bytes], Ending], Event | None]
_GROUPS: tuple[tuple[tuple[str, ...], Decoder], ...] = (
    ((*_READERS, "mmap2", "old_mmap", "ipc", "prctl", "arch_prctl"), _memory),
    (("fork", "vfork", "clone", "clone3"), _fork),
    (("execve", "execveat"), _exec),
    (("exit", "exit_group"), _exit),
    (("open", "openat", "openat2", "creat", "memfd_create"), _open),
    (("dup", "dup2", "dup3", "fcntl", "fcntl64"), _dup),
    (("close", "close_range"), _close),
    (("gettid", "set_tid_address", "getpid", "getppid"), _own),
)
_DECODERS = {name: decoder for names, decoder in _GROUPS for name in names}
#: Every name whose calls are read. Beside them: `syscall_0x...`, a number without a name.
NAMES = frozenset(_DECODERS)


def exact(name: str) -> bool:
    """Whether the number of a call's error matters, not only that it failed."""
    return _decoder(name) in {_memory, _fork, _exec}


def _decoder(name: str) -> Decoder:
    return _DECODERS.get(name, _memory)
