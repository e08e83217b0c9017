# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that was attached to: what is there before, and what can be said of what follows.

64-bit glibc 2.36 unless a test says so. The lines of maps are those of real processes, shortened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.conftest import EXE, HEAP, LIBC

from memtrace.trace.records import Attach, Ext, Libc, Snap

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

    from memtrace.report.model import ProcessRow, RegionRow

DEFAULT, MOST = 131072, 32 << 20
CHUNK = 135168
MIB64 = 64 << 20
HEAP_LINE = f"{HEAP:x}-{HEAP + 0x21000:x} rw-p 00000000 00:00 0 [heap]"
IN_PAGE = HEAP + 0x20800  # a break inside the last page of that line


def line(start: int, size: int, perms: str = "rw-p", path: str = "", ino: int = 0) -> str:
    file = f"00000000 fe:00 {ino}" if ino else "00000000 00:00 0"
    return f"{start:x}-{start + size:x} {perms} {file} {path}".rstrip()


def at(p: ProcessRow, start: int) -> RegionRow:
    """The region that begins at an address."""
    (row,) = [r for r in p.regions if r.start == start]
    return row


def what(r: RegionRow) -> tuple[str, str]:
    return r.kind, r.evidence


def verdicts(p: ProcessRow) -> list[tuple[int, str, str | None]]:
    return [(s.delta, s.verdict, s.reason) for s in p.heap.steps]


def interval(p: ProcessRow) -> tuple[int | None, int | None]:
    return p.threshold.low, p.threshold.high


def moves(p: ProcessRow) -> list[tuple[int, int | None, int | None, str]]:
    return [(m.seq, m.low, m.high, m.cause) for m in p.threshold.history]


# -- kinds of what is there -------------------------------------------------------------------


def test_the_map_proves_what_it_names(scene: Scene) -> None:
    scene.attach([
        HEAP_LINE,
        line(0x7D0000000000, 0x1000, "r--p", "/usr/lib/x.so (deleted)", 20),
        line(0x7D0000001000, 0x1000, "r-xp", "/usr/lib/x.so (deleted)", 20),
        line(0x7D0000002000, 0x1000, "rw-p", "/usr/lib/x.so (deleted)", 20),
        line(0x7D0000010000, 0x1000, "r--p", "/usr/share/locale", 21),
        line(0x7D0000020000, 0x1000, "rw-s", "/tmp/shared", 22),
        line(0x7D0000030000, 0x1000, "r-xs", "/memfd:code (deleted)", 23),
        line(0x7D0000038000, 0x1000, "rw-p", "/memfd:code (deleted)", 23),
        line(0x7D0000040000, 0x1000, "rw-s", "/dev/zero (deleted)", 24),
        line(0x7D0000050000, 0x1000, "rw-s", "/SYSV00000000 (deleted)", 25),
    ])  # fmt: skip
    p = scene.detach().process()
    kinds = {r.start: what(r) for r in p.regions}
    assert kinds == {
        0x400000: ("library", "shape"), 0x402000: ("library", "shape"), HEAP: ("heap", "shape"),
        0x7D0000000000: ("library", "shape"), 0x7D0000001000: ("library", "shape"),
        0x7D0000002000: ("library", "shape"), 0x7D0000010000: ("file", "shape"),
        0x7D0000020000: ("shared-file", "shape"), 0x7D0000030000: ("shared-file", "shape"),
        0x7D0000038000: ("file", "shape"), 0x7D0000040000: ("shared-anon", "shape"),
        0x7D0000050000: ("shared-anon", "shape"),
        0x7FE000000000: ("library", "shape"), 0x7FE000026000: ("library", "shape"),
        0x7FE000126000: ("library", "shape"), 0x7FF000000000: ("library", "shape"),
        0x7FF000020000: ("unknown", "none"), 0x7FFFFFFDE000: ("stack", "shape"),
        0x7FFED0000000: ("vdso", "shape"),
    }  # fmt: skip
    assert {(r.born_seq, r.died_seq, r.tid, r.older) for r in p.regions} == {(1, None, None, True)}
    assert p.attached is not None
    assert (p.attached.regions, p.attached.regions_gone) == (len(kinds), 0)
    assert p.kinds["library"].older == p.kinds["library"].count == 9


@pytest.mark.parametrize(
    ("maps", "start", "candidates"),
    [
        ([line(0x7D0000000000, 0x100000)], 0x7D0000000000,
         ["malloc-chunk", "anon", "runtime-heap"]),
        ([line(0x7D0000000000, 1 << 30, "---p")], 0x7D0000000000, ["anon", "runtime-heap"]),
        ([line(0x7D0000000000, 0x1000, "rwxp")], 0x7D0000000000, ["jit", "anon"]),
        ([line(0x7D0000000000, 0x1000, "r--p")], 0x7D0000000000, ["loader", "anon"]),
        ([line(0x7D0000000000, 0x1000, "---p")], 0x7D0000000000, ["guard", "anon"]),
        ([line(0x7FE000128000, 0xD000)], 0x7FE000128000,
         ["loader", "malloc-chunk", "anon", "runtime-heap"]),
        ([line(0x7D0000000000, 0x1000, "---p"), line(0x7D0000001000, 0x800000)],
         0x7D0000001000, ["thread-stack", "malloc-chunk", "anon", "runtime-heap"]),
        ([line(0x7D0000001000, 0x21000), line(0x7D0000022000, MIB64 - 0x21000, "---p")],
         0x7D0000001000, ["malloc-chunk", "anon", "runtime-heap"]),  # not at a multiple of 64 MiB
        ([line(0x7D0000000000, 0x21000), line(0x7D0000021000, MIB64 - 0x21000, "---p"),
          line(0x7D0004000000, 0x5000)],
         0x7D0004000000, ["malloc-chunk", "anon", "runtime-heap"]),  # an arena is no guard
        ([line(0x7D0000000000, 0x21000), line(0x7D0000021000, MIB64 - 0x21000, "---p")],
         0x7D0000000000, ["arena", "anon"]),
        ([line(0x7D0000000000, 0x200000, "rw-p", "/anon_hugepage (deleted)", 30)],
         0x7D0000000000, ["malloc-chunk", "main-arena", "anon"]),
        ([line(0x7D0000000000, 0x21000, "rw-p", "[anon: glibc: malloc]")],
         0x7D0000000000, ["malloc-chunk", "main-arena"]),
        ([line(0x7D0000000000, 0x21000, "rw-p", "[anon:mine]")], 0x7D0000000000, []),
    ],
)  # fmt: skip
def test_the_rest_is_unknown_with_candidates(
    scene: Scene, maps: list[str], start: int, candidates: list[str]
) -> None:
    r = at(scene.attach(maps).process(), start)
    assert (r.kind, r.evidence, r.candidates) == ("unknown", "none", candidates)
    assert (r.verdict, r.request) == ("unknown", None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("[anon: glibc: malloc arena]", "arena"), ("[anon: glibc: pthread stack: 17]", "thread-stack"),
     ("[anon: glibc: loader malloc]", "loader"), ("[vvar_vclock]", "vdso")],
)  # fmt: skip
def test_names_that_libc_and_the_kernel_give(scene: Scene, name: str, kind: str) -> None:
    scene.attach([line(0x7D0000000000, 0x21000, "rw-p", name)])
    assert what(at(scene.process(), 0x7D0000000000)) == (kind, "shape")


