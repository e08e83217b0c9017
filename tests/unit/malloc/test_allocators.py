# SPDX-License-Identifier: GPL-2.0-or-later
"""Which malloc a process has, by what its files hold and by who is seen at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.conftest import EXE, LD, LIBC, MAPS

from memtrace.trace.records import Allocator, Ext, Libc

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

JEMALLOC, MUSL = "/lib/libjemalloc.so.2", "/lib/ld-musl-x86_64.so.1"
CHUNK = 135168
ALONE = [line for line in MAPS if LD not in line and "7ff000020000-" not in line]
PR_SET_VMA = 0x53564D41


def holds(scene: Scene, path: str, name: str = "", **facts: object) -> None:
    """The record of a file that was looked into."""
    facts.setdefault("malloc", True)
    facts.setdefault("how", f"defines {name}" if name else "")
    scene.life(Allocator(t=scene.seq * 1000, mm=scene.mm, path=path, name=name, **facts))  # type: ignore[arg-type]


def libc(scene: Scene, name: str = "glibc", path: str = LIBC, version: str = "2.36") -> None:
    if name == "glibc":
        scene.library(path)
    scene.life(
        Libc(t=scene.seq * 1000, mm=scene.mm, path=path, name=name, version=version, build_id="ab")
    )


@pytest.fixture
def looked(scene: Scene) -> Scene:
    """A scene whose files were looked into."""
    scene.header.code = True
    return scene


def test_the_first_file_that_defines_malloc_serves(looked: Scene) -> None:
    looked.exec()
    looked.library(JEMALLOC)
    holds(looked, JEMALLOC, "jemalloc", version="5.3.0", build_id="cd")
    libc(looked)
    a = looked.mmap(2 << 20, JEMALLOC, flags=0x4022)
    p = looked.exit().process()
    assert (p.allocator.name, p.allocator.version, p.allocator.rule) == (
        "jemalloc", "5.3.0", "not-applicable",
    )  # fmt: skip
    assert p.allocator.build_id == "cd"
    assert p.allocator.evidence == "libjemalloc.so.2 defines malloc, jemalloc (#4)"
    assert p.allocator.own_rule is not None
    assert [x.name for x in p.allocators] == ["jemalloc", "glibc"]
    assert p.allocators[1].own_rule is None
    assert p.allocators[1].build_id == "ab"
    assert p.threshold.low is None
    (r,) = [r for r in p.regions if r.start == a]
    assert (r.kind, r.owner, r.verdict, r.reason) == (
        "runtime-heap", "jemalloc", "not-applicable", "other-allocator",
    )  # fmt: skip


def test_a_library_that_the_loader_finds_after_the_c_library_does_not_serve(looked: Scene) -> None:
    looked.exec()
    libc(looked)
    looked.library(JEMALLOC)
    holds(looked, JEMALLOC, "jemalloc")
    looked.brk(0x21000)
    p = looked.exit().process()
    assert (p.allocator.name, p.allocator.rule) == ("glibc", "mmap-threshold")
    assert [x.name for x in p.allocators] == ["glibc"]
    assert [(s.verdict, s.reason) for s in p.heap.steps] == [("holds", None)]


def test_the_same_by_its_name_where_nobody_looked_into_it(scene: Scene) -> None:
    scene.glibc()
    scene.library(JEMALLOC)
    scene.brk(0x21000)
    p = scene.exit().process()
    assert p.allocator.name == "glibc"


def test_a_dlopen_replaces_nothing(looked: Scene) -> None:
    looked.exec()
    libc(looked)
    looked.brk(0x21000)
    looked.library(JEMALLOC)
    holds(looked, JEMALLOC, "jemalloc")
    assert looked.exit().process().allocator.name == "glibc"


def test_a_name_alone_proves_nothing_where_files_were_looked_into(looked: Scene) -> None:
    looked.exec()
    looked.library(JEMALLOC)
    libc(looked)
    a = looked.mmap(CHUNK, JEMALLOC)
    p = looked.exit().process()
    assert p.allocator.name == "glibc"
    (r,) = [r for r in p.regions if r.start == a]
    assert (r.kind, r.owner) == ("anon", None)


def test_the_name_of_a_file_that_could_not_be_read_must_tell(looked: Scene) -> None:
    looked.exec()
    looked.library(JEMALLOC)
    holds(looked, JEMALLOC, malloc=False, how="", read=False)
    libc(looked)
    a = looked.mmap(CHUNK, JEMALLOC)
    p = looked.exit().process()
    assert (p.allocator.name, p.allocator.rule) == ("jemalloc", "not-applicable")
    (r,) = [r for r in p.regions if r.start == a]
    assert (r.kind, r.owner) == ("runtime-heap", "jemalloc")


def test_what_could_not_be_read_and_has_no_known_name_says_nothing(looked: Scene) -> None:
    looked.exec()
    looked.library("/lib/libany.so")
    holds(looked, "/lib/libany.so", malloc=False, how="", read=False)
    libc(looked)
    looked.brk(0x21000)
    p = looked.exit().process()
    assert p.allocator.name == "glibc"
    assert [x.name for x in p.allocators] == ["glibc"]


def test_a_library_that_passes_all_on_is_not_the_malloc(looked: Scene) -> None:
    """It defines what jemalloc defines, and glibc's malloc does the work."""
    looked.exec()
    looked.library("/lib/liar.so")
    holds(looked, "/lib/liar.so", "jemalloc")
    libc(looked)
    p = looked.process()
    assert p.allocator.name == "unknown"
    assert p.allocator.evidence == "liar.so defines malloc, jemalloc (#4); it was not seen at work"
    seq = looked.brk(0x21000)
    looked.mmap(CHUNK)
    p = looked.exit().process()
    assert p.allocator.name == "glibc"
    assert p.allocator.evidence.endswith(f"its malloc moves the break (#{seq})")
    assert p.threshold.initial == 131072
    assert p.kinds["malloc-chunk"].count == 1
    assert [x.name for x in p.allocators] == ["glibc"]


