# SPDX-License-Identifier: GPL-2.0-or-later
"""What `memtrace doctor` tells: can this machine trace, can this process be traced, and if not,
what to do about it. Nothing here touches the process.

`examine` and `look_at` gather; the rest is made of what they found.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from memtrace.collect import access, facts, procfs, ptrace, trial
from memtrace.collect.facts import CAP_SYS_ADMIN, CAP_SYS_PTRACE, Caller, Facts, Host
from memtrace.collect.procfs import MapsQuery
from memtrace.collect.trial import Trial
from memtrace.trace.errors import TargetError
from memtrace.trace.sizes import format_size

#: The calls of `ptrace.EINTR_CALLS` that fail with EINTR whatever the file or its options are.
_BROKEN_OFF = {
    65: "semop", 128: "rt_sigtimedwait", 208: "io_getevents", 220: "semtimedop", 232: "epoll_wait",
    281: "epoll_pwait", 333: "io_pgetevents", 426: "io_uring_enter", 441: "epoll_pwait2",
}  # fmt: skip

_PF_IO_WORKER = 0x10

LATER_ENGINES = ("bpf", "perf", "poll")

Answer = Literal["ok", "no", "unknown", "note"]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. `remedy` belongs to "no" and to some others."""

    name: str
    answer: Answer
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of this machine and of us. `pipe_bytes` is the largest pipe we may have;
    `strace` its version line, "" when there is none."""

    host: Host = field(default_factory=Host)
    caller: Caller = field(default_factory=Caller)
    trial: Trial = field(default_factory=Trial)
    maps_query: bool = True
    kcmp: bool = True
    pipe_bytes: int = 1 << 20
    python: str = "3.11"
    strace: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A process, and what its threads are doing: `waits` counts those asleep in a system call that
    an attach breaks off, by its name; None when it may not be read."""

    facts: Facts
    waits: Mapping[str, int] | None = None
    elf32: bool = False


def examine() -> Machine:
    """Find out about this machine; makes the trial, in a process of its own."""
    return Machine(
        facts.host(), facts.caller(), trial.attempt(), MapsQuery().available,
        ptrace.same_mm(os.getpid(), os.getpid()) is True, _pipe_bytes(),
        platform.python_version(), _strace(),
    )  # fmt: skip


def look_at(pid: int) -> Target:
    """Find out about a process, or the one that has a thread of that id; reads only."""
    found = access.before(pid)
    if not found.exists or not found.access:
        return Target(found)
    elf32 = procfs.is_elf32(found.pid)
    waits: Counter[str] = Counter()
    if not elf32:  # its calls have other numbers
        for tid in procfs.tasks(found.pid):
            call = procfs.syscall_of(tid)
            if call in _BROKEN_OFF and not _worker(tid):
                waits[_BROKEN_OFF[call]] += 1
    return Target(found, waits, elf32)


def _worker(tid: int) -> bool:
    """Whether the thread is one of io_uring's own: it never returns to the program."""
    stat = procfs.stat_fields(tid)
    return len(stat) > 6 and bool(int(stat[6]) & _PF_IO_WORKER)


def _pipe_bytes() -> int:
    text = procfs.read("/proc/sys/fs/pipe-max-size").strip()
    return int(text) if text.isdigit() else 65536


def _strace() -> str:
    path = shutil.which("strace")
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, "-V"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return facts.clean(lines[0]) if lines else ""


# -- decisions ------------------------------------------------------------------------------------


def run_refusal(m: Machine) -> TargetError | None:
    """Why `memtrace run` cannot work here; None: it does."""
    wrong = next((r for r in (_kernel(m), *_trial(m)) if r.answer == "no"), None)
    return TargetError(wrong.text, hint=wrong.remedy) if wrong else None


def attach_refusal(m: Machine, t: Target) -> TargetError | None:
    """Why `memtrace attach` cannot work on the process; None: it does, or the facts do not tell."""
    return access.refusal(t.facts) or _general(m)


def attach_doubt(t: Target) -> access.Check | None:
    """What may be in the way of attaching but cannot be known before; None: nothing."""
    return next((c for c in access.checks(t.facts) if c.ok is None), None)