def test_where_every_page_is_executable_that_makes_no_library(scene: Scene) -> None:
    scene.attach([line(0x7D0000000000, 0x1000, "r-xp", "/etc/data", 20)], personality=0x400000)
    r = at(scene.process(), 0x7D0000000000)
    assert (r.kind, r.candidates) == ("unknown", ["library", "file"])


def test_a_heap_in_several_lines_is_one_region(scene: Scene) -> None:
    # after a fork the parent's heap is shown in pieces; mprotect cuts it, too
    low, mid, high = HEAP, HEAP + 0x10000, HEAP + 0x11000
    scene.attach([line(low, 0x10000, "rw-p", "[heap]"), line(mid, 0x1000, "r--p", "[heap]"),
                  line(high, 0x10000, "rw-p", "[heap]")], brk=HEAP + 0x21000)  # fmt: skip
    scene.brk(0x21000)
    p = scene.process()
    (heap,) = [r for r in p.regions if r.kind == "heap"]
    assert (heap.start, heap.bytes, heap.older) == (HEAP, 0x42000, True)


def test_what_is_shown_in_one_line_with_the_heap_is_not_the_heap(scene: Scene) -> None:
    # without randomisation the program's zeroed data ends where the heap begins
    scene.attach([line(HEAP - 0x2000, 0x12000, "rw-p", "[heap]")], brk=HEAP + 0x10000)
    p = scene.process()
    assert (at(p, HEAP).kind, at(p, HEAP).bytes) == ("heap", 0x10000)
    assert at(p, HEAP - 0x2000).kind == "unknown"


# -- stacks and guards ------------------------------------------------------------------------

STACK = 0x7D0000001000
LIMIT = {"STACK": 8 << 20}


@pytest.mark.parametrize(
    ("size", "guard", "kinds"),
    [
        (8 << 20, 0x1000, ("thread-stack", "guard")),  # RLIMIT_STACK
        (4 << 20, 0x1000, ("thread-stack", "guard")),  # pthread_attr_setstacksize
        (0xA00000, 0x1000, ("unknown", "unknown")),
        (0xFC000, 0x4000, ("thread-stack", "guard")),  # the JVM's: 1 MiB less its guard zone
        (0x823000, 0x1000, ("unknown", "unknown")),  # something else is shown in one line with it
    ],
)  # fmt: skip
def test_a_stack_is_proven_by_its_pointer_its_guard_and_its_size(
    scene: Scene, size: int, guard: int, kinds: tuple[str, str]
) -> None:
    scene.attach([line(STACK - guard, guard, "---p"), line(STACK, size)], rlimits=LIMIT,
                 tids=[1, 7], stacks=[(7, STACK + size - 0x2000)])  # fmt: skip
    p = scene.process()
    assert (at(p, STACK).kind, at(p, STACK - guard).kind) == kinds


def test_an_odd_limit_of_stacks_is_the_size_of_threads_stacks(scene: Scene) -> None:
    maps = [line(STACK - 0x1000, 0x1000, "---p"), line(STACK, 0xA00000)]
    scene.attach(maps, rlimits={"STACK": 0xA00000}, tids=[1, 7], stacks=[(7, STACK + 0x9FF000)])
    assert at(scene.process(), STACK).kind == "thread-stack"


@pytest.mark.parametrize(
    ("task", "pointer", "below"),
    [
        (7, STACK - 8, "---p"),  # in no stack
        (7, 0, "---p"),
        (1, STACK + 0x700000, "---p"),  # the main thread's: a coroutine's, perhaps
        (7, STACK + 0x700000, "r--p"),  # without a guard
    ],
)
def test_a_stack_pointer_alone_proves_no_stack(
    scene: Scene, task: int, pointer: int, below: str
) -> None:
    scene.attach([line(STACK - 0x1000, 0x1000, below), line(STACK, 8 << 20)], rlimits=LIMIT,
                 tids=[1, 7], stacks=[(task, pointer)])  # fmt: skip
    assert at(scene.process(), STACK).kind == "unknown"


def test_the_rest_of_an_arena_is_no_guard(scene: Scene) -> None:
    base = 0x7D0000000000
    opened, end = 0x21000, base + (64 << 20)
    maps = [line(base, opened), line(base + opened, (64 << 20) - opened, "---p"),
            line(end, 8 << 20)]  # fmt: skip
    scene.attach(maps, rlimits=LIMIT, tids=[1, 7], stacks=[(7, end + 0x700000)])
    p = scene.process()
    assert (at(p, base).candidates, at(p, end).kind) == (["arena", "anon"], "unknown")


