# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trace's header says of the machine, and whether the kernel is new enough."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import psutil

from memtrace.collect.abi import NAMES
from memtrace.collect.procfs import read
from memtrace.trace.errors import TargetError
from memtrace.trace.records import Header

OLDEST_KERNEL = (5, 3)  # PTRACE_GET_SYSCALL_INFO


def memtrace_version() -> str:
    """The installed version; "0+source" when run from a source tree."""
    try:
        return version("memtrace-linux")
    except PackageNotFoundError:
        return "0+source"


def require_kernel(release: str | None = None) -> None:
    """Refuse a machine this engine cannot trace on.

    Raises:
        TargetError: kernel older than 5.3, or not x86-64 Linux.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise TargetError(
            f"memtrace traces on x86-64 Linux only, not {platform.system()} {platform.machine()}",
            hint="uname -sm",
        )
    release = release or platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_KERNEL:
        raise TargetError(
            f"kernel {release} is too old: memtrace needs 5.3 or later (PTRACE_GET_SYSCALL_INFO)",
            hint="uname -r",
        )


def header(engine: str, argv: Sequence[str]) -> Header:
    """The header of a trace that starts now."""
    thp = re.search(rb"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled"))
    return Header(
        version=memtrace_version(),
        engine=engine,
        machine=platform.machine(),
        kernel=platform.release(),
        page_size=os.sysconf("SC_PAGESIZE"),
        cpus_online=psutil.cpu_count() or os.cpu_count(),
        thp=thp[1].decode() if thp else None,
        max_map_count=_int("/proc/sys/vm/max_map_count"),
        overcommit=_int("/proc/sys/vm/overcommit_memory"),
        argv=[os.fsencode(a).decode("utf-8", "backslashreplace") for a in argv],
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        calls=list(NAMES),
    )


def _int(path: str) -> int | None:
    text = read(path).strip()
    return int(text) if text.isdigit() else None
