# SPDX-License-Identifier: GPL-2.0-or-later
"""What a signal to memtrace means to the program, and a stop of the program to the shell."""

from __future__ import annotations

import os
import signal
from signal import SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGTSTP
from types import SimpleNamespace
from typing import cast

import pytest

from memtrace.collect import job as module
from memtrace.collect import ptrace
from memtrace.collect.engine import Engine
from memtrace.collect.job import Job

PROGRAM, CHILD, STRANGER, SELF = 100, 101, 900, -1
SI_USER, SI_KERNEL = 0, 0x80


class Stage:
    """A job of two processes; `sent` is what was sent to whom, SELF for a stop of the tracer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[int, int]] = []
        self.source = SI_USER, STRANGER
        self.news = False
        tracees = {pid: SimpleNamespace(pid=pid) for pid in (PROGRAM, CHILD)}
        self.engine = SimpleNamespace(
            root=PROGRAM, root_status=None, family=SimpleNamespace(tracees=tracees)
        )
        self.job = Job(cast("Engine", self.engine))
        monkeypatch.setattr(os, "kill", lambda pid, n: self.sent.append((pid, n)))
        monkeypatch.setattr(signal, "setitimer", lambda *_: None)
        monkeypatch.setattr(module, "_stop_like", lambda n: self.sent.append((SELF, n)))
        monkeypatch.setattr(ptrace, "signal_source", lambda _: self.source)
        monkeypatch.setattr(ptrace, "has_news", lambda: self.news)

    def stop(self, number: int, code: int, pid: int) -> None:
        self.source = code, pid
        self.job.delivered(PROGRAM, number)
        self.job.stopped(number)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.mark.parametrize("number", [SIGHUP, SIGTERM, SIGCONT])
def test_a_signal_to_the_tracer_alone_is_sent_on(stage: Stage, number: int) -> None:
    stage.job.sent(number)
    assert stage.sent == []  # the program may get its own any moment
    stage.job.step()
    stage.job.step()
    assert stage.sent == [(PROGRAM, number)]


@pytest.mark.parametrize("first", ["tracer", "program"])
def test_a_signal_to_both_is_not(stage: Stage, first: str) -> None:
    for who in (first, {"tracer": "program", "program": "tracer"}[first]):
        if who == "tracer":
            stage.job.sent(SIGTERM)
        else:
            stage.job.delivered(PROGRAM, SIGTERM)
    stage.job.step()
    assert stage.sent == []


def test_another_signal_is(stage: Stage) -> None:
    stage.job.delivered(PROGRAM, SIGINT)
    stage.job.sent(SIGTERM)
    stage.job.step()
    assert stage.sent == [(PROGRAM, SIGTERM)]


def test_nothing_is_done_while_a_stop_waits_to_be_seen(stage: Stage) -> None:
    stage.news = True
    stage.job.sent(SIGTERM)
    assert stage.job.step()
    assert stage.sent == []
    stage.job.delivered(PROGRAM, SIGTERM)  # that was it
    stage.news = False
    assert not stage.job.step()
    assert stage.sent == []


def test_the_third_interrupt_kills(stage: Stage) -> None:
    for _ in range(3):
        stage.job.delivered(PROGRAM, SIGINT)
        stage.job.sent(SIGINT)
        stage.job.step()
    assert stage.sent == [(PROGRAM, SIGKILL)]


def test_once_the_program_has_ended_the_rest_is_ended(stage: Stage) -> None:
    stage.engine.root_status = 0
    stage.job.sent(SIGTERM)
    assert sorted(stage.sent) == [(PROGRAM, SIGTERM), (CHILD, SIGTERM)]
    stage.job.suspended(SIGTSTP)
    assert stage.sent[-1] == (SELF, SIGTSTP)


@pytest.mark.parametrize(("number", "code", "pid", "shown"), [
    (SIGTSTP, SI_KERNEL, 0, True),  # ^Z
    (SIGTSTP, SI_USER, PROGRAM, True),  # its own handler of that
    (SIGSTOP, SI_USER, CHILD, True),
    (SIGSTOP, SI_USER, STRANGER, False),
    (SIGTSTP, SI_USER, STRANGER, False),
])  # fmt: skip
def test_whose_stop_is_the_shells_business(
    stage: Stage, *, number: int, code: int, pid: int, shown: bool
) -> None:
    stage.stop(number, code, pid)
    assert stage.sent == []
    stage.job.step()
    stage.job.step()
    assert stage.sent == ([(SELF, number)] if shown else [])


@pytest.mark.parametrize("first", ["tracer", "program"])
def test_a_stop_signal_to_both_is_the_jobs(stage: Stage, first: str) -> None:
    if first == "tracer":
        stage.job.suspended(SIGTSTP)
    stage.stop(SIGTSTP, SI_USER, STRANGER)
    if first == "program":
        stage.job.suspended(SIGTSTP)
    stage.job.step()
    assert stage.sent == [(SELF, SIGTSTP)]


def test_a_stop_that_is_over_is_not_shown(stage: Stage) -> None:
    stage.stop(SIGTSTP, SI_KERNEL, 0)
    stage.job.continued()
    stage.job.step()
    assert stage.sent == []


def test_the_program_is_continued_once(stage: Stage) -> None:
    stage.stop(SIGTSTP, SI_KERNEL, 0)
    stage.job.step()
    stage.job.sent(SIGCONT)
    stage.job.continued()  # it got its own
    stage.job.step()
    assert stage.sent == [(SELF, SIGTSTP)]
