# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read beside a call: when a snapshot is due, headers of chunks, lines of maps. The target
is this process itself.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.collect.messages import I386, X86_64, entry_of, words

from memtrace.collect import wire
from memtrace.collect.abi import I386 as I386_ABI
from memtrace.collect.channel import Channel, Wishes
from memtrace.collect.observe import Observer
from memtrace.collect.options import NEVER, Options
from memtrace.collect.readback import ReadBack
from memtrace.collect.tracee import Mm, Tracee

PAGE = 4096


class Place:
    """Memory of this process that a test may look into."""

    def __init__(self, pages: int = 1, *, flags: int = mmap.MAP_PRIVATE, fd: int = -1) -> None:
        anonymous = mmap.MAP_ANONYMOUS if fd < 0 else 0
        self.memory = mmap.mmap(fd, pages * PAGE, flags=flags | anonymous)
        self.pointer = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(self.pointer)

    def close(self) -> None:
        del self.pointer
        self.memory.close()


@pytest.fixture
def mm() -> Iterator[Mm]:
    value = Mm(1, os.getpid())
    value.open(os.getpid())
    yield value
    value.close()


@pytest.fixture
def place() -> Iterator[Place]:
    value = Place(4)
    yield value
    value.close()


class Kept(Channel):
    """A channel that keeps what is sent."""

    def flush(self) -> None:
        pass


def observer(**options: Any) -> Observer:
    return Observer(Kept(-1, Wishes()), Options(**options))


def sent(o: Observer) -> list[Any]:
    messages = list(wire.Parser().feed(bytes(o.channel.out)))
    o.channel.out.clear()
    return messages


# -- when a snapshot is due ---------------------------------------------------------------------

MS = 1_000_000


@pytest.mark.parametrize(
    ("options", "calls", "now", "expected"),
    [
        pytest.param({"every_calls": 64}, 63, 0, "", id="by calls, not yet"),
        pytest.param({"every_calls": 64}, 64, 0, "periodic", id="by calls"),
        pytest.param({"every_calls": 64}, 63, 10**15, "", id="by calls, never by time"),
        pytest.param({"every_ns": 5 * MS, "min_calls": 1}, 99, 100 * MS - 1, "", id="too early"),
        pytest.param({"every_ns": 5 * MS, "min_calls": 1}, 1, 100 * MS, "periodic", id="by time"),
        pytest.param({"min_calls": 256}, 255, 100 * MS, "", id="too few calls"),
        pytest.param({"min_calls": 256}, 256, 100 * MS, "periodic", id="enough calls"),
    ],
)
def test_a_snapshot_is_due(options: dict[str, int], calls: int, now: int, expected: str) -> None:
    mm = Mm(1, 100)
    # 1000 calls before the last snapshot do not count; the next is due at 100 ms.
    mm.calls, mm.last_snap_calls, mm.next_snap = 1000 + calls, 1000, 100 * MS
    assert observer(**options).due(mm, now) == expected


def test_too_few_calls_put_the_question_off() -> None:
    mm, o = Mm(1, 100), observer(every_ns=5 * MS, min_calls=10)
    mm.calls = 9
    assert o.due(mm, 100 * MS) == ""
    mm.calls = 10
    assert o.due(mm, 105 * MS - 1) == ""
    assert o.due(mm, 105 * MS) == "periodic"


def test_a_wish_is_granted_at_once_and_once() -> None:
    mm, other, o = Mm(7, 100), Mm(8, 100), observer(every_ns=NEVER)
    o.channel.wishes[7] = 1
    assert o.due(other, 0) == ""
    assert o.due(mm, 0) == "statm"
    mm.next_snap = NEVER
    assert o.due(mm, 10**18) == ""


def test_the_first_enomem_of_an_address_space_is_looked_into_at_once() -> None:
    mm, o = Mm(1, 100), observer(min_calls=256)
    mm.next_snap = 100 * MS
    assert o.due(mm, 0, -22) == ""
    assert o.due(mm, 0, -12) == "enomem"
    # Later ones no more often than the time allows, and calls need not be many.
    assert o.due(mm, 100 * MS - 1, -12) == ""
    assert o.due(mm, 100 * MS, -12) == "enomem"


