# SPDX-License-Identifier: GPL-2.0-or-later
"""What a budget may say, and what is said of one that cannot be meant."""

from __future__ import annotations

import tomllib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.check.amounts import Tolerance
from memtrace.check.budget import Limit, parse_table
from memtrace.check.where import Where, lines_of
from memtrace.trace.errors import UsageError


def budget(text: str) -> list[Limit]:
    """The limits of a memtrace.toml."""
    where = Where("memtrace.toml", ("budget",), lines_of(text))
    return parse_table(tomllib.loads(text)["budget"], where)


def one(text: str) -> Limit:
    (limit,) = budget(f"[budget]\n{text}\n")
    return limit


@pytest.mark.parametrize(
    ("text", "metric", "most"),
    [
        ('heap.peak = "2 MiB"', "heap.peak_bytes", 2 << 20),
        ('"heap.peak" = "2 MiB"', "heap.peak_bytes", 2 << 20),
        ('heap.peak_bytes = "512k"', "heap.peak_bytes", 512 << 10),
        ("heap.peak = 4096", "heap.peak_bytes", 4096),
        ("heap.growths = 10", "heap.growths", 10),
        ('heap.growths = "10"', "heap.growths", 10),
        ("heap = { growths = 10 }", "heap.growths", 10),
        ("calls.mmap = 0", "calls.mmap", 0),
        ("trust.drift = 0", "trust.drift", 0),
        ("heap.growths = { max = 3 }", "heap.growths", 3),
    ],
)
def test_a_line_is_the_maximum_of_a_metric(text: str, metric: str, most: int) -> None:
    limit = one(text)
    assert (limit.metric.name, limit.max, limit.min, limit.line) == (metric, most, None, 2)
    assert limit.gate


def test_a_table_has_both_ends_and_a_tolerance() -> None:
    limit = one('heap.peak = { min = "1 MiB", max = "2 MiB", tolerance = "5%" }')
    assert (limit.min, limit.max) == (1 << 20, 2 << 20)
    assert limit.highest == (2 << 20) + (2 << 20) // 20
    assert limit.lowest == (1 << 20) - (1 << 20) // 20
    assert one("maps.peak = { max = 118, tolerance = 2 }").highest == 120
    assert one('heap.peak = { max = 0, tolerance = "8 KiB" }').highest == 8192


@given(
    st.integers(1, 2**63), st.integers(0, 9999), st.integers(0, 9999), st.sampled_from([1, 10, 100])
)
def test_the_ends_are_those_of_exact_fractions(n: int, whole: int, part: int, scale: int) -> None:
    """So that 5 % of 20 MiB is no byte more, whatever a float makes of it."""
    share = Fraction(whole * 10_000 + part, 10_000) / scale
    text = f"{whole // scale}.{int(share * 10**8) % 10**8:08d}"
    assert Fraction(text) == share
    limit = one("heap.peak = 1")
    most = one(f'heap.peak = {{ max = {n}, tolerance = "{text}%" }}') if share <= 99 else limit
    if share <= 99:
        assert most.highest == n + n * share / 100 - (n * share / 100) % 1
        kept = n - n * share / 100
        if kept > 0:
            least = one(f'heap.peak = {{ min = {n}, tolerance = "{text}%" }}').lowest
            assert least is not None
            assert least - 1 < kept <= least


def test_a_tolerance_that_is_not_said_is_not_0() -> None:
    assert one("heap.peak = 1").tolerance is None
    assert one("heap.peak = { max = 1, tolerance = 0 }").tolerance == Tolerance()


def test_scopes() -> None:
    found = budget(
        "[budget]\nheap.peak = 1\n[budget.tree]\nheap.peak = 2\ncalls.mmap = 3\n"
        '[budget.process."gcc*"]\nheap.peak = 4\n[budget.process.cc1]\nheap.peak = 5\n'
    )
    assert [(x.scope, x.glob, x.max, x.line) for x in found] == [
        ("first", "", 1, 2), ("tree", "", 2, 4), ("tree", "", 3, 5),
        ("process", "gcc*", 4, 7), ("process", "cc1", 5, 9),
    ]  # fmt: skip


