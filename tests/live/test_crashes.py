# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever dies, and whenever: no target is left stopped, no trace poses as complete, none lies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.tracing import (
    MEMTRACE,
    PATIENCE,
    Running,
    Traced,
    account_of,
    cli,
    command,
    environment,
    holders,
    running,
    state_of,
    until,
)

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


#: A tree of which each process does something else: maps in threads, stands stopped, sleeps, forks.
GROVE = """
import os, signal, sys, threading, time, mmap
def churn():
    while True:
        mmap.mmap(-1, 300000).close()
def tell(what):
    os.write(3, b'{"what": "%s", "pid": %d}\\n' % (what, os.getpid()))
if os.fork() == 0:
    tell(b"begin")
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
if os.fork() == 0:
    tell(b"begin")
    while True:
        if os.fork() == 0:
            os._exit(0)
        os.wait()
threading.Thread(target=churn, daemon=True).start()
tell(b"begin")
while True:
    tell(b"turn")
    time.sleep(0.005)
"""
POINTS: dict[str, Callable[[Running], object]] = {
    "the first moment": lambda r: r.account("begin", 1),
    "a child is stopped": lambda r: until(
        lambda: [e for e in r.account("begin", 3) if state_of(e["pid"]) in "tT"]
    ),
    "in the middle": lambda r: until(
        lambda: [1] if r.account("begin", 3) and r.path.stat().st_size > 50_000 else []
    ),
}


def assert_nothing_is_left(r: Running) -> None:
    """Of all that told a pid, and of all that the trace or the account is open in, nobody lives."""
    pids = {e["pid"] for e in account_of(r.told)}
    until(lambda: [1] if not any(state_of(p).strip("Z") for p in pids) else [])
    until(lambda: [1] if not [*holders(r.path), *holders(r.told)] else [])


def crash(r: Running, victim: str) -> Traced:
    """Kill the tracer, the writer, both (the writer first) or the program, in the midst of it."""
    writer = r.writer()
    if victim in {"writer", "both"}:
        os.kill(writer, signal.SIGKILL)
    if victim in {"tracer", "both"}:
        r.process.kill()
    if victim == "writer":
        r.account("turn", len(r.account("turn")) + 5)  # the program runs on
    if victim in {"writer", "target"}:
        for pid in sorted({e["pid"] for e in account_of(r.told)}):
            os.kill(pid, signal.SIGKILL)
    return r.ended()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("victim", ["tracer", "writer", "both"])
def test_a_tree_whose_tracer_or_writer_is_killed(tmp_path: Path, victim: str, point: str) -> None:
    with running(tmp_path / "t.json", ["/usr/bin/python3", "-c", GROVE]) as r:
        POINTS[point](r)
        done = crash(r, victim)
        assert_nothing_is_left(r)
    assert "Traceback" not in done.stderr
    if victim == "writer":
        assert "the trace is incomplete: the writer process died" in done.stderr
    # What was not yet written when the writer died is lost: that may be all.
    begun = point == "in the middle"
    assert_readable_and_incomplete(r.path, 20 if begun else 0)
    for verb in (["report"], ["events"], ["maps", "--at", "end"]):
        shown = cli(verb[0], r.path, *verb[1:])
        assert "Traceback" not in shown.stderr
        if begun or verb[0] != "maps":
            assert shown.returncode == 0, shown.stderr
            assert "incomplete" in shown.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("batch", range(10))
def test_a_tree_is_crashed_at_any_moment(tmp_path: Path, batch: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"random.Random({seed})")  # noqa: T201 - shown where it fails
    chance = random.Random(seed)
    for n in range(10):
        options = chance.choice(((), ("--no-seccomp",)))
        path = tmp_path / f"{n}{chance.choice(('.json', '.json.gz', '.json.zst'))}"
        victim = chance.choice(("tracer", "writer", "both", "target"))
        with running(path, ["/usr/bin/python3", "-c", GROVE], *options) as r:
            r.account("begin", 3)
            time.sleep(chance.uniform(0, 0.3))
            done = crash(r, victim)
            assert_nothing_is_left(r)
        assert "Traceback" not in done.stderr
        if victim == "target":
            assert done.replayed.complete, done.sentence
            assert not trust.drifted(done.replayed), done.sentence
        else:
            assert_readable_and_incomplete(path, 0)
        assert cli("report", path).returncode == 0


def test_the_folder_of_the_trace_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for code in (0, 6):
        folder.mkdir()
        done = cli("run", "-o", folder / "t.json", "--", "sh", "-c", f"rm -r {folder}; exit {code}")
        assert done.returncode == (code or 125)
        *_, said, hint = done.stderr.splitlines()
        assert said.startswith("memtrace: the trace is incomplete: cannot write ")
        assert said.endswith("it was removed while it was written")
        assert hint == f"  try: ls -ld {tmp_path}"
        assert "wrote" not in done.stderr


@pytest.mark.parametrize("arguments", [
    (7, ["--", "sh", "-c", "exit 7"]), (127, ["--", "/no/such/program"]), (2, ["--no-such-option"]),
    (127, ["--debug", "--", "/no/such/program"]),
])  # fmt: skip
def test_nobody_reads_what_memtrace_says(tmp_path: Path, arguments: tuple[int, list[str]]) -> None:
    code, words = arguments
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [*MEMTRACE, "run", "-o", tmp_path / "t.json", *words],
            stderr=pipe, env=environment(), check=False, timeout=PATIENCE,
        )  # fmt: skip
    assert done.returncode == code
    if code == 7:
        assert cli("verify", tmp_path / "t.json").returncode == 0


@pytest.mark.parametrize("code", [0, 8])
def test_a_trace_into_a_pipe_that_is_closed(tmp_path: Path, samples: Path, code: int) -> None:
    script = f"exec >&-; {samples / 'syscall-churn'} mmap 5 1000 >&2; exit {code}"
    with subprocess.Popen(
        command(Path("/dev/stdout"), ["sh", "-c", script]), env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as memtrace:  # fmt: skip
        assert memtrace.stdout is not None
        assert memtrace.stdout.read(20).startswith(b'[{"memtrace"')
        memtrace.stdout.close()
        assert memtrace.stderr is not None
        said = memtrace.stderr.read().decode()
        assert memtrace.wait(PATIENCE) == (code or 125)
    assert "the trace is incomplete: cannot write /dev/stdout: broken pipe" in said
    assert "Traceback" not in said


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
