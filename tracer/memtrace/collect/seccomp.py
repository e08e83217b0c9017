# SPDX-License-Identifier: GPL-2.0-or-later
"""The seccomp filter that makes a traced program stop for memory calls only, and where it may get a
filter of its own that would hide them (`filters`).

Everything else is decided on the number alone, so that kernels since 5.11 answer it from their
per-number bitmap (`seccomp_cache_prepare`) without running the filter.
SECCOMP_FILTER_FLAG_SPEC_ALLOW keeps kernels before 5.16 from switching on speculation mitigations
in the target.

A filter stays until the process dies and is inherited. When its tracer is gone, filtered calls
fail with ENOSYS (`__seccomp_filter`): that is why `run` sets PTRACE_O_EXITKILL.
"""

from __future__ import annotations

import ctypes
import struct

from memtrace.collect.abi import (
    CLONE_UNTRACED,
    CLONE_VM,
    FILTER_NEW_LISTENER,
    FIRST_ARGUMENTS,
    I386,
    NATIVE,
    SET_MODE_FILTER,
    X32_BIT,
    X86_64,
    Abi,
)

_LD, _AND, _JEQ, _JSET, _RET = 0x20, 0x54, 0x15, 0x45, 0x06
#: What our stops carry (SECCOMP_RET_DATA): a filter of the program's own that says
#: SECCOMP_RET_TRACE, too, is newer, wins (`seccomp_run_filters`), and brings its own.
MARK = 0x6D74
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000 | MARK
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24  # offsets in struct seccomp_data

_SPEC_ALLOW = 4
_PR_SET_NO_NEW_PRIVS = 38

Instruction = tuple[int, int, int, int]


def program() -> list[Instruction]:
    """The filter as (code, jt, jf, k), at most 255 instructions per branch."""
    native, compat = _branch(X86_64), _branch(I386)
    return [
        (_LD, 0, 0, _ARCH),
        (_JEQ, 0, 1, X86_64.audit),
        (0x05, 0, 0, 3),  # ja: over the test of the other architecture
        (_JEQ, 1, 0, I386.audit),
        (_RET, 0, 0, _ALLOW),
        (0x05, 0, 0, len(native)),
        *native,
        *compat,
    ]


def _branch(abi: Abi) -> list[Instruction]:
    """Decide one architecture's calls; ends in ALLOW."""
    plain = [nr for nr, name in abi.names.items() if name not in FIRST_ARGUMENTS]
    plain = [nr for nr in plain if abi.names[nr] != "clone"]
    clone = next(nr for nr, name in abi.names.items() if name == "clone")
    # A clone that shares the mm (every thread) changes no map and need not stop, unless it asks for
    # a child without a tracer.
    tail: list[Instruction] = [
        (_JEQ, 0, 5, clone),
        (_LD, 0, 0, _ARG0),
        (_JSET, 1, 0, CLONE_UNTRACED),
        (_JSET, 1, 0, CLONE_VM),
        (_RET, 0, 0, _TRACE),
        (_RET, 0, 0, _ALLOW),
        (_JEQ, 0, 6, abi.seccomp),
        (_LD, 0, 0, _ARG0),
        (_JEQ, 0, 2, SET_MODE_FILTER),
        (_LD, 0, 0, _ARG1),
        (_JSET, 1, 0, FILTER_NEW_LISTENER),
        (_RET, 0, 0, _ALLOW),
        (_RET, 0, 0, _TRACE),
    ]
    for nr, name in abi.names.items():
        values = FIRST_ARGUMENTS.get(name)
        if values is None:
            continue
        # nr matches: load the first argument and compare; else step over the block.
        tail.append((_JEQ, 0, len(values) + 3, nr))
        tail.append((_LD, 0, 0, _ARG0))
        tail += [(_JEQ, len(values) - i, 0, v) for i, v in enumerate(values)]
        tail += [(_RET, 0, 0, _ALLOW), (_RET, 0, 0, _TRACE)]
    tail.append((_RET, 0, 0, _ALLOW))
    head: list[Instruction] = [(_LD, 0, 0, _NR), (_AND, 0, 0, 0xFFFFFFFF ^ X32_BIT)]
    for i, nr in enumerate(plain):
        # Distance to the TRACE that stands right after the list.
        head.append((_JEQ, len(plain) - i, 0, nr))
    head += [(0x05, 0, 0, 1), (_RET, 0, 0, _TRACE)]
    return head + tail


def assemble(instructions: list[Instruction]) -> bytes:
    """Struct sock_filter[], as the kernel takes it."""
    return b"".join(struct.pack("<HBBI", *i) for i in instructions)


class Filter:
    """The assembled filter, ready to be installed in a child between fork and exec."""

    def __init__(self) -> None:
        code = assemble(program())
        self._code = ctypes.create_string_buffer(code, len(code))
        self._prog = ctypes.create_string_buffer(
            struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(self._code))
        )
        self._libc = ctypes.CDLL(None, use_errno=True)

    def install(self) -> int:
        """Install it in the calling thread; returns 0 or an errno.

        Without CAP_SYS_ADMIN the kernel demands no_new_privs first (`seccomp_prepare_filter`).
        """
        if self._set() == 0:
            return 0
        self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return 0 if self._set() == 0 else ctypes.get_errno()

    def _set(self) -> int:
        result: int = self._libc.syscall(
            NATIVE.seccomp, SET_MODE_FILTER, _SPEC_ALLOW, ctypes.byref(self._prog)
        )
        return result
