# SPDX-License-Identifier: GPL-2.0-or-later
"""Which system calls stop a traced program: the filter, run instruction by instruction."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from ptrace.syscall.linux import i386, x86_64
from ptrace.syscall.prototypes import SYSCALL_PROTOTYPES

from memtrace.collect.abi import ABIS, CALLS, I386, INDEX, NAMES, X86_64, Role, role_of
from memtrace.collect.seccomp import MARK, assemble, program

ROOT = Path(__file__).resolve().parents[3]
ALLOW, TRACE = 0x7FFF0000, 0x7FF00000 | MARK
AARCH64 = 0xC00000B7
X32 = 0x40000000

#: What the trace format promises to record, written down a second time.
ALWAYS = {
    "brk", "mmap", "munmap", "mremap", "mprotect", "pkey_mprotect", "madvise", "mlock", "mlock2",
    "mlockall", "munlock", "munlockall", "shmat", "shmdt", "remap_file_pages", "mseal", "io_setup",
    "io_destroy", "process_madvise", "personality", "execve", "execveat", "fork", "clone3",
}  # fmt: skip
PRCTL = {35, 41, 0x53564D41}  # PR_SET_MM, PR_SET_THP_DISABLE, PR_SET_VMA
ARCH_PRCTL = {0x2001, 0x2002, 0x2003}  # ARCH_MAP_VDSO_X32, _32, _64
IPC = {21, 22}  # SHMAT, SHMDT
CLONE_VM = 0x100
BY_ARGUMENT = {"prctl": PRCTL, "arch_prctl": ARCH_PRCTL, "ipc": IPC}

CODE = assemble(program())


def run(number: int, arch: int, argument: int = 0, second: int = 0) -> int:
    """What the kernel's interpreter answers: classic BPF over struct seccomp_data."""
    data = struct.pack("<iIQ6Q", number, arch, 0x7FFF00001000, argument, second, 0, 0, 0, 0)
    pc = accumulator = 0
    while True:
        code, jt, jf, k = struct.unpack_from("<HBBI", CODE, pc * 8)
        pc += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= k
        elif code == 0x05:  # BPF_JMP | BPF_JA
            pc += k
        elif code == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            pc += jt if accumulator == k else jf
        elif code == 0x45:  # BPF_JMP | BPF_JSET | BPF_K
            pc += jt if accumulator & k else jf
        else:
            assert code == 0x06, f"instruction {code:#x} at {pc - 1}"  # BPF_RET | BPF_K
            return int(k)


def numbers(header: str, fallback: dict[int, str]) -> dict[int, str]:
    """number -> name, from the system's headers where they are installed."""
    path = Path("/usr/include/x86_64-linux-gnu/asm") / header
    table = fallback
    if path.exists():
        found = re.findall(r"#define __NR_(\w+) (\d+)", path.read_text())
        table = {int(number): name for name, number in found}
    # Linux 6.6 and 6.10: newer than many a system's headers.
    return {453: "map_shadow_stack", 462: "mseal"} | table


TABLES = {
    X86_64.audit: numbers("unistd_64.h", x86_64.SYSCALL_NAMES),
    I386.audit: numbers("unistd_32.h", i386.SYSCALL_NAMES),
}


@pytest.mark.parametrize("arch", TABLES)
def test_exactly_the_recorded_calls_stop(arch: int) -> None:
    table = TABLES[arch]
    always = ALWAYS | ({"mmap2"} if arch == I386.audit else {"map_shadow_stack"})
    wrong = []
    for number in range(1024):
        name = table.get(number, "")
        # Nothing but a first argument of 0 is tried here, and clone(0) copies like fork.
        if name:
            expected = TRACE if name in always or name == "clone" else ALLOW
            if run(number, arch) != expected:
                wrong.append(name)
        elif number > max(table) and run(number, arch) != ALLOW:
            wrong.append(str(number))
    assert wrong == []


@pytest.mark.parametrize("arch", TABLES)
@pytest.mark.parametrize("name", BY_ARGUMENT)
def test_a_call_by_its_first_argument(arch: int, name: str) -> None:
    found = [n for n, v in TABLES[arch].items() if v == name]
    if name == "ipc" and arch == X86_64.audit:
        assert found == []
        return
    values = BY_ARGUMENT[name]
    near = {v + d for v in values for d in (-1, 0, 1)} | set(range(64)) | {2**31, 2**32 - 1}
    for value in near:
        expected = TRACE if value in values else ALLOW
        assert run(found[0], arch, value) == expected, (name, value)
        # The kernel takes an int: whatever stands in the upper half says nothing.
        assert run(found[0], arch, value | 0xABCD << 32) == expected


@pytest.mark.parametrize("arch", TABLES)
def test_a_clone_that_shares_memory_does_not_stop(arch: int) -> None:
    (clone,) = (n for n, v in TABLES[arch].items() if v == "clone")
    sigchld, thread = 17, 0x3D0F00
    assert thread & CLONE_VM
    assert run(clone, arch, sigchld) == TRACE
    assert run(clone, arch, 0x1200000 | sigchld) == TRACE  # fork of glibc
    assert run(clone, arch, 0x800000 | 0x100) == TRACE  # CLONE_UNTRACED | CLONE_VM
    assert run(clone, arch, thread) == ALLOW
    assert run(clone, arch, CLONE_VM) == ALLOW


