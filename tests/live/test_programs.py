# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of daily use: their exit code, and a trace that is exact for each of their processes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.test_samples import report
from tests.live.tracing import Traced, cli

PYTHON = "/usr/bin/python3"
THREADS_AND_FORKS = """
import multiprocessing, threading
kept = []
def work(n):
    return sum(len(bytearray(n * 1000)) for _ in range(30))
threads = [threading.Thread(target=lambda n=n: kept.append(work(n))) for n in range(1, 6)]
[t.start() for t in threads]
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(sum(pool.map(work, range(20))))
[t.join() for t in threads]
"""
NODE = """
const parts = []; for (let i = 0; i < 200; i++) parts.push(Buffer.alloc(20000, i));
console.log(JSON.stringify(parts.map(p => p[0])).length); process.exit(5);
"""
C = """
#include <stdio.h>
int sum(const int *p, int n) { int s = 0; for (int i = 0; i < n; i++) s += p[i]; return s; }
int main(void) { int v[] = {1, 2, 3}; return printf("%d\\n", sum(v, 3)) != 2; }
"""


def exact(done: Traced, code: int) -> Traced:
    assert done.returncode == code, done.stderr
    done.assert_exact()
    verified = cli("verify", "-q", done.path)
    assert verified.returncode == 0, verified.stdout
    return done


def names(done: Traced) -> list[str]:
    return sorted({Path(p.exe).name.split("-")[0].split(".")[0] for p in done.replayed.processes})


def test_python_with_extensions(run: Callable[..., Traced]) -> None:
    done = exact(run(PYTHON, "-c", "import json, sqlite3; sqlite3.connect(':memory:')"), 0)
    assert any("sqlite3" in e.get("path", "") for e in done.calls("mmap"))


def test_python_with_threads_and_a_pool_of_forks(run: Callable[..., Traced]) -> None:
    done = exact(run(PYTHON, "-c", THREADS_AND_FORKS + "raise SystemExit(9)"), 9)
    assert done.stdout.split() == [str(sum(n * 1000 * 30 for n in range(20))).encode()]
    assert len(done.replayed.processes) >= 4
    assert len(done.calls("clone")) >= 5
    assert len(done.calls("fork")) == 3


def test_a_shell_loop(run: Callable[..., Traced]) -> None:
    done = exact(run("bash", "-c", "for i in 1 2 3; do ls / >/dev/null; done; exit 3"), 3)
    assert names(done) == ["bash", "ls"]
    # One bash, three forks of it, three ls.
    assert len(done.replayed.processes) == 7
    assert len(done.calls("exec")) == 4


def test_a_pipeline(run: Callable[..., Traced]) -> None:
    done = exact(run("bash", "-c", "seq 100000 | sort -rn | head -n 2"), 0)
    assert done.stdout == b"100000\n99999\n"
    assert {"bash", "head", "seq", "sort"} <= set(names(done))


def test_a_compiler_and_its_children(run: Callable[..., Traced], tmp_path: Path) -> None:
    source, made = tmp_path / "x.c", tmp_path / "x.o"
    source.write_text(C)
    done = exact(run("gcc", "-O2", "-c", str(source), "-o", str(made)), 0)
    assert made.stat().st_size > 500
    assert any(n.startswith("cc1") for n in names(done)), names(done)
    assert "as" in names(done) or any("x86_64" in n for n in names(done))


def test_a_compiler_that_fails(run: Callable[..., Traced], tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text("int main( {")
    exact(run("gcc", "-c", str(source), "-o", "/dev/null"), 1)


def test_perl(run: Callable[..., Traced]) -> None:
    script = 'my @a = map { "x" x ($_ * 10) } 1..5000; print scalar(@a); exit 4'
    assert exact(run("perl", "-e", script), 4).stdout == b"5000"


@pytest.mark.timeout(240)
def test_node(run: Callable[..., Traced]) -> None:
    done = exact(run("node", "-e", NODE), 5)
    assert len(done.calls("clone")) >= 4  # its workers are threads
    assert int(done.stdout) > 600


@pytest.mark.timeout(240)
def test_node_without_the_filter(run: Callable[..., Traced]) -> None:
    exact(run("node", "-e", "process.exit(2)", options=("--no-seccomp",)), 2)


def test_strace_is_told_that_it_cannot_trace_here(run: Callable[..., Traced]) -> None:
    # A tracee cannot be traced twice: strace's own children are ours. It fails as it would under
    # any tracer, and the trace of it is exact.
    done = run("strace", "-o", "/dev/null", "true")
    assert done.returncode != 0
    done.assert_exact()


def test_a_program_that_is_not_dynamic(run: Callable[..., Traced], tmp_path: Path) -> None:
    source, made = tmp_path / "s.c", tmp_path / "s"
    source.write_text(C)
    subprocess.run(["gcc", "-static", "-O1", source, "-o", made], check=True, capture_output=True)
    done = exact(run(made), 0)
    assert done.stdout == b"6\n"
    assert not done.calls("libc")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_java(run: Callable[..., Traced]) -> None:
    if shutil.which("java") is None:
        pytest.skip("java is not installed")
    done = exact(run("java", "-Xmx64m", "-version"), 0)
    assert len(done.calls("clone")) >= 8


def test_the_name_of_a_program_does_not_matter(tmp_path: Path, run: Callable[..., Traced]) -> None:
    kinds = []
    for name in ("plain", "a\nb", "a b\\012c", "a,(deleted)"):
        program = tmp_path / name
        shutil.copy("/bin/true", program)
        done = run(program)
        assert done.returncode == 0
        done.assert_exact()
        (process,) = report(done)["processes"]
        kinds.append({kind: k["count"] for kind, k in process["kinds"].items()})
    assert "unknown" not in kinds[0]
    assert kinds == kinds[:1] * 4
