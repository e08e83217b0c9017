# SPDX-License-Identifier: GPL-2.0-or-later
"""What an attach reads: flags of smaps, chunk headers."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from types import SimpleNamespace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from memtrace.collect.seeding import chunks, malloc_shaped, overwritten, size_word, vm_flags
from memtrace.collect.tracee import Mm

ENTRY = """{low:x}-{high:x} rw-p 00000000 00:00 0 {path}
Size:                  8 kB
KernelPageSize:        4 kB
Rss:                   4 kB
THPeligible:           0
VmFlags: {flags} 
"""  # noqa: W291 - as the kernel prints it


def smaps(*entries: tuple[int, int, str, str]) -> bytes:
    return "".join(
        ENTRY.format(low=low, high=high, path=path, flags=flags)
        for low, high, path, flags in entries
    ).encode()


def test_only_the_flags_that_decide_a_later_map() -> None:
    text = smaps(
        (0x1000, 0x3000, "/bin/a dc b gd ", "rd ex mr mw me sd"),
        (0x3000, 0x5000, "", "rd wr mr mw me dc ac sd"),
        (0x6000, 0x7000, "", "rd wr mr mw me gd ac"),
        (0x8000, 0x9000, "", "rd wr dc gd sd"),
        (0x9000, 0xA000, "[vdso]", "rd ex de"),
    )
    assert vm_flags(text) == ([(0x3000, 0x5000), (0x8000, 0x9000)],
                              [(0x6000, 0x7000), (0x8000, 0x9000)])  # fmt: skip
    assert vm_flags(b"") == ([], [])


flags = st.lists(st.sampled_from(["rd", "wr", "dc", "gd", "ac", "sd", "nr"]), unique=True)


@given(st.lists(st.tuples(st.sampled_from(["", "/a dc ", "[heap]", "/gd "]), flags)))
def test_each_flag_is_its_own_lines(lines: list[tuple[str, list[str]]]) -> None:
    entries = [(i << 16, (i << 16) + 8192, path, " ".join(f)) for i, (path, f) in enumerate(lines)]
    want = [[(e[0], e[1]) for e, (_, f) in zip(entries, lines, strict=True) if flag in f]
            for flag in ("dc", "gd")]  # fmt: skip
    assert list(vm_flags(smaps(*entries))) == want


def test_malloc_maps_private_anonymous_memory() -> None:
    text = b"""1000-2000 r-xp 00000000 fe:00 7 /bin/a
3000-4000 rw-p 00000000 00:00 0 
5000-6000 rw-p 00000000 00:00 0 [heap]
7000-8000 rw-s 00000000 00:01 9 /dev/zero (deleted)
9000-a000 ---p 00000000 00:00 0 
b000-c000 rw-p 00000000 00:00 0 [anon: glibc: malloc]
"""  # noqa: W291
    assert list(malloc_shaped(text)) == [(0x3000, 0x4000), (0xB000, 0xC000)]


def test_chunks_are_chained_and_checked() -> None:
    # sysmalloc_mmap: the size is a number of pages, with IS_MMAPPED (2) and no other flag.
    words = {0x10000: 0x3002, 0x13000: 0x1002, 0x14000: 0x9002,  # the third is too long
             0x20000: 0x2003, 0x30000: 0x1802, 0x40000: 2, 0x50000: 0x1000}  # fmt: skip
    mappings = [(0x10000, 0x18000)] + [
        (a, a + 0x4000) for a in (0x20000, 0x30000, 0x40000, 0x50000)
    ]
    assert list(chunks(mappings, lambda a: words.get(a, 0))) == [
        (0x10000, 0x3002),
        (0x13000, 0x1002),
    ]


def test_the_chunks_of_glibc_2_43_leave_out_two_words() -> None:
    # "malloc: Change mmap chunk layout": 0x4000 bytes less 16, and 2 for IS_MMAPPED
    words = {0x10000: 0x3FF2, 0x14000: 0x0FF2, 0x15000: 0x3FE2}
    assert list(chunks([(0x10000, 0x18000)], lambda a: words.get(a, 0))) == [
        (0x10000, 0x3FF2),
        (0x14000, 0x0FF2),
    ]


def test_an_environment_that_was_written_over() -> None:
    assert not overwritten(b"")  # a program may have none
    assert not overwritten(b"PATH=/bin\0MALLOC_ARENA_MAX=1\0")
    assert overwritten(b"\0" * 600)  # redis-server, whose title is short
    assert overwritten(b"er process: serving\0\0OLDPWD=/\0")


def test_a_size_word_is_read_where_prev_size_is_0_and_the_page_is_there() -> None:
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 4 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        first = ctypes.c_char.from_buffer(memory)
        at = ctypes.addressof(first)
        del first
        memory[:16] = struct.pack("<QQ", 0, 0x21002)
        memory[page : page + 16] = struct.pack("<QQ", 16, 0x21002)
        files = [os.open(f"/proc/self/{name}", os.O_RDONLY) for name in ("mem", "pagemap")]
        try:
            mm = cast("Mm", SimpleNamespace(mem_fd=files[0], pagemap_fd=files[1]))
            found = [size_word(mm, at + n * page) for n in range(3)]
            assert found == [0x21002, 0, 0]
            entry = os.pread(files[1], 8, (at // page + 2) * 8)
            assert not int.from_bytes(entry, "little") >> 62  # nor did the look bring it in
            assert (size_word(mm, 0), size_word(mm, 1 << 63)) == (0, 0)
        finally:
            for fd in files:
                os.close(fd)
