# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose code a file holds: told by files that a linker made, held against pyelftools."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.collect.test_libc import this_libc

from memtrace.collect.code import CodeFinder, read
from memtrace.collect.elf import Elf, NotElfError
from memtrace.collect.frames import Frame, Frames
from memtrace.collect.libc import LibcFinder, calls_directly


def link(folder: Path, source: str, *options: str, name: str = "a.so") -> Path:
    """A shared object of this C source."""
    made = folder / name
    subprocess.run(
        ["gcc", "-x", "c", "-shared", "-fPIC", "-nostdlib", *options, "-o", made, "-"],
        input=source.encode(), check=True,
    )  # fmt: skip
    return made


def held(path: Path, *, main: bool = False) -> dict[str, Any]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return read(fd, main=main)
    finally:
        os.close(fd)


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_what_is_defined_is_found_as_the_loader_finds_it(tmp_path: Path, style: str) -> None:
    many = "".join(f"void f{n}(void) {{}}\n" for n in range(300))
    used = "extern void other(void); void calls(void) { other(); }\nstatic void hidden(void) {}\n"
    made = link(tmp_path, many + used, f"-Wl,--hash-style={style}")
    with made.open("rb") as f:
        elf = Elf(f.fileno())
        assert all(elf.defines(f"f{n}") for n in range(300))
        assert elf.defines("calls")
        assert not any(map(elf.defines, ["other", "hidden", "f300", "f", "f1x", ""]))


def test_this_machines_libc_defines_what_pyelftools_says() -> None:
    with open(this_libc(), "rb") as f:
        section: Any = ELFFile(f).get_section_by_name(".dynsym")
        symbols = [
            s.name for s in section.iter_symbols()
            if s["st_shndx"] != "SHN_UNDEF" and s["st_info"]["bind"] in ("STB_GLOBAL", "STB_WEAK")
        ]  # fmt: skip
        elf = Elf(f.fileno())
        assert len(symbols) > 1000
        assert all(map(elf.defines, symbols))
        assert not any(elf.defines(f"{name}_") for name in symbols if f"{name}_" not in symbols)


def test_a_file_that_defines_malloc_says_so(tmp_path: Path) -> None:
    own = "void *malloc(unsigned long n) { return (void *)n; }\n"
    build = ("-Wl,--build-id=0xabcdef",)
    assert held(link(tmp_path, own, *build)) == {
        "malloc": True, "libc": False, "build_id": "abcdef",
    }  # fmt: skip
    both = own + "int mallocx, mallctl;"
    assert held(link(tmp_path, both, *build)) == {
        "malloc": True, "libc": False, "build_id": "abcdef",
    }  # fmt: skip
    text = 'const char said[] = "<jemalloc>: no";'
    assert held(link(tmp_path, both + text, *build)) == {
        "malloc": True, "name": "jemalloc", "how": "defines mallocx and mallctl",
        "build_id": "abcdef",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("symbols", "text", "name"),
    [
        ("tc_malloc, tc_version", "gperftools 2.10", "tcmalloc"),
        ("mi_malloc, mi_version", "mimalloc: error: ", "mimalloc"),
        ("__asan_init", "AddressSanitizer", "asan"),
        ("__tsan_init", "ThreadSanitizer", "tsan"),
        ("__lsan_init", "LeakSanitizer", "lsan"),
    ],
)
def test_symbols_alone_are_anybodys(tmp_path: Path, symbols: str, text: str, name: str) -> None:
    assert held(link(tmp_path, f"int {symbols};")) == {}
    found = held(link(tmp_path, f'int {symbols}; const char said[] = "{text}";'))
    assert found is not None
    assert found["name"] == name


