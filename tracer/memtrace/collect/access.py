# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may trace whom: from facts to a decision, a sentence and a remedy.

The rules are the kernel's: `ptrace_attach`, `__ptrace_may_access`, `cap_ptrace_access_check`,
`yama_ptrace_access_check`. Each is one `Check`, in the order in which people should hear of them;
`refusal` is the first that says no. Pure, but for `before`, which gathers (`facts.py`).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from memtrace.collect.facts import CAP_SYS_PTRACE, CAPABILITIES, Facts, before
from memtrace.collect.machine import require_kernel
from memtrace.trace.errors import TargetError

__all__ = [
    "Check", "Facts", "before", "checks", "container_remedy", "kernel", "notes", "of_child",
    "privileged", "refusal", "who", "yama",
]  # fmt: skip

_RUN = "memtrace run -- PROG"


@dataclass(frozen=True, slots=True)
class Check:
    """One condition for tracing. `ok`: True, False, or None where the facts do not tell. `meaning`
    is a sentence's worth of cause; `remedy`, of what to type, is there unless `ok`."""

    name: str
    ok: bool | None
    meaning: str
    remedy: str = ""


def checks(facts: Facts) -> list[Check]:
    """Every condition for attaching to the process. Those that mean nothing because of an earlier
    one (there is no such process) are left out.
    """
    found = [kernel(facts), _exists(facts)]
    if found[-1].ok:
        found += [_apart(facts), _program(facts), _alive(facts)]
    if not all(c.ok for c in found):
        return found
    about = [_user(facts), _dumpable(facts), _capabilities(facts), _permitted(facts)]
    # What CAP_SYS_PTRACE cannot look into is outside of the user namespace where we have it.
    about.insert(0 if _capable(facts) is None else -1, _namespace(facts))
    # With scope 1 it is the last rule that matters, from 2 on the first.
    first = (facts.host.yama or 0) >= 2
    about.insert(0 if first else -1, yama(facts, f"memtrace attach {facts.pid}"))
    return [*found, _untraced(facts), *about]


def refusal(
    facts: Facts, error: int | None = None, *, earlier: Facts | None = None
) -> TargetError | None:
    """Why the process cannot be attached to; None: go on.

    Args:
        facts: gathered before SEIZE, or again after it has failed.
        error: the errno of a failed SEIZE. The result is then an error in any case.
        earlier: what was gathered before, if that is past: tells what has changed in between.
    """
    gone = None if earlier is None else _gone(earlier, facts)
    if gone:
        return _error(gone)
    found = checks(facts)
    wrong = next((c for c in found if c.ok is False), None)
    if wrong is None and error is not None:
        unsure = next((c for c in found if c.ok is None), None)
        wrong = (
            _unsupported(facts, error)
            or (error != errno.ESRCH and unsure)
            or _changed(facts, error, earlier)
            or _unexplained(facts, error, who(facts), f"memtrace doctor {facts.pid}")
        )
    return _error(wrong) if wrong else None


def of_child(facts: Facts, error: int) -> TargetError:
    """Why a child of our own, just forked, could not be seized.

    Args:
        facts: about the child.
        error: the errno of SEIZE.
    """
    if facts.tracer:
        # One that follows forks has the child before we do.
        name = facts.tracer_name or "a tracer"
        return TargetError(
            f"this shell is already under a tracer: {name} (pid {facts.tracer})",
            hint=f"{_RUN}, outside of {name}",
        )
    found = [kernel(facts), yama(facts, _RUN)]
    wrong = next((c for c in found if c.ok is False), None)
    wrong = wrong or _unsupported(facts, error)
    return _error(wrong or _unexplained(facts, error, "its own child", "memtrace doctor"))


def notes(facts: Facts) -> list[str]:
    """What is worth one line each before an attach that goes on."""
    found = []
    if facts.asked != facts.pid:
        found.append(f"{facts.asked} is a thread of {who(facts)}, which is attached to as a whole")
    if facts.state == "Z":
        others = "1 other thread is" if facts.alive == 1 else f"{facts.alive} other threads are"
        found.append(f"the first thread of {who(facts)} has ended: its {others} traced")
    elif facts.state == "T":
        found.append(f"{who(facts)} is stopped, and stays so until it gets SIGCONT")
    return found


