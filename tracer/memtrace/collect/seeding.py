# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read of an address space that is older than the trace: the `attach` record.

Read while no memory call of that mm is in flight; its threads may run. Page faults may make stacks
grow meanwhile, which the next comparison imports.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from memtrace.collect import procfs
from memtrace.collect.mallocng import groups
from memtrace.collect.tracee import Mm
from memtrace.trace.mapping import parse_line
from memtrace.trace.sizes import PAGE

Range = tuple[int, int]

_IS_MMAPPED, _FLAGS = 2, 7
_NOT_COUNTED = 16
_PRESENT = 3 << 62  # pagemap: present or swapped
_MAX_CHUNKS = 100_000


def attach_fields(mm: Mm, tid: int, tids: Iterable[int]) -> tuple[dict[str, Any], bytes]:
    """The fields of an `attach` record, `rec`, `t` and `why` left out, and the raw maps text.

    Args:
        mm: its files are open.
        tid: a living task of it; the leader may have ended.
        tids: all of the process that are traced.
    """
    pid = mm.pid
    raw = procfs.read_fd(mm.maps_fd)
    fields = procfs.exec_facts(tid)
    counts = procfs.statm(procfs.read(f"/proc/{tid}/statm"))
    if counts is not None:
        fields["vm"], fields["rss"] = counts
    fields |= {"pid": pid, "mm": mm.id, "tids": sorted(tids), "stacks": sorted(mm.stacks.items())}
    fields["dontfork"], fields["growsdown"] = vm_flags(procfs.read(f"/proc/{tid}/smaps"))
    fields["chunks"] = list(chunks(malloc_shaped(raw), lambda at: size_word(mm, at)))
    fields["groups"] = list(groups(malloc_shaped(raw), mm.present))
    if overwritten(procfs.read(f"/proc/{tid}/environ")):
        fields["env_lost"] = True
    age = age_ns(pid)
    if age is not None:
        fields["age_ns"] = age
    return fields, raw


def overwritten(environ: bytes) -> bool:
    """Whether the program has written over its environment, as setproctitle(3) does for room: what
    execve puts there begins with NAME=VALUE.
    """
    return bool(environ) and b"=" not in environ.partition(b"\0")[0]


def age_ns(pid: int) -> int | None:
    """How long ago the process was started (field 22 of /proc/PID/stat counts ticks from boot)."""
    stat = procfs.stat_fields(pid)
    if len(stat) < 20:
        return None
    born = int(stat[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return max(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - born, 0)


def vm_flags(smaps: bytes) -> tuple[list[Range], list[Range]]:
    """(ranges with VM_DONTCOPY, ranges with VM_GROWSDOWN): what of the flags in smaps decides a
    later map and shows in no line of maps.
    """
    return _flagged(smaps, b" dc "), _flagged(smaps, b" gd ")


def _flagged(smaps: bytes, flag: bytes) -> list[Range]:
    """The mappings with a flag. They are few, and smaps may be megabytes: only these are parsed."""
    found: list[Range] = []
    at = smaps.find(flag)
    while at >= 0:
        line = smaps.rfind(b"\n", 0, at) + 1
        end = smaps.find(b"\n", at)
        if smaps.startswith(b"VmFlags:", line):  # else it is in a path
            head = smaps.rfind(b"\nSize:", 0, line)  # the line after an entry's first (show_smap)
            low, _, high = (
                smaps[smaps.rfind(b"\n", 0, head) + 1 : head].partition(b" ")[0].partition(b"-")
            )
            found.append((int(low, 16), int(high, 16)))
        at = smaps.find(flag, end) if end >= 0 else -1
    return found


def malloc_shaped(raw: bytes) -> Iterator[Range]:
    """The mappings that can hold chunks mapped by malloc: private, anonymous, read and write."""
    for line in raw.decode("utf-8", "backslashreplace").splitlines():
        if " rw-p 00000000 00:00 0" in line:
            m = parse_line(line)
            if not m.path or m.path.startswith("[anon: glibc"):
                yield m.start, m.end


def chunks(mappings: Iterable[Range], word: Callable[[int], int]) -> Iterator[Range]:
    """(address, size word) of every chunk header found at a mapping's start and, because the
    kernel merges neighbours, chained from there.

    `sysmalloc_mmap` rounds a chunk to pages and sets IS_MMAPPED and no other flag; since glibc 2.43
    the size field leaves out the mapping's last two words.

    Args:
        mappings: address ranges, half open.
        word: the size word of the chunk at an address, 0 where it cannot be read.
    """
    found = 0
    for low, high in mappings:
        at = low
        while at < high and found < _MAX_CHUNKS:
            size = word(at)
            length = size & ~_FLAGS
            length += _NOT_COUNTED if (length + _NOT_COUNTED) % PAGE == 0 else 0
            if size & _FLAGS != _IS_MMAPPED or not length or length % PAGE or at + length > high:
                break
            yield at, size
            found += 1
            at += length


def size_word(mm: Mm, address: int) -> int:
    """The second word at an address, if prev_size is 0 and the page is there: the peek faults
    nothing in and cannot block in userfaultfd. Else 0.
    """
    try:
        entry = os.pread(mm.pagemap_fd, 8, address // PAGE * 8)
        if len(entry) == 8 and not int.from_bytes(entry, "little") & _PRESENT:
            return 0
        data = os.pread(mm.mem_fd, 16, address)
    except (OSError, OverflowError):
        return 0
    if len(data) < 16:
        return 0
    before, size = struct.unpack("<QQ", data)
    return 0 if before else int(size)