@pytest.mark.parametrize("arch", TABLES)
def test_a_filter_that_has_a_listener_is_seen(arch: int) -> None:
    (seccomp,) = (n for n, v in TABLES[arch].items() if v == "seccomp")
    assert seccomp == ABIS[arch].seccomp
    strict, mode_filter, action_avail, notif_sizes = range(4)
    new_listener = 8
    for flags in range(64):
        expected = TRACE if flags & new_listener else ALLOW
        assert run(seccomp, arch, mode_filter, flags) == expected
        assert run(seccomp, arch, mode_filter | 5 << 32, flags | 9 << 32) == expected
        for other in (strict, action_avail, notif_sizes, 2**32 - 1):
            assert run(seccomp, arch, other, flags) == ALLOW


def test_x32_calls_are_answered_like_the_native_ones() -> None:
    for number in range(512):
        for argument in (0, 35, 0x2002, CLONE_VM):
            native = run(number, X86_64.audit, argument)
            assert run(number | X32, X86_64.audit, argument) == native


def test_another_architecture_is_left_alone() -> None:
    for arch in (AARCH64, 0, 0xFFFFFFFF, X86_64.audit ^ 1, I386.audit ^ 1):
        assert {run(number, arch) for number in range(512)} == {ALLOW}


def test_every_jump_fits_its_byte_and_lands_inside() -> None:
    code = program()
    assert len(CODE) == 8 * len(code) < 8 * 4096  # BPF_MAXINSNS
    for at, (op, jt, jf, k) in enumerate(code):
        assert 0 <= jt < 256
        assert 0 <= jf < 256
        if op in {0x15, 0x45}:
            assert at + 1 + max(jt, jf) < len(code)
        elif op == 0x05:
            assert at + 1 + k < len(code)


_IN_A_CHILD = """
import ctypes, errno, os, sys
sys.path.insert(0, sys.argv[1])
from memtrace.collect.seccomp import Filter
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
filter = Filter()
status = os.open("/proc/self/status", os.O_RDONLY)
if sys.argv[2] == "nobody":
    os.setgroups([])
    os.setuid(65534)
spare = bytearray(1 << 20)
del spare  # so that no allocation below needs the kernel
installed = filter.install()
# A tracer is missing: a filtered call fails with ENOSYS, any other works as ever.
mapped = libc.syscall(9, 0, 4096, 3, 0x22, -1, 0)
refused = ctypes.get_errno()
forked = libc.syscall(57)
if forked == 0:
    os._exit(0)
named = libc.syscall(157, 15, b"filtered", 0, 0, 0)  # PR_SET_NAME is not recorded
pid = libc.syscall(39)
text = os.pread(status, 8192, 0)
nnp = text[text.index(b"NoNewPrivs:") + 11:].split()[0]
os.write(1, b"%d %d %d %d %d %d %s %s" % (
    installed, mapped, refused, forked, named, pid == os.getpid(), nnp,
    text[:14].split()[1]))
os._exit(0)
"""


@pytest.mark.parametrize("user", ["self", "nobody"])
def test_the_kernel_takes_the_filter(user: str) -> None:
    root = os.geteuid() == 0
    if user == "nobody" and not root:
        pytest.skip("needs root to become somebody else")
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_CHILD, str(ROOT / "tracer"), user],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    enosys = 38
    no_new_privs = 0 if root and user == "self" else 1
    expected = f"0 -1 {enosys} -1 0 1 {no_new_privs} filtered"
    assert done.stdout == expected


def test_numbers_are_the_kernels() -> None:
    # The table's own names for what the 32-bit header calls mmap; ipc and old_mmap have no
    # counterpart, and a 32-bit mmap2 is an mmap.
    for abi, table in ((X86_64, TABLES[X86_64.audit]), (I386, TABLES[I386.audit])):
        for number, name in abi.names.items():
            kernel = {"old_mmap": "mmap"}.get(name, name) if abi is I386 else name
            if number in table:
                assert table[number] == kernel, (abi.name, number)
    for abi, names in ((X86_64, x86_64.SYSCALL_NAMES), (I386, i386.SYSCALL_NAMES)):
        checked = 0
        for number, name in abi.names.items():
            if number in names:
                assert names[number] == name
                checked += 1
        assert checked > 15


def test_argument_counts_are_the_kernels() -> None:
    known = {n: len(SYSCALL_PROTOTYPES[n][1]) for n in NAMES if n in SYSCALL_PROTOTYPES}
    assert len(known) > 20
    assert {n: CALLS[n] for n in known} == known
    # SYSCALL_DEFINEn of those that python-ptrace does not describe.
    assert (CALLS["pkey_mprotect"], CALLS["process_madvise"], CALLS["mseal"]) == (4, 5, 3)
    assert (CALLS["map_shadow_stack"], CALLS["arch_prctl"], CALLS["clone3"]) == (3, 2, 2)


def test_every_recorded_name_has_an_index_and_a_role() -> None:
    assert [INDEX[name] for name in NAMES] == list(range(len(NAMES)))
    for abi in ABIS.values():
        assert {n for n in abi.names.values() if n not in CALLS} <= {"mmap2", "old_mmap", "ipc"}
        roles = {name: role_of(name) for name in abi.names.values()}
        assert {n for n, r in roles.items() if r is Role.EXEC} == {"execve", "execveat"}
        assert {n for n, r in roles.items() if r is Role.FORK} == {"fork", "clone"}
        assert {n for n, r in roles.items() if r is Role.CLONE3} == {"clone3"}
