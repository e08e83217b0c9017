# SPDX-License-Identifier: GPL-2.0-or-later
"""What each call does to a map: one known case of the kernel's semantics per row."""

from __future__ import annotations

import pytest

from memtrace.space.address_space import READ_IMPLIES_EXEC, AddressSpace
from memtrace.space.calls import Change, apply
from memtrace.space.canonical import GROWSDOWN, MapsCache, canonical
from memtrace.space.compare import compare
from memtrace.space.seed import seed
from memtrace.trace.records import Attach, Ext, FileId

CACHE = MapsCache()
RW, ANON, FIXED = 3, 0x22, 0x10
FILE = FileId(1, "fe:01", 9, "/lib/x")
START = [
    "10000-14000 rw-p 00000000 00:00 0",
    "20000-24000 r--p 00001000 fe:01 9 /lib/x",
    "30000-32000 rw-s 00000000 00:01 5 /SYSV00000000 (deleted)",
    "f0000-f4000 rw-p 00000000 00:00 0 [stack]",
]


def space_of(lines: list[str] = START) -> AddressSpace:
    space = AddressSpace()
    space.load(CACHE.parse(lines))
    space.start_brk = space.brk = 0x50010
    space.start_stack = 0xF3F00
    return space


def do(
    space: AddressSpace,
    call: str,
    args: list[int],
    ret: int | None = 0,
    ext: Ext | None = None,
    file: FileId | None = None,
) -> Change | None:
    return apply(space, call, args, ret, ext, file, CACHE)


def shown(space: AddressSpace) -> list[str]:
    """The map in short: range, permissions and, for files, the offset."""
    return [
        f"{m.start:x}-{m.end:x} {m.perms}" + (f" @{m.offset:x}" if m.ino else "")
        for m in space.mappings()
    ]


A, F, S, T = "10000-14000 rw-p", "20000-24000 r--p @1000", "30000-32000 rw-s @0", "f0000-f4000 rw-p"

