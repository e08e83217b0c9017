# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace attach` to programs that never pause: at no moment is it a good moment."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live.attaching import assert_detached, attach, attaching, built, threads
from tests.live.tracing import MEMTRACE, PATIENCE, Traced, environment, until

from memtrace.trace.reader import Trace
from memtrace.trace.records import Attach, Exec, Life, Lost

THREADS = 6


def counts(path: Path) -> list[int]:
    """Calls of each thread so far."""
    size = 8 * THREADS
    data = path.read_bytes()[:size] if path.exists() else b""
    return list(struct.unpack(f"={THREADS}q", data)) if len(data) == size else [0] * THREADS


def test_no_thread_starves(tmp_path: Path) -> None:
    """waitpid searches its tracees from one end: the same two could stop in turns for ever."""
    path = tmp_path / "counts"
    with subprocess.Popen(
        [built("attach_busy"), "calls", path, str(THREADS)], stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        until(lambda: [1] if all(counts(path)) else [])
        with attaching(tmp_path / "t.json", process.pid) as a:
            a.begun()
            before = counts(path)

            def made() -> list[int]:
                return [now - then for now, then in zip(counts(path), before, strict=True)]

            until(lambda: [1] if max(made()) > 20_000 else [])
            calls = made()
            assert_detached(a.left())
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert min(calls) * 20 > max(calls), calls


@contextmanager
def endless(mode: str) -> Iterator[int]:
    """The pid of a program that goes on for ever."""
    with subprocess.Popen([built("attach_busy"), mode]) as process:
        try:
            yield process.pid
            assert process.poll() is None
        finally:
            process.kill()


def life(done: Traced) -> list[Life]:
    with Trace(str(done.path)) as trace:
        return [r for _, _, r in trace.records() if isinstance(r, Life)]


def test_children_born_before_the_map_is_read_are_let_go(tmp_path: Path) -> None:
    """Also those that share its memory until they exec; and one that is ours is not missed."""
    with endless("spawn") as pid:
        for number in range(5):
            done = attach(tmp_path / f"{number}.json", pid, "--for", "50ms")
            assert_detached(done)
            first, *rest = life(done)
            assert isinstance(first, Attach)
            assert first.pid == pid
            assert not [r for r in rest if isinstance(r, Lost)]


def test_a_program_that_execs_before_its_map_is_read(tmp_path: Path) -> None:
    """Its trace begins with the exec, and --for with it."""
    with endless("exec") as pid:
        for number in range(5):
            done = attach(tmp_path / f"{number}.json", pid, "--for", "50ms")
            if done.returncode == -signal.SIGKILL:  # the kernel knows no other way out
                assert f"try: memtrace attach {pid}" in done.stderr
                continue
            assert_detached(done)
            assert "attached to" in done.stderr
            first = life(done)[0]
            assert isinstance(first, Attach | Exec)
            assert first.pid == pid


def test_a_terminal_that_takes_no_more_output_stops_nobody(tmp_path: Path) -> None:
    """^S: the line is not rewritten, and the program goes on, also after the detach, when one that
    slept all the time wakes up. ^Q: the summary is there.
    """
    path, (master, slave) = tmp_path / "counts", os.openpty()
    busy = [str(built("attach_busy")), "calls", str(path), str(THREADS)]
    with subprocess.Popen(busy, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        until(lambda: [1] if all(counts(path)) else [])
        attach = [*MEMTRACE, "attach", str(process.pid), "-o", str(tmp_path / "t.json")]

        def traced() -> int:
            return sum(tracer != 0 for _, tracer in threads(process.pid).values())

        with subprocess.Popen(attach, env=environment(), stderr=slave) as tool:
            try:
                said = b""
                while b"mapped " not in said.partition(b"Ctrl-C detaches")[2]:
                    said += os.read(master, 4096)
                termios.tcflow(slave, termios.TCOOFF)
                before = max(counts(path))
                until(lambda: [1] if max(counts(path)) > before + 30_000 else [])
                tool.send_signal(signal.SIGINT)
                until(lambda: [1] if traced() <= 1 else [])
                process.stdin.write(b"x")
                process.stdin.flush()
                until(lambda: [1] if not traced() else [])
                assert tool.poll() is None
                termios.tcflow(slave, termios.TCOON)
                said = b""
                while b"detached, it runs on" not in said:
                    said += os.read(master, 4096)
                assert tool.wait(PATIENCE) == 0
            finally:
                tool.kill()
                process.kill()
                os.close(master)
                os.close(slave)
