# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may trace whom: from facts to a decision, a sentence and a remedy.

The rules are the kernel's: `ptrace_attach`, `__ptrace_may_access`, `cap_ptrace_access_check`,
`yama_ptrace_access_check`. Each is one `Check`, in the order in which people should hear of them;
`refusal` is the first that says no. Pure, but for `before`, which gathers (`facts.py`).
"""

from __future__ import annotations

import errno
import os
import shlex
from dataclasses import dataclass

from memtrace.collect.facts import CAP_SYS_PTRACE, CAPABILITIES, Facts, before
from memtrace.collect.machine import require_kernel
from memtrace.trace.errors import TargetError

__all__ = ["Check", "Facts", "before", "checks", "notes", "of_child", "refusal"]


@dataclass(frozen=True, slots=True)
class Check:
    """One condition for tracing. `ok`: True, False, or None where the facts do not tell. `meaning`
    is a sentence's worth of cause; `remedy`, of what to type, is there unless `ok`."""

    name: str
    ok: bool | None
    meaning: str
    remedy: str = ""


def checks(facts: Facts) -> list[Check]:
    """Every condition for attaching to the process. Where one makes the rest meaningless (there is
    no such process), they are left out.
    """
    found = [_kernel(facts), _exists(facts)]
    if found[-1].ok is not True:
        return found
    found += [_program(facts), _alive(facts)]
    if not all(c.ok for c in found):
        return found
    return [
        *found, _apart(facts), _untraced(facts), _yama(facts), _user(facts), _namespace(facts),
        _dumpable(facts), _capabilities(facts), _permitted(facts),
    ]  # fmt: skip


def refusal(
    facts: Facts, error: int | None = None, *, earlier: Facts | None = None
) -> TargetError | None:
    """Why the process cannot be attached to; None: go on.

    Args:
        facts: gathered before SEIZE, or again after it has failed.
        error: the errno of a failed SEIZE. The result is then an error in any case.
        earlier: with `error`, what was gathered before: tells what has changed in between.
    """
    if error is not None and earlier is not None and (gone := _gone(earlier, facts)):
        return gone
    found = checks(facts)
    wrong = next((c for c in found if c.ok is False), None)
    if wrong is None and error is not None:
        unsure = next((c for c in found if c.ok is None), None)
        wrong = _unsupported(facts, error) or unsure or _unexplained(facts, error)
    return TargetError(wrong.meaning, hint=wrong.remedy) if wrong else None


def of_child(facts: Facts, error: int) -> TargetError:
    """Why a child of our own, just forked, could not be seized.

    Args:
        facts: about the child.
        error: the errno of SEIZE.
    """
    if facts.tracer:
        # A tracer of ours that follows forks has it before we do.
        return TargetError(
            f"this shell is already under a tracer: {facts.tracer_name} (pid {facts.tracer})",
            hint=f"run memtrace outside of {facts.tracer_name or 'it'}",
        )
    wrong = _yama(facts)
    if wrong.ok is not False:
        wrong = _unsupported(facts, error) or _unexplained(facts, error)
    return TargetError(wrong.meaning, hint=wrong.remedy.replace("attach", "run"))


def notes(facts: Facts) -> list[str]:
    """What is worth one line each before an attach that goes on."""
    found = []
    if facts.asked != facts.pid:
        found.append(
            f"{facts.asked} is a thread of process {facts.pid} ({facts.name}): "
            "the whole process is attached to"
        )
    if facts.state == "Z":
        found.append(
            f"the first thread of process {facts.pid} has ended: "
            f"its {facts.alive} other threads are traced"
        )
    elif facts.state == "T":
        found.append(f"process {facts.pid} is stopped and stays so until it gets SIGCONT")
    return found


# -- the checks -----------------------------------------------------------------------------------


def _kernel(f: Facts) -> Check:
    if f.host.sandbox:
        meaning = f"{f.host.sandbox} has no PTRACE_SEIZE: nothing can be traced in it"
        wsl = f.host.sandbox.startswith("WSL")
        remedy = "wsl --set-version DISTRIBUTION 2" if wsl else "docker run --runtime=runc ..."
        return Check("kernel", False, meaning, remedy)
    try:
        require_kernel(f.host.kernel)
    except TargetError as e:
        return Check("kernel", False, e.message, e.hint)
    return Check("kernel", True, f"Linux {f.host.kernel}")


