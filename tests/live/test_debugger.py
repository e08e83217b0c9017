# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine `python-ptrace`: one thread of one process, told truly; beyond that the recording ends
and the program does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.hard import build, checked, told
from tests.live.terminal import Terminal
from tests.live.tracing import Traced, cli, running, state_of, until

from memtrace.trace.reader import Trace
from memtrace.trace.records import Exec, Lost

ENGINE = ("--engine", "python-ptrace")

#: Waits on stdin, makes a mapping, waits again; a SIGCONT handler tells of itself.
STANDS = """
import mmap, os, signal
signal.signal(signal.SIGCONT, lambda *_: os.write(1, b"cont\\n"))
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"usr1\\n"))
os.write(1, b"ready %d\\n" % os.getpid())
while os.read(0, 1):
    mmap.mmap(-1, 7 << 20).close()
    os.write(1, b"mapped\\n")
"""


@pytest.fixture
def hard(run: Callable[..., Traced], tmp_path: Path) -> Callable[..., Traced]:
    """A case of hard_cases.c under this engine."""
    program = build(tmp_path)

    def go(case: str) -> Traced:
        return run(program, case, options=ENGINE)

    return go


def left(done: Traced, why: str) -> Traced:
    """The recording ended before the program, which the trace and the user were told."""
    assert done.exactness == "incomplete", done.sentence
    assert [p.exact for p in done.replayed.processes] == [1], done.sentence
    with Trace(str(done.path)) as trace:
        lost = [record.why for _, _, record in trace.records() if isinstance(record, Lost)]
    assert lost == [f"{why}, which the python-ptrace engine does not follow"]
    assert f"memtrace: {why}, which" in done.stderr
    assert "try: memtrace run -- " in done.stderr
    return done


@pytest.mark.parametrize("case", ["kinds", "filter-errno", "filter-trace", "filter-trap"])
def test_programs_of_one_thread_are_exact(hard: Callable[..., Traced], case: str) -> None:
    done = hard(case)
    checked(done, len(done.told("mark")))
    assert done.told("mark")
    assert cli("verify", done.path).returncode == 0


def test_the_header_says_who_recorded_it(run: Callable[..., Traced]) -> None:
    done = run("true", options=ENGINE)
    with Trace(str(done.path)) as trace:
        assert trace.header.engine == "python-ptrace"


def test_programs_that_become_others(run: Callable[..., Traced]) -> None:
    done = run("sh", "-c", "exec env A=1 sh -c 'exit 7'", options=ENGINE)
    assert done.returncode == 7, done.stderr
    done.assert_exact()
    with Trace(str(done.path)) as trace:
        execs = [record for _, _, record in trace.records() if isinstance(record, Exec)]
    assert [os.path.basename(e.argv[0]) for e in execs] == ["sh", "env", "sh"]
    assert done.calls("execve")[0]["errno"] == "ENOENT" or len(done.calls("execve")) == 0


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("thread-arenas", "clone3"), ("fork-tree", "clone"), ("clone-vm", "clone"),
        ("exec-from-thread", "clone3"),
    ],
)  # fmt: skip
def test_a_second_task_ends_the_recording_and_not_the_program(
    run: Callable[..., Traced], samples: Path, name: str, call: str
) -> None:
    done = run(samples / name, options=ENGINE)
    assert done.returncode == 0, done.stderr
    assert done.told("end"), done.account
    left(done, f"the program has called {call}")


def test_the_status_of_a_program_that_runs_on(run: Callable[..., Traced]) -> None:
    done = run("bash", "-c", "true & wait; exit 9", options=ENGINE)
    left(done, "the program has called clone")
    assert done.returncode == 9
    done = run("bash", "-c", "true & wait; kill -TERM $$", options=ENGINE)
    assert done.returncode == -signal.SIGTERM


def test_calls_of_other_tables_end_the_recording(hard: Callable[..., Traced]) -> None:
    done = hard("int80")
    assert done.returncode == 0
    if done.told("no-i386"):
        pytest.skip("this kernel has no IA32_EMULATION")
    left(done, "the program has made a call of the i386 interface")
    done = hard("x32")
    assert done.returncode == 0
    assert told(done, "x32")
    left(done, "the program has made a call of the x32 interface")


def test_32_bit_programs(run: Callable[..., Traced], tmp_path: Path) -> None:
    program, source = tmp_path / "i386", tmp_path / "i386.c"
    source.write_text(
        'void _start(void) { __asm__("int $0x80" :: "a"(1), "b"(5)); for (;;); }'  # exit(5)
    )
    flags = ["-m32", "-nostdlib", "-static", "-fno-pie", "-no-pie"]
    subprocess.run(["gcc", *flags, source, "-o", program], check=True)
    done = run(program, options=ENGINE)
    assert done.returncode == 125
    assert "is a 32-bit program, which the python-ptrace engine cannot decode" in done.stderr
    assert not done.path.exists()
    done = run("env", program, options=ENGINE)
    assert done.returncode == 5, done.stderr
    assert "the program has become a 32-bit one" in done.stderr
    assert done.exactness == "incomplete"