# -- the checks -----------------------------------------------------------------------------------


def kernel(f: Facts) -> Check:
    """Whether this kernel can trace at all."""
    name = "kernel"
    if not f.host.proc:
        return Check(name, False, "there is no /proc here", "mount -t proc proc /proc")
    try:
        require_kernel(f.host.kernel, f.host.sandbox)
    except TargetError as e:
        return Check(name, False, e.message, e.hint)
    return Check(name, True, f"Linux {f.host.kernel}")


def _exists(f: Facts) -> Check:
    name = "process"
    if not f.exists:
        return Check(name, False, f"there is no process {f.asked}", "ps -e")
    if f.hidden:
        # hidepid=2 of proc(5); with 1 the folder is there and says nothing.
        meaning = f"/proc hides process {f.asked} from this user (hidepid)"
        return Check(name, False, meaning, privileged(f, f"memtrace attach {f.asked}"))
    return Check(name, True, f.name or "it exists")


def _apart(f: Facts) -> Check:
    name = "not our own"
    if f.pid == f.caller.pid:
        meaning = f"process {f.pid} is this memtrace itself"
        return Check(name, False, meaning, "memtrace run -- memtrace ...")
    if f.pid in f.caller.ancestors:
        # A tracee stops whenever its tracer does not answer. After ^Z the shell would wait for
        # memtrace to be continued, and memtrace for the shell to do it.
        meaning = f"{who(f)} started this memtrace: traced by it, each may wait for the other"
        hint = f"memtrace attach {f.pid}, in another terminal"
        if f.pid == 1:
            hint = "memtrace attach PID, of a process that this terminal does not come from"
        return Check(name, False, meaning, hint)
    return Check(name, True, "neither memtrace nor one that started it")


def _program(f: Facts) -> Check:
    name = "program"
    if f.kernel_thread:
        meaning = f"{who(f)} is a kernel thread: it has no memory of its own to trace"
        return Check(name, False, meaning, "ps -p 2 --ppid 2 --deselect")
    return Check(name, True, "no kernel thread")


def _alive(f: Facts) -> Check:
    name = "alive"
    if f.state not in ("Z", "X", "x"):
        return Check(name, True, "yes")
    if f.alive:
        return Check(name, True, "its first thread has ended, others live")
    meaning = f"{who(f)} has ended: its parent, process {f.parent}, has not collected it yet"
    return Check(name, False, meaning, _RUN)


def _untraced(f: Facts) -> Check:
    if f.tracer and f.tracer != f.caller.pid:
        name = f.tracer_name or "a tracer"
        meaning = f"{who(f)} is already traced by {name} (pid {f.tracer})"
        remedy = f"leave {name} (pid {f.tracer}), then: memtrace attach {f.pid}"
        return Check("no tracer", False, meaning, remedy)
    return Check("no tracer", True, "no other tracer")


def yama(f: Facts, command: str) -> Check:
    """Whether Yama's ptrace_scope permits it (Documentation/admin-guide/LSM/Yama.rst); `command` is
    what the remedy repeats with more privilege.
    """
    scope, name = f.host.yama, "Yama"
    if not scope:
        return Check(name, True, "not in this kernel" if scope is None else "ptrace_scope is 0")
    says = f"Yama's ptrace_scope is {scope}"
    if scope >= 3:
        files = "/etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d"
        remedy = f"grep -rs ptrace_scope {files}, and reboot without it"
        return Check(name, False, f"{says}: nothing can be traced until the next boot", remedy)
    if _allowed(f) or _capable(f) or (scope == 1 and f.descendant):
        return Check(name, True, says)
    lower = "sysctl kernel.yama.ptrace_scope=" + ("0" if scope == 1 else "1")
    if scope == 2:
        meaning = f"{says}: tracing takes CAP_SYS_PTRACE{_not_here(f)}"
        ok = None if _capable(f) is None else False
        return Check(name, ok, meaning, privileged(f, command, lower))
    # PR_SET_PTRACER may have let us in, which /proc does not show.
    ok = False if f.access is False and f.readable else None
    meaning = f"{says}: attaching to what memtrace has not started takes CAP_SYS_PTRACE"
    return Check(name, ok, meaning + _not_here(f), privileged(f, command, lower))