def _exists(f: Facts) -> Check:
    if not f.exists:
        return Check("process", False, f"there is no process {f.asked}", "ps -e")
    if f.hidden:
        meaning = f"/proc hides process {f.asked} from this user (hidepid)"
        return Check("process", False, meaning, _privileged(f))
    return Check("process", True, who(f))


def _program(f: Facts) -> Check:
    if f.kernel_thread:
        meaning = f"{who(f)} is a kernel thread: it has no memory of its own to trace"
        return Check("program", False, meaning, "ps -p 2 --ppid 2 --deselect")
    return Check("program", True, "a program, no kernel thread")


def _alive(f: Facts) -> Check:
    if f.state in "ZXx" and not f.alive:
        meaning = f"{who(f)} has ended: its parent, process {f.parent}, has not collected it yet"
        return Check("alive", False, meaning, _run(f))
    if f.state in "ZXx":
        return Check("alive", True, "its first thread has ended, others live")
    return Check("alive", True, "it lives")


def _apart(f: Facts) -> Check:
    if f.pid == f.caller.pid:
        return Check(
            "not above us", False, f"process {f.pid} is this memtrace itself",
            "memtrace run -- memtrace ...",
        )  # fmt: skip
    if f.pid in f.caller.ancestors:
        # Seized, it would stop whenever this memtrace does: after ^Z nobody could continue either.
        meaning = (
            f"{who(f)} started this memtrace: traced by it, each may wait for the other forever"
        )
        hint = f"memtrace attach {f.pid}, in another terminal"
        if f.pid == 1:
            hint = "memtrace attach PID, of a process that has not started this terminal"
        return Check("not above us", False, meaning, hint)
    return Check("not above us", True, "neither memtrace itself nor what has started it")


def _untraced(f: Facts) -> Check:
    if f.tracer and f.tracer != f.caller.pid:
        name = f.tracer_name or "a tracer"
        meaning = f"{who(f)} is already traced by {name} (pid {f.tracer})"
        remedy = f"leave {name} (pid {f.tracer}), then: memtrace attach {f.pid}"
        return Check("untraced", False, meaning, remedy)
    return Check("untraced", True, "no other tracer")


def _yama(f: Facts) -> Check:
    scope, name = f.host.yama, "Yama"
    if not scope:
        return Check(name, True, "absent" if scope is None else "ptrace_scope is 0")
    says = f"Yama's ptrace_scope is {scope}"
    if scope >= 3:
        meaning = f"{says}: no process may be traced until the next boot"
        return Check(name, False, meaning, "sudo sysctl --system, with it removed, after a reboot")
    if _allowed(f) or _capable(f) or (scope == 1 and f.descendant):
        return Check(name, True, says)
    remedy = _privileged(f, "sudo sysctl kernel.yama.ptrace_scope=0")
    if scope == 2:
        return Check(name, False, f"{says}: tracing takes CAP_SYS_PTRACE", remedy)
    # PR_SET_PTRACER, which /proc does not show, may have let us in.
    ok = False if f.access is False and f.readable else None
    meaning = f"{says}: attaching to what memtrace has not started takes CAP_SYS_PTRACE"
    return Check(name, ok, meaning, remedy)


def _user(f: Facts) -> Check:
    name = "user"
    uid, gid = f.caller.uids[0], f.caller.gids[0]
    if _allowed(f) or _capable(f):
        return Check(name, True, f"{f.user}, with CAP_SYS_PTRACE" if _capable(f) else "allowed")
    unsure = None if _capable(f) is None else False
    if any(u != uid for u in f.uids[:3]):
        what = f"belongs to another user ({f.user}, uid {f.uids[0]})"
        if f.uids[0] == uid:
            what = f"has changed its user (uid {f.uids[0]}, effective {f.uids[1]})"
        return Check(name, unsure, f"{who(f)} {what}", _privileged(f))
    if any(g != gid for g in f.gids[:3]):
        meaning = f"{who(f)} is in another group ({f.gids[1]}, not {gid})"
        return Check(name, unsure, meaning, _privileged(f))
    return Check(name, True, "the same")


def _namespace(f: Facts) -> Check:
    name = "user namespace"
    if f.user_ns == "same":
        return Check(name, True, "the same")
    if f.user_ns == "outside":
        meaning = f"{who(f)} is outside of the user namespace that memtrace runs in"
        return Check(name, False, meaning, f"memtrace attach {f.pid}, outside of this container")
    if _allowed(f) or _capable(f):
        return Check(name, True, "below ours")
    if f.user_ns is None:
        return Check(name, None, f"the user namespace of {who(f)} is hidden", _privileged(f))
    meaning = f"{who(f)} is in another user namespace, which takes CAP_SYS_PTRACE"
    return Check(name, False, meaning, _privileged(f))


