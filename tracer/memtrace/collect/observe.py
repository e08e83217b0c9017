# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read of a stopped target beside its calls: snapshots, headers of fresh chunks."""

from __future__ import annotations

import errno
import os
import resource
import struct
import time
from typing import TYPE_CHECKING, Any

from memtrace.collect import procfs, wire
from memtrace.collect.abi import I386, NATIVE
from memtrace.collect.channel import Channel
from memtrace.collect.freed import MOST, MOST_I386, freed_chunk
from memtrace.collect.mallocng import meta_of
from memtrace.collect.options import NEVER, Options
from memtrace.collect.ptrace import (
    ENTRY_ARG0,
    ENTRY_NR,
    ENTRY_OP,
    EVENT_EXIT,
    event_message,
)
from memtrace.collect.residency import read_smaps, residency
from memtrace.collect.tracee import Mm, Tracee
from memtrace.trace.sizes import PAGE

if TYPE_CHECKING:
    from memtrace.collect.walking import Walks

pread = os.pread  # bound: it is on the way of every large munmap
_PRESENT = 3 << 62  # pagemap: present or swapped
_FILES_OF_MM, _OTHER_FILES = 4, 64  # descriptors
_MMAP = {NATIVE.audit: 9, I386.audit: 192}  # mmap2: the same arguments, pages of offset
_BRK = {NATIVE.audit: 12, I386.audit: 45}
_LAST = ("exec", "exit", "detach")
_ENDS = ("exit", "detach")
_PROT_RW, _PLAIN_ANON = 3, 0x22
#: What `alloc_meta` calls for one more page of metadata, and how many of them there are at most.
_FOR_META, _MMAPS, _META_CALLS = ("brk", "mprotect"), ("mmap", "mmap2"), 4


