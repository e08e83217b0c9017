# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read from a stopped target beside the call itself: snapshots, chunk headers, read-backs.

Rule: derive what is deterministic, read back what is not. Read back are the identity of files and
of shared and special mappings, and the range of a failed call (mprotect stops at a hole with the
part before it changed; `mmap_region` has unmapped a MAP_FIXED target before a driver refuses).
"""

from __future__ import annotations

import os
import struct
import time
from typing import Any

from memtrace.collect import procfs, wire
from memtrace.collect.abi import I386
from memtrace.collect.channel import Channel
from memtrace.collect.options import Options
from memtrace.collect.ptrace import ENTRY_ARG0, event_message
from memtrace.collect.tracee import Mm, Tracee
from memtrace.trace.mapping import decode_maps
from memtrace.trace.sizes import PAGE, round_up

TASK_SIZE = 1 << 47
MAP_FIXED, MAP_ANONYMOUS, MAP_HUGETLB = 0x10, 0x20, 0x40000
MREMAP_FIXED = 2
SHM_REMAP = 0o40000
PR_SET_VMA = 0x53564D41

_RANGE_CALLS = frozenset(
    ("munmap", "mprotect", "pkey_mprotect", "mremap", "remap_file_pages", "shmat", "mmap")
)
_PRESENT = 3 << 62  # pagemap: present or swapped


class Observer:
    """Reads through an mm's kept-open descriptors and queues messages."""

    def __init__(self, channel: Channel, options: Options) -> None:
        self.channel = channel
        self.options = options
        self.query = procfs.MapsQuery()

    # -- snapshots ----------------------------------------------------------------------------

    def due(self, mm: Mm, now: int) -> str:
        """Why a snapshot is due at this exit stop ("": none is). `now` is CLOCK_MONOTONIC ns."""
        if self.channel.wishes[mm.slot]:
            self.channel.wishes[mm.slot] = 0
            return "statm"
        options = self.options
        since = mm.calls - mm.last_snap_calls
        if options.every_calls:
            return "periodic" if since >= options.every_calls else ""
        if now < mm.next_snap:
            return ""
        if since < options.min_calls:
            mm.next_snap = now + options.every_ns
            return ""
        return "periodic"

    def snapshot(self, mm: Mm, tracee: Tracee, why: str) -> bool:
        """Queue the kernel's own map of the mm. The tracee is stopped and no call of the mm in
        flight.
        """
        begun = time.monotonic_ns()
        self.peek_all(mm)
        raw = procfs.read_fd(mm.maps_fd)
        if why == "exit" and event_message(tracee.tid) is None:
            return False  # SIGKILLed while it was read: the text may be torn
        if not raw:
            return False
        channel = self.channel
        fields: dict[str, Any] = {
            "rec": "snap", "t": begun - channel.start_ns, "mm": mm.id, "pid": tracee.pid,
            "tid": tracee.tid, "why": why,
        }  # fmt: skip
        counts = procfs.statm(self.statm(mm, tracee))
        if counts is not None:
            fields["vm"], fields["rss"] = counts
        stat = procfs.stat_fields(tracee.pid)
        if len(stat) > 10:
            fields["minflt"], fields["majflt"] = int(stat[7]), int(stat[9])
        if why == "exit":
            (hwm,) = procfs.status_field(tracee.tid, "VmHWM")
            if hwm is not None:
                fields["hwm"] = hwm * 1024 // PAGE
        channel.send(wire.life(fields, raw))
        mm.last_snap_calls = mm.calls
        # At most about one percent of the time goes into snapshots, however large the map.
        cost = time.monotonic_ns() - begun
        if not self.options.every_calls:
            mm.next_snap = begun + max(self.options.every_ns, 100 * cost)
        return True

    def statm(self, mm: Mm, tracee: Tracee) -> bytes:
        """The statm line; through this task when the one it was opened on has exited."""
        try:
            text = os.pread(mm.statm_fd, 64, 0)
            if text[:1] != b"0":
                return text
        except OSError:
            pass
        mm.reopen_statm(tracee.tid)
        try:
            return os.pread(mm.statm_fd, 64, 0)
        except OSError:
            return b""

    # -- chunk headers --------------------------------------------------------------------------

    def peek(self, tracee: Tracee, *, final: bool) -> None:
        """Read the words at a fresh mapping and queue them. Only a present page is read, so the
        peek faults nothing in and cannot block in userfaultfd."""
        mm = tracee.mm
        if tracee.fresh is None:
            return
        address, length, call = tracee.fresh
        words = self._words(mm, address, 8 if tracee.abi is I386 else 0)
        word0, word1 = words or (0, 0)
        is_chunk = bool(word1 & 2) and (word1 & ~7) in (length, length - 16, length - 8)
        if final or is_chunk:
            tracee.fresh = None
            mm.fresh.pop(tracee.tid, None)
            if words is not None:
                self.channel.out += wire.HEADER_MESSAGE.pack(
                    wire.HEADER, mm.id, call, word0, word1 if is_chunk else 0
                )

    def _words(self, mm: Mm, address: int, offset: int) -> tuple[int, int] | None:
        try:
            entry = os.pread(mm.pagemap_fd, 8, address // PAGE * 8)
            if len(entry) == 8 and not int.from_bytes(entry, "little") & _PRESENT:
                return None
            data = os.pread(mm.mem_fd, 16, address + offset)
        except OSError:
            return None
        if len(data) < 16:
            return None
        if offset:
            word0, word1 = struct.unpack_from("<II", data)
            return word0, word1
        word0, word1 = struct.unpack("<QQ", data)
        return word0, word1

    def peek_before(self, tracee: Tracee) -> None:
        """At a call's entry: the thread's own fresh mapping, and any other the call touches."""
        if tracee.fresh is not None:
            self.peek(tracee, final=True)
        mm = tracee.mm
        if mm.fresh:
            e = tracee.entry
            low = e[ENTRY_ARG0]
            high = low + e[ENTRY_ARG0 + 1]
            for other in list(mm.fresh.values()):
                if (
                    other.fresh is not None
                    and low < other.fresh[0] + other.fresh[1]
                    and other.fresh[0] < high
                ):
                    self.peek(other, final=True)

    def peek_all(self, mm: Mm) -> None:
        """Before a snapshot."""
        for other in list(mm.fresh.values()):
            self.peek(other, final=False)

    # -- read-backs ---------------------------------------------------------------------------

    def after_failure(self, tracee: Tracee, name: str, a: list[int]) -> bytes:
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
            low, high = min(low, a[4]), max(high, a[4] + a[2])
        low, high = low & ~(PAGE - 1), min(round_up(high), TASK_SIZE)
        if low >= high or low < 0 or high - low < PAGE or (name != "shmat" and a[1] == 0):
            return b""
        lines = _overlapping(procfs.read_fd(tracee.mm.maps_fd), low, high)
        return wire.extra({"x": [low, high, lines]})

    def after_mapping(self, tracee: Tracee, address: int, length: int, flags: int) -> bytes:
        """After an mmap whose backing the arguments do not tell: its line, and its true end."""
        mm = tracee.mm
        high = address + round_up(length)
        found = self.query.covering(mm.maps_fd, address) if self.query.available else None
        if found is not None:
            line, page = found
            if page > PAGE:
                high = address + round_up(length, page)
            lines = [line.decode("utf-8", "backslashreplace")]
        else:
            lines = _overlapping(procfs.read_fd(mm.maps_fd), address, high)
            if lines and (flags & MAP_HUGETLB or "hugepage" in lines[-1]):
                high = max(high, int(lines[-1].split("-", 2)[1].split()[0], 16))
        return wire.extra({"b": [address, high, lines]})

    def whole_line(self, tracee: Tracee, address: int) -> bytes:
        """The line that holds an address, as the range it covers (shmat, io_setup, vdso)."""
        lines = _overlapping(procfs.read_fd(tracee.mm.maps_fd), address, address + 1)
        if not lines:
            return b""
        start, end = (int(v, 16) for v in lines[0].split(None, 1)[0].split("-"))
        return wire.extra({"x": [max(start, address), end, lines]})

    def word_at(self, mm: Mm, address: int, size: int = 8) -> int | None:
        """An integer in the target's memory."""
        data = self.bytes_at(mm, address, size)
        return int.from_bytes(data, "little") if len(data) == size else None

    def bytes_at(self, mm: Mm, address: int, size: int) -> bytes:
        """Up to `size` bytes of the target's memory; fewer at an unmapped page."""
        try:
            return os.pread(mm.mem_fd, size, address)
        except (OSError, OverflowError):
            return b""


def _overlapping(raw: bytes, low: int, high: int) -> list[str]:
    out = []
    for line in decode_maps(raw):
        start, _, rest = line.partition("-")
        if int(start, 16) < high and int(rest.split(" ", 1)[0], 16) > low:
            out.append(line)
    return out
