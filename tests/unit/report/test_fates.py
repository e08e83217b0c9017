# SPDX-License-Identifier: GPL-2.0-or-later
"""What `memtrace diff` says of each fate that a region can have, to the letter."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from tests.unit.conftest import Scene

from memtrace.cli.diff import command
from memtrace.replay.difference import Extent, Fate, Sum, sums

KIB = 1024
#: Where mappings are moved to.
THERE, BEYOND = 0x7E0000000000, 0x7E1000000000


def said(scene: Scene, one: int, two: int) -> list[str]:
    words = [str(scene.write()), "--at", str(one), "--at", str(two)]
    done = CliRunner().invoke(command, words, catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_every_fate(scene: Scene) -> None:
    """Each has changed by another size, so that the order is known."""
    scene.glibc()
    scene.brk(132 * KIB)
    gone = scene.mmap(64 * KIB, by="program")
    grown = scene.mmap(20 * KIB, by="program")
    shrunk = scene.mmap(100 * KIB, by="program")
    moved = scene.mmap(40 * KIB, by="program")
    protected = scene.mmap(48 * KIB, by="program")
    every = scene.mmap(28 * KIB, by="program")
    scene.mmap(80 * KIB, by="program")  # and one that stays as it is
    before = scene.seq
    scene.munmap(gone, 64 * KIB, by="program")
    scene.call("mremap", [grown, 20 * KIB, 32 * KIB, 0], grown, by="program")
    scene.munmap(shrunk + 8 * KIB, 92 * KIB, by="program")
    scene.call("mremap", [moved, 40 * KIB, 40 * KIB, 3, THERE], THERE, by="program")
    scene.call("mprotect", [protected + 4 * KIB, 36 * KIB, 1], 0, by="program")
    scene.call("mremap", [every, 28 * KIB, 36 * KIB, 3, BEYOND], BEYOND, by="program")
    scene.call("mprotect", [BEYOND, 32 * KIB, 1], 0, by="program")
    born = scene.mmap(16 * KIB, by="program")
    chunk = scene.mmap(200 * KIB)
    scene.brk(-32 * KIB)
    what = f"moved from {every:x}, 24 KiB re-protected"
    assert said(scene, before, scene.seq) == [
        "pid 1   #12 (11.0 us) to #22 (21.0 us)",
        "mapped   2.78 MiB to 2.82 MiB: +48 KiB",
        "",
        "  kind          born           gone           grown  shrunk  re-protected    change",
        "  malloc-chunk     1  200 KiB     -               -       -             -  +200 KiB",
        "  anon             1   16 KiB     1  64 KiB  20 KiB  92 KiB        60 KiB  -120 KiB",
        "  heap             -              -               -  32 KiB             -   -32 KiB",
        "  all                                                                       +48 KiB",
        "",
        "regions, the largest change first",
        f"  +200 KiB  malloc-chunk  {place(chunk, 200)}  rw-p          born",
        f"   -92 KiB  anon          {place(shrunk, 8)}  rw-p          shrunk",
        f"   -64 KiB  anon          {place(gone, 64)}  rw-p          gone",
        f"   -32 KiB  heap          {'1000000-1019000':25}  rw-p          shrunk",
        f"   +16 KiB  anon          {place(born, 16)}  rw-p          born",
        f"   +12 KiB  anon          {place(grown, 32)}  rw-p          grown",
        f"    +8 KiB  anon          {place(BEYOND, 36)}  rw-p to r--p  grown, {what}",
        f"       0 B  anon          {place(protected, 48)}  rw-p to r--p  36 KiB re-protected",
        f"       0 B  anon          {place(THERE, 40)}  rw-p          moved from {moved:x}",
    ]


def place(start: int, kib: int) -> str:
    return f"{start:x}-{start + kib * KIB:x}"


def test_what_came_has_not_been_protected(scene: Scene) -> None:
    """Of pages that were not there before, and of those that went, only the size counts."""
    scene.glibc()
    at = scene.mmap(40 * KIB, by="program")
    scene.call("mprotect", [at, 16 * KIB, 1], 0, by="program")
    before = scene.seq
    scene.munmap(at, 16 * KIB, by="program")
    at += 16 * KIB
    scene.call("mremap", [at, 24 * KIB, 44 * KIB, 0], at, by="program")
    (row,) = said(scene, before, scene.seq)[-1:]
    assert row == f"  +4 KiB  anon  {place(at, 44)}  rw-p  grown, 16 KiB shifted"


def test_what_went_at_one_end_and_came_at_the_other_has_shifted(scene: Scene) -> None:
    """It is as large as before, and a part of it stayed."""
    scene.glibc()
    at = scene.mmap(40 * KIB, by="program")
    before = scene.seq
    scene.munmap(at, 8 * KIB, by="program")
    at += 8 * KIB
    scene.call("mremap", [at, 32 * KIB, 40 * KIB, 0], at, by="program")
    (row,) = said(scene, before, scene.seq)[-1:]
    assert row == f"  0 B  anon  {place(at, 40)}  rw-p  8 KiB shifted"


def test_what_was_moved_out_of_the_middle_has_shifted(scene: Scene) -> None:
    scene.glibc()
    at = scene.mmap(40 * KIB, by="program")
    before = scene.seq
    scene.call("mremap", [at + 8 * KIB, 12 * KIB, 12 * KIB, 3, BEYOND], BEYOND, by="program")
    rows = said(scene, before, scene.seq)
    assert rows[-1].endswith("12 KiB shifted")


def test_the_other_way_round_it_is_the_same(scene: Scene) -> None:
    """The earlier moment comes first, however they are named."""
    scene.glibc()
    scene.mmap(16 * KIB, by="program")
    born = scene.seq
    assert said(scene, born, born - 1) == said(scene, born - 1, born)
    assert said(scene, born, born)[-1] == "no region has changed"


def extent(start: int, size: int) -> Extent:
    return Extent(start, start + size, size, "rw-p", "")


@pytest.mark.parametrize(
    ("fate", "expected"),
    [
        (Fate("anon", None, extent(8, 5)), Sum(born=1, born_bytes=5)),
        (Fate("anon", extent(8, 5), None), Sum(gone=1, gone_bytes=5)),
        (Fate("anon", extent(8, 5), extent(8, 9)), Sum(grown=1, grown_bytes=4)),
        (Fate("anon", extent(8, 5), extent(8, 3)), Sum(shrunk=1, shrunk_bytes=2)),
        (Fate("anon", extent(8, 5), extent(20, 5)), Sum(moved=1)),
        (Fate("anon", extent(20, 5), extent(8, 5)), Sum(moved=1)),
        (Fate("anon", extent(8, 5), extent(12, 5)), Sum()),  # a part of it stays
        (Fate("anon", extent(8, 5), extent(8, 5), 3), Sum(protected=1, protected_bytes=3)),
        (
            Fate("anon", extent(8, 5), extent(20, 6), 2),
            Sum(grown=1, grown_bytes=1, moved=1, protected=1, protected_bytes=2),
        ),
    ],
)
def test_what_counts_as_what(fate: Fate, expected: Sum) -> None:
    assert sums([fate]) == {"anon": expected}
    other = Fate("heap", None, extent(0, 100))
    assert list(sums([fate, other])) == ["heap", "anon"]  # the largest change first