def test_a_thread_that_starts_on_an_old_stack_proves_it(scene: Scene) -> None:
    # libc keeps the stacks of threads that have ended, and gives them to the next
    scene.attach([line(STACK - 0x1000, 0x1000, "---p"), line(STACK, 0x801000)])
    scene.clone(7, STACK + 0x801000 - 0x100)
    assert what(at(scene.process(), STACK)) == ("thread-stack", "sequence")


def test_a_thread_that_starts_somewhere_in_old_memory_proves_nothing(scene: Scene) -> None:
    scene.attach([line(STACK - 0x1000, 0x1000, "---p"), line(STACK, 0x801000)])
    scene.clone(7, STACK + 0x100000)
    assert at(scene.process(), STACK).kind == "unknown"


def test_an_arena_shown_in_one_line_with_a_guard_ends_at_its_own_end(scene: Scene) -> None:
    base, stack = 0x7D0000000000, 0x7D0000000000 + MIB64 + 0x1000
    scene.attach([line(base, 0x21000), line(base + 0x21000, MIB64 - 0x20000, "---p"),
                  line(stack, 8 << 20)],
                 rlimits=LIMIT, tids=[1, 7], stacks=[(7, stack + 0x700000)])  # fmt: skip
    p = scene.process()
    assert (at(p, base).bytes, at(p, base).candidates) == (MIB64, ["arena", "anon"])
    assert (at(p, stack).kind, at(p, stack - 0x1000).kind) == ("thread-stack", "guard")


def test_libc_opening_more_of_it_proves_an_arena(scene: Scene) -> None:
    base = 0x7D0000000000
    scene.attach([line(base, 0x21000), line(base + 0x21000, MIB64 - 0x21000, "---p")])
    scene.call("mprotect", [base + 0x21000, 0x3000, 3], 0, by="program")
    scene.call("mprotect", [base + 0x30000, 0x1000, 3], 0)  # not where it ended
    assert scene.process().arenas == []
    scene.call("mprotect", [base + 0x30000, 0x1000, 0], 0)
    scene.call("mprotect", [base + 0x24000, 0x3000, 3], 0)
    p = scene.process()
    assert what(at(p, base)) == ("arena", "caller")
    (arena,) = p.arenas
    assert (arena.base, arena.tid, arena.committed_bytes) == (base, None, 0x27000)
    assert (p.kinds["arena"].count, p.kinds["arena"].peak_bytes) == (1, MIB64)
    assert p.kinds["unknown"].peak_bytes == 0x2000  # the loader's data: it never held the arena


def test_a_stack_that_grew_before_the_first_look_stays_one_region(scene: Scene) -> None:
    stack = "7ffffffd0000-7ffffffff000 rw-p 00000000 00:00 0 [stack]"
    scene.attach([HEAP_LINE], brk=HEAP + 0x21000, growsdown=[(0x7FFFFFFDE000, 0x7FFFFFFFF000)])
    first = scene.records[0]
    assert isinstance(first, Attach)
    maps = [stack if m.endswith("[stack]") else m for m in first.maps]
    scene.life(Snap(t=10, mm=1, pid=1, tid=1, why="detach", maps=maps))
    (r,) = [r for r in scene.process().regions if r.kind == "stack"]
    assert (r.bytes, r.older) == (0x2F000, True)


# -- chunks -----------------------------------------------------------------------------------


def test_headers_cut_the_line_that_the_kernel_shows(scene: Scene) -> None:
    a = 0x7D0000000000
    scene.attach([line(a, 2 * CHUNK + 0x3000)], chunks=[(a, CHUNK | 2), (a + CHUNK, CHUNK | 2)])
    freed = scene.munmap(a + CHUNK, CHUNK)
    p = scene.detach().process()
    first, second, rest = at(p, a), at(p, a + CHUNK), at(p, a + 2 * CHUNK)
    assert [what(r) for r in (first, second)] == [("malloc-chunk", "header")] * 2
    assert (first.died_seq, second.died_seq, first.bytes, second.bytes) == (
        None, freed, CHUNK, CHUNK,
    )  # fmt: skip
    assert (rest.kind, rest.bytes) == ("unknown", 0x3000)
    assert first.verdict == "unknown"  # where the threshold stood at its birth is not known
    assert first.request is not None
    assert (first.request.min, first.request.max) == (131049, 135144)
    chunks = p.kinds["malloc-chunk"]
    assert (chunks.count, chunks.older, chunks.peak_bytes, chunks.final_bytes) == (
        2, 2, 2 * CHUNK, CHUNK,
    )  # fmt: skip
    assert (p.metrics["chunks.mapped"], p.metrics["chunks.alive_at_exit"]) == (0, 1)


@pytest.mark.parametrize(
    ("maps", "chunk"),
    [
        ([line(0x7D0000000000, CHUNK)], (0x7D0000000000, 2 * CHUNK | 2)),  # longer than the line
        ([line(0x7D0000000000, CHUNK, "rw-s", "/dev/zero", 20)], (0x7D0000000000, CHUNK | 2)),
        ([line(0x7D0000000000, CHUNK, "r--p")], (0x7D0000000000, CHUNK | 2)),
        ([line(0x7D0000000000, CHUNK)], (0x7D0000000008, 0x2000 | 2)),
        ([line(0x7D0000000000, CHUNK)], (0x7D0000000000, CHUNK | 1)),  # an arena's first chunk
        ([line(0x7D0000000000, CHUNK)], (0x7D0000000000, 2)),
        ([line(0x7D0000000000, CHUNK)], (0x7D0000000000, (1 << 64) - 6)),
        ([line(HEAP, CHUNK, "rw-p", "[heap]")], (HEAP, CHUNK | 2)),
    ],
)  # fmt: skip
def test_a_word_that_is_no_chunks_header_proves_nothing(
    scene: Scene, maps: list[str], chunk: tuple[int, int]
) -> None:
    p = scene.attach(maps, chunks=[chunk]).process()
    assert "malloc-chunk" not in p.kinds


SMALL = 0x3000


