# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report says of what was inside malloc's heaps: only what the walks prove."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.conftest import Scene
from tests.unit.malloc.test_walks import BROKEN, HEAP, PARTLY, arena, walk
from tests.unit.report.test_report import checked_text, validated

from memtrace.trace.records import WalkedHeap


def said(scene: Scene) -> str:
    """The section, as one line."""
    validated(scene.report())
    text = checked_text(scene.report())
    _, found, rest = text.partition("\ninside the heap")
    return (
        " ".join(rest.partition("\n\n\n")[0].partition("\nmmap threshold")[0].split())
        if found
        else ""
    )


def walked(scene: Scene, *heaps: WalkedHeap, **fields: Any) -> str:
    scene.glibc()
    scene.life(walk(*heaps, **{"why": "exit", "still": True, **fields}))
    scene.exit()
    return said(scene)


def test_without_a_walk_there_is_no_section(scene: Scene) -> None:
    scene.glibc().exit()
    assert said(scene) == ""
    (process,) = validated(scene.report())["processes"]
    assert (process["walks"], process["walks_total"]) == ([], 0)
    assert "(--heap-walk tells it of the heaps of glibc's malloc)" in " ".join(
        checked_text(scene.report()).split()
    )


def test_a_pinned_heap(scene: Scene) -> None:
    text = walked(scene, HEAP)
    assert "at exit, #" in text
    assert "heap 64 KiB 4 KiB 56 KiB 4 KiB 64 KiB" in text
    assert (
        "the heap does not shrink below 0x1f000, where its top begins, as long as the chunk right "
        "below, of 32 B at 0x1efe0, counts as used; right below that 56 KiB are free; of the whole "
        "heap 87 % are free below the top" in text
    )
    assert "52 KiB of that are whole pages in memory" in text
    assert "other threads ran" not in text
    assert "--heap-walk tells it" not in checked_text(scene.report())


def test_the_json_of_it(scene: Scene) -> None:
    walked(scene, HEAP, arena(1, 3))
    (process,) = validated(scene.report())["processes"]
    (w,) = process["walks"]
    assert (w["why"], w["still"], w["heaps_total"]) == ("exit", True, 2)
    assert (w["used_bytes"], w["free_bytes"], w["top_bytes"]) == (0x1000 + 0x3000, 0xE000, 0x1000)
    assert w["heaps"][0]["pin"] == {"address": 0x1EFE0, "bytes": 32}
    assert w["heaps"][0]["top"] == {"address": 0x1F000, "bytes": 0x1000}
    assert w["heaps"][1]["top"] is None


@pytest.mark.parametrize(
    ("heap", "statement"),
    [
        (BROKEN, "the arena's heap at 4000000 was not walked to the end: no chunk there"),
        (PARTLY, "of its first 64 KiB, 4 KiB were used and 56 KiB free"),
        (replace(HEAP, searched=True), "where its first chunk lies was found by a search"),
        (replace(HEAP, other=0x800, used=0x800), "2 KiB of it are no chunk of malloc's"),
        (replace(HEAP, free_resident=0), "no whole page of that is in memory"),
        (
            replace(HEAP, top=None, pin=None, below_pin=None, other=0x1000, top_resident=None),
            "the heap has no top",
        ),
    ],
    ids=["broken", "partly", "searched", "others", "given back", "no top"],
)  # fmt: skip
def test_what_else_is_said(scene: Scene, heap: WalkedHeap, statement: str) -> None:
    assert statement in walked(scene, heap)


def test_a_heap_that_was_not_walked_to_the_end_has_no_numbers(scene: Scene) -> None:
    text = walked(scene, replace(BROKEN, kind="main"))
    assert "heap 4 KiB unknown unknown unknown unknown" in text
    assert "cannot shrink" not in text
    assert "free chunk" not in text.partition("used: chunks")[0]


def test_a_heap_that_is_in_use_is_not_said_to_be_pinned(scene: Scene) -> None:
    full = replace(
        HEAP, used=0xF000 - 0x100, free=0x100, largest_free=0x100, below_pin=0x100, free_resident=0
    )
    assert "cannot shrink" not in walked(scene, full)


def test_threads_that_ran(scene: Scene) -> None:
    assert "the numbers are of no single moment" in walked(scene, HEAP, still=False)


def test_the_peak_is_shown_if_it_was_larger(scene: Scene) -> None:
    scene.glibc()
    large = replace(HEAP, end=0x30000, used=0x11000, walked=0x30000, top=(0x2F000, 0x1000),
                    pin=(0x2EFE0, 32))  # fmt: skip
    scene.life(walk(arena(1, 1), why="peak", still=True))
    scene.life(walk(large, why="peak", still=True))
    scene.life(walk(HEAP, why="exit", still=True))
    scene.exit()
    text = said(scene)
    assert text.index("as the heap grew, #") < text.index("at exit, #")
    assert "heap 128 KiB 68 KiB" in text
    assert text.count("used: chunks the program has") == 1


def test_very_many_arenas(scene: Scene) -> None:
    text = walked(scene, HEAP, *(arena(i, i) for i in range(1, 151)), why="exit")
    assert "arena 258000000 600 KiB" in text
    assert "and 143 smaller heaps of arenas" in text


def test_names_from_the_trace_do_not_reach_the_terminal(scene: Scene) -> None:
    text = walked(scene, replace(BROKEN, problem="\x1b[31mred\nline"), why="\x1b[0m")
    assert "\\x1b[31mred\\nline" in text


def test_a_forked_child_has_walks_of_its_own(scene: Scene) -> None:
    scene.glibc()
    scene.life(walk(HEAP, why="peak"))
    scene.fork(2)
    scene.life(walk(arena(1, 1), why="exit", mm=2, pid=2, tid=2))
    scene.exit()
    first, second = validated(scene.report())["processes"]
    assert [w["heaps"][0]["kind"] for w in first["walks"]] == ["main"]
    assert [w["heaps"][0]["kind"] for w in second["walks"]] == ["arena"]