CASES = {
    "munmap of a middle leaves both ends": (
        "munmap", [0x11000, 0x1000], 0,
        ["10000-11000 rw-p", "12000-14000 rw-p", F, S, T]),
    "munmap rounds its length up": (
        "munmap", [0x10000, 1], 0, ["11000-14000 rw-p", F, S, T]),
    "munmap crosses holes": (
        "munmap", [0x13000, 0xE000], 0, ["10000-13000 rw-p", "21000-24000 r--p @2000", S, T]),
    "munmap of nothing": ("munmap", [0x60000, 0x5000], 0, [A, F, S, T]),
    "a failed munmap": ("munmap", [0x10000, 0], -22, [A, F, S, T]),
    "an unfinished munmap": ("munmap", [0x10000, 0x4000], None, [A, F, S, T]),
    "mmap ignores the offset of anonymous memory and rounds up": (
        "mmap", [0, 5000, RW, ANON, -1, 0x7000], 0x60000, [A, F, S, "60000-62000 rw-p", T]),
    "mmap with MAP_FIXED replaces": (
        "mmap", [0x12000, 0x10000, 1, ANON | FIXED, -1, 0], 0x12000,
        ["10000-12000 rw-p", "12000-22000 r--p", "22000-24000 r--p @3000", S, T]),
    "neighbours that are alike are one line": (
        "mmap", [0, 0x1000, RW, ANON, -1, 0], 0x14000, ["10000-15000 rw-p", F, S, T]),
    "mprotect splits": (
        "mprotect", [0x11000, 0x1000, 0], 0,
        ["10000-11000 rw-p", "11000-12000 ---p", "12000-14000 rw-p", F, S, T]),
    "mprotect of a file keeps its offsets": (
        "mprotect", [0x22000, 0x1000, RW], 0,
        [A, "20000-22000 r--p @1000", "22000-23000 rw-p @3000", "23000-24000 r--p @4000", S, T]),
    "pkey_mprotect is mprotect": (
        "pkey_mprotect", [0x30000, 0x2000, 1, 1], 0, [A, F, "30000-32000 r--s @0", T]),
    "mprotect with PROT_GROWSDOWN begins at the stack's start": (
        "mprotect", [0xF2000, 0x1000, 0x01000007], 0,
        [A, F, S, "f0000-f3000 rwxp", "f3000-f4000 rw-p"]),
    "a failed mprotect by itself changes nothing": (
        "mprotect", [0x12000, 0x4000, 1], -12, [A, F, S, T]),
    "brk grows from the rounded old to the rounded new": (
        "brk", [0x52001], 0x52001, [A, F, S, "51000-53000 rw-p", T]),
    "brk(0) asks": ("brk", [0], 0x50010, [A, F, S, T]),
    "a refused brk answers the old break": ("brk", [0x90000000], 0x50010, [A, F, S, T]),
    "mremap grows in place": (
        "mremap", [0x10000, 0x4000, 0x6000, 1], 0x10000, ["10000-16000 rw-p", F, S, T]),
    "mremap shrinks": (
        "mremap", [0x10000, 0x4000, 0x1000, 1], 0x10000, ["10000-11000 rw-p", F, S, T]),
    "mremap moves a part of a file with its offset": (
        "mremap", [0x22000, 0x1000, 0x1000, 3, 0x60000], 0x60000,
        [A, "20000-22000 r--p @1000", "23000-24000 r--p @4000", S, "60000-61000 r--p @3000", T]),
    "mremap moves and grows": (
        "mremap", [0x10000, 0x4000, 0x8000, 1], 0x60000, [F, S, "60000-68000 rw-p", T]),
    "mremap moves and shrinks": (
        "mremap", [0x10000, 0x4000, 0x1000, 3, 0x60000], 0x60000, [F, S, "60000-61000 rw-p", T]),
    "mremap with MREMAP_DONTUNMAP leaves the old pages mapped": (
        "mremap", [0x10000, 0x4000, 0x4000, 5, 0], 0x60000, [A, F, S, "60000-64000 rw-p", T]),
    "mremap of old size 0 duplicates a shared mapping": (
        "mremap", [0x31000, 0, 0x1000, 1], 0x60000, [A, F, S, "60000-61000 rw-s @1000", T]),
    "mremap onto a mapping replaces it": (
        "mremap", [0x10000, 0x2000, 0x2000, 3, 0x21000], 0x21000,
        ["12000-14000 rw-p", "20000-21000 r--p @1000", "21000-23000 rw-p",
         "23000-24000 r--p @4000", S, T]),
    "mremap of several mappings keeps the gap and what lies under it (6.17)": (
        "mremap", [0x13000, 0xE000, 0xE000, 3, 0x28000], 0x28000,
        ["10000-13000 rw-p", "21000-24000 r--p @2000", "28000-29000 rw-p", S,
         "35000-36000 r--p @1000", T]),
    "a failed mremap": ("mremap", [0x10000, 0x4000, 0x8000, 1], -12, [A, F, S, T]),
    "madvise DONTNEED shows nothing": ("madvise", [0x10000, 0x4000, 4], 0, [A, F, S, T]),
    "mlock shows nothing": ("mlock", [0x10000, 0x4000], 0, [A, F, S, T]),
    "remap_file_pages maps another offset": (
        "remap_file_pages", [0x31000, 0x1000, 0, 0, 0], 0,
        [A, F, "30000-31000 rw-s @0", "31000-32000 rw-s @0", T]),
    "shmdt takes all of the segment attached there": ("shmdt", [0x30000], 0, [A, F, T]),
    "io_destroy unmaps the ring": ("io_destroy", [0x30000], 0, [A, F, T]),
}  # fmt: skip


@pytest.mark.parametrize(("call", "args", "ret", "expected"), CASES.values(), ids=CASES.keys())
def test_a_call(call: str, args: list[int], ret: int | None, expected: list[str]) -> None:
    space = space_of()
    do(space, call, args, ret)
    assert shown(space) == expected
    assert space.total == sum(e - s for s, e, _, _ in space.pieces())


