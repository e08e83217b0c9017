# SPDX-License-Identifier: GPL-2.0-or-later
"""What `memtrace attach` takes on its command line: a process, and for how long."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.collect.options import NEVER, Options, parse_for, parse_pid, parse_snapshots
from memtrace.trace.errors import UsageError
from memtrace.trace.records import Manner
from memtrace.trace.sizes import parse_time


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("30s", 30 * 10**9),
        ("1.5s", 1_500_000_000),
        ("20ms", 20_000_000),
        ("1ns", 1),
        ("10m", 600 * 10**9),
        ("2h", 7200 * 10**9),
        (" 5 s ", 5 * 10**9),
    ],
)
def test_how_long(text: str, ns: int) -> None:
    assert parse_for(text) == ns


@pytest.mark.parametrize(
    ("text", "cause", "hint"),
    [
        ("30", "takes a time", "--for 30s"),
        ("0", "takes a time", "--for 30s, or --for 10m"),
        ("-3s", "takes a time", "--for 30s, or --for 10m"),
        ("inf", "takes a time", "--for 30s, or --for 10m"),
        ("nan s", "takes a time", "--for 30s, or --for 10m"),
        ("", "takes a time", "--for 30s, or --for 10m"),
        ("soon", "takes a time", "--for 30s, or --for 10m"),
        ("1e3s", "takes a time", "--for 30s, or --for 10m"),
        ("9" * 400 + "s", "takes a time", "--for 30s, or --for 10m"),
        ("9" * 5000, "takes a time", "--for 30s, or --for 10m"),
        ("0s", "no time at all", "--for 30s"),
        ("0.1ns", "no time at all", "--for 30s"),
        ("9" * 20 + "h", "longer than a century", "leave --for out"),
        (f"{NEVER}ns", "longer than a century", "leave --for out"),
    ],
)
def test_nonsense_is_no_time(text: str, cause: str, hint: str) -> None:
    with pytest.raises(UsageError, match="--for cannot be") as e:
        parse_for(text)
    assert cause in e.value.message
    assert e.value.hint.startswith(hint)
    assert e.value.exit_code == 2
    assert len(e.value.message) < 120
    if e.value.hint == "--for 30s":
        assert parse_for("30s")


def outcome(parse: Callable[[str], int], text: str) -> int | UsageError:
    try:
        return parse(text)
    except UsageError as e:
        return e


def assert_said_in_one_line(error: UsageError) -> None:
    assert error.message.isprintable()
    assert error.hint.isprintable()
    assert error.hint


@given(st.text() | st.from_regex(r"\A[0-9.+-]{0,12} ?(ns|us|ms|s|m|h|d)?\Z"))
def test_any_text_is_a_time_ahead_or_an_error(text: str) -> None:
    found = outcome(parse_for, text)
    if isinstance(found, int):
        assert 0 < found < NEVER
        assert found == parse_time(text)
    else:
        assert_said_in_one_line(found)


@pytest.mark.parametrize(
    ("text", "pid"), [("1", 1), ("77", 77), ("0077", 77), ("4194304", 1 << 22)]
)
def test_a_process_id(text: str, pid: int) -> None:
    assert parse_pid(text) == pid


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0", "ps -e"),
        ("-5", "ps -e"),
        ("99999999999", "ps -e"),
        ("9" * 5000, "ps -e"),
        ("redis-server", "pgrep -a redis-server"),
        ("my server", "pgrep -a 'my server'"),
        ("1.5", "pgrep -a 1.5"),
        ("\u0663", "pgrep -a '\u0663'"),
        ("", "pgrep -a ''"),
    ],
)
def test_what_no_process_is_called(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="is no process id") as e:
        parse_pid(text)
    assert e.value.hint == hint
    assert e.value.exit_code == 2


@given(st.text() | st.from_regex(r"\A[+-]?[0-9]{1,12}\Z"))
def test_any_text_is_a_process_id_or_an_error(text: str) -> None:
    found = outcome(parse_pid, text)
    if isinstance(found, int):
        assert found == int(text) > 0
        return
    assert_said_in_one_line(found)
    if found.hint.startswith("pgrep -a "):
        assert shlex.split(found.hint)[2:] == [text[:40]]


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "default"), ("off", "off"), ("every=64", "every=64"), ("every=1.5ms", "every=1500us"),
     ("every=2s", "every=2s"), ("every=100ms", "every=100ms")],
)  # fmt: skip
def test_the_header_tells_how_it_was_recorded(text: str | None, told: str) -> None:
    snapshots: dict[str, Any] = dict(parse_snapshots(text))
    options = Options(**snapshots, evidence=False, redact=True)
    assert options.manner() == Manner(evidence=False, snapshots=told, heap_walk=False, redact=True)
