# SPDX-License-Identifier: GPL-2.0-or-later
"""Change one event of a real trace, and `verify` notices: all that can be seen, N of N.

What can be seen is told by a replay of its own (`mutation.py`), and it depends on how often the
kernel was asked. Every call carries the total of its address space (statm): a change of size
shows at once. Which pages are mapped and how shows at snapshots only:

- `--snapshots every=1`: after every call. There nothing that changes a map goes unseen.
- by default: at an exec, a fork, an exit, now and then, and where the total disagrees. A protection
  that was altered and set again before the next of them, or a mapping that was a page off and then
  unmapped, is not noticed, and cannot be: nothing in the trace contradicts it. These are counted as
  unseen.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.mutation import LENGTH, Mutation, Recorded, chosen, judge, mutations
from tests.live.tracing import ROOT, Traced, cli

from memtrace.replay import trust
from memtrace.replay.engine import replay
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call

THREADS = """
import mmap, threading
def work():
    for _ in range(8):
        with mmap.mmap(-1, 1 << 20) as m:
            m[0] = 1
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
#: Each with a length of less than a page; most change nothing.
PARTS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
n, m = ctypes.c_size_t(100), ctypes.c_size_t(50)
for _ in range(4):
    at = ctypes.c_void_p(libc.mmap(None, n, 3, 0x22, -1, 0))
    assert libc.mprotect(at, n, 3) == 0
    assert libc.syscall(329, at, n, 3, ctypes.c_long(-1)) == 0
    assert libc.mremap(at, n, m, 0) == at.value
    assert libc.munmap(at, n) == 0
    assert libc.munmap(at, n) == 0
"""
SHELL = (
    "for i in 1 2; do x=$(echo $i | cat); done; ls / >/dev/null; (echo a; echo b) | sort >/dev/null"
)
BUILT = ROOT / "build" / "samples"
PROGRAMS: dict[str, list[str | Path]] = {
    "self-maps with a fork": [BUILT / "self-maps", "1", "80", "10", "fork"],
    "self-maps, longer": [BUILT / "self-maps", "3", "120", "20", "fork"],
    "threads-fight": [BUILT / "threads-fight", "1", "4", "20"],
    "mapping-kinds": [BUILT / "mapping-kinds"],
    "fork-tree": [BUILT / "fork-tree"],
    "python with threads": [sys.executable, "-I", "-S", "-c", THREADS],
    "parts of pages": [sys.executable, "-I", "-S", "-c", PARTS],
    "bash": ["bash", "--norc", "-c", SHELL],
}
EVERY = ("--snapshots", "every=1")
Record = Callable[..., Recorded]


@pytest.fixture
def record(run: Callable[..., Traced], samples: Path) -> Record:
    """A program by name, traced: exact, and reproduced by the naive replay."""

    def go(name: str, *options: str) -> Recorded:
        done = run(*PROGRAMS[name], options=options)
        assert done.returncode == 0, done.stderr
        done.assert_exact()
        return Recorded.load(done.path)

    return go


def exactness(trace: Recorded, mutation: Mutation, path: Path) -> str:
    with Trace(trace.write(path, mutation.of(trace.records))) as opened:
        return trust.exactness(replay(opened))


def account(trace: Recorded, wanted: list[Mutation], path: Path) -> Counter[str]:
    """How many mutations were of which sight, and how many visible ones were noticed."""
    found: Counter[str] = Counter()
    sight = judge(trace)
    missed = []
    for mutation in wanted:
        seen, word = sight(mutation), exactness(trace, mutation, path)
        found[seen] += 1
        if seen == "visible":
            found["noticed"] += word in {"drift", "incomplete"}
            if word == "exact":
                missed.append(str(mutation))
        else:  # nothing contradicts it: no false alarm
            assert word == "exact", f"{seen}: {mutation}"
    assert not missed, missed
    return found


def over(record: Record, path: Path, options: tuple[str, ...], rounds: int, seed: int) -> None:
    total: Counter[str] = Counter()
    for name in PROGRAMS:
        if options == EVERY and name == "self-maps, longer":
            continue  # half a second for each
        trace = record(name, *options)
        total += account(trace, chosen(trace, rounds, seed), path)
    print(f"seed {seed}, {options or 'by default'}: {dict(total)}")  # noqa: T201 - the measured numbers
    assert total["noticed"] == total["visible"] >= 200, total
    if options == EVERY:
        assert total["unseen"] == 0, total


@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [(), EVERY], ids=["default", "every=1"])
def test_every_visible_mutation_is_noticed(
    record: Record, tmp_path: Path, options: tuple[str, ...]
) -> None:
    over(record, tmp_path / "mutated.json", options, rounds=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("options", [(), EVERY], ids=["default", "every=1"])
def test_thousands_of_mutations(
    record: Record, tmp_path: Path, options: tuple[str, ...], seed: int
) -> None:
    rounds = 12 if options == EVERY else 30  # with a snapshot after each call each takes longer
    over(record, tmp_path / "mutated.json", options, rounds=rounds, seed=seed)


@pytest.mark.timeout(300)
def test_what_a_child_does_not_inherit(record: Record, tmp_path: Path) -> None:
    """MADV_DONTFORK shows in no map but the child's."""
    trace = record("self-maps, longer")
    wanted = [m for m in mutations(trace) if m.kind == "MADV_DONTFORK removed"]
    found = account(trace, wanted, tmp_path / "mutated.json")
    assert found["noticed"] == found["visible"] > 0, found


@pytest.mark.timeout(300)
def test_no_call_of_a_negative_length_has_succeeded(record: Record, tmp_path: Path) -> None:
    """A length of less than a page, made a page shorter: not even where the call has no effect."""
    trace = record("parts of pages")
    wanted = [
        m for m in mutations(trace)
        if m.kind.endswith(": shorter") and "madvise" not in m.kind and negative(trace, m)
    ]  # fmt: skip
    assert {m.kind.partition(":")[0] for m in wanted} == set(LENGTH) - {"madvise"}
    found = account(trace, wanted, tmp_path / "mutated.json")
    assert found["noticed"] == found["visible"] == len(wanted), found


def negative(trace: Recorded, mutation: Mutation) -> bool:
    """Whether it is of a call that succeeds on a negative length."""
    call = mutation.new
    assert isinstance(call, Call)
    assert call.ret is not None
    return call.ret >= 0 > call.args[LENGTH[trace.header.calls[call.call]]]


def test_the_command_says_it_and_where(record: Record, tmp_path: Path) -> None:
    trace = record("fork-tree")
    path = trace.write(tmp_path / "t.json", trace.records)
    assert cli("verify", path).returncode == 0
    sight = judge(trace)
    visible = [m for m in chosen(trace, 1, seed=1) if sight(m) == "visible"]
    for mutation in visible[::8]:
        trace.write(path, mutation.of(trace.records))
        done = cli("verify", path)
        assert done.returncode == 1, f"{mutation}\n{done.stdout}"
        assert done.stdout.startswith("drift: ")
        assert "first at event " in done.stdout.splitlines()[0]
        assert not done.stderr