def test_a_runtime_is_listed_once_it_is_seen_at_work(looked: Scene) -> None:
    jvm = "/lib/libjvm.so"
    looked.exec()
    libc(looked)
    looked.brk(0x21000)
    looked.library(jvm)
    holds(looked, jvm, "jvm", malloc=False)
    assert [x.name for x in looked.process().allocators] == ["glibc"]
    looked.mmap(1 << 30, jvm, prot=0)
    p = looked.exit().process()
    assert [x.name for x in p.allocators] == ["glibc", "jvm"]
    assert p.allocator.name == "glibc"


def test_a_header_shows_that_it_passes_all_on(looked: Scene) -> None:
    looked.exec()
    looked.library("/lib/liar.so")
    holds(looked, "/lib/liar.so", "mimalloc")
    libc(looked)
    looked.mmap(CHUNK)
    born = looked.seq
    looked.seen(born, CHUNK | 2).brk(0x21000)
    p = looked.exit().process()
    assert p.allocator.name == "glibc"
    (r,) = [r for r in p.regions if r.born_seq == born]
    assert (r.kind, r.evidence) == ("malloc-chunk", "header")


def test_two_mallocs_at_work_are_not_decided_between(looked: Scene) -> None:
    looked.exec()
    looked.library(JEMALLOC)
    holds(looked, JEMALLOC, "jemalloc")
    libc(looked)
    looked.brk(0x21000)
    looked.mmap(2 << 20, JEMALLOC, flags=0x4022)
    p = looked.exit().process()
    assert (p.allocator.name, p.allocator.rule) == ("unknown", None)
    assert "jemalloc" in p.allocator.evidence
    assert "glibc" in p.allocator.evidence
    assert p.threshold.low is None


