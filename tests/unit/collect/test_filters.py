# SPDX-License-Identifier: GPL-2.0-or-later
"""Who stops at every call, because of a seccomp filter that has a listener, and who does not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from tests.unit.collect.messages import entry_of

from memtrace.collect import filters, turns
from memtrace.collect.filters import Listeners, kept_out
from memtrace.collect.tracee import Mm, Tracee

CONT, SYSCALL, INTERRUPT = 7, 24, 0x4207
SECCOMP, SET_MODE_FILTER, TSYNC, NEW_LISTENER = 317, 1, 1, 8
FD, MINUS_EFAULT = 5, (1 << 64) - 14


class World:
    """Three threads of a process and another process, and what was asked of the kernel."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.went_on: list[int] = []
        mm = Mm(1, 100)
        self.a, self.b, self.c = (Tracee(tid, 100, mm) for tid in (100, 101, 102))
        self.other = Tracee(200, 200, Mm(2, 200))
        self.all = [self.a, self.b, self.c, self.other]
        self.listeners = Listeners()

    def request(self, what: int, tid: int, _address: int, _data: object) -> int:
        self.asked.append((what, tid))
        return 0

    def calls(self, tracee: Tracee, flags: int, op: int = SET_MODE_FILTER) -> None:
        tracee.entry[:] = entry_of(SECCOMP, [op, flags, 0x1000])
        self.listeners.enters(tracee, self.all)

    def watched(self) -> list[int]:
        return [t.tid for t in self.all if t.every_call]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    request: Callable[..., int] = made.request
    monkeypatch.setattr(filters, "request", request)
    monkeypatch.setattr(filters, "registers", lambda _tid: None)
    monkeypatch.setattr(turns, "proceed", lambda t: made.went_on.append(t.tid))
    return made


def test_only_its_caller_gets_a_filter(world: World) -> None:
    world.calls(world.a, NEW_LISTENER)
    assert world.asked == [(SYSCALL, 100)]
    world.listeners.over(world.a, FD)
    assert world.watched() == [100]
    assert not world.listeners


def test_one_that_is_refused_changes_nothing(world: World) -> None:
    world.calls(world.a, NEW_LISTENER)
    world.listeners.over(world.a, MINUS_EFAULT)
    assert world.watched() == []
    world.calls(world.a, NEW_LISTENER)
    world.listeners.over(world.a, FD)
    world.calls(world.a, NEW_LISTENER)  # a second one is always refused
    world.listeners.over(world.a, MINUS_EFAULT)
    assert world.watched() == [100]


def test_other_calls_of_seccomp_go_on(world: World) -> None:
    world.calls(world.a, TSYNC)
    world.calls(world.a, NEW_LISTENER, op=2)
    assert world.asked == [(CONT, 100)] * 2
    assert world.watched() == []
    assert not world.listeners


def test_all_threads_stop_before_they_get_it(world: World) -> None:
    world.b.pending = True  # in a recorded call, at whose end it stops anyway
    world.calls(world.a, NEW_LISTENER | TSYNC)
    assert world.asked == [(INTERRUPT, 102)]
    assert world.watched() == [100, 101, 102]
    world.listeners.stopped(world.other)
    assert world.went_on == []
    world.listeners.stopped(world.c)
    assert world.went_on == [100]
    assert not world.listeners


def test_what_a_thread_has_goes_to_the_others(world: World) -> None:
    world.a.every_call = True
    world.calls(world.a, TSYNC)
    assert world.asked == [(INTERRUPT, 101), (INTERRUPT, 102)]
    world.listeners.stopped(world.b)
    world.listeners.stopped(world.c)
    assert world.went_on == [100]
    assert world.watched() == [100, 101, 102]


def test_a_refusal_that_comes_after_all_have_got_it(world: World) -> None:
    world.calls(world.b, NEW_LISTENER)
    world.calls(world.a, NEW_LISTENER | TSYNC)
    world.listeners.over(world.b, MINUS_EFAULT)
    assert world.watched() == [100, 101, 102]


def test_a_stop_at_a_call_is_a_stop(world: World) -> None:
    world.calls(world.a, NEW_LISTENER | TSYNC)
    world.b.entry[:] = entry_of(9, [0, 4096, 3, 0x22])
    world.listeners.step()
    assert world.went_on == []
    world.c.t0 += 1  # the same call as before, again
    world.listeners.step()
    assert world.went_on == [100]


def test_nobody_waits_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.calls(world.a, NEW_LISTENER | TSYNC)
    world.listeners.step()
    assert world.went_on == []
    late = time.monotonic_ns() + turns.LIMIT_NS + 1
    monkeypatch.setattr(time, "monotonic_ns", lambda: late)
    world.listeners.step()
    assert world.went_on == [100]


def test_a_caller_that_is_killed_while_it_waits_is_left_alone(world: World) -> None:
    world.calls(world.a, NEW_LISTENER | TSYNC)
    world.listeners.stopped(world.a)
    world.listeners.stopped(world.b)
    world.listeners.stopped(world.c)
    assert world.went_on == []
    assert not world.listeners


def test_a_call_was_kept_out_if_there_is_a_sigsys() -> None:
    me = os.getpid()
    assert not kept_out(me, 135, 0)
    assert not kept_out(me, 135, 135)  # a result
    assert kept_out(me, 135, 135, signal.SIGSYS | 0x80)
    assert not kept_out(me, 135, 135, signal.SIGKILL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSYS])
    signal.pthread_kill(threading.get_ident(), signal.SIGSYS)
    try:
        assert kept_out(me, 135, 135)
        assert not kept_out(me, 135, 136)
    finally:
        signal.sigwait([signal.SIGSYS])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
