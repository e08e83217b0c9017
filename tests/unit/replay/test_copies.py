# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of forked children: what they have in common costs nothing, and copies are bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memtrace.replay import lives, trust
from memtrace.replay.engine import replay
from memtrace.replay.result import Replay
from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call, Exec, Footer, Fork, Gone, Header, Life

LINES = [f"{n}0000-{n}1000 rw-p 00000000 00:00 0" for n in range(1, 9)]  # 8 pieces
BEGIN = Exec(t=0, pid=1, tid=1, mm=1, maps=LINES)
Run = Callable[..., Replay]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def go(*records: Call | Life, room: int) -> Replay:
        monkeypatch.setattr(lives, "COPIED", room)
        path = tmp_path / "t.json"
        foot = encode_footer(Footer(stop=9, complete=True, counts={"records": len(records)}))
        head = encode_header(Header(calls=["munmap", "mmap"], engine="ptrace"))
        path.write_bytes(head + b"".join(map(encode, records)) + foot)
        with Trace(path) as trace:
            return replay(trace)

    return go


def fork(child: int, mother: int = 1) -> Fork:
    return Fork(t=1, pid=mother, tid=mother, mm=mother, child=child, child_mm=child)


def unmaps(mm: int, n: int = 1) -> Call:
    return Call(0, 1, mm, mm, 0, [n << 16, 0x1000], 0)


def test_children_that_do_nothing_share_what_they_were_born_with(run: Run) -> None:
    r = run(BEGIN, *(fork(child) for child in range(2, 100)), room=8)
    assert len(r.processes) == 99
    assert not r.problems


def test_too_many_copies_by_children_are_given_up_and_told(run: Run) -> None:
    family = [one for child in range(2, 9) for one in (fork(child), unmaps(child))]
    r = run(BEGIN, *family, room=8 * 4)
    seq, text = r.problems[0]
    assert (seq, text) == (9, "more than 32 mappings in copies: address space 5 is given up")
    assert trust.exactness(r) == "drift"
    assert [p.events for p in r.processes] == [0, 1, 1, 1, 0, 0, 0, 0]


def test_what_the_parent_leaves_to_each_child_is_a_copy_too(run: Run) -> None:
    family = [one for n in range(1, 8) for one in (fork(n + 1), unmaps(1, n))]
    r = run(BEGIN, *family, room=8 + 7 + 6)
    assert r.problems[0] == (8, "more than 21 mappings in copies: address space 5 is given up")
    assert r.processes[0].events == 7  # the parent's own go on


def test_one_that_is_given_up_takes_nothing_of_the_others(run: Run) -> None:
    """Not even where the next call is again of the address space before it."""
    maps = Call(0, 1, 1, 1, 1, [0, 0x2000, 3, 0x22, -1, 0], 0x900000, None, 99)
    r = run(BEGIN, fork(2), unmaps(1), unmaps(2), maps, unmaps(1, 2), room=8)
    assert r.problems[0][0] == 4
    mother, child = r.processes
    assert (mother.events, mother.mapped_peak_seq, mother.vm_peak) == (3, 5, 99)
    assert (child.events, child.vm_peak, child.died_seq) == (0, 0, 4)


def test_the_dead_make_room(run: Run) -> None:
    family = [
        one
        for child in range(2, 50)
        for one in (fork(child), unmaps(child), Gone(t=1, mm=child))
    ]  # fmt: skip
    r = run(BEGIN, *family, room=16)
    assert not r.problems
    assert trust.exactness(r) == "unverified"
