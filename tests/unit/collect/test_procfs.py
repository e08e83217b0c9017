# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc tells: this process's own facts held against what it knows of itself."""

from __future__ import annotations

import mmap
import os
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from memtrace.collect import procfs
from memtrace.collect.procfs import MapsQuery
from memtrace.trace.mapping import decode_maps, parse_line

PAGE = 4096


@pytest.fixture
def maps() -> Iterator[int]:
    fd = os.open("/proc/self/maps", os.O_RDONLY)
    yield fd
    os.close(fd)


def proc(monkeypatch: pytest.MonkeyPatch, **files: bytes) -> None:
    """Only these files of /proc/7 exist."""
    known = {f"/proc/7/{name}": data for name, data in files.items()}
    monkeypatch.setattr(procfs, "read", lambda path: known.get(path, b""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"123 45 6 7 0 8 0\n", (123, 45)),
        (b"123 0 0 0 0 0 0\n", (123, 0)),
        (b"0 0 0 0 0 0 0\n", None),  # the mm is gone: task_mem of a zombie
        (b"0", None),
        (b"12 3", None),
        (b"", None),
    ],
)
def test_page_counts(text: bytes, expected: tuple[int, int] | None) -> None:
    assert procfs.statm(text) == expected


def test_page_counts_of_this_process_are_pages() -> None:
    area = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    counts = procfs.statm(procfs.read("/proc/self/statm"))
    area.close()
    assert counts is not None
    lines = decode_maps(procfs.read("/proc/self/maps"))
    total = sum(m.end - m.start for m in map(parse_line, lines)) // PAGE
    # Nothing else was mapped in between but what Python's allocator may want.
    assert abs(counts[0] - 64 - total) < 1024


def test_a_process_that_is_not_there_has_nothing_to_tell() -> None:
    gone = 2**22 + 1  # above PID_MAX_LIMIT
    assert procfs.read(f"/proc/{gone}/maps") == b""
    assert procfs.stat_fields(gone) == []
    assert procfs.status_field(gone, "Tgid", "PPid") == [None, None]
    facts = procfs.exec_facts(gone)
    assert (facts["exe"], facts["argv"], facts["env"], facts["personality"]) == ("", [], {}, 0)
    assert "start_brk" not in facts
    assert "at_secure" not in facts


def test_a_command_name_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    proc(monkeypatch, stat=b"7 (a) R (b)) S 1 7 7 0 -1 4194560 99 0 3 0\n")
    assert procfs.stat_fields(7)[:2] == ["S", "1"]
    assert procfs.stat_fields(7)[7] == "99"  # minflt is field 10 of proc(5)


def test_fields_of_status(monkeypatch: pytest.MonkeyPatch) -> None:
    proc(
        monkeypatch,
        status=b"Name:\tTgid: 5\nTgid:\t7\nPPid:\t1\nVmHWM:\t  84 kB\nX:\ty\nNeg:\t-3\n",
    )
    assert procfs.status_field(7, "PPid", "Tgid", "VmHWM") == [1, 7, 84]
    assert procfs.status_field(7, "X", "Neg", "None") == [None, -3, None]


def test_the_fields_this_process_knows_of_itself() -> None:
    me = os.getpid()
    assert procfs.status_field(me, "Tgid", "PPid") == [me, os.getppid()]
    stat = procfs.stat_fields(me)
    assert (int(stat[1]), int(stat[3])) == (os.getppid(), os.getsid(0))
    facts = procfs.exec_facts(me)
    assert facts["exe"] == os.path.realpath(f"/proc/{me}/exe")
    assert facts["ppid"] == os.getppid()
    assert facts["at_secure"] is False
    assert set(facts["rlimits"]) == {"AS", "DATA", "STACK", "MEMLOCK", "NPROC"}
    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    assert facts["rlimits"]["STACK"] == (None if soft == resource.RLIM_INFINITY else soft)
    labels = {m.path: m for m in map(parse_line, decode_maps(procfs.read("/proc/self/maps")))}
    assert labels["[stack]"].start <= facts["start_stack"] < labels["[stack]"].end
    if "[heap]" in labels:
        heap = labels["[heap]"]
        assert heap.start - PAGE < facts["start_brk"] < heap.end


def test_a_setuid_program_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    aux = struct.pack("<6Q", 6, PAGE, 23, 1, 0, 0)  # AT_PAGESZ, AT_SECURE, AT_NULL
    proc(monkeypatch, auxv=aux + b"\0\0\0", personality=b"00400000\n", cmdline=b"p\0\0\xff\0")
    facts = procfs.exec_facts(7)
    assert facts["at_secure"] is True
    assert facts["personality"] == 0x400000
    assert facts["argv"] == ["p", "", "\\xff"]