def test_mmap_of_a_file_takes_identity_and_path_from_the_file() -> None:
    space = space_of([])
    do(space, "mmap", [0, 0x2000, 5, 2, 3, 0x3000], 0x60000, Ext(f=1), FILE)
    (m,) = space.mappings()
    assert (m.dev, m.ino, m.offset, m.path, m.perms) == ("fe:01", 9, 0x3000, "/lib/x", "r-xp")


def test_the_range_as_read_back_replaces_what_was_derived() -> None:
    space = space_of([])
    lines = ["60000-260000 rw-s 00000000 00:0f 77 /anon_hugepage (deleted)"]
    do(space, "mmap", [0, 5000, RW, 0x40021, -1, 0], 0x60000, Ext(x=(0x60000, 0x260000, lines)))
    assert shown(space) == ["60000-260000 rw-s @0"]


def test_a_failed_mprotect_changed_what_lies_before_the_hole() -> None:
    space = space_of()
    lines = ["10000-12000 rw-p 00000000 00:00 0", "12000-14000 r--p 00000000 00:00 0"]
    do(space, "mprotect", [0x12000, 0x4000, 1], -12, Ext(x=(0x12000, 0x16000, lines)))
    assert shown(space)[:2] == ["10000-12000 rw-p", "12000-14000 r--p"]


def test_brk_grows_and_shrinks_and_is_labelled_by_address() -> None:
    space = space_of([])
    do(space, "brk", [0x60000], 0x60000)
    do(space, "brk", [0x53001], 0x53001)
    (m,) = space.mappings()
    assert (m.start, m.end, m.path) == (0x51000, 0x54000, "[heap]")
    assert space.brk == 0x53001
    do(space, "brk", [0x50010], 0x50010)
    assert space.mappings() == []


def test_a_child_lacks_what_dontfork_took_out_until_dofork_gives_it_back() -> None:
    space = space_of()
    do(space, "madvise", [0x11000, 0x2000, 10])
    assert shown(space)[0] == A
    assert shown(space.fork())[:2] == ["10000-11000 rw-p", "13000-14000 rw-p"]
    do(space, "madvise", [0x11000, 0x1000, 11])
    child = space.fork()
    assert shown(child)[:2] == ["10000-12000 rw-p", "13000-14000 rw-p"]
    assert child.total == space.total - 0x1000
    do(child, "munmap", [0x10000, 0x10000])
    assert shown(space)[0] == A


def test_advice_is_an_int() -> None:
    space = space_of()  # the upper half of an int argument is nobody's
    do(space, "madvise", [0x10000, 0x4000, 10 | 1 << 32])
    assert shown(space.fork()) == [F, S, T]
    do(space, "madvise", [0x10000, 0x4000, 11 - (1 << 32)])
    assert shown(space.fork()) == [A, F, S, T]


def test_dontfork_over_a_hole_fails_and_takes_all_the_rest_out() -> None:
    space = space_of()
    assert do(space, "madvise", [0x12000, 0x10000, 10], -12) is None
    assert shown(space) == [A, F, S, T]
    assert shown(space.fork()) == ["10000-12000 rw-p", "22000-24000 r--p @3000", S, T]
    do(space, "madvise", [0x8000, 0x10000, 11], -12)
    assert shown(space.fork()) == [A, "22000-24000 r--p @3000", S, T]
    do(space, "madvise", [0x10000, 0x1001, 10], -22)
    assert shown(space.fork())[0] == A


def test_read_implies_exec_adds_x_to_what_is_readable() -> None:
    space = space_of([])
    space.personality = READ_IMPLIES_EXEC
    do(space, "mmap", [0, 0x1000, 1, ANON, -1, 0], 0x60000)
    do(space, "mmap", [0, 0x1000, 2, ANON, -1, 0], 0x70000)
    do(space, "brk", [0x52000], 0x52000)
    assert shown(space) == ["51000-52000 rwxp", "60000-61000 r-xp", "70000-71000 -w-p"]


