# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file is that is no strace log, from its first bytes; and how to record a good one."""

from __future__ import annotations

import re
from shlex import quote

from memtrace.trace.errors import TraceFormatError

#: The flags that lose nothing that can be kept: known to strace 4.26 and later.
RECORD = "strace -f -ttt -T -y -e trace=%memory,%process,prctl -o LOG PROG ARGS..."

_MAGIC = (
    (b"\x7fELF", "a program or a core file (ELF)"),
    (b"\xd4\xc3\xb2\xa1", "a network capture (pcap)"),
    (b"\xa1\xb2\xc3\xd4", "a network capture (pcap)"),
    (b"\n\r\r\n", "a network capture (pcapng)"),
    (b"PERFILE2", "a perf.data file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"BZh", "compressed with bzip2"),
    (b"%PDF", "a PDF file"),
)
_UNPACK = {"compressed with xz": "xz -dc", "compressed with bzip2": "bzip2 -dc"}
#: `ltrace`: calls of library functions, `name@lib->call(...)`, `prog->malloc(10)`, SYS_ with -S.
_LTRACE = re.compile(rb"^(?:\d+ +)?(?:[\w.+-]+->\w+\(|SYS_\w+\(|\w+@[\w.+-]+\()", re.MULTILINE)
#: `perf trace`: `   0.045 ( 0.009 ms): ls/123 mmap(len: 8192, ...`.
_PERF = re.compile(rb"^ *\d+\.\d+ \( *(?:\d+\.\d+ ms)? *\): ", re.MULTILINE)
_TABLE = re.compile(rb"^% time +seconds +usecs/call +calls", re.MULTILINE)
_CALL = re.compile(rb"^.{0,80}?\b\w+\([^\n]*\) += (?:-?\d|0x|\?)", re.MULTILINE)
_TRACE = re.compile(rb'^\[\{[^\n]{0,200}"memtrace" ?: ?"trace"')


def refuse(name: str, what: str, hint: str = RECORD) -> TraceFormatError:
    """The error for a file that holds no trace."""
    return TraceFormatError(f"cannot import {name}: {what}", hint=hint)


def diagnose(name: str, head: bytes) -> TraceFormatError | None:
    """Why a file is no strace log, None if it may be one.

    Args:
        name: of the file, for the sentence.
        head: its first bytes, unpacked; a few KiB are enough.
    """
    if not head.strip():
        return refuse(name, "it is empty")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return _utf16(name, "UTF-16")
    for magic, what in _MAGIC:
        if head.startswith(magic):
            if what in _UNPACK:
                unpack = f"{_UNPACK[what]} {quote(name)} | memtrace import -"
                return refuse(name, f"it is {what}", unpack)
            return refuse(name, f"it is {what}, not a strace log")
    if _TRACE.match(head):
        return refuse(name, "it is a memtrace trace already", f"memtrace report {quote(name)}")
    text = head.removeprefix(b"\xef\xbb\xbf")
    coding = _is_utf16(text)
    if coding:
        return _utf16(name, coding)
    if text.count(b"\0") > len(text) // 1000:
        return refuse(name, "it is a binary file, not a strace log")
    if _PERF.search(text):
        return refuse(name, "it is a perf trace log, which does not hold all arguments")
    if _CALL.search(text):
        if _LTRACE.search(text) and not re.search(rb"\bexecve\(|\bmmap\(", text):
            return refuse(name, "it is an ltrace log: calls of library functions")
        return None
    if _TABLE.search(text):
        return refuse(name, "it holds only strace -c's table of counts, no calls")
    if _LTRACE.search(text):
        return refuse(name, "it is an ltrace log: calls of library functions")
    return None


def _utf16(name: str, coding: str) -> TraceFormatError:
    return refuse(
        name, "it is UTF-16 text, as a terminal or an editor may have saved it",
        f"iconv -f {coding} -t UTF-8 {quote(name)} | memtrace import -",
    )  # fmt: skip


def _is_utf16(text: bytes) -> str:
    """The coding, where every other byte is 0, as in ASCII text coded so; "" for none."""
    sample = text[:512]
    half = len(sample) // 2
    if half > 8:
        if sample[::2].count(0) > half * 3 // 4:
            return "UTF-16BE"
        if sample[1::2].count(0) > half * 3 // 4:
            return "UTF-16LE"
    return ""
