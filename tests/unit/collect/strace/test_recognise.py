# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are no strace log: what each is, in a sentence, and what to type."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from memtrace.collect.strace.importing import import_log
from memtrace.collect.strace.recognise import RECORD
from memtrace.trace.errors import TraceFormatError

GOOD = (
    b'7 execve("/bin/p", ["p"], 0x7ffe /* 3 vars */) = 0\n7 brk(NULL) = 0x5000\n'
    b"7 +++ exited with 0 +++\n"
)
TABLE = (
    b"% time     seconds  usecs/call     calls    errors syscall\n"
    b"------ ----------- ----------- --------- --------- ----------------\n"
    b" 12.50    0.000010           1         8           mmap\n"
    b"------ ----------- ----------- --------- --------- ----------------\n"
    b"100.00    0.000080           1        80         2 total\n"
)
PERF = (
    b"     0.000 ( 0.003 ms): ls/10 brk()                          = 0x5581d0f2f000\n"
    b"     0.045 ( 0.004 ms): ls/10 mmap(len: 8192, prot: READ|WRITE) = 0x7f3a0c1d2000\n"
)
LTRACE = b'7 libc.so.6->malloc(10) = 0x5\n7 printf("%d", 1) = 1\nprog->free(0x5) = <void>\n'
OTHER = b'7 openat(AT_FDCWD, "/x", O_RDONLY) = 3\n7 close(3) = 0\n7 +++ exited with 0 +++\n'


@pytest.mark.parametrize(("data", "what", "hint"), [
    (b"", "it is empty", RECORD),
    (b"\n\n  \n", "it is empty", RECORD),
    (GOOD.decode().encode("utf-16"), "UTF-16", "iconv -f UTF-16 "),
    (GOOD.decode().encode("utf-16-le"), "UTF-16", "iconv -f UTF-16LE "),
    (GOOD.decode().encode("utf-16-be"), "UTF-16", "iconv -f UTF-16BE "),
    (gzip.compress(GOOD, mtime=0)[:12], "cut short", RECORD),
    (b"\x28\xb5\x2f\xfd\x04", "cut short", RECORD),
    (b"\x7fELF\x02\x01" + bytes(500), "ELF", RECORD),
    (b"\xd4\xc3\xb2\xa1" + bytes(500), "pcap", RECORD),
    (bytes(range(256)) * 9, "binary", RECORD),
    (b"\xfd7zXZ\0rest", "xz", "xz -dc"),
    (b"BZh91AY", "bzip2", "bzip2 -dc"),
    (b'[{"memtrace":"trace","format":1},\n', "memtrace trace already", "memtrace report"),
    (TABLE, "table of counts", RECORD),
    (PERF, "perf trace", RECORD),
    (LTRACE, "ltrace", RECORD),
    (OTHER, "no call of memory", RECORD),
    (b"hello world\n" * 100, "no strace log", RECORD),
    (b"x" * (10 << 20), "no strace log", RECORD),
])  # fmt: skip
def test_what_is_no_strace_log(tmp_path: Path, data: bytes, what: str, hint: str) -> None:
    log, trace = tmp_path / "a log", tmp_path / "t.json"
    log.write_bytes(data)
    trace.write_text("kept")
    with pytest.raises(TraceFormatError) as refused:
        import_log(str(log), str(trace))
    assert what in refused.value.message
    assert "\n" not in refused.value.message
    assert hint in refused.value.hint
    assert refused.value.exit_code == 3
    assert trace.read_text() == "kept"
    assert not Path(f"{trace}.old").exists()


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="no such file"):
        import_log(str(tmp_path / "none"), str(tmp_path / "t.json"))
    with pytest.raises(TraceFormatError, match="folder"):
        import_log(str(tmp_path), str(tmp_path / "t.json"))


WRAPS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "crlf": lambda data: data.replace(b"\n", b"\r\n"),
    "table": lambda data: data + TABLE,
    "words": lambda data: b"some words\n" + data,
}


@pytest.mark.parametrize("name", WRAPS)
def test_what_is_one(tmp_path: Path, name: str) -> None:
    log = tmp_path / "log"
    log.write_bytes(WRAPS[name](GOOD))
    done = import_log(str(log), str(tmp_path / "t.json"))
    assert (done.reason, done.counts["calls"]) == ("", 1)


def test_a_very_long_line_amid_a_good_log_is_one_line_that_cannot_be_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first, rest = GOOD.split(b"\n", 1)
    log.write_bytes(first + b"\n" + b"x" * (10 << 20) + b"\n" + rest)
    done = import_log(str(log), str(tmp_path / "t.json"))
    assert done.counts["unreadable"] == 1
    assert "line 2" in done.reason
    assert done.counts["calls"] == 1


def test_a_compressed_log_that_is_cut_short(tmp_path: Path) -> None:
    log = tmp_path / "log"
    many = GOOD.replace(b"7 brk(NULL) = 0x5000\n", b"7 brk(NULL) = 0x5000\n" * 5000)
    packed = gzip.compress(many, 0)
    log.write_bytes(packed[: len(packed) // 2])
    done = import_log(str(log), str(tmp_path / "t.json"))
    assert "cut short" in done.reason
    assert done.counts["calls"] > 1000
