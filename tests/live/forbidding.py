# SPDX-License-Identifier: GPL-2.0-or-later
"""A program started where one system call is forbidden."""

from __future__ import annotations

#: A filter that answers one system call with an error, as a container's profile does.
FORBIDDING = """
import ctypes, os, struct, sys
number, error = int(sys.argv[1]), int(sys.argv[2])
code = b"".join(struct.pack("<HBBI", *i) for i in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | error), (6, 0, 0, 0x7FFF0000)))
code = ctypes.create_string_buffer(code, len(code))
prog = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, prog, 0, 0) == 0
os.execvp(sys.argv[3], sys.argv[3:])
"""
SYS_PTRACE, SYS_SECCOMP, SYS_KCMP = 101, 317, 312