def test_it_cannot_attach() -> None:
    refused = cli("attach", "--engine", "python-ptrace", 1)
    assert refused.returncode == 2
    assert "the python-ptrace engine cannot attach" in refused.stderr


@pytest.mark.parametrize("name", ["SEGV", "TERM", "KILL", "TRAP"])
def test_killed_by_a_signal(run: Callable[..., Traced], name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    done = run("bash", "-c", f"ulimit -c 0; kill -{name} $$", options=ENGINE)
    assert done.returncode == -number, done.stderr
    assert f"killed by SIG{name}" in done.stderr
    done.assert_exact()
    (ended,) = done.calls("exit")
    assert ended["signal"] == number


def test_a_sigtrap_of_its_own_is_delivered(run: Callable[..., Traced]) -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGTRAP, lambda *_: os.write(1, b'trap'));"
        "os.kill(os.getpid(), signal.SIGTRAP)"
    )
    done = run(sys.executable, "-c", code, options=ENGINE)
    assert (done.returncode, done.stdout) == (0, b"trap")
    done.assert_exact()


def test_stopped_and_continued_while_it_is_traced(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STANDS]
    with running(tmp_path / "t.json", argv, *ENGINE, stdin=subprocess.PIPE) as r:
        out, keys = r.process.stdout, r.process.stdin
        assert out is not None
        assert keys is not None
        pid = int(out.readline().split()[1])
        os.kill(pid, signal.SIGSTOP)
        # In a group stop nothing is pending; at the stop before the signal is delivered there is no
        # telling, so it is asked to do something, and does not.
        until(lambda: [1] if state_of(pid) == "t" else [])
        keys.write(b"x")
        keys.flush()
        os.kill(pid, signal.SIGUSR1)
        until(lambda: [1] if pending(pid) & 1 << signal.SIGUSR1 - 1 else [])
        assert state_of(pid) == "t"
        os.kill(pid, signal.SIGCONT)
        said = {out.readline() for _ in range(3)}
        assert said == {b"cont\n", b"usr1\n", b"mapped\n"}
        done = r.ended()
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert [e for e in done.calls("mmap") if e["args"][1] == 7 << 20]


def test_under_a_shell_with_job_control(tmp_path: Path) -> None:
    with Terminal(tmp_path, *ENGINE) as t:
        t.type("memtrace cat\n")
        t.process("cat")
        t.type("one\n")
        t.expect("one.*one")
        t.type("\x1a")
        assert t.prompt() == 128 + signal.SIGTSTP
        t.expect_job("Stopped")
        t.type("fg\n")
        t.expect("cat")
        t.type("two\n")
        t.expect("two.*two")
        t.type("\x03")
        assert t.prompt() == 128 + signal.SIGINT
        t.traced().assert_exact()


def test_a_tracer_that_is_killed_leaves_the_program_alone(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STANDS]
    with running(tmp_path / "t.json", argv, *ENGINE, stdin=subprocess.PIPE) as r:
        out, keys = r.process.stdout, r.process.stdin
        assert out is not None
        assert keys is not None
        assert out.readline().startswith(b"ready")
        r.process.kill()
        keys.write(b"x")
        keys.flush()
        assert out.readline() == b"mapped\n"
        done = r.ended()
    assert done.exactness == "incomplete"


def test_what_memtrace_is_sent_the_program_gets(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STANDS]
    with running(tmp_path / "t.json", argv, *ENGINE, stdin=subprocess.PIPE) as r:
        assert r.process.stdout is not None
        assert r.process.stdout.readline().startswith(b"ready")
        r.process.send_signal(signal.SIGUSR1)
        assert r.process.stdout.readline() == b"usr1\n"
        r.process.send_signal(signal.SIGTERM)
        done = r.ended()
    assert done.returncode == -signal.SIGTERM
    done.assert_exact()


@pytest.mark.parametrize(
    ("argv", "code"), [(("/nonexistent",), 127), (("/etc/passwd",), 126), (("/dev",), 126)]
)
def test_what_cannot_be_run(run: Callable[..., Traced], argv: tuple[str, ...], code: int) -> None:
    done = run(*argv, options=ENGINE)
    assert done.returncode == code
    assert not done.path.exists()


@pytest.mark.parametrize("how", ["every=1", "off"])
def test_snapshots_are_as_asked_for(run: Callable[..., Traced], samples: Path, how: str) -> None:
    done = run(samples / "mapping-kinds", options=(*ENGINE, "--snapshots", how))
    done.assert_exact()
    (process,) = done.replayed.processes
    assert process.snapshots == (len(done.calls()) + 1 if how == "every=1" else 1)


def pending(pid: int) -> int:
    """The signals that wait to be delivered to a process."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return int(fields["ShdPnd"], 16) | int(fields["SigPnd"], 16)
