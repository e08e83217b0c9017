# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting a program under the tracer: fork, handshake, SEIZE, filter, exec.

The order matters. The child waits on a pipe until it has been seized, because a filter without
PTRACE_O_TRACESECCOMP makes its own memory calls fail with ENOSYS; an exec error comes back on a
second, close-on-exec pipe. Whatever the child does before its exec is Python's, not the program's.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import struct
from collections.abc import Callable, Sequence

from memtrace.collect import access, procfs, ptrace
from memtrace.collect.seccomp import Filter
from memtrace.trace.errors import NotExecutableError, NotFoundError, TargetError

_ERROR = struct.Struct("=ci")


def resolve(program: str, path: str | None = None) -> str:
    """The file that execvp would run.

    Raises:
        NotFoundError: no such file, or none of that name in PATH.
        NotExecutableError: it is there and cannot be executed.
    """
    if not program:
        raise NotFoundError(
            "cannot run '': no program is named", hint="memtrace run -- PROG ARGS..."
        )
    if "/" in program:
        candidates = [program]
    else:
        search = path if path is not None else os.environ.get("PATH", os.defpath)
        candidates = [os.path.join(d or ".", program) for d in search.split(os.pathsep)]
    denied = ""
    for candidate in candidates:
        if os.path.isdir(candidate):
            denied = denied or (candidate if "/" in program else "")
        elif os.access(candidate, os.X_OK):
            return candidate
        elif os.path.exists(candidate):
            denied = denied or candidate
    if denied:
        raise not_executable(denied, errno.EACCES)
    where = "" if "/" in program else " in PATH"
    raise NotFoundError(
        f"cannot run {program}: no such file{where}",
        hint=f"{'command -v' if where else 'ls -l'} {shlex.quote(program)}",
    )


def not_executable(program: str, number: int) -> TargetError:
    """The error for an exec that failed with `number`."""
    name = shlex.quote(program)
    if os.path.isdir(program):
        return NotExecutableError(f"cannot run {program}: it is a directory", hint=f"ls {name}")
    if number == errno.ENOENT:
        # execve(2): also when the script's or the ELF file's interpreter is missing.
        return NotFoundError(
            f"cannot run {program}: its interpreter does not exist",
            hint=f"head -c 80 {name}",
        )
    if number == errno.ENOEXEC:
        return NotExecutableError(
            f"cannot run {program}: not a program of this machine (no #! line, not ELF)",
            hint=f"memtrace run -- sh {name}",
        )
    hint = f"chmod +x {name}" if number == errno.EACCES else f"ls -l {name}"
    return NotExecutableError(f"cannot run {program}: {os.strerror(number).lower()}", hint=hint)


class Launch:
    """A child that waits to be let into its program.

    `pid` is seized and waiting; `go` lets it exec; `error` tells, once it has exec'ed or ended, why
    it could not.

    Args:
        argv: the program's arguments, its name first.
        program: the file to execute.
        seccomp: let only the recorded calls stop it.
        no_sigchld: it is to ignore SIGCHLD, as the caller did.
        take: makes the waiting child a tracee, OSError if it may not be one; by default it is
            seized, and killed should the tracer die.

    Raises:
        TargetError: the kernel does not let us trace our own child.
    """

    def __init__(
        self,
        argv: Sequence[str],
        program: str,
        *,
        seccomp: bool,
        no_sigchld: bool = False,
        take: Callable[[int], None] | None = None,
    ) -> None:
        self.program = program
        env = environment()
        seccomp_filter = Filter() if seccomp else None
        ready, self._go = os.pipe()
        self._error, failed = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            if no_sigchld:
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            _child(argv, program, env, seccomp_filter, ready, failed, (self._go, self._error))
        os.close(ready)
        os.close(failed)
        try:
            if take is None:
                _seize(self.pid, seccomp=seccomp)
            else:
                take(self.pid)
        except OSError as e:
            # Before the child is killed: who traces it is among the facts.
            refusal = access.of_child(access.before(self.pid), e.errno or errno.EPERM)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise refusal from e

    def go(self) -> None:
        """Let the child exec."""
        os.write(self._go, b"x")
        os.close(self._go)

    def error(self) -> TargetError | None:
        """Why there was no exec, None when there was one. Call after the first exec event or the
        end.
        """
        data = os.read(self._error, _ERROR.size)
        os.close(self._error)
        if len(data) < _ERROR.size:
            return None
        what, number = _ERROR.unpack(data)
        if what == b"S":
            return TargetError(
                f"the kernel refused the seccomp filter: {os.strerror(number).lower()}",
                hint="memtrace run --no-seccomp -- PROG ARGS...",
            )
        return not_executable(self.program, number)


def _seize(pid: int, *, seccomp: bool) -> None:
    options = ptrace.FOLLOW | ptrace.O_EXITKILL | (ptrace.O_SECCOMP if seccomp else 0)
    ptrace.seize(pid, options)
    if not seccomp:
        ptrace.request(ptrace.INTERRUPT, pid, 0, 0)


def environment() -> dict[bytes, bytes]:
    """The environment as the user set it.

    In the C locale the interpreter sets LC_CTYPE for itself and whatever it starts (PEP 538), but
    its children shall not know that they were started by Python.
    """
    env = dict(os.environb)
    start = procfs.read("/proc/self/environ").split(b"\0")
    given = [pair.partition(b"=")[2] for pair in start if pair.startswith(b"LC_CTYPE=")]
    if env.get(b"LC_CTYPE") in {b"C.UTF-8", b"C.utf8", b"UTF-8"}:
        del env[b"LC_CTYPE"]
        if given:
            env[b"LC_CTYPE"] = given[0]
    return env


def _child(
    argv: Sequence[str], program: str, env: dict[bytes, bytes], seccomp_filter: Filter | None,
    ready: int, failed: int, not_ours: tuple[int, int],
) -> None:  # fmt: skip
    try:
        for fd in not_ours:
            os.close(fd)
        # Python ignores these two, and exec would hand that on: `yes | head -1` must end in 141.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        if not os.read(ready, 1):
            os._exit(126)
        if seccomp_filter is not None and (number := seccomp_filter.install()):
            os.write(failed, _ERROR.pack(b"S", number))
            os._exit(126)
        os.execve(program, list(argv), env)  # noqa: S606
    except OSError as e:
        os.write(failed, _ERROR.pack(b"X", e.errno or 0))
    finally:
        os._exit(127)
