# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read back after a call, because its arguments do not tell its effect.

Rule: derive what is deterministic, read back what is not. Read back are the identity of files and
of shared and special mappings, and the range of a failed call (mprotect stops at a hole with the
part before it changed; `mmap_region` has unmapped a MAP_FIXED target before a driver refuses).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from memtrace.collect import procfs, seeding, wire
from memtrace.collect.abi import ABIS, ARCH_MAP_VDSO, NATIVE
from memtrace.collect.ptrace import ENTRY_ARG0, ENTRY_NR, ENTRY_OP
from memtrace.collect.tracee import Tracee
from memtrace.space.address_space import READ_IMPLIES_EXEC
from memtrace.space.calls import (
    EINVAL,
    INT,
    MADV_DOFORK,
    MADV_DONTFORK,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MREMAP_FIXED,
    PR_SET_MM,
    PR_SET_MM_MAP,
    PR_SET_VMA,
    PROT_GROWSDOWN,
)
from memtrace.trace.mapping import decode_maps
from memtrace.trace.sizes import PAGE, round_up

TASK_SIZE = 1 << 47
MAP_HUGETLB = 0x40000
SHM_REMAP = 0o40000

#: mmap flags under which the arguments tell the backing: private, anonymous, ordinary pages that do
#: not grow.
BACKING_MASK, PLAIN_ANON = 0x4012F, 0x22
#: Where an mremap begins and ends, if huge pages may lie there: of these it rounds sizes up.
_HUGE = 2 << 20
HUGE_MASK = _HUGE - 1
#: Calls whose successful effect is always read back.
ALWAYS = frozenset((
    "shmat", "shmdt", "io_setup", "map_shadow_stack", "arch_prctl", "prctl", "remap_file_pages",
    "personality", "process_madvise", "io_destroy",
))  # fmt: skip

_RANGE_CALLS = frozenset(
    ("munmap", "mprotect", "pkey_mprotect", "mremap", "remap_file_pages", "shmat", "mmap")
)
_NO_MAP = frozenset(
    ("mlock", "mlock2", "munlock", "mlockall", "munlockall", "mseal", "personality")
)
_LINES_TELL, _PROTECTING = ("remap_file_pages",), ("mprotect", "pkey_mprotect")
_ADVICE = {"madvise": 2, "process_madvise": 3}  # which argument it is
_FORK_ADVICE = (MADV_DONTFORK, MADV_DOFORK)
_LAYOUT = struct.Struct("<32xQQQ")  # in struct prctl_mm_map
_UNCHANGED = 0xFFFFFFFF  # personality(2): only asks
_VDSO = "[vdso]"
_PLAIN_I386 = frozenset(("mmap2", "old_mmap", "ipc"))


def changes_no_map(name: str, args: Sequence[int]) -> bool:
    """Whether no effect of the call shows in maps, or in what a child inherits."""
    return name in _NO_MAP or (name in _ADVICE and not decides_what_is_inherited(name, args))


def decides_what_is_inherited(name: str, args: Sequence[int]) -> bool:
    """Whether the call is an advice that keeps pages from children, or gives them back."""
    return name in _ADVICE and args[_ADVICE[name]] & INT in _FORK_ADVICE