def test_a_malloc_of_nobody_known_leaves_it_open(looked: Scene) -> None:
    looked.exec()
    looked.library("/lib/wrapper.so")
    holds(looked, "/lib/wrapper.so")
    libc(looked)
    p = looked.process()
    assert (p.allocator.name, p.allocator.rule) == ("unknown", None)
    assert p.allocator.evidence == "wrapper.so defines malloc (#4)"
    looked.brk(0x21000)
    assert looked.exit().process().allocator.name == "glibc"


def test_code_within_the_program_may_be_the_caller_or_not(looked: Scene) -> None:
    looked.exec()
    holds(looked, EXE, "jemalloc", malloc=False, how='holds the text "<jemalloc>:"')
    libc(looked)
    looked.mmap(2 << 20, "program")
    p, r = looked.process(), looked.region(looked.seq)
    assert p.allocator.name == "glibc"
    assert [x.name for x in p.allocators] == ["glibc"]  # jemalloc's code is there: no more
    assert (r.kind, r.candidates, r.verdict) == ("unknown", ["runtime-heap", "anon"], "unknown")


def test_a_program_that_defines_malloc_is_searched_first(looked: Scene) -> None:
    looked.exec()
    holds(looked, EXE, "tcmalloc")
    looked.library(JEMALLOC)
    holds(looked, JEMALLOC, "jemalloc")
    libc(looked)
    looked.mmap(2 << 20, "program")
    assert looked.exit().process().allocator.name == "tcmalloc"


def test_musl_is_mapped_first_and_searched_last(looked: Scene) -> None:
    maps = [line.replace(LD, MUSL) for line in MAPS]
    looked.exec(maps=maps)
    libc(looked, "musl", MUSL, "1.2.3")
    p = looked.process()
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")
    looked.mmap(200020, f"raw {MUSL}")
    r = looked.region(looked.seq)
    assert (r.kind, r.candidates) == ("unknown", ["runtime-heap", "anon"])
    looked.library(JEMALLOC)
    holds(looked, JEMALLOC, "jemalloc")
    looked.mmap(2 << 20, f"raw {MUSL}")
    p = looked.exit().process()
    assert p.allocator.name == "unknown"  # musl's wrappers do not tell who called
    assert p.allocator.evidence.startswith("libjemalloc.so.2 defines malloc")


def test_a_dlopen_of_musls_replaces_nothing(looked: Scene) -> None:
    looked.exec(maps=[line.replace(LD, MUSL) for line in MAPS])
    libc(looked, "musl", MUSL, "1.2.3")
    looked.call("mprotect", [0x402000, 4096, 1], 0, by=f"raw {MUSL}")  # RELRO: all is loaded
    looked.library(JEMALLOC)
    holds(looked, JEMALLOC, "jemalloc")
    assert looked.exit().process().allocator.name == "musl"


def test_the_c_library_that_a_static_program_opens_does_not_serve_it(looked: Scene) -> None:
    looked.exec(maps=ALONE)
    looked.brk(0x21000, by="inline")
    libc(looked)
    assert looked.exit().process().allocator.name == "unknown"


def test_what_a_static_program_holds_serves(looked: Scene) -> None:
    looked.exec(maps=ALONE)
    holds(looked, EXE, "glibc", malloc=False, how='holds the text "malloc(): corrupted top size"')
    p = looked.exit().process()
    assert (p.allocator.name, p.allocator.version, p.allocator.rule) == (
        "glibc", None, "mmap-threshold",
    )  # fmt: skip


