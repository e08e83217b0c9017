# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever dies, and whenever: no target is left stopped, no trace poses as complete, none lies."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.tracing import PATIENCE, Traced, cli, running, state_of, until

from memtrace.replay import trust

MANY = "1000000"
TREE = """
import os, sys, time, threading, mmap
for _ in range(2):
    if os.fork() == 0:
        break
def churn():
    while True:
        mmap.mmap(-1, 300000).close()
threading.Thread(target=churn, daemon=True).start()
os.write(3, b'{"what": "begin", "pid": %d}\\n' % os.getpid())
time.sleep(1000)
"""


def assert_readable_and_incomplete(path: Path, at_least: int = 1) -> Traced:
    done = Traced(path, 0, b"", "", [])
    assert done.exactness == "incomplete", done.sentence
    assert len(done.calls()) >= at_least
    assert not any(p.drifted for p in done.replayed.processes), done.sentence
    verified = cli("verify", path)
    assert verified.returncode == 3
    assert verified.stdout.startswith("incomplete: "), verified.stdout
    return done


@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zst"])
def test_the_tracer_is_killed(tmp_path: Path, suffix: str) -> None:
    with running(tmp_path / f"t{suffix}", ["/usr/bin/python3", "-c", TREE]) as r:
        pids = [e["pid"] for e in r.account("begin", 3)]
        writer = r.writer()
        time.sleep(0.3)
        r.process.kill()
        assert r.process.wait(PATIENCE) == -signal.SIGKILL
        # PTRACE_O_EXITKILL: the tree cannot live, its filtered calls would fail.
        until(lambda: [1] if not any(state_of(p).strip("Z") for p in pids) else [])
        until(lambda: [1] if not state_of(writer).strip("Z") else [])
        done = assert_readable_and_incomplete(r.path, 100)
    assert "tracer was killed" in done.sentence or "no footer" in done.sentence
    assert {e["pid"] for e in done.calls("mmap")} >= set(pids)


def test_the_writer_is_killed(tmp_path: Path, samples: Path) -> None:
    with running(tmp_path / "t.json", [samples / "self-maps", "1", "20000", "20000"]) as r:
        r.account("call", 3000)
        os.kill(r.writer(), signal.SIGKILL)
        done = r.ended()
    assert done.returncode == 125
    assert "the trace is incomplete: the writer process died" in done.stderr
    assert "Traceback" not in done.stderr
    # The program ran on to its end, and it ended well.
    assert done.account[-1]["what"] == "end"
    assert "exit 0" in done.stderr
    assert_readable_and_incomplete(r.path, 100)


@pytest.mark.parametrize("options", [(), ("--no-seccomp",)])
def test_the_target_is_killed(tmp_path: Path, samples: Path, options: tuple[str, ...]) -> None:
    with running(tmp_path / "t.json", [samples / "self-maps", "1", MANY, MANY], *options) as r:
        target = r.target()
        r.account("call", 500)
        os.kill(target, signal.SIGKILL)
        done = r.ended()
    assert done.returncode == -signal.SIGKILL
    assert "killed by SIGKILL" in done.stderr
    assert done.replayed.complete, done.sentence
    assert done.exactness != "drift", done.sentence
    (process,) = done.replayed.processes
    assert (process.pid, process.exit_signal) == (target, signal.SIGKILL)
    assert cli("verify", done.path).returncode == 0
    told = [tuple(e["args"]) for e in done.told("call") if e["call"] == "munmap"]
    assert set(told) <= {tuple(e["args"]) for e in done.calls("munmap")}


@pytest.mark.parametrize("batch", range(4))
def test_threads_are_killed_in_the_middle_of_calls(
    tmp_path: Path, samples: Path, batch: int
) -> None:
    delay = random.Random(batch)
    for n in range(5):
        argv: list[str | Path] = [samples / "threads-fight", f"{batch * 5 + n}", "8", MANY]
        with running(tmp_path / f"t{n}.json", argv) as r:
            target = r.account("start")[0]["pid"]
            time.sleep(delay.uniform(0.0, 0.15))
            os.kill(target, signal.SIGKILL)
            done = r.ended()
        assert done.returncode == -signal.SIGKILL
        assert state_of(target) == ""
        # Whether the last call of a thread was made may never be known: SIGKILL ends any stop. That
        # matters to nobody, for nothing happens afterwards; and it must not look like a wrong map.
        assert done.replayed.complete, done.sentence
        assert not trust.drifted(done.replayed), done.sentence


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("batch", range(100, 120))
def test_threads_are_killed_many_times(tmp_path: Path, samples: Path, batch: int) -> None:
    test_threads_are_killed_in_the_middle_of_calls(tmp_path, samples, batch)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_memtrace_is_passed_on(tmp_path: Path, name: str) -> None:
    script = (
        f"trap 'exit 33' {name[3:]}; "
        """echo "{\\"what\\": \\"begin\\", \\"pid\\": $$}" >&3; while :; do sleep 0.02; done"""
    )
    with running(tmp_path / "t.json", ["bash", "-c", script]) as r:
        r.target()
        r.process.send_signal(signal.Signals[name])
        done = r.ended()
    assert done.returncode == 33
    done.assert_exact()


def test_a_signal_passed_on_that_kills(tmp_path: Path, samples: Path) -> None:
    with running(tmp_path / "t.json", [samples / "self-maps", "1", MANY, MANY]) as r:
        r.target()
        r.process.send_signal(signal.SIGTERM)
        done = r.ended()
    assert done.returncode == -signal.SIGTERM
    done.assert_exact()


def test_an_interrupt_of_the_terminal_is_the_programs_to_answer(tmp_path: Path) -> None:
    script = (
        "trap 'exit 34' INT; "
        """echo "{\\"what\\": \\"begin\\", \\"pid\\": $$}" >&3; while :; do sleep 0.02; done"""
    )
    with running(tmp_path / "t.json", ["bash", "-c", script], start_new_session=True) as r:
        r.target()
        os.killpg(r.process.pid, signal.SIGINT)  # as the terminal does
        done = r.ended()
    assert done.returncode == 34
    done.assert_exact()


def test_a_stopped_program_stays_stopped_and_goes_on(tmp_path: Path, samples: Path) -> None:
    with running(tmp_path / "t.json", [samples / "self-maps", "1", "4000", "2000"]) as r:
        target = r.target()
        os.kill(target, signal.SIGSTOP)
        until(lambda: [1] if state_of(target) in "Tt" else [])
        time.sleep(0.2)
        length = r.told.stat().st_size
        time.sleep(0.2)
        assert r.told.stat().st_size == length
        os.kill(target, signal.SIGCONT)
        done = r.ended()
    assert done.returncode == 0
    done.assert_exact()
    assert done.assert_marks() == 2


def test_a_child_killed_leaves_the_rest_exact(run: Callable[..., Traced]) -> None:
    script = "for i in 1 2 3 4; do (while :; do :; done) & kill -KILL $!; done; wait; exit 8"
    done = run("bash", "-c", script)
    assert done.returncode == 8
    assert done.replayed.complete
    assert done.exactness == "exact", done.sentence
    killed = [p for p in done.replayed.processes if p.exit_signal == signal.SIGKILL]
    assert len(killed) == 4


def test_a_program_killed_before_it_did_anything(tmp_path: Path) -> None:
    done = cli("run", "-q", "-o", tmp_path / "t.json", "--", "sh", "-c", "kill -KILL $$")
    assert done.returncode == -signal.SIGKILL
    assert cli("verify", tmp_path / "t.json").returncode == 0