def test_a_personality_stands_until_a_call_of_another_ones() -> None:
    space = space_of([])
    args = [0, 0x1000, 1, ANON, -1, 0]
    do(space, "personality", [READ_IMPLIES_EXEC], 0, Ext(personality=READ_IMPLIES_EXEC))
    do(space, "mmap", args, 0x60000)
    do(space, "mmap", args, 0x70000, Ext(personality=0))  # by another thread
    do(space, "mprotect", [0x60000, 0x1000, 3])
    child = space.fork()
    do(child, "mprotect", [0x70000, 0x1000, 3], 0, Ext(personality=READ_IMPLIES_EXEC))
    do(child, "brk", [0x52000], 0x52000)
    assert shown(space) == ["60000-61000 rw-p", "70000-71000 r--p"]
    assert shown(child) == ["51000-52000 rwxp", "60000-61000 rw-p", "70000-71000 rwxp"]


def test_what_a_child_does_not_get_as_the_kernel_tells_it() -> None:
    space = space_of()
    do(space, "madvise", [0x10000, 0x2000, 10])
    told = Ext(dontfork=(0x11000, 0x31000, [(0x13000, 0x14000), (0x30000, 0x99000), (9, 5)]))
    assert do(space, "process_madvise", [5, 0x1000, 2, 10, 0], 0x1000, told) is None
    assert shown(space) == [A, F, S, T]
    assert shown(space.fork()) == ["11000-13000 rw-p", F, "31000-32000 rw-s @1000", T]


def test_the_break_is_where_prctl_puts_it() -> None:
    space = space_of()
    space.brk_by_label = True
    do(space, "prctl", [35, 14, 0x1000, 104, 0], 0, Ext(layout=(0x60000, 0x61234, 0xF1000)))
    assert do(space, "brk", [0x63000], 0x63000) is not None
    assert shown(space) == [A, F, S, "62000-63000 rw-p", T]
    assert [m.path for m in space.mappings()][3:] == ["[heap]", "[stack]"]
    do(space, "prctl", [35, 5 | 1 << 32, 0x12345, 0, 0])  # PR_SET_MM_START_STACK, an int
    assert space.mappings()[0].path == "[stack]"


LABELLED = "10000-20000 rw-p 00000000 00:00 0 [heap]"
BESIDE = "30000-31000 rw-p 00000000 00:00 0"


def attached(*lines: str) -> AddressSpace:
    """As an attach found it; the heap begins at 0x10000."""
    space = AddressSpace()
    record = Attach(t=0, pid=1, mm=1, start_brk=0x10000, maps=list(lines))
    seed(space, record, CACHE.parse(record.maps))
    return space


def below(space: AddressSpace) -> list[str]:
    """The map as text, and which pages are the heap's."""
    return [
        f"{s:x}-{e:x}{' heap' if tag == space.heap_tag else ''}" for s, e, _, tag in space.pieces()
    ]


@pytest.mark.parametrize(
    ("lines", "asked", "x", "after", "brk_from"),
    [
        # What lies above is alike, and shown as one line with it.
        ([LABELLED, BESIDE], 0x14000, (0x10000, 0x18000, ["10000-14000 rw-p 0 00:00 0 [heap]"]),
         ["10000-14000 heap", "18000-20000", "30000-31000"], 0x18000),
        ([LABELLED, BESIDE], 0x17FFB, (0x10000, 0x18000, [LABELLED]),
         ["10000-18000 heap", "18000-20000", "30000-31000"], None),
        # Its end is not mapped any more.
        ([LABELLED, BESIDE], 0x28000, (0x24000, 0x30000, ["24000-28000 rw-p 0 00:00 0 [heap]"]),
         ["10000-20000 heap", "24000-28000 heap", "30000-31000"], 0x24000),
        ([LABELLED, BESIDE], 0x18000, (0x10000, 0x30000, ["10000-18000 rw-p 0 00:00 0 [heap]"]),
         ["10000-18000 heap", "30000-31000"], 0x20000),
        # Nothing of it is mapped.
        ([BESIDE], 0x28000, (0x24000, 0x30000, ["24000-28000 rw-p 0 00:00 0 [heap]"]),
         ["24000-28000 heap", "30000-31000"], 0x24000),
        ([BESIDE], 0x14000, (0x13000, 0x30000, []), ["30000-31000"], None),
    ],
)  # fmt: skip
def test_where_the_break_stood_the_first_brk_after_an_attach_tells(
    lines: list[str],
    asked: int,
    x: tuple[int, int, list[str]],
    after: list[str],
    brk_from: int | None,
) -> None:
    space = attached(*lines)
    assert space.brk_by_label
    change = do(space, "brk", [asked], asked, Ext(x=x))
    assert below(space) == after
    assert (space.brk, space.brk_by_label) == (asked, False)
    assert space.total == sum(e - s for s, e, _, _ in space.pieces())
    assert brk_from == (None if change is None else change.brk_from)
    assert change is None or not change.conflict
    assert do(space, "brk", [asked + 0x1000], asked + 0x1000) is not None  # as any other


