# SPDX-License-Identifier: GPL-2.0-or-later
"""`attaching`: `memtrace attach` to a process that runs, as a user starts it. `target`: a process
that notices what is done to it. What must hold of both afterwards.
"""

from __future__ import annotations

import fcntl
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live.tracing import (
    MEMTRACE,
    PATIENCE,
    ROOT,
    Target,
    Traced,
    account_of,
    cli,
    environment,
    holders,
    target,
    until,
)

BUILT = ROOT / "build" / "live"
#: What programs of the tests share with the samples.
HEADERS = ROOT / "samples"


@dataclass(frozen=True)
class Attaching:
    """A `memtrace attach` while it lasts; `said` is where its stderr goes."""

    path: Path
    pid: int | str
    said: Path
    process: subprocess.Popen[bytes]
    told: Path | None = None

    def text(self) -> str:
        """What it has said so far."""
        return self.said.read_text("utf-8", "replace")

    def says(self, what: str) -> None:
        """Wait until it has said so; it must not end before."""

        def ask() -> list[int]:
            ended = self.process.poll() is not None
            found = what in self.text()
            assert found or not ended, f"{self.process.returncode}: {self.text()}"
            return [1] if found else []

        until(ask)

    def begun(self) -> None:
        """Wait until the process is under control and its map is read."""
        self.says("attached to")

    def writer(self) -> int:
        """The pid of the process that has the trace open; at first that is memtrace itself."""

        def ask() -> list[int]:
            tracer = str(self.process.pid)
            own = {tracer, *Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()}
            return [pid for pid in holders(self.path) if str(pid) not in own]

        return until(ask)[0]

    def ended(self) -> Traced:
        """Wait for its end."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        account = [] if self.told is None else account_of(self.told)
        return Traced(self.path, self.process.returncode, out or b"", self.text(), account)

    def left(self, number: int = signal.SIGINT) -> Traced:
        """Tell it to leave, and wait for its end."""
        self.process.send_signal(number)
        return self.ended()


@contextmanager
def attaching(
    path: Path, pid: int | str, *options: str, told: Path | None = None, **kw: Any
) -> Iterator[Attaching]:
    """`memtrace attach`, started; killed at the end if it is still there. `told` is where the
    process's own account goes.
    """
    said = path.with_name(path.name + ".stderr")
    with said.open("wb") as stderr:
        kw = {"stdout": subprocess.PIPE, "stderr": stderr, "stdin": subprocess.DEVNULL, **kw}
        process = subprocess.Popen(
            [*MEMTRACE, "attach", str(pid), "-o", str(path), *options], env=environment(), **kw
        )
    with process:
        try:
            yield Attaching(path, pid, said, process, told)
        finally:
            if process.poll() is None:
                process.kill()


def attach(path: Path, pid: int, *options: str, **kw: Any) -> Traced:
    """`memtrace attach`, to its end."""
    with attaching(path, pid, *options, **kw) as a:
        return a.ended()


def assert_detached(done: Traced) -> None:
    """It left in peace, and its trace is whole and exact."""
    assert done.returncode == 0, done.stderr
    assert "detached, it runs on" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.replayed.complete, done.sentence
    done.assert_exact()
    verified = cli("verify", done.path)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def threads(pid: int | str) -> dict[int, tuple[str, int]]:
    """(state, TracerPid) of each thread of a process."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        try:
            lines = (task / "status").read_text("utf-8", "replace").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        found[int(task.name)] = fields["State"][0], int(fields["TracerPid"])
    return found


def assert_free(pid: int | str, *, stopped: bool = False) -> None:
    """No thread of a living process is traced; none is stopped, or all are by a signal."""
    found = threads(pid)
    assert found, f"{pid} is gone"
    for tid, (state, tracer) in found.items():
        assert tracer == 0, f"thread {tid} of {pid} is traced: {found}"
        assert (state == "T") if stopped else (state not in "tT"), f"thread {tid}: {found}"


def built(name: str) -> Path:
    """The program of tests/live/NAME.c; built by one worker while the others wait."""
    source, program = Path(__file__).with_name(f"{name}.c"), BUILT / name
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if outdated(program, source, *HEADERS.glob("*.h")):
            flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
            subprocess.run(["gcc", *flags, f"-I{HEADERS}", source, "-o", program], check=True)
    return program


def outdated(made: Path, *sources: Path) -> bool:
    """Whether it is not there, or older than any of what it is made of."""
    if not made.exists():
        return True
    return any(made.stat().st_mtime_ns < source.stat().st_mtime_ns for source in sources)


class Worker(Target):
    """A program of ours that runs until the end of its stdin."""

    def goes_on(self, rounds: int = 3) -> None:
        """Wait until its slowest thread has gone round so many more times."""

        def ask() -> list[int]:
            found = self.account("count")
            assert self.process.poll() is None, self.process.returncode
            return [found[-1]["n"]] if found else []

        before = until(ask)[0]
        until(lambda: [1] if ask()[0] >= before + rounds else [])

    def ends_well(self) -> None:
        """Tell it to end; it must find everything in order to the last."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0, account_of(self.told)[-3:]
        assert len(self.account("end")) == 1


@contextmanager
def worker(folder: Path, name: str, *arguments: object) -> Iterator[Worker]:
    """A program of ours, started; killed at the end if it is still there."""
    argv: list[str | Path] = [built(name), *map(str, arguments)]
    with target(folder / f"{name}.account", argv, cwd=folder, stdout=None) as t:
        until(lambda: [1] if account_of(t.told) else [])
        yield Worker(t.told, t.process)