def test_a_go_library_has_a_note(tmp_path: Path) -> None:
    note = (
        '__asm__(".section .note.go.buildid,\\"a\\",@note\\n.long %s, 4, %d\\n'
        '.ascii \\"%s\\"\\n.ascii \\"abcd\\"\\n.previous\\n");'
    )
    found = held(link(tmp_path, note % (4, 4, "Go\\\\0\\\\0"), "-Wl,--build-id=none"))
    assert found is not None
    assert found == {"name": "go", "how": "has a Go build ID"}
    assert held(link(tmp_path, note % (4, 1, "Go\\\\0\\\\0"))) == {}
    assert held(link(tmp_path, note % (4, 4, "Gu\\\\0\\\\0"))) == {}


def test_a_name_that_is_only_used_or_hidden_proves_nothing(tmp_path: Path) -> None:
    assert held(link(tmp_path, "void *malloc(unsigned long); void *f(void) {return malloc(1);}")) \
        == {}  # fmt: skip
    hidden = '__attribute__((visibility("hidden"))) void *malloc(unsigned long n) { return 0; }'
    assert held(link(tmp_path, hidden)) == {}


def test_texts_are_looked_for_in_the_program_alone(tmp_path: Path) -> None:
    text = 'const char *const said[] = {"<jemalloc>: no", 0};'
    made = link(tmp_path, text)
    assert held(made) == {}
    found = held(made, main=True)
    assert found is not None
    assert (found["name"], found["how"]) == ("jemalloc", 'holds the text "<jemalloc>:"')
    assert "malloc" not in found


@pytest.mark.parametrize("option", ["-static", "-static-pie"])
def test_a_static_program_with_glibcs_malloc(tmp_path: Path, option: str) -> None:
    program = tmp_path / "a"
    main = "#include <stdlib.h>\nint main(void) { return malloc(9) == 0; }"
    subprocess.run(["gcc", "-x", "c", option, "-o", program, "-"], input=main.encode(), check=True)
    found = held(program, main=True)
    assert found is not None
    assert found["name"] == "glibc"
    assert held(program) == {}


def test_the_loader_is_nobodys_malloc() -> None:
    with open("/proc/self/maps", "rb") as f:
        loaders = {line.split()[5] for line in f if b"/ld-linux" in line or b"/ld-2." in line}
    assert loaders
    assert all(held(Path(os.fsdecode(path))) == {} for path in loaders)


def test_a_loader_that_defines_malloc_for_itself(tmp_path: Path) -> None:
    """As glibc's did before 2.31: no program is served by it."""
    own = "void *malloc(unsigned long n) { return (void *)n; } int _rtld_global;"
    assert held(link(tmp_path, own)) == {}


def test_one_of_its_messages_is_not_glibcs_malloc(tmp_path: Path) -> None:
    """A static program with a malloc of its own may say the same somewhere."""
    program = tmp_path / "a"
    main = 'const char said[] = "munmap_chunk(): invalid pointer"; void _start(void) {}'
    words: list[str | Path] = ["gcc", "-x", "c", "-static", "-nostdlib", "-o", program, "-"]
    subprocess.run(words, input=main.encode(), check=True)
    assert held(program, main=True) == {}


@pytest.mark.parametrize("before", range(0, 13, 4))
def test_a_text_across_two_reads_is_found(tmp_path: Path, before: int) -> None:
    """Files are searched by the MiB."""
    made, text = link(tmp_path, "int x;"), b"<jemalloc>: "
    data = made.read_bytes()
    made.write_bytes(data + bytes((1 << 20) - len(data) - before) + text)
    with made.open("rb") as f:
        assert Elf(f.fileno()).search((text,), constants=False) == {text}


def test_what_is_no_elf_file_or_another_one_holds_nothing(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"malloc\0" * 100)
    assert held(plain) == {}
    assert CodeFinder().look(os.getpid(), "fe:00", 1, this_libc()) is None
    assert CodeFinder().look(os.getpid(), "fe:00", 1, "/nowhere") is None


def test_a_file_is_read_once(tmp_path: Path) -> None:
    made = link(tmp_path, "void *malloc(unsigned long n) { return 0; }")
    finder, ino = CodeFinder(), made.stat().st_ino
    first = finder.look(os.getpid(), "fe:00", ino, str(made))
    assert first is not None
    assert first["malloc"]
    assert finder.look(os.getpid(), "fe:00", ino, str(made)) is first


