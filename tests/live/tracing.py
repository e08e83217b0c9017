# SPDX-License-Identifier: GPL-2.0-or-later
"""`trace`: run a real program under `memtrace run`, and ask the trace what happened.

The command is started as a user starts it, as a process of its own; traces are read back through
the replay that the verbs `verify`, `events` and `maps` use, or through the verbs themselves
(`cli`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

from tests.live.lacking import assert_may_lack

from memtrace.replay import trust
from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.replay.result import Replay
from memtrace.report.decoded import Events
from memtrace.space.calls import Change
from memtrace.space.canonical import Run, canonical
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call

ROOT = Path(__file__).resolve().parents[2]
MEMTRACE = [sys.executable, "-m", "memtrace"]
#: Seconds. Only against a hang: no test measures time, and the machine may be busy.
PATIENCE = 100
ACCOUNT_FD = 3

#: What the test that runs has held against the kernel: path of the trace -> program -> [address
#: spaces, kernel maps].
REPRODUCED: dict[Path, dict[str, list[int]]] = {}

Event = dict[str, Any]
T = TypeVar("T")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment in which memtrace is found, installed or not."""
    path = [str(ROOT / "tracer"), str(ROOT / "analysis"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    for name in ("GLIBC_TUNABLES", "LD_PRELOAD", "COVERAGE_PROCESS_START"):
        env.pop(name, None)
    return {**env, **(extra or {})}


def command(
    path: Path,
    argv: Sequence[str] | Sequence[str | bytes | Path] | Sequence[str | Path],
    *options: str,
) -> list[str | bytes]:
    """The command line `memtrace run -o path [options] -- argv`."""
    words = [a if isinstance(a, bytes) else str(a) for a in argv]
    return [*MEMTRACE, "run", "-o", str(path), *options, "--", *words]


def cli(*arguments: object, **kw: Any) -> subprocess.CompletedProcess[str]:
    """Any verb of the command line, to its end."""
    return subprocess.run(
        [*MEMTRACE, *map(str, arguments)],
        env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE, **kw,
    )  # fmt: skip


@dataclass(frozen=True)
class Watched(Observer):
    """The canonical map after each of some events."""

    wanted: frozenset[int]
    seen: dict[int, list[Run]]

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        if seq in self.wanted:
            self.seen[seq] = p.space.canonical()


@dataclass(frozen=True)
class Traced:
    """A finished `memtrace run`. `returncode` is memtrace's (-N: died of signal N)."""

    path: Path
    returncode: int
    stdout: bytes
    stderr: str
    account: list[Event]

    def told(self, what: str) -> list[Event]:
        """The account's lines of one kind."""
        return [line for line in self.account if line["what"] == what]

    @cached_property
    def replayed(self) -> Replay:
        """The whole trace, replayed and checked."""
        with Trace(str(self.path)) as trace:
            return replay(trace)

    @property
    def exactness(self) -> str:
        """exact, unverified, drift or incomplete."""
        return trust.exactness(self.replayed)

    @property
    def sentence(self) -> str:
        """`verify`'s first line, for a failing test's message."""
        return trust.sentence(self.replayed) + "\n" + self.stderr

    @cached_property
    def events(self) -> list[Event]:
        """The lines of `memtrace events --format jsonl`."""
        with Trace(str(self.path)) as trace:
            view = Events(trace, {})
            return [json.loads(line) for line in view.lines(view.jsonl, None, None)]

    def calls(self, *names: str, **equal: object) -> list[Event]:
        """The events of these names (records too; none: all system calls) with these values."""
        return [
            e for e in self.events
            if (e["call"] in names if names else e["args"] or e["ret"] is not None)
            and all(e.get(k) == v for k, v in equal.items())
        ]  # fmt: skip

    def maps(self, seqs: Iterable[int]) -> dict[int, list[Run]]:
        """The replayed map after each of these events, of the mm that made the call."""
        watched = Watched(frozenset(seqs), {})
        with Trace(str(self.path)) as trace:
            replay(trace, [watched])
        return watched.seen

    def assert_exact(self) -> None:
        """Complete, every kernel map and every checksum reproduced, one at least per mm; and the
        program has lacked nothing that it may not lack.
        """
        assert_may_lack(self.told("lacks"))
        assert self.exactness == "exact", self.sentence
        for p in self.replayed.processes:
            assert p.snapshots == p.exact, self.sentence
            assert p.unexplained == 0, self.sentence
            if p.exit_signal != 9:
                assert p.snapshots >= 1, f"mm {p.mm} of {p.argv} has no snapshot: {self.sentence}"
        found = REPRODUCED[self.path] = {}
        for p in self.replayed.processes:
            count = found.setdefault(p.exe, [0, 0])
            count[0] += 1
            count[1] += p.snapshots

    def assert_marks(self, *, grown: bool = False, part: bool = False) -> int:
        """Each map that the program read and told equals the replayed one at that event; returns
        how many. With `grown` a run may begin lower in the program's: page faults make stacks grow,
        and only the next kernel map can tell. With `part` the trace holds only some of the marks.
        """
        told = {(m["pid"], m["mark"]): m["maps"] for m in self.told("mark")}
        at = {
            (e["pid"], e["args"][0] >> 12): e["seq"]
            for e in self.calls("munmap", ret=-22)
            if e["args"][1] == 0
        }
        if part:
            told = {key: lines for key, lines in told.items() if key in at}
        assert set(told) <= set(at), "a mark is not in the trace"
        maps = self.maps(at.values())
        for key, lines in told.items():
            theirs = [run for run in canonical(normal(lines)) if run.name != "[vsyscall]"]
            ours = maps[at[key]]
            where = f"pid, mark {key} at event {at[key]}: {self.path}"
            if not grown:
                assert ours == theirs, where
                continue
            for mine, its in zip(ours, theirs, strict=True):
                assert mine[1:] == its[1:], where
                assert its.start <= mine.start, where
        return len(told)


def normal(lines: Iterable[str]) -> list[str]:
    """Lines of /proc/PID/maps without the padding before the path."""
    return [" ".join(line.split(None, 5)) for line in lines]


def trace(
    path: Path,
    argv: Sequence[str] | Sequence[str | bytes | Path] | Sequence[str | Path],
    *options: str,
    env: Mapping[str, str] | None = None,
    stdin: IO[bytes] | int | None = None,
    data: bytes | None = None,
    before: Sequence[str] = (),
    **kw: Any,
) -> Traced:
    """`memtrace run -o path [options] -- argv`, to its end, with the account on descriptor 3.

    Args:
        before: words in front of the command.
        data: what the program gets on stdin; with neither `data` nor `stdin` it gets nothing.
    """
    told = path.with_name(path.name + ".account")
    with told.open("wb") as account:
        move = f"{ACCOUNT_FD}>&{account.fileno()} {account.fileno()}>&-"
        words = ["bash", "-c", f'exec "$@" {move if account.fileno() != ACCOUNT_FD else ""}', "sh"]
        done = subprocess.run(
            [*words, *before, *command(path, argv, *options)],
            pass_fds=[account.fileno()], env=environment(env), capture_output=True,
            timeout=PATIENCE, check=False, **({"input": data} if data is not None else
            {"stdin": subprocess.DEVNULL if stdin is None else stdin}), **kw,
        )  # fmt: skip
    return Traced(
        path, done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"), account_of(told)
    )


def account_of(path: Path) -> list[Event]:
    """The JSON lines of an account; a last line cut by a crash is left out."""
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.split(b"\n") if line]


@dataclass(frozen=True)
class Running:
    """`memtrace run` while it runs; `told` is where the account goes."""

    path: Path
    told: Path
    process: subprocess.Popen[bytes]

    def account(self, what: str, count: int = 1) -> list[Event]:
        """The account's lines of one kind, once there are `count` of them."""

        def ask() -> list[Event]:
            ended = self.process.poll() is not None
            found = [e for e in account_of(self.told) if e["what"] == what]
            assert len(found) >= count or not ended, self.process.communicate()
            return found

        return list(until(ask, count))

    def target(self) -> int:
        """The program's pid, once it has told that it began."""
        pid: int = self.account("begin")[0]["pid"]
        return pid

    def writer(self) -> int:
        """The pid of the process that has the trace open."""
        return until(lambda: list(holders(self.path)))[0]

    def ended(self) -> Traced:
        """Wait for the end."""
        out, err = self.process.communicate(timeout=PATIENCE)
        code = self.process.returncode
        return Traced(self.path, code, out, err.decode("utf-8", "replace"), account_of(self.told))


@contextmanager
def running(
    path: Path,
    argv: Sequence[str] | Sequence[str | bytes | Path] | Sequence[str | Path],
    *options: str,
    **kw: Any,
) -> Iterator[Running]:
    """`memtrace run`, started; whatever is left of it at the end is killed."""
    told = path.with_name(path.name + ".account")
    with told.open("wb") as account:
        move = f"{ACCOUNT_FD}>&{account.fileno()} {account.fileno()}>&-"
        words = ["bash", "-c", f'exec "$@" {move if account.fileno() != ACCOUNT_FD else ""}', "sh"]
        pipe = subprocess.PIPE
        kw = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **kw}
        process = subprocess.Popen(
            [*words, *command(path, argv, *options)], pass_fds=[account.fileno()],
            env=environment(), **kw,
        )  # fmt: skip
    with process:
        try:
            yield Running(path, told, process)
        finally:
            if process.poll() is None:
                process.kill()


