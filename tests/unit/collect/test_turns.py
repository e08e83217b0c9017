# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking turns, as a state machine: nobody is ever left waiting, whatever dies and whenever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from memtrace.collect import turns
from memtrace.collect.tracee import Mm, Tracee
from memtrace.collect.turns import LIMIT_NS

PTRACE_SYSCALL, PTRACE_GET_SYSCALL_INFO = 24, 0x420E


class Turns(RuleBasedStateMachine):
    """The engine's use of turns: a tracee asks once, runs when told, leaves or dies."""

    idle = Bundle("idle")

    @initialize()
    def start(self) -> None:
        self.mm = Mm(1, 100)
        self.now = 0
        self.queued: list[Tracee] = []  # as the model has them: first come, first served
        self.running: list[Tracee] = []
        self.tids = 100

    def _runs(self, tracee: Tracee | None) -> None:
        """What the engine does with whoever it is handed: let it into its call."""
        if tracee is not None:
            assert tracee is self.queued.pop(0)
            self._starts(tracee)

    def _starts(self, tracee: Tracee) -> None:
        tracee.t0 = self.now
        self.running.append(tracee)

    @rule(target=idle)
    def born(self) -> Tracee:
        self.tids += 1
        return Tracee(self.tids, 100, self.mm)

    @rule(tracee=consumes(idle))
    def enters(self, tracee: Tracee) -> None:
        if turns.enter(tracee):
            self._starts(tracee)
        else:
            self.queued.append(tracee)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), target=idle)
    def leaves(self, data: st.DataObject) -> Tracee:
        tracee = data.draw(st.sampled_from(self.running))
        self.running.remove(tracee)
        self._runs(turns.leave(tracee))
        return tracee

    @precondition(lambda self: self.running + self.queued)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        tracee = data.draw(st.sampled_from(self.running + self.queued))
        if tracee in self.queued:
            self.queued.remove(tracee)
            assert turns.leave(tracee) is None
        else:
            self.running.remove(tracee)
            self._runs(turns.leave(tracee))
        # The engine leaves at the exit event and again at the exit status.
        assert turns.leave(tracee) is None

    @rule(tracee=consumes(idle))
    def dies_outside(self, tracee: Tracee) -> None:
        assert turns.leave(tracee) is None

    @rule(passed=st.sampled_from([1, LIMIT_NS // 2, LIMIT_NS]))
    def time_passes(self, passed: int) -> None:
        self.now += passed
        holder = self.mm.holder
        late = holder is not None and self.queued and self.now - holder.t0 >= LIMIT_NS
        going = turns.overdue(self.mm, self.now)
        assert (going is not None) == bool(late)
        if going is not None:
            assert holder in self.mm.overlapping
            assert self.mm.disordered
        self._runs(going)

    @invariant()
    def one_holder_and_all_others_overlap(self) -> None:
        holder = [] if self.mm.holder is None else [self.mm.holder]
        assert len(self.running) == len(holder) + len(self.mm.overlapping)
        assert set(self.running) == {*holder, *self.mm.overlapping}
        assert list(self.mm.waiting) == self.queued

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        assert self.mm.holder is not None or not self.mm.waiting

    @invariant()
    def alone_means_no_other_call_runs(self) -> None:
        for tracee in self.running:
            assert turns.alone(tracee) == (self.running == [tracee])

    def teardown(self) -> None:
        """When all leave, every one that asked gets in."""
        if not hasattr(self, "running"):
            return
        while self.running:
            tracee = self.running.pop()
            self._runs(turns.leave(tracee))
        assert not self.queued
        assert self.mm.holder is None
        assert not self.mm.overlapping


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def two() -> tuple[Mm, Tracee, Tracee]:
    mm = Mm(1, 100)
    return mm, Tracee(100, 100, mm), Tracee(101, 100, mm)


def test_different_address_spaces_do_not_wait_for_each_other() -> None:
    a, b = Tracee(1, 1, Mm(1, 1)), Tracee(2, 2, Mm(2, 2))
    assert turns.enter(a)
    assert turns.enter(b)


def test_the_first_to_wait_is_the_first_to_go() -> None:
    mm, a, b = two()
    c = Tracee(102, 100, mm)
    assert [turns.enter(t) for t in (a, b, c)] == [True, False, False]
    assert turns.leave(a) is b
    assert turns.leave(b) is c
    assert turns.leave(c) is None


def test_a_call_is_set_aside_at_the_limit_and_not_before() -> None:
    mm, a, b = two()
    turns.enter(a)
    a.t0 = 1000
    assert turns.overdue(mm, 1000 + 10 * LIMIT_NS) is None  # nobody waits
    turns.enter(b)
    assert turns.overdue(mm, 1000 + LIMIT_NS - 1) is None
    assert not mm.disordered
    assert turns.overdue(mm, 1000 + LIMIT_NS) is b
    assert mm.disordered
    assert not turns.alone(a)
    assert not turns.alone(b)
    # b's end does not make a's call end; a's own does.
    assert turns.leave(b) is None
    assert turns.alone(a)
    assert turns.leave(a) is None
    assert not mm.overlapping


@pytest.mark.parametrize(
    ("stands_at", "answer", "let_in"),
    [
        pytest.param(1, 0, True, id="at an entry"),
        pytest.param(3, 0, True, id="at a filtered entry"),
        pytest.param(0, 0, False, id="at its exit event: killed while it waited"),
        pytest.param(None, 0, False, id="no longer stopped"),
        pytest.param(3, -1, False, id="killed in between"),
    ],
)
def test_only_who_still_stands_at_its_entry_is_let_in(
    monkeypatch: pytest.MonkeyPatch, stands_at: int | None, answer: int, *, let_in: bool
) -> None:
    asked: list[int] = []

    def request(what: int, tid: int, size: int, data: Any) -> int:
        asked.append(what)
        assert tid == 100
        if what == PTRACE_SYSCALL:
            assert (size, data) == (0, 0)  # no signal is delivered
            return answer
        assert what == PTRACE_GET_SYSCALL_INFO
        data[0] = 0xC000003E << 32 | (stands_at or 0)
        return -1 if stands_at is None else 88

    stub: Callable[..., int] = request
    monkeypatch.setattr(turns, "request", stub)
    _, a, _ = two()
    before = time.monotonic_ns()
    turns.proceed(a)
    assert (PTRACE_SYSCALL in asked) == (stands_at in {1, 3})
    assert before <= a.t0 <= time.monotonic_ns()
    assert a.killed is not let_in
