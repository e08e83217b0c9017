# SPDX-License-Identifier: GPL-2.0-or-later
"""Storms of forks, threads and execs: nobody is lost, everybody's map is exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from tests.live.attaching import built
from tests.live.tracing import Traced

from memtrace.trace.reader import Trace
from memtrace.trace.records import Clone, Exec, Exit, Fork

PYTHON = "/usr/bin/python3"
FORKS = """
import os, threading
def storm():
    for n in range({each}):
        pid = os.fork()
        if pid == 0:
            os._exit(n % 7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == n % 7
threads = [threading.Thread(target=storm) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
THREADS = """
import threading
for _ in range(20):
    threads = [threading.Thread(target=bytearray, args=(200000,)) for _ in range(10)]
    [t.start() for t in threads]
    [t.join() for t in threads]
"""
DETACHED = """
import os, threading
if os.fork() == 0:
    for _ in range(5):
        if os.fork() == 0:
            os.execv("/bin/true", ["true"])
    threading.Thread(target=lambda: os._exit(3)).start()
    threading.Event().wait()
"""
SPAWNS = """
import os
for _ in range(25):
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    assert os.waitpid(pid, 0)[1] == 0
"""
VFORKS = """
import subprocess
for _ in range(25):
    subprocess.run(["/bin/true"], check=True, close_fds=False)
"""
ALL = pytest.mark.parametrize("options", [(), ("--no-seccomp",), ("--engine", "strace")])


def lives(done: Traced) -> Counter[type]:
    """Assert that each task born has one exit and each address space one end; count the records."""
    with Trace(str(done.path)) as trace:
        records = [record for _, _, record in trace.records()]
    first = next(r for r in records if isinstance(r, Exec))
    born = Counter([first.pid])
    # A child seen before its parent's event is told a second time, with what only the parent knew.
    born.update({r.child for r in records if isinstance(r, Fork | Clone)})
    ended = Counter(r.tid for r in records if isinstance(r, Exit))
    assert ended == born
    assert Counter(e["mm"] for e in done.calls("gone")) == Counter(
        p.mm for p in done.replayed.processes
    )
    assert not done.calls("lost")
    kinds = {(type(r), r.child) for r in records if isinstance(r, Fork | Clone)}
    return Counter(kind for kind, _ in kinds) + Counter({Exec: len(done.calls("exec"))})


@ALL
@pytest.mark.parametrize("each", [pytest.param(50, id="200")])
def test_children_of_four_threads(
    run: Callable[..., Traced], each: int, options: tuple[str, ...]
) -> None:
    done = run(PYTHON, "-c", FORKS.format(each=each), options=options)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    count = lives(done)
    assert count[Fork] == 4 * each
    codes = Counter(p.exit_code for p in done.replayed.processes if p.inherited)
    assert codes == Counter(n % 7 for _ in range(4) for n in range(each))


@ALL
def test_two_hundred_threads(run: Callable[..., Traced], options: tuple[str, ...]) -> None:
    done = run(PYTHON, "-c", THREADS, options=options)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert lives(done)[Clone] == 200
    assert len(done.replayed.processes) == 1


def test_orphans_outlive_the_first_process(run: Callable[..., Traced]) -> None:
    done = run(PYTHON, "-c", DETACHED + "os._exit(12)")
    assert done.returncode == 12
    done.assert_exact()
    lives(done)
    assert Counter(p.exit_code for p in done.replayed.processes if not p.inherited)[0] == 5


@ALL
@pytest.mark.parametrize("code", [pytest.param(SPAWNS, id="posix_spawn"),
                                  pytest.param(VFORKS, id="vfork")])  # fmt: skip
def test_children_that_borrow_the_memory_until_they_exec(
    run: Callable[..., Traced], code: str, options: tuple[str, ...]
) -> None:
    done = run(PYTHON, "-c", code, options=options)
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    count = lives(done)
    assert count[Clone] == 25
    assert count[Fork] == 0
    assert len(done.replayed.processes) == 26
    assert len(done.replayed.processes[0].pids) == 26


@ALL
def test_threads_that_are_ended_in_a_call_while_the_process_exits(
    run: Callable[..., Traced], options: tuple[str, ...]
) -> None:
    done = run(built("last_threads"), "300", options=options)
    assert done.returncode == 0
    done.assert_exact()  # each with a last map, whoever of its tasks was the last
    children = [p for p in done.replayed.processes if p.inherited]
    assert len(children) == 300
    assert all(p.snapshots >= 2 for p in children)  # at the fork, at the exit


def test_a_chain_of_execs(run: Callable[..., Traced]) -> None:
    script = 'n=$1; [ "$n" -gt 0 ] || exit 17; exec sh -c "$0" "$0" $((n - 1))'
    done = run("sh", "-c", script, script, "20")
    assert done.returncode == 17
    done.assert_exact()
    assert lives(done)[Exec] == 21
    assert len({p.pid for p in done.replayed.processes}) == 1
    chain = [p.mm for p in done.replayed.processes]
    assert [e["mm"] for e in done.calls("exec")] == chain


def test_a_search_through_path_is_many_failed_execs(run: Callable[..., Traced]) -> None:
    path = ":".join([f"/no/such/{n}" for n in range(30)] + ["/usr/bin", "/bin"])
    done = run("/usr/bin/env", f"PATH={path}", "true")
    assert done.returncode == 0
    done.assert_exact()
    assert lives(done)[Exec] == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_children_of_four_threads(run: Callable[..., Traced]) -> None:
    test_children_of_four_threads(run, 250, ())
