# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel is asked to page in as it is mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

POPULATE, LOCKED, NONBLOCK = 0x8000, 0x2000, 0x10000


@pytest.mark.parametrize(
    ("flags", "prot", "there"),
    [
        (0, 3, False),
        (POPULATE, 3, True),
        (POPULATE | NONBLOCK, 3, False),
        (LOCKED, 3, True),
        (POPULATE, 0, False),
        (LOCKED, 0, False),
    ],
)
def test_flags_that_ask_for_pages(scene: Scene, flags: int, prot: int, *, there: bool) -> None:
    scene.glibc()
    scene.mmap(40960, "program", prot=prot, flags=0x22 | flags)
    assert scene.region(scene.seq).populated is there


@pytest.mark.parametrize(
    ("flags", "ret", "there"),
    [(2, 0, True), (3, 0, True), (1, 0, False), (2 | 4, 0, False), (2, -12, False)],
)
def test_mlockall_of_what_is_to_come(scene: Scene, flags: int, ret: int, *, there: bool) -> None:
    scene.glibc()
    scene.mmap(40960, "program")
    before = scene.seq
    scene.call("mlockall", [flags], ret)
    scene.mmap(40960, "program")
    after = scene.seq
    scene.call("munlockall", [], 0)
    scene.mmap(40960, "program")
    seen = [scene.region(seq).populated for seq in (before, after, scene.seq)]
    assert seen == [False, there, False]


def test_of_what_no_mmap_made_it_is_not_known(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    assert scene.region(scene.seq).populated is None
