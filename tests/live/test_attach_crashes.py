# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever is killed, and whenever: the target of an attach works on, the tree of a `run` ends,
nothing stays stopped, and the trace is read by every verb and says that it is cut.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.live.attaching import (
    Attaching,
    assert_free,
    attaching,
    built,
    threads,
    worker,
)
from tests.live.tracing import (
    MEMTRACE,
    PATIENCE,
    Traced,
    cli,
    environment,
    holders,
    running,
    state_of,
    until,
)

from memtrace.replay import trust

SEED = int(os.environ.get("MEMTRACE_SEED", "0")) or random.randrange(1 << 32)


def assert_every_verb_reads(path: Path, *, complete: bool) -> None:
    verbs: list[tuple[str, ...]] = [("verify",), ("report",)]
    if not complete:
        verbs += [("events", "--format", "jsonl"), ("maps", "--at", "end")]
    for verb in verbs:
        done = cli(verb[0], path, *verb[1:])
        where = f"{verb} of {path}: {done.returncode}: {done.stdout[-300:]} {done.stderr}"
        assert "Traceback" not in done.stderr, where
        if verb == ("verify",):
            assert done.returncode == (0 if complete else 3), where
        elif verb[0] == "maps":
            # An address space whose map was never read has none to show.
            assert done.returncode in (0, 2), where
        else:
            assert done.returncode == 0, where
        if not complete and verb != ("verify",) and done.returncode == 0:
            assert "incomplete" in done.stderr, where


@dataclass(frozen=True)
class Crash:
    """Who was killed when, and what was found: whether the trace had begun, whether it is whole."""

    what: str
    began: bool
    complete: bool


def looked_at(what: str, path: Path) -> Crash:
    """The trace, after everybody who wrote it has gone."""
    until(lambda: [1] if not list(holders(path)) else [])
    done = Traced(path, 0, b"", what, [])
    complete = done.replayed.complete
    assert done.exactness in ("incomplete", "exact", "unverified"), done.sentence
    assert not any(p.drifted for p in done.replayed.processes), done.sentence
    assert_every_verb_reads(path, complete=complete)
    return Crash(what, bool(done.replayed.processes), complete)


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def seized(pid: int | str) -> list[int]:
    return [tracer for _, tracer in threads(pid).values() if tracer]


