# SPDX-License-Identifier: GPL-2.0-or-later
"""Under odd limits, without standard descriptors, out of memory, stopped and continued."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.live.hard import build, checked, told
from tests.live.tracing import (
    PATIENCE,
    Traced,
    account_of,
    cli,
    command,
    environment,
    running,
    state_of,
    until,
)

from memtrace.trace.reader import Trace
from memtrace.trace.records import Exec

BOTH = pytest.mark.parametrize("options", [(), ("--no-seccomp",)], ids=["filter", "no-seccomp"])
MIB = 1 << 20


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("hard"))


# -- what it starts with -------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
def test_without_standard_descriptors(
    tmp_path: Path, program: Path, closed: tuple[int, ...]
) -> None:
    path, account = tmp_path / "t.json", tmp_path / "account"
    move = " ".join(f"{fd}>&-" for fd in closed)
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" 3>"$0" {move}', account, *command(path, [program, "standard"])],
        env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    traced = Traced(path, done.returncode, b"", done.stderr, account_of(account))
    checked(traced, 1)
    assert [e["flags"] == -1 for e in told(traced, "standard")] == [fd in closed for fd in range(3)]
    # Nothing of memtrace's went where the trace or a pipe has got the free number.
    assert cli("verify", path).returncode == 0
    assert done.stdout == ""
    assert ("exact" in done.stderr) == (2 not in closed)


def test_a_program_that_cannot_be_started_without_standard_descriptors(tmp_path: Path) -> None:
    words = command(tmp_path / "t.json", ["/no/such/program"])
    done = subprocess.run(
        ["bash", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "bash", *words],
        env=environment(), check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 127
    assert not list(tmp_path.iterdir())


def test_a_megabyte_of_arguments_and_one_of_environment(
    run: Callable[..., Traced], program: Path
) -> None:
    arguments = [f"{i:06d}" + "x" * 100_000 for i in range(10)]
    env = {f"LARGE_{i}": "y" * 100_000 for i in range(8)} | {"MALLOC_ARENA_MAX": "3"}
    done = checked(run(program, "kinds", *arguments, env=env), 2)
    with Trace(str(done.path)) as trace:
        (begun,) = [record for _, _, record in trace.records() if isinstance(record, Exec)]
    assert begun.argv == [str(program), "kinds", *arguments]
    assert begun.env["MALLOC_ARENA_MAX"] == "3"
    assert not any(name.startswith("LARGE") for name in begun.env)


@pytest.mark.parametrize(("limit", "value"), [
    ("NOFILE", 30), ("AS", 40 * MIB), ("STACK", 64 << 10), ("DATA", 8 * MIB), ("MEMLOCK", 0),
    ("FSIZE", 1 << 20),
])  # fmt: skip
def test_under_a_limit(
    run: Callable[..., Traced], program: Path, limit: str, value: int
) -> None:  # fmt: skip
    # The limit is the program's; memtrace lives under it only where it was there before.
    number = getattr(resource, f"RLIMIT_{limit}")
    code = "import os, resource, sys; resource.setrlimit(int(sys.argv[1]), (int(sys.argv[2]),) * 2)"
    words = [f"{code}; os.execv(sys.argv[3], sys.argv[3:])", str(number), str(value)]
    done = run("/usr/bin/python3", "-c", *words, program, "kinds")
    checked(done, 2)
    if limit in {"AS", "DATA", "STACK", "MEMLOCK"}:
        with Trace(str(done.path)) as trace:
            *_, begun = [record for _, _, record in trace.records() if isinstance(record, Exec)]
        assert begun.rlimits[limit] == value


# -- killed for its memory -----------------------------------------------------------------------


@pytest.fixture
def crowded() -> Iterator[Path | None]:
    """A memory cgroup (v2 or v1) of 48 MiB below our own, None where none can be made."""
    made = next(filter(None, map(memory_cgroup, own_cgroups())), None)
    yield made
    if made is not None:
        made.rmdir()


def own_cgroups() -> Iterator[Path]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            yield Path("/sys/fs/cgroup", controllers, path.lstrip("/"))


def memory_cgroup(parent: Path) -> Path | None:
    """A child of it with a limit, if it takes one."""
    if not (parent / "cgroup.procs").exists():
        return None
    made = parent / f"memtrace-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError:
        return None
    limits = {
        "memory.max": 48 * MIB, "memory.swap.max": 0,
        "memory.limit_in_bytes": 48 * MIB, "memory.memsw.limit_in_bytes": 48 * MIB,
    }  # fmt: skip
    there = [name for name in limits if (made / name).exists()]
    try:
        for name in there:
            (made / name).write_text(str(limits[name]))
    except OSError:
        there = []
    if not there:
        made.rmdir()
        return None
    return made


def test_killed_because_memory_is_full(
    run: Callable[..., Traced], program: Path, crowded: Path | None
) -> None:
    if crowded is not None:
        words = ["sh", "-c", 'echo $$ > "$1"/cgroup.procs && exec "$0" all-memory']
        done = run(*words, program, str(crowded))
    else:  # no cgroup to be had: as it looks to the tracer
        done = run(program, "much-memory")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.replayed.complete, done.sentence
    assert done.exactness != "drift", done.sentence
    eaten = len(done.told("eaten"))
    assert eaten >= 10
    mapped = [e for e in done.calls("mmap", ret=None) if e["args"][1] == MIB]
    whole = [e for e in done.calls("mmap") if e["args"][1] == MIB and e["ret"] is not None]
    assert eaten <= len(whole) <= eaten + 1
    assert len(mapped) <= 1
    assert done.replayed.processes[-1].exit_signal == signal.SIGKILL
    if crowded is not None:
        v1 = crowded / "memory.oom_control"
        events = v1 if v1.exists() else crowded / "memory.events"
        assert "oom_kill 1" in events.read_text()


# -- stopped and continued -----------------------------------------------------------------------


def stopped(pid: int) -> None:
    until(lambda: [1] if state_of(pid) in "Tt" else [])


def states(pid: int) -> set[str]:
    """The states of all its threads."""
    return {state_of(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}


@BOTH
def test_a_program_of_many_threads_is_stopped_and_continued(
    tmp_path: Path, samples: Path, options: tuple[str, ...]
) -> None:
    # Each thread takes part in the group stop, and each is to LISTEN until SIGCONT.
    argv: list[str | Path] = [samples / "threads-fight", "1", "8", "600"]
    with running(tmp_path / "t.json", argv, *options) as r:
        target = r.account("start")[0]["pid"]
        for _ in range(5):
            os.kill(target, signal.SIGSTOP)
            until(lambda: [1] if states(target) <= {"t", "T"} or not state_of(target) else [])
            os.kill(target, signal.SIGCONT)
            until(lambda: [1] if not states(target) <= {"t", "T"} else [])
        done = r.ended()
    checked(done, 1)


@BOTH
def test_the_tracer_is_stopped_and_continued(
    tmp_path: Path, samples: Path, options: tuple[str, ...]
) -> None:
    with running(tmp_path / "t.json", [samples / "self-maps", "1", "4000", "2000"], *options) as r:
        target = r.target()
        for n in range(1, 5):
            r.account("call", 400 * n)
            r.process.send_signal(signal.SIGSTOP)
            stopped(r.process.pid)
            # It gets no further than its next call.
            stopped(target)
            r.process.send_signal(signal.SIGCONT)
        done = r.ended()
    checked(done, 2)


def test_the_writer_is_stopped_and_continued(tmp_path: Path, samples: Path) -> None:
    with running(tmp_path / "t.json", [samples / "self-maps", "1", "9000", "9000"]) as r:
        r.account("call", 100)
        writer = r.writer()
        os.kill(writer, signal.SIGSTOP)
        stopped(writer)
        # The pipe to it fills up: the tracer waits in write(2), and the program for the tracer.
        syscall = Path(f"/proc/{r.process.pid}/syscall")
        until(lambda: [1] if syscall.read_text().startswith("1 ") else [])
        stopped(r.target())
        os.kill(writer, signal.SIGCONT)
        done = r.ended()
    checked(done, 1)