@dataclass
class Target:
    """A program that runs without memtrace; `told` is where its account goes."""

    told: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def account(self, what: str) -> list[Event]:
        """The account's lines of one kind so far; it must not have told a failure."""
        lines = account_of(self.told)
        failed = [line for line in lines if line["what"] == "failed"]
        assert not failed, failed
        return [line for line in lines if line["what"] == what]

    def tells(self, what: str, count: int = 1) -> list[Event]:
        """The same, once there are `count` of them."""

        def ask() -> list[Event]:
            ended = self.process.poll() is not None
            found = self.account(what)
            assert len(found) >= count or not ended, f"it ended with {self.process.returncode}"
            return found

        return list(until(ask, count))

    def step(self) -> None:
        """A byte on its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"x")
        self.process.stdin.flush()

    def ended(self) -> int:
        """Wait for its end; a negative status is the signal it died of."""
        return self.process.wait(timeout=PATIENCE)


@contextmanager
def target(told: Path, argv: Sequence[str | Path], **kw: Any) -> Iterator[Target]:
    """A program, started; killed at the end if it is still there."""
    with told.open("wb") as account:
        move = f"{ACCOUNT_FD}>&{account.fileno()}"
        words = ["bash", "-c", f'exec "$@" {move}', "sh", *map(str, argv)]
        process = subprocess.Popen(
            words, pass_fds=[account.fileno()], env=environment(),
            **{"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, **kw},
        )  # fmt: skip
    with process:
        try:
            yield Target(told, process)
        finally:
            process.kill()
            process.send_signal(signal.SIGCONT)


def until(ask: Callable[[], Sequence[T]], count: int = 1) -> Sequence[T]:
    """Ask again and again until there are `count` answers."""
    end = time.monotonic() + PATIENCE
    while len(answers := ask()) < count:
        assert time.monotonic() < end, f"{len(answers)} of {count} after {PATIENCE} s"
        time.sleep(0.01)
    return answers


def holders(path: Path) -> Iterator[int]:
    """The processes that have a file open."""
    for process in Path("/proc").glob("[0-9]*"):
        if path in _open_files(process):
            yield int(process.name)


def _open_files(process: Path) -> Iterator[Path]:
    with suppress(OSError):  # it has ended
        for fd in (process / "fd").iterdir():
            with suppress(OSError):  # it has closed it
                yield fd.readlink()


def state_of(pid: int) -> str:
    """R, S, T (stopped), t (stopped by a tracer), Z ..., "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
