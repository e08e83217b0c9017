# SPDX-License-Identifier: GPL-2.0-or-later
"""What of each mapping is in memory when an address space is read for the last time."""

from __future__ import annotations

import os
import re
from typing import Any

from memtrace.collect import procfs
from memtrace.trace.sizes import PAGE

_RSS = re.compile(rb"\nRss: +(\d+)")
#: A mapping without a file and without a name: the kernel merges neighbours of different makers.
_NAMELESS = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ 0 *$")
_RUN = re.compile(rb"\x01+")
#: Of the highest byte of a page's entry in pagemap: whether the page is present, and whether it is
#: mapped here only besides (PM_MMAP_EXCLUSIVE): the page of zeros, which is no part of the RSS, is
#: present and never mapped once only.
_PRESENT = bytes(1 if byte & 0x80 else 0 for byte in range(256))
_EXCLUSIVE = bytes(1 if byte & 0x81 == 0x81 else 0 for byte in range(256))
#: smaps takes some 2 us a mapping, and walks the page tables: not for more mappings than that.
_MOST_LINES = 16_384
#: Pages of a mapping whose entries are read, and runs of them that are told.
_MOST_PAGES, _MOST_RUNS = 1 << 16, 1_024


def residency(raw: bytes, smaps: bytes, pagemap_fd: int) -> dict[str, Any]:
    """The fields `resident` and `present` of a snapshot; none if the texts are not of one moment.

    Args:
        raw: what /proc/PID/maps said.
        smaps: what /proc/PID/smaps said right after.
        pagemap_fd: of the same address space.
    """
    lines, text = raw.split(b"\n")[:-1], smaps.split(b"\n")[:-1]
    found = _RSS.findall(smaps)
    # The line of maps, then as many lines about it as of each other mapping (`show_smap`).
    if not found or text[:: len(text) // len(found)] != lines:
        return {}
    resident = [int(kilobytes) * 1024 // PAGE for kilobytes in found]
    if raw.endswith(b"[vsyscall]\n"):  # the last one, which belongs to no process (`decode_maps`)
        del resident[-1]
    present = []
    for i, line in enumerate(lines[: len(resident)]):
        if resident[i] and (nameless := _NAMELESS.match(line)) is not None:
            start, end = int(nameless[1], 16) // PAGE, int(nameless[2], 16) // PAGE
            if resident[i] < end - start <= _MOST_PAGES:
                runs = _runs(pagemap_fd, start, end, resident[i])
                present += [[i, *runs]] if runs else []
    return {"resident": resident} | ({"present": present} if present else {})


def _runs(pagemap_fd: int, start: int, end: int, pages: int) -> list[int]:
    """First page and number of pages of each run of pages in memory, from `start`; [] if those that
    are found are not the `pages` that the kernel counts.
    """
    try:
        entries = os.pread(pagemap_fd, (end - start) * 8, start * 8)[7::8]
    except OSError:
        return []
    for which in _PRESENT, _EXCLUSIVE:
        found = [(run.start(), len(run[0])) for run in _RUN.finditer(entries.translate(which))]
        if sum(length for _, length in found) == pages:
            return [x for run in found for x in run] if len(found) <= _MOST_RUNS else []
    return []


def read_smaps(tid: int, raw: bytes) -> bytes:
    """/proc/TID/smaps; b"" if it would take long or cannot be read."""
    return b"" if raw.count(b"\n") > _MOST_LINES else procfs.read(f"/proc/{tid}/smaps")