def test_every_so_many_calls_leave_one_enomem_to_be_looked_into() -> None:
    mm, o = Mm(1, 100), observer(every_calls=64)
    assert o.due(mm, 10**15, -12) == "enomem"
    assert o.due(mm, 10**15, -12) == ""
    mm.calls = 64
    assert o.due(mm, 10**15, -12) == "periodic"


def test_without_snapshots_no_enomem_is_looked_into() -> None:
    assert observer(every_ns=NEVER).due(Mm(1, 100), 0, -12) == ""


def test_a_snapshot_is_the_kernels_own_map(mm: Mm, place: Place) -> None:
    o = observer()
    tracee = Tracee(os.getpid(), os.getpid(), mm)
    mm.calls = 5
    assert o.snapshot(mm, tracee, "periodic")
    (message,) = sent(o)
    fields = message.fields
    assert (fields["rec"], fields["mm"], fields["pid"], fields["why"]) == (
        "snap", 1, os.getpid(), "periodic",
    )  # fmt: skip
    start = next(int(line.split(b"-")[0], 16) for line in message.blob.splitlines())
    assert start > 0
    assert b"[stack]" in message.blob
    assert fields["vm"] > fields["rss"] > 0
    assert fields["minflt"] > 0
    assert mm.last_snap_calls == 5
    assert o.due(mm, mm.next_snap - 1) == ""


def test_an_address_space_that_is_gone_gives_no_snapshot() -> None:
    o, mm = observer(), Mm(1, 2**22 + 1)
    assert not o.snapshot(mm, Tracee(2**22 + 1, 2**22 + 1, mm), "periodic")
    assert sent(o) == []


# -- headers of chunks --------------------------------------------------------------------------


def fresh(mm: Mm, place: Place, tid: int = 500, length: int = 2 * PAGE) -> Tracee:
    """A tracee whose last call mapped the place, as call 3 of the mm."""
    tracee = Tracee(tid, 100, mm)
    tracee.fresh = (place.address, length, 3)
    mm.fresh[tid] = tracee
    return tracee


@pytest.mark.parametrize("size", [2 * PAGE, 2 * PAGE - 16, 2 * PAGE - 8])
def test_the_header_of_a_chunk_is_read(mm: Mm, place: Place, size: int) -> None:
    place.memory[:16] = words(0, size | 2)  # IS_MMAPPED
    o, tracee = observer(), fresh(mm, place)
    o.peek(tracee, final=False)
    assert sent(o) == [wire.HeaderMessage(1, 3, 0, size | 2)]
    assert tracee.fresh is None
    assert mm.fresh == {}
    o.peek(tracee, final=True)
    assert sent(o) == []


@pytest.mark.parametrize("word", [0, 2 * PAGE, 4 * PAGE | 2, PAGE | 2, 2**63 | 2])
def test_other_words_are_no_header_and_are_looked_at_again(mm: Mm, place: Place, word: int) -> None:
    place.memory[:16] = words(77, word)
    o, tracee = observer(), fresh(mm, place)
    o.peek(tracee, final=False)  # malloc may not have written it yet
    assert sent(o) == []
    assert mm.fresh == {500: tracee}
    o.peek(tracee, final=True)
    assert sent(o) == [wire.HeaderMessage(1, 3, 77, 0)]
    assert (mm.fresh, tracee.fresh) == ({}, None)


def test_a_page_that_is_not_there_is_not_touched(mm: Mm, place: Place) -> None:
    o, tracee = observer(), fresh(mm, place)
    before = os.pread(mm.statm_fd, 64, 0).split()[1]
    o.peek(tracee, final=False)
    assert mm.fresh == {500: tracee}
    o.peek(tracee, final=True)
    assert sent(o) == []  # nothing is known of it: not even that there is no header
    assert tracee.fresh is None
    index = place.address // PAGE * 8
    assert int.from_bytes(os.pread(mm.pagemap_fd, 8, index), "little") >> 62 == 0
    assert int(os.pread(mm.statm_fd, 64, 0).split()[1]) <= int(before) + 16