def test_a_dlopen_by_a_static_program_brings_a_guest(looked: Scene) -> None:
    """What the guest frees moves its own threshold, and not the program's."""
    looked.exec(maps=ALONE)
    holds(looked, EXE, "glibc", malloc=False, how='holds the text "malloc(): corrupted top size"')
    looked.brk(0x21000, by="inline")
    libc(looked)
    a = looked.mmap(5001216)
    looked.seen(looked.seq, 5001218).munmap(a, 5001216)
    looked.mmap(303104, "inline")
    born = looked.seq
    looked.seen(born, 303106).mmap(8192, "inline")
    p = looked.exit().process()
    assert [x.name for x in p.allocators] == ["glibc", "glibc"]
    assert (p.threshold.low, p.threshold.high) == (131072, 131072)
    inner = p.allocators[1].threshold
    assert inner is not None
    assert (inner.low, inner.high) == (5001216, 5001216)
    (r,) = [r for r in p.regions if r.born_seq == born]
    assert (r.kind, r.verdict) == ("malloc-chunk", "holds")


def test_the_chunk_of_a_guest_does_not_tell_whose_malloc_serves(looked: Scene) -> None:
    """The program has a malloc of its own, and dlmopen has brought a second glibc that is used."""
    looked.exec()
    holds(looked, EXE)
    libc(looked)
    libc(looked, path="/opt/libc.so.6")
    a = looked.mmap(CHUNK, "raw /opt/libc.so.6")
    looked.seen(looked.seq, CHUNK | 2).munmap(a, CHUNK, "program")
    looked.brk(0x21000)
    p = looked.exit().process()
    assert (p.allocator.name, p.allocator.rule) == ("unknown", None)
    assert p.threshold.low is None
    (r,) = [r for r in p.regions if r.start == a]
    assert (r.kind, r.verdict) == ("malloc-chunk", "unknown")
    # A guest of before 2.33 moves the break itself: that is held against nothing.
    assert [(s.role, s.verdict) for s in p.heap.steps] == [("unknown", "unknown")]


@pytest.mark.parametrize("name", ["v8", "pymalloc", "jvm"])
def test_a_runtime_is_no_malloc(looked: Scene, name: str) -> None:
    """A program that holds a runtime may define malloc besides: that is not the runtime's."""
    exe = {"v8": "/bin/node", "pymalloc": "/bin/python3.9", "jvm": "/bin/libjvm.so"}[name]
    looked.exec(exe=exe, maps=[line.replace(EXE, exe) for line in MAPS])
    holds(looked, exe, name)
    libc(looked)
    looked.mmap(1 << 20, exe)
    p, r = looked.process(), looked.region(looked.seq)
    assert (p.allocator.name, p.allocator.rule) == ("unknown", None)
    assert p.allocator.evidence.endswith("defines malloc (#2)")
    assert (r.kind, r.candidates) == ("unknown", ["runtime-heap", "anon"])


# -- Go -----------------------------------------------------------------------------------------


def go(scene: Scene) -> Scene:
    scene.exec(maps=ALONE)
    holds(scene, EXE, "go", malloc=False, how="holds Go's build information", version="1.19.8")
    return scene


def test_gos_runtime_is_known_by_the_place_that_reserves_its_first_arena(looked: Scene) -> None:
    go(looked)
    first, second = looked.mmap(262144, "inline"), looked.mmap(131072, "inline", prot=0)
    assert {r.kind for r in looked.process().regions if r.start in (first, second)} == {"unknown"}
    arena = looked.mmap(64 << 20, "inline", prot=0, at=0xC000000000, ret=0xC000000000)
    opened = looked.mmap(
        4 << 20, "inline", flags=0x32, at=0xC000000000, ret=0xC000000000
    )  # the same place, MAP_FIXED
    p = looked.exit().process()
    assert (p.allocator.name, p.allocator.version) == ("go", "1.19.8")
    found = {(r.start, r.kind, r.owner, r.evidence) for r in p.regions if r.kind == "runtime-heap"}
    assert {(first, "runtime-heap", "go", "sequence"), (second, "runtime-heap", "go", "sequence")} \
        <= found  # fmt: skip
    assert (arena, opened) == (0xC000000000, 0xC000000000)
    assert len(found) == 4