@pytest.mark.parametrize("x", [None, (0x23000, 0x24000, [])])
def test_a_brk_that_moved_nothing_tells_the_break_as_well(
    x: tuple[int, int, list[str]] | None,
) -> None:
    space = attached(LABELLED, BESIDE)
    change = do(space, "brk", [0x24000], 0x17800, Ext(x=x))
    assert below(space) == ["10000-18000 heap", "18000-20000", "30000-31000"]
    assert (space.brk, space.brk_by_label) == (0x17800, False)
    assert change is not None
    assert (change.conflict, change.brk_from) == (False, None)
    assert [p[:2] for p in change.added] == [p[:2] for p in change.removed] == [(0x18000, 0x20000)]


@pytest.mark.parametrize("x", [(0x30000, 0x20000, []), (-5, 1 << 60, []), (0x18000, 0x19000, [])])
def test_what_cannot_have_been_read_at_the_first_brk_is_a_conflict(
    x: tuple[int, int, list[str]],
) -> None:
    change = do(attached(LABELLED, BESIDE), "brk", [0x14000], 0x14000, Ext(x=x))
    assert change is not None
    assert change.conflict


def test_remap_file_pages_rounds_down() -> None:
    space = space_of()
    change = do(space, "remap_file_pages", [0x31005, 0x1FFF, 0, 9, 0])
    assert change is not None
    assert not change.conflict
    assert shown(space)[2:4] == ["30000-31000 rw-s @0", "31000-32000 rw-s @9000"]


def test_of_a_drift_a_few_runs_are_kept_and_how_many_there_were() -> None:
    far = range(0x100000, 0x100000 + 0x2000 * 500, 0x2000)
    lines = [*START, *(f"{a:x}-{a + 0x1000:x} rw-p 00000000 00:00 0" for a in far)]
    lines.sort(key=lambda line: int(line.partition("-")[0], 16))
    drift = compare(space_of(), lines, CACHE, 6, 1, "exit").drift
    assert drift is not None
    assert (len(drift.model), drift.differing) == (0, 500)
    assert [r.start for r in drift.kernel] == [*far][: len(drift.kernel)]
    assert 20 <= len(drift.kernel) < 100


@pytest.mark.parametrize("option", [0x53564D41, 0x53564D41 | 5 << 32])
def test_a_prctl_names_anonymous_memory(option: int) -> None:
    space = space_of()  # the upper half of an int argument is nobody's
    do(space, "prctl", [option, 0, 0x11000, 0x1000, 0], 0, Ext(name="pool"))
    names = [m.path for m in space.mappings()]
    assert names == ["", "[anon:pool]", "", "/lib/x", "/SYSV00000000 (deleted)", "[stack]"]


def named(space: AddressSpace) -> list[str]:
    return [f"{s:x}-{e:x}{' ' + a.name if a.name else ''}" for s, e, a, _ in space.pieces()]


HEAP = "10000-14000 rw-p 00000000 00:00 0 [heap]"
STACK = "f0000-f4000 rw-p 00000000 00:00 0 [stack]"