def at_a_moment(a: Attaching, chance: random.Random) -> str:
    """Wait for a moment of an attach: while it takes hold, records, or lets go."""
    moment = chance.choice(("seizing", "recording", "leaving"))
    if moment == "seizing":
        end = time.monotonic() + PATIENCE
        while not seized(a.pid):  # no nap: the moment is short
            assert time.monotonic() < end
        delay = chance.uniform(0, 0.02)
    else:
        a.begun()
        delay = chance.uniform(0, 0.2)
    if moment == "leaving":
        time.sleep(delay)
        a.process.send_signal(chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
        delay = chance.uniform(0, 0.006)
    time.sleep(delay)
    return f"{moment} + {delay * 1000:.1f} ms"


def crash_an_attach(folder: Path, chance: random.Random) -> Crash:
    victim = chance.choice(("tracer", "writer", "both", "both"))
    suffix = chance.choice((".json", ".json.gz", ".json.zst"))
    workers = chance.choice((1, 4, 16))
    path = folder / f"t{suffix}"
    with worker(folder, "attach_worker", "work", workers) as t, attaching(path, t.pid) as a:
        writer = a.writer()
        what = f"{victim} of an attach, {at_a_moment(a, chance)}, {workers} threads, {suffix}"
        ended = a.process.poll() is not None
        victims = {"tracer": [a.process.pid], "writer": [writer]}.get(
            victim, chance.sample([a.process.pid, writer], 2)
        )
        for pid in victims:
            if state_of(pid):
                kill(pid)
        done = a.ended()
        if victim == "writer" and not ended and done.returncode != 0:
            assert done.returncode == 125, what + done.stderr
            assert "the trace is incomplete: the writer process died" in done.stderr, what
        elif victim == "writer" or ended:
            assert done.returncode == 0, what + done.stderr
        assert "Traceback" not in done.stderr, what + done.stderr
        assert_free(t.pid)
        t.goes_on()
        found = looked_at(what, path)
        t.goes_on()
        t.ends_well()
    return found


def crash_a_run(folder: Path, chance: random.Random) -> Crash:
    victim = chance.choice(("tracer", "writer", "both"))
    path = folder / f"t{chance.choice(('.json', '.json.gz', '.json.zst'))}"
    options = chance.choice(((), ("--no-seccomp",)))
    with running(path, [built("attach_worker"), "work", "4", "on"], *options) as r:
        pid = r.target()
        writer = r.writer()
        delay = chance.uniform(0, 0.4)
        what = f"{victim} of a run {options}, + {delay * 1000:.1f} ms"
        time.sleep(delay)
        if victim in ("writer", "both"):
            kill(writer)
        if victim in ("tracer", "both"):
            kill(r.process.pid)
            until(lambda: [1] if not state_of(pid).strip("Z") else [])
        else:
            r.account("count", len(r.account("count")) + 3)  # the program runs on
            kill(pid)
        done = r.ended()
        if victim == "writer":
            assert done.returncode == -signal.SIGKILL, what + done.stderr
            assert "the trace is incomplete: the writer process died" in done.stderr, what
        assert "Traceback" not in done.stderr, what + done.stderr
    return looked_at(what, path)


def crash_a_target(folder: Path, chance: random.Random) -> Crash:
    """No crash of ours: the trace is whole."""
    path = folder / "t.json"
    with worker(folder, "attach_worker", "work", 4) as t, attaching(path, t.pid) as a:
        a.writer()
        what = f"the target, {at_a_moment(a, chance)}"
        t.process.kill()
        done = a.ended()
    assert "Traceback" not in done.stderr, what + done.stderr
    if done.returncode == 125 and not path.exists():
        assert "ended" in done.stderr or "no process" in done.stderr, what + done.stderr
        return Crash(what, began=False, complete=True)
    assert done.returncode == 0, what + done.stderr
    found = looked_at(what, path)
    assert found.complete, what + done.stderr
    return found


KINDS: tuple[Callable[[Path, random.Random], Crash], ...] = (
    crash_an_attach,
    crash_a_run,
    crash_an_attach,
    crash_a_target,
)


def crashes(folder: Path, batch: int, count: int) -> None:
    found = []
    for n in range(count):
        seed = f"{SEED}/{batch}/{n}"
        sys.stdout.write(f"MEMTRACE_SEED={SEED} batch {batch} crash {n}\n")
        inside = folder / str(n)
        inside.mkdir()
        crash = KINDS[n % len(KINDS)](inside, random.Random(seed))
        sys.stdout.write(f"    {crash}\n")
        found.append(crash)
    tried = [c for c in found if not c.what.startswith("the target")]
    assert len([c for c in tried if not c.complete]) * 2 >= len(tried), found


@pytest.mark.timeout(600)
def test_some_crashes(tmp_path: Path) -> None:
    crashes(tmp_path, 0, 16)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("batch", range(1, 10))
def test_many_crashes(tmp_path: Path, batch: int) -> None:
    crashes(tmp_path, batch, 32)


def test_the_target_is_killed_while_it_is_let_go(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    for n in range(10):
        (folder := tmp_path / str(n)).mkdir()
        with (
            worker(folder, "attach_worker", "work", 4) as t,
            attaching(folder / "t.json", t.pid) as a,
        ):
            a.begun()
            t.goes_on(1)
            a.process.send_signal(signal.SIGINT)
            time.sleep(chance.uniform(0, 0.003))
            t.process.kill()
            done = a.ended()
        assert done.returncode == 0, done.stderr
        assert done.replayed.complete, done.sentence
        assert not trust.drifted(done.replayed), done.sentence


def test_the_tracer_of_a_stopped_target_is_killed(tmp_path: Path) -> None:
    with worker(tmp_path, "attach_worker", "work", 4) as t:
        t.goes_on()
        for n in range(2):
            os.kill(t.pid, signal.SIGSTOP)
            with attaching(tmp_path / f"t{n}.json", t.pid) as a:
                a.begun()
                if n:
                    os.kill(t.pid, signal.SIGCONT)
                    t.goes_on()
                    os.kill(t.pid, signal.SIGSTOP)
                    until(lambda: [1] if {s for s, _ in threads(t.pid).values()} == {"t"} else [])
                a.process.kill()
                a.ended()
            until(lambda: [1] if set(threads(t.pid).values()) == {("T", 0)} else [])
            os.kill(t.pid, signal.SIGCONT)
            t.goes_on()
        t.ends_well()


# -- what is given to memtrace goes away ---------------------------------------------------------


@pytest.fixture(params=["full-disk", "file-size-limit"])
def little_room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A folder with room for 100 KiB, and what `subprocess` needs to run in it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if request.param == "full-disk" and not subprocess.call(mount, stderr=subprocess.DEVNULL):
        yield {"path": folder / "t.json"}
        subprocess.run(["umount", "-l", folder], check=True)
        return

    def limit() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, hard))

    yield {"path": folder / "t.json", "preexec_fn": limit}