@pytest.mark.parametrize(
    ("env", "lost", "kind"),
    [
        ({}, False, "unknown"),
        ({"MALLOC_MMAP_THRESHOLD_": str(SMALL - 16)}, False, "malloc-chunk"),
        ({"MALLOC_MMAP_THRESHOLD_": str(SMALL)}, False, "unknown"),
        ({"MALLOC_MMAP_THRESHOLD_": "8k"}, False, "unknown"),  # read or refused: by the version
        ({"MALLOC_MMAP_THRESHOLD_": "8192"}, True, "unknown"),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=8192"}, False, "malloc-chunk"),
    ],
)
def test_a_header_of_less_than_malloc_maps_may_be_data(
    scene: Scene, env: dict[str, str], kind: str, *, lost: bool
) -> None:
    a = 0x7D0000000000
    scene.attach([line(a, CHUNK)], chunks=[(a, SMALL | 2)], env=env, env_lost=lost)
    found = at(scene.process(), a)
    assert (found.kind, found.bytes) == (kind, SMALL if kind == "malloc-chunk" else CHUNK)


def test_the_layout_since_2_43(scene: Scene) -> None:
    a = 0x7D0000000000
    scene.attach([line(a, CHUNK)], libc="2.43", chunks=[(a, CHUNK - 16 | 2)])
    scene.munmap(a, CHUNK)
    p = scene.process()
    assert what(at(p, a)) == ("malloc-chunk", "header")
    assert interval(p) == (CHUNK - 16, MOST)


def test_an_i386_chunk(scene: Scene) -> None:
    a = 0xF0000000
    scene.attach([line(a, CHUNK)], abi="i386", chunks=[(a, CHUNK - 8 | 2)])
    p = scene.process()
    assert what(at(p, a)) == ("malloc-chunk", "header")
    assert interval(p) == (DEFAULT, 512 << 10)


def test_overlapping_headers_are_taken_once(scene: Scene) -> None:
    a = 0x7D0000000000
    twice = (a, 2 * CHUNK | 2)
    scene.attach([line(a, 4 * CHUNK)], chunks=[twice, (a + CHUNK, CHUNK | 2), twice])
    p = scene.process()
    assert (p.kinds["malloc-chunk"].count, p.kinds["malloc-chunk"].peak_bytes) == (1, 2 * CHUNK)
    assert sum(r.bytes for r in p.regions) == sum(k.final_bytes for k in p.kinds.values())


def test_a_header_in_a_static_program_proves_glibc(scene: Scene) -> None:
    a = 0x7D0000000000
    maps = [line(0x400000, 0x100000, "r-xp", EXE, 1), line(a, CHUNK)]
    facts: dict[str, Any] = {"exe": EXE, "argv": ["prog"], "at_secure": False, "start_brk": HEAP}
    scene.life(Attach(t=0, pid=1, mm=1, maps=maps, chunks=[(a, CHUNK | 2)], **facts))
    p = scene.process()
    assert (p.allocator.name, p.allocator.evidence) == (
        "glibc", "a malloc chunk header (found at the attach)",
    )  # fmt: skip
    assert interval(p) == (DEFAULT, MOST)


# -- the threshold ----------------------------------------------------------------------------


def test_where_the_threshold_stands_at_the_attach_is_an_interval(scene: Scene) -> None:
    a = 0x7D0000000000
    p = scene.attach([line(a, CHUNK)], chunks=[(a, CHUNK | 2)]).process()
    assert (p.threshold.initial, p.threshold.fixed_by, p.threshold.history) == (None, None, [])
    assert interval(p) == (DEFAULT, MOST)


@pytest.mark.parametrize(
    ("env", "value", "fixed_by"),
    [({"MALLOC_MMAP_THRESHOLD_": "65536"}, 65536, "environ"),
     ({"GLIBC_TUNABLES": "glibc.malloc.top_pad=0"}, DEFAULT, "tunable")],
)  # fmt: skip
def test_what_the_environment_fixed_is_fixed(
    scene: Scene, env: dict[str, str], value: int, fixed_by: str
) -> None:
    t = scene.attach([], env=env).process().threshold
    assert (t.initial, t.low, t.high, t.fixed_by) == (value, value, value, fixed_by)


def test_without_its_environment_nothing_is_said_of_the_threshold(scene: Scene) -> None:
    # MALLOC_MMAP_THRESHOLD_=4096 redis-server: its title overwrites the environment
    scene.attach([HEAP_LINE], brk=HEAP + 0x21000, env_lost=True)
    scene.brk(0x21000)
    scene.mmap(204800)
    scene.seen(scene.seq, 204802)
    p = scene.process()
    assert (p.threshold.initial, *interval(p)) == (None, None, None)
    assert verdicts(p) == [(0x21000, "unknown", None)]
    assert scene.region(scene.seq).verdict == "unknown"


def test_a_setuid_programs_environment_does_not_matter(scene: Scene) -> None:
    scene.attach([], env_lost=True, at_secure=True)
    assert interval(scene.process()) == (DEFAULT, MOST)


def test_a_new_chunk_shows_how_high_it_can_stand(scene: Scene) -> None:
    scene.attach([])
    scene.mmap(409600)
    first = scene.seq
    scene.seen(first, 409600 | 2)
    scene.mmap(409600)
    second = scene.seq
    scene.seen(second, 409600 | 2).query()
    scene.mmap(204800)
    third = scene.seq
    p = scene.process()
    assert scene.region(first).verdict == "unknown"  # the first is the measure
    assert scene.region(second).verdict == "holds"
    assert scene.region(third).verdict == "unknown"
    assert interval(p) == (DEFAULT, 409600 - 16)
    assert moves(p) == [(first, DEFAULT, 409600 - 16, "at-most")]


def test_a_chunk_by_its_caller_alone_measures_nothing(scene: Scene) -> None:
    scene.attach([])
    scene.mmap(409600)
    assert scene.region(scene.seq).kind == "malloc-chunk"
    assert interval(scene.process()) == (DEFAULT, MOST)


