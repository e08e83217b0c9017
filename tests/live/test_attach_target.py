# SPDX-License-Identifier: GPL-2.0-or-later
"""The target of an attach cannot tell: its data, its forks, its sleeps, its signals are what they
were; a stopped one stays stopped, and one that runs is never left standing.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from tests.live.attaching import (
    Worker,
    assert_detached,
    assert_free,
    attaching,
    threads,
    worker,
)
from tests.live.tracing import until


@pytest.mark.parametrize("mode", [("work", 4), ("forks",), ("idle", 1000)])
def test_three_times(tmp_path: Path, mode: tuple[object, ...]) -> None:
    with worker(tmp_path, "attach_worker", *mode) as t:
        rounds = 0 if mode[0] == "idle" else 3
        t.goes_on(rounds)
        for i, number in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            with attaching(tmp_path / f"t{i}.json", t.pid) as a:
                a.begun()
                t.goes_on(rounds)
                done = a.left(number)
            assert_free(t.pid)
            t.goes_on(rounds)
            assert_detached(done)
        t.ends_well()


ROUNDS = 4


@pytest.mark.parametrize("limit_ms", [70, 1])
def test_calls_that_wait(tmp_path: Path, limit_ms: int) -> None:
    with worker(tmp_path, "attach_waits", "quiet", limit_ms) as t:
        t.goes_on()
        for i in range(ROUNDS):
            with attaching(tmp_path / f"t{i}.json", t.pid) as a:
                a.begun()
                t.goes_on(1)
                done = a.left()
            assert_free(t.pid)
            t.goes_on(1)
            assert_detached(done)
        t.ends_well()
        assert not t.account("odd")
        # A transfer of which a part is done ends with that: at the attach, and at the detach if
        # it begins just then.
        for call in {e["call"] for e in t.account("short")}:
            assert sum(e["call"] == call for e in t.account("short")) <= 2 * ROUNDS, call


def test_ignored_signals_while_calls_wait(tmp_path: Path) -> None:
    # Without a tracer they would break off nothing. Every time limit is reached.
    with worker(tmp_path, "attach_waits", "ignored") as t:
        t.goes_on()
        with attaching(tmp_path / "t.json", t.pid) as a:
            a.begun()
            t.goes_on(5)
            assert not t.account("odd")
            done = a.left()
        assert_free(t.pid)
        assert_detached(done)
        t.goes_on()
        t.ends_well()


def test_calls_that_wait_for_a_signal(tmp_path: Path) -> None:
    with worker(tmp_path, "attach_waits", "signalled") as t:
        for i in range(ROUNDS):
            t.goes_on(20)
            with attaching(tmp_path / f"t{i}.json", t.pid) as a:
                a.begun()
                t.goes_on(20)
                done = a.left()
            assert_free(t.pid)
            assert_detached(done)
        t.goes_on(20)
        t.ends_well()
        assert not t.account("odd")


def test_signals_and_timers(tmp_path: Path) -> None:
    with worker(tmp_path, "attach_signals") as t:
        for i in range(ROUNDS):
            t.goes_on(200)
            with attaching(tmp_path / f"t{i}.json", t.pid) as a:
                a.begun()
                t.goes_on(200)
                done = a.left()
            assert_free(t.pid)
            assert_detached(done)
        t.goes_on(200)
        t.ends_well()
        last = t.account("count")[-1]
        assert min(last["alarms"], last["ticks"], last["slept"]) > 0


# -- stopped processes ---------------------------------------------------------------------------


def stop(t: Worker) -> None:
    os.kill(t.pid, signal.SIGSTOP)
    until(lambda: [1] if all(state in "tT" for state, _ in threads(t.pid).values()) else [])


def assert_stopped(t: Worker) -> None:
    """It is, by nobody but the signal, and nothing of it moves."""
    # The kernel wakes a tracee that it lets go, to stop again (`__ptrace_unlink`).
    until(lambda: [1] if all(found == ("T", 0) for found in threads(t.pid).values()) else [])
    before = len(t.account("count"))
    time.sleep(0.1)
    assert len(t.account("count")) == before


def cont(t: Worker) -> None:
    os.kill(t.pid, signal.SIGCONT)
    t.goes_on()


@pytest.mark.parametrize("mode", ["work", "idle"])
def test_stopped_before_and_after(tmp_path: Path, mode: str) -> None:
    with worker(tmp_path, "attach_worker", mode, 4) as t:
        t.goes_on(0)
        stop(t)
        with attaching(tmp_path / "t.json", t.pid) as a:
            a.begun()
            done = a.left()
        assert_stopped(t)
        assert_detached(done)
        os.kill(t.pid, signal.SIGCONT)
        t.goes_on(3 if mode == "work" else 0)
        t.ends_well()


def test_stopped_before_and_continued_while_attached(tmp_path: Path) -> None:
    with worker(tmp_path, "attach_worker", "work", 4) as t:
        t.goes_on()
        stop(t)
        with attaching(tmp_path / "t.json", t.pid) as a:
            a.begun()
            cont(t)
            done = a.left()
        assert_free(t.pid)
        assert_detached(done)
        assert done.calls()
        t.goes_on()
        t.ends_well()


def test_stopped_and_continued_while_attached(tmp_path: Path) -> None:
    with worker(tmp_path, "attach_worker", "work", 4) as t:
        t.goes_on()
        with attaching(tmp_path / "t.json", t.pid) as a:
            a.begun()
            for _ in range(3):
                stop(t)
                cont(t)
            stop(t)
            done = a.left()
        assert_stopped(t)
        assert_detached(done)
        cont(t)
        t.ends_well()


@pytest.mark.parametrize("moment", ["attach", "detach"])
def test_stopped_at_the_same_moment(tmp_path: Path, moment: str) -> None:
    chance = random.Random(1)
    with worker(tmp_path, "attach_worker", "work", 4) as t:
        for i in range(4):
            t.goes_on()
            with attaching(tmp_path / f"t{i}.json", t.pid) as a:
                if moment == "attach":
                    until(
                        lambda: [1] if any(tracer for _, tracer in threads(t.pid).values()) else []
                    )
                    time.sleep(chance.uniform(0, 0.01))
                    os.kill(t.pid, signal.SIGSTOP)
                    a.begun()
                    a.process.send_signal(signal.SIGINT)
                else:
                    a.begun()
                    a.process.send_signal(signal.SIGINT)
                    time.sleep(chance.uniform(0, 0.003))
                    os.kill(t.pid, signal.SIGSTOP)
                done = a.ended()
            assert_stopped(t)
            assert_detached(done)
            cont(t)
        t.ends_well()


# -- how memtrace is told to leave ---------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU])
def test_a_stop_key_does_not_freeze_the_target(tmp_path: Path, number: signal.Signals) -> None:
    with worker(tmp_path, "attach_worker", "work", 4) as t:
        with attaching(tmp_path / "t.json", t.pid) as a:
            a.begun()
            a.process.send_signal(number)
            t.goes_on()
            done = a.left()
        assert_free(t.pid)
        assert_detached(done)
        t.ends_well()


@pytest.mark.parametrize("mode", [("work", 16), ("idle", 1000)])
def test_told_to_leave_while_it_takes_hold(tmp_path: Path, mode: tuple[str, int]) -> None:
    chance = random.Random(2)
    with worker(tmp_path, "attach_worker", *mode) as t:
        for i in range(4):
            t.goes_on(0)
            path = tmp_path / f"t{i}.json"
            with attaching(path, t.pid) as a:
                until(lambda: [1] if any(tracer for _, tracer in threads(t.pid).values()) else [])
                for _ in range(2):  # pressed twice
                    time.sleep(chance.uniform(0, 0.01))
                    a.process.send_signal(signal.SIGINT)
                done = a.ended()
            assert_free(t.pid)
            assert "Traceback" not in done.stderr
            if done.returncode:
                assert done.returncode == 125, done.stderr
                assert "told to leave before the map" in done.stderr, done.stderr
                assert not path.exists()
            else:
                assert_detached(done)
        t.goes_on(3 if mode[0] == "work" else 0)
        t.ends_well()


def test_pressed_twice(tmp_path: Path) -> None:
    with worker(tmp_path, "attach_worker", "work", 4) as t:
        for i in range(4):
            with attaching(tmp_path / f"t{i}.json", t.pid) as a:
                a.begun()
                a.process.send_signal(signal.SIGINT)
                time.sleep(i * 0.003)
                a.process.send_signal(signal.SIGINT)
                done = a.ended()
            assert_free(t.pid)
            assert_detached(done)
        t.goes_on()
        t.ends_well()


def test_the_target_ends_at_the_same_moment(tmp_path: Path) -> None:
    chance = random.Random(3)
    for i in range(8):
        (folder := tmp_path / str(i)).mkdir()
        with worker(folder, "attach_worker", "work", 4) as t:
            t.goes_on(1)
            with attaching(folder / "t.json", t.pid) as a:
                a.begun()
                a.process.send_signal(signal.SIGINT)
                time.sleep(chance.uniform(0, 0.004))
                t.ends_well()
                done = a.ended()
            assert done.returncode == 0, done.stderr
            done.assert_exact()