def _general(m: Machine) -> TargetError | None:
    """What is in the way of tracing anything, told by the trial. A tracer that has our children
    has not got the others.
    """
    return run_refusal(m) if m.trial.seize and not m.trial.tracer else None


# -- the machine ----------------------------------------------------------------------------------


def machine_rows(m: Machine) -> list[Row]:
    """What `run` needs of the machine."""
    return [_kernel(m), *_trial(m), _maps(m), _kcmp(m), _pipe(m), _python(m)]


def reach_rows(m: Machine) -> list[Row]:
    """Which processes `attach` may have."""
    return [_yama(m), _privilege(m)]


def engine_rows(m: Machine) -> list[Row]:
    """The engines: which there are."""
    refused = run_refusal(m)
    default = "the default of run and attach"
    reference = "run only, one thread of one process: a reference to check the others by"
    return [
        Row("ptrace", "no" if refused else "ok", default),
        _by_strace(m),
        Row("python-ptrace", "note", reference),
        *(Row(name, "note", "not in this version") for name in LATER_ENGINES),
    ]


def _by_strace(m: Machine) -> Row:
    if not m.strace:
        return Row("strace", "note", "run and attach; strace is not installed")
    return Row("strace", "note", f"run and attach, by {m.strace}")


def _kernel(m: Machine) -> Row:
    return _row(access.kernel(Facts(0, caller=m.caller, host=m.host)))


def _trial(m: Machine) -> list[Row]:
    t = m.trial
    if not t.ended:
        return [Row("ptrace", "no", "a trial on a child of our own did not end", "dmesg | tail")]
    if t.seize:
        child = Facts(0, tracer=t.tracer, tracer_name=t.tracer_name, caller=m.caller, host=m.host)
        error = access.of_child(child, t.seize)
        return [Row("ptrace", "no", error.message, error.hint)]
    rows = [Row("ptrace", "ok", "PTRACE_SEIZE works on a child")]
    if t.install or not t.filtered:
        text = "the seccomp filter does not stop a call"
        if t.install:
            text = f"the kernel refuses the seccomp filter: {os.strerror(t.install).lower()}"
        return [*rows, Row("seccomp filter", "no", text, "memtrace run --no-seccomp -- PROG")]
    privileged = m.caller.has(CAP_SYS_ADMIN)
    rows.append(Row("seccomp filter", "ok", "it stops the traced calls, the rest run at full speed"
                    + ("" if privileged else "; with no_new_privs")))  # fmt: skip
    if not t.told:
        text = "PTRACE_GET_SYSCALL_INFO does not tell what was called"
        return [*rows, Row("system calls", "no", text, "uname -a")]
    return [*rows, Row("system calls", "ok", "PTRACE_GET_SYSCALL_INFO tells of entry and exit")]


def _maps(m: Machine) -> Row:
    if m.maps_query:
        return Row("maps", "ok", "PROCMAP_QUERY")
    return Row("maps", "note", "no PROCMAP_QUERY (Linux 6.11): read as a whole, which takes longer")


def _kcmp(m: Machine) -> Row:
    if m.kcmp:
        return Row("kcmp", "ok", "tells which processes share their memory")
    text = "refused: a child of vfork in a threaded program may be taken for one of fork"
    return Row("kcmp", "note", text, access.container_remedy(Facts(0, host=m.host)))


def _pipe(m: Machine) -> Row:
    size = format_size(m.pipe_bytes)
    if m.pipe_bytes >= 1 << 20:
        return Row("pipe", "ok", f"up to {size}")
    text = f"only {size}: storms of calls may wait for the writer"
    return Row("pipe", "note", text, "sudo sysctl fs.pipe-max-size=1048576")


def _python(m: Machine) -> Row:
    return Row("Python", "ok", m.python)


def _yama(m: Machine) -> Row:
    scope = m.host.yama
    if not scope:
        return Row("Yama", "ok", "not in this kernel" if scope is None else "ptrace_scope is 0")
    check = access.yama(Facts(0, caller=m.caller, host=m.host), "memtrace attach PID")
    return Row("Yama", "ok" if check.ok else "no", check.meaning, check.remedy)


