# SPDX-License-Identifier: GPL-2.0-or-later
"""Mappings that were paged in as they were made, and not page by page at the first touch.

`vm_mmap_pgoff` calls mm_populate for MAP_POPULATE and for what is locked: by MAP_LOCKED, or because
mlockall(MCL_FUTURE) said so of all that is to come (`mm->def_flags`), which exec and fork end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memtrace.malloc.regions import Region

MAP_LOCKED, MAP_POPULATE, MAP_NONBLOCK = 0x2000, 0x8000, 0x10000
MCL_FUTURE, MCL_ONFAULT = 2, 4


def locks_future(name: str, args: list[int]) -> bool:
    """Whether all that is mapped after this mlockall or munlockall is locked, pages and all."""
    return name == "mlockall" and bool(args) and args[0] & (MCL_FUTURE | MCL_ONFAULT) == MCL_FUTURE


def populated(r: Region) -> bool | None:
    """Whether the kernel was asked to page all of it in at once; None where no mmap tells."""
    if r.flags is None or r.prot is None or r.call != "mmap" or r.older:
        return None
    if not r.prot:
        return False  # __mm_populate passes over what has no access
    if r.locked or r.flags & MAP_LOCKED:
        return True
    return bool(r.flags & MAP_POPULATE) and not r.flags & MAP_NONBLOCK
