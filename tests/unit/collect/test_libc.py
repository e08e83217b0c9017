# SPDX-License-Identifier: GPL-2.0-or-later
"""Which C library a file is."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from memtrace.collect import procfs
from memtrace.collect.libc import LibcFinder, calls_directly, identify
from memtrace.trace.mapping import decode_maps, parse_line

GLIBC = b"\0GNU C Library (Debian GLIBC 2.36-9+deb12u7) stable release version 2.36.\nCopyright"
BUILD_ID = bytes(range(0xA0, 0xB4))
NOTE = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + BUILD_ID
DEV = "fe:00"


def this_libc() -> str:
    for m in map(parse_line, decode_maps(procfs.read("/proc/self/maps"))):
        if os.path.basename(m.path) == "libc.so.6":
            return m.path
    pytest.skip("this Python does not run on a glibc named libc.so.6")


def test_this_machines_own() -> None:
    path = this_libc()
    version = ctypes.CDLL(None).gnu_get_libc_version
    version.restype = ctypes.c_char_p
    with open(path, "rb") as f:
        section: Any = ELFFile(f).get_section_by_name(".note.gnu.build-id")
        (note,) = (n["n_desc"] for n in section.iter_notes())
    expected = {"name": "glibc", "version": version().decode(), "build_id": note}
    inode = os.stat(path).st_ino
    assert LibcFinder().look(os.getpid(), DEV, inode, path) == expected
    assert LibcFinder().look(os.getpid(), DEV, inode, path + " (deleted)") is not None


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("/lib/libc.so.6", GLIBC, {"name": "glibc", "version": "2.36"}),
        (
            "/lib/libc.so.6",
            b"GNU C Library (GNU libc) development release version 2.39.9000.\n",
            {"name": "glibc", "version": "2.39.9000"},
        ),
        ("/lib/libc-2.31.so", b"x" + NOTE, {"name": "glibc", "build_id": BUILD_ID.hex()}),
        ("/lib/libc.so.6", b"", {"name": "glibc"}),
        ("/lib/libc.so.6", b"GNU C Library\nversion 2.36", {"name": "glibc"}),
        ("/lib/ld-musl-x86_64.so.1", b"\x001.2.4\0", {"name": "musl", "version": "1.2.4"}),
        ("/lib/ld-musl-x86_64.so.1", b"\x002.36\0", {"name": "musl"}),
        # Not the folder's name, the file's.
        ("/srv/musl-tests/libc.so.6", GLIBC, {"name": "glibc", "version": "2.36"}),
    ],
)
def test_what_a_files_bytes_say(path: str, data: bytes, expected: dict[str, str]) -> None:
    assert identify(path, data) == expected


@given(st.binary(max_size=200) | st.just(NOTE[:20]) | st.just(GLIBC[:70]))
def test_any_bytes_give_an_answer(data: bytes) -> None:
    facts = identify("/lib/libc.so.6", data)
    assert facts["name"] == "glibc"
    assert set(facts) <= {"name", "version", "build_id"}


@pytest.mark.parametrize(
    "name",
    [
        "libm.so.6", "libc.so", "libc.so.60", "libc.so.6.bak", "mylibc.so.6", "libstdlibc.so.6",
        "libc-2.so", "ld-linux-x86-64.so.2", "libc", "",
    ],
)  # fmt: skip
def test_other_files_are_not_even_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name if name else tmp_path
    if name:
        path.write_bytes(GLIBC)
    assert LibcFinder().look(os.getpid(), DEV, os.stat(path).st_ino, str(path)) is None


def test_another_file_under_the_same_name_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "libc.so.6"
    path.write_bytes(GLIBC)
    mapped = os.stat(path).st_ino
    # The name alone is known of a libc that has been replaced since.
    assert LibcFinder().look(os.getpid(), DEV, mapped + 1, str(path)) == {"name": "glibc"}
    assert LibcFinder().look(os.getpid(), DEV, mapped, str(path)) == {
        "name": "glibc",
        "version": "2.36",
    }


def test_a_file_that_cannot_be_read_is_known_by_name() -> None:
    finder = LibcFinder()
    assert finder.look(os.getpid(), DEV, 1, "/nowhere/libc.so.6") == {"name": "glibc"}
    assert finder.look(os.getpid(), DEV, 2, "/nowhere/ld-musl-x86_64.so.1") == {"name": "musl"}
    assert finder.look(os.getpid(), DEV, 3, "/musl/libc-2.31.so") == {"name": "glibc"}


def test_a_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "libc.so.6"
    path.write_bytes(GLIBC)
    finder, inode = LibcFinder(), os.stat(path).st_ino
    first = finder.look(os.getpid(), DEV, inode, str(path))
    path.unlink()
    assert finder.look(os.getpid(), DEV, inode, str(path)) is first
    assert first is not None
    # A number on another device is another file.
    assert finder.look(os.getpid(), "00:2a", inode, str(path)) == {"name": "glibc"}


def test_the_file_is_found_in_the_processs_own_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def read_if(path: str, inode: int) -> bytes | None:
        opened.append(path)
        return GLIBC if path.startswith("/proc/77/root/") else None

    monkeypatch.setattr("memtrace.collect.libc._read_if", read_if)
    found = LibcFinder().look(77, DEV, 5, "/lib/libc.so.6")
    assert opened == ["/proc/77/root/lib/libc.so.6"]
    assert found == {"name": "glibc", "version": "2.36"}


@pytest.mark.parametrize(
    ("code", "ip", "direct"),
    [
        (b"\xe8" + (0x40).to_bytes(4, "little"), 0x105 + 0x40 + 20, True),
        (b"\xe8" + (-0x80).to_bytes(4, "little", signed=True), 0x105 - 0x80 + 20, True),
        (b"\xe8" + (0x40).to_bytes(4, "little"), 0x105 + 0x40, False),  # before its first byte
        (b"\xe8" + (0x40).to_bytes(4, "little"), 0x105 + 0x40 + 257, False),  # another function
        (b"\x00\x00\x00\xff\xd0", 0x105 + 20, False),  # call *%rax
    ],
)
def test_a_call_is_direct_when_its_code_says_so(
    tmp_path: Path, code: bytes, ip: int, *, direct: bool
) -> None:
    text = tmp_path / "libc.so.6"
    text.write_bytes(bytes(0x100) + code + bytes(0x300))
    pid, ino, path = os.getpid(), text.stat().st_ino, str(text)
    assert calls_directly(pid, ino, path, 0x105, ip) is direct
    assert calls_directly(pid, ino + 1, path, 0x105, ip) is False
    assert calls_directly(pid, ino, path + "-", 0x105, ip) is False


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GLIBC, {"name": "glibc", "version": "2.36"}),
        (
            b"\0musl libc (x86_64)\nVersion %s\n\0" + b"\x001.2.3\0",
            {"name": "musl", "version": "1.2.3"},
        ),
        (b"malloc\0musl\0", None),
        (b"GNU C Library\0", None),
    ],
)  # fmt: skip
def test_a_c_library_of_any_name_is_told_by_its_bytes_alone(
    tmp_path: Path, data: bytes, expected: dict[str, str] | None
) -> None:
    path = tmp_path / "libsomething.so"
    path.write_bytes(data)
    assert LibcFinder().look_into(os.getpid(), DEV, path.stat().st_ino, str(path)) == expected
    assert LibcFinder().look_into(os.getpid(), DEV, path.stat().st_ino + 1, str(path)) is None