def test_only_what_bears_on_memory_is_kept_of_the_environment() -> None:
    raw = (
        b"HOME=/root\0GLIBC_TUNABLES=glibc.malloc.arena_max=1\0SECRET=x\0MALLOC_ARENA_MAX=2\0"
        b"MALLOC_ARENA_MAX=3\0LD_PRELOAD=\0PYTHONMALLOC=malloc\0XMALLOC_A=1\0MALLOC_NOEQUALS\0"
        b"MALLOC_TOP_PAD_=a=b\xff\0\0"
    )
    assert procfs._environment(raw)[0] == {
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=1",
        "MALLOC_ARENA_MAX": "2",
        "LD_PRELOAD": "",
        "PYTHONMALLOC": "malloc",
        "MALLOC_TOP_PAD_": "a=b\\xff",
    }
    assert procfs._environment(b"") == ({}, False)


@pytest.mark.parametrize(
    ("raw", "twice"),
    [
        (b"MALLOC_TOP_PAD_=0\0MALLOC_TOP_PAD_=1\0", True),
        (b"MALLOC_TOP_PAD_=0\0MALLOC_TOP_PAD_=0\0", False),
        (b"HOME=/a\0HOME=/b\0", False),
    ],
)
def test_a_name_that_is_there_twice_leaves_open_which_counts(raw: bytes, *, twice: bool) -> None:
    assert procfs._environment(raw)[1] is twice


def test_a_file_of_proc_is_read_to_its_end_every_time(maps: int) -> None:
    # The kernel gives about a page per read: one read would cut this process's map.
    areas = [mmap.mmap(-1, PAGE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) for _ in range(100)]
    first, second = procfs.read_fd(maps), procfs.read_fd(maps)
    assert len(first) > 2 * PAGE
    assert first.endswith(b"[vsyscall]\n") or b"[stack]" in first
    assert first.splitlines()[:5] == second.splitlines()[:5]
    assert first.count(b"/dev/zero") >= 100
    for area in areas:
        area.close()


def test_a_closed_file_gives_nothing() -> None:
    assert procfs.read_fd(-1) == b""


def test_a_child_that_has_gone_has_no_map() -> None:
    read, write = os.pipe()
    pid = os.posix_spawn("/bin/cat", ["cat"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)])
    fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY)
    os.close(read)
    os.close(write)
    os.waitpid(pid, 0)
    assert procfs.read_fd(fd) == b""
    os.close(fd)


# -- one line of maps ---------------------------------------------------------------------------


@pytest.fixture
def query() -> MapsQuery:
    q = MapsQuery()
    if not q.available:
        pytest.skip("PROCMAP_QUERY needs kernel 6.11")
    return q


def test_every_line_of_maps_can_be_asked_for(query: MapsQuery, maps: int, tmp_path: Path) -> None:
    names = ["plain", "two  blanks", "new\nline", "back\\slash", "deleted", "\udcff raw"]
    areas = []
    for name in names:
        path = os.fsencode(tmp_path / name)
        with open(path, "wb+") as f:
            f.truncate(2 * PAGE)
            areas.append(mmap.mmap(f.fileno(), PAGE, mmap.MAP_SHARED, offset=PAGE))
            f.flush()
            areas.append(mmap.mmap(f.fileno(), PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ))
        if name == "deleted":
            os.unlink(path)
    areas.append(mmap.mmap(-1, 3 * PAGE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))
    lines = decode_maps(procfs.read_fd(maps))
    found = asked = 0
    for line in lines:
        m = parse_line(line)
        for address in {m.start, m.end - 1, (m.start + m.end) // 2}:
            got = query.covering(maps, address)
            assert got is not None, line
            text, page = got
            asked += 1
            # What the query's own work maps is not yet in the text.
            if decode_maps(text + b"\n") == [line]:
                found += 1
            else:
                assert m.path in {"", "[heap]", "[stack]"}, (line, text)
            assert page == PAGE
    assert asked - found <= 6
    for name in ["plain", "two  blanks", "new\\012line", "back\\slash", "deleted (deleted)"]:
        assert sum(line.endswith("/" + name) for line in lines) == 2
    for area in areas:
        area.close()


def test_where_nothing_is_mapped_there_is_no_line(query: MapsQuery, maps: int) -> None:
    lowest = parse_line(decode_maps(procfs.read_fd(maps))[0]).start
    assert query.covering(maps, lowest - 1) is None
    assert query.covering(maps, 0) is None
    assert query.covering(maps, 1 << 60) is None


def test_a_file_that_is_no_map_is_no_answer(query: MapsQuery) -> None:
    with open("/dev/null", "rb") as f:
        assert query.covering(f.fileno(), 0x1000) is None


def test_an_old_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "_PROCMAP_QUERY", 0xC06866FF)  # ENOTTY
    assert MapsQuery().available is False
