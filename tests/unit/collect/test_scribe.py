# SPDX-License-Identifier: GPL-2.0-or-later
"""The scribe: messages made by hand, lines read back by the trace's own reader."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests.unit.collect.messages import I386, X86_64, call, words

from memtrace.collect import wire
from memtrace.collect.abi import NAMES
from memtrace.collect.code import CodeFinder
from memtrace.collect.libc import LibcFinder
from memtrace.collect.scribe import Scribe
from memtrace.space.address_space import AddressSpace
from memtrace.trace.codec import Decoder
from memtrace.trace.records import (
    Allocator,
    Call,
    Exec,
    FileId,
    Header,
    Libc,
    Record,
    Site,
    Snap,
)

PAGE = 4096
READ_IMPLIES_EXEC = 0x0400000
TEXT, LIB, HEAP, ANON = 0x400000, 0x7F0000000000, 0x600000, 0x7F1000000000
MAPS = [
    "400000-402000 r-xp 00001000 fe:00 11 /bin/prog",
    "402000-403000 rw-p 00003000 fe:00 11 /bin/prog",
    "7f0000000000-7f0000010000 r-xp 00020000 fe:00 12 /lib/libc.so.6",
    "7ffff0000000-7ffff0002000 rw-p 00000000 00:00 0 [stack]",
]
PAGES = 2 + 1 + 16 + 2


class Finder(LibcFinder):
    """Knows one libc, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, str, int, str]] = []

    def look(self, pid: int, dev: str, ino: int, path: str) -> dict[str, Any] | None:
        self.asked.append((pid, dev, ino, path))
        return {"name": "glibc", "version": "2.36"} if "libc" in path else None