def test_a_header_of_i386_has_words_of_four_bytes(mm: Mm, place: Place) -> None:
    # MALLOC_ALIGNMENT is 16 there: the chunk's words stand 8 bytes into the mapping.
    size = 2 * PAGE - 8
    place.memory[:16] = words(0, (size | 2) << 32 | 8)
    o, tracee = observer(), fresh(mm, place)
    tracee.abi = I386_ABI
    o.peek(tracee, final=False)
    assert sent(o) == [wire.HeaderMessage(1, 3, 8, size | 2)]


@pytest.mark.parametrize(
    ("low", "length", "touched"),
    [
        (0, PAGE, True), (2 * PAGE - 1, 1, True), (-PAGE, PAGE + 1, True), (-PAGE, 9 * PAGE, True),
        (-PAGE, PAGE, False), (2 * PAGE, PAGE, False), (0, 0, False),
    ],
)  # fmt: skip
def test_a_call_on_anothers_fresh_mapping_reads_it_first(
    mm: Mm, place: Place, low: int, length: int, *, touched: bool
) -> None:
    place.memory[:16] = words(0, 2 * PAGE | 2)
    o, caller = observer(), Tracee(501, 100, mm)
    fresh(mm, place)
    caller.entry[:] = entry_of(11, [place.address + low, length])
    o.peek_before(caller)
    assert sent(o) == ([wire.HeaderMessage(1, 3, 0, 2 * PAGE | 2)] if touched else [])


def test_what_another_thread_has_not_written_yet_is_not_told(mm: Mm, place: Place) -> None:
    place.memory[:16] = words(0, 5)  # its page is there, and it may be on its way to the header
    o, caller = observer(), Tracee(501, 100, mm)
    tracee = fresh(mm, place)
    caller.entry[:] = entry_of(10, [place.address, PAGE, 3])
    o.peek_before(caller)
    assert sent(o) == []
    assert (mm.fresh, tracee.fresh, mm.no_chunk) == ({}, None, Mm(1, 1).no_chunk)


@pytest.mark.parametrize(("arch", "number"), [(X86_64, 12), (I386, 45)])
def test_a_brk_touches_no_mapping_whatever_its_second_register_holds(
    mm: Mm, place: Place, arch: int, number: int
) -> None:
    place.memory[:16] = words(0, 2 * PAGE | 2)
    o, caller = observer(), Tracee(501, 100, mm)
    tracee = fresh(mm, place)
    caller.entry[:] = entry_of(number, [place.address - PAGE, 1 << 40], arch=arch)
    o.peek_before(caller)
    assert sent(o) == []
    assert mm.fresh == {500: tracee}


def test_a_threads_next_call_reads_its_own_wherever_it_goes(mm: Mm, place: Place) -> None:
    place.memory[:16] = words(0, 5)
    o, tracee = observer(), fresh(mm, place)
    tracee.entry[:] = entry_of(12, [0])
    o.peek_before(tracee)
    assert sent(o) == [wire.HeaderMessage(1, 3, 0, 0)]


# -- groups of musl's malloc --------------------------------------------------------------------


