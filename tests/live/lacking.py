# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel, or a machine, may lack of what the programs of the tests do: they tell it
({"what": "lacks", "call": ..., "errno": ...}) and go on. Each for a reason that can be looked at:
where it does not hold a test that lacks the call has failed.
"""

from __future__ import annotations

import errno
import functools
import gzip
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: What the test that runs has lacked: call -> name of its errno.
LACKED: dict[str, str] = {}


@dataclass(frozen=True)
class Lack:
    """What may be lacking, and when.

    Attributes:
        errnos: how it is refused then, by name.
        since: the kernel from which on only `unless` excuses.
        unless: whether this machine is without it, of any kernel.
    """

    errnos: tuple[str, ...]
    since: tuple[int, int] = (0, 0)
    unless: Callable[[], bool] = lambda: False

    def excused(self, kernel: tuple[int, int]) -> bool:
        """Whether it may be lacking here."""
        return kernel < self.since or self.unless()


def kernel() -> tuple[int, int]:
    """The release that runs, as (6, 18)."""
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return int(major), int(minor)


def without(option: str) -> Callable[[], bool]:
    """Whether the kernel was not configured with it, or nobody can tell."""
    return lambda: configured().get(option, "") != "y"


@functools.cache
def configured() -> Mapping[str, str]:
    """The kernel's configuration; empty where it cannot be read."""
    packed, plain = Path("/proc/config.gz"), Path(f"/boot/config-{os.uname().release}")
    if packed.exists():
        text = gzip.decompress(packed.read_bytes()).decode()
    elif plain.exists():
        text = plain.read_text()
    else:
        return {}
    return dict(re.findall(r"^CONFIG_(\w+)=(\w+)$", text, re.MULTILINE))


def processor_without(flag: str) -> Callable[[], bool]:
    """Whether no processor has it, or the kernel does not use it."""
    return lambda: re.search(rf"^flags\b.*\b{flag}\b", read("cpuinfo"), re.MULTILINE) is None


def incapable(capability: int) -> Callable[[], bool]:
    """Whether the tests run without this capability."""
    return lambda: not int(status("CapEff"), 16) >> capability & 1


def filtered() -> bool:
    """Whether a seccomp filter, as of a container, is between the tests and the kernel."""
    return status("Seccomp") != "0"


def status(field: str) -> str:
    found = re.search(rf"^{field}:\s+(\w+)$", read("self/status"), re.MULTILINE)
    assert found is not None, field
    return found[1]


def read(name: str) -> str:
    return Path("/proc", name).read_text()


_SYS_RESOURCE = 24

#: Each cites what refuses it.
MAY_LACK: dict[str, Lack] = {
    # do_mmap: a MAP_TYPE that was not there
    "MAP_DROPPABLE": Lack(("EINVAL",), since=(6, 11)),
    # hugetlb_reserve_pages; that there are none is the test's own doing, which asserts it
    "MAP_HUGETLB": Lack(("ENOMEM",), unless=lambda: True),
    # vma_to_resize: "we can't remap across vm area boundaries"; since then remap_move
    "mremap of several mappings": Lack(("EFAULT",), since=(6, 17)),
    # the same, part-way
    "mremap that moves one of several": Lack(("EFAULT",), since=(6, 17)),
    # mm_pkey_alloc, arch_set_user_pkey_access: memory protection keys are the processor's
    "pkey_alloc": Lack(("EINVAL", "ENOSPC", "ENOSYS"), unless=processor_without("ospke")),
    # process_madvise_remote_valid
    "process_madvise(MADV_DONTFORK)": Lack(("EINVAL", "ENOSYS", "EPERM"), since=(6, 13)),
    "mseal": Lack(("ENOSYS",), since=(6, 10)),
    "mbind": Lack(("ENOSYS",), unless=without("NUMA")),
    # madvise_behavior_valid
    "MADV_GUARD_INSTALL": Lack(("EINVAL",), since=(6, 13)),
    "PR_SET_MEMORY_MERGE": Lack(("EINVAL",), since=(6, 4), unless=without("KSM")),
    "PR_SET_VMA": Lack(("EINVAL",), since=(5, 17), unless=without("ANON_VMA_NAME")),
    # do_arch_prctl_64
    "ARCH_MAP_VDSO_64": Lack(("EINVAL",), unless=without("CHECKPOINT_RESTORE")),
    "ARCH_MAP_VDSO_32": Lack(
        ("EINVAL",),
        unless=lambda: without("CHECKPOINT_RESTORE")() or without("IA32_EMULATION")(),
    ),
    # sys_ni_syscall, or cpu_feature_enabled(X86_FEATURE_USER_SHSTK)
    "map_shadow_stack": Lack(
        ("ENOSYS", "EOPNOTSUPP"), since=(6, 6), unless=processor_without("user_shstk")
    ),
    # prctl_set_mm
    "PR_SET_MM_START_BRK": Lack(("EPERM",), unless=incapable(_SYS_RESOURCE)),
    "PR_SET_MM_MAP": Lack(("EINVAL", "EPERM"), unless=without("CHECKPOINT_RESTORE")),
}


def assert_may_lack(told: Iterable[Mapping[str, object]]) -> None:
    """Of what programs told that they lack, each may be lacking here; the session tells of it."""
    for line in told:
        call, number = str(line["call"]), line["errno"]
        assert isinstance(number, int)
        name = errno.errorcode.get(number, str(number))
        lack = MAY_LACK.get(call)
        assert lack is not None, f"{call} may not be lacking: {name}"
        if not (filtered() and name in {"EPERM", "ENOSYS"}):
            assert name in lack.errnos, f"{call} is not refused with {name} where it is lacking"
            assert lack.excused(kernel()), f"{call} may not be lacking here: {name}"
        LACKED[call] = name
