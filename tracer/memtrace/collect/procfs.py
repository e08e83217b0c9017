# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc tells of a stopped process: bytes in, values out. Reads never raise for a task that
has died meanwhile; they give None or nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import stat
import struct
from typing import Any

_PROCMAP_QUERY = 0xC0686611  # _IOWR('f', 17, struct procmap_query), kernel 6.11
_QUERY = struct.Struct("=QQQ QQQQQQ IIII QQ")
_COVERING_OR_NEXT = 0x10
_STATE = re.compile(rb"^(State|\w*voluntary_ctxt_switches):\s*(\w+)", re.MULTILINE)
_PF_EXITING, _PF_DUMPCORE, _PF_SIGNALED = 0x4, 0x200, 0x400

ENVIRONMENT = ("GLIBC_TUNABLES", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONMALLOC")
ENVIRONMENT_PREFIXES = ("MALLOC_",)
RLIMITS = {
    "AS": resource.RLIMIT_AS, "DATA": resource.RLIMIT_DATA, "STACK": resource.RLIMIT_STACK,
    "MEMLOCK": resource.RLIMIT_MEMLOCK, "NPROC": resource.RLIMIT_NPROC,
}  # fmt: skip


def read(path: str) -> bytes:
    """The whole of a /proc file; b"" when it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as f:
            return f.read()
    except OSError:
        return b""


def read_fd(fd: int) -> bytes:
    """The whole of a kept-open seq file from its beginning; b"" when its process is gone.

    The kernel gives at most a page or so per read (`seq_read_iter`), whatever the buffer.
    """
    parts, offset = [], 0
    try:
        while part := os.pread(fd, 1 << 20, offset):
            parts.append(part)
            offset += len(part)
    except OSError:
        return b""
    return b"".join(parts)


def status_field(tid: int, *names: str) -> list[int | None]:
    """Integers of /proc/TID/status; None for a missing one."""
    found: dict[str, int] = {}
    for line in read(f"/proc/{tid}/status").decode("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name in names:
            word = value.split()
            if word and word[0].lstrip("-").isdigit():
                found[name] = int(word[0])
    return [found.get(n) for n in names]


def stat_fields(tid: int) -> list[str]:
    """/proc/TID/stat after the command name: index 0 is field 3 (state). [] when gone."""
    text = read(f"/proc/{tid}/stat").decode("ascii", "replace")
    return text[text.rfind(")") + 2 :].split()


def run_state(tid: int) -> tuple[str, tuple[int, ...]] | None:
    """(state, how often it has left the CPU, of itself and not) of a task; None when it is gone."""
    found = dict(_STATE.findall(read(f"/proc/{tid}/status")))
    state = found.pop(b"State", b"").decode("ascii", "replace")
    return (state, tuple(int(n) for n in found.values())) if state else None


def is_dying(tid: int) -> bool:
    """Whether a task will run no more of its program: it has gone, exits, or SIGKILL is pending.

    Not while it writes a core, for which the others may have to wait (`coredump_wait`).
    """
    fields = stat_fields(tid)
    if not fields or fields[0] in "ZX":
        return True
    flags = int(fields[6])
    if flags & _PF_DUMPCORE:
        return False
    if flags & (_PF_EXITING | _PF_SIGNALED):
        return True
    pending = re.search(rb"^SigPnd:\s*(\w+)", read(f"/proc/{tid}/status"), re.MULTILINE)
    return pending is not None and bool(int(pending[1], 16) >> (signal.SIGKILL - 1) & 1)


def memory(tid: int, address: int, size: int) -> bytes:
    """Up to `size` bytes of a task's memory."""
    try:
        with open(f"/proc/{tid}/mem", "rb", buffering=0) as f:
            return os.pread(f.fileno(), size, address)
    except (OSError, OverflowError):
        return b""


def statm(text: bytes) -> tuple[int, int] | None:
    """(total pages, resident pages) of a statm line; None when the mm is gone (all zero)."""
    fields = text.split(None, 2)
    if len(fields) < 3 or fields[0] == b"0":
        return None
    return int(fields[0]), int(fields[1])


class MapsQuery:
    """One line of maps for an address, by the PROCMAP_QUERY ioctl: 1 us however large the map.

    `available` is probed once; without it the caller reads the whole file.
    """

    def __init__(self) -> None:
        import ctypes

        self._name = ctypes.create_string_buffer(4096)
        self._address = ctypes.addressof(self._name)
        self.available = False
        try:
            with open("/proc/self/maps", "rb", buffering=0) as f:
                self.available = self.covering(f.fileno(), id(self)) is not None
        except OSError:
            pass

    def covering(self, fd: int, address: int) -> tuple[bytes, int] | None:
        """(line of maps text, page size) of the mapping at the address; None: there is none."""
        if fd < 0:
            return None
        q: Any = bytearray(
            _QUERY.pack(_QUERY.size, 0, address, 0, 0, 0, 0, 0, 0, 0, 0, 4096, 0, self._address, 0)
        )
        try:
            fcntl.ioctl(fd, _PROCMAP_QUERY, q)
        except OSError:
            return None
        _, _, _, start, end, flags, page, offset, ino, major, minor, size, _, _, _ = _QUERY.unpack(
            q
        )
        # show_map_vma escapes a newline, the query does not.
        name = self._name.raw[: size - 1].replace(b"\n", rb"\012") if size else b""
        perms = (
            ("r" if flags & 1 else "-") + ("w" if flags & 2 else "-")
            + ("x" if flags & 4 else "-") + ("s" if flags & 8 else "p")
        )  # fmt: skip
        head = f"{start:x}-{end:x} {perms} {offset:08x} {major:02x}:{minor:02x} {ino} "
        return head.encode() + name, page


def syscall_of(tid: int) -> int | None:
    """The number of the system call that a task is asleep in, -1 when it sleeps elsewhere (a page
    fault); None when it runs or the file cannot be read. Of an i386 call it is i386's number.
    """
    word = read(f"/proc/{tid}/syscall").split(None, 1)[:1]
    return int(word[0]) if word and word[0].lstrip(b"-").isdigit() else None


def dispositions(tid: int) -> tuple[int, int]:
    """(signals that are ignored, signals that have a handler), as sets of bits."""
    ignored, caught = _signal_sets(tid, "SigIgn", "SigCgt")
    return ignored, caught


def _signal_sets(tid: int, *names: str) -> list[int]:
    fields = dict.fromkeys(names, 0)
    for line in read(f"/proc/{tid}/status").decode("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name in fields:
            fields[name] = int(value, 16)
    return list(fields.values())


def pending(tid: int) -> int:
    """The signals that wait to be delivered to a task or its process, as a set of bits."""
    own, shared = _signal_sets(tid, "SigPnd", "ShdPnd")
    return own | shared


def own_pending(tid: int) -> int:
    """Those that wait for this task alone."""
    return _signal_sets(tid, "SigPnd")[0]


def numbered_by(tid: int, number: int) -> int | None:
    """Our number of the task that `tid`, its mother or a thread beside it, has got as `number`: a
    PID namespace has numbers of its own. None when it is not to be found.
    """
    depth = len(_numbers(tid))
    if depth < 2:
        return number
    tgid, ppid = status_field(tid, "Tgid", "PPid")
    near = [*tasks(tgid or tid), *children(tgid or tid), *children(ppid or tid)]  # CLONE_PARENT
    return next((t for t in near if _numbers(t)[depth - 1 : depth] == [number]), None)


def _numbers(tid: int) -> list[int]:
    """What a task is called in its PID namespaces, from ours inwards."""
    found = re.search(rb"^NSpid:(.*)", read(f"/proc/{tid}/status"), re.MULTILINE)
    return [] if found is None else [int(word) for word in found[1].split()]


def is_regular(tid: int, fd: int) -> bool:
    """Whether a descriptor of a task is a regular file; False when it is closed again."""
    try:
        return stat.S_ISREG(os.stat(f"/proc/{tid}/fd/{fd}").st_mode)
    except OSError:
        return False


def is_socket(tid: int, fd: int) -> bool:
    """Whether a descriptor of a task is a socket."""
    try:
        return os.readlink(f"/proc/{tid}/fd/{fd}").startswith("socket:")
    except OSError:
        return False


def tasks(pid: int) -> list[int]:
    """The thread ids of a process; [] when it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def living_task(pid: int) -> int:
    """A task through which a process's memory is seen: a leader that has ended has none any more,
    while its other threads have.
    """
    living = [tid for tid in tasks(pid) if stat_fields(tid)[:1] not in ([], ["Z"], ["X"])]
    return pid if pid in living or not living else min(living)


def children(pid: int) -> list[int]:
    """The child processes of all threads; [] also where the kernel does not tell
    (CONFIG_PROC_CHILDREN).
    """
    return [
        int(child)
        for tid in tasks(pid)
        for child in read(f"/proc/{pid}/task/{tid}/children").split()
    ]


def has_children(tid: int) -> bool:
    """Whether a thread has made processes that live; False also where the kernel does not tell."""
    return bool(read(f"/proc/{tid}/task/{tid}/children"))


def is_elf32(pid: int) -> bool:
    """Whether the program of a process is a 32-bit one (e_ident[EI_CLASS])."""
    try:
        with open(f"/proc/{pid}/exe", "rb", buffering=0) as f:
            return f.read(5) == b"\x7fELF\x01"
    except OSError:
        return False


def personality(tid: int) -> int:
    """The personality of a task, which is its own; 0, the usual one, when it is gone."""
    return int(read(f"/proc/{tid}/personality").strip() or b"0", 16)


def exec_facts(pid: int) -> dict[str, Any]:
    """What a trace keeps of a process at its exec or attach (`records.Start`); unknown facts are
    left out.
    """
    facts: dict[str, Any] = {}
    try:
        facts["exe"] = os.fsencode(os.readlink(f"/proc/{pid}/exe")).decode(
            "utf-8", "backslashreplace"
        )
    except OSError:
        facts["exe"] = ""
    if is_elf32(pid):
        facts["abi"] = "i386"
    argv = read(f"/proc/{pid}/cmdline").split(b"\0")[:-1]
    facts["argv"] = [a.decode("utf-8", "backslashreplace") for a in argv]
    facts["env"], twice = _environment(read(f"/proc/{pid}/environ"))
    if twice:
        facts["env_lost"] = True
    stat = stat_fields(pid)
    if len(stat) > 45:
        # Field N of proc(5) is stat[N - 3].
        facts["ppid"] = int(stat[1])
        # Printed as 0 to who may not ptrace the process (`do_task_stat`).
        facts["start_stack"] = int(stat[25])
        facts["start_brk"] = int(stat[44])
    facts["personality"] = personality(pid)
    pair = struct.Struct("<II" if "abi" in facts else "<QQ")
    aux = read(f"/proc/{pid}/auxv")
    pairs = dict(pair.iter_unpack(aux[: len(aux) // pair.size * pair.size]))
    if 23 in pairs:  # AT_SECURE
        facts["at_secure"] = bool(pairs[23])
    limits: dict[str, int | None] = {}
    for name, number in RLIMITS.items():
        try:
            soft = resource.prlimit(pid, number)[0]
        except (OSError, ValueError):
            continue
        limits[name] = None if soft == resource.RLIM_INFINITY else soft
    facts["rlimits"] = limits
    return facts


def _environment(raw: bytes) -> tuple[dict[str, str], bool]:
    """What bears on memory, and whether a name is there twice with two values: which of them counts
    depends on the name and on the release of glibc (`__tunables_init`).
    """
    kept: dict[str, str] = {}
    twice = False
    for entry in raw.split(b"\0"):
        name, eq, value = entry.decode("utf-8", "backslashreplace").partition("=")
        if eq and (name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)):
            twice |= kept.setdefault(name, value) != value
    return kept, twice