def test_the_labels_of_heap_and_stack_hide_names() -> None:
    """`get_vma_name` gives both before a name: their lines say nothing about one."""
    space = AddressSpace()
    space.load(CACHE.parse([HEAP, STACK]))
    do(space, "prctl", [0x53564D41, 0, 0x11000, 0x1000, 0], 0, Ext(name="pool"))
    do(space, "prctl", [0x53564D41, 0, 0xF0000, 0x4000, 0], 0, Ext(name="deep"))
    tags = [tag for _, _, _, tag in space.pieces()]
    shown = ["10000-11000 rw-p 0 00:00 0 [heap]", "11000-12000 rw-p 0 00:00 0 [heap]",
             "12000-14000 rw-p 0 00:00 0 [heap]"]  # fmt: skip
    result = compare(space, [*shown, STACK], CACHE, 5, 1, "exit")
    assert (result.drift, result.grown, result.runs) == (None, 0, 2)
    grown = "ee000-f4000 rw-p 00000000 00:00 0 [stack]"
    assert compare(space, [*shown, grown], CACHE, 6, 1, "exit").grown == 0x2000
    assert named(space) == [
        "10000-11000", "11000-12000 [anon:pool]", "12000-14000", "ee000-f4000 [anon:deep]",
    ]  # fmt: skip
    # As do ranges that are read back.
    do(space, "mprotect", [0x10000, 0x10000, 1], -12, Ext(x=(0x10000, 0x20000, shown)))
    assert [tag for _, _, _, tag in space.pieces()] == tags
    protected = [line.replace("rw-p", "r--p") for line in shown]
    do(space, "mprotect", [0x10000, 0x10000, 1], -12, Ext(x=(0x10000, 0x20000, protected)))
    assert [tag for _, _, _, tag in space.pieces()] == tags
    assert named(space)[1] == "11000-12000 [anon:pool]"
    # What is told of a drift is the drift, and the names outlast it.
    other = "20000-21000 rw-p 00000000 00:00 0"
    drift = compare(space, [*protected, other, grown], CACHE, 7, 1, "exit").drift
    assert drift is not None
    assert (drift.model, [r.start for r in drift.kernel]) == ((), [0x20000])
    assert named(space)[1] == "11000-12000 [anon:pool]"
    assert [tag for _, _, _, tag in space.pieces() if tag in tags] == tags


@pytest.mark.parametrize(
    "line",
    ["10000-14000 rw-p 0 00:00 0", "10000-14000 rw-p 0 00:00 0 [anon:other]",
     "10000-14000 r--p 0 00:00 0 [heap]", "10000-14000 rw-s 0 00:01 7 /x",
     "10000-14000 rw-p 0 00:00 0 [vdso]"],
)  # fmt: skip
def test_where_no_label_hides_it_a_name_is_compared(line: str) -> None:
    space = AddressSpace()
    space.load(CACHE.parse([HEAP]))
    do(space, "prctl", [0x53564D41, 0, 0x10000, 0x4000, 0], 0, Ext(name="pool"))
    assert compare(space, [line], CACHE, 5, 1, "exit").drift is not None
    assert compare(space, [line], CACHE, 6, 1, "exit").drift is None


def test_a_naming_that_failed_has_named_what_the_kernel_shows() -> None:
    space = space_of()
    (tag,) = [tag for s, _, _, tag in space.pieces() if s == 0x10000]
    lines = ["10000-12000 rw-p 00000000 00:00 0", "12000-14000 rw-p 00000000 00:00 0 [anon:pool]"]
    args = [0x53564D41, 0, 0x12000, 0x8000, 0]
    do(space, "prctl", args, -12, Ext(x=(0x12000, 0x1A000, lines[1:])))
    assert named(space)[:2] == ["10000-12000", "12000-14000 [anon:pool]"]
    assert [t for s, _, _, t in space.pieces() if s < 0x14000] == [tag, tag]


@pytest.mark.parametrize(
    ("call", "args", "ret"),
    [
        ("mmap", [0x12000, 0x1000, RW, ANON, -1, 0], 0x12000),
        ("mremap", [0x90000, 0x1000, 0x2000, 1], 0xA0000),
        ("mremap", [0x90000, 0x1000, 0x2000, 1], 0x90000),
        ("mremap", [0x90000, 0, 0x2000, 1], 0xA0000),
        ("brk", [0x50010], -1 << 20),
        ("munmap", [], 0),
        ("remap_file_pages", [0x10000, 0x1000, 0, 0, 0], 0),  # anonymous, and private
        ("remap_file_pages", [0x20000, 0x1000, 0, 0, 0], 0),  # private
        ("remap_file_pages", [0x60000, 0x1000, 0, 0, 0], 0),  # nothing
    ],
)
def test_a_result_that_contradicts_the_map_is_a_conflict(
    call: str, args: list[int], ret: int
) -> None:
    change = do(space_of(), call, args, ret)
    assert change is not None
    assert change.conflict