class Code(CodeFinder):
    """Knows what it was told that a path holds; of others that there is nothing in them."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, dict[str, Any] | None] = {}
        self.asked: list[tuple[str, int | None]] = []

    def look(
        self, pid: int, dev: str, ino: int, path: str, *, main: bool = False, at: int | None = None
    ) -> dict[str, Any] | None:
        self.asked.append((path, at))
        return self.held.get(path, {})


class Desk:
    """A scribe with an exec behind it, and what came of it."""

    def __init__(self, **fields: Any) -> None:
        self.wishes: list[int] = []
        self.finder = Finder()
        self.code = Code()
        self.scribe = Scribe(self.wishes.append, self.finder, find_code=self.code)
        self.scribe.start(1000)
        self.exec(**fields)

    def exec(self, *, mm: int = 1, maps: list[str] = MAPS, **fields: Any) -> None:
        blob = "".join(f"{line}\n" for line in maps).encode()
        self.life("exec", mm=mm, blob=blob, **{"start_brk": HEAP, **fields})

    def life(self, rec: str, *, blob: bytes = b"", t: int = 0, **fields: Any) -> None:
        base = {"rec": rec, "t": t, "mm": 1}
        if rec in {"exec", "snap", "fork"}:
            base |= {"pid": 100, "tid": 100}
        self.scribe.feed(wire.LifeMessage(base | fields, blob))

    def snap(self, maps: list[str], **fields: Any) -> None:
        blob = "".join(f"{line}\n" for line in maps).encode()
        self.life("snap", blob=blob, why="periodic", **fields)

    def call(self, *arguments: Any, **fields: Any) -> None:
        self.scribe.feed(call(*arguments, **fields))

    def mmap(self, address: int, length: int, **fields: Any) -> None:
        self.call("mmap", [0, length, 3, 0x22, 0xFFFFFFFF, 0], address, **fields)

    def records(self) -> list[Record]:
        """All lines as the reader decodes them."""
        self.decoder = Decoder(Header(calls=list(NAMES)))
        return [self.decoder.decode(line) for line in self.scribe.lines]

    def calls(self) -> list[Call]:
        return [r for r in self.records() if isinstance(r, Call)]

    def last(self) -> Call:
        return self.calls()[-1]


def statm(total: int, resident: int = 1) -> bytes:
    return b"%d %d 1 1 0 1 0\n" % (total, resident)


# -- lines --------------------------------------------------------------------------------------


def test_calls_are_read_back_as_they_were_made() -> None:
    desk = Desk()
    desk.mmap(ANON, 2 * PAGE, t=(1500, 1700), statm=statm(PAGES + 2, 7))
    desk.call("munmap", [ANON, 2 * PAGE], 0, t=(2000, 2600), statm=statm(PAGES, 5))
    first, second = desk.calls()
    # Rows carry deltas: 1700 - 1000 (the start) after the exec at 0, then 2600 - 1700.
    assert (first.dt, first.dur, second.dt, second.dur) == (700, 200, 900, 600)
    assert (first.tid, first.mm, NAMES[first.call]) == (100, 1, "mmap")
    assert first.args == [0, 2 * PAGE, 3, 0x22, 0xFFFFFFFF, 0]
    assert (first.ret, first.vm, first.rss) == (ANON, PAGES + 2, 7)
    assert (second.args, second.ret) == ([ANON, 2 * PAGE], 0)
    assert (second.vm, second.rss) == (PAGES, 5)
    assert first.ext is second.ext is None
    assert desk.wishes == []
    assert desk.scribe.counts["calls"] == 2
    assert (desk.scribe.vm_peak, desk.scribe.rss_peak) == (PAGES + 2, 7)


def test_the_usual_tail_of_an_anonymous_mmap_goes_without_saying() -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE)
    assert len(json.loads(desk.scribe.lines[-1].rstrip(b",\n"))[5]) == 4
    assert desk.last().args == [0, PAGE, 3, 0x22, 0xFFFFFFFF, 0]
    desk.call("mmap", [0, PAGE, 3, 0x22, -1, 0], ANON + PAGE)
    assert len(json.loads(desk.scribe.lines[-1].rstrip(b",\n"))[5]) == 6
    assert desk.last().args == [0, PAGE, 3, 0x22, -1, 0]


def test_every_record_has_its_number_and_the_counts_are_kept() -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE)
    desk.life("lost", why="a reason", count=3)
    desk.life("lost", why="another")
    desk.life("overlap", tids=[100, 101])
    desk.call("munmap", [ANON, PAGE], 0)
    desk.snap(MAPS)
    assert desk.scribe.seq == len(desk.scribe.lines) == 7
    assert desk.scribe.counts == {
        "records": 0, "calls": 2, "snapshots": 1, "exact": 1, "lost": 4, "overlaps": 1,
    }  # fmt: skip


def test_an_exec_says_what_was_read_of_it() -> None:
    desk = Desk(personality=READ_IMPLIES_EXEC, argv=["prog", "-x"], t=5)
    (record,) = desk.records()
    assert isinstance(record, Exec)
    assert (record.t, record.mm, record.argv, record.maps) == (5, 1, ["prog", "-x"], MAPS)
    assert record.start_brk == HEAP
    desk.exec(mm=2)


def test_a_call_that_never_returned_changes_nothing() -> None:
    desk = Desk()
    desk.call("munmap", [TEXT, PAGE], 0, flags=wire.UNFINISHED, statm=statm(PAGES))
    assert desk.last().ret is None
    assert desk.wishes == []


# -- chunk headers ------------------------------------------------------------------------------


def test_a_header_rides_on_the_next_record() -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE)  # call 1 of the mm, record 2
    desk.mmap(ANON + PAGE, PAGE)  # call 2, record 3
    desk.scribe.feed(wire.HeaderMessage(1, 2, 0, 0x1002))
    desk.scribe.feed(wire.HeaderMessage(1, 1, 0, 0))
    desk.call("munmap", [ANON, PAGE], 0)
    desk.call("munmap", [ANON + PAGE, PAGE], 0)
    third, fourth = desk.calls()[2:]
    assert third.ext is not None
    assert third.ext.h == [(1, 0x1002), (2, 0)]  # records back
    assert fourth.ext is None


def test_a_header_rides_on_a_life_record_too() -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE)
    desk.scribe.feed(wire.HeaderMessage(1, 1, 0, 0x1002))
    desk.snap([*MAPS[:3], f"{ANON:x}-{ANON + PAGE:x} rw-p 00000000 00:00 0", MAPS[3]])
    snap = desk.records()[-1]
    assert isinstance(snap, Snap)
    assert snap.h == [(1, 0x1002)]


@pytest.mark.parametrize("message", [(1, 9, 0, 2), (7, 1, 0, 2)])
def test_a_header_of_nothing_known_is_dropped(message: tuple[int, int, int, int]) -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE)
    desk.scribe.feed(wire.HeaderMessage(*message))
    desk.call("munmap", [ANON, PAGE], 0)
    assert desk.last().ext is None


def test_a_header_is_told_once() -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE)
    for _ in range(2):
        desk.scribe.feed(wire.HeaderMessage(1, 1, 0, 0x1002))
        desk.call("munmap", [ANON, PAGE], 0)
    assert desk.last().ext is None


# -- the checksum -------------------------------------------------------------------------------


def test_a_snapshot_is_wanted_once_per_disagreement() -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE, statm=statm(PAGES + 1))
    assert desk.wishes == []
    desk.mmap(ANON + PAGE, PAGE, statm=statm(PAGES + 3))  # a page that no call explains
    assert desk.wishes == [1]
    desk.call("munmap", [ANON, PAGE], 0, statm=statm(PAGES + 2))
    assert desk.wishes == [1]
    desk.snap([*MAPS[:3], f"{ANON + PAGE:x}-{ANON + 3 * PAGE:x} rw-p 00000000 00:00 0", MAPS[3]])
    assert desk.scribe.drift == [(5, 1)]
    assert (desk.scribe.counts["snapshots"], desk.scribe.counts["exact"]) == (1, 0)
    # The model has taken over the kernel's map: what follows agrees again, and may disagree again.
    desk.mmap(ANON, PAGE, statm=statm(PAGES + 3))
    assert desk.wishes == [1]
    desk.call("munmap", [ANON, PAGE], 0, statm=statm(PAGES + 3))
    assert desk.wishes == [1, 1]


def test_a_kernel_that_miscounts_by_a_constant_is_not_asked_for_ever() -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE, statm=statm(PAGES + 9))
    assert desk.wishes == [1]
    line = f"{ANON:x}-{ANON + PAGE:x} rw-p 00000000 00:00 0"
    desk.snap([*MAPS[:3], line, MAPS[3]], vm=PAGES + 9, rss=40, hwm=44)
    assert desk.scribe.drift == []
    desk.call("munmap", [ANON, PAGE], 0, statm=statm(PAGES + 8))
    assert desk.wishes == [1]
    assert (desk.scribe.vm_peak, desk.scribe.rss_peak) == (PAGES + 9, 44)


def test_what_comes_before_an_attach_is_no_part_of_the_trace() -> None:
    desk, blob = Desk(), "\n".join([*MAPS, ""]).encode()
    desk.life("awaited", mm=2)
    desk.mmap(ANON, PAGE, mm=2)
    desk.life("snap", mm=2, why="periodic", blob=blob)
    assert (desk.scribe.seq, desk.scribe.counts["snapshots"]) == (1, 0)
    desk.life("attach", mm=2, pid=7, start_brk=HEAP, blob=blob)
    desk.mmap(ANON, PAGE, mm=2)
    desk.call("munmap", [ANON, PAGE], 0, mm=2)
    desk.life("snap", mm=2, why="detach", blob=blob)
    assert (desk.scribe.counts["calls"], desk.scribe.counts["exact"]) == (2, 1)


def test_a_high_water_mark_of_before_the_attach_is_no_peak_since() -> None:
    desk, blob = Desk(), "\n".join([*MAPS, ""]).encode()
    desk.life("attach", mm=2, pid=7, start_brk=HEAP, rss=40, vm=PAGES, blob=blob)
    desk.life("snap", mm=2, why="exit", vm=PAGES, rss=44, hwm=9000, blob=blob)
    assert desk.scribe.rss_peak == 44


@pytest.mark.parametrize("text", [b"", b"0 0 0 0 0 0 0\n", b"12"])
def test_without_a_page_count_nothing_is_claimed(text: bytes) -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE, statm=text)
    assert (desk.last().vm, desk.last().rss) == (None, None)
    assert desk.wishes == []


def test_stack_growth_is_imported_and_counted() -> None:
    desk = Desk()
    desk.snap([*MAPS[:3], "7fffefffd000-7ffff0002000 rw-p 00000000 00:00 0 [stack]"])
    assert (desk.scribe.grown, desk.scribe.drift) == (3 * PAGE, [])
    assert desk.scribe.counts["exact"] == 1


def test_a_forked_child_begins_as_its_parent() -> None:
    desk = Desk()
    desk.mmap(ANON, PAGE)
    desk.life("fork", child=200, child_mm=2)
    desk.call("munmap", [ANON, PAGE], 0, statm=statm(PAGES))
    desk.call("munmap", [ANON, PAGE], 0, mm=2, statm=statm(PAGES))
    assert desk.wishes == []
    desk.life("gone", mm=2)
    desk.life("snap", mm=2, why="exit", blob=b"")  # of nobody known: kept, not compared
    assert desk.scribe.counts["snapshots"] == 0


def test_the_peak_of_the_heap_is_above_its_start() -> None:
    desk = Desk()
    for end in (HEAP, HEAP + 0x21000, HEAP + 0x11000):
        desk.call("brk", [end], end)
    assert desk.scribe.heap_peak == 0x21000


def test_a_label_tells_no_peak_of_the_heap() -> None:
    desk = Desk()
    heap = f"{HEAP:x}-{HEAP + 0x400000:x} rw-p 00000000 00:00 0 [heap]"
    desk.life("attach", mm=2, pid=7, start_brk=HEAP, blob=f"{heap}\n".encode())
    assert desk.scribe.heap_peak == 0  # of the program before
    desk.call("brk", [0], HEAP + 0x2000, mm=2)
    assert desk.scribe.heap_peak == 0x2000


# -- sites --------------------------------------------------------------------------------------


def sites(desk: Desk) -> list[Site | int | None]:
    """The site column as written: a definition at the first use, its number afterwards."""
    return [c.site for c in desk.calls()]


def test_a_site_is_a_place_in_its_file_and_defined_once() -> None:
    desk = Desk()
    for ret in (TEXT + 0x10, TEXT + 0x10, TEXT + 0x20):
        desk.call("munmap", [ANON, PAGE], 0, ip=LIB + 0x123, stack=words(ret))
    first, second, third = sites(desk)
    # Offset in the file: address - start of the line + the line's offset.
    assert first == Site(
        1, (FileId(1, "fe:00", 12, "/lib/libc.so.6"), 0x20123),
        (FileId(2, "fe:00", 11, "/bin/prog"), 0x1010),
    )  # fmt: skip
    assert second == 1
    assert third == Site(2, (1, 0x20123), (2, 0x1020))


def test_without_a_stack_there_is_no_site() -> None:
    desk = Desk()
    desk.call("munmap", [ANON, PAGE], 0, ip=LIB)
    assert sites(desk) == [None]


@pytest.mark.parametrize("word", [0, 0x402010, ANON, 0x7FFFF0001000, 2**64 - 1])
def test_a_word_that_points_to_no_code_is_no_caller(word: int) -> None:
    desk = Desk()
    desk.call("munmap", [ANON, PAGE], 0, ip=TEXT + 2, stack=words(word))
    (site,) = sites(desk)
    assert site == Site(1, (FileId(1, "fe:00", 11, "/bin/prog"), 0x1002), None)


def test_code_without_a_file_is_its_address() -> None:
    desk = Desk()
    desk.call("mmap", [0, PAGE, 7, 0x22, 0xFFFFFFFF, 0], ANON)
    desk.call("munmap", [0x5000, PAGE], 0, ip=ANON + 4, stack=words(ANON + 8))
    assert sites(desk)[1] == Site(1, (None, ANON + 4), (None, ANON + 8))


def test_mremaps_outer_caller_stands_further_up_the_frame() -> None:
    desk = Desk()
    stack = [0x99] * 12
    stack[0], stack[11] = LIB + 8, TEXT + 0x30
    desk.call("mremap", [ANON, PAGE, PAGE, 0], ANON, ip=LIB, stack=words(*stack))
    (site,) = sites(desk)
    assert isinstance(site, Site)
    assert site.ret == (1, 0x20008)
    assert site.outer == (FileId(2, "fe:00", 11, "/bin/prog"), 0x1030)


def test_sbrks_caller_is_not_told_without_the_files_tables() -> None:
    desk = Desk()
    stack = words(LIB + 8, 0, 0, 0, TEXT + 0x30)
    desk.call("brk", [HEAP], HEAP, ip=LIB, stack=stack)
    (site,) = sites(desk)
    assert isinstance(site, Site)
    assert (site.ret, site.outer) == ((1, 0x20008), None)


@pytest.mark.parametrize("arch", [X86_64, I386])
def test_a_call_of_the_other_interface_is_unwound_by_its_own_rules(arch: int) -> None:
    desk = Desk()
    nr = {X86_64: 11, I386: 91}[arch]
    code, word = bytes.fromhex("5d5a59c300000000"), words(TEXT + 0x10)
    stack = word if arch == X86_64 else code + word
    desk.call(nr, [ANON, PAGE], 0, arch=arch, ip=LIB + 2, stack=stack)
    (site,) = sites(desk)
    assert isinstance(site, Site)
    assert site.ip == (FileId(1, "fe:00", 12, "/lib/libc.so.6"), 0x20002)
    # Nothing is taken for a return address of 32-bit code because it stands there.
    assert site.ret == (None if arch == I386 else (FileId(2, "fe:00", 11, "/bin/prog"), 0x1010))


@pytest.mark.parametrize("how", ["munmap", "mprotect", "mmap"])
def test_a_change_of_code_forgets_what_addresses_meant(how: str) -> None:
    desk = Desk()
    where: dict[str, Any] = {"ip": LIB + 1, "stack": words(TEXT + 0x10)}
    desk.call("munmap", [ANON, PAGE], 0, **where)
    if how == "munmap":
        desk.call("munmap", [TEXT, 2 * PAGE], 0)
    elif how == "mprotect":
        desk.call("mprotect", [TEXT, 2 * PAGE, 1], 0)
    else:
        line = "400000-402000 r-xp 00005000 fe:00 33 /lib/other.so"
        args = [TEXT, 2 * PAGE, 5, 0x12, 3, 0x5000]
        desk.call("mmap", args, TEXT, extra={"b": [TEXT, TEXT + 2 * PAGE, [line]]})
    desk.call("munmap", [ANON, PAGE], 0, **where)
    site = sites(desk)[-1]
    assert isinstance(site, Site)
    if how == "mmap":
        assert site.ret is not None
        assert desk.decoder.place(site.ret) == (FileId(3, "fe:00", 33, "/lib/other.so"), 0x5010)
    else:
        assert site.ret is None


def test_a_drift_forgets_what_addresses_meant() -> None:
    desk = Desk()
    where: dict[str, Any] = {"ip": LIB + 1, "stack": words(TEXT + 0x10)}
    desk.call("munmap", [ANON, PAGE], 0, **where)
    desk.snap(["400000-402000 r-xp 00005000 fe:00 33 /lib/other.so", *MAPS[2:]])
    assert len(desk.scribe.drift) == 1
    desk.call("munmap", [ANON, PAGE], 0, **where)
    site = sites(desk)[-1]
    assert isinstance(site, Site)
    assert site.ret == (FileId(3, "fe:00", 33, "/lib/other.so"), 0x5010)


# -- what was read back -------------------------------------------------------------------------

FILE = [0, 2 * PAGE, 3, 2, 5, 0x3000]  # PROT_READ|PROT_WRITE, MAP_PRIVATE, offset 0x3000


def line_of(
    perms: str = "rw-p", offset: int = 0x3000, *, low: int = ANON, pages: int = 2,
    backing: str = "fe:00 21 /data",
) -> str:  # fmt: skip
    return f"{low:x}-{low + pages * PAGE:x} {perms} {offset:08x} {backing}"


def mapped(args: list[int], line: str, *, high: int = ANON + 2 * PAGE, **exec_: Any) -> Call:
    """One mmap with its line read back."""
    desk = Desk(**exec_)
    desk.call("mmap", args, ANON, extra={"b": [ANON, high, [line]]})
    return desk.last()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        pytest.param(FILE, line_of(), id="private"),
        pytest.param([0, 2 * PAGE, 3, 1, 5, 0x3000], line_of("rw-s"), id="shared"),
        pytest.param([0, 2 * PAGE, 3, 3, 5, 0x3000], line_of("rw-s"), id="MAP_SHARED_VALIDATE"),
        pytest.param([0, 5000, 5, 2, 5, 0x3000], line_of("r-xp"), id="a length of no whole pages"),
        pytest.param(FILE, line_of(offset=0x2000, low=ANON - PAGE, pages=4), id="merged"),
        pytest.param([0, 2 * PAGE, 0, 2, 5, 0x3000], line_of("---p"), id="PROT_NONE"),
    ],
)  # fmt: skip
def test_a_mapping_as_its_arguments_promise_is_a_file_number(args: list[int], line: str) -> None:
    row = mapped(args, line)
    assert row.ext is not None
    assert row.ext.f == FileId(1, "fe:00", 21, "/data")
    assert row.ext.x is None


def test_a_file_is_defined_once() -> None:
    desk = Desk()
    for low in (ANON, ANON + 2 * PAGE):
        back = [low, low + 2 * PAGE, [line_of(low=low)]]
        desk.call("mmap", FILE, low, extra={"b": back})
    first, second = (c.ext.f for c in desk.calls() if c.ext is not None)
    assert isinstance(first, FileId)
    assert second == first.id


HUGE = 2 << 20


@pytest.mark.parametrize(
    ("args", "line", "high"),
    [
        pytest.param(
            [0, PAGE, 3, 0x40022, -1, 0],
            f"{ANON:x}-{ANON + HUGE:x} rw-p 00000000 00:10 77 /anon_hugepage (deleted)",
            ANON + HUGE, id="huge pages: longer than asked",
        ),
        pytest.param(
            [0, 2 * PAGE, 3, 0x21, -1, 0],
            f"{ANON:x}-{ANON + 2 * PAGE:x} rw-s 00000000 00:01 99 /dev/zero (deleted)",
            ANON + 2 * PAGE, id="shared anonymous memory has an inode",
        ),
        pytest.param(
            [0, PAGE, 3, 1, 5, 0],
            f"{ANON:x}-{ANON + HUGE:x} rw-s 00000000 00:10 77 /dev/hugepages/pool",
            ANON + HUGE, id="a file of huge pages",
        ),
        pytest.param(FILE, line_of("rwxp"), ANON + 2 * PAGE, id="executable"),
        pytest.param(FILE, line_of("r--p"), ANON + 2 * PAGE, id="not writable"),
        pytest.param(FILE, line_of("-w-p"), ANON + 2 * PAGE, id="not readable"),
        pytest.param(FILE, line_of("rw-s"), ANON + 2 * PAGE, id="shared, not private"),
        pytest.param(FILE, line_of(offset=0x9000), ANON + 2 * PAGE, id="another offset"),
        pytest.param(FILE, line_of(pages=1), ANON + 2 * PAGE, id="shorter"),
        pytest.param(
            FILE, line_of(offset=0, backing="00:00 0"), ANON + 2 * PAGE, id="a private /dev/zero"
        ),
    ],
)  # fmt: skip
def test_any_other_mapping_is_the_line_itself(args: list[int], line: str, high: int) -> None:
    row = mapped(args, line, high=high)
    assert row.ext is not None
    assert row.ext.f is None
    assert row.ext.x == (ANON, high, [line])


def test_where_reads_imply_exec_a_file_that_may_not_be_executed_is_the_line_itself() -> None:
    usual = mapped(FILE, line_of("rwxp"), personality=READ_IMPLIES_EXEC)
    assert usual.ext is not None
    assert (usual.ext.f is None, usual.ext.x) == (False, None)
    noexec = mapped(FILE, line_of("rw-p"), personality=READ_IMPLIES_EXEC)
    assert noexec.ext is not None
    assert noexec.ext.x == (ANON, ANON + 2 * PAGE, [line_of("rw-p")])


def test_a_line_of_the_kernels_is_written_single_spaced() -> None:
    row = mapped(
        [0, 2 * PAGE, 3, 0x21, -1, 0], line_of("rw-s", 0, backing="00:01 9      /dev/zero")
    )
    assert row.ext is not None
    assert row.ext.x == (ANON, ANON + 2 * PAGE, [line_of("rw-s", 0, backing="00:01 9 /dev/zero")])


def test_a_range_that_was_read_again_replaces_whatever_was_derived() -> None:
    desk = Desk()
    line = "400000-401000 r--p 00001000 fe:00 11      /bin/prog"
    rest = "401000-402000 r-xp 00002000 fe:00 11 /bin/prog"
    back = [TEXT, TEXT + 2 * PAGE, [line, rest]]
    desk.call("mprotect", [TEXT, 8 * PAGE, 1], -12, extra={"x": back}, statm=statm(PAGES))
    ext = desk.last().ext
    assert ext is not None
    assert ext.x is not None
    assert ext.x[2] == ["400000-401000 r--p 00001000 fe:00 11 /bin/prog", rest]
    desk.snap(["400000-401000 r--p 00001000 fe:00 11 /bin/prog", rest, *MAPS[1:]])
    assert (desk.scribe.counts["exact"], desk.wishes) == (1, [])


def test_a_call_of_another_interface_says_so() -> None:
    desk = Desk()
    desk.call(91, [0x5000, PAGE], 0, arch=I386)
    ext = desk.last().ext
    assert ext is not None
    assert ext.abi == "i386"


# -- libc ---------------------------------------------------------------------------------------


def map_libc(desk: Desk, low: int, offset: int, mm: int = 1, ino: int = 55) -> None:
    line = line_of("r-xp", offset, low=low, backing=f"fe:00 {ino} /lib/libc.so.6")
    args = [0, 2 * PAGE, 5, 2, 5, offset]
    desk.call("mmap", args, low, mm=mm, extra={"b": [low, low + 2 * PAGE, [line]]}, t=(0, 1500))


def test_a_libc_is_told_once_per_address_space() -> None:
    desk = Desk()
    map_libc(desk, ANON, 0)
    map_libc(desk, ANON + 2 * PAGE, 0x2000)  # its next segment
    desk.exec(mm=2, pid=300)
    map_libc(desk, ANON, 0, mm=2)
    map_libc(desk, ANON + 2 * PAGE, 0, mm=2, ino=56)  # a second one (dlmopen)
    found = [(r.mm, r.path, r.version, r.t) for r in desk.records() if isinstance(r, Libc)]
    assert found == [(mm, "/lib/libc.so.6", "2.36", 500) for mm in (1, 2, 2)]
    assert {pid for pid, *_ in desk.finder.asked} == {100, 300}
    kinds = [type(r).__name__ for r in desk.records()]
    assert kinds[1:4] == ["Call", "Libc", "Call"]


def test_other_files_and_failures_are_no_libc() -> None:
    desk = Desk()
    desk.call("mmap", FILE, ANON, extra={"b": [ANON, ANON + 2 * PAGE, [line_of()]]})
    desk.call("mmap", FILE, -12)
    assert not any(isinstance(r, Libc) for r in desk.records())


def test_where_a_file_is_mapped_twice_a_site_tells_in_which() -> None:
    """As dlmopen maps a C library once more."""
    desk = Desk()
    where: dict[str, Any] = {"stack": words(TEXT + 0x10)}
    desk.call("munmap", [ANON, PAGE], 0, ip=LIB + 0x10, **where)
    # Once more, from the same place of the file.
    piece = desk.scribe._models[1].space.at(LIB)
    assert piece is not None
    attr, other = piece[2], LIB + (1 << 30)
    offset = LIB + attr.delta
    line = f"{other:x}-{other + PAGE:x} r-xp {offset:08x} {attr.dev} {attr.ino} /lib/libc.so.6"
    args = [other, PAGE, 5, 0x12, 3, offset]
    desk.call("mmap", args, other, extra={"b": [other, other + PAGE, [line]]})
    desk.call("munmap", [ANON, PAGE], 0, ip=LIB + 0x10, **where)
    desk.call("munmap", [ANON, PAGE], 0, ip=other + 0x10, **where)
    desk.call("munmap", [other, PAGE], 0, ip=TEXT + 0x20, **where)
    desk.call("munmap", [ANON, PAGE], 0, ip=LIB + 0x10, **where)
    found = [site for site in sites(desk) if isinstance(site, Site | int)]
    bases = [site.base for site in found if isinstance(site, Site)]
    assert bases == [None, LIB - offset, other - offset, None]
    assert found[-1] == found[0].id if isinstance(found[0], Site) else False


def test_a_file_that_cannot_be_read_is_told_of() -> None:
    desk = Desk()
    path = "/opt/libany.so"
    desk.code.held[path] = None
    before, begun = time.time_ns(), time.monotonic_ns()
    desk.scribe.start(begun)
    line = line_of("r-xp", 0, low=ANON, backing=f"fe:00 77 {path}")
    extra = {"b": [ANON, ANON + 2 * PAGE, [line]]}
    desk.call("mmap", [0, 2 * PAGE, 5, 2, 5, 0], ANON, extra=extra, t=(begun, begun + 500))
    (found,) = [r for r in desk.records() if isinstance(r, Allocator)]
    assert (found.path, found.read, found.name, found.malloc) == (path, False, "", False)
    (at,) = [at for p, at in desk.code.asked if p == path]
    assert at is not None
    assert before <= at + 10**7
    assert at <= time.time_ns()


def test_a_program_that_makes_code_has_its_map_not_looked_through_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    desk.call("mmap", [0, PAGE, 3, 0x22, -1, 0], ANON, ip=LIB + 5, stack=words(TEXT))
    passes = 0
    real = AddressSpace.pieces

    def counted(self: AddressSpace, *limits: int) -> Any:
        nonlocal passes
        passes += not limits
        return real(self, *limits)

    monkeypatch.setattr(AddressSpace, "pieces", counted)
    for _ in range(50):
        for prot in (5, 3):
            desk.call("mprotect", [ANON, PAGE, prot], 0, ip=LIB + 9, stack=words(TEXT))
    assert passes == 0
    map_libc(desk, ANON + 16 * PAGE, 0, ino=12)
    desk.call("mprotect", [ANON, PAGE, 5], 0, ip=LIB + 9, stack=words(TEXT))
    assert passes == 1
    site = [r.site for r in desk.records() if isinstance(r, Call)][-1]
    assert isinstance(site, Site)
    assert site.base == LIB - 0x20000
