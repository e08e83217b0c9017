# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes, versions and places right at where a rule changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.conftest import LD, LIBC, MAPS

from memtrace.trace.records import Allocator, Libc

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

MIB = 1 << 20
CHUNK = 135168
MUSL = "/lib/ld-musl-x86_64.so.1"


# -- a chunk and the threshold ------------------------------------------------------------------


def verdict_of(scene: Scene, length: int) -> str:
    """Of a mapping with a header."""
    scene.mmap(length)
    born = scene.seq
    scene.seen(born, length | 2).mmap(8192, "program")
    return scene.region(born).verdict


@pytest.mark.parametrize(("threshold", "verdict"), [(135152, "holds"), (135153, "contradiction")])
def test_a_chunk_of_just_the_threshold_is_mapped(
    scene: Scene, threshold: int, verdict: str
) -> None:
    """`sysmalloc` maps where nb >= T; the largest chunk of this mapping has 135,152 bytes."""
    scene.glibc(env={"MALLOC_MMAP_THRESHOLD_": str(threshold)}).brk(0x21000)
    assert verdict_of(scene, CHUNK) == verdict


@pytest.mark.parametrize(
    ("length", "verdict"), [(32 * MIB, "contradiction"), (32 * MIB + 4096, "unknown")]
)
def test_what_no_heap_of_an_arena_may_hold_is_mapped_wherever_the_threshold_stands(
    scene: Scene, length: int, verdict: str
) -> None:
    scene.glibc(env={"MALLOC_MMAP_THRESHOLD_": str(100 * MIB)}).brk(0x21000)
    assert verdict_of(scene, length) == verdict


# -- what has a shape ---------------------------------------------------------------------------


def test_64_mib_without_a_hint_are_no_arenas_reservation(scene: Scene) -> None:
    """`alloc_new_heap` asks for 64 MiB only where it hopes for an aligned place."""
    scene.glibc().brk(0x21000)
    scene.mmap(64 * MIB, prot=0)
    assert scene.region(scene.seq).kind == "unknown"
    scene.mmap(64 * MIB, prot=0, at=0x7E8000000000, ret=0x7E8000000000)
    assert scene.region(scene.seq).kind == "arena"


def test_a_length_that_is_no_multiple_of_a_page_is_not_mallocs(scene: Scene) -> None:
    scene.glibc().brk(0x21000)
    scene.mmap(CHUNK - 1)
    r = scene.region(scene.seq)
    assert (r.kind, r.candidates, r.request) == ("unknown", [], None)


@pytest.mark.parametrize(("version", "kind"), [("2.22", "unknown"), ("2.23", "malloc-chunk")])
def test_stdio_maps_its_buffers_itself_before_2_23(scene: Scene, version: str, kind: str) -> None:
    scene.glibc(version).brk(0x21000)
    scene.mmap(CHUNK)
    assert scene.region(scene.seq).kind == kind


@pytest.mark.parametrize(
    ("length", "prot", "flags", "kind"),
    [
        (MIB, 3, 0x22, "runtime-heap"),
        (256 << 10, 3, 0x22, "runtime-heap"),
        (MIB + 4096, 3, 0x22, "anon"),
        (MIB, 1, 0x22, "anon"),
        (MIB, 3, 0x4022, "anon"),
    ],
)
def test_pythons_arenas_have_one_shape(
    scene: Scene, length: int, prot: int, flags: int, kind: str
) -> None:
    scene.header.code = True
    python = "/lib/libpython3.11.so.1.0"
    scene.glibc().library(python)
    how = "defines PyObject_Malloc"
    scene.life(Allocator(t=scene.seq * 1000, mm=1, path=python, name="pymalloc", how=how))
    scene.brk(0x21000)
    scene.mmap(length, python, prot=prot, flags=flags)
    assert scene.region(scene.seq).kind == kind


# -- who calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("direct", "kind"), [(False, "unknown"), (True, "malloc-chunk")])
def test_a_return_address_in_libc_that_no_call_precedes_tells_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, direct: bool, kind: str
) -> None:
    """A function that ended in a jump to mmap leaves its caller's return address."""
    scene.glibc().brk(0x21000)
    ip, ret = (("fe:00", 3, LIBC, offset) for offset in (0x100, 0xB00))
    _, site = scene.names.site(ip, ret, None, direct=direct)
    monkeypatch.setattr(scene, "_site", lambda _: site)
    scene.mmap(CHUNK)
    assert scene.region(scene.seq).kind == kind


def test_musls_text_maps_no_chunks(scene: Scene) -> None:
    """Whoever's malloc serves: none of it is glibc's."""
    scene.header.code = True
    scene.exec(maps=[line.replace(LD, MUSL) for line in MAPS])
    scene.life(Libc(t=1000, mm=1, path=MUSL, name="musl", version="1.2.3"))
    scene.library("/lib/own.so")
    scene.life(Allocator(t=scene.seq * 1000, mm=1, path="/lib/own.so", malloc=True))
    scene.mmap(CHUNK, f"raw {MUSL}")
    r = scene.region(scene.seq)
    assert scene.process().allocator.name == "unknown"
    assert (r.kind, r.candidates) == ("unknown", ["runtime-heap", "anon"])


# -- copies of glibc ----------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "kind"), [("2.33", "main-arena"), ("2.32", "unknown")])
def test_a_guest_leaves_the_break_alone_since_2_33(scene: Scene, version: str, kind: str) -> None:
    other = "/opt/libc.so.6"
    scene.glibc().brk(0x21000)
    scene.library(other)
    scene.life(Libc(t=10**6, mm=1, path=other, version=version))
    scene.mmap(MIB, f"raw {other}")
    born = scene.seq
    scene.seen(born, 0).mmap(8192, "program")
    assert scene.region(born).kind == kind


def test_an_attach_that_finds_two_copies_does_not_know_the_programs(scene: Scene) -> None:
    other = "/opt/libc.so.6"
    scene.attach([
        f"7fd000000000-7fd000026000 r--p 00000000 fe:00 9 {other}",
        f"7fd000026000-7fd000126000 r-xp 00026000 fe:00 9 {other}",
    ])  # fmt: skip
    scene.life(Libc(t=10**6, mm=1, path=other, version="2.36"))
    a = scene.mmap(5001216)
    scene.seen(scene.seq, 5001218).munmap(a, 5001216)
    p = scene.exit().process()
    # Either may have been the one that the program uses.
    assert p.threshold.low == 131072
    assert "freed-chunk" not in {m.cause for m in p.threshold.history}