def test_a_free_shows_how_low_it_can_stand(scene: Scene) -> None:
    a, b = 0x7D0000000000, 0x7D0000400000
    scene.attach([line(a, 409600), line(b, 204800)], chunks=[(a, 409602), (b, 204802)])
    freed = scene.munmap(a, 409600)
    scene.munmap(b, 204800)
    p = scene.process()
    assert moves(p) == [(freed, 409600, MOST, "at-least")]
    assert p.metrics["threshold.rises"] == 0  # it may have stood higher


def test_a_free_above_all_it_can_be_is_a_rise(scene: Scene) -> None:
    a = 0x7D0000000000
    scene.attach([line(a, 819200)], chunks=[(a, 819202)])
    scene.mmap(409600)
    mapped = scene.seq
    scene.seen(mapped, 409602)
    freed = scene.munmap(a, 819200)
    p = scene.process()
    assert moves(p) == [
        (mapped, DEFAULT, 409584, "at-most"), (freed, 819200, 819200, "freed-chunk"),
    ]  # fmt: skip
    assert p.metrics["threshold.rises"] == 1


def test_a_header_that_comes_after_a_free_does_not_undo_it(scene: Scene) -> None:
    # it was no higher than 409584 when the chunk was mapped, and 819200 at least since
    a = 0x7D0000000000
    scene.attach([line(a, 819200)], chunks=[(a, 819202)])
    scene.mmap(409600)
    mapped = scene.seq
    scene.as_(1, 2)
    scene.munmap(a, 819200)
    scene.seen(mapped, 409602).query()
    assert interval(scene.process()) == (819200, 819200)


def test_a_header_that_comes_after_what_may_be_a_rise_measures_nothing(scene: Scene) -> None:
    a = 0x7D0000000000
    scene.attach([line(a, 4 << 20)])
    scene.mmap(409600)
    mapped = scene.seq
    scene.as_(1, 2)
    scene.munmap(a, 1 << 20)
    scene.seen(mapped, 409602).query()
    assert interval(scene.process()) == (DEFAULT, MOST)


def test_a_chunk_of_one_of_two_libcs_measures_nothing(scene: Scene) -> None:
    scene.attach([line(0x7D0000000000, 0x100000, "r-xp", LIBC, 3)])
    scene.mmap(409600)
    scene.seen(scene.seq, 409602).query()
    assert interval(scene.process()) == (DEFAULT, MOST)


def test_after_a_doubted_rise_a_growth_is_not_explained_by_it(scene: Scene) -> None:
    a = 0x7D0000000000
    scene.attach([HEAP_LINE, line(a, 3149824)], brk=HEAP + 0x21000, chunks=[(a, 3149826)])
    scene.munmap(a, 3149824)
    scene.mmap(1052672)
    scene.seen(scene.seq, 1052674)
    scene.brk(0x51000)
    p = scene.process()
    assert verdicts(p) == [(0x51000, "unknown", None)]
    assert interval(p) == (DEFAULT, 1052672 - 16)


def test_malloc_may_have_mapped_all_it_may_where_most_was_not_seen(scene: Scene) -> None:
    # 65,536 chunks of 132 KiB may lie in there (DEFAULT_MMAP_MAX)
    scene.attach([HEAP_LINE, line(0x7D0000000000, 9 << 30)], brk=HEAP + 0x21000)
    scene.brk(MOST + 0x30000)
    assert verdicts(scene.process()) == [(MOST + 0x30000, "unknown", None)]


@pytest.mark.parametrize(
    ("growth", "verdict", "low"),
    [
        (0x21000, "holds", DEFAULT),  # wherever it stands
        # a growth of G proves a chunk of G - 4096 - 128 KiB - 16 that was not mapped
        (0x51000, "unknown", 0x51000 - 4096 - DEFAULT - 16 + 1),
        (MOST + 0x30000, "contradiction", 0),
    ],
)
def test_a_growth_shows_how_low_it_can_stand(
    scene: Scene, growth: int, verdict: str, low: int
) -> None:
    scene.attach([HEAP_LINE], brk=HEAP + 0x21000)
    seq = scene.brk(growth)
    p = scene.process()
    assert verdicts(p) == [(growth, verdict, None)]
    assert p.threshold.low == low
    expected = {"unknown": "above", "contradiction": "contradiction"}.get(verdict)
    assert [(m.seq, m.cause) for m in p.threshold.history] == (
        [(seq, expected)] if expected else []
    )


def test_a_growth_after_a_free_that_allows_it_is_explained(scene: Scene) -> None:
    a = 0x7D0000000000
    scene.attach([HEAP_LINE, line(a, 1 << 20)], brk=HEAP + 0x21000, chunks=[(a, 1 << 20 | 2)])
    scene.munmap(a, 1 << 20)
    scene.brk(0x51000)
    p = scene.process()
    assert verdicts(p) == [(0x51000, "explained", "dynamic-threshold")]
    assert interval(p) == (1 << 20, MOST)


@pytest.mark.parametrize("why", ["mmap-failed", "hugetlb"])
def test_a_growth_for_another_reason_measures_nothing(scene: Scene, why: str) -> None:
    env = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if why == "hugetlb" else {}
    scene.attach([HEAP_LINE], brk=HEAP + 0x21000, env=env)
    if not env:
        scene.call("mmap", [0, 1000 << 12, 3, 0x22, -1, 0], -12)
    scene.brk(0x51000)
    assert interval(scene.process()) == (DEFAULT, MOST)


def test_evidence_both_ways_that_no_rise_explains_is_a_contradiction(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=HEAP + 0x21000)
    scene.brk(0x81000)
    scene.mmap(204800)
    seq = scene.seq
    scene.seen(seq, 204802).query()
    assert scene.region(seq).verdict == "contradiction"