class ReadBack:
    """Reads through the mm of a tracee that stands at a call's exit."""

    def __init__(self) -> None:
        self._query = procfs.MapsQuery()

    def after(self, tracee: Tracee, ret: int) -> bytes:
        """What the arguments do not tell, for this call and result, as a message's extra."""
        found = self._after(tracee, ret)
        if tracee.mm.reads_exec:
            own = wire.extra({"personality": procfs.personality(tracee.tid)})
            found = _joined(found, own)
        return found

    def _after(self, tracee: Tracee, ret: int) -> bytes:
        e = tracee.entry
        abi = ABIS.get(e[ENTRY_OP] >> 32) or NATIVE
        name = tracee.name or NATIVE.names.get(e[ENTRY_NR], "")
        a = [e[ENTRY_ARG0 + i] for i in range(6)]
        name, a, fields = normalise(tracee, name, a)
        if -4096 < ret < 0:
            if decides_what_is_inherited(name, a):
                return _dontfork(tracee, 0, TASK_SIZE)
            if name == "prctl" and a[0] & INT == PR_SET_VMA and ret != EINVAL:
                # It names one VMA after the other, up to one of a file, and all but the holes
                # (`madvise_walk_vmas`); an EINVAL is of its arguments.
                low = a[2] & -PAGE
                return _lines(tracee, low, min(low + round_up(a[3]), TASK_SIZE))
            found = _after_failure(tracee, name, a)
            if name == "mremap" and found and a[3] & MREMAP_FIXED:
                # It may have moved some mappings and failed at the next (`remap_move`): VM_DONTCOPY
                # went along.
                found = _joined(found, _dontfork(tracee, 0, TASK_SIZE))
            return _joined(found, fields)
        address = ret & 0xFFFFFFFF if abi.word == 4 else ret
        if name == "brk":
            return b"" if tracee.mm.brk_told else _first_brk(tracee, a[0], address)
        if name == "mmap":
            if a[3] & MAP_GROWSDOWN:
                tracee.mm.growing_from = 0
            if a[3] & BACKING_MASK & ~MAP_GROWSDOWN == PLAIN_ANON:
                return fields
            found = self._after_mapping(tracee, address, a[1], a[3])
            if not a[3] & MAP_ANONYMOUS and not procfs.is_regular(tracee.tid, a[4] & 0xFFFFFFFF):
                # A driver may have set VM_DONTCOPY (`perf_mmap`).
                found = _joined(found, _dontfork(tracee, address, address + round_up(a[1])))
            return _joined(found, fields)
        if name == "shmat" and fields:  # ipc(2) writes the address to its fourth argument
            address = int.from_bytes(tracee.mm.bytes_at(e[ENTRY_ARG0 + 3], 4), "little")
        if name == "shmat" or name == "map_shadow_stack":
            return _joined(_whole_line(tracee, address), fields)
        if name == "shmdt":
            return _joined(_not_detached(tracee, a[0]), fields)
        if name in _PROTECTING and a[2] & PROT_GROWSDOWN:
            low, high = a[0] & -PAGE, (a[0] & -PAGE) + round_up(a[1])
            return _joined(_lines(tracee, _start_of(tracee, low), high), fields)
        if name in _LINES_TELL or (name in _PROTECTING and tracee.mm.reads_exec):
            # READ_IMPLIES_EXEC leaves alone what lies on a file system mounted noexec.
            low = a[0] & -PAGE
            return _joined(_lines(tracee, low, low + round_up(a[1])), fields)
        if name == "mremap" and not (a[0] | address) & HUGE_MASK:
            return _joined(self._after_moving(tracee, a, address), fields)
        if name == "arch_prctl" and a[0] & INT in ARCH_MAP_VDSO:
            return _vdso(tracee)
        if name == "process_madvise" and decides_what_is_inherited(name, a):
            return _dontfork(tracee, 0, TASK_SIZE)  # of nobody else (process_madvise_remote_valid)
        asks = a[0] & INT == _UNCHANGED
        if name == "personality" and (a[0] | ret) & READ_IMPLIES_EXEC and not asks:
            tracee.mm.reads_exec = True
            return fields
        if name == "io_setup":
            context = tracee.mm.bytes_at(a[1], abi.word)
            return _whole_line(tracee, int.from_bytes(context, "little")) if context else b""
        if name == "io_destroy":
            return _hole_from(tracee, a[0])
        if name == "prctl" and a[0] & INT == PR_SET_MM and a[1] & INT == PR_SET_MM_MAP:
            return _layout(tracee, a[2])
        if name == "prctl" and a[0] & INT == PR_SET_VMA:
            text = tracee.mm.bytes_at(a[4], 80).split(b"\0")[0] if a[4] else b""
            return wire.extra({"name": text.decode("utf-8", "backslashreplace")})
        return fields

    def unfinished(self, tracee: Tracee) -> bytes:
        """The same for a call that never returned: only what its arguments mean."""
        e = tracee.entry
        return normalise(tracee, tracee.name, [e[ENTRY_ARG0 + i] for i in range(6)])[2]

    def vanished(self, tracee: Tracee) -> bytes | None:
        """The same for a call of a task that was killed in it and never stopped again, while the
        map stands still; None if what the call may have done is not to be known.
        """
        name = tracee.name or NATIVE.names.get(tracee.entry[ENTRY_NR], "")
        a = [tracee.entry[ENTRY_ARG0 + i] for i in range(6)]
        if changes_no_map(name, a):
            return b""
        readable = name in _RANGE_CALLS and name != "mremap" and tracee.mm.keeper is not None
        return _after_failure(tracee, name, a) or None if readable else None

    def _after_moving(self, tracee: Tracee, a: list[int], to: int) -> bytes:
        """After an mremap between places where huge pages may lie."""
        fd = tracee.mm.maps_fd
        found = self._query.covering(fd, to) if self._query.available else None
        page = _HUGE if found is None else found[1]
        if page == PAGE:
            return b""
        ends = a[0] + round_up(a[1], page), to + round_up(a[2], page)
        return _lines(tracee, min(a[0], to), max(ends))

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
    if name in _PROTECTING and a[2] & PROT_GROWSDOWN:
        low = _start_of(tracee, low)
    return _lines(tracee, low, high)


def _start_of(tracee: Tracee, address: int) -> int:
    """Where PROT_GROWSDOWN began: at the start of the VMA (`do_mprotect_pkey`), which flags that no
    map shows (VM_LOCKED, VM_DONTDUMP) may have cut off from others like it. The line that holds the
    address now begins there, or below if that has become one with it.
    """
    for line in _overlapping(procfs.read_fd(tracee.mm.maps_fd), address, address + 1):
        return int(line.partition("-")[0], 16)
    return address