def test_lines_that_only_faults_and_labels_divide_are_the_same_map() -> None:
    one = ["10000-14000 rw-p 0 00:00 0 [heap]", "14000-15000 rw-p 0 00:00 0",
           "20000-22000 r--p 0 fe:01 9 /a", "22000-24000 r--p 2000 fe:01 9 /b"]  # fmt: skip
    other = ["10000-12000 rw-p 0 00:00 0", "12000-15000 rw-p 0 00:00 0",
             "20000-24000 r--p 0 fe:01 9 /a"]  # fmt: skip
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    "line",
    ["10000-14000 r--p 0 00:00 0", "10000-14000 rw-s 0 00:00 0", "10000-14000 rw-p 0 fe:00 1 /a",
     "10000-14000 rw-p 0 00:00 0 [anon:x]", "10000-13000 rw-p 0 00:00 0", ""],
)  # fmt: skip
def test_what_a_page_shows_makes_a_different_map(line: str) -> None:
    assert canonical([line] if line else []) != canonical(["10000-14000 rw-p 0 00:00 0"])


def test_stack_growth_is_imported_and_counted_and_nothing_else_is() -> None:
    space = space_of()
    kernel = [*START[:3], "ec000-f4000 rw-p 00000000 00:00 0 [stack]"]
    outcome = compare(space, kernel, CACHE, 5, 1, "exit")
    assert (outcome.grown, outcome.drift) == (0x4000, None)
    more = [*kernel, "ff000-100000 rw-p 00000000 00:00 0"]
    drift = compare(space, more, CACHE, 6, 1, "exit").drift
    assert drift is not None
    assert drift.model == ()
    assert [(r.start, r.end) for r in drift.kernel] == [(0xFF000, 0x100000)]
    assert compare(space, more, CACHE, 7, 1, "exit").drift is None


def test_an_mprotect_that_stops_at_a_hole_leaves_dontfork_and_the_region_alone() -> None:
    """Only permissions changed: the child still lacks the range, and it is still one region."""
    space = AddressSpace()
    do(space, "mmap", [0x10000, 0x3000, RW, ANON, -1, 0], 0x10000)
    tag = next(space.pieces())[3]
    do(space, "madvise", [0x10000, 0x3000, 10], 0)
    lines = ["10000-13000 r--p 00000000 00:00 0"]
    do(space, "mprotect", [0x10000, 0x8000, 1], -12, Ext(x=(0x10000, 0x18000, lines)))
    assert [(s, e, a.perms, t) for s, e, a, t in space.pieces()] == [
        (0x10000, 0x13000, "r--p", tag)
    ]
    assert space.fork().total == 0


def test_what_is_mapped_anew_is_inherited_again() -> None:
    """remap_file_pages and shmat go through do_mmap: VM_DONTCOPY does not stay."""
    space = space_of()
    do(space, "madvise", [0x30000, 0x2000, 10])
    do(space, "remap_file_pages", [0x31000, 0x1000, 0, 0, 0])
    assert shown(space.fork()) == [A, F, "31000-32000 rw-s @0", T]
    do(space, "shmat", [5, 0x30000, 0x4000], 0x30000, Ext(x=(0x30000, 0x32000, [START[2]])))
    assert shown(space.fork()) == [A, F, S, T]


def test_io_destroy_unmaps_a_ring_that_an_mprotect_has_cut() -> None:
    """kill_ioctx: the whole ring, whatever lies in it."""
    space = AddressSpace()
    space.load(CACHE.parse(["60000-64000 rw-s 00000000 00:0f 7 /[aio] (deleted)"]))
    do(space, "mprotect", [0x61000, 0x1000, 1])
    do(space, "io_destroy", [0x60000])
    assert shown(space) == []


