# SPDX-License-Identifier: GPL-2.0-or-later
"""What the system tells about tracing a process, read without touching it.

`before` gathers, the values decide nothing: that is `memtrace.collect.access`. Every read may find
the process gone; then its field keeps the default, which is what an absent fact means.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import pwd
import struct
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from memtrace.collect import machine, procfs

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN = 1, 2, 19, 21
#: Names by bit, without their CAP_ (linux/capability.h).
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
ALL_CAPABILITIES = (1 << len(CAPABILITIES)) - 1

_PF_KTHREAD = 0x00200000
_INITIAL_USER_NS = "user:[4026531837]"  # PROC_USER_INIT_INO
_NS_GET_PARENT, _NS_GET_OWNER_UID = 0xB702, 0xB704  # ioctl_ns(2)

Relation = Literal["same", "below", "owned", "outside"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who would trace. Ids are (real, effective, saved, fs); capability sets are bit masks;
    `ancestors` are the pids above it, its parent first; `seccomp` is 2 under a filter."""

    pid: int = 1
    uids: tuple[int, ...] = (0, 0, 0, 0)
    gids: tuple[int, ...] = (0, 0, 0, 0)
    cap_eff: int = 0
    cap_prm: int = 0
    cap_bnd: int = ALL_CAPABILITIES
    seccomp: int = 0
    no_new_privs: bool = False
    ancestors: tuple[int, ...] = ()
    initial_user_ns: bool = True

    def has(self, capability: int) -> bool:
        """Whether the capability is in the effective set."""
        return bool(self.cap_eff >> capability & 1)

    @property
    def plain(self) -> bool:
        """Whether real, effective and fs ids are the same: then every kind of access check
        (`ptrace_may_access`, PTRACE_MODE_FSCREDS or REALCREDS) asks with the same ids."""
        (uid, euid, _, fsuid), (gid, egid, _, fsgid) = self.uids, self.gids
        return uid == euid == fsuid and gid == egid == fsgid


@dataclass(frozen=True, slots=True)
class Host:
    """Where this runs. `yama` is its ptrace_scope, None without Yama; `container` and `sandbox`
    are names or ""; `confined` is our own security label when it is a confining one; `proc`: it is
    mounted."""

    kernel: str = "6.0"
    yama: int | None = None
    container: str = ""
    sandbox: str = ""
    confined: str = ""
    proc: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """All that decides whether a process may be traced.

    Attributes:
        asked: the number that was given; `pid` is the process it belongs to (the Tgid).
        exists: there is such a process.
        hidden: it exists, but /proc does not show it (hidepid).
        start_time: since boot, in clock ticks: tells a recycled pid.
        state: of the leader, a letter of proc(5).
        kernel_thread: PF_KTHREAD.
        has_mm: the leader has an address space.
        threads: how many tasks it has, `alive` those that are not dead.
        uninterruptible: the thread ids in uninterruptible sleep.
        tracer: the pid that traces the leader, 0 for none; `tracer_name` its comm.
        uids, gids: real, effective, saved, fs; `user` is the name of the first uid.
        mem_uid: the owner of /proc/PID/mem, None when not read (`task_dump_owner`).
        cap_prm: its permitted capabilities.
        user_ns: where its user namespace is from ours; "owned" is below and made by us; None when
            it cannot be read.
        ns_pids: its pid in each pid namespace, ours first.
        readable: the kernel lets us see its links (PTRACE_MODE_READ_FSCREDS).
        access: it lets us open its memory (PTRACE_MODE_ATTACH_FSCREDS); None when that does not
            tell: no memory, or the file's own mode is in the way.
        descendant: it is below us.
    """

    pid: int
    asked: int = 0
    exists: bool = True
    hidden: bool = False
    name: str = ""
    start_time: int = 0
    state: str = "S"
    kernel_thread: bool = False
    has_mm: bool = True
    threads: int = 1
    alive: int = 1
    uninterruptible: tuple[int, ...] = ()
    parent: int = 0
    tracer: int = 0
    tracer_name: str = ""
    uids: tuple[int, ...] = (0, 0, 0, 0)
    gids: tuple[int, ...] = (0, 0, 0, 0)
    user: str = ""
    mem_uid: int | None = None
    cap_prm: int = 0
    seccomp: int = 0
    user_ns: Relation | None = "same"
    ns_pids: tuple[int, ...] = ()
    readable: bool | None = None
    access: bool | None = None
    descendant: bool = False
    caller: Caller = field(default_factory=Caller)
    host: Host = field(default_factory=Host)


def before(pid: int) -> Facts:
    """The facts about process `pid`, or about the process that has a thread of that id.

    Reads only; costs about 20 us and 10 us for each of its threads.
    """
    nothing = Facts(pid, pid, exists=False, caller=caller(), host=host())
    if pid <= 0 or pid >> 31:
        return nothing
    status = _status(pid)
    tgid = _int(status, "Tgid")
    if tgid and tgid != pid:
        status = _status(tgid)
    stat = procfs.stat_fields(tgid or pid)
    uids, gids = _ints(status, "Uid"), _ints(status, "Gid")
    if not tgid or len(stat) < 20 or not uids or not gids:
        try:
            os.kill(pid, 0)
        except OSError as e:
            if e.errno == errno.ESRCH:
                return nothing
        return replace(nothing, exists=True, hidden=True)
    states = _states(tgid)
    living = [tid for tid, state in states.items() if state not in "ZXx"]
    tracer = _int(status, "TracerPid")
    # A leader that has ended has no memory any more, but its threads share theirs.
    through = tgid if stat[0] not in "ZXx" or not living else living[0]
    facts = replace(
        nothing, pid=tgid, exists=True, name=clean(status.get("Name", "")),
        state=stat[0], parent=int(stat[1]), start_time=int(stat[19]),
        kernel_thread=bool(int(stat[6]) & _PF_KTHREAD), has_mm="VmSize" in _status(through),
        threads=len(states), alive=len(living),
        uninterruptible=tuple(tid for tid, state in states.items() if state == "D"),
        tracer=tracer, tracer_name=comm(tracer) if tracer else "",
        uids=uids, gids=gids, user=_user(uids[0]),
        cap_prm=_hex(status, "CapPrm"), seccomp=_int(status, "Seccomp"),
        ns_pids=_ints(status, "NSpid"), descendant=nothing.caller.pid in _ancestors(tgid),
    )  # fmt: skip
    return replace(facts, **_access(facts, through))