def test_a_forked_child_of_a_go_program_has_the_same_runtime(looked: Scene) -> None:
    go(looked)
    looked.mmap(64 << 20, "inline", prot=0, at=0xC000000000, ret=0xC000000000)
    looked.fork(2).as_(2, 2)
    looked.mmap(262144, "inline")
    (r,) = [r for r in looked.process(1).regions if r.born_seq == looked.seq]
    assert (r.kind, r.owner) == ("runtime-heap", "go")


def test_what_a_go_program_maps_elsewhere_is_its_own(looked: Scene) -> None:
    go(looked)
    looked.mmap(64 << 20, "inline", prot=0, at=0xC000000000, ret=0xC000000000)
    looked.mmap(8192, "thread")  # another place
    r = looked.region(looked.seq)
    assert r.kind != "runtime-heap"


# -- names --------------------------------------------------------------------------------------


def name(scene: Scene, address: int, length: int, text: str, ret: int = -22) -> int:
    return scene.call(
        "prctl", [PR_SET_VMA, 0, address, length, 0x1234], ret, by="program", ext=Ext(name=text)
    )


@pytest.mark.parametrize(
    ("text", "kind", "owner"),
    [
        ("mimalloc", "runtime-heap", "mimalloc"),
        ("Go: heap", "runtime-heap", "go"),
        ("tcmalloc_region_NORMAL", "runtime-heap", "google-tcmalloc"),
        ("jemalloc_pg", "runtime-heap", "jemalloc"),
        ("my pool", "anon", None),
    ],
)
def test_a_name_is_evidence_even_if_the_kernel_refuses_it(
    looked: Scene, text: str, kind: str, owner: str | None
) -> None:
    looked.exec()
    libc(looked)
    a = looked.mmap(1 << 30, "program")
    born = looked.seq
    name(looked, a, 1 << 30, text)
    p = looked.exit().process()
    (r,) = [r for r in p.regions if r.born_seq == born]
    assert (r.kind, r.owner) == (kind, owner)
    assert r.verdict == "not-applicable"
    assert p.kinds[kind].count == 1
    assert p.kinds[kind].peak_bytes == 1 << 30


def test_a_name_does_not_outweigh_a_header(looked: Scene) -> None:
    looked.exec()
    libc(looked)
    a = looked.mmap(CHUNK)
    born = looked.seq
    looked.seen(born, CHUNK | 2)
    name(looked, a, CHUNK, "mimalloc")
    (r,) = [r for r in looked.exit().process().regions if r.born_seq == born]
    assert (r.kind, r.evidence) == ("malloc-chunk", "header")


def test_gos_runtime_in_a_library(looked: Scene) -> None:
    looked.exec()
    libc(looked)
    looked.brk(0x21000)
    looked.library("/lib/libgo.so")
    holds(looked, "/lib/libgo.so", "go", malloc=False, how="has a Go build ID")
    looked.mmap(64 << 20, "/lib/libgo.so", prot=0, at=0xC000000000, ret=0xC000000000)
    r = looked.region(looked.seq)
    assert (r.kind, r.owner, r.verdict) == ("runtime-heap", "go", "not-applicable")
    assert [x.name for x in looked.process().allocators] == ["glibc", "go"]


# -- attach -------------------------------------------------------------------------------------


def library_lines(path: str, base: int, inode: int) -> list[str]:
    return [
        f"{base:x}-{base + 0x26000:x} r--p 00000000 fe:00 {inode} {path}",
        f"{base + 0x26000:x}-{base + 0x126000:x} r-xp 00026000 fe:00 {inode} {path}",
    ]


@pytest.mark.parametrize("before", [True, False])
def test_an_attach_leaves_it_open_until_one_is_at_work(looked: Scene, *, before: bool) -> None:
    base = 0x7FD000000000 if before else 0x7FE800000000
    looked.attach(library_lines(JEMALLOC, base, 9))
    holds(looked, JEMALLOC, "jemalloc")
    p = looked.process()
    assert (p.allocator.name, p.allocator.rule) == ("unknown", None)
    assert p.threshold.low is None
    looked.mmap(2 << 20, JEMALLOC, flags=0x4022)
    assert looked.process().allocator.name == "jemalloc"


