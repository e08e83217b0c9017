# SPDX-License-Identifier: GPL-2.0-or-later
"""`--engine strace`: what strace says, with the maps of the very stops it says it at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.attaching import (
    assert_detached,
    assert_free,
    attach,
    attaching,
    threads,
    worker,
)
from tests.live.terminal import Terminal
from tests.live.tracing import (
    MEMTRACE,
    PATIENCE,
    Event,
    Traced,
    cli,
    environment,
    holders,
    running,
    state_of,
    trace,
    until,
)

from memtrace.collect.strace.command import version_of
from memtrace.trace.errors import TargetError
from memtrace.trace.reader import Trace
from memtrace.trace.records import Exec

STRACE = ("--engine", "strace")
BOTH = pytest.mark.parametrize("options", [STRACE, (*STRACE, "--no-seccomp")])

Run = Callable[..., Traced]


@pytest.fixture
def by_strace(run: Run) -> Run:
    def go(*argv: str | Path, options: tuple[str, ...] = (), **kw: object) -> Traced:
        return run(*argv, options=(*STRACE, *options), **kw)

    return go


@pytest.mark.parametrize(
    "name",
    ["heap-grow", "heap-shrink", "mapping-kinds", "thread-arenas", "threads-fight", "fork-tree",
     "exec-from-thread", "clone-vm", "self-maps", "threshold-moves"],
)  # fmt: skip
def test_a_sample_is_exact(by_strace: Run, samples: Path, name: str) -> None:
    done = by_strace(samples / name)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    with Trace(str(done.path)) as t:
        assert t.header.engine == "strace"


def test_the_programs_own_maps_are_those_of_the_trace(by_strace: Run, samples: Path) -> None:
    done = by_strace(samples / "self-maps")
    assert done.assert_marks(grown=True) > 10


def test_a_snapshot_after_every_call(by_strace: Run, samples: Path) -> None:
    done = by_strace(samples / "heap-shrink", options=("--snapshots", "every=1"))
    done.assert_exact()
    (process,) = done.replayed.processes
    assert process.snapshots >= process.events


@BOTH
def test_children_of_four_threads(run: Run, options: tuple[str, ...]) -> None:
    code = (
        "import os, threading\n"
        "def storm():\n"
        "    for n in range(20):\n"
        "        pid = os.fork()\n"
        "        if pid == 0: os._exit(n % 7)\n"
        "        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == n % 7\n"
        "threads = [threading.Thread(target=storm) for _ in range(4)]\n"
        "[t.start() for t in threads]\n"
        "[t.join() for t in threads]\n"
    )
    done = run("/usr/bin/python3", "-c", code, options=options)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    children = [p for p in done.replayed.processes if p.inherited]
    assert len(children) == 80
    assert {p.exit_code for p in children} == set(range(7))
    assert all(p.died_seq is not None for p in done.replayed.processes)


@BOTH
def test_programs_nobody_here_wrote(run: Run, options: tuple[str, ...]) -> None:
    done = run("bash", "-c", "ls / | wc -l; (exit 3); perl -e 'print 1'", options=options)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    names = {os.path.basename(p.exe) for p in done.replayed.processes}
    assert {"bash", "ls", "wc", "perl"} <= names
    assert done.stdout.split()[-1] == b"1"


@pytest.mark.parametrize(("script", "status"), [
    ("exit 7", 7), ("kill -KILL $$", -9), ("kill -SEGV $$", -11), ("kill -TERM $$", -15),
])  # fmt: skip
def test_the_programs_end_is_memtraces(by_strace: Run, script: str, status: int) -> None:
    done = by_strace("bash", "-c", script)
    assert done.returncode == status, done.stderr
    first = done.replayed.processes[0]
    assert (first.exit_code, first.exit_signal) == (
        (status, None) if status > 0 else (None, -status)
    )
    if status != -9:
        done.assert_exact()
    else:
        assert done.exactness in ("exact", "unverified")


def told(path: Path) -> list[Event]:
    lines = cli("events", path, "--format", "jsonl").stdout.splitlines()
    return [e for e in map(json.loads, lines) if e["call"] in ("brk", "mmap", "munmap")]


def test_callers_and_headers_are_as_the_ptrace_engines(run: Run, samples: Path) -> None:
    program = samples / "threshold-moves"
    ours, theirs = (told(run(program, options=options).path) for options in ((), STRACE))
    for key in ("call", "caller", "path"):
        assert [e.get(key) for e in ours] == [e.get(key) for e in theirs]
    assert [e.get("header", 0) & 2 for e in ours] == [e.get("header", 0) & 2 for e in theirs]
    assert any(e.get("header", 0) & 2 for e in theirs)


def test_a_failed_exec_and_a_failed_fork_are_calls(by_strace: Run) -> None:
    code = (
        "import os, resource\n"
        "try: os.execv('/no/such/program', ['x'])\n"
        "except FileNotFoundError: pass\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
        "try: os.fork()\n"
        "except BlockingIOError: pass\n"
    )
    done = by_strace("/usr/bin/python3", "-c", code)
    assert done.returncode == 0, done.stderr
    assert [e["errno"] for e in done.calls("execve")] == ["ENOENT"]
    assert [e["errno"] for e in done.calls("clone", "fork")] == ["EAGAIN"]


def test_signals_sent_to_memtrace_reach_the_program(tmp_path: Path, samples: Path) -> None:
    script = "trap 'exit 21' USR1; echo ready; while :; do sleep 0.05; done"
    with running(tmp_path / "t.json", ["bash", "-c", script], *STRACE) as r:
        assert r.process.stdout is not None
        assert r.process.stdout.readline() == b"ready\n"
        r.process.send_signal(signal.SIGUSR1)
        done = r.ended()
    assert done.returncode == 21, done.stderr
    done.assert_exact()


def test_the_program_runs_on_when_memtrace_is_killed(tmp_path: Path) -> None:
    script = "echo $$; for n in 1 2 3; do read -r line; /bin/true; done; exit 4"
    process = subprocess.Popen(
        [*_command(tmp_path / "t.json"), "--", "bash", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment(),
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        target = int(process.stdout.readline())
        until(lambda: [1] if b'"rec":"exec"' in (tmp_path / "t.json").read_bytes() else [])
        (writer,) = until(lambda: list(holders(tmp_path / "t.json")))[:1]
        process.kill()
        process.wait()
        process.stdin.write(b"a\nb\nc\n")
        process.stdin.close()
        until(lambda: [1] if state_of(target) in ("", "Z") else [])
        until(lambda: [1] if state_of(writer) in ("", "Z") else [])
    with Trace(str(tmp_path / "t.json")) as t:
        assert list(t.records())
        assert t.footer is not None
        assert not t.footer.complete


def tracer_of(pid: int) -> int:
    return threads(pid)[pid][1]


@BOTH
def test_a_killed_strace_is_not_the_programs_end(tmp_path: Path, options: tuple[str, ...]) -> None:
    with running(tmp_path / "t.json", ["sleep", "1000"], *options) as r:
        path = tmp_path / "t.json"
        until(lambda: [1] if path.exists() and b'"rec":"exec"' in path.read_bytes() else [])
        with Trace(str(path)) as t:
            (target,) = {x.pid for _, _, x in t.records() if isinstance(x, Exec)}
        try:
            os.kill(tracer_of(target), signal.SIGKILL)
            r.process.wait(PATIENCE)
        finally:
            os.kill(target, signal.SIGKILL)  # it has our pipes
        done = r.ended()
    assert done.returncode == 125
    sentence, remedy = done.stderr.splitlines()
    assert sentence.startswith(
        f"memtrace: strace was killed by SIGKILL before the end of process {target}: "
    )
    assert remedy.startswith(
        "  try: memtrace report" if "--no-seccomp" in options else f"  try: kill {target}"
    )
    assert done.exactness == "incomplete"


def test_attach_where_strace_is_sent_away(tmp_path: Path) -> None:
    with (
        worker(tmp_path, "attach_worker") as w,
        attaching(tmp_path / "t.json", w.pid, *STRACE) as a,
    ):
        a.begun()
        os.kill(tracer_of(w.pid), signal.SIGINT)
        done = a.ended()
        assert done.returncode == 125
        assert f"strace was killed by SIGINT before the end of process {w.pid}" in done.stderr
        assert done.exactness == "incomplete"
        assert_free(w.pid)
        w.goes_on()


def test_numbers_of_a_pid_namespace(by_strace: Run) -> None:
    if subprocess.run(["unshare", "-Urpf", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel has no user namespaces for everybody")
    code = (
        "import os, threading\n"
        "t = threading.Thread(target=os.getpid); t.start(); t.join()\n"
        "if os.fork() == 0: os._exit(4)\n"
        "os.wait()\n"
    )
    done = by_strace("unshare", "-Urpf", "/usr/bin/python3", "-c", code)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert [p.exit_code for p in done.replayed.processes] == [0, None, 0, 4]  # one execs
    assert not done.calls("attach")
    assert all(p.died_seq is not None for p in done.replayed.processes)


def test_a_fork_that_a_signal_interrupts_is_not_a_call(by_strace: Run) -> None:
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "for _ in range(40):\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.0001)\n"
        "    if os.fork() == 0: os._exit(0)\n"
        "    os.wait()\n"
    )
    done = by_strace("/usr/bin/python3", "-c", code)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert not done.calls("clone", "fork", ret=-513)


def test_suspending_a_program_that_first_puts_the_terminal_in_order(tmp_path: Path) -> None:
    with Terminal(tmp_path, *STRACE) as t:
        t.command("seq 1000 > numbers")
        t.type("memtrace less numbers\n")
        t.expect(r"\b23\b.*numbers")
        t.process("less", "S")
        t.type("\x1a")
        t.expect("Stopped")
        assert t.prompt() == 128 + signal.SIGTSTP
        t.type("fg\n")
        t.expect(r"\b23\b")
        t.type("q")
        assert t.prompt() == 0
        t.traced().assert_exact()


def _command(path: Path) -> list[str]:
    return [*MEMTRACE, "run", "-o", str(path), *STRACE]


# -- attach ---------------------------------------------------------------------------------------


def test_attach_and_leave(tmp_path: Path) -> None:
    with (
        worker(tmp_path, "attach_worker") as w,
        attaching(tmp_path / "t.json", w.pid, *STRACE) as a,
    ):
        a.begun()
        w.goes_on()
        done = a.left()
        assert_detached(done)
        assert done.calls("mmap", "munmap", "brk")
        assert_free(w.pid)
        w.goes_on()


def test_attach_is_not_stopped_and_not_sent_away_by_every_signal(tmp_path: Path) -> None:
    with (
        worker(tmp_path, "attach_worker") as w,
        attaching(tmp_path / "t.json", w.pid, *STRACE) as a,
    ):
        a.begun()
        for number in (signal.SIGTSTP, signal.SIGTTOU, signal.SIGCONT, signal.SIGUSR1):
            a.process.send_signal(number)
            w.goes_on()
            assert a.process.poll() is None
        assert_detached(a.left())
        assert_free(w.pid)


def test_attach_to_one_that_sleeps(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as sleeper:
        done = attach(tmp_path / "t.json", sleeper.pid, *STRACE, "--for", "200ms")
        assert_detached(done)
        assert_free(sleeper.pid)
        sleeper.kill()


def test_attach_to_one_that_ends(tmp_path: Path) -> None:
    code = "import sys\nsys.stdin.read()\nb = bytearray(1 << 20)\nsys.exit(5)"
    with subprocess.Popen(["/usr/bin/python3", "-c", code], stdin=subprocess.PIPE) as target:
        with attaching(tmp_path / "t.json", target.pid, *STRACE) as a:
            a.begun()
            assert target.stdin is not None
            target.stdin.close()
            done = a.ended()
        assert done.returncode == 0, done.stderr
        assert "exit 5" in done.stderr
        done.assert_exact()
        assert target.wait() == 5


# -- where it cannot be ---------------------------------------------------------------------------


@pytest.fixture
def no_strace(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bash").symlink_to("/bin/bash")
    return folder


def test_without_strace(tmp_path: Path, no_strace: Path) -> None:
    done = trace(tmp_path / "t.json", ["/bin/true"], *STRACE, env={"PATH": str(no_strace)})
    assert done.returncode == 125
    assert done.stderr.splitlines() == [
        "memtrace: the strace engine needs strace, and there is none in PATH",
        "  try: apt install strace",
    ]
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize(("says", "sentence"), [
    ("echo 'strace -- version 4.24'", "strace 4.24 is too old: the strace engine needs 5.0"),
    ("echo 'something else'", "does not say its version like strace"),
    ("""[ "$1" = -V ] && echo 'strace -- version 6.1' || exit 1""", "traced nothing"),
])  # fmt: skip
def test_with_a_strace_that_cannot(
    tmp_path: Path, no_strace: Path, says: str, sentence: str
) -> None:
    fake = no_strace / "strace"
    fake.write_text(f"#!/bin/sh\n{says}\n")
    fake.chmod(0o755)
    path = f"{no_strace}:{os.environ['PATH']}"
    done = trace(tmp_path / "t.json", ["/bin/true"], *STRACE, env={"PATH": path})
    assert done.returncode == 125
    first, second = done.stderr.splitlines()[-2:]
    assert first.startswith("memtrace: ")
    assert sentence in first
    assert second.startswith("  try: ")
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize(("program", "code"), [("/no/such/program", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_run(by_strace: Run, program: str, code: int) -> None:
    done = by_strace(program)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 2


def test_versions() -> None:
    assert version_of("strace", b"strace -- version 6.17\nCopyright") == (6, 17)
    assert version_of("strace", b"strace -- version 5.10.1-dirty") == (5, 10)
    with pytest.raises(TargetError, match="too old"):
        version_of("strace", b"strace -- version 4.26\n")
