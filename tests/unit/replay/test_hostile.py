# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces that contradict themselves, and traces of far too much (`tests/hostile.py`).

The first are called drifted, or incomplete, with the event; never exact. The second are read to the
end in bounded memory, without a quarrel between their size and the time they take.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import hostile
from tests.hostile import CONTRADICTIONS, LARGE, Contradiction, write

from memtrace.replay import trust
from memtrace.replay.engine import replay
from memtrace.replay.result import Replay
from memtrace.trace.errors import TraceFormatError
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call, Header

ROOT = Path(__file__).resolve().parents[3]
#: Address space of one command: what `ulimit -v 2000000` allows.
MEMORY = 2_000_000 << 10
#: Statuses of the verbs: 0, 1 drift, 2 no such moment, 3 incomplete; 125 is a fault of memtrace.
FINE = {0, 1, 2, 3}


def replayed(path: Path) -> Replay:
    with Trace(path) as trace:
        return replay(trace)


def named(r: Replay) -> set[int]:
    """The events that a replay names as not to be believed."""
    events = {seq for seq, _ in r.problems}
    for p in r.processes:
        events |= {d.seq for d in p.drift}
        events |= {n for n in (p.first_conflict, p.first_mismatch) if n is not None}
    return events


def verbs(path: Path, at: int) -> dict[str, list[str]]:
    return {
        "verify": ["verify", str(path)],
        "json": ["report", str(path), "--format", "json"],
        "text": ["report", str(path)],
        "at": ["maps", str(path), "--at", str(at)],
        "end": ["maps", str(path), "--at", "end"],
        "events": ["events", str(path)],
    }


@dataclass(frozen=True)
class Done:
    status: int
    seconds: float
    out: bytes
    err: str


def command(words: list[str], patience: int = 100, *, keep: bool = True) -> Done:
    """A verb in a process of its own, its memory and time bounded."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (patience, patience + 1))

    path = os.pathsep.join([str(ROOT / "tracer"), str(ROOT / "analysis")])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "memtrace", *words],
        env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if keep else subprocess.DEVNULL, stderr=subprocess.PIPE,
        check=False, preexec_fn=bound,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Done(done.returncode, seconds, done.stdout or b"", done.stderr.decode())


@pytest.mark.parametrize("case", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_contradiction_is_named_with_its_event(case: Contradiction, tmp_path: Path) -> None:
    r = replayed(write(tmp_path / "t.json", case.records, case.head))
    assert trust.exactness(r) in {"drift", "incomplete"}, trust.sentence(r)
    assert case.event in named(r), (trust.sentence(r), r.problems)


def test_without_the_contradiction_all_is_well(tmp_path: Path) -> None:
    """What the cases have in common is exact."""
    r = replayed(write(tmp_path / "t.json", [hostile.begun(), hostile.END]))
    assert trust.exactness(r) == "exact", trust.sentence(r)


@pytest.mark.parametrize(
    "head",
    [hostile.header(log="s.log", clock="us"), Header(engine="strace", calls=hostile.CALLS)],
    ids=["imported", "strace"],
)
def test_times_of_strace_may_go_back(tmp_path: Path, head: Header) -> None:
    head.engine = "strace"
    records: list[hostile.Record | bytes] = [
        hostile.begun(1000),
        Call(-5, 1, 1, 1, 0, [0], hostile.BRK),
        hostile.snap(20),
    ]
    r = replayed(write(tmp_path / "t.json", records, head))
    assert trust.exactness(r) == "exact", trust.sentence(r)


def test_the_commands_say_so_and_never_fail(tmp_path: Path) -> None:
    """Every case in one trace after the other, each verb as a process of its own."""
    records: list[hostile.Record | bytes] = []
    for case in CONTRADICTIONS.values():
        records += case.records
    path = write(tmp_path / "t.json", records)
    for name, words in verbs(path, 5).items():
        done = command(words)
        assert done.status == (1 if name == "verify" else 0), f"{name}: {done.err}"
        assert "Traceback" not in done.err
        assert "fault of memtrace" not in done.err
        if name == "json":
            assert json.loads(done.out)["processes"]


#: Records of each kind in the default run; the slow tests take far more.
FEW, MANY = 300, 10_000


@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE.keys())
def test_much_of_one_kind_is_read_and_judged(large: hostile.Large, tmp_path: Path) -> None:
    """Small sizes, in one process: nothing raises, and what cannot be true is not called exact."""
    path = write(tmp_path / "t.json", large(FEW))
    r = replayed(path)
    word = trust.exactness(r)
    assert (word != "exact") == (large.__name__ in hostile.WRONG), trust.sentence(r)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE.keys())
def test_memory_is_bounded(large: hostile.Large, tmp_path: Path) -> None:
    n = hostile.SIZES.get(large.__name__, MANY)
    path = write(tmp_path / "t.json", large(n))
    for name, words in verbs(path, n // 2).items():
        done = command(words, 600, keep=False)
        assert done.status in FINE, f"{name}: {done.status} {done.err}"
        assert "fault of memtrace" not in done.err, name


@pytest.mark.parametrize("size", [0, -4096, 5000, 1 << 60])
def test_a_page_size_that_no_machine_has(size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [hostile.END], hostile.header(page_size=size))
    with pytest.raises(TraceFormatError, match="page size"):
        Trace(path)