def _user(f: Facts) -> Check:
    name = "user"
    uid, gid = f.caller.uids[0], f.caller.gids[0]
    same = {*f.uids[:3]} == {uid} and {*f.gids[:3]} == {gid}
    if same or _allowed(f) or _capable(f):
        return Check(name, True, f"{f.user}{'' if same else ', not ours: CAP_SYS_PTRACE'}")
    if f.uids[0] != uid:
        what = f"belongs to another user, {f.user}"
    elif {*f.uids[:3]} != {uid}:
        what = f"has changed its user (it is a setuid program: uids {_three(f.uids)})"
    elif {*f.gids[:3]} != {f.gids[0]}:
        what = f"has changed its group (it is a setgid program: gids {_three(f.gids)})"
    else:
        what = f"has another group than memtrace, {f.gids[0]}"
    # As long as it is not known whose capabilities count, this may be allowed.
    ok = None if _capable(f) is None else False
    return Check(name, ok, f"{who(f)} {what}{_not_here(f)}", privileged(f))


def _namespace(f: Facts) -> Check:
    name = "user namespace"
    if f.user_ns == "same":
        return Check(name, True, "the same")
    if f.user_ns == "outside":
        meaning = f"{who(f)} is outside of the user namespace that memtrace runs in"
        return Check(name, False, meaning, f"memtrace attach {f.pid}, outside of this container")
    if _allowed(f) or _capable(f):
        return Check(name, True, "below ours")
    if _capable(f) is None:
        meaning = f"{who(f)} seems to be outside of the user namespace that memtrace runs in"
        return Check(name, None, meaning, f"memtrace attach {f.pid}, outside of this container")
    if f.user_ns is None:
        meaning = f"{who(f)} seems to be in another user namespace than memtrace{_not_here(f)}"
        return Check(name, None, meaning, privileged(f))
    meaning = f"{who(f)} is in another user namespace{_not_here(f)}"
    return Check(name, False, meaning, privileged(f))


def _dumpable(f: Facts) -> Check:
    name = "dumpable"
    # The file is the effective user's as long as the process is dumpable, else root's
    # (`task_dump_owner`): of a process of root it does not tell.
    shown = f.mem_uid is not None and f.mem_uid != f.uids[1]
    if not shown and (f.mem_uid != 0 or f.readable):
        return Check(name, True, "yes")
    if _allowed(f) or _capable(f):
        return Check(name, True, "no, which CAP_SYS_PTRACE overrides" if shown else "yes")
    meaning = f"{who(f)} is not dumpable: it keeps its memory to itself (PR_SET_DUMPABLE)"
    if not shown:
        meaning = f"{who(f)} is not dumpable (PR_SET_DUMPABLE), or in another user namespace"
    ok = False if shown and _capable(f) is False else None
    return Check(name, ok, meaning + _not_here(f), privileged(f))


def _capabilities(f: Facts) -> Check:
    name = "capabilities"
    more = f.cap_prm & ~f.caller.cap_prm
    if not more:
        return Check(name, True, "none that memtrace lacks")
    listed = _listed(more)
    if _allowed(f) or _capable(f):
        return Check(name, True, f"more than ours ({listed}), which CAP_SYS_PTRACE overrides")
    meaning = f"{who(f)} has capabilities that memtrace lacks ({listed}){_not_here(f)}"
    ok = None if _capable(f) is None else False
    return Check(name, ok, meaning, privileged(f))


def _permitted(f: Facts) -> Check:
    name = "access"
    if f.access:
        return Check(name, True, "the kernel lets memtrace see its memory")
    if f.access is None:
        meaning = f"the kernel does not tell before the attempt whether {who(f)} may be traced"
    else:
        label = f" ({f.host.confined})" if f.host.confined else ""
        meaning = f"a security module{label} keeps memtrace from the memory of {who(f)}"
    return Check(name, None, meaning, privileged(f))


# -- what a failed SEIZE means --------------------------------------------------------------------


def _gone(earlier: Facts, now: Facts) -> Check | None:
    if not earlier.exists:
        return None
    if not now.exists or (now.state in ("Z", "X", "x") and not now.alive):
        return Check("seize", False, f"{who(earlier)} ended while memtrace attached to it", _RUN)
    if earlier.start_time != now.start_time and not now.hidden:
        meaning = f"{who(earlier)} ended while memtrace attached to it, {now.name} has its number"
        return Check("seize", False, meaning, f"memtrace attach {now.pid}, if {now.name} is meant")
    return None


