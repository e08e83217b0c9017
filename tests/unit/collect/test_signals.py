# SPDX-License-Identifier: GPL-2.0-or-later
"""The timer by which the tracer's loop flushes, seeds and leaves: no tick is lost for good."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from memtrace.collect.channel import Channel, Wishes
from memtrace.collect.engine import Engine
from memtrace.collect.options import Options
from memtrace.collect.signals import leave_on_signals, stop_ticking

_OURS = (
    signal.SIGALRM, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE,
)  # fmt: skip


@pytest.fixture
def engine() -> Iterator[Engine]:
    before = {number: signal.getsignal(number) for number in _OURS}
    out, into = os.pipe()
    yield Engine(Channel(into, Wishes()), Options())
    stop_ticking()
    for number, handler in before.items():
        signal.signal(number, handler)
    os.close(out)
    os.close(into)


class Ticks:
    """Counts them."""

    def __init__(self) -> None:
        self.count = 0

    def tick(self) -> bool:
        self.count += 1
        return False


def test_a_tick_that_went_unnoticed_is_made_up(engine: Engine) -> None:
    """A signal just before waitpid begins to wait interrupts nothing: here it does nothing."""
    ticks = Ticks()
    leave_on_signals(engine, ticks.tick)
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.pause()
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0, "no other will come"
    engine.idle[0] = True
    signal.signal(signal.SIGALRM, handler)
    while not ticks.count:
        signal.pause()


def test_a_tick_that_finds_the_loop_busy_is_left_to_it(engine: Engine) -> None:
    ticks = Ticks()
    leave_on_signals(engine, ticks.tick)
    while not engine.tick_due[0]:
        signal.pause()
    assert ticks.count == 0
    engine.when_due()
    assert ticks.count == 1