def test_io_destroy_unmaps_what_lies_where_the_rings_tail_was() -> None:
    """How long the ring was the hole tells that it has left."""
    space = AddressSpace()
    space.load(
        CACHE.parse(
            [
                "60000-63000 rw-s 00000000 00:0f 7 /[aio] (deleted)",
                "63000-64000 rw-p 00000000 00:00 0",
                "65000-66000 rw-p 00000000 00:00 0",
            ]
        )
    )
    change = do(space, "io_destroy", [0x60000], 0, Ext(x=(0x60000, 0x65000, [])))
    assert shown(space) == ["65000-66000 rw-p"]
    assert change is not None
    assert [piece[:2] for piece in change.removed] == [(0x60000, 0x63000), (0x63000, 0x64000)]


def test_prot_growsdown_begins_where_the_mapping_does_not_where_a_cut_was() -> None:
    """Pages that are alike again are one VMA (`vma_merge`)."""
    space = AddressSpace()
    space.load(CACHE.parse(["f0000-f4000 rw-p 00000000 00:00 0 [stack]"]))
    do(space, "mprotect", [0xF2000, 0x1000, 1])
    do(space, "mprotect", [0xF2000, 0x1000, 3])
    do(space, "mprotect", [0xF3000, 0x1000, 1 | 0x01000000])
    assert shown(space) == ["f0000-f4000 r--p"]


@pytest.mark.parametrize("call", ["mprotect", "pkey_mprotect"])
def test_prot_growsdown_begins_where_a_flag_that_no_map_shows_divides(call: str) -> None:
    """mlock(2) of the upper half makes it a VMA of its own: it alone was protected, as the kernel
    shows; the lines tell, not the arguments.
    """
    space = AddressSpace()
    space.load(CACHE.parse(["f0000-f4000 rw-p 00000000 00:00 0 [stack]"]))
    do(space, "mlock", [0xF2000, 0x2000])
    x = (0xF2000, 0xF3000, ["f2000-f3000 r--p 00000000 00:00 0 [stack]"])
    do(space, call, [0xF2000, 0x1000, 1 | 0x01000000, 0], 0, Ext(x=x))
    assert shown(space) == ["f0000-f2000 rw-p", "f2000-f3000 r--p", "f3000-f4000 rw-p"]
    assert all(attr.flags == GROWSDOWN for _, _, attr, _ in space.pieces())


def test_shmdt_takes_the_first_segment_since_boot() -> None:
    """Its shmid is 0, and so is its inode's number (`newseg`)."""
    space = AddressSpace()
    space.load(CACHE.parse(["60000-62000 rw-s 00000000 00:01 0 /SYSV00000000 (deleted)"]))
    assert [m.path for m in space.mappings()] == ["/SYSV00000000 (deleted)"]
    do(space, "shmdt", [0x60000])
    assert shown(space) == []


def test_shmdt_leaves_another_file_whose_offset_fits() -> None:
    space = AddressSpace()
    space.load(
        CACHE.parse(
            [
                "60000-61000 r--p 00000000 fe:01 9 /lib/x",
                "61000-62000 rw-s 00001000 00:01 5 /SYSV00000000 (deleted)",
            ]
        )
    )
    do(space, "shmdt", [0x60000])
    assert shown(space) == ["60000-61000 r--p @0"]


@pytest.mark.parametrize(("call", "args", "ret", "expected"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("who", ["parent", "child", "grandchild"])
def test_after_a_fork_nobody_changes_the_others(
    call: str, args: list[int], ret: int | None, expected: list[str], who: str
) -> None:
    """They share their pieces until one of them does something."""
    family = {"parent": space_of()}
    family["child"] = family["parent"].fork()
    family["grandchild"] = family["child"].fork()
    do(family[who], call, args, ret)
    for name, space in family.items():
        assert shown(space) == (expected if name == who else [A, F, S, T]), name
        assert space.total == sum(e - s for s, e, _, _ in space.pieces())
