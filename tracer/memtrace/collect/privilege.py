# SPDX-License-Identifier: GPL-2.0-or-later
"""Privileges that an executed file grants, and that a traced process does not get.

The kernel withholds them when the tracer lacks CAP_SYS_PTRACE (`cap_bprm_creds_from_file`), or when
no_new_privs is set, which is what an unprivileged seccomp filter takes (`bprm_fill_uid`).
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
import stat
import struct
from collections.abc import Callable

from memtrace.collect import procfs

#: struct vfs_cap_data (linux/capability.h), revision 2 and up: magic, then (permitted, inheritable)
#: of the lower and of the upper 32 capabilities.
_CAP_DATA = struct.Struct("<5I")
_CAPABILITY = "security.capability"


def withheld(pid: int, *, filtered: bool) -> dict[str, str]:
    """What the file of a process that stands right after its exec grants, and it has not got: by
    kind (setuid, setgid, capabilities), as a phrase. {} also when it cannot be known.

    Args:
        pid: the process.
        filtered: it has our filter, and with that possibly no_new_privs from us.
    """
    path = f"/proc/{pid}/exe"
    try:
        file = os.stat(path)
        capabilities = _capabilities(path)
        if not (file.st_mode & (stat.S_ISUID | stat.S_ISGID) or capabilities) or _by_others(pid):
            return {}
    except OSError:
        return {}
    status = _status(pid)
    found: dict[str, str] = {}
    if not status or (not filtered and status.get("NoNewPrivs") == ["1"]):
        return found
    if file.st_mode & stat.S_ISUID and file.st_uid != int(status["Uid"][1]):
        found["setuid"] = f"setuid {_name(file.st_uid, lambda n: pwd.getpwuid(n).pw_name)}"
    group = stat.S_ISGID | stat.S_IXGRP  # without the second it marks mandatory locking
    if file.st_mode & group == group and file.st_gid != int(status["Gid"][1]):
        found["setgid"] = f"setgid {_name(file.st_gid, lambda n: grp.getgrgid(n).gr_name)}"
    if capabilities & int(status["CapBnd"][0], 16) & ~int(status["CapPrm"][0], 16):
        found["capabilities"] = "given capabilities"
    return found


def _by_others(pid: int) -> bool:
    """Whether it would not get them untraced either: a nosuid mount, no_new_privs that is older
    than the trace, another user namespace.
    """
    if os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_NOSUID or _no_new_privileges():
        return True
    return os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino


@functools.cache
def _no_new_privileges() -> bool:
    return _status(os.getpid()).get("NoNewPrivs") == ["1"]


def _status(pid: int) -> dict[str, list[str]]:
    lines = procfs.read(f"/proc/{pid}/status").decode("utf-8", "replace").splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def _capabilities(path: str) -> int:
    with contextlib.suppress(OSError, struct.error):
        words = _CAP_DATA.unpack_from(os.getxattr(path, _CAPABILITY))
        return int(words[1] | words[3] << 32)
    return 0


def _name(number: int, name: Callable[[int], str]) -> str:
    try:
        return name(number)
    except KeyError:
        return str(number)
