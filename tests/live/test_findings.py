# SPDX-License-Identifier: GPL-2.0-or-later
"""The findings of real programs: the sample tells what it did, the report names it, by the same
numbers. Where nothing is odd, nothing is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest
from tests.live.readme import execute
from tests.live.test_samples import report
from tests.live.tracing import Traced

from memtrace.findings.catalogue import RULES
from memtrace.findings.finding import Rule
from memtrace.trace.sizes import format_size

MIB = 1 << 20


def found(done: Traced, index: int = -1) -> dict[str, dict[str, Any]]:
    """The findings of a process, by rule; each is made once."""
    findings = report(done)["processes"][index]["findings"]
    by_rule = {f["rule"]: f for f in findings}
    assert len(by_rule) == len(findings)
    return by_rule


def metrics(done: Traced, index: int = -1) -> dict[str, int]:
    answer: dict[str, int] = report(done)["processes"][index]["metrics"]
    return answer


def test_the_threshold_moved_and_what_it_cost(sample: Callable[..., Traced]) -> None:
    done = sample("dynamic-cost")
    (cost,) = done.told("cost")
    (moved,) = [m for m in done.told("malloc") if m["where"] == "mapped"]
    (born,) = done.calls("mmap", ret=moved["map_start"])
    (freed,) = [e for e in done.calls("munmap") if e["args"][0] == moved["map_start"]]
    finding = found(done)["MT101"]
    assert finding["severity"] == "warning"
    assert born["seq"] < freed["seq"] == finding["evidence"][0]
    grown = [e["seq"] for e in done.calls("brk") if e["seq"] > freed["seq"]]
    assert finding["evidence"][1:] == grown
    assert len(grown) == cost["in_heap"] == 10
    after = done.told("rss")[0]["break"] - moved["break_after"]
    assert f"10 growths of the heap since then, {format_size(after)} from" in finding["message"]
    assert finding["title"] == "the mmap threshold rose from 128 KiB to 8,196 KiB"
    # Nine of ten blocks were freed, and the heap is as long, and as resident, as before.
    before, now = done.told("rss")
    assert now["break"] == before["break"]
    assert now["bytes"] > 40 * MIB
    assert found(done)["MT103"]["severity"] == "info"


def test_the_threshold_fixed_costs_no_memory(sample: Callable[..., Traced]) -> None:
    done = sample("dynamic-cost", env={"MALLOC_MMAP_THRESHOLD_": "131072"})
    assert {e["expected"] for e in done.told("end")} == {False}
    assert done.told("rss")[1]["bytes"] < 8 * MIB
    findings = found(done)
    assert set(findings) == {"MT108"}
    last = done.told("malloc")[-3:][0]
    (alive,) = findings["MT108"]["evidence"]
    (event,) = done.calls("mmap", seq=alive)
    assert event["args"][1] == last["map_length"]


def test_nothing_goes_back_below_the_trim_threshold(sample: Callable[..., Traced]) -> None:
    done = sample("rss-stays")
    (freed,) = done.told("freed")
    assert freed["peak"] == freed["after"] == freed["at_end"]
    finding = found(done)["MT103"]
    assert finding["severity"] == "warning"
    size = format_size(freed["peak"] - freed["heap_start"])
    assert finding["title"] == f"the heap never shrank ({size}): the trim threshold is above it"
    # The chunk was 16 MiB and a page, the trim threshold twice that.
    assert format_size(2 * (16 * MIB + 4096)) in finding["message"]


def test_what_malloc_trim_gives_back_is_no_finding(sample: Callable[..., Traced]) -> None:
    done = sample("rss-stays", "trim")
    (freed,) = done.told("freed")
    assert freed["at_end"] < freed["after"] == freed["peak"]
    assert set(found(done)) == {"MT101"}


def test_a_heap_that_is_held_says_that_the_cause_is_not_known(
    sample: Callable[..., Traced],
) -> None:
    done = sample("heap-pinned")
    finding = found(done)["MT103"]
    assert finding["severity"] == "info"
    assert "not known" in finding["message"]
    grown = [e["seq"] for e in done.calls("brk") if e["args"][0]]
    assert finding["evidence"] == grown[-len(done.told("break")) :]


def test_what_pins_a_heap_is_named(sample: Callable[..., Traced]) -> None:
    done = sample("heap-pinned", options=("--heap-walk",))
    (pinned,) = done.told("pinned")
    finding = found(done)["MT103"]
    assert finding["severity"] == "warning"
    # The sample tells the address of the block; its chunk begins two words before.
    assert f"the chunk of 32 B at {pinned['pin'] - 16:#x}" in finding["message"]
    (walk,) = [e["seq"] for e in done.calls("walk") if e["why"] == "exit"]
    assert walk in finding["evidence"]
    assert "not known" not in finding["message"]
    (process,) = report(done)["processes"]
    (heap,) = process["walks"][-1]["heaps"]
    assert f"{format_size(heap['free_bytes'])} are free below" in finding["title"]
    assert heap["free_bytes"] > 0.9 * pinned["chunk_bytes_freed"]


def test_arenas_reserve_far_more_than_they_use(sample: Callable[..., Traced]) -> None:
    done = sample("thread-arenas", 12, "together")
    (total,) = done.told("total")
    finding = found(done)["MT104"]
    reserved = total["distinct_arenas"] * 64 * MIB
    assert f"reserve {format_size(reserved)}" in finding["title"]
    bases = {line["arena_base"] for line in done.told("thread")}
    maps = [e for e in done.calls("mmap") if e["seq"] in finding["evidence"]]
    assert {b for b in bases for e in maps if e["ret"] <= b < e["ret"] + e["args"][1]} == bases


def test_few_arenas_are_no_finding(sample: Callable[..., Traced]) -> None:
    assert not found(sample("thread-arenas", 7, "together"))


@pytest.mark.parametrize("mode", ["pinned", "mallopt", "program"])
def test_mappings_that_come_and_go(sample: Callable[..., Traced], mode: str) -> None:
    done = sample("mmap-churn", mode, 300, 200000)
    (churn,) = done.told("churn")
    assert churn["mapped"] == 300
    findings = found(done)
    finding = findings["MT105"]
    length = 200704 if mode != "program" else 200000
    assert finding["title"] == f"300 pairs of mmap and munmap of {format_size(round_up(length))}"
    pairs = [e["seq"] for e in done.calls("mmap", "munmap") if e["args"][1] == length]
    assert [pairs[0], pairs[1], pairs[-1]] == finding["evidence"]
    assert metrics(done)["churn.pairs"] == 300
    by = "by the program itself" if mode == "program" else "by malloc"
    assert f"mapped {by}" in finding["message"]
    # What keeps the threshold from rising is the environment, or not known.
    assert ("MT111" in findings) == (mode == "mallopt")
    assert "MT101" not in findings
    assert ("fixed by the environment" in finding["message"]) == (mode == "pinned")


def round_up(n: int) -> int:
    return -(-n // 4096) * 4096


def test_the_dynamic_threshold_ends_the_churn(sample: Callable[..., Traced]) -> None:
    done = sample("mmap-churn", "dynamic")
    assert done.told("churn")[0]["mapped"] == 1
    assert "MT105" not in found(done)
    assert metrics(done)["churn.pairs"] == 1


def test_pairs_below_the_count_are_no_finding(sample: Callable[..., Traced]) -> None:
    assert "MT105" not in found(sample("mmap-churn", "pinned", 99))


def test_the_limit_of_mappings(sample: Callable[..., Traced]) -> None:
    done = sample("map-limit")
    (limit,) = done.told("limit")
    assert limit["errno"] == 12
    (failed,) = [e for e in done.calls("mprotect") if e["ret"] == -12]
    finding = found(done)["MT107"]
    assert finding["severity"] == "error"
    assert finding["evidence"] == [failed["seq"]]
    assert f"had {limit['maps']:,} mappings at that moment" in finding["message"]
    assert f"vm.max_map_count is {limit['max_map_count']:,}" in finding["message"]
    assert "that alone refuses the call" in finding["message"]
    granted = len(done.calls("mprotect")) - 1
    assert f"may have added mappings: mprotect {granted:,}, mmap" in finding["message"]
    assert not {"MT106", "MT113"} & set(found(done)), "said once"
    assert len(done.calls("mprotect")) >= limit["mprotects"] + 1
    done.assert_exact()


def test_far_from_the_limit_is_no_finding(sample: Callable[..., Traced]) -> None:
    assert not found(sample("map-limit", 20000))


def test_near_the_limit(sample: Callable[..., Traced]) -> None:
    done = sample("map-limit", 55000, options=("--snapshots", "every=1000"))
    (limit,) = done.told("limit")
    finding = found(done)["MT106"]
    assert finding["severity"] == "warning"
    (process,) = report(done)["processes"]
    assert process["maps"]["peak"] <= limit["maps"] + 1  # the kernel's [vsyscall] is a line, too
    assert f"{process['maps']['peak']:,} lines" in finding["message"]
    (seq,) = finding["evidence"]
    assert seq in {e["seq"] for e in done.calls("snap")}


def test_enomem_that_is_not_the_limit(sample: Callable[..., Traced]) -> None:
    done = sample("mapping-kinds")
    finding = found(done)["MT113"]
    assert finding["severity"] == "warning"
    (failed,) = [e for e in done.calls("mprotect") if e["ret"] == -12]
    assert finding["evidence"] == [failed["seq"]]
    assert f"at #{failed['seq']} is not refused for the number of mappings" in finding["message"]


def test_what_the_kernel_allows_with_the_break(sample: Callable[..., Traced]) -> None:
    done = sample("break-rules")
    told = {line["note"]: line for line in done.told("brk")}
    calls = [(e["args"][0], e["ret"], e["errno"]) for e in done.calls("brk")]
    assert calls[-len(told) :] == [(x["asked"], x["answer"], None) for x in told.values()]
    (process,) = report(done)["processes"]
    deltas = [s["delta"] for s in process["heap"]["steps"]]
    assert deltas[:2] == [1, 99]
    findings = found(done)
    refused = findings["MT109"]
    (step,) = [s for s in process["heap"]["steps"] if s["seq"] in refused["evidence"]]
    assert (step["asked"], step["end"]) == (
        told["into that page"]["asked"], told["into that page"]["answer"],
    )  # fmt: skip
    assert "mapping is in the way" in refused["message"]
    assert set(findings) == {"MT109", "MT110"}


def test_a_break_that_others_move(sample: Callable[..., Traced]) -> None:
    done = sample("heap-foreign")
    (foreign,) = done.told("foreign")
    (call,) = [e for e in done.calls("brk") if e["ret"] == foreign["start"] + foreign["bytes"]]
    assert found(done)["MT110"]["evidence"] == [call["seq"]]


def test_a_setting_that_leaves_no_trace(sample: Callable[..., Traced]) -> None:
    done = sample("mallopt-hidden")
    finding = found(done)["MT111"]
    last = done.calls("brk")[-1]["seq"]
    assert finding["evidence"] == [1, last]
    assert "unknown" in finding["title"]
    assert not {"MT101", "MT102"} & set(found(done))


def test_a_setting_of_the_environment_is_no_contradiction(sample: Callable[..., Traced]) -> None:
    done = sample("threshold-edge", env={"MALLOC_MMAP_MAX_": "0"})
    assert "MT111" not in found(done)


@pytest.mark.parametrize("name", ["heap-shrink", "lazy-population", "direct-mmap", "clone-vm"])
def test_nothing_odd_is_nothing_found(sample: Callable[..., Traced], name: str) -> None:
    assert not found(sample(name))


# -- remedies, as they are pasted -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "name", "args", "of", "least"),
    [
        ("MT101", "dynamic-cost", (), "heap.final_bytes", 10),
        ("MT103", "rss-stays", (), "heap.final_bytes", 10),
        ("MT104", "thread-arenas", (12, "together"), "arenas.reserved_bytes", 10),
        ("MT105", "mmap-churn", ("pinned", 300, 200000), "calls.total", 10),
        ("MT105", "mmap-churn", ("pinned", 300, 4 * MIB), "calls.total", 10),
    ],
)
def test_a_remedy_helps(
    sample: Callable[..., Traced], rule: str, name: str, args: tuple[Any, ...], of: str, least: int
) -> None:
    """What it sets before PROG makes the program need a part of what the finding is about."""
    before = sample(name, *args)
    remedy = found(before)[rule]["remedy"]
    settings = dict(re.findall(r"\b([A-Z_]+)=(\S+) (?=.*PROG)", remedy))
    assert settings
    after = sample(name, *args, env=settings)
    assert rule not in found(after)
    assert metrics(after)[of] * least <= metrics(before)[of]


def test_a_remedy_in_the_tunables_helps(sample: Callable[..., Traced]) -> None:
    fixed = "glibc.malloc.mmap_threshold=131072"
    before = sample("mmap-churn", "dynamic", 300, 200000, env={"GLIBC_TUNABLES": fixed})
    named = re.findall(r"glibc\.malloc\.[a-z_]+=\d+", found(before)["MT105"]["remedy"])
    assert len(named) == 2
    after = sample("mmap-churn", "dynamic", 300, 200000, env={"GLIBC_TUNABLES": ":".join(named)})
    assert metrics(after)["calls.total"] * 10 <= metrics(before)["calls.total"]


# ---- the pages of `memtrace explain` ----


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.id)
def test_what_a_page_says_to_see_live_shows_its_finding(
    rule: Rule, samples: Path, tmp_path: Path
) -> None:
    lines = [
        line.strip() for line in rule.explain.partition("See it live.")[2].splitlines() if line
    ]
    if any("libjemalloc" in line for line in lines) and find_library("jemalloc") is None:
        pytest.skip("libjemalloc is not installed")
    reports = [i for i, line in enumerate(lines) if line.startswith("memtrace report ")]
    assert reports
    script = "\n".join(lines)
    shown = execute([script], tmp_path).removeprefix(f"$ {script}")
    assert len(re.findall(rf"^  {rule.id}  (?:info|warning|error) ", shown, re.MULTILINE)) == len(
        reports
    )
