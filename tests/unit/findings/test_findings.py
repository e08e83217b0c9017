# SPDX-License-Identifier: GPL-2.0-or-later
"""Each finding both ways: it is made where the facts prove it, and not just below; and what the
facts lack is not said.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from memtrace.findings.arenas import HEAPS, SHARE
from memtrace.findings.catalogue import RULES, findings
from memtrace.findings.churn import PERCENT, SHORT
from memtrace.findings.facts import PAIRS, ArenaFacts, ChunkFacts, Facts, ThresholdFacts
from memtrace.findings.finding import EVIDENCE, SEVERITIES
from memtrace.findings.maps import NEAR
from memtrace.findings.others import ALIVE_BYTES, ALIVE_COUNT, RUNTIME_BYTES
from memtrace.malloc.allocator import GLIBC_RULE, NO_RULE, Allocator
from memtrace.malloc.arenas import Limit
from memtrace.malloc.churn import Pairs
from memtrace.malloc.limits import Refusal
from memtrace.malloc.threshold import Move

GLIBC = Allocator("glibc", "2.36", GLIBC_RULE, "mapped libc.so.6 (#6)", 6)
JEMALLOC = Allocator("jemalloc", None, NO_RULE, "mapped libjemalloc.so.2 (#4) at start", 4)
LIMIT = 65530
MIB = 1 << 20


def facts(**known: Any) -> Facts:
    return Facts(
        **{
            "allocator": GLIBC,
            "maps_limit": LIMIT,
            "arena_limit": Limit(16, "cpus-online", 2),
            **known,
        }
    )


def made(f: Facts) -> set[str]:
    return {x.rule for x in findings(f)}


def only(f: Facts) -> Any:
    (finding,) = findings(f)
    return finding


def test_nothing_is_said_of_nothing() -> None:
    assert findings(Facts()) == []
    assert findings(facts()) == []


# -- MT104 ----------------------------------------------------------------------------------------


def arenas(count: int, peak: int) -> tuple[ArenaFacts, ...]:
    return tuple(
        ArenaFacts(base=i << 26, reserved=64 * MIB, peak=peak, seq=20 + i) for i in range(count)
    )


def test_arenas_that_are_many_and_empty() -> None:
    finding = only(facts(arenas=arenas(HEAPS, 132 << 10)))
    assert finding.rule == "MT104"
    assert finding.evidence == tuple(range(20, 20 + HEAPS))
    assert "512 MiB" in finding.headline
    assert "16 on these 2 CPUs" in finding.message
    assert not made(facts(arenas=arenas(HEAPS - 1, 132 << 10)))


def test_arenas_that_are_used_are_no_blow_up() -> None:
    assert made(facts(arenas=arenas(HEAPS, 64 * MIB // SHARE))) == {"MT104"}
    assert not made(facts(arenas=arenas(HEAPS, 64 * MIB // SHARE + 4096)))


def test_the_limit_of_arenas_is_not_stated_where_it_is_not_known() -> None:
    assert "on these" not in only(facts(arenas=arenas(HEAPS, 4096), arena_limit=Limit())).message
    told = only(facts(arenas=arenas(HEAPS, 4096), arena_limit=Limit(12, "environ", 2))).message
    assert "MALLOC_ARENA_MAX allows 12 arenas" in told


# -- MT105 ----------------------------------------------------------------------------------------


def pairs(count: int = PAIRS, kind: str = "malloc-chunk", half: int = 1 << 14, **kw: Any) -> Pairs:
    return Pairs(**{
        "kind": kind, "owner": None, "length": 266240, "pairs": count, "first": (18, 19),
        "last": 900, "half_ns": half, **kw,
    })  # fmt: skip


def test_pairs_are_told_from_their_count_on() -> None:
    finding = only(facts(churn=(pairs(),), calls=2 * PAIRS))
    assert finding.rule == "MT105"
    assert finding.evidence == (18, 19, 900)
    assert "100 % of all memory calls" in finding.message
    assert not made(facts(churn=(pairs(PAIRS - 1),), calls=2 * PAIRS))


def test_pairs_are_told_from_their_share_on() -> None:
    calls = 200 * PAIRS // PERCENT
    assert made(facts(churn=(pairs(),), calls=calls)) == {"MT105"}
    assert not made(facts(churn=(pairs(),), calls=calls + 1))


def test_pairs_that_live_long_are_no_churn_where_times_are_known() -> None:
    assert made(facts(churn=(pairs(half=SHORT),), calls=2 * PAIRS)) == {"MT105"}
    long = facts(churn=(pairs(half=2 * SHORT),), calls=2 * PAIRS)
    assert not made(long)
    untimed = only(replace(long, timed=False))
    assert "lived" not in untimed.message


@pytest.mark.parametrize(
    ("kind", "says", "advises"),
    [
        ("malloc-chunk", "mapped by malloc", "MALLOC_MMAP_THRESHOLD_=270336"),
        ("anon", "mapped by the program itself", "memtrace events TRACE shows who"),
        ("unknown", "by whom no evidence tells", "strace -k"),
    ],
)
def test_whose_pairs_they_are(kind: str, says: str, advises: str) -> None:
    finding = only(facts(churn=(pairs(kind=kind),), calls=2 * PAIRS))
    assert says in finding.message
    assert advises in finding.remedy


@pytest.mark.parametrize(("more", "says"), [(1, "1 other size does"), (2, "2 other sizes do")])
def test_other_sizes_are_counted(more: int, says: str) -> None:
    churn = tuple(pairs(length=266240 + i * 4096) for i in range(1 + more))
    assert f"{says} the same." in only(facts(churn=churn, calls=2 * PAIRS)).message


def test_a_runtimes_pairs_are_its_own_business() -> None:
    assert not made(facts(churn=(pairs(kind="runtime-heap", owner="v8"),), calls=2 * PAIRS))


def test_another_mallocs_pairs_get_no_advice_for_glibc() -> None:
    f = facts(churn=(pairs(),), calls=2 * PAIRS, allocator=JEMALLOC)
    assert made(f) == {"MT105", "MT112"}
    assert "MALLOC_" not in findings(f)[0].remedy


def test_a_threshold_that_is_set_needs_a_trim_threshold_too() -> None:
    fixed = ThresholdFacts(initial=131072, low=131072, high=131072, fixed_by="environ")
    f = facts(churn=(pairs(),), calls=2 * PAIRS, threshold=fixed)
    both = "MALLOC_MMAP_THRESHOLD_=270336 MALLOC_TRIM_THRESHOLD_=1081344 PROG ARGS..."
    assert both in only(f).remedy
    # A tunable wins over the variable of the same meaning.
    tunable = only(replace(f, threshold=replace(fixed, fixed_by="tunable"))).remedy
    assert "MALLOC_" not in tunable
    assert "glibc.malloc.mmap_threshold=270336" in tunable
    assert "glibc.malloc.trim_threshold=1081344" in tunable


def test_what_mallopt_sets_no_variable_does() -> None:
    at = Move(9, 0, 0, None, "contradiction")
    broken = ThresholdFacts(initial=131072, low=0, high=None, moves=(at,))
    found = findings(facts(churn=(pairs(),), calls=2 * PAIRS, threshold=broken))
    (remedy,) = [x.remedy for x in found if x.rule == "MT105"]
    assert "PROG" not in remedy
    assert "if it calls mallopt" in remedy


def test_blocks_that_are_aligned_are_mapped_again_and_again() -> None:
    """posix_memalign(&p, 4096, 1 << 20): L is 1,056,768, and the free raises T to 1,052,672."""
    p = pairs(length=1056768)
    risen = ThresholdFacts(initial=131072, low=1052672, high=1052672, rises=1, sure=True)
    f = facts(churn=(p,), calls=2 * PAIRS, threshold=risen)
    assert "aligned ones (memalign" in only(f).message
    for t in (replace(risen, sure=False), replace(risen, low=1056768, high=1056768)):
        assert "aligned ones" not in only(replace(f, threshold=t)).message
    fixed = ThresholdFacts(initial=131072, low=131072, high=131072, fixed_by="environ")
    assert "unless the blocks are aligned" in only(replace(f, threshold=fixed)).message


def test_a_block_above_the_maximum_is_not_served_by_a_higher_threshold() -> None:
    fixed = ThresholdFacts(initial=131072, low=131072, high=131072, fixed_by="environ")
    f = facts(churn=(pairs(),), calls=2 * PAIRS, threshold=fixed)
    assert "would have risen" in only(f).message
    large = only(replace(f, churn=(pairs(length=32 * MIB),)))
    assert "MALLOC_" not in large.remedy
    assert "would have risen" not in large.message
    assert "to more than 32 MiB" in large.message
    i386 = only(replace(f, churn=(pairs(length=512 << 10),), i386=True))
    assert "would have risen" not in i386.message
    risen = ThresholdFacts(initial=131072, low=520192, high=520192, rises=1, sure=True)
    free = only(replace(f, churn=(pairs(length=20 * MIB),), i386=True, threshold=risen))
    assert "aligned ones" not in free.message
    assert "to more than 512 KiB" in free.message


# -- MT106, MT107 ---------------------------------------------------------------------------------


def test_maps_near_the_limit() -> None:
    near = -(-NEAR * LIMIT // 100)
    finding = only(facts(maps_peak=near, maps_seq=77))
    assert (finding.rule, finding.evidence) == ("MT106", (77,))
    assert f"{near:,} lines" in finding.message
    assert "Calls that" not in finding.message
    calls = (("mprotect", 60000), ("mmap", 9))
    told = only(facts(maps_peak=near, mapping_calls=calls)).message
    assert told.endswith("Calls that may have added mappings: mprotect 60,000, mmap 9.")
    assert not made(facts(maps_peak=near - 1))
    assert not made(facts(maps_peak=near, maps_limit=None))
    assert not made(facts(maps_peak=None))


@pytest.mark.parametrize(("limit", "to"), [(65530, 262144), (1048576, 4194304)])
def test_the_limit_is_not_advised_to_be_lowered(limit: int, to: int) -> None:
    assert f"vm.max_map_count={to} " in only(facts(maps_peak=limit, maps_limit=limit)).remedy
    full = Refusal(70, "mmap", maps=limit + 1)
    assert f"vm.max_map_count={to} " in only(facts(refusals=(full,), maps_limit=limit)).remedy


ENOMEM = (("mprotect", 12, 1, 70),)


def refused(call: str = "mprotect", **kw: Any) -> Facts:
    return facts(
        refusals=(Refusal(70, call, **kw),), failed=((call, 12, 1, 70),), maps_peak=kw.get("maps")
    )


def test_a_full_map_refuses_a_split() -> None:
    finding = only(refused(maps=LIMIT, splits=True))
    assert (finding.rule, finding.severity) == ("MT107", "error")
    assert finding.evidence == (70,)
    assert "that alone refuses the call" in finding.message
    assert "not memory" in finding.headline


def test_just_below_the_limit_it_is_another_cause() -> None:
    f = refused(maps=LIMIT - 1, splits=True)
    assert made(f) == {"MT106", "MT113"}
    said = next(x for x in findings(f) if x.rule == "MT113")
    assert "is not refused for the number of mappings: there were 65,529" in said.message


def test_mmap_is_refused_one_later() -> None:
    assert made(refused("mmap", maps=LIMIT + 1)) == {"MT107"}
    assert made(refused("mmap", maps=LIMIT)) == {"MT106", "MT113"}


@pytest.mark.parametrize("splits", [False, None])
def test_a_full_map_does_not_prove_more_than_that(splits: bool | None) -> None:  # noqa: FBT001
    finding = only(refused(maps=LIMIT, splits=splits))
    assert finding.rule == "MT107"
    assert "that alone refuses" not in finding.message
    assert "nothing in the trace tells" in finding.message
    assert finding.headline.endswith("the map was full then")


def test_the_replayed_map_is_a_lower_bound() -> None:
    finding = only(refused("mmap", least=LIMIT + 1))
    assert "65,531 or more mappings" in finding.message
    # Fewer runs than the limit prove nothing: neither that it is the limit, nor that it is not.
    f = refused("mmap", least=LIMIT)
    assert made(f) == {"MT113"}
    assert "number of mappings" not in only(f).message
    assert "number of mappings" not in only(refused("mmap")).message


def test_without_the_limit_nothing_is_said_of_it() -> None:
    f = replace(refused(maps=LIMIT + 10, splits=True), maps_limit=None)
    assert made(f) == {"MT113"}
    assert "max_map_count" not in only(f).message


# -- MT108 ----------------------------------------------------------------------------------------


def test_chunks_alive_at_exit() -> None:
    much = ChunkFacts(alive=1, bytes=ALIVE_BYTES, largest=((30, ALIVE_BYTES),))
    finding = only(facts(chunks=much))
    assert (finding.rule, finding.severity, finding.evidence) == ("MT108", "info", (30,))
    less = ChunkFacts(alive=1, bytes=ALIVE_BYTES - 4096, largest=((30, ALIVE_BYTES - 4096),))
    assert not made(facts(chunks=less))
    many = ChunkFacts(alive=ALIVE_COUNT, bytes=16 * 4096, largest=((30, 4096),))
    assert made(facts(chunks=many)) == {"MT108"}
    assert not made(facts(chunks=replace(many, alive=ALIVE_COUNT - 1)))


def test_no_chunk_is_alive_at_an_exit_that_was_not_one() -> None:
    much = ChunkFacts(alive=1, bytes=ALIVE_BYTES, largest=((30, ALIVE_BYTES),))
    assert not made(facts(chunks=much, exited=False))
    assert "has gaps" in only(facts(chunks=much, whole=False)).message


# -- MT112, MT113 ---------------------------------------------------------------------------------


def test_an_allocator_without_the_rule() -> None:
    finding = only(facts(allocator=JEMALLOC))
    assert (finding.rule, finding.severity, finding.evidence) == ("MT112", "info", (4,))
    assert "malloc is jemalloc's here" in finding.message
    assert finding.remedy.startswith("memtrace explain jemalloc")


def test_a_runtime_beside_glibc() -> None:
    finding = only(facts(other_heaps=(("v8", 3, RUNTIME_BYTES, 31),)))
    assert "3 regions, at most 1 MiB at one time, belong to v8" in finding.message
    assert finding.evidence == (31,)
    some = only(facts(other_heaps=(("v8", 3, RUNTIME_BYTES, 31),), all_regions=False))
    assert "3 regions or more, at most" in some.message
    assert not made(facts(other_heaps=(("v8", 3, RUNTIME_BYTES - 1, 31),)))
    unknown = only(facts(other_heaps=(("new thing", 1, 8 * MIB, 31),)))
    assert "new thing" in unknown.message


def test_calls_that_failed() -> None:
    finding = only(facts(failed=(("madvise", 22, 3, 40), ("prctl", 22, 1, 30))))
    assert (finding.rule, finding.severity) == ("MT113", "info")
    assert finding.headline == "calls that failed: madvise 3, prctl 1"
    assert "prctl with EINVAL at #30, madvise with EINVAL at #40" in finding.message
    assert finding.evidence == (30, 40)
    assert only(facts(failed=(("mmap", 12, 1, 40),))).severity == "warning"
    assert "with 5000 at #40" in only(facts(failed=(("mmap", 5000, 1, 40),))).message


# -- all ------------------------------------------------------------------------------------------


def test_the_gravest_come_first() -> None:
    f = facts(
        refusals=(Refusal(70, "mprotect", LIMIT, None, splits=True),),
        failed=(("mprotect", 12, 1, 70), ("prctl", 22, 1, 30)),
        arenas=arenas(HEAPS, 4096),
        allocator=GLIBC,
    )
    found = findings(f)
    assert [x.rule for x in found] == ["MT107", "MT104", "MT113"]
    assert [SEVERITIES.index(x.severity) for x in found] == [0, 1, 2]


def test_evidence_is_bounded_ordered_and_said_once() -> None:
    failed = tuple((f"call{i}", 22, 1, 500 - i) for i in range(100))
    finding = only(facts(failed=failed))
    assert len(finding.evidence) == EVIDENCE
    assert list(finding.evidence) == sorted(set(finding.evidence))
    assert len(finding.headline) < 300


def test_ids_are_one_each_and_in_order() -> None:
    ids = [rule.id for rule in RULES]
    assert sorted(set(ids)) == [f"MT1{i:02}" for i in range(1, len(ids) + 1)]
