# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces that contradict themselves, and traces of far too much (`tests/hostile.py`).

The first are called drifted, or incomplete, with the event; never exact. Of the second every verb
comes to its end in the memory and the time that it is allowed, and what a report takes grows with
their size, not with its square: the slow tests. Of what is wrong a few are kept, and all are
counted.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import hostile
from tests.hostile import CONTRADICTIONS, LARGE, Contradiction, mmap, snap, write

from memtrace.replay import trust
from memtrace.replay.book import Making
from memtrace.replay.engine import replay
from memtrace.replay.result import Replay
from memtrace.report.build import making_of
from memtrace.space.canonical import MapsCache
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
        "peak": ["maps", str(path), "--at", "peak"],
        "diff": ["diff", str(path), "--at", "start", "--at", "end"],
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
    r = replayed(write(tmp_path / "t.json", case.records))
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


def test_of_much_that_is_wrong_a_few_are_kept(tmp_path: Path) -> None:
    """Drifts, problems, lines that are no records: the first 20 of each, and how many there are."""
    n = 50
    bad: list[hostile.Record | bytes] = [b"[1,2\n"] * n
    calls = [mmap(hostile.LOW, mm=9) for _ in range(n)]
    drifts = [
        snap(1000 + i, [hostile.line(hostile.LOW * (2 + i), hostile.LOW * (2 + i) + hostile.PAGE)])
        for i in range(n)
    ]
    path = write(tmp_path / "t.json", [hostile.begun(), *bad, *calls, *drifts])
    with Trace(path) as trace:
        r = replay(trace)
        assert (len(trace.problems), trace.problems_total) == (20, n)
    (p,) = r.processes
    assert (len(r.problems), r.problems_total) == (20, n)
    assert [seq for seq, _ in r.problems] == list(range(2 + n, 22 + n))
    assert (len(p.drift), p.drifts, p.snapshots) == (20, n, n)
    assert [d.seq for d in p.drift] == list(range(2 + 2 * n, 22 + 2 * n))


def test_of_a_wide_drift_the_first_lines_are_kept(tmp_path: Path) -> None:
    r = replayed(write(tmp_path / "t.json", hostile.wide_drifting(3, lines=500)))
    (p,) = r.processes
    assert len(p.drift) == 2
    for d in p.drift:
        assert (len(d.model), len(d.kernel), d.differing) == (40, 40, 1000)
        assert d.model[0].start == min(r.start for r in d.model)


def test_what_is_remembered_of_lines_of_maps_is_bounded() -> None:
    """And what is forgotten is read anew."""
    cache = MapsCache(limit=100)
    for i in range(1000):
        lines = [hostile.line(j * hostile.PAGE, (j + 1) * hostile.PAGE) for j in range(i, i + 10)]
        parsed = cache.parse(lines)
        assert [start for start, *_ in parsed] == [j * hostile.PAGE for j in range(i, i + 10)]
        assert len(cache._seen) <= 100 + 10


#: A generator and how many records of the kind make a trace too large for any carelessness.
TOO_MANY = [(large, hostile.SIZES.get(name, MANY)) for name, large in LARGE.items()]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("large", "n"),
    [*TOO_MANY, (hostile.snapshots, 1_000_000)],
    ids=[*LARGE, "a million snapshots"],
)
def test_memory_is_bounded(large: hostile.Large, n: int, tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", large(n))
    for name, words in verbs(path, n // 2).items():
        done = command(words, 600, keep=False)
        assert done.status in FINE, f"{name}: {done.status} {done.err}"
        assert "fault of memtrace" not in done.err, name


def seconds(path: Path) -> float:
    """CPU time that a report takes, with a cache beside the trace; of two the shorter."""

    def once() -> float:
        begin = time.process_time()
        with Trace(path) as trace, Making(trace, large=True) as making:
            making_of(trace, making)
        return time.process_time() - begin

    return min(once(), once())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("large", "n"), TOO_MANY, ids=LARGE)
def test_four_times_as_much_takes_some_four_times_as_long(
    large: hostile.Large, n: int, tmp_path: Path
) -> None:
    """Twice that at most, for the machine is not quiet; a square is sixteen times."""
    few = seconds(write(tmp_path / "few.json", large(n)))
    many = seconds(write(tmp_path / "many.json", large(4 * n)))
    fair = 16 if large.__name__ in hostile.SQUARE else 4
    assert many <= 2 * fair * max(few, 0.02), f"{few:.3f} s, {many:.3f} s"


@pytest.mark.parametrize("size", [0, -4096, 5000, 1 << 60])
def test_a_page_size_that_no_machine_has(size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [hostile.END], hostile.header(page_size=size))
    with pytest.raises(TraceFormatError, match="page size"):
        Trace(path)