def test_resident_memory_informs_unless_it_is_asked_for() -> None:
    assert not one('memory.rss_peak = "1 GiB"').gate
    assert one('memory.rss_peak = { max = "1 GiB", gate = true }').gate
    assert not one("heap.growths = { max = 1, gate = false }").gate


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("heap.peek = 1", "there is no metric 'heap.peek'", "did you mean heap.peak"),
        ("calls.mmpa = 1", "there is no metric 'calls.mmpa'", "calls.mmap"),
        ("heap.peak.bytes = 1", "a limit has no 'bytes'", "heap.peak"),
        ('heap.peak = "2 MB"', "'2 MB' is no size", '"2 MiB"'),
        ('heap.peak = ""', "'' is no size", '"2 MiB"'),
        ('heap.growths = "2 KiB"', "is a count and has no unit", "heap.growths = 10"),
        ("heap.growths = true", "by a number, not True", "heap.growths = 10"),
        ("heap.growths = nan", "by a number, not nan", "heap.growths = 10"),
        ("heap.growths = inf", "never above 2**64", "heap.growths = 10"),
        ("heap.growths = 1" + "0" * 400, "never above 2**64", "heap.growths = 10"),
        ('heap.growths = { max = 1, tolerance = "1e308%" }', "no percentage", '"5%"'),
        ("xyz.qqq = 1", "there is no metric 'xyz.qqq'", "memtrace report"),
        ("heap.growths = [1]", "by a number, not [1]", "heap.growths = 10"),
        ("heap.growths = -1", "never below 0", "heap.growths = 10"),
        ("heap.growths = {}", "has no limit", "max = 1"),
        ("heap.growths = { gate = true }", "has no limit", "max = 1"),
        ("heap.growths = { most = 1 }", "a limit has no 'most'", "max = 1"),
        ("heap.growths = { max = 1, min = 2 }", "cannot be 2 or more and 1 or less", "min = 1"),
        ('heap.growths = { max = 1, tolerance = "-5%" }', "no percentage", '"5%"'),
        ('heap.growths = { max = 1, tolerance = "x%" }', "no percentage", '"5%"'),
        ('heap.growths = { max = 1, tolerance = "1_0%" }', "no percentage", '"5%"'),
        ('heap.growths = { max = 1, tolerance = "1e1%" }', "no percentage", '"5%"'),
        ('heap.growths = "1_0"', "is a count and has no unit", "heap.growths = 10"),
        ('heap.peak = { max = "1 MiB", tolerance = 1.05 }', "tolerance = 1.05", 'tolerance = "5%"'),
        ("heap.growths = { max = 9, tolerance = 1.05 }", "is a count, a whole", 'tolerance = "5%"'),
        ("heap.peak = 1.5", "is bytes, a whole number", '"2 MiB"'),
        ("heap.growths = { min = 0 }", "so min limits nothing", "min = 1"),
        ("heap.growths = { min = 0, max = 3 }", "so min limits nothing", "leave min out"),
        ("heap.growths = { min = 2, tolerance = 2 }", "min less its tolerance limits", "min = 1"),
        ('heap.growths = { min = 1, tolerance = "100%" }', "min less its tolerance", "min = 1"),
        ("heap.growths = { max = 1, tolerance = 18446744073709551615 }", "max with", "max = 10"),
        ("process.a.heap.growths = { tolerance = 2 }", "alone limits nothing", "tolerance = 2 }"),
        ("tree = {}", "tree limits nothing", "leave the table out"),
        ("process = {}", "process limits nothing", "leave the table out"),
        ("process.gcc = {}", "process.gcc limits nothing", "leave the table out"),
        ('process."a\\n::error::" = {}', r"process.a\n::error:: limits nothing", "leave"),
        ("heap.growths = { max = 1, gate = 1 }", "gate is true or false", "gate = true"),
        ("heap.peak = 1\nheap.peak_bytes = 2", "the same metric, limited twice", "keep one"),
        ("tree = 3", "tree is a table of limits", "[budget.tree]"),
        ("process.gcc = 3", "process.gcc is a table of limits", "[budget.process"),
        ("tree.threshold.low = 3", "over processes means nothing", "[budget]"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_line(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        one(text)
    last = 1 + len(text.splitlines())
    assert caught.value.message.startswith(f"memtrace.toml:{last}: ")
    assert message in caught.value.message
    assert hint in caught.value.hint
