# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read back after a call, because its arguments do not tell its effect.

Rule: derive what is deterministic, read back what is not. Read back are the identity of files and
of shared and special mappings, and the range of a failed call (mprotect stops at a hole with the
part before it changed; `mmap_region` has unmapped a MAP_FIXED target before a driver refuses).
"""

from __future__ import annotations

from memtrace.collect import procfs, wire
from memtrace.collect.abi import ABIS, ARCH_MAP_VDSO, NATIVE
from memtrace.collect.ptrace import ENTRY_ARG0, ENTRY_NR, ENTRY_OP
from memtrace.collect.tracee import Tracee
from memtrace.space.calls import (
    MADV_DOFORK,
    MADV_DONTFORK,
    MAP_FIXED,
    MREMAP_FIXED,
    PR_SET_VMA,
)
from memtrace.trace.mapping import decode_maps
from memtrace.trace.sizes import PAGE, round_up

TASK_SIZE = 1 << 47
MAP_HUGETLB = 0x40000
SHM_REMAP = 0o40000

#: mmap flags under which the arguments tell the backing: private, anonymous, ordinary pages.
BACKING_MASK, PLAIN_ANON = 0x4002F, 0x22
#: Calls whose successful effect is always read back.
ALWAYS = frozenset(
    ("shmat", "io_setup", "map_shadow_stack", "arch_prctl", "prctl", "remap_file_pages")
)

_RANGE_CALLS = frozenset(
    ("munmap", "mprotect", "pkey_mprotect", "mremap", "remap_file_pages", "shmat", "mmap")
)
_NO_MAP = frozenset(("mlock", "mlock2", "munlock", "mlockall", "munlockall", "process_madvise"))
_PLAIN_I386 = frozenset(("mmap2", "old_mmap", "ipc"))


def changes_no_map(name: str, advice: int) -> bool:
    """Whether no effect of the call shows in maps, or in what a child inherits."""
    return name in _NO_MAP or (name == "madvise" and advice not in (MADV_DONTFORK, MADV_DOFORK))


class ReadBack:
    """Reads through the mm of a tracee that stands at a call's exit."""

    def __init__(self) -> None:
        self._query = procfs.MapsQuery()

    def after(self, tracee: Tracee, ret: int) -> bytes:
        """What the arguments do not tell, for this call and result, as a message's extra."""
        e = tracee.entry
        abi = ABIS.get(e[ENTRY_OP] >> 32) or NATIVE
        name = tracee.name or NATIVE.names.get(e[ENTRY_NR], "")
        a = [e[ENTRY_ARG0 + i] for i in range(6)]
        fields = b""
        if name in _PLAIN_I386:
            name, a, fields = _normalise(tracee, name, a)
        if -4096 < ret < 0:
            return _joined(_after_failure(tracee, name, a), fields)
        address = ret & 0xFFFFFFFF if abi.word == 4 else ret
        if name == "mmap":
            if a[3] & BACKING_MASK == PLAIN_ANON:
                return fields
            return _joined(self._after_mapping(tracee, address, a[1], a[3]), fields)
        if name == "shmat" and fields:  # ipc(2) writes the address to its fourth argument
            address = int.from_bytes(tracee.mm.bytes_at(e[ENTRY_ARG0 + 3], 4), "little")
        if name == "shmat" or name == "map_shadow_stack":
            return _joined(_whole_line(tracee, address), fields)
        if name == "arch_prctl" and a[0] in ARCH_MAP_VDSO:
            return _whole_line(tracee, address)
        if name == "io_setup":
            context = tracee.mm.bytes_at(a[1], abi.word)
            return _whole_line(tracee, int.from_bytes(context, "little")) if context else b""
        if name == "prctl" and a[0] & 0xFFFFFFFF == PR_SET_VMA:
            text = tracee.mm.bytes_at(a[4], 80).split(b"\0")[0] if a[4] else b""
            return wire.extra({"name": text.decode("utf-8", "backslashreplace")})
        return fields

    def unfinished(self, tracee: Tracee) -> bytes:
        """The same for a call that never returned: only what its arguments mean."""
        if tracee.name not in _PLAIN_I386:
            return b""
        e = tracee.entry
        return _normalise(tracee, tracee.name, [e[ENTRY_ARG0 + i] for i in range(6)])[2]

    def vanished(self, tracee: Tracee) -> bytes | None:
        """The same for a call of a task that was killed in it and never stopped again, while the
        map stands still; None if what the call may have done is not to be known.
        """
        name = tracee.name or NATIVE.names.get(tracee.entry[ENTRY_NR], "")
        a = [tracee.entry[ENTRY_ARG0 + i] for i in range(6)]
        if changes_no_map(name, a[2]):
            return b""
        readable = name in _RANGE_CALLS and name != "mremap" and tracee.mm.keeper is not None
        return _after_failure(tracee, name, a) or None if readable else None

    def _after_mapping(self, tracee: Tracee, address: int, length: int, flags: int) -> bytes:
        """After an mmap whose backing the arguments do not tell: its line, and its true end."""
        mm = tracee.mm
        high = address + round_up(length)
        found = self._query.covering(mm.maps_fd, address) if self._query.available else None
        if found is not None:
            line, page = found
            if page > PAGE:
                high = address + round_up(length, page)
            lines = [line.decode("utf-8", "backslashreplace")]
        else:
            raw = procfs.read_fd(mm.maps_fd)
            if not raw:
                return b""
            lines = _overlapping(raw, address, high)
            if lines and (flags & MAP_HUGETLB or "hugepage" in lines[-1]):
                high = max(high, int(lines[-1].split("-", 2)[1].split()[0], 16))
        return wire.extra({"b": [address, high, lines]})