def test_the_next_file_with_the_same_number_is_another(tmp_path: Path) -> None:
    made = link(tmp_path, "void *malloc(unsigned long n) { return 0; }")
    finder, ino, pid = CodeFinder(), made.stat().st_ino, os.getpid()
    mapped = time.time_ns() + 10**9
    assert finder.look(pid, "fe:00", ino, str(made), at=mapped) == held(made)
    made.write_bytes(link(tmp_path, "void other(void) {}", name="b.so").read_bytes())
    assert made.stat().st_ino == ino
    assert finder.look(pid, "fe:00", ino, str(made), at=mapped) == {}
    # What was mapped before it was written to is not what is there now, and never was what is gone.
    assert finder.look(pid, "fe:00", ino, str(made), at=mapped - 3600 * 10**9) is None
    made.unlink()
    assert finder.look(pid, "fe:00", ino, str(made), at=mapped) is None


def test_pipes_and_devices_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "libc.so.6"
    os.mkfifo(pipe)
    opened: list[str] = []
    real = os.open

    def watched(path: str, flags: int) -> int:
        if not flags & os.O_PATH:
            opened.append(path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", watched)
    for path in (str(pipe), "/dev/zero"):
        ino = os.stat(path).st_ino
        assert CodeFinder().look(os.getpid(), "fe:00", ino, path) is None
        assert Frames().at(os.getpid(), "fe:00", ino, path, 100, 8) == Frame()
        assert not calls_directly(os.getpid(), ino, path, 100, 200)
        assert LibcFinder().look_into(os.getpid(), "fe:00", ino, path) is None
    # It is not waited for somebody to write to it.
    assert LibcFinder().look(os.getpid(), "fe:00", pipe.stat().st_ino, str(pipe)) is not None
    assert opened == []


def test_a_file_made_to_be_read_for_ever_is_not(tmp_path: Path) -> None:
    """A hash chain that goes in circles, many notes, and 250 huge segments that overlap."""
    made = link(tmp_path, "void *malloc(unsigned long n) { return 0; }", "-Wl,--hash-style=sysv")
    data = bytearray(made.read_bytes())
    with made.open("rb") as f:
        section: Any = ELFFile(f).get_section_by_name(".hash")
        where = section["sh_offset"]
    buckets, chains = struct.unpack_from("<2I", data, where)
    for i in range(buckets + chains):
        struct.pack_into("<I", data, where + 8 + 4 * i, 1)
    segments = [data[64 + 56 * i : 120 + 56 * i] for i in range(data[56])]
    huge = struct.pack("<2I6Q", 1, 4, 0, 1 << 40, 0, 1 << 40, 1 << 40, 1)
    note = struct.pack("<2I6Q", 4, 4, 0x10000, 1 << 41, 0, 1 << 30, 1 << 30, 1)
    table = b"".join(segments) + huge * 120 + note * (250 - 120 - len(segments))
    struct.pack_into("<Q", data, 32, len(data))
    struct.pack_into("<H", data, 56, 250)
    data += table
    data += bytes(1 << 20)
    made.write_bytes(data)
    os.truncate(made, 1 << 40)
    reads = 0
    real = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        nonlocal reads
        reads += size
        return real(fd, size, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", counted)
        held(made, main=True)
    assert reads <= 300 << 20


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
@given(st.data())
def test_a_broken_file_gives_an_answer(tmp_path: Path, data: st.DataObject) -> None:
    made = tmp_path / "whole.so"
    if not made.exists():
        link(tmp_path, "void *malloc(unsigned long n) { return 0; }", name="whole.so")
    whole = bytearray(made.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, 1023) | st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF]) | st.integers(0, 255))
    broken = tmp_path / "broken.so"
    broken.write_bytes(whole[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))])
    with broken.open("rb") as f:
        try:
            elf = Elf(f.fileno())
        except NotElfError:
            return
        elf.defines("malloc")
        elf.build_id()
        elf.search([b"malloc"], constants=True)
        elf.writable(100)