class Observer:
    """Reads through an mm's kept-open descriptors and queues messages."""

    def __init__(self, channel: Channel, options: Options) -> None:
        self.channel = channel
        self.options = options
        #: None: heaps are not walked.
        self.walks: Walks | None = None
        if options.heap_walk:
            from memtrace.collect.walking import Walks

            self.walks = Walks(channel)
        self._open: dict[int, Mm] = {}
        self._query = procfs.MapsQuery()
        #: Asked after a read at a task's end: whether it still stands where it was stopped.
        self.still_stands = _in_exit_stop
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_open = max(2, (soft - _OTHER_FILES) // _FILES_OF_MM)

    # -- descriptors --------------------------------------------------------------------------

    def open(self, mm: Mm, tid: int) -> None:
        """Open the mm's files through a task that uses it now.

        Where descriptors are few, the mm opened longest ago gives its own up until its next stop.
        """
        self._open.pop(mm.id, None)
        while len(self._open) >= self._most_open:
            self._open.pop(next(iter(self._open))).close()
        self._open[mm.id] = mm
        refused = mm.open(tid)
        if refused and not mm.blind:
            # Not dumpable, and no CAP_SYS_PTRACE (`ptrace_may_access`).
            mm.blind = True
            self.channel.send(wire.life({
                "rec": "lost", "t": self.channel.now(), "mm": mm.id,
                "why": f"the map of process {mm.pid} cannot be read: {refused}",
            }))  # fmt: skip

    def reach(self, mm: Mm, tid: int) -> None:
        """Open the mm's files again if they had to be given up."""
        if mm.maps_fd < 0 and mm.id and not mm.blind:
            self.open(mm, tid)

    def close(self, mm: Mm) -> None:
        """The mm is no more."""
        self._open.pop(mm.id, None)
        mm.close()

    # -- calls --------------------------------------------------------------------------------

    def call(
        self, tracee: Tracee, ret: int, t1: int, statm: bytes, extra: bytes, flags: int = 0
    ) -> bytes:
        """The message of a call that has ended: `tracee.entry`, `stack` and `t0` are of its entry.

        What the call may have made malloc's is looked for from now on (`peek`).
        """
        mm, stack, e = tracee.mm, tracee.stack, tracee.entry
        mm.calls += 1
        if (
            e[ENTRY_NR] == _MMAP.get(e[ENTRY_OP] >> 32) and not -4096 < ret < 0 and not flags
            and e[7] == _PLAIN_ANON and e[6] == _PROT_RW and not e[4]
            and self.options.evidence
        ):  # fmt: skip
            tracee.fresh = (ret if tracee.abi is NATIVE else ret & 0xFFFFFFFF, e[5], mm.calls)
            mm.fresh[tracee.tid] = tracee
        head = wire.CALL_HEAD.pack(
            wire.CALL, flags, len(statm), len(stack), len(extra), tracee.tid, mm.id, tracee.t0,
            t1, ret,
        )  # fmt: skip
        return b"".join((head, bytes(e), stack, statm, extra))

    # -- heaps --------------------------------------------------------------------------------

    def broke(self, mm: Mm, brk: int) -> None:
        """A brk call has returned where the break is."""
        if self.walks is not None:
            self.walks.moved(mm, brk)

    def walk(self, mm: Mm, tracee: Tracee) -> None:
        """The walk that is due. No call of the mm is in flight."""
        if self.walks is not None:
            self.reach(mm, tracee.tid)
            self.walks.due(mm, tracee)

    # -- snapshots ----------------------------------------------------------------------------

    def due(self, mm: Mm, now: int, ret: int = 0) -> str:
        """Why a snapshot is due at this exit stop of a call that returned `ret` ("": none is).
        `now` is CLOCK_MONOTONIC ns.
        """
        options = self.options
        if ret == -errno.ENOMEM and options.every_ns != NEVER:
            # How many mappings there are may be why (`sysctl_max_map_count`).
            again = now >= mm.next_snap and not options.every_calls
            first, mm.was_short = not mm.was_short, True
            if first or again:
                return "enomem"
        if self.channel.wishes[mm.slot]:
            self.channel.wishes[mm.slot] = 0
            return "statm"
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
        flight. Returns whether it was read.
        """
        begun = time.monotonic_ns()
        if mm.in_doubt:
            if why == "exit":
                return False  # its last call stands as unfinished, and nothing comes after it
            self.tell_doubt(mm)
        self.reach(mm, tracee.tid)
        self.peek_all(mm)
        if self.walks is not None and why in _LAST:
            self.walks.last(mm, tracee, why, self.still_stands if why == "exit" else None)
            begun = time.monotonic_ns()
        raw = procfs.read_fd(mm.maps_fd)
        smaps = read_smaps(tracee.tid, raw) if why in _ENDS else b""
        if why == "exit" and not self.still_stands(tracee):
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
        if smaps:
            fields |= residency(raw, smaps, mm.pagemap_fd)
        channel.send(wire.life(fields, raw))
        mm.last_snap_calls = mm.calls
        # At most about one percent of the time goes into snapshots, however large the map.
        cost = time.monotonic_ns() - begun
        if not self.options.every_calls:
            mm.next_snap = begun + max(self.options.every_ns, 100 * cost)
        return True

    def look_before(self, mm: Mm, tracee: Tracee) -> None:
        """A call is about to be made, alone, on pages into which a stack may have grown: by page
        faults, which no call tells, and of which its result would only show what is left.
        """
        self.reach(mm, tracee.tid)
        if mm.growing_from:
            found = self._query.covering(mm.maps_fd, mm.in_stack)
            start = int(found[0].partition(b"-")[0], 16) if found is not None else 0
            if start and start == mm.stack_at:
                return
            mm.stack_at = start
        self.snapshot(mm, tracee, "stack")

    def tell_doubt(self, mm: Mm) -> None:
        """The mm lives on after calls of killed threads of which nothing is known."""
        self.channel.send(wire.life({
            "rec": "lost", "t": self.channel.now(), "mm": mm.id, "count": mm.in_doubt,
            "why": "a thread was killed inside a call",
        }))  # fmt: skip
        mm.in_doubt = 0

    def statm(self, mm: Mm, tracee: Tracee) -> bytes:
        """The statm line; through this task when the one it was opened on has exited."""
        self.reach(mm, tracee.tid)
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

    def peek(
        self, tracee: Tracee, *, final: bool, next_call: bool = False, own: bool = True
    ) -> None:
        """Read the words at a fresh mapping and queue what they prove: the size word of a chunk of
        glibc's, or the address of a group's meta of musl's (`mallocng`), whose low bits are 0. Only
        a present page is read, so the peek faults nothing in and cannot block in userfaultfd.

        Args:
            tracee: whose mapping it is.
            final: look no more, whatever is there.
            next_call: its own next call begins; if that may be musl's malloc making room for the
                meta, before it writes to what it has mapped, a page that is not there is waited
                for.
            own: it has gone on since its mmap. If not, it may be on its way to write a header, and
                what is not there is not told.
        """
        mm = tracee.mm
        if tracee.fresh is None:
            return
        address, length, call = tracee.fresh
        data, i386 = self._first(mm, address), tracee.abi is I386
        if data is None:
            waits = next_call and mm.calls - call < _META_CALLS and _may_be_for_meta(tracee)
            if final and not waits:
                tracee.fresh = None
                mm.fresh.pop(tracee.tid, None)
                if own:
                    mm.no_chunk = tracee.tid, address, mm.calls
            return
        word0, word1 = struct.unpack_from("<II", data, 8) if i386 else struct.unpack("<QQ", data)
        of_glibc = not length & 4095  # musl's malloc leaves the rounding to the kernel
        is_chunk = of_glibc and word1 & 2 and (word1 & ~7) in (length, length - 16, length - 8)
        if final or is_chunk:
            tracee.fresh = None
            mm.fresh.pop(tracee.tid, None)
            if own and word1 & 7 != 2:
                mm.no_chunk = tracee.tid, address, mm.calls
            if not is_chunk:  # a meta's address is a multiple of 8
                found = not data[0] & 7 and meta_of(address, length, data, mm.present, i386=i386)
                word1 = found or 0
            if word1 or (of_glibc and own):
                self.channel.out += wire.HEADER_MESSAGE.pack(wire.HEADER, mm.id, call, word0, word1)

    def _first(self, mm: Mm, address: int) -> bytes | None:
        """The first 16 bytes of a mapping, if its page is there."""
        try:
            entry = os.pread(mm.pagemap_fd, 8, address // PAGE * 8)
            if len(entry) == 8 and not int.from_bytes(entry, "little") & _PRESENT:
                return None
            data = os.pread(mm.mem_fd, 16, address)
        except OSError:
            return None
        return data if len(data) == 16 else None

    def freed(self, tracee: Tracee) -> None:
        """At the entry of a munmap of more than `Mm.freed`: the size of the chunk, if it is one."""
        mm, e = tracee.mm, tracee.entry
        address, length = e[ENTRY_ARG0], e[ENTRY_ARG0 + 1]
        if (address | length) & (PAGE - 1) or mm.no_chunk == (tracee.tid, address, mm.calls):
            return
        i386 = tracee.abi is I386
        try:  # what is no chunk is told apart quickly: the target waits
            if (
                not pread(mm.pagemap_fd, 8, address // PAGE * 8)[7] & 0x80
                or pread(mm.mem_fd, 1, address + (12 if i386 else 8))[0] & 7 != 2
            ):
                return
        except (OSError, OverflowError, IndexError):
            return
        words = freed_chunk(address, length, mm.present, i386=i386)
        if words is not None:
            size = (words[1] or words[0]) & ~7
            if size <= (MOST_I386 if i386 else MOST):
                mm.freed = max(mm.freed, size)
            self.channel.out += wire.FREED_MESSAGE.pack(wire.FREED, mm.id, address, *words)

    def look_at_chunks(self, tracee: Tracee, call: str) -> None:
        """At a call's entry: what of malloc's mapped chunks is to be read before it is made."""
        mm = tracee.mm
        if mm.fresh:
            self.peek_before(tracee)
        if call == "munmap" and tracee.entry[ENTRY_ARG0 + 1] > mm.freed:
            self.freed(tracee)

    def peek_before(self, tracee: Tracee) -> None:
        """At a call's entry: the thread's own fresh mapping, and any other the call touches."""
        if tracee.fresh is not None:
            self.peek(tracee, final=True, next_call=True)
        mm, e = tracee.mm, tracee.entry
        if mm.fresh and e[ENTRY_NR] != _BRK.get(e[ENTRY_OP] >> 32):  # it has one argument
            low = e[ENTRY_ARG0]
            high = low + e[ENTRY_ARG0 + 1]
            for other in list(mm.fresh.values()):
                if (
                    other is not tracee
                    and other.fresh is not None
                    and low < other.fresh[0] + other.fresh[1]
                    and other.fresh[0] < high
                ):
                    self.peek(other, final=True, own=False)

    def peek_all(self, mm: Mm) -> None:
        """Before a snapshot."""
        for other in list(mm.fresh.values()):
            self.peek(other, final=False)


def _may_be_for_meta(tracee: Tracee) -> bool:
    """Whether the call that begins is one by which `alloc_meta` gets a page: brk, a reservation, or
    the opening of a part of one. A chunk of glibc's has its header before.
    """
    e = tracee.entry
    name = tracee.abi.names.get(e[ENTRY_NR], "")
    return name in _FOR_META or (name in _MMAPS and not e[6])


def _in_exit_stop(tracee: Tracee) -> bool:
    return event_message(tracee.tid, EVENT_EXIT) is not None