def test_a_disk_that_fills_up(tmp_path: Path, little_room: dict[str, Any]) -> None:
    path = little_room.pop("path")
    with worker(tmp_path, "attach_worker", "work", 4) as t:
        with attaching(path, t.pid, **little_room) as a:
            done = a.ended()  # by itself: nothing more can be recorded
        assert_free(t.pid)
        assert done.returncode == 125, done.stderr
        assert "the trace is incomplete: cannot write" in done.stderr
        assert "detached, it runs on" in done.stderr
        assert "Traceback" not in done.stderr
        t.goes_on()
        assert len(done.calls()) > 100
        assert not looked_at("a full disk", path).complete
        t.ends_well()


def test_an_idle_target_whose_writer_is_killed(tmp_path: Path) -> None:
    with worker(tmp_path, "attach_worker", "idle", 3) as t:
        with attaching(tmp_path / "t.json", t.pid) as a:
            a.begun()
            kill(a.writer())
            done = a.ended()
        assert_free(t.pid)
        assert done.returncode == 125, done.stderr
        assert "the trace is incomplete: the writer process died" in done.stderr
        t.ends_well()


def test_the_writer_is_killed_before_the_map_is_read(tmp_path: Path) -> None:
    with worker(tmp_path, "attach_worker", "work", 16) as t:
        with attaching(tmp_path / "t.json", t.pid) as a:
            kill(a.writer())
            done = a.ended()
        assert_free(t.pid)
        assert done.returncode == 125, done.stderr
        assert "the trace is incomplete: the writer process died" in done.stderr, done.stderr
        t.goes_on()
        t.ends_well()


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "0<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    path = tmp_path / "t.json"
    with worker(tmp_path, "attach_worker", "work", 2) as t:
        words = [*MEMTRACE, "attach", str(t.pid), "-o", str(path), "--for", "0.5s"]
        done = subprocess.run(
            ["bash", "-c", f'exec "$@" {closed}', "sh", *words], env=environment(),
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
        assert_free(t.pid)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert looked_at(closed, path) == Crash(closed, began=True, complete=True)
        t.goes_on()
        t.ends_well()


@pytest.mark.parametrize("full", ["a pipe that nobody reads", "/dev/full"])
def test_stderr_that_cannot_be_written(tmp_path: Path, full: str) -> None:
    path = tmp_path / "t.json"
    if full == "/dev/full":
        stderr = os.open(full, os.O_WRONLY)
    else:
        read, stderr = os.pipe()
        os.close(read)
    with worker(tmp_path, "attach_worker", "work", 2) as t:
        with attaching(path, t.pid, "--for", "0.5s", stderr=stderr) as a:
            os.close(stderr)
            done = a.ended()
        assert_free(t.pid)
        assert done.returncode == 0
        assert looked_at(full, path) == Crash(full, began=True, complete=True)
        t.ends_well()


def test_a_trace_into_a_pipe(tmp_path: Path) -> None:
    # The reader takes a part and goes: the recording ends, the target does not.
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with worker(tmp_path, "attach_worker", "work", 4) as t:
        with attaching(path, t.pid) as a:
            with path.open("rb") as reader:
                a.begun()
                assert reader.read(20_000).startswith(b'[{"memtrace"')
            done = a.ended()
        assert_free(t.pid)
        assert done.returncode == 125, done.stderr
        assert "the trace is incomplete: cannot write" in done.stderr
        assert "Traceback" not in done.stderr
        t.goes_on()
        t.ends_well()


def test_the_terminal_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    leader, terminal = os.openpty()
    with worker(tmp_path, "attach_worker", "work", 4) as t:
        words = [*MEMTRACE, "attach", str(t.pid), "-o", str(path)]
        with subprocess.Popen(
            ["setsid", "--ctty", *words], env=environment(),
            stdin=terminal, stdout=terminal, stderr=terminal,
        ) as memtrace:  # fmt: skip
            os.close(terminal)
            said = b""
            while b"attached to" not in said:
                said += os.read(leader, 4096)
            os.close(leader)  # SIGHUP (`tty_vhangup`), and every write fails from now on
            assert memtrace.wait(PATIENCE) == 0
        assert_free(t.pid)
        assert looked_at("hang-up", path) == Crash("hang-up", began=True, complete=True)
        t.goes_on()
        t.ends_well()