def _dumpable(f: Facts) -> Check:
    name = "dumpable"
    if _allowed(f) or _capable(f):
        return Check(name, True, "allowed")
    # The file is the effective user's while PR_GET_DUMPABLE is 1, else root's (`task_dump_owner`).
    shown = f.mem_uid is not None and f.uids[1:2] != (f.mem_uid,)
    if not shown and f.mem_uid != 0:
        return Check(name, True, "yes")
    if not shown and f.readable:
        return Check(name, True, "yes")
    ok = False if shown else None
    meaning = f"{who(f)} is not dumpable: it keeps its memory from others (PR_SET_DUMPABLE)"
    return Check(name, ok, meaning, _privileged(f))


def _capabilities(f: Facts) -> Check:
    name = "capabilities"
    more = f.cap_prm & ~f.caller.cap_prm
    if _allowed(f) or _capable(f) or not more:
        return Check(name, True, "no more than ours")
    names = ", ".join(_capability_names(more))
    return Check(name, False, f"{who(f)} has more capabilities than memtrace ({names})",
                 _privileged(f))  # fmt: skip


def _permitted(f: Facts) -> Check:
    name = "permitted"
    if f.access is not False:
        return Check(name, True, "the kernel lets us read its memory")
    label = f" ({f.host.confined})" if f.host.confined else ""
    meaning = f"a security module{label} keeps memtrace from {who(f)}"
    return Check(name, None, meaning, _privileged(f))


# -- what a failed SEIZE means --------------------------------------------------------------------


def _gone(earlier: Facts, now: Facts) -> TargetError | None:
    if earlier.exists and not now.exists:
        meaning = f"{who(earlier)} ended while memtrace attached to it"
        return TargetError(meaning, hint=_run(earlier))
    if earlier.exists and earlier.start_time != now.start_time:
        meaning = f"{who(earlier)} ended while memtrace attached, and {now.name} has its number now"
        return TargetError(meaning, hint=f"memtrace attach {now.pid}, if {now.name} is meant")
    return None


def _unsupported(f: Facts, error: int) -> Check | None:
    """A kernel, or what stands in for one, that does not know the request."""
    if error not in (errno.ENOSYS, errno.EIO, errno.EINVAL):
        return None
    meaning = f"there is no PTRACE_SEIZE here: {os.strerror(error).lower()}"
    return Check("seize", False, meaning, _container_remedy(f) or "uname -a")


def _unexplained(f: Facts, error: int) -> Check:
    if error == errno.ESRCH:
        meaning = f"{who(f)} changed while memtrace attached to it"
        return Check("seize", False, meaning, f"memtrace attach {f.pid}")
    said = os.strerror(error).lower()
    if f.caller.seccomp == 2:
        meaning = f"a seccomp filter around this shell forbids ptrace: {said}"
        return Check(
            "seize", False, meaning, _container_remedy(f) or "grep Seccomp /proc/self/status"
        )
    meaning = f"the kernel does not let memtrace trace {who(f)}, and /proc does not say why: {said}"
    return Check("seize", False, meaning, f"memtrace doctor {f.pid}")


# -- words ----------------------------------------------------------------------------------------


def who(f: Facts) -> str:
    """The process as sentences name it."""
    return f"process {f.pid} ({f.name})" if f.name else f"process {f.pid}"


def _run(f: Facts) -> str:
    return f"memtrace run -- {shlex.quote(f.name) if f.name else 'PROG'}"


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


def _privileged(f: Facts, otherwise: str = "") -> str:
    """How to try again with CAP_SYS_PTRACE."""
    attach = f"memtrace attach {f.asked or f.pid}"
    if not f.caller.cap_bnd >> CAP_SYS_PTRACE & 1:
        return _container_remedy(f) or otherwise or _run(f)
    if f.caller.no_new_privs:
        return f"sudo {attach}, in a shell without no_new_privs"
    return f"sudo {attach}"


def _container_remedy(f: Facts) -> str:
    if not f.host.container:
        return ""
    return f"{'podman' if f.host.container == 'podman' else 'docker'} run --cap-add=SYS_PTRACE ..."


def _capability_names(mask: int) -> list[str]:
    bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    names = [CAPABILITIES[b] if b < len(CAPABILITIES) else f"capability {b}" for b in bits]
    return names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"]
