# SPDX-License-Identifier: GPL-2.0-or-later
"""What other versions of glibc do, from traces recorded once (tests/data/glibc/README.md): the
report says of each what that version does, and nothing that the driver's account beside it denies.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.live.driving import Driven, chunks, moves, of_kind, steps
from tests.live.tracing import Traced, account_of
from tests.live.truth import DEFAULT, TCACHE, Env, check, chunk_size

FOLDER = Path(__file__).parents[2] / "data" / "glibc"
VERSIONS = ("2.31", "2.41", "2.43")
#: What the drivers' environments meant. Up to 2.34 a threshold above 32 MiB is not taken.
HIGH = {v: Env() if v == "2.31" else Env(64 << 20, "environ") for v in VERSIONS}
NEW = "2.43"  # chunk layout; no tcache before it is needed
MAP_NORESERVE, MAP_STACK = 0x4000, 0x20000
MADV_GUARD_INSTALL = 102
ARENA = 64 << 20
every = pytest.mark.parametrize("version", VERSIONS)


def stored(version: str, name: str) -> Driven:
    path = FOLDER / f"{version}-{name}.json.gz"
    d = Driven(Traced(path, 0, b"", "", account_of(FOLDER / f"{version}-{name}.account")))
    a = d.process.allocator
    assert (a.name, a.version, a.rule) == ("glibc", version, "mmap-threshold")
    return d


def names() -> list[str]:
    return sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))


def raised(version: str, size: int) -> list[tuple[int | None, int | None, str]]:
    """The move that the free of a chunk makes. In 2.31 free ends in a jump to munmap: the word at
    the stack pointer is its caller's, who might as well have called munmap itself.
    """
    if version == "2.31":
        return [(DEFAULT, size, "possible-rise")]
    return [(size, size, "freed-chunk")]


def uncounted(version: str) -> int:
    """Bytes of a mapping that its chunk's size does not count."""
    return 16 if version == NEW else 0


def test_all_are_there() -> None:
    found = {name.partition("-")[2] for name in names()}
    assert set(names()) == {f"{v}-{name}" for v in VERSIONS for name in found}
    assert found == {"first", "threshold", "limit", "refused", "thread", "cached", "high"}


@pytest.mark.parametrize("name", names())
def test_nothing_is_said_that_is_not_true(name: str) -> None:
    version, _, case = name.partition("-")
    d = stored(version, case)
    env = Env(tcache=version != NEW, keeps=version == NEW and case == "cached")
    env = HIGH[version] if case == "high" else env
    found = check(d.rows, d.traced.account, d.traced.events, env)
    assert found.falsehoods == []
    assert found.counts["requests"] > 0


@every
def test_the_first_request(version: str) -> None:
    d = stored(version, "first")
    assert d.block(0)["mapped"] == (version == NEW)
    if version == NEW:  # no tcache has made a heap before it
        assert steps(d.process) == []
        (r,) = chunks(d.process)
        assert (r.bytes, r.evidence, r.verdict) == (135168, "header", "holds")
    else:
        assert steps(d.process) == [(0x21000, "holds", None)]
        assert chunks(d.process) == []


@every
def test_the_threshold_becomes_the_freed_chunk(version: str) -> None:
    d = stored(version, "threshold")
    size = 139264 - uncounted(version)
    assert d.ops[3]["old_chunk"] == size
    assert moves(d.process) == raised(version, size)
    # A request of just that chunk is the first to be mapped.
    mapped = [o["request"] for o in d.ops if o.get("mapped")]
    assert (139240 in mapped) == (chunk_size(139240) >= size) == (version == NEW)
    assert 139241 in mapped
    lengths = [o["map_length"] for o in d.ops if o.get("mapped")]
    assert [r.bytes for r in chunks(d.process)] == lengths
    assert {r.evidence for r in chunks(d.process)} == {"header"}
    assert {r.verdict for r in chunks(d.process)} == {"holds"}


@every
def test_the_largest_chunk_that_raises_the_threshold(version: str) -> None:
    d = stored(version, "limit")
    field = d.ops[2]["old_size_field"]
    assert field == (32 << 20) - uncounted(version) + 2
    if version == NEW:
        size = (32 << 20) - 16
        assert moves(d.process) == [(size, size, "freed-chunk")]
    else:  # the field with its flag is above the maximum
        assert moves(d.process) == []
        assert (d.process.threshold.low, d.process.threshold.high) == (DEFAULT, DEFAULT)
    assert [r.bytes for r in chunks(d.process)] == [32 << 20, 32 << 20]