def group(place: Place, length: int) -> int:
    """Write what musl's malloc writes into the first page of a place, its meta into the fourth; the
    meta's address.
    """
    area = place.address + 3 * PAGE
    meta = area + 24 + 40
    word = 63 << 6 | 1 << 5 | -(-length // PAGE) << 12
    place.memory[:16] = words(meta, 0)
    place.memory[3 * PAGE : 3 * PAGE + 104] = words(
        7, 0, 101, *[0] * 5, meta, meta, place.address, 0, word
    )
    return meta


@pytest.mark.parametrize("length", [2 * PAGE, PAGE + 20])
def test_the_meta_of_a_group_is_told_at_last(mm: Mm, place: Place, length: int) -> None:
    meta = group(place, length)
    o, tracee = observer(), fresh(mm, place, length=length)
    o.peek(tracee, final=False)  # as every word that is no chunk's
    assert sent(o) == []
    o.peek(tracee, final=True)
    assert sent(o) == [wire.HeaderMessage(1, 3, meta, meta)]
    assert (mm.fresh, tracee.fresh) == ({}, None)


def test_a_meta_whose_page_is_not_there_is_not_touched(mm: Mm, place: Place) -> None:
    meta = place.address + 3 * PAGE + 24
    place.memory[:16] = words(meta, 0)
    o, tracee = observer(), fresh(mm, place)
    o.peek(tracee, final=True)
    assert sent(o) == [wire.HeaderMessage(1, 3, meta, 0)]
    index = meta // PAGE * 8
    assert int.from_bytes(os.pread(mm.pagemap_fd, 8, index), "little") >> 62 == 0


def test_of_a_length_that_no_chunk_has_nothing_else_is_told(mm: Mm, place: Place) -> None:
    length = PAGE + 24  # and a word that would be a chunk's of that length
    place.memory[:16] = words(0, length | 2)
    o, tracee = observer(), fresh(mm, place, length=length)
    o.peek(tracee, final=False)
    assert mm.fresh == {500: tracee}
    o.peek(tracee, final=True)
    assert sent(o) == []
    assert tracee.fresh is None


#: alloc_meta: brk(0), brk(new), a guard, or a reservation and its opening.
FOR_META = [(12, [0]), (12, [2**40]), (9, [2**40, PAGE, 0, 0x32]), (10, [2**40, PAGE, 3])]


def test_what_malloc_does_for_a_meta_comes_before_the_header(mm: Mm, place: Place) -> None:
    o, tracee = observer(), fresh(mm, place)
    mm.calls = 3
    for number, arguments in FOR_META:
        tracee.entry[:] = entry_of(number, arguments)
        o.peek_before(tracee)
        mm.calls += 1
        assert mm.fresh == {500: tracee}
    meta = group(place, 2 * PAGE)
    tracee.entry[:] = entry_of(12, [0])
    o.peek_before(tracee)
    assert sent(o) == [wire.HeaderMessage(1, 3, meta, meta)]


@pytest.mark.parametrize(
    ("number", "arguments", "calls"),
    [
        pytest.param(11, [2**40, PAGE], 0, id="munmap"),
        pytest.param(28, [2**40, PAGE, 4], 0, id="madvise"),
        pytest.param(9, [0, PAGE, 3, 0x22], 0, id="another mapping"),
        pytest.param(12, [0], 4, id="too many calls"),
    ],
)
def test_other_calls_end_the_wait(
    mm: Mm, place: Place, number: int, arguments: list[int], calls: int
) -> None:
    o, tracee = observer(), fresh(mm, place)
    mm.calls = 3 + calls
    tracee.entry[:] = entry_of(number, arguments)
    o.peek_before(tracee)
    assert (mm.fresh, tracee.fresh) == ({}, None)


def test_another_threads_call_on_it_ends_the_wait(mm: Mm, place: Place) -> None:
    o, tracee, other = observer(), fresh(mm, place), Tracee(501, 100, mm)
    mm.calls = 3
    tracee.entry[:] = entry_of(12, [0])
    o.peek_before(tracee)
    assert mm.fresh == {500: tracee}
    other.entry[:] = entry_of(11, [place.address, PAGE])
    o.peek_before(other)
    assert (mm.fresh, tracee.fresh) == ({}, None)


# -- what is read back --------------------------------------------------------------------------


@pytest.fixture(params=["query", "text"])
def read_back(request: pytest.FixtureRequest) -> ReadBack:
    value = ReadBack()
    if request.param == "text":
        value._query.available = False
    elif not value._query.available:
        pytest.skip("PROCMAP_QUERY needs kernel 6.11")
    return value


def after(rb: ReadBack, mm: Mm, nr: int, args: list[int], ret: int, arch: int = X86_64) -> Any:
    """The extra of one call of this process; None when there is none."""
    tracee = Tracee(os.getpid(), os.getpid(), mm)
    if arch == I386:
        tracee.abi, tracee.name = I386_ABI, I386_ABI.names[nr]
    tracee.entry[:] = entry_of(nr, [a & 2**64 - 1 for a in args], arch=arch)
    extra = rb.after(tracee, ret)
    return json.loads(extra) if extra else None


def test_an_ordinary_mapping_needs_no_reading(read_back: ReadBack, mm: Mm) -> None:
    assert after(read_back, mm, 9, [0, PAGE, 3, 0x22, -1, 0], 0x1000) is None
    assert after(read_back, mm, 9, [0x1000, PAGE, 3, 0x32, -1, 0], 0x1000) is None  # MAP_FIXED
    assert after(read_back, mm, 11, [0x1000, PAGE], 0) is None


def test_a_files_line_comes_back(read_back: ReadBack, mm: Mm, tmp_path: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(3 * PAGE))
    with open(path, "rb+") as f:
        area = Place(2, flags=mmap.MAP_SHARED, fd=f.fileno())
        low, inode = area.address, os.stat(path).st_ino
        args = [0, PAGE + 1, 3, 1, f.fileno(), 0]
        (key, back), *more = after(read_back, mm, 9, args, low).items()
    area.close()
    assert (key, more) == ("b", [])
    assert back[:2] == [low, low + 2 * PAGE]
    (line,) = back[2]
    fields = line.split()
    assert fields[:3] == [f"{low:x}-{low + 2 * PAGE:x}", "rw-s", "00000000"]
    assert fields[4:] == [str(inode), str(path)]


def test_a_failed_call_reads_its_range(read_back: ReadBack, mm: Mm, place: Place) -> None:
    low = place.address
    got = after(read_back, mm, 10, [low, PAGE, 3], -12)
    assert got["x"][:2] == [low, low + PAGE]
    assert len(got["x"][2]) == 1
    # What failed before it could change anything: no range, or a mapping that was to go anywhere.
    assert after(read_back, mm, 10, [low, 0, 3], -22) is None
    assert after(read_back, mm, 9, [low, PAGE, 3, 2, 99, 0], -9) is None
    assert after(read_back, mm, 12, [low], -12) is None
    # A MAP_FIXED target may already be unmapped when a driver refuses.
    assert after(read_back, mm, 9, [low, PAGE, 3, 0x12, 99, 0], -19)["x"][:2] == [low, low + PAGE]


@pytest.mark.parametrize("nr", [10, 329])  # mprotect, pkey_mprotect
def test_prot_growsdown_is_read_from_the_line_on(
    read_back: ReadBack, mm: Mm, place: Place, nr: int
) -> None:
    low = place.address
    place.memory.madvise(mmap.MADV_DONTFORK, PAGE, 3 * PAGE)  # which makes a line of its own
    args = [low + 2 * PAGE, PAGE, 1 | 0x01000000, 0]
    for ret in (0, -12):
        got = after(read_back, mm, nr, args, ret)["x"]
        assert got[:2] == [low + PAGE, low + 3 * PAGE]
        assert [line.split("-")[0] for line in got[2]] == [f"{low + PAGE:x}"]


def test_a_failed_move_reads_both_ranges(read_back: ReadBack, mm: Mm, place: Place) -> None:
    low = place.address
    args = [low + 2 * PAGE, PAGE, PAGE, 3, low]  # MREMAP_MAYMOVE | MREMAP_FIXED
    assert after(read_back, mm, 25, args, -12)["x"][:2] == [low, low + 3 * PAGE]
    args[3] = 1
    assert after(read_back, mm, 25, args, -12)["x"][:2] == [low + 2 * PAGE, low + 3 * PAGE]


def test_the_name_of_an_area(read_back: ReadBack, mm: Mm, place: Place) -> None:
    place.memory[:10] = b"pool\xff\0junk"
    args = [0x53564D41, 0, 0x1000, PAGE, place.address]
    assert after(read_back, mm, 157, args, 0) == {"name": "pool\\xff"}
    assert after(read_back, mm, 157, [*args[:4], 0], 0) == {"name": ""}


def test_a_failed_naming_has_named_a_part(read_back: ReadBack, mm: Mm, place: Place) -> None:
    low = place.address
    args = [0x53564D41, 0, low, 2 * PAGE + 1, 0]
    for errno in (12, 9):  # ENOMEM at a hole, EBADF at a file
        assert after(read_back, mm, 157, args, -errno)["x"][:2] == [low, low + 3 * PAGE]
    assert after(read_back, mm, 157, args, -22) is None  # nothing is named, or nobody can
    assert after(read_back, mm, 157, [35, 5, low, PAGE, 0], -1) is None  # PR_SET_MM


def test_what_a_drivers_mapping_keeps_from_children(read_back: ReadBack, mm: Mm) -> None:
    with open("/dev/zero", "rb+") as f:
        area = Place(3, flags=mmap.MAP_SHARED, fd=f.fileno())
        low = area.address
        args = [0, 3 * PAGE, 3, 1, f.fileno(), 0]
        assert after(read_back, mm, 9, args, low)["dontfork"] == [low, low + 3 * PAGE, []]
        area.memory.madvise(mmap.MADV_DONTFORK, PAGE, PAGE)
        kept = [low + PAGE, low + 2 * PAGE]
        assert after(read_back, mm, 9, args, low)["dontfork"] == [low, low + 3 * PAGE, [kept]]
    # Of advice that failed, or came by a vector, the arguments do not tell what it has reached.
    for nr, arguments, ret in (
        (28, [low, PAGE, mmap.MADV_DOFORK], -22),
        (28, [low, PAGE, mmap.MADV_DOFORK | 1 << 32], -22),  # an int to the kernel
        (440, [0, 0x1000, 1, mmap.MADV_DONTFORK], PAGE),
        (440, [0, 0x1000, 1, mmap.MADV_DONTFORK | 1 << 32], PAGE),
        (440, [0, 0x1000, 1, mmap.MADV_DONTFORK], -12),
    ):
        start, end, ranges = after(read_back, mm, nr, arguments, ret)["dontfork"]
        assert (start, end) == (0, 1 << 47)
        assert kept in ranges
    assert after(read_back, mm, 28, [low, PAGE, mmap.MADV_DONTNEED], -22) is None
    assert after(read_back, mm, 440, [0, 0x1000, 1, 20], PAGE) is None  # MADV_COLD
    area.close()


def test_where_the_break_was_put(read_back: ReadBack, mm: Mm, place: Place) -> None:
    place.memory[:56] = words(1, 2, 3, 4, 0x5000, 0x5123, 0x7000)
    args = [35, 14, place.address, 104, 0]  # PR_SET_MM, PR_SET_MM_MAP
    for args[1] in (14 | 1 << 32, 14):
        assert after(read_back, mm, 157, args, 0) == {"layout": [0x5000, 0x5123, 0x7000]}
    assert after(read_back, mm, 157, args, -1) is None
    assert mm.in_stack == 0x7000


def test_once_reads_may_imply_exec_each_call_says_whose_it_is(
    read_back: ReadBack, mm: Mm, place: Place
) -> None:
    low, own = place.address, {"personality": 0}
    for asks in (0xFFFFFFFF, (1 << 64) - 1):
        assert after(read_back, mm, 135, [asks], 0x400000) is None
    assert after(read_back, mm, 135, [0x40000], 0) is None  # ADDR_NO_RANDOMIZE
    assert after(read_back, mm, 9, [0, PAGE, 3, 0x22, -1, 0], low) is None
    assert not mm.reads_exec
    assert after(read_back, mm, 135, [0x400000], 0) == own  # READ_IMPLIES_EXEC
    assert after(read_back, mm, 9, [0, PAGE, 3, 0x22, -1, 0], low) == own
    protected = after(read_back, mm, 10, [low, PAGE, 1], 0)  # or it lies on a noexec mount
    assert protected["x"][:2] == [low, low + PAGE]


def test_the_first_brk_after_an_attach_reads_what_lies_around_the_break(
    read_back: ReadBack, mm: Mm
) -> None:
    area = Place(5)
    low = area.address
    area.memory.madvise(mmap.MADV_DONTFORK, PAGE, 4 * PAGE)  # which makes a line of its own
    assert ctypes.CDLL(None).munmap(ctypes.c_void_p(low + 3 * PAGE), ctypes.c_size_t(PAGE)) == 0
    line = f"{low + PAGE:x}-{low + 3 * PAGE:x} rw-p"

    def first(asked: int, brk: int) -> Any:
        mm.brk_told = False
        found = after(read_back, mm, 12, [asked], brk)
        assert mm.brk_told
        assert after(read_back, mm, 12, [asked], brk) is None
        return found and (*found["x"][:2], *(text[: len(line)] for text in found["x"][2]))

    assert first(low + 2 * PAGE, low + 2 * PAGE) == (low + PAGE, low + 2 * PAGE, line)
    assert first(low + 3 * PAGE - 5, low + 3 * PAGE - 5) == (low + PAGE, low + 4 * PAGE, line)
    assert first(low + 4 * PAGE, low + 4 * PAGE) == (low + 3 * PAGE, low + 4 * PAGE)
    assert first(0, low + 3 * PAGE) is None  # it only asked
    assert first(low + 4 * PAGE, low + 3 * PAGE) is None  # refused
    area.close()


def test_after_a_ring_there_is_nothing_up_to_the_next_mapping(
    read_back: ReadBack, mm: Mm, place: Place
) -> None:
    low = place.address + PAGE
    assert after(read_back, mm, 207, [low], 0) is None  # it is mapped anew
    assert ctypes.CDLL(None).munmap(ctypes.c_void_p(low), ctypes.c_size_t(PAGE)) == 0
    assert after(read_back, mm, 207, [low], 0) == {"x": [low, low + PAGE, []]}
    assert after(read_back, mm, 207, [low], -22) is None


def test_a_file_remapped_in_part_is_read_again(read_back: ReadBack, mm: Mm, place: Place) -> None:
    low = place.address
    assert after(read_back, mm, 216, [low + 5, 2 * PAGE, 0, 3, 0], 0)["x"][:2] == [
        low, low + 2 * PAGE,
    ]  # fmt: skip


def test_i386_calls_come_with_their_native_form(read_back: ReadBack, mm: Mm, place: Place) -> None:
    anon = [0, PAGE, 3, 0x22, 0xFFFFFFFF]
    assert after(read_back, mm, 192, [*anon, 3], 0xF7000000, I386) == {
        "call": "mmap", "raw": "mmap2", "args": [*anon, 3 * 4096],
    }  # fmt: skip
    place.memory[:24] = b"".join(v.to_bytes(4, "little") for v in [*anon, 0])
    assert after(read_back, mm, 90, [place.address], 0xF7000000, I386) == {
        "call": "mmap", "raw": "old_mmap", "args": [*anon, 0],
    }  # fmt: skip
    shmdt = after(read_back, mm, 117, [22, 0, 0, 0, 0xF7000000], 0, I386)
    assert (shmdt["call"], shmdt["raw"], shmdt["args"][0]) == ("shmdt", "ipc", 0xF7000000)
    shmat = after(read_back, mm, 117, [21, 7, 0o10000, place.address, 0x5000], -22, I386)
    assert (shmat["call"], shmat["args"][:3]) == ("shmat", [7, 0x5000, 0o10000])