@pytest.mark.parametrize("by", ["malloc", ""])
def test_what_may_have_been_a_chunk_may_have_raised_it(scene: Scene, by: str) -> None:
    # libc unmaps a part of a line that may hold chunks whose headers could not be read
    a = 0x7D0000000000
    scene.attach([HEAP_LINE, line(a, 4 << 20)], brk=HEAP + 0x21000)
    scene.mmap(409600)
    mapped = scene.seq
    scene.seen(mapped, 409602)
    freed = scene.munmap(a + (1 << 20), 1 << 20, by=by)
    scene.brk(0x121000)
    p = scene.process()
    assert moves(p)[:2] == [
        (mapped, DEFAULT, 409584, "at-most"), (freed, DEFAULT, 1 << 20, "possible-rise"),
    ]  # fmt: skip
    assert verdicts(p) == [(0x121000, "unknown", None)]  # no contradiction: it may have risen


def test_what_the_program_unmaps_raised_nothing(scene: Scene) -> None:
    a = 0x7D0000000000
    scene.attach([line(a, 4 << 20)])
    scene.mmap(409600)
    scene.seen(scene.seq, 409602)
    scene.munmap(a + (1 << 20), 1 << 20, by="program")
    assert interval(scene.process()) == (DEFAULT, 409584)


def test_no_free_unmaps_a_part_of_a_page(scene: Scene) -> None:
    a = 0x7D0000000000
    scene.attach([line(a, 4 << 20)])
    scene.mmap(409600)
    scene.seen(scene.seq, 409602)
    scene.munmap(a + (1 << 20), (1 << 20) - 100)
    assert interval(scene.process()) == (DEFAULT, 409584)


def test_a_chunk_may_be_in_one_line_with_a_stack(scene: Scene) -> None:
    scene.attach([line(STACK - 0x1000, 0x1000, "---p"), line(STACK, 8 << 20)], rlimits=LIMIT,
                 tids=[1, 7], stacks=[(7, STACK + 0x100000)])  # fmt: skip
    scene.mmap(409600)
    scene.seen(scene.seq, 409602)
    scene.munmap(STACK + (7 << 20), 1 << 20)
    assert at(scene.process(), STACK).kind == "thread-stack"
    assert interval(scene.process()) == (DEFAULT, 1 << 20)


def test_a_stack_with_its_guard_was_no_chunk(scene: Scene) -> None:
    scene.attach([line(STACK - 0x1000, 0x1000, "---p"), line(STACK, 8 << 20)])
    scene.mmap(409600)
    scene.seen(scene.seq, 409602)
    scene.munmap(STACK - 0x1000, 0x801000)
    assert interval(scene.process()) == (DEFAULT, 409584)


def test_a_child_inherits_what_is_not_known_and_an_exec_ends_it(scene: Scene) -> None:
    a = 0x7D0000000000
    scene.attach([HEAP_LINE, line(a, 204800)], brk=HEAP + 0x21000, chunks=[(a, 204802)])
    scene.munmap(a, 204800)
    scene.fork(2, 2).as_(2, 2)
    scene.brk(0x51000)
    scene.glibc(mm=3, pid=2, old_mm=2)
    child, program = scene.process(1), scene.process(2)
    assert (child.threshold.initial, child.attached) == (None, None)
    assert interval(child) == (204800, MOST)
    assert verdicts(child) == [(0x51000, "explained", "dynamic-threshold")]
    assert {r.older for r in child.regions if r.kind == "library"} == {True}
    assert (program.threshold.initial, program.threshold.low) == (DEFAULT, DEFAULT)
    assert not any(r.older for r in program.regions)


# -- the heap ---------------------------------------------------------------------------------


def test_the_first_growth_is_counted_from_the_end_of_the_page(scene: Scene) -> None:
    # the true break was 0x800 lower, in the middle of its page
    scene.attach([HEAP_LINE], brk=IN_PAGE)
    scene.brk(0x21000)
    scene.query()
    scene.brk(0x1000)
    p = scene.process()
    assert [(s.delta, s.exact) for s in p.heap.steps] == [(0x20800, False), (0x1000, True)]
    assert p.heap.exact is False
    assert (p.heap.end, p.heap.final_bytes, p.heap.grown_bytes) == (
        IN_PAGE + 0x22000, 0x42800, 0x21800,
    )  # fmt: skip
    assert p.attached is not None
    assert p.attached.heap_bytes == 0x21000


@pytest.mark.parametrize("told_by", ["query", "refused"])
def test_an_answer_tells_the_break_and_is_no_growth(scene: Scene, told_by: str) -> None:
    scene.attach([HEAP_LINE], brk=IN_PAGE)
    if told_by == "query":
        scene.query()
    else:
        scene.refused(1 << 40)
    scene.brk(0x1000)
    p = scene.process()
    assert [s.delta for s in p.heap.steps if s.delta] == [0x1000]
    assert all(s.exact for s in p.heap.steps)
    assert (p.heap.exact, p.heap.peak_bytes, p.heap.growths) == (True, 0x21800, 1)
    assert p.attached is not None
    assert p.attached.heap_bytes == 0x20800
    assert p.heap.end == IN_PAGE + 0x1000
    assert p.metrics["heap.refused"] == (told_by == "refused")


def test_an_answer_alone_makes_the_heap_exact(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=IN_PAGE).query()
    p = scene.process()
    assert (p.heap.peak_bytes, p.heap.final_bytes, p.heap.exact) == (0x20800, 0x20800, True)


def test_a_move_inside_the_page_is_not_known_to_be_one(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=IN_PAGE)
    scene.brk(0x100, by="sbrk")
    p = scene.process()
    assert (p.heap.steps, p.heap.end, p.heap.exact) == ([], IN_PAGE + 0x100, True)


def test_a_shrink_from_a_page(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=IN_PAGE)
    scene.brk(-0x10000)
    p = scene.process()
    (step,) = p.heap.steps
    assert (step.delta, step.exact, step.role) == (-0x10800, False, "shrink")
    assert (p.heap.final_bytes, p.heap.shrinks) == (0x10800, 1)


