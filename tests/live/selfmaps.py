# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs nobody here wrote that read their own maps and mark the moment (`selfmaps.c`, by
LD_PRELOAD), and the trace held against what they read: no snapshot of the tracer's is asked.
"""

from __future__ import annotations

import fcntl
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.live.attaching import BUILT, outdated
from tests.live.tracing import Traced, cli, normal

from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.space.canonical import MapsCache, Run, canonical
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call, Lost, Overlap

if TYPE_CHECKING:
    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay
    from memtrace.space.calls import Change
    from memtrace.space.compare import Comparison
    from memtrace.trace.records import LifeRecord, Snap, Unknown

EINVAL = -22
_HEAD = 32


def library() -> Path:
    """selfmaps.so; built by one worker while the others wait."""
    source, made = Path(__file__).with_name("selfmaps.c"), BUILT / "selfmaps.so"
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if outdated(made, source):
            flags = ["-shared", "-fPIC", "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
            subprocess.run(["gcc", *flags, source, "-o", made, "-ldl", "-pthread"], check=True)
    return made


def preloaded(folder: Path, every: int, calls: int) -> dict[str, str]:
    """The environment of a program that dumps its maps into `folder`.

    Args:
        every: a mark at every so many allocations.
        calls: a mark at every so many memory calls of the program's own.
    """
    folder.mkdir(exist_ok=True)
    return {
        "LD_PRELOAD": str(library()), "SELFMAPS_TO": str(folder),
        "SELFMAPS_EVERY": str(every), "SELFMAPS_CALLS": str(calls),
    }  # fmt: skip


Key = tuple[int, int]
"""(pid, N): N is where the dump stands in the process's file."""


def dumps(folder: Path) -> dict[Key, list[str]]:
    """The maps that the programs read; one that a kill cut short is left out."""
    found: dict[Key, list[str]] = {}
    for path in folder.iterdir():
        data, at = path.read_bytes(), 0
        while len(data) - at > _HEAD:
            n, length = map(int, data[at : at + _HEAD].split())
            assert n == at, f"{path} is broken at {at}"
            text = data[at + _HEAD : at + _HEAD + length]
            if len(text) == length:
                lines = text.decode("utf-8", "surrogateescape").splitlines()
                found[int(path.name), n] = normal(lines)
            at += _HEAD + length
    return found


@dataclass
class Marks(Observer):
    """Compares while the trace is replayed.

    A mark is a pair of calls. It counts if the trace has no other call in that address space
    between the two, not even one whose effect nobody sees: the program reads its map a page of text
    at a time, and where its lines divide may change by an madvise.
    """

    dumps: dict[Key, list[str]]
    #: Marks that counted -> the event; `crossed`: those that did not.
    equal: dict[Key, int] = field(default_factory=dict)
    crossed: set[Key] = field(default_factory=set)
    #: The stack had grown since the last call (`expand_downwards`): the program saw it, no event
    #: shows it.
    grown: int = 0
    wrong: list[str] = field(default_factory=list)
    _cache: MapsCache = field(default_factory=MapsCache)
    _calls: Counter[int] = field(default_factory=Counter)
    _open: dict[Key, int] = field(default_factory=dict)

    def begin(self, replay: Replay) -> None:
        self._tasks = replay.tasks

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        if name != "munmap" or call.ret != EINVAL or call.args[1] != 0:
            self._calls[p.mm] += 1
            return
        key = self._tasks.pid_of[call.tid], call.args[0] >> 12
        if key not in self.dumps:
            return
        now, before = self._calls[p.mm], self._open.pop(key, None)
        if before is None:
            self._open[key] = now
        elif before != now:
            self.crossed.add(key)
        else:
            self._compare(p, key, seq)

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        self._calls[p.mm] += comparison.drift is not None

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        if p is not None:
            self._calls[p.mm] += isinstance(record, Overlap | Lost)

    def _compare(self, p: Process, key: Key, seq: int) -> None:
        lines = self.dumps[key]
        theirs = [r for r in canonical(lines, self._cache) if r.name != "[vsyscall]"]
        ours = p.space.canonical()
        if ours != theirs:
            stacks = {int(line.split("-")[0], 16) for line in lines if line.endswith(" [stack]")}
            for i, (mine, its) in enumerate(zip(ours, theirs, strict=False)):
                if mine != its and its.start in stacks and its.start < mine.start:
                    ours[i] = mine._replace(start=its.start)
                    self.grown += 1
        if ours == theirs:
            self.equal[key] = seq
        else:
            self.wrong.append(
                f"pid {key[0]}, mark {key[1]}, event {seq}:\n"
                f"  replayed: {_only(ours, theirs)}\n  read:     {_only(theirs, ours)}"
            )


def _only(these: list[Run], those: list[Run]) -> list[str]:
    known = set(those)
    return [f"{r.start:x}-{r.end:x} {r.perms} {r.ino} {r.name}" for r in these if r not in known]


def assert_marks(done: Traced, folder: Path, least: int, *, part: bool = False) -> Marks:
    """Each map that a program read is the replayed one at its mark, and there are `least` at least.

    `memtrace maps --at` says the same at the first, the middle and the last of them.

    Args:
        part: the trace need not hold every mark: it began later or ended sooner.
    """
    marks = Marks(dumps(folder))
    with Trace(str(done.path)) as trace:
        replay(trace, [marks])
    assert not marks.wrong, f"{len(marks.wrong)} marks of {done.path}: " + "\n".join(
        marks.wrong[:5]
    )
    seen = marks.equal.keys() | marks.crossed
    if not part:
        assert seen == marks.dumps.keys(), f"not in {done.path}: {marks.dumps.keys() - seen}"
    assert len(marks.equal) >= least, (len(marks.equal), len(marks.crossed), len(marks.dumps))
    keys = list(marks.equal)
    for pid, n in {keys[0], keys[len(keys) // 2], keys[-1]}:
        assert_command(done, pid, marks.equal[pid, n], marks.dumps[pid, n])
    return marks


def assert_command(done: Traced, pid: int, seq: int, lines: list[str]) -> None:
    """`memtrace maps --at seq` prints that map; the stack may begin lower in the program's."""
    shown = cli("maps", done.path, "--at", seq, "--pid", pid)
    assert shown.returncode == 0, shown.stderr
    ours = canonical(normal(shown.stdout.splitlines()))
    theirs = [r for r in canonical(lines) if r.name != "[vsyscall]"]
    stacks = {int(line.split("-")[0], 16) for line in lines if line.endswith(" [stack]")}
    for mine, its in zip(ours, theirs, strict=True):
        assert mine[1:] == its[1:], (done.path, pid, seq)
        assert mine.start == its.start or (its.start in stacks and its.start < mine.start)
