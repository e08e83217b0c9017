# SPDX-License-Identifier: GPL-2.0-or-later
"""The live corpus: programs of all kinds with a kernel map read after each call, traced from their
start and joined half way; every map is reproduced.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.live.attaching import assert_detached, attaching, built, worker
from tests.live.programs import PROGRAMS, Program
from tests.live.test_attach_services import free_port, needs, redis
from tests.live.tracing import PATIENCE, Target, Traced, cli, running, target, until

Run = Callable[..., Traced]
EVERY_CALL = ("--snapshots", "every=1")


def assert_reproduced(done: Traced, least: int) -> None:
    """`verify` says N of N, and N is at least `least`."""
    done.assert_exact()
    verified = cli("verify", "-q", done.path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    told = re.match(r"exact: ([\d,]+) of ([\d,]+) kernel snapshots", verified.stdout)
    assert told, verified.stdout
    exact, snapshots = (int(n.replace(",", "")) for n in told.groups())
    assert exact == snapshots >= least, verified.stdout


@contextlib.contextmanager
def half_way(program: Program, folder: Path) -> Iterator[Target]:
    """A program that has done its first half and waits."""
    program.present()
    argv = list(program.argv)
    with target(folder / "account", argv, cwd=folder, stdout=subprocess.PIPE) as t:
        assert t.process.stdout is not None
        for line in t.process.stdout:
            if line == b"half\n":
                break
        assert t.process.poll() is None, t.process.returncode
        yield t


def goes_on(t: Target) -> None:
    assert t.process.stdin is not None
    t.process.stdin.write(b"go\n")
    t.process.stdin.close()


def after_calls(run: Run, folder: Path, name: str, every: int) -> None:
    program = PROGRAMS[name]
    program.present()
    done = run(*program.argv, options=("--snapshots", f"every={every}"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert b"half" in done.stdout
    assert_reproduced(done, program.least // every)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_kernel_map_after_each_call(run: Run, tmp_path: Path, name: str) -> None:
    after_calls(run, tmp_path, name, 5 if PROGRAMS[name].large else 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in PROGRAMS if PROGRAMS[name].large])
def test_a_kernel_map_after_each_call_of_the_large(run: Run, tmp_path: Path, name: str) -> None:
    after_calls(run, tmp_path, name, 1)


def joined(program: Program, folder: Path) -> Traced:
    with (
        half_way(program, folder) as t,
        attaching(folder / "t.json", t.pid, *EVERY_CALL) as a,
    ):
        a.begun()
        goes_on(t)
        done = a.ended()
        assert t.ended() == 0
    assert done.returncode == 0, done.stderr
    assert_reproduced(done, program.half)
    return done


@pytest.mark.parametrize("name", PROGRAMS)
def test_joined_half_way(tmp_path: Path, name: str) -> None:
    joined(PROGRAMS[name], tmp_path)


def test_a_fork_tree_of_one_that_was_joined(tmp_path: Path, samples: Path) -> None:
    script = f"echo half; read -r _; {samples}/fork-tree; {samples}/fork-tree & wait"
    tree = replace(PROGRAMS["bash"], argv=("bash", "-c", script), half=100)
    done = joined(tree, tmp_path)
    assert len(done.calls("fork")) >= 6
    assert len(done.calls("exec")) >= 6


# ---- redis, while it is asked from all sides ----


def said(port: int, *words: str) -> str:
    """What redis answers."""
    return subprocess.run(
        ["redis-cli", "-p", str(port), *words],
        check=True, capture_output=True, text=True, timeout=PATIENCE,
    ).stdout  # fmt: skip


def benchmark(port: int, requests: int = 400) -> None:
    """Values of many sizes, lists, saves in the background by forks; all of it given back."""
    for size, tests in (("30000", "set,get,lpush"), ("300", "mset,zadd,lrange_100")):
        subprocess.run(
            ["redis-benchmark", "-p", str(port), "-c", "20", "-n", str(requests), "-r", "1000",
             "-q", "-d", size, "-t", tests],
            check=True, capture_output=True, timeout=PATIENCE,
        )  # fmt: skip
        assert "Background saving started" in said(port, "bgsave")
        until(lambda: [1] if "bgsave_in_progress:0" in said(port, "info", "persistence") else [])
    assert "rdb_last_bgsave_status:ok" in said(port, "info", "persistence")
    said(port, "flushall")
    said(port, "memory", "purge")


def test_redis_under_its_benchmark(tmp_path: Path) -> None:
    needs("redis-benchmark")
    port = free_port()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    with running(tmp_path / "t.json", [*argv, "--save", ""], *EVERY_CALL) as r:
        until(lambda: [1] if answers(port) else [])
        benchmark(port)
        said(port, "shutdown", "nosave")
        done = r.ended()
    assert done.returncode == 0, done.stderr
    assert len(done.calls("fork")) == 2
    assert_reproduced(done, 300)


def answers(port: int) -> bool:
    """Whether redis is up."""
    done = subprocess.run(
        ["redis-cli", "-p", str(port), "ping"], capture_output=True, check=False, timeout=PATIENCE
    )
    return done.stdout == b"PONG\n"


def test_redis_joined_under_its_benchmark(tmp_path: Path) -> None:
    needs("redis-benchmark")
    path = tmp_path / "t.json"
    with redis(tmp_path) as service, attaching(path, service.pid, *EVERY_CALL) as a:
        a.begun()
        benchmark(service.port)
        done = a.left()
    assert_detached(done)
    assert len(done.calls("fork")) == 2
    assert_reproduced(done, 200)


# ---- threads and forks that map at random ----


def fuzzed(run: Run, seed: int, threads: int, rounds: int, calls: int, *options: str) -> Traced:
    print("seed:", seed)  # noqa: T201 - what a failure needs to be seen again
    done = run(built("fuzz"), str(seed), str(threads), str(rounds), str(calls), options=options)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    # Each is one that the program told: those of its children, and the parent's after each round.
    assert done.assert_marks() == len(done.told("mark"))
    parent = done.told("begin")[0]["pid"]
    assert sum(m["pid"] == parent for m in done.told("mark")) == rounds
    return done


@pytest.mark.parametrize("seed", range(1, 7))
def test_threads_and_forks_that_map_at_random(run: Run, seed: int) -> None:
    done = fuzzed(run, seed, 8, 4, 50)
    assert len(done.calls("fork")) >= 4
    executed = {e["pid"] for e in done.calls("exec")} - {done.told("begin")[0]["pid"]}
    spaces = {p.pid for p in done.replayed.processes}
    assert {m["pid"] for m in done.told("mark")} == spaces - executed


@pytest.mark.parametrize("seed", range(10, 12))
def test_the_same_with_a_kernel_map_after_each_call(run: Run, seed: int) -> None:
    assert_reproduced(fuzzed(run, seed, 4, 4, 50, *EVERY_CALL), 1000)


@pytest.mark.parametrize("options", [("--no-seccomp",), ("--snapshots", "off")])
def test_the_same_under_other_options(run: Run, options: tuple[str, ...]) -> None:
    fuzzed(run, 20, 6, 3, 50, *options)


def joined_while_fuzzing(folder: Path, seed: int, threads: int, rounds: int) -> None:
    print("seed:", seed)  # noqa: T201 - see above
    with worker(folder, "fuzz", seed, threads, 0, 20, 1) as w:
        w.goes_on(1)
        with attaching(folder / "t.json", w.pid, *EVERY_CALL, told=w.told) as a:
            a.begun()
            w.goes_on(rounds)
            done = a.left()
        w.goes_on(1)
        w.ends_well()
    assert_detached(done)
    assert done.assert_marks(part=True) >= 1
    assert_reproduced(done, (rounds - 1) * threads * 20)


def test_joined_while_threads_and_forks_map_at_random(tmp_path: Path) -> None:
    joined_while_fuzzing(tmp_path, 30, 4, 3)


# ---- the long series ----


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_2000_random_calls_with_a_fork_half_way(run: Run, samples: Path, seed: int) -> None:
    print("seed:", seed)  # noqa: T201 - see above
    done = run(samples / "self-maps", str(seed), "2000", "20", "fork", options=EVERY_CALL)
    assert done.returncode == 0, done.stderr
    assert done.assert_marks() >= 100
    assert_reproduced(done, 2500)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1020, 1040))
def test_2000_random_calls_of_threads_and_their_forks(run: Run, seed: int) -> None:
    assert_reproduced(fuzzed(run, seed, 8, 5, 50, *EVERY_CALL), 8 * 5 * 50)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1040, 1060))
def test_2000_random_calls_of_threads_and_their_forks_joined(tmp_path: Path, seed: int) -> None:
    joined_while_fuzzing(tmp_path, seed, 8, 14)  # that is at least 13 * 8 * 20 calls


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1100, 1104))
def test_eight_threads_and_their_forks(run: Run, tmp_path: Path, seed: int) -> None:
    assert_reproduced(fuzzed(run, seed, 8, 6, 150, *EVERY_CALL), 6000)
    joined_while_fuzzing(tmp_path, seed, 8, 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1200, 1204))
def test_eight_threads_that_fight(run: Run, samples: Path, seed: int) -> None:
    print("seed:", seed)  # noqa: T201 - see above
    done = run(samples / "threads-fight", str(seed), "8", "500", options=EVERY_CALL)
    assert done.returncode == 0, done.stderr
    assert done.assert_marks() == 1
    assert_reproduced(done, 4000)
