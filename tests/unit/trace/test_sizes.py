# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes and times as text, exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.trace.sizes import exact_time, parse_size, parse_time


@given(st.integers(0, 1 << 62))
def test_a_time_is_what_its_digits_say(ns: int) -> None:
    assert parse_time(f"{ns // 10**9}.{ns % 10**9:09}s") == ns
    assert parse_time(f"{ns // 10**6}.{ns % 10**6:06}ms") == ns
    assert parse_time(f"{ns // 10**3}.{ns % 10**3:03}us") == ns
    assert parse_time(f"{ns}ns") == ns


@given(st.integers(0, 1 << 62))
def test_an_exact_time_is_read_again_as_it_was(ns: int) -> None:
    assert parse_time(exact_time(ns)) == ns


@pytest.mark.parametrize("text", ["1.5 MS", "1.5ms", "1500US", "0.0015S"])
def test_the_case_of_a_unit_does_not_matter(text: str) -> None:
    assert parse_time(text) == 1_500_000


def test_a_time_that_a_float_would_lose_a_nanosecond_of() -> None:
    assert parse_time("0.031855220s") == 31_855_220
    assert parse_time("1.9999999999s") == 1_999_999_999


@pytest.mark.parametrize(("text", "size"), [("-1.5k", -1536), ("0.3m", 314572), ("-0.1b", 0)])
def test_a_size_is_what_its_digits_say(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["9" * 400 + "s", "9" * 5000 + "s", "1.", ".5s", "1e3s", "5\u017f", "\u0665s"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_time(text)