def _privilege(m: Machine) -> Row:
    name = "CAP_SYS_PTRACE"
    if m.caller.has(CAP_SYS_PTRACE):
        limit = "" if m.caller.initial_user_ns else " of this user namespace"
        return Row(name, "ok", f"held: processes of all users{limit}")
    return Row(name, "note", "not held: only processes of this user", _grant(m))


def _grant(m: Machine) -> str:
    return access.privileged(Facts(0, caller=m.caller, host=m.host), "memtrace attach PID")


# -- the process ----------------------------------------------------------------------------------


def target_rows(t: Target) -> list[Row]:
    """Whether the process may be traced, check by check; the kernel's is the machine's."""
    rows = [_row(c) for c in access.checks(t.facts)[1:]]
    if any(r.answer == "no" for r in rows):
        # One that is certain explains those that are not.
        return [Row(r.name, r.answer, r.text, r.remedy if r.answer == "no" else "") for r in rows]
    return rows


def fact_rows(t: Target) -> list[Row]:
    """What else matters of a process that exists."""
    f = t.facts
    if not f.exists or f.hidden or f.kernel_thread or not f.alive:
        return []
    rows = [Row("note", "note", text) for text in access.notes(f)]
    rows.append(_threads(f))
    if f.uninterruptible:
        some = ", ".join(map(str, f.uninterruptible[:3]))
        more = len(f.uninterruptible) - 3
        some += f" and {more} more" if more > 0 else ""
        text = f"thread {some} in uninterruptible sleep: it comes under control when that ends"
        rows.append(Row("waiting", "note", text))
    if t.waits:
        some = ", ".join(f"{n:,} in {name}" for name, n in sorted(t.waits.items()))
        text = f"{some}: an attach breaks these calls off and puts them back (signal(7), EINTR)"
        rows.append(Row("asleep", "note", text))
    if t.elf32:
        rows.append(Row("abi", "note", "a 32-bit (i386) program"))
    if f.seccomp == 2:
        rows.append(Row("seccomp", "note", "it has a filter of its own, which attach leaves alone"))
    if len(f.ns_pids) > 1:
        text = f"in a container: it calls itself {f.ns_pids[-1]}, the trace {f.pid}"
        rows.append(Row("pid namespace", "note", text))
    return rows


def _threads(f: Facts) -> Row:
    return Row("threads", "note", f"{f.threads:,}" + (
        f", {f.threads - f.alive:,} of them ended" if f.alive < f.threads else ""
    ))  # fmt: skip


def decision(m: Machine, t: Target) -> tuple[Answer, str, str]:
    """The last word on a process: the answer, its sentence, its remedy."""
    attach = f"memtrace attach {t.facts.asked}"
    refused = attach_refusal(m, t)
    if refused is not None:
        return "no", f"{attach} would not work: {refused.message}", refused.hint
    doubt = attach_doubt(t)
    if doubt is not None:
        return "unknown", f"{attach} may not work: {doubt.meaning}", doubt.remedy
    return "ok", f"{attach} would work", ""


def machine_decision(m: Machine) -> tuple[Answer, str, str]:
    """The last word on the machine: whether `run` works, and what `attach` reaches."""
    refused = run_refusal(m)
    if refused is not None:
        return "no", f"memtrace run would not work: {refused.message}", refused.hint
    if m.caller.has(CAP_SYS_PTRACE) and (m.host.yama or 0) < 3:
        return "ok", "memtrace run works here, memtrace attach on every process", ""
    if m.host.yama:
        yama = _yama(m)
        return "ok", "memtrace run works here, memtrace attach does not", yama.remedy
    text = "memtrace run works here, memtrace attach on processes of this user"
    return "ok", text, _grant(m)


def _row(c: access.Check) -> Row:
    answer: Answer = "ok" if c.ok else "unknown" if c.ok is None else "no"
    return Row(c.name, answer, c.meaning, c.remedy)