def caller() -> Caller:
    """The facts about this process."""
    pid = os.getpid()
    status = _status(pid)
    return Caller(
        pid, (*os.getresuid(), os.geteuid()), (*os.getresgid(), os.getegid()),
        _hex(status, "CapEff"), _hex(status, "CapPrm"), _hex(status, "CapBnd"),
        _int(status, "Seccomp"), bool(_int(status, "NoNewPrivs")), _ancestors(pid),
        _link("/proc/self/ns/user") in (_INITIAL_USER_NS, None),
    )  # fmt: skip


def host() -> Host:
    """The facts about this machine and what we are boxed in."""
    yama = procfs.read("/proc/sys/kernel/yama/ptrace_scope").strip()
    label = procfs.read("/proc/self/attr/current").decode("utf-8", "replace").strip("\0\n ")
    return Host(
        platform.release(), int(yama) if yama.isdigit() else None, _container(),
        machine.sandbox(),
        "" if label.startswith("unconfined") else clean(label),
        os.path.exists("/proc/self/status"),
    )  # fmt: skip


def _container() -> str:
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    # systemd's convention, which lxc, nspawn and others follow.
    return clean(os.environ.get("container", ""))  # noqa: SIM112 - its name


def clean(name: str) -> str:
    """A name that a process gave itself, made fit for a terminal and for one line."""
    return "".join(c if c.isprintable() else "?" for c in name)[:64].strip()


def _access(facts: Facts, through: int) -> dict[str, Any]:
    """Ask the kernel's own access check, which each of these reads makes before it does anything
    (`proc_ns_readlink`, `proc_mem_open`): nothing is done to the process.
    """
    path = f"/proc/{through}"
    found: dict[str, Any] = {"user_ns": _user_ns(through, facts.caller.uids[1])}
    try:
        os.readlink(f"{path}/ns/user")
        found["readable"] = True
    except OSError as e:
        found["readable"] = False if e.errno in (errno.EACCES, errno.EPERM) else None
    if not facts.has_mm:
        return found
    with contextlib.suppress(OSError):
        found["mem_uid"] = os.stat(f"{path}/mem").st_uid
    try:
        os.close(os.open(f"{path}/mem", os.O_RDONLY | os.O_CLOEXEC))
        found["access"] = True
    except OSError as e:
        # The file is its owner's alone: for others that says nothing about ptrace.
        passes = facts.caller.has(CAP_DAC_OVERRIDE) or facts.caller.has(CAP_DAC_READ_SEARCH)
        if e.errno in (errno.EACCES, errno.EPERM) and (
            passes or found.get("mem_uid") == facts.caller.uids[3]
        ):
            found["access"] = False
    return found


def _user_ns(pid: int, euid: int) -> Relation | None:
    """Where the user namespace of a process is from ours; None when it may not be read."""
    try:
        ours = os.stat("/proc/self/ns/user").st_ino
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    below, owner = False, -1
    try:
        while os.fstat(fd).st_ino != ours:
            below, owner = True, _owner(fd)
            try:
                up = fcntl.ioctl(fd, _NS_GET_PARENT)
            except OSError:
                return "outside"
            os.close(fd)
            fd = up
    finally:
        os.close(fd)
    return "same" if not below else "owned" if owner == euid else "below"


def _owner(fd: int) -> int:
    data = fcntl.ioctl(fd, _NS_GET_OWNER_UID, bytes(4))
    return int(struct.unpack("=I", data)[0])


def _states(tgid: int) -> dict[int, str]:
    """The state of each thread."""
    try:
        tids = [int(name) for name in os.listdir(f"/proc/{tgid}/task")]
    except OSError:
        return {}
    return {tid: stat[0] for tid in tids if (stat := procfs.stat_fields(tid))}


def _ancestors(pid: int) -> tuple[int, ...]:
    found: list[int] = []
    while (stat := procfs.stat_fields(pid)) and (pid := int(stat[1])) and pid not in found:
        found.append(pid)
    return tuple(found)


def _status(pid: int) -> dict[str, str]:
    lines = procfs.read(f"/proc/{pid}/status").decode("utf-8", "replace").split("\n")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _ints(status: dict[str, str], name: str) -> tuple[int, ...]:
    return tuple(int(word) for word in status.get(name, "").split())


def _int(status: dict[str, str], name: str) -> int:
    return next(iter(_ints(status, name)), 0)


def _hex(status: dict[str, str], name: str) -> int:
    return int(status.get(name) or "0", 16)


def comm(pid: int) -> str:
    """The name of a process; "" when it is gone."""
    return clean(procfs.read(f"/proc/{pid}/comm").decode("utf-8", "replace").rstrip("\n"))


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _user(uid: int) -> str:
    try:
        return clean(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)