def test_what_ld_preload_names_is_known_at_an_attach(looked: Scene) -> None:
    looked.attach(library_lines(JEMALLOC, 0x7FE800000000, 9), env={"LD_PRELOAD": JEMALLOC})
    holds(looked, JEMALLOC, "jemalloc")
    assert looked.process().allocator.name == "unknown"  # it may pass all on
    looked.munmap(0x7FE800000000, 4096, JEMALLOC)
    assert looked.process().allocator.name == "jemalloc"


def test_a_dlopen_after_an_attach_leaves_glibc_at_work(looked: Scene) -> None:
    looked.attach([])
    looked.mmap(8192, "program")
    looked.library(JEMALLOC)
    holds(looked, JEMALLOC, "jemalloc")
    assert looked.process().allocator.name == "glibc"


def test_an_attach_to_a_static_program_that_has_opened_a_c_library(looked: Scene) -> None:
    """The loader that is mapped came with it, and serves nobody else."""
    looked.attach([])
    holds(looked, EXE, "glibc", malloc=False, how='holds the text "malloc(): corrupted top size"')
    looked.mmap(303104, "inline")
    born = looked.seq
    looked.seen(born, 303106).mmap(5001216)
    a = looked.top
    looked.seen(looked.seq, 5001218).munmap(a, 5001216)
    p = looked.exit().process()
    assert p.allocator.evidence.startswith("prog holds the text")
    assert (p.threshold.low, p.threshold.fixed_by) == (131072, None)
    assert "contradiction" not in {r.verdict for r in p.regions}
    (r,) = [r for r in p.regions if r.born_seq == born]
    assert r.kind == "malloc-chunk"


def test_an_attach_lists_a_static_programs_malloc_once(looked: Scene) -> None:
    chunk = 0x7FD000000000
    lines = [f"{chunk:x}-{chunk + CHUNK:x} rw-p 00000000 00:00 0"]
    looked.attach(lines, chunks=[(chunk, CHUNK | 2)], libc="")
    looked.records[0].maps[:] = [*ALONE, *lines]  # type: ignore[union-attr]
    holds(looked, EXE, "glibc", malloc=False, how='holds the text "malloc(): corrupted top size"')
    p = looked.exit().process()
    assert [x.evidence for x in p.allocators] == [p.allocator.evidence]
    assert p.allocator.evidence.startswith("prog holds")


@pytest.mark.parametrize("path", [MUSL, "/usr/lib/x86_64-linux-musl/libc.so"])
def test_an_attach_knows_musl_under_any_name(looked: Scene, path: str) -> None:
    looked.attach([], libc="", exe=EXE)
    looked.records[0].maps[:] = [  # type: ignore[union-attr]
        line.replace(LD, path)
        for line in looked.records[0].maps  # type: ignore[union-attr]
    ]
    libc(looked, "musl", path, "1.2.3")
    p = looked.exit().process()
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")


def test_the_break_of_a_malloc_that_nobody_knows_is_not_called_foreign(looked: Scene) -> None:
    # LD_PRELOAD=mine.so: its malloc calls sbrk; any other library's sbrk is not malloc's
    looked.header.frames = True
    looked.exec()
    looked.library("/lib/mine.so")
    holds(looked, "/lib/mine.so")
    libc(looked)
    looked.brk(0x1000, by="sbrk of /lib/mine.so")
    looked.brk(0x1000, by="sbrk")
    p = looked.exit().process()
    assert [(s.role, s.verdict) for s in p.heap.steps] == [
        ("unknown", "unknown"), ("foreign-sbrk", "not-applicable"),
    ]  # fmt: skip
