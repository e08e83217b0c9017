# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages go out in the order in which calls began, and none waits for a call for ever."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from memtrace.collect.abi import Role
from memtrace.collect.channel import Channel
from memtrace.collect.strace.sequence import Sequence
from memtrace.collect.strace.turns import Turns
from memtrace.collect.tracee import Mm, Tracee
from memtrace.collect.turns import LIMIT_NS


@pytest.fixture
def out() -> bytearray:
    return bytearray()


@pytest.fixture
def sequence(out: bytearray) -> Sequence:
    real = SimpleNamespace(out=out, wishes=None, start_ns=0, flush=lambda: None)
    return Sequence(cast("Channel", real))


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call's time limit is over."""
    ahead = time.monotonic_ns() + LIMIT_NS + 1
    clock: Any = SimpleNamespace(monotonic_ns=lambda: ahead, sleep=time.sleep)
    monkeypatch.setattr("memtrace.collect.strace.turns.time", clock)


def test_a_message_stands_where_its_call_began(sequence: Sequence, out: bytearray) -> None:
    sequence.send(b"a")
    first = sequence.place()
    sequence.send(b"c")
    second = sequence.place()
    sequence.send(b"e")
    sequence.settle(second, b"d")
    assert out == b"a"
    sequence.settle(first, b"b")
    assert out == b"abcde"
    sequence.send(b"f")
    assert out == b"abcdef"


def test_what_is_sent_into_a_place_is_there(sequence: Sequence, out: bytearray) -> None:
    place = sequence.place()
    sequence.send(b"2")
    with sequence.into(place):
        sequence.send(b"1")
    sequence.send(b"3")
    assert out == b""
    sequence.settle(place)
    assert out == b"123"


def test_a_call_that_takes_long_keeps_nothing_waiting(
    sequence: Sequence, out: bytearray, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = Turns(sequence, lambda mm: [], lambda tid: False)
    slow = Tracee(7, 7, Mm(1, 7))
    order.enter(slow)
    sequence.send(b"of another process")
    order.give_up_late()
    assert out == b""
    later(monkeypatch)
    order.give_up_late()
    assert out == b"of another process"
    order.settle(slow, b", its own at last")
    assert out == b"of another process, its own at last"


NOBODY = 1 << 22  # a task that does not exist: it has come to the end of its call


def two_of_one_mm(sequence: Sequence) -> tuple[Turns, Tracee, Tracee]:
    mm = Mm(1, 7)
    first, second = Tracee(NOBODY, 7, mm), Tracee(NOBODY + 1, 7, mm)
    first.role = second.role = Role.FORK
    return Turns(sequence, lambda _: [first, second], lambda _: False), first, second


def test_a_call_that_took_long_still_comes_before_the_next_of_its_mm(
    sequence: Sequence, out: bytearray, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, slow, next_one = two_of_one_mm(sequence)
    order.enter(slow)
    with monkeypatch.context() as patch:
        later(patch)
        order.give_up_late()
    order.enter(next_one)  # the slow one has ended, and strace has not said so
    order.settle(next_one, b"second ")
    order.settle(slow, b"first ")
    assert out == b"first second "
    assert not slow.mm.disordered


def test_two_calls_of_one_mm_that_lose_their_places_overlap(
    sequence: Sequence, out: bytearray, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, slow, next_one = two_of_one_mm(sequence)
    order.enter(slow)
    order.enter(next_one)
    later(monkeypatch)
    order.give_up_late()
    order.settle(next_one, b"as told")
    assert slow.mm.disordered
    assert out.count(b'"overlap"') == 1
    assert f'"tids":[{NOBODY},{NOBODY + 1}]'.encode() in out
    assert out.endswith(b"as told")