def test_without_a_call_no_more_is_known_of_the_heap_than_what_it_has_at_most(scene: Scene) -> None:
    p = scene.attach([HEAP_LINE], brk=IN_PAGE).process()
    assert (p.heap.start, p.heap.end, p.heap.final_bytes, p.heap.peak_bytes) == (
        HEAP, None, None, None,
    )  # fmt: skip
    assert (p.heap.most_bytes, p.heap.exact) == (0x21000, False)
    assert p.attached is not None
    assert p.attached.heap_bytes is None
    assert not {"heap.peak_bytes", "heap.final_bytes"} & set(p.metrics)
    without = Attach(t=0, pid=1, mm=1, exe=EXE, maps=[HEAP_LINE])
    scene.records[:] = [without]
    scene.brk(0x1000)
    scene.brk(0x1000)
    heap = scene.process().heap
    assert (heap.start, heap.peak_bytes, heap.final_bytes) == (None, None, None)  # it was hidden
    assert [(s.delta, s.exact) for s in heap.steps] == [(0x800, False), (0x1000, True)]
    assert heap.growths == 2


#: Half of the line is somebody else's.
MIDDLE = HEAP + 0x10000


def first_brk(scene: Scene, delta: int, low: int, high: int, *lines: str) -> int:
    return scene.brk(delta, by="sbrk", ext=Ext(x=(low, high, list(lines))))


def test_what_the_label_shows_of_a_neighbour_is_not_the_heaps(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=MIDDLE)
    heap = f"{HEAP:x}-{MIDDLE - 0x8000:x} rw-p 00000000 00:00 0 [heap]"
    first_brk(scene, -0x8000, HEAP, MIDDLE, heap)
    p = scene.process()
    (step,) = p.heap.steps
    assert (step.delta, step.exact) == (-0x8000, False)
    assert (p.heap.peak_bytes, p.heap.final_bytes, p.heap.most_bytes) == (0x10000, 0x8000, None)
    assert p.attached is not None
    assert p.attached.heap_bytes == 0x10000
    beside = at(p, MIDDLE)
    assert (beside.kind, beside.older, beside.born_seq, beside.bytes) == (
        "unknown",
        True,
        1,
        0x11000,
    )
    assert beside.candidates[0] == "main-arena"
    assert (at(p, HEAP).kind, at(p, HEAP).peak_bytes, at(p, HEAP).bytes) == (
        "heap",
        0x10000,
        0x8000,
    )
    assert (p.kinds["heap"].peak_bytes, p.kinds["heap"].final_bytes) == (0x10000, 0x8000)
    assert p.attached.regions == p.regions_total
    assert p.attached.regions_gone == 0


@pytest.mark.parametrize("told_by", ["query", "refused"])
def test_an_answer_tells_what_of_the_label_is_the_heap(scene: Scene, told_by: str) -> None:
    scene.attach([HEAP_LINE], brk=MIDDLE)
    if told_by == "query":
        scene.query()
    else:
        scene.refused(0x4000)
    p = scene.process()
    assert (p.heap.peak_bytes, p.heap.final_bytes, p.heap.exact) == (0x10000, 0x10000, True)
    assert (at(p, HEAP).bytes, p.kinds["heap"].peak_bytes) == (0x10000, 0x10000)
    assert (at(p, MIDDLE).kind, at(p, MIDDLE).bytes) == ("unknown", 0x11000)
    assert [s.delta for s in p.heap.steps] == [0] * (told_by == "refused")


def test_a_heap_whose_end_was_unmapped_grows_from_where_it_fills(scene: Scene) -> None:
    low, high = HEAP + 0x23000, HEAP + 0x30000
    scene.attach([HEAP_LINE], brk=low)
    first_brk(scene, 0x8000, low, high, f"{low:x}-{low + 0x8000:x} rw-p 00000000 00:00 0 [heap]")
    p = scene.process()
    assert [(s.delta, s.exact) for s in p.heap.steps] == [(0x8000, False)]
    assert (p.heap.final_bytes, p.heap.peak_bytes) == (0x2B000, 0x2B000)
    (heap,) = [r for r in p.regions if r.kind == "heap"]
    assert (heap.bytes, heap.older) == (0x29000, True)


def test_the_neighbour_of_a_childs_heap_is_its_own_region_there_as_well(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=MIDDLE)
    scene.fork(2, 2).as_(2, 2)
    heap = f"{HEAP:x}-{MIDDLE - 0x8000:x} rw-p 00000000 00:00 0 [heap]"
    first_brk(scene, -0x8000, HEAP, MIDDLE, heap)
    parent, child = scene.process(0), scene.process(1)
    assert (parent.heap.most_bytes, child.heap.most_bytes) == (0x21000, None)
    assert (at(child, HEAP).bytes, at(child, MIDDLE).kind) == (0x8000, "unknown")
    assert at(child, MIDDLE).inherited
    assert at(parent, HEAP).bytes == 0x21000


def test_an_attached_heap_that_never_was(scene: Scene) -> None:
    scene.attach([])
    scene.brk(0x21000)
    p = scene.process()
    assert [(s.delta, s.exact, s.verdict) for s in p.heap.steps] == [(0x21000, True, "holds")]
    assert p.kinds["heap"].older == 0


def test_the_second_growth_may_belong_to_the_first(scene: Scene) -> None:
    # whether somebody else moved the break since malloc's last growth is not known
    scene.attach([HEAP_LINE], brk=HEAP + 0x21000)
    scene.brk(0x21000)
    scene.brk(0x51000)
    scene.brk(0x51000)
    p = scene.process()
    assert verdicts(p) == [
        (0x21000, "holds", None), (0x51000, "unknown", None), (0x51000, "unknown", None),
    ]  # fmt: skip
    assert [m.seq for m in p.threshold.history] == [5]  # only the third can be no second of two


def test_a_trim_shows_that_mallocs_heap_ends_at_the_break(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=HEAP + 0x21000)
    scene.brk(-0x10000)
    scene.brk(0x21000)
    scene.brk(0x51000)
    p = scene.process()
    assert [m.cause for m in p.threshold.history] == ["above"]


def test_the_heap_of_a_child_of_an_attached_process_is_as_loose(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=IN_PAGE)
    scene.fork(2, 2).as_(2, 2)
    scene.brk(0x21000)
    scene.as_(1, 1).query()
    parent, child = scene.process(0), scene.process(1)
    assert (parent.heap.final_bytes, parent.heap.exact) == (0x20800, True)
    assert [(s.delta, s.exact) for s in child.heap.steps] == [(0x20800, False)]


