# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs nobody here wrote read their own maps and mark the moment (`selfmaps.c`); the trace
gives the same map at each mark. Nothing of it rests on the tracer's own snapshots: they are off.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.live.attaching import attaching, built
from tests.live.programs import PROGRAMS
from tests.live.selfmaps import EINVAL, Marks, assert_marks, preloaded
from tests.live.test_attach_services import free_port, needs, served
from tests.live.test_corpus import answers, benchmark, goes_on, half_way, said
from tests.live.tracing import Traced, running, until

from memtrace.replay.engine import replay
from memtrace.space.canonical import canonical
from memtrace.trace.reader import Trace

Run = Callable[..., Traced]
OFF = ("--snapshots", "off")
SLOW = pytest.mark.slow
#: One thread each: the order of calls is what strace shows.
BY_STRACE = ("gcc", "perl", "sqlite3", pytest.param("bash", marks=SLOW))


def with_marks(folder: Path, every: int, calls: int, argv: tuple[str, ...]) -> tuple[str, ...]:
    """The command line of a program that dumps its maps into `folder`; memtrace itself does not."""
    settings = preloaded(folder, every, calls)
    return ("env", *(f"{k}={v}" for k, v in settings.items()), *argv)


def marked(run: Run, folder: Path, name: str, *options: str) -> tuple[Traced, Marks]:
    program = PROGRAMS[name]
    program.present()
    m, to = program.marks, folder / "dumps"
    done = run(*with_marks(to, m.every, m.calls, program.argv), options=options, cwd=folder)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    return done, assert_marks(done, to, m.least)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_map_a_program_read_is_the_replayed_one(run: Run, tmp_path: Path, name: str) -> None:
    done, marks = marked(run, tmp_path, name, *OFF)
    # All of these are dynamically linked: each that has executed a program has marks, but for env.
    executed = {e["pid"] for e in done.calls("exec")}
    assert executed <= {pid for pid, _ in marks.equal | dict.fromkeys(marks.crossed)}


@pytest.mark.parametrize("name", BY_STRACE)
def test_the_same_of_a_trace_made_by_strace(run: Run, tmp_path: Path, name: str) -> None:
    marked(run, tmp_path, name, "--engine", "strace", *OFF)


@pytest.mark.parametrize("name", ["perl", "python"])
def test_the_same_without_the_filter(run: Run, tmp_path: Path, name: str) -> None:
    marked(run, tmp_path, name, "--no-seccomp", *OFF)


@pytest.mark.parametrize(
    "name",
    ["python", "perl", "node", *(pytest.param(n, marks=SLOW) for n in ("bash", "gcc"))],
)
def test_the_same_joined_half_way(tmp_path: Path, name: str) -> None:
    program = PROGRAMS[name]
    m, to, path = program.marks, tmp_path / "dumps", tmp_path / "t.json"
    argv = with_marks(to, m.every // 5, m.calls, program.argv)
    with (
        half_way(replace(program, argv=argv), tmp_path) as t,
        attaching(path, t.pid, *OFF) as a,
    ):
        a.begun()
        goes_on(t)
        done = a.ended()
        assert t.ended() == 0
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert_marks(done, to, 20, part=True)


def fuzzed_with_marks(run: Run, folder: Path, seed: int, threads: int, rounds: int) -> None:
    # Its own marks stand where all threads wait; these where the others go on mapping.
    print("seed:", seed)  # noqa: T201 - what a failure needs to be seen again
    to, argv = folder / "dumps", (built("fuzz"), seed, threads, rounds, 60)
    done = run(*with_marks(to, 0, 1, tuple(map(str, argv))), options=OFF)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    marks = assert_marks(done, to, 100)
    assert marks.crossed, "no mark was crossed by another thread's call: the threads do not fight"
    assert done.assert_marks() >= rounds


@pytest.mark.parametrize("seed", range(1, 4))
def test_threads_and_forks_that_map_at_random(run: Run, tmp_path: Path, seed: int) -> None:
    fuzzed_with_marks(run, tmp_path, seed, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(500, 508))
def test_more_threads_and_forks(run: Run, tmp_path: Path, seed: int) -> None:
    fuzzed_with_marks(run, tmp_path, seed, 8, 8)


def test_redis_under_its_benchmark(tmp_path: Path) -> None:
    needs("redis-benchmark")
    port, to = free_port(), tmp_path / "dumps"
    argv = ("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path))
    words = with_marks(to, 2000, 5, (*argv, "--save", ""))
    with running(tmp_path / "t.json", words, *OFF) as r:
        until(lambda: [1] if answers(port) else [])
        benchmark(port)
        said(port, "shutdown", "nosave")
        done = r.ended()
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    marks = assert_marks(done, to, 100)
    assert len({pid for pid, _ in marks.equal}) == 3  # it and the two that saved


@pytest.mark.slow
def test_redis_joined_under_its_benchmark(tmp_path: Path) -> None:
    needs("redis-benchmark")
    port, to = free_port(), tmp_path / "dumps"
    argv = ("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path))
    with served(list(with_marks(to, 2000, 5, (*argv, "--save", ""))), tmp_path) as server:
        until(lambda: [1] if answers(port) else [])
        with attaching(tmp_path / "t.json", server.pid, *OFF) as a:
            a.begun()
            benchmark(port)
            done = a.left()
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert_marks(done, to, 50, part=True)


# ---- the test of the test ----


def test_a_call_that_is_missing_in_the_trace_is_noticed(run: Run, tmp_path: Path) -> None:
    """No mark would notice if it compared nothing, or only what the tracer had looked up."""
    to = tmp_path / "dumps"
    done = run(*with_marks(to, 0, 1, (str(built("fuzz")), "7", "1", "4", "60")), options=OFF)
    marks = assert_marks(done, to, 100)
    (first, *_) = marks.equal
    ends = [(seq, key) for key, seq in marks.equal.items() if key[0] == first[0]]
    changed = [
        end - 2
        for (before, a), (end, b) in pairwise(ends)
        if end - before == 3 and canonical(marks.dumps[a]) != canonical(marks.dumps[b])
    ]
    calls = {e["seq"]: e["call"] for e in done.calls()}
    assert {"mmap", "munmap", "mprotect", "mremap"} <= {calls[seq] for seq in changed}
    for seq in changed[:40]:
        broken = without(done.path, seq)
        noticed = Marks(marks.dumps)
        with Trace(str(broken)) as trace:
            replay(trace, [noticed])
        assert noticed.wrong, f"nobody misses the {calls[seq]} at event {seq} of {done.path}"


def without(path: Path, seq: int) -> Path:
    """The trace with a munmap of nothing in the place of a call."""
    lines = path.read_bytes().split(b"\n")
    header = json.loads(lines[0].lstrip(b"[").rstrip(b","))
    row = json.loads(lines[seq].rstrip(b","))
    column = {name: i for i, name in enumerate(header["columns"])}
    row[column["call"]], row[column["args"]] = header["calls"].index("munmap"), [0, 0]
    row[column["ret"]] = EINVAL
    lines[seq] = json.dumps(row[: column["ret"] + 1]).encode() + b","
    broken = path.with_name("broken.json")
    broken.write_bytes(b"\n".join(lines))
    return broken
