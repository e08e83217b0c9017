# SPDX-License-Identifier: GPL-2.0-or-later
"""Random programs of many processes, told in the order in which strace would: the trace replays
without a contradiction. Damaged logs: a trace or a sentence, never a fault.
"""

from __future__ import annotations

import json
import random
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.property.test_strace_fuzz import mutated
from tests.unit.collect.strace.told import LOGS

from memtrace.collect.strace.importing import import_log
from memtrace.collect.strace.merging import files_of
from memtrace.collect.strace.recognise import diagnose
from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.report import json as report_json
from memtrace.report import text
from memtrace.report.build import build
from memtrace.trace.errors import TraceFormatError
from memtrace.trace.reader import Trace

PAGE = 4096
LOW = 0x7F0000000000


class Machine:
    """A kernel that gives addresses, and a strace that writes lines when threads stop.

    A call is entered, done and ended at three moments; between them others run. What strace has
    written of a call is cut when another thread's line comes.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.spaces: dict[int, dict[int, int]] = {}  # mm: start page -> pages
        self.mm_of: dict[int, int] = {}
        self.process_of: dict[int, int] = {}
        self.flying: dict[int, dict[str, Any]] = {}
        self.owned: dict[int, list[int]] = {}
        self.open: int | None = None  # whose line has no end yet
        self.next_tid, self.next_mm = 101, 1
        self.calls = 0

    # -- strace -------------------------------------------------------------------------------

    def say(self, tid: int, text: str) -> None:
        self.cut(tid)
        self.lines.append(f"{tid} {text}")
        self.open = None

    def cut(self, tid: int) -> None:
        if self.open is not None and self.open != tid:
            self.lines[-1] += " <unfinished ...>"
            self.flying[self.open]["cut"] = True
            self.open = None

    def begin(self, tid: int, name: str, head: str) -> None:
        self.cut(tid)
        self.lines.append(f"{tid} {name}({head}")
        self.open = tid

    def end(self, tid: int, name: str, tail: str) -> None:
        if self.flying[tid]["cut"]:
            self.cut(tid)
            self.lines.append(f"{tid} <... {name} resumed>{tail}")
        else:
            self.lines[-1] += tail
        self.open = None

    # -- the kernel ---------------------------------------------------------------------------

    def place(self, mm: int, pages: int) -> int:
        """The lowest hole: what was just freed is given again at once."""
        space, at = self.spaces[mm], 0
        for start in sorted(space):
            if start - at >= pages:
                break
            at = start + space[start]
        space[at] = pages
        return at

    def exec(self, tid: int) -> None:
        self.mm_of[self.process_of[tid]] = self.next_mm
        self.spaces[self.next_mm] = {}
        self.next_mm += 1
        self.owned = {t: [] if t == tid else own for t, own in self.owned.items()}
        self.say(tid, 'execve("/bin/p", ["p"], 0x7ffe /* 3 vars */) = 0')

    def step(self) -> None:
        rng = self.random
        tid = rng.choice(list(self.process_of))
        call = self.flying.get(tid)
        if call is None:
            self.enter(tid)
        elif not call["done"]:
            self.work(tid, call)
        else:
            self.leave(tid, call)

    def enter(self, tid: int) -> None:
        rng = self.random
        own = self.owned[tid]
        kind = rng.choice(["mmap", "mmap", "munmap", "munmap", "mremap", "clone"])
        if kind in {"munmap", "mremap"} and not own:
            kind = "mmap"
        if kind == "clone" and len(self.process_of) > 7:
            kind = "mmap"
        call: dict[str, Any] = {"kind": kind, "done": False, "cut": False}
        if kind == "mmap":
            call["pages"] = rng.randint(1, 4)
            head = (f"NULL, {call['pages'] * PAGE}, PROT_READ|PROT_WRITE, "
                    "MAP_PRIVATE|MAP_ANONYMOUS, -1, 0")  # fmt: skip
        elif kind == "clone":
            call["thread"] = rng.random() < 0.5
            head = "child_stack=NULL, flags=SIGCHLD"
            if call["thread"]:
                head = "child_stack=0x7000, flags=CLONE_VM|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD"
        else:
            mm = self.mm_of[self.process_of[tid]]
            call["at"] = own.pop(rng.randrange(len(own)))
            call["pages"] = self.spaces[mm][call["at"]]
            head = f"{LOW + call['at'] * PAGE:#x}, {call['pages'] * PAGE}"
            if kind == "mremap":
                call["new"] = rng.randint(1, 6)
                head += f", {call['new'] * PAGE}, MREMAP_MAYMOVE"
        self.flying[tid] = call
        self.begin(tid, kind, head)

    def work(self, tid: int, call: dict[str, Any]) -> None:
        call["done"] = True
        process = self.process_of[tid]
        mm = self.mm_of[process]
        if call["kind"] == "mmap":
            call["at"] = self.place(mm, call["pages"])
        elif call["kind"] == "munmap":
            del self.spaces[mm][call["at"]]
        elif call["kind"] == "mremap":
            if call["new"] <= call["pages"]:
                self.spaces[mm][call["at"]] = call["new"]
            else:
                # The kernel finds the new place before it gives up the old one.
                new = self.place(mm, call["new"])
                del self.spaces[mm][call["at"]]
                call["at"] = new
        else:
            child = call["child"] = self.next_tid
            self.next_tid += 1
            self.owned[child] = []
            if call["thread"]:
                self.process_of[child] = process
            else:
                self.process_of[child] = child
                self.mm_of[child] = self.next_mm
                self.spaces[self.next_mm] = dict(self.spaces[mm])
                self.next_mm += 1

    def leave(self, tid: int, call: dict[str, Any]) -> None:
        kind = call["kind"]
        self.calls += kind != "clone"
        if kind == "munmap":
            tail = ") = 0"
        elif kind == "clone":
            tail = f") = {call['child']}"
        else:
            self.owned[tid].append(call["at"])
            tail = f") = {LOW + call['at'] * PAGE:#x}"
        self.end(tid, kind, tail)
        del self.flying[tid]

    def run(self, steps: int) -> bytes:
        self.process_of[100], self.owned[100] = 100, []
        self.exec(100)
        for _ in range(steps):
            self.step()
        while self.flying:
            tid = self.random.choice(list(self.flying))
            call = self.flying[tid]
            if call["done"]:
                self.leave(tid, call)
            else:
                self.work(tid, call)
        for tid in sorted(self.process_of, reverse=True):
            self.say(tid, "+++ exited with 0 +++")
        return "\n".join(self.lines).encode() + b"\n"


@pytest.mark.parametrize("seed", range(60))
def test_a_random_program_replays_without_a_contradiction(seed: int, tmp_path: Path) -> None:
    machine = Machine(seed)
    if seed % 2:
        machine.random = _ThreadsOnly(seed)
    log = tmp_path / "log"
    log.write_bytes(machine.run(600))
    done = import_log(str(log), str(tmp_path / "t.json"))
    assert done.reason == ""
    assert done.counts["calls"] == machine.calls
    with Trace(tmp_path / "t.json") as trace:
        r = replay(trace, until_seq=10**9)
    assert not r.problems_total, r.problems
    for p in r.processes:
        # A copy made while an unmap is in flight: which came first no line tells, and that is said.
        if p.conflicts:
            line = [p]
            while (parent := line[-1].parent) is not None:
                line.append(parent)
            assert any(q.overlaps for q in line)
    if seed % 2:
        assert not any(p.conflicts or p.overlaps for p in r.processes)
        # What is mapped at the end is what the machine has.
        with Trace(tmp_path / "t.json") as trace:
            (space,) = _last_maps(trace).values()
        assert space == _runs(machine.spaces[1])


class _ThreadsOnly(random.Random):
    """Chooses no fork."""

    def random(self) -> float:
        return 0.0


def _runs(space: dict[int, int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for start in sorted(space):
        low, high = LOW + start * PAGE, LOW + (start + space[start]) * PAGE
        if runs and runs[-1][1] == low:
            runs[-1] = runs[-1][0], high
        else:
            runs.append((low, high))
    return runs


def _last_maps(trace: Trace) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}

    class Last(Observer):
        def died(self, p: Process, seq: int, t: int) -> None:
            found[p.mm] = [(run.start, run.end) for run in p.space.canonical()]

    replay(trace, [Last()])
    return found


# -- damage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schemas() -> tuple[Any, Any]:
    trace = json.loads(files("memtrace.trace").joinpath("trace.schema.json").read_bytes())
    return (
        jsonschema.Draft202012Validator(trace),
        jsonschema.Draft202012Validator(report_json.schema()),
    )


@pytest.mark.parametrize("log", LOGS, ids=lambda log: f"{log.parent.name}-{log.stem}")
def test_every_stored_log_makes_a_valid_trace(
    log: Path, tmp_path: Path, schemas: tuple[Any, Any]
) -> None:
    path = tmp_path / "t.json"
    try:
        import_log(str(log), str(path))
    except TraceFormatError:
        assert not path.exists()
        return
    whole = json.loads(path.read_bytes())
    schemas[0].validate(whole)
    with Trace(path) as trace:
        report = build(trace)
    schemas[1].validate(json.loads(report_json.render(report)))
    assert report.exactness in {"unverified", "incomplete", "drift"}
    assert "no kernel snapshots in this log" in text.render(report).replace("\n" + " " * 19, " ")


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_log_is_imported_or_refused_with_a_sentence(
    seed: int, tmp_path: Path, schemas: tuple[Any, Any]
) -> None:
    rng = random.Random(seed)
    data = b"\n".join(
        mutated(line, rng) if rng.random() < 0.2 else line
        for log in rng.sample(LOGS, 3)
        for line in log.read_bytes().split(b"\n")
        if rng.random() < 0.95
    )
    log, path = tmp_path / "log", tmp_path / "t.json"
    log.write_bytes(data)
    try:
        import_log(str(log), str(path), redact=seed % 4 == 0)
    except TraceFormatError:
        assert not path.exists()
        return
    whole = json.loads(path.read_bytes())
    schemas[0].validate(whole)
    with Trace(path) as trace:
        report = build(trace)
    schemas[1].validate(json.loads(report_json.render(report)))
    text.render(report)
    assert report.exactness != "exact"


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_diagnosed(seed: int) -> None:
    rng = random.Random(seed)
    diagnose("x", rng.randbytes(rng.randint(0, 4000)))


def test_a_name_without_a_file_is_left_for_the_error(tmp_path: Path) -> None:
    assert files_of(str(tmp_path / "none")) == [str(tmp_path / "none")]