# -- whose malloc -----------------------------------------------------------------------------

JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
JEMALLOC_TEXT = line(0x7F5000000000, 0x100000, "r-xp", JEMALLOC, 40)


def test_glibc_is_told_by_the_record_after_the_attach(scene: Scene) -> None:
    p = scene.attach([]).process()
    assert (p.allocator.name, p.allocator.version) == ("glibc", "2.36")
    assert p.allocator.evidence == f"mapped {LIBC} (#2)"


def test_a_library_that_may_replace_malloc_leaves_it_open(scene: Scene) -> None:
    scene.attach([JEMALLOC_TEXT])
    p = scene.process()
    assert (p.allocator.name, p.allocator.rule) == ("unknown", None)
    assert "libjemalloc.so.2" in p.allocator.evidence
    assert [a.name for a in p.allocators] == ["glibc"]
    assert interval(p) == (None, None)


def test_a_preloaded_one_is_the_malloc(scene: Scene) -> None:
    scene.attach([JEMALLOC_TEXT], env={"LD_PRELOAD": f"/x/y.so {JEMALLOC}"})
    p = scene.process()
    assert (p.allocator.name, p.allocator.evidence) == (
        "jemalloc", "LD_PRELOAD named libjemalloc.so.2 (#1)",
    )  # fmt: skip
    assert interval(p) == (None, None)


@pytest.mark.parametrize(
    ("preload", "name"),
    [
        ("libtcmalloc_minimal.so.4", "tcmalloc"),
        ("/usr/lib/libtcmalloc_minimal.so", "tcmalloc"),
        ("libtcmalloc_minimal.so.4.5.10", "tcmalloc"),
        ("libtcmalloc_minimal.so.4.5.1", "unknown"),
        ("libtcmalloc.so.4", "unknown"),
        ("", "unknown"),
        (" : ", "unknown"),
        ("/usr/lib/", "unknown"),
    ],
)
def test_a_preloaded_one_may_be_named_by_a_link(scene: Scene, preload: str, name: str) -> None:
    path = "/usr/lib/libtcmalloc_minimal.so.4.5.10"
    text = f"7fd000000000-7fd000100000 r-xp 00000000 fe:00 9 {path}"
    scene.attach([text], env={"LD_PRELOAD": preload})
    assert scene.process().allocator.name == name


def test_the_one_at_work_is_the_malloc(scene: Scene) -> None:
    scene.attach([JEMALLOC_TEXT])
    scene.mmap(2 << 20, JEMALLOC)
    p = scene.process()
    assert p.allocator.name == "jemalloc"
    assert (scene.region(scene.seq).kind, scene.region(scene.seq).owner) == (
        "runtime-heap", "jemalloc",
    )  # fmt: skip


def test_a_chunk_of_glibcs_decides_for_glibc(scene: Scene) -> None:
    scene.attach([JEMALLOC_TEXT])
    scene.mmap(204800)
    scene.seen(scene.seq, 204802).query()
    p = scene.process()
    assert (p.allocator.name, p.allocator.version) == ("glibc", "2.36")
    assert [a.name for a in p.allocators] == ["glibc"]
    assert interval(p) == (DEFAULT, 204784)
    scene.mmap(2 << 20, JEMALLOC)
    assert scene.process().allocator.name == "glibc"


def test_what_is_open_is_open_for_a_child(scene: Scene) -> None:
    scene.attach([JEMALLOC_TEXT])
    scene.fork(2, 2).as_(2, 2)
    scene.mmap(2 << 20, JEMALLOC)
    assert [scene.process(i).allocator.name for i in (0, 1)] == ["unknown", "jemalloc"]


def test_a_program_in_mid_life_is_not_loading(scene: Scene) -> None:
    # dlopen of a library that would be the malloc if it had been there at the start
    scene.attach([])
    scene.library(JEMALLOC)
    assert scene.process().allocator.name == "glibc"


def test_a_second_copy_of_libc_makes_a_megabyte_ambiguous(scene: Scene) -> None:
    scene.attach([line(0x7D0000000000, 0x100000, "r-xp", LIBC, 3)])
    scene.mmap(1 << 20)
    r = scene.region(scene.seq)
    assert (r.kind, r.candidates) == ("unknown", ["malloc-chunk", "main-arena"])


def test_musl_found_at_the_attach(scene: Scene) -> None:
    musl = "/lib/ld-musl-x86_64.so.1"
    scene.attach([line(0x7D0000000000, 0x60000, "r-xp", musl, 50)], libc="")
    scene.life(Libc(t=5, mm=1, path=musl, name="musl", version="1.2.3"))
    p = scene.process()
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")
    assert interval(p) == (None, None)


# -- the same question about programs seen from their exec -------------------------------------


def test_a_free_that_may_be_a_chunks_leaves_no_contradiction(scene: Scene) -> None:
    # a mapping of libc's that is no chunk for sure is unmapped by libc; then the heap serves 200 KB
    scene.glibc()
    scene.brk(0x21000)
    scene.mmap(CHUNK)
    scene.seen(scene.seq, CHUNK | 2)
    a = scene.mmap(1 << 20, by="thread")
    assert scene.region(scene.seq).candidates == ["malloc-chunk", "anon"]
    freed = scene.munmap(a, 1 << 20)
    scene.brk(0x51000)
    p = scene.process()
    assert moves(p) == [(freed, DEFAULT, 1 << 20, "possible-rise")]
    assert verdicts(p)[1] == (0x51000, "unknown", None)


def test_a_free_in_one_of_two_libcs_leaves_no_explanation(scene: Scene) -> None:
    scene.glibc()
    scene.library(LIBC)  # once more, and the calls do not tell which of the two makes them
    a = scene.mmap(409600)
    scene.munmap(a, 409600)
    scene.brk(0x51000)
    assert verdicts(scene.process()) == [(0x51000, "unknown", None)]