@every
def test_the_first_heap_and_the_chunk_it_was_for(version: str) -> None:
    first = stored(version, "limit").process.heap.steps[0]
    size = chunk_size(100000) if version == NEW else TCACHE
    assert first.delta == (size + DEFAULT + 32 + 4095) & -4096
    assert (first.verdict, first.reason) == ("holds", None)


@every
def test_where_the_break_may_not_grow_every_mapping_is_a_mebibyte(version: str) -> None:
    # Two arguments were swapped from 2.35 to 2.37 only (sysmalloc_mmap_fallback).
    d = stored(version, "refused")
    p = d.process
    refused = [s for s in p.heap.steps if not s.delta]
    assert [s.cause for s in refused] == ["next-mapping"] * 2
    assert chunks(p) == []
    more = [r for r in p.regions if r.bytes == 1 << 20]
    assert len(more) == 2
    for r in more:
        assert r.kind == "main-arena" or (r.kind == "unknown" and "main-arena" in r.candidates)
        assert r.verdict in ("explained", "unknown")
        assert r.request is None
    assert moves(p) == []


@every
def test_a_thread_and_its_arena(version: str) -> None:
    d = stored(version, "thread")
    p = d.process
    (made,) = [e for e in d.traced.calls("mmap") if e["args"][1] == 2 * ARENA]
    assert bool(made["args"][3] & MAP_NORESERVE) == (version == "2.31")  # until 2.36
    told = [o for o in d.ops if o["op"] == "thr"]
    base = told[0]["ptr"] & -ARENA
    (r,) = of_kind(p, "arena")
    assert (r.start, r.bytes, r.verdict) == (base, ARENA, "holds")
    (a,) = p.arenas
    opened = [e["args"][:2] for e in d.traced.calls("mprotect", tid=told[0]["tid"])]
    assert a.committed_peak_bytes == sum(length for _, length in opened)
    assert opened[0] == [base, 0x39000 if version == NEW else 0x21000]
    (stack,) = of_kind(p, "thread-stack")
    guard = [e for e in d.traced.calls("madvise") if e["args"][2] == MADV_GUARD_INSTALL]
    if version == NEW:  # no mapping of its own for the guard
        assert [e["args"][:2] for e in guard] == [[stack.start, 4096]]
        assert stack.bytes == (8 << 20) + 4096
        assert of_kind(p, "guard") == []
    else:
        assert guard == []
        assert stack.bytes == 8 << 20
        assert [r.bytes for r in of_kind(p, "guard")] == [4096]
    assert chunks(p) == []


@every
def test_a_cache_may_keep_mapped_chunks_since_2_43(version: str) -> None:
    d = stored(version, "cached")
    p = d.process
    unmapped = [e for e in d.traced.calls("munmap") if e["args"][1] == 200704]
    if version == NEW:
        assert unmapped == []
        assert moves(p) == []
        assert [r.died_seq for r in chunks(p)] == [None, None]
        assert p.metrics["chunks.alive_at_exit"] == 2
    else:
        assert len(unmapped) == 1
        assert moves(p) == raised(version, 200704)
        (r,) = chunks(p)
        assert r.died_seq == unmapped[0]["seq"]
        told = ("unknown", None) if version == "2.31" else ("explained", "dynamic-threshold")
        assert steps(p)[-1][1:] == told


@every
def test_a_threshold_above_the_maximum_is_taken_since_2_35(version: str) -> None:
    d = stored(version, "high")
    t = d.process.threshold
    if version == "2.31":
        assert (t.initial, t.fixed_by) == (DEFAULT, None)
        assert [r.bytes for r in chunks(d.process)] == [200704, 1003520]
    else:
        assert (t.initial, t.low, t.high, t.fixed_by) == (64 << 20, 64 << 20, 64 << 20, "environ")
        assert chunks(d.process) == []
        assert ("explained", "environ") in [s[1:] for s in steps(d.process)]
    assert "contradiction" not in repr(d.process)


def test_a_threshold_that_is_not_taken_freezes_nothing() -> None:
    d = stored("2.31", "high")
    assert moves(d.process) == raised("2.31", 200704)


@every
def test_the_loader_of_2_31_asks_the_break_for_its_tunables(version: str) -> None:
    # tunables_strdup, with the loader's own malloc; it leaves the break within a page.
    p = stored(version, "cached").process
    sizes = [s.delta for s in p.heap.steps]
    if version == "2.31":
        assert sizes[0] == len("GLIBC_TUNABLES=glibc.malloc.tcache_max=1048576\0")
        assert p.heap.steps[0].verdict in ("unknown", "not-applicable")
        assert steps(p)[1:3] == [
            (0x21000, "holds", None), (4096 - sizes[0], "explained", "alignment"),
        ]  # fmt: skip
    else:
        assert sizes[0] % 4096 == 0
