# SPDX-License-Identifier: GPL-2.0-or-later
"""What each step of the heap was for, and what it proves of the chunk that malloc was asked for.

The bounds hold the true chunk, and are as narrow as the rule allows: a growth is rounded to a page,
and at least `MINSIZE` bytes of the old top went into it (`sysmalloc`), at most what was left of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.live.driving import Drive, Driven, driver
from tests.live.tracing import Traced
from tests.live.truth import MINSIZE, TCACHE, chunk_size

T = 131072
PAGE = 4096
#: Operations, environment, the roles of the steps, and the chunk of each growth.
CASES: dict[str, tuple[str, dict[str, str], list[str], list[int]]] = {
    "1": ("m131048", {}, ["first-heap"], [TCACHE]),
    "2": ("m100000 m131048", {}, ["first-heap", "growth"], [TCACHE, chunk_size(131048)]),
    "4": ("m131049", {}, ["first-heap"], [TCACHE]),
    "5": (
        "m100000 m131049 f1 m131049 m135144 m135145", {}, ["first-heap", "growth", "growth"],
        [TCACHE, chunk_size(131049), chunk_size(135144)],
    ),
    "6": (
        "n10,100000 m1 F0,9 m200000 m400000 m600000", {}, ["first-heap", *5 * ["growth"]],
        [TCACHE, *5 * [chunk_size(100000)]],
    ),
    "7": ("m1 m200000 f1 m200000", {"MALLOC_TOP_PAD_": "0"}, ["first-heap"], [TCACHE]),
    "8": (
        "m100000 m1000000 f1", {"MALLOC_MMAP_MAX_": "0"}, ["first-heap", "growth", "shrink"],
        [TCACHE, chunk_size(1000000)],
    ),
    "11": (
        "n400,1000 F0,399", {}, ["first-heap", "growth", "growth", "shrink"],
        [TCACHE, chunk_size(1000), chunk_size(1000)],
    ),
    "13": (
        "n40,100000 m24 F0,39 t0", {}, ["first-heap", *20 * ["growth"], "shrink"],
        [TCACHE, *20 * [chunk_size(100000)]],
    ),
    "14": (
        "m100000 s4096 m100000", {}, ["first-heap", "foreign-sbrk", "growth", "alignment"],
        [TCACHE, chunk_size(100000)],
    ),
    "no tcache": (
        "m100000 m100000", {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"},
        ["first-heap", "growth"], [TCACHE, chunk_size(100000)],
    ),
    "trim to a pad": (
        "n10,100000 F0,9 t4096", {}, ["first-heap", *5 * ["growth"], "shrink", "shrink"],
        [TCACHE, *5 * [chunk_size(100000)]],
    ),
    "realloc": (
        "m1000 m1000 r0,120000 r1,125000", {}, ["first-heap", "growth"],
        [TCACHE, chunk_size(125000)],
    ),
    "calloc": ("m100000 c120000", {}, ["first-heap", "growth"], [TCACHE, chunk_size(120000)]),
}  # fmt: skip


def ledger(d: Driven) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = d.rows[0]["heap"]["steps"]
    return steps


@pytest.mark.parametrize("case", CASES)
def test_each_step_has_its_role(drv: Drive, case: str) -> None:
    ops, env, roles, _ = CASES[case]
    assert [s["role"] for s in ledger(drv(ops, env=env))] == roles


@pytest.mark.parametrize("case", CASES)
def test_each_growth_bounds_the_chunk_that_it_was_for(drv: Drive, case: str) -> None:
    ops, env, _, sizes = CASES[case]
    steps = ledger(drv(ops, env=env))
    assert all((s["chunk"] is None) == (s["role"] not in ("first-heap", "growth")) for s in steps)
    found = [s["chunk"] for s in steps if s["chunk"] is not None]
    assert len(found) == len(sizes)
    for bounds, size in zip(found, sizes, strict=True):
        assert bounds["min"] <= size <= bounds["max"]


def test_malloc_trim_is_seen_giving_pages_back(drv: Drive) -> None:
    d = drv("n40,100000 m24 F0,39 t0")
    assert d.rows[0]["heap"]["malloc_trims"] == 1
    assert [s["after_malloc_trim"] for s in ledger(d)] == [*21 * [False], True]


def test_a_shrink_that_free_would_not_have_made_says_so(drv: Drive) -> None:
    steps = ledger(drv("n10,100000 F0,9 t4096"))
    assert [s["reason"] for s in steps[-2:]] == ["trim", "malloc-trim-or-mallopt"]


def test_the_bounds_are_those_of_the_rule(drv: Drive) -> None:
    first, second = ledger(drv("m100000 m131048"))
    # The first heap: align(nb + top_pad + MINSIZE, page), of nothing.
    assert first["chunk"]["max"] == 0x21000 - T - MINSIZE
    assert second["chunk"]["min"] >= 0x38000 - PAGE - T - MINSIZE + MINSIZE
    assert second["chunk"]["min"] > 94208
    assert second["chunk"]["max"] < T


def test_below_a_fixed_threshold_the_bounds_are_below_it(drv: Drive) -> None:
    env = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    steps = ledger(drv("n8,60000", env=env))
    assert [s["role"] for s in steps] == ["first-heap", "growth", "growth"]
    for s in steps[1:]:
        assert s["chunk"]["min"] <= chunk_size(60000) <= s["chunk"]["max"] < 65536


def test_a_refused_growth_says_what_was_in_the_way_and_how_far(drv: Drive) -> None:
    d = drv("m100000 brkfail m100000")
    first, refused = ledger(d)
    assert (first["role"], refused["role"]) == ("first-heap", "refused")
    assert (refused["delta"], refused["cause"]) == (0, "next-mapping")
    told = d.traced.told("op")[1]
    assert told["op"] == "brkfail"
    assert refused["end"] == told["ptr"]  # right above the break
    assert refused["asked"] - refused["end"] == 0x31000


@pytest.mark.parametrize("ops", ["m100000 d200000 m120000", "m100000 v65536 m120000"])
def test_a_limit_that_the_program_has_set_itself_is_only_a_candidate(drv: Drive, ops: str) -> None:
    first, refused, *_ = ledger(drv(ops))
    assert (first["role"], refused["role"], refused["cause"]) == ("first-heap", "refused", None)
    assert {"RLIMIT_DATA", "RLIMIT_AS"} <= set(refused["candidates"])


@pytest.mark.parametrize(("option", "cause"), [("-d", "RLIMIT_DATA"), ("-v", "RLIMIT_AS")])
def test_a_limit_that_was_there_before_is_the_cause(
    run: Callable[..., Traced], option: str, cause: str
) -> None:
    shell = f'ulimit {option} $0; exec "$@"'
    refused: list[dict[str, Any]] = []
    for kib in range(800, 40_000, 400):  # what a program needs to begin with is the system's
        done = run("/bin/sh", "-c", shell, str(kib), driver(), "n90,100000")
        if done.returncode == 0:
            refused = [s for s in Driven(done).rows[-1]["heap"]["steps"] if s["role"] == "refused"]
            break
    assert refused
    assert {s["cause"] for s in refused} == {cause}
    assert all(s["room"] > s["asked"] - s["end"] for s in refused)
    assert not any(s["candidates"] for s in refused)