def _joined(a: bytes, b: bytes) -> bytes:
    """Two extras as one."""
    return a[:-1] + b"," + b[1:] if a and b else a or b


def _after_failure(tracee: Tracee, name: str, a: list[int]) -> bytes:
    """After a failed range call: the lines of that range as they are now."""
    if name not in _RANGE_CALLS:
        return b""
    low, high = a[0], a[0] + a[1]
    if name == "mmap" and not a[3] & MAP_FIXED:
        return b""
    if name == "shmat":
        if not a[2] & SHM_REMAP:
            return b""
        high = a[1] + PAGE
        low = a[1]
    if name == "mremap" and a[3] & MREMAP_FIXED:
        # The target is unmapped before the source is looked at (mremap_to), which may be the same.
        target = a[4], a[4] + a[2]
        low, high = (min(low, target[0]), max(high, target[1])) if a[1] else target
    low, high = low & ~(PAGE - 1), min(round_up(high), TASK_SIZE)
    if low >= high:
        return b""
    raw = procfs.read_fd(tracee.mm.maps_fd)
    return wire.extra({"x": [low, high, _overlapping(raw, low, high)]}) if raw else b""


def _whole_line(tracee: Tracee, address: int) -> bytes:
    """The line that holds an address, as the range it covers (shmat, io_setup, vdso)."""
    lines = _overlapping(procfs.read_fd(tracee.mm.maps_fd), address, address + 1)
    if not lines:
        return b""
    start, end = (int(v, 16) for v in lines[0].split(None, 1)[0].split("-"))
    return wire.extra({"x": [max(start, address), end, lines]})


def _normalise(tracee: Tracee, name: str, a: list[int]) -> tuple[str, list[int], bytes]:
    """i386 calls as their 64-bit namesakes: mmap2 counts pages, old_mmap points to its
    arguments, ipc multiplexes shmat (21) and shmdt (22).
    """
    if name == "mmap2":
        a = [*a[:5], a[5] * 4096]
        raw, name = "mmap2", "mmap"
    elif name == "old_mmap":
        words = tracee.mm.bytes_at(a[0], 24)
        if len(words) == 24:
            a = [int.from_bytes(words[i : i + 4], "little") for i in range(0, 24, 4)]
        raw, name = "old_mmap", "mmap"
    else:
        raw = "ipc"
        name = {21: "shmat", 22: "shmdt"}.get(a[0] & 0xFFFF, "")
        a = [a[1], a[4], a[2], 0, 0, 0] if name == "shmat" else [a[4], 0, 0, 0, 0, 0]
    return name, a, wire.extra({"args": a, "call": name, "raw": raw})


def _overlapping(raw: bytes, low: int, high: int) -> list[str]:
    out = []
    for line in decode_maps(raw):
        start, _, rest = line.partition("-")
        if int(start, 16) < high and int(rest.split(" ", 1)[0], 16) > low:
            out.append(line)
    return out
