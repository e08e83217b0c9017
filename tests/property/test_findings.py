# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever the facts, findings are made without failing, are bounded, and name their evidence."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.findings.catalogue import RULES, findings
from memtrace.findings.facts import (
    ArenaFacts,
    ChunkFacts,
    Facts,
    HeapFacts,
    InsideFacts,
    ThresholdFacts,
)
from memtrace.findings.finding import EVIDENCE, SEVERITIES
from memtrace.malloc.allocator import GLIBC_RULE, NO_RULE, Allocator
from memtrace.malloc.arenas import Limit
from memtrace.malloc.churn import Pairs
from memtrace.malloc.heap import NoTrim, Step
from memtrace.malloc.limits import Refusal
from memtrace.malloc.roles import ROLES
from memtrace.malloc.sysmalloc import Span
from memtrace.malloc.threshold import Move

NUMBER = st.integers(0, 1 << 64) | st.sampled_from([0, 1, 100, 4096, 65530, 131072, 1 << 20])
SIGNED = st.integers(-(1 << 63), 1 << 64) | NUMBER
SOME = NUMBER | st.none()
SEQ = st.integers(0, 1 << 40)
NAME = st.sampled_from(["glibc", "jemalloc", "unknown", "v8"]) | st.text(max_size=8)
CAUSES = ["freed-chunk", "contradiction", "aligned-or-mallopt", "possible-rise", "new cause"]
REASONS = ["dynamic-threshold", "environ", "mmap-max", "trim", "new reason"]
REFUSED = ["next-mapping", "RLIMIT_DATA", "RLIMIT_AS", "new limit"]
KINDS = ["malloc-chunk", "anon", "unknown", "runtime-heap"]
CALLS = st.sampled_from(["mmap", "mprotect", "munmap", "madvise", "execve"]) | st.text(max_size=40)

ALLOCATOR = st.builds(
    Allocator, NAME, st.none(), st.sampled_from([GLIBC_RULE, NO_RULE, None]), st.text(max_size=9),
    SEQ | st.none(), own_rule=st.text(max_size=9) | st.none(),
)  # fmt: skip
STEP = st.builds(
    Step, SEQ, NUMBER, SEQ, SIGNED, SIGNED, SIGNED, st.sampled_from([*REFUSED, None]),
    st.sampled_from(["holds", "explained", "unknown"]), st.sampled_from([*REASONS, None]),
    role=st.sampled_from([*ROLES]), chunk=st.builds(Span, SIGNED, SOME) | st.none(),
    candidates=st.lists(st.text(max_size=9), max_size=3).map(tuple),
)  # fmt: skip
MOVE = st.builds(Move, SEQ, NUMBER, SOME, SOME, st.sampled_from(CAUSES), against=SEQ | st.none())
FACTS = st.builds(
    Facts,
    allocator=ALLOCATOR,
    i386=st.booleans(),
    threshold=st.builds(
        ThresholdFacts, initial=SOME, low=SOME, high=SOME, rises=NUMBER, trim=SOME,
        fixed_by=st.sampled_from(["environ", None]), inherited=st.booleans(), sure=st.booleans(),
        moves=st.lists(MOVE, max_size=4).map(tuple),
    ),
    heap=st.builds(
        HeapFacts, start=SOME, final=SIGNED | st.none(), growths=NUMBER, shrinks=NUMBER,
        refused=NUMBER, grown=SIGNED, steps=st.lists(STEP, max_size=4).map(tuple),
        no_trim=st.builds(
            NoTrim, st.sampled_from(["below-trim-threshold", "pinned", "unknown"]), SEQ | st.none()
        ) | st.none(),
    ),
    inside=st.builds(
        InsideFacts, seq=SEQ, why=st.sampled_from(["exit", "peak", "new"]), size=NUMBER,
        used=NUMBER, free=NUMBER, top=NUMBER, pin=st.tuples(NUMBER, NUMBER) | st.none(),
    ) | st.none(),
    chunks=st.builds(
        ChunkFacts, alive=NUMBER, bytes=NUMBER,
        largest=st.lists(st.tuples(SEQ, NUMBER), min_size=1, max_size=3).map(tuple),
    ) | st.just(ChunkFacts()),
    arenas=st.lists(
        st.builds(ArenaFacts, base=NUMBER, reserved=NUMBER, peak=NUMBER, seq=SEQ | st.none()),
        max_size=12,
    ).map(tuple),
    arena_limit=st.builds(Limit, SOME, st.sampled_from(["environ", "cpus-online", None]), SOME),
    other_heaps=st.lists(st.tuples(NAME, NUMBER, NUMBER, SEQ), max_size=3).map(tuple),
    fallbacks=st.lists(st.tuples(SEQ, NUMBER), max_size=3).map(tuple),
    churn=st.lists(
        st.builds(
            Pairs, st.sampled_from(KINDS), NAME, NUMBER, NUMBER, st.tuples(SEQ, SEQ), SEQ, NUMBER
        ),
        max_size=3,
    ).map(tuple),
    calls=NUMBER,
    failed=st.lists(st.tuples(CALLS, st.integers(0, 5000), NUMBER, SEQ), max_size=9).map(tuple),
    refusals=st.lists(
        st.builds(Refusal, SEQ, CALLS, SOME, SOME, st.booleans() | st.none()), max_size=4
    ).map(tuple),
    maps_peak=SOME,
    maps_limit=SOME,
    whole=st.booleans(),
    assumed=st.booleans(),
    attached=st.booleans(),
    exited=st.booleans(),
    timed=st.booleans(),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(FACTS)
def test_findings_of_any_facts(facts: Facts) -> None:
    found = findings(facts)
    assert [x.rule for x in found] == [
        x.rule for x in sorted(found, key=lambda x: (SEVERITIES.index(x.severity), x.rule))
    ]
    assert len({x.rule for x in found}) == len(found)
    for x in found:
        assert x.rule in {rule.id for rule in RULES}
        assert len(x.evidence) <= EVIDENCE
        assert list(x.evidence) == sorted(set(x.evidence))
        assert x.headline
        assert x.message.endswith(".")
        assert x.remedy
        assert len(x.headline) < 400
        assert len(x.message) < 3000
    assert findings(facts) == found


@settings(max_examples=200, deadline=None)
@given(FACTS)
def test_what_only_glibc_has_is_said_of_glibc_only(facts: Facts) -> None:
    rules = {x.rule for x in findings(facts)}
    if facts.allocator.name != "glibc":
        assert not rules & {"MT101", "MT102", "MT104", "MT111"}
    if not facts.exited:
        assert "MT108" not in rules
    if facts.maps_limit is None:
        assert not rules & {"MT106", "MT107"}
    assert not {"MT106", "MT107"} <= rules
    assert not {"MT101", "MT111"} <= rules