def _lines(tracee: Tracee, low: int, high: int) -> bytes:
    """The lines of a range as they are now."""
    raw = procfs.read_fd(tracee.mm.maps_fd) if low < high else b""
    return wire.extra({"x": [low, high, _overlapping(raw, low, high)]}) if raw else b""


def _vdso(tracee: Tracee) -> bytes:
    """[vdso] and its data, which lie together: arch_prctl answers its size, not its place, and
    there was none before (`map_vdso_once`).
    """
    raw = procfs.read_fd(tracee.mm.maps_fd)
    lines = [line for line in decode_maps(raw) if line.endswith(_VDSO) or "[vvar" in line]
    if not lines:
        return b""
    low, high = lines[0].partition("-")[0], lines[-1].partition("-")[2].partition(" ")[0]
    return wire.extra({"x": [int(low, 16), int(high, 16), lines]})


def _dontfork(tracee: Tracee, low: int, high: int) -> bytes:
    """What of a range a child does not get: no other file than smaps shows it."""
    smaps = procfs.read(f"/proc/{tracee.tid}/smaps")
    if not smaps:
        return b""
    ranges = [(s, e) for s, e in seeding.vm_flags(smaps)[0] if s < high and e > low]
    return wire.extra({"dontfork": [low, high, ranges]})


def _layout(tracee: Tracee, address: int) -> bytes:
    """What prctl(PR_SET_MM_MAP) was given: where the break is, and what [heap] and [stack] are."""
    words = tracee.mm.bytes_at(address, _LAYOUT.size)
    if len(words) < _LAYOUT.size:
        return b""
    layout = _LAYOUT.unpack(words)
    tracee.mm.in_stack = layout[2]
    return wire.extra({"layout": layout})


def _whole_line(tracee: Tracee, address: int) -> bytes:
    """The line that holds an address, as the range it covers (shmat, io_setup)."""
    lines = _overlapping(procfs.read_fd(tracee.mm.maps_fd), address, address + 1)
    if not lines:
        return b""
    start, end = (int(v, 16) for v in lines[0].split(None, 1)[0].split("-"))
    return wire.extra({"x": [max(start, address), end, lines]})


def _first_brk(tracee: Tracee, asked: int, brk: int) -> bytes:
    """Around the new break, if it may have moved for the first time since the attach: from where,
    nobody knows. What it has mapped is one VMA with the page below the break, or a part of one
    (`do_brk_flags`); from what it has unmapped nothing is left, up to the next mapping.
    """
    tracee.mm.brk_told = True
    end = round_up(brk)
    if asked != brk or end < PAGE:
        return b""
    low, high = end - PAGE, TASK_SIZE
    for line in _overlapping(procfs.read_fd(tracee.mm.maps_fd), low, TASK_SIZE):
        start, stop = (int(v, 16) for v in line.split(None, 1)[0].split("-"))
        if start < end:
            low = start
        high = max(start, end)
        if stop > end:
            break
    else:
        high = TASK_SIZE
    return _lines(tracee, low, high)


def _hole_from(tracee: Tracee, address: int) -> bytes:
    """What a ring of aio has left behind: nothing, up to the next mapping. Its size went with it,
    and whatever lay in its range, somebody else's too (`kill_ioctx`).
    """
    raw = procfs.read_fd(tracee.mm.maps_fd)
    starts = (int(line.partition("-")[0], 16) for line in _overlapping(raw, address, TASK_SIZE))
    end = next(starts, TASK_SIZE)
    return wire.extra({"x": [address, end, []]}) if raw and address < end else b""


def _not_detached(tracee: Tracee, address: int) -> bytes:
    """What still lies where a piece of the segment at `address` would: another attachment's, moved
    there, or beyond the segment's size. `struct file` tells (`ksys_shmdt`), which no map shows.
    """
    raw = procfs.read_fd(tracee.mm.maps_fd)
    left = []
    for line in _overlapping(raw, address, TASK_SIZE):
        span, _, offset, _, _, *path = line.split(None, 5)
        start, end = (int(v, 16) for v in span.split("-"))
        if path and path[0].startswith("/SYSV") and start - address == int(offset, 16):
            left.append((start, end))
    if not left:
        return b""
    low, high = left[0][0], left[-1][1]
    return wire.extra({"x": [low, high, _overlapping(raw, low, high)]})


def normalise(tracee: Tracee, name: str, a: list[int]) -> tuple[str, list[int], bytes]:
    """Some i386 calls as their 64-bit namesakes, and how a message says that: mmap2 counts pages,
    old_mmap points to its arguments, ipc multiplexes shmat (21) and shmdt (22).
    """
    if name not in _PLAIN_I386:
        return name, a, b""
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