def _changed(now: Facts, error: int, earlier: Facts | None) -> Check | None:
    """It may not be traced at one moment and may at the next: while it execs, for example."""
    moved = earlier is not None and (
        (earlier.uids, earlier.gids, earlier.name, earlier.cap_prm, earlier.tracer)
        != (now.uids, now.gids, now.name, now.cap_prm, now.tracer)
    )
    if not moved and error != errno.ESRCH:
        return None
    meaning = f"{who(now)} changed while memtrace attached to it"
    return Check("seize", False, meaning, f"memtrace attach {now.pid}")


def _unsupported(f: Facts, error: int) -> Check | None:
    """A kernel, or what stands in for one, that does not know the request."""
    if error not in (errno.ENOSYS, errno.EIO, errno.EINVAL):
        return None
    meaning = f"there is no PTRACE_SEIZE here: {os.strerror(error).lower()}"
    return Check("seize", False, meaning, container_remedy(f) or "uname -a")


def _unexplained(f: Facts, error: int, whom: str, otherwise: str) -> Check:
    said = os.strerror(error).lower()
    if f.caller.seccomp == 2:
        meaning = f"a seccomp filter around this shell forbids ptrace: {said}"
        return Check("seize", False, meaning, container_remedy(f) or otherwise)
    meaning = f"the kernel does not let memtrace trace {whom}, and /proc does not say why: {said}"
    return Check("seize", False, meaning, otherwise)


# -- words ----------------------------------------------------------------------------------------


def who(f: Facts) -> str:
    """The process as sentences name it."""
    return f"process {f.pid} ({f.name})" if f.name else f"process {f.pid}"


def _error(c: Check) -> TargetError:
    return TargetError(c.meaning, hint=c.remedy)


def _three(ids: tuple[int, ...]) -> str:
    return "/".join(map(str, ids[:3]))


def _listed(mask: int) -> str:
    """A set of capabilities in a few words."""
    bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    names = [f"CAP_{CAPABILITIES[b]}" if b < len(CAPABILITIES) else str(b) for b in bits]
    return ", ".join(names if len(names) <= 2 else [names[0], f"{len(names) - 1} more"])


def _capable(f: Facts) -> bool | None:
    """Whether we have CAP_SYS_PTRACE in the target's user namespace (`cap_capable`)."""
    if f.user_ns == "owned":
        return True
    if f.user_ns == "outside" or not f.caller.has(CAP_SYS_PTRACE):
        return False
    return True if f.user_ns or f.caller.initial_user_ns else None


def _allowed(f: Facts) -> bool:
    """Whether the kernel has just said yes to the same question."""
    return bool(f.access and f.caller.plain)


def _may_gain(f: Facts) -> bool:
    """Whether root, here, has CAP_SYS_PTRACE: a container's bounding set may lack it."""
    return bool(f.caller.cap_bnd >> CAP_SYS_PTRACE & 1)


def _not_here(f: Facts) -> str:
    if _may_gain(f):
        return ""
    where = "this container" if f.host.container else "whoever started this shell"
    return f", and {where} grants no CAP_SYS_PTRACE"


def privileged(f: Facts, command: str = "", otherwise: str = "") -> str:
    """How to try again with CAP_SYS_PTRACE.

    Args:
        f: the facts.
        command: what to try again; attach, if not given.
        otherwise: what root of the machine can do where that capability is not to be had.
    """
    command = command or f"memtrace attach {f.pid}"
    if not _may_gain(f):
        return container_remedy(f) or (
            f"{otherwise}, as root of the machine" if otherwise else _RUN
        )
    if f.caller.no_new_privs:
        return f"sudo {command}, in a shell without no_new_privs"
    return f"sudo {command}" + (f", or once: sudo {otherwise}" if otherwise else "")


def container_remedy(f: Facts) -> str:
    """How to start our container with CAP_SYS_PTRACE; "" outside of one."""
    if not f.host.container:
        return ""
    return f"{'podman' if f.host.container == 'podman' else 'docker'} run --cap-add=SYS_PTRACE ..."
