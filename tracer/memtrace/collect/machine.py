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
from memtrace.trace.records import Header, Manner

OLDEST_KERNEL = (5, 3)  # PTRACE_GET_SYSCALL_INFO

#: What gVisor's /proc/version says, whatever its release (pkg/sentry, LinuxVersion).
_GVISOR = "#1 SMP Sun Jan 10 15:06:54 PST 2016"


def memtrace_version() -> str:
    """The installed version; "0+source" when run from a source tree."""
    try:
        return version("memtrace-linux")
    except PackageNotFoundError:
        return "0+source"


def sandbox(version: str | None = None) -> str:
    """The name of a kernel that only looks like Linux, from /proc/version; "" for Linux itself."""
    if version is None:
        version = read("/proc/version").decode("utf-8", "replace")
    if _GVISOR in version:
        return "gVisor"
    # WSL 2, a real kernel, writes "-microsoft-standard-WSL2".
    return "WSL 1" if "-Microsoft" in version else ""


def require_kernel(release: str | None = None, stands_in: str | None = None) -> None:
    """Refuse a machine this engine cannot trace on.

    Args:
        release: of the kernel; ours, if not given.
        stands_in: what `sandbox` says; the same.

    Raises:
        TargetError: kernel older than 5.3, no Linux kernel at all, or not x86-64.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise TargetError(
            f"memtrace traces on x86-64 Linux only, not {platform.system()} {platform.machine()}",
            hint="uname -sm",
        )
    stands_in = sandbox() if stands_in is None else stands_in
    if stands_in:
        wsl = stands_in.startswith("WSL")
        raise TargetError(
            f"{stands_in} has no PTRACE_SEIZE: nothing can be traced in it",
            hint="wsl --set-version DISTRIBUTION 2" if wsl else "docker run --runtime=runc ...",
        )
    release = release or platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_KERNEL:
        raise TargetError(
            f"kernel {release} is too old: memtrace needs 5.3 or later (PTRACE_GET_SYSCALL_INFO)",
            hint="uname -r",
        )


def header(engine: str, argv: Sequence[str], manner: Manner | None = None) -> Header:
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
        code=engine != "strace",
        frames=engine != "strace",
        manner=manner,
        calls=list(NAMES),
    )


def _int(path: str) -> int | None:
    text = read(path).strip()
    return int(text) if text.isdigit() else None
