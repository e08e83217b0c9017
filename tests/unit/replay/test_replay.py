# SPDX-License-Identifier: GPL-2.0-or-later
"""The pass: whose map a record changes, what is compared, and what is believed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memtrace.replay import process, trust
from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.replay.result import Replay
from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.reader import Trace
from memtrace.trace.records import (
    Call,
    Clone,
    Exec,
    Exit,
    Ext,
    Footer,
    Fork,
    Gone,
    Header,
    Libc,
    Life,
    Lost,
    Snap,
)

BRK, MMAP, MUNMAP, MPROTECT = range(4)
STACK = "7ff0000-8000000 rw-p 00000000 00:00 0 [stack]"
TEXT = "400000-401000 r-xp 00000000 fe:00 7 /bin/a"
MAPS = [TEXT, STACK]  # 17 pages
HEAP = "600000-610000 rw-p 00000000 00:00 0 [heap]"  # 16 pages
CHUNK = "700000-722000 rw-p 00000000 00:00 0"  # 34 pages


def started(mm: int = 1, pid: int = 5, **more: Any) -> Exec:
    maps = more.pop("maps", MAPS)
    return Exec(t=0, pid=pid, tid=pid, mm=mm, exe="/bin/a", argv=["a"], start_brk=0x600000,
                start_stack=0x7FFFF00, maps=maps, **more)  # fmt: skip


def brk(asked: int, ret: int, vm: int | None = None, mm: int = 1, tid: int = 5) -> Call:
    return Call(10, 1, tid, mm, BRK, [asked], ret, None, vm)


def mmap(address: int, length: int, vm: int | None = None, mm: int = 1, tid: int = 5) -> Call:
    return Call(10, 1, tid, mm, MMAP, [0, length, 3, 0x22, -1, 0], address, None, vm)


def munmap(address: int, length: int, vm: int | None = None, mm: int = 1, tid: int = 5) -> Call:
    return Call(10, 1, tid, mm, MUNMAP, [address, length], 0, None, vm)


def snap(maps: list[str], mm: int = 1, pid: int = 5, **more: Any) -> Snap:
    return Snap(t=1000, mm=mm, pid=pid, tid=pid, why="exit", maps=maps, **more)


GROWN = [brk(0x610000, 0x610000, 33), mmap(0x700000, 0x22000, 67)]
FULL = [TEXT, HEAP, CHUNK, STACK]


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def go(
        *records: Call | Life,
        observers: Sequence[Observer] = (),
        footer: Footer | None = Footer(stop=2000, complete=True),  # noqa: B008
        **limits: Any,
    ) -> Replay:
        path = tmp_path / "t.json"
        header = encode_header(Header(calls=["brk", "mmap", "munmap", "mprotect"]))
        if footer and not footer.counts:
            footer = msgspec.structs.replace(footer, counts={"records": len(records)})
        end = encode_footer(footer) if footer else b""
        path.write_bytes(header + b"".join(encode(r) for r in records) + end)
        with Trace(path) as trace:
            return replay(trace, observers, **limits)

    return go


def test_an_exact_trace_says_so_with_its_numbers(run: Any) -> None:
    r = run(started(), *GROWN, snap(FULL, vm=67), Exit(t=1, pid=5, tid=5, mm=1, code=3))
    assert trust.sentence(r) == (
        "exact: 1 of 1 kernel snapshots reproduced, 2 of 2 checksums, no gaps"
    )
    (p,) = r.processes
    assert (p.pid, p.exit_code, p.calls) == (5, 3, {"brk": (1, 0), "mmap": (1, 0)})
    assert (p.mapped_peak, p.mapped_peak_seq) == (67 * 4096, 3)
    assert (p.vm_peak, p.maps_peak, r.events, r.duration_ns) == (67, 4, 2, 2000)


def test_without_a_snapshot_nothing_is_called_exact(run: Any) -> None:
    r = run(started(), *GROWN)
    assert trust.exactness(r) == "unverified"
    assert trust.exactness(run()) == "unverified"


def test_without_a_footer_or_with_lost_events_it_is_incomplete(run: Any) -> None:
    whole = [started(), *GROWN, snap(FULL)]
    assert trust.exactness(run(*whole)) == "exact"
    assert trust.exactness(run(*whole, footer=None)) == "incomplete"
    killed = run(*whole, footer=Footer(stop=1, complete=False, reason="the tracer was killed"))
    assert (killed.complete, killed.reason) == (False, "the tracer was killed")
    lost = run(started(), Lost(t=1, why="x", count=4), *GROWN, snap(FULL))
    assert (lost.lost, lost.first_lost, trust.exactness(lost)) == (4, 2, "incomplete")


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"records": 5}, "its writer counted 5 records, and 4 are here"),
        ({"records": 4, "calls": 3}, "its writer counted 3 calls, and 2 are here"),
        ({"records": 4, "calls": 2, "lost": 7},
         "its writer counted 7 lost events, of which no record tells"),
    ],
)  # fmt: skip
def test_what_the_footer_counts_and_is_not_here_is_missing(
    run: Any, counts: dict[str, int], reason: str
) -> None:
    whole = [started(), *GROWN, snap(FULL)]
    r = run(*whole, footer=Footer(stop=9, complete=True, counts=counts))
    assert (trust.exactness(r), r.reason) == ("incomplete", reason)
    counts |= {"records": 4, "calls": 2, "lost": 0}
    r = run(*whole, footer=Footer(stop=9, complete=True, counts=counts))
    assert trust.sentence(r).endswith(", no gaps")


def test_where_the_footer_counts_no_records_gaps_are_unknown(run: Any) -> None:
    r = run(started(), *GROWN, snap(FULL), footer=Footer(stop=9, complete=True, counts={"a": 1}))
    assert "no gaps" not in trust.sentence(r)
    assert "gaps unknown" in trust.sentence(r)


VISIBLE = [
    started(),
    brk(0x610000, 0x610000),
    mmap(0x700000, 0x22000),
    Call(10, 1, 5, 1, MPROTECT, [0x700000, 0x1000, 1], 0),
    munmap(0x710000, 0x1000),
    brk(0x608000, 0x608000),
]
VISIBLE_END = [
    TEXT,
    "600000-608000 rw-p 00000000 00:00 0 [heap]",
    "700000-701000 r--p 00000000 00:00 0",
    "701000-710000 rw-p 00000000 00:00 0",
    "711000-722000 rw-p 00000000 00:00 0",
    STACK,
]


def test_every_visible_call_is_needed_for_the_kernels_map(run: Any) -> None:
    assert trust.exactness(run(*VISIBLE, snap(VISIBLE_END))) == "exact"
    for i in range(1, len(VISIBLE)):
        if i == 1:  # the later brk brings the break to the same place
            continue
        r = run(*VISIBLE[:i], *VISIBLE[i + 1 :], snap(VISIBLE_END))
        assert trust.exactness(r) == "drift", i
        assert r.processes[0].drift[0].seq == len(VISIBLE)


@pytest.mark.parametrize(
    ("at", "args", "ret"),
    [(2, [0, 0x21000, 3, 0x22, -1, 0], 0x700000), (2, [0, 0x22000, 1, 0x22, -1, 0], 0x700000),
     (2, [0, 0x22000, 3, 0x22, -1, 0], 0x800000), (3, [0x700000, 0x1000, 5], 0),
     (3, [0x700000, 0x1000, 1], -12), (4, [0x710000, 0x2000], 0), (4, [0x711000, 0x1000], 0),
     (5, [0x609000], 0x609000), (5, [0x608000], 0x610000)],
)  # fmt: skip
def test_every_visible_alteration_is_noticed(run: Any, at: int, args: list[int], ret: int) -> None:
    call = VISIBLE[at]
    assert isinstance(call, Call)
    altered = Call(10, 1, 5, 1, call.call, args, ret)
    r = run(*VISIBLE[:at], altered, *VISIBLE[at + 1 :], snap(VISIBLE_END))
    assert trust.exactness(r) == "drift"


def test_a_drift_is_named_resynchronised_and_counted_once(run: Any) -> None:
    seen = [*FULL[:3], "730000-731000 rw-p 00000000 00:00 0", STACK]
    r = run(started(), *GROWN, snap(seen), snap(seen))
    (p,) = r.processes
    assert (p.snapshots, p.exact, p.drifts, p.drift[0].seq) == (2, 1, 1, 4)
    assert "1 of 2" in trust.sentence(r)
    assert "first at event 4" in trust.sentence(r)


def test_checksums_that_stack_growth_explains_are_no_drift(run: Any) -> None:
    taller = "7fee000-8000000 rw-p 00000000 00:00 0 [stack]"  # two pages more
    late = [brk(0x610000, 0x610000, 33), mmap(0x700000, 0x22000, 69)]
    r = run(started(), *late, snap([TEXT, HEAP, CHUNK, taller], vm=69))
    (p,) = r.processes
    assert (p.checksum_mismatches, p.checksum_growth, p.unexplained) == (1, 1, 0)
    assert p.stack_growth_bytes == 8192
    assert trust.exactness(r) == "exact"


@pytest.mark.parametrize("then", [[67, 69], [68, 69], [69, 68, 69]], ids=str)
def test_a_stack_does_not_shrink(run: Any, then: list[int]) -> None:
    """What was counted and then was not is no stack growth, though it was no more than that."""
    taller = "7fee000-8000000 rw-p 00000000 00:00 0 [stack]"
    late = [brk(0x610000, 0x610000, 33), mmap(0x700000, 0x22000, 69)]
    asks = [brk(0, 0x610000, vm) for vm in then]
    r = run(started(), *late, *asks, snap([TEXT, HEAP, CHUNK, taller], vm=69))
    (p,) = r.processes
    assert (p.checksum_growth, p.first_mismatch) == (0, 3)
    assert trust.exactness(r) == "drift"


def test_checksums_that_nothing_explains_are_drift(run: Any) -> None:
    r = run(started(), brk(0x610000, 0x610000, 34), mmap(0x700000, 0x22000, 67), snap(FULL, vm=67))
    assert (r.processes[0].unexplained, r.processes[0].first_mismatch) == (1, 2)
    assert trust.exactness(r) == "drift"


def test_a_statm_that_counts_one_page_too_many_throughout_is_no_drift(run: Any) -> None:
    more = [brk(0x610000, 0x610000, 34), mmap(0x700000, 0x22000, 68)]
    r = run(started(), *more, snap(FULL, vm=68), munmap(0x700000, 0x22000, 34),
            snap([TEXT, HEAP, STACK], vm=34))  # fmt: skip
    assert r.processes[0].checksum_mismatches == 0
    assert trust.exactness(r) == "exact"


def test_a_fork_copies_and_a_vfork_shares(run: Any) -> None:
    r = run(
        started(), *GROWN,
        Fork(t=1, pid=5, tid=5, mm=1, child=6, child_mm=2),
        munmap(0x700000, 0x22000, 33, mm=2, tid=6),
        Clone(t=2, pid=5, tid=5, mm=1, child=7, child_pid=7),
        brk(0x600000, 0x600000, 51, tid=7),
        snap([TEXT, HEAP, STACK], mm=2, pid=6),
        snap([TEXT, CHUNK, STACK]),
    )  # fmt: skip
    first, child = r.processes
    assert trust.exactness(r) == "exact"
    assert (first.pids, child.pids) == ([5, 7], [6])
    assert (child.parent, child.inherited, child.ppid, child.start) == (first, True, 5, first.start)
    assert first.calls == {"brk": (2, 0), "mmap": (1, 0)}


def test_an_exec_ends_one_map_and_begins_the_next(run: Any) -> None:
    r = run(
        started(),
        Clone(t=1, pid=5, tid=5, mm=1, child=7, child_pid=7),
        started(mm=2, pid=7, old_mm=1),
        started(mm=3, pid=5, old_mm=1),
        Gone(t=5, mm=1),
        Exit(t=6, pid=5, tid=5, mm=3, signal=9),
    )
    first, spawned, second = r.processes
    assert first.died_seq == 4  # with its last user, not when the vfork child went
    assert (spawned.ppid, spawned.alive) == (5, True)
    assert (second.exit_signal, first.exit_code, first.exit_signal) == (9, None, None)
    assert r.problems == []


@pytest.mark.parametrize(
    ("asked", "ret", "failed"),
    [(0, 0x600000, 0), (0x5FFFFF, 0x600000, 0), (0x601000, 0x601000, 0), (0x601000, 0x600000, 1),
     (-4096, 0x600000, 1)],
)  # fmt: skip
def test_a_brk_has_failed_if_it_asked_for_a_break_and_got_another(
    run: Any, asked: int, ret: int, failed: int
) -> None:
    assert run(started(), brk(asked, ret)).processes[0].calls == {"brk": (1, failed)}


def test_contradictions_are_problems_with_their_number(run: Any) -> None:
    r = run(started(), mmap(0x700000, 4096, mm=9), Gone(t=1, mm=8), snap([], mm=7),
            started(mm=1), Fork(t=1, pid=5, tid=5, mm=1, child=6, child_mm=1), *GROWN,
            snap(FULL))  # fmt: skip
    assert [seq for seq, _ in r.problems] == [2, 3, 4, 5, 6]
    assert trust.exactness(r) == "drift"
    assert r.processes[0].exact == 1


def test_a_mapping_where_one_is_already_is_a_conflict(run: Any) -> None:
    r = run(started(), *GROWN, mmap(0x710000, 4096), snap(FULL))
    assert (r.processes[0].conflicts, r.processes[0].first_conflict) == (1, 4)
    assert trust.exactness(r) == "drift"


WRONG = [*FULL[:3], "730000-731000 rw-p 00000000 00:00 0", STACK]


def doubted(r: Replay, mm: int = 1) -> list[tuple[int, int | None, int, str]]:
    return [(d.after, d.before, d.seq, d.what) for d in trust.doubts(r).get(mm, [])]


def test_a_map_is_in_doubt_from_the_last_snapshot_on_that_was_reproduced(run: Any) -> None:
    what = "a snapshot is not reproduced"
    more = [munmap(0x730000, 4096), mmap(0x730000, 4096)]
    r = run(started(), *GROWN, snap(FULL), *more, snap(FULL), *more, snap(WRONG))
    assert doubted(r) == [(4, 7, 7, what)]
    r = run(started(), *GROWN, snap(WRONG), *more, snap(FULL), snap(WRONG))
    assert doubted(r) == [(1, 4, 4, what), (4, 7, 7, what), (7, 8, 8, what)]
    covered = [seq for seq in range(1, 9) if trust.doubt_at(trust.doubts(r)[1], seq)]
    assert covered == [2, 3, 5, 6]
    assert doubted(run(started(), *GROWN, snap(FULL))) == []


def test_a_conflict_and_a_wrong_size_put_a_map_in_doubt_until_the_next_snapshot(run: Any) -> None:
    conflict, size = "a call's result contradicts the map", "statm counts another size"
    over = mmap(0x710000, 4096)
    r = run(started(), *GROWN, over, brk(0, 0x610000), snap(FULL), brk(0, 0x610000))
    assert doubted(r) == [(1, 6, 4, conflict)]
    assert doubted(run(started(), *GROWN, over, snap(WRONG))) == [(1, 5, 4, conflict)]
    assert doubted(run(started(), *GROWN, over)) == [(1, None, 4, conflict)]
    wrong = brk(0, 0x610000, 68)
    assert doubted(run(started(), *GROWN, wrong, brk(0, 0x610000, 67))) == [(1, None, 4, size)]
    assert doubted(run(started(), *GROWN, wrong, over, snap(FULL))) == [(1, 6, 4, size)]
    assert doubted(run(started(), *GROWN, wrong, snap(FULL, vm=68))) == []  # it is statm's mistake
    log = run(started(assumed=True, maps=[]), mmap(0x700000, 0x22000), over)
    assert doubted(log) == [(0, None, 3, conflict)]  # what it began with is no map of the kernel's


def test_a_forked_child_has_its_parents_doubts_until_its_first_snapshot(run: Any) -> None:
    what = "a snapshot is not reproduced"
    fork = Fork(t=1, pid=5, tid=5, mm=1, child=6, child_mm=2)
    again = Fork(t=1, pid=6, tid=6, mm=2, child=7, child_mm=3)
    r = run(started(), *GROWN, fork, snap(WRONG), again, snap(FULL, mm=2, pid=6), snap(FULL, mm=3))
    assert (doubted(r), doubted(r, 2), doubted(r, 3)) == (
        [(1, 5, 5, what)], [(3, 7, 5, what)], [(5, 8, 5, what)]
    )  # fmt: skip
    r = run(started(), *GROWN, fork, snap(WRONG), snap(WRONG, mm=2, pid=6))
    assert doubted(r, 2) == [(3, 6, 6, what)]  # its own
    r = run(started(), *GROWN, snap(WRONG), fork, mmap(0x740000, 4096, mm=2, tid=6))
    assert doubted(r, 2) == []  # of what the parent had from the kernel


def test_of_very_many_doubts_the_last_is_about_the_rest(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_DOUBTS", 2)
    r = run(started(), *GROWN, *(snap(lines) for lines in [WRONG, FULL] * 3))
    assert [(after, before) for after, before, _, _ in doubted(r)] == [(1, 4), (4, 9)]


class Notes(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[Any, ...]] = []

    def born(self, p: Process, seq: int, t: int, record: Any) -> None:
        self.notes.append(("born", p.mm, seq))

    def call(self, p: Process, seq: int, t: int, call: Call, name: str, change: Any) -> None:
        self.notes.append((name, p.mm, seq, p.space.total // 4096))

    def headers(self, p: Process, seq: int, headers: Any) -> None:
        self.notes.append(("headers", p.mm, seq, list(headers), p.space.total // 4096))

    def died(self, p: Process, seq: int, t: int) -> None:
        self.notes.append(("died", p.mm, p.died_seq, p.space.total // 4096))

    def end(self) -> None:
        self.notes.append(("end",))


def test_observers_are_told_in_order_and_headers_go_to_the_mm_of_their_mmap(run: Any) -> None:
    notes = Notes()
    carrier = Call(10, 1, 5, 1, MUNMAP, [0x700000, 0x22000], 0, ext=Ext(h=[(1, 0x22002)]))
    r = run(
        started(), Fork(t=1, pid=5, tid=5, mm=1, child=6, child_mm=2),
        mmap(0x700000, 0x22000), mmap(0x700000, 0x22000, mm=2, tid=6), carrier, Gone(t=9, mm=2),
        observers=[notes],
    )  # fmt: skip
    assert notes.notes == [
        ("born", 1, 1), ("born", 2, 2), ("mmap", 1, 3, 51), ("mmap", 2, 4, 51),
        ("headers", 2, 5, [(4, 0x22002)], 51), ("munmap", 1, 5, 17),
        ("died", 2, 6, 51), ("died", 1, None, 17), ("end",),
    ]  # fmt: skip
    assert all(len(p.space) == 0 for p in r.processes)


def test_a_limited_pass_stops_after_its_record_and_keeps_the_maps(run: Any) -> None:
    notes = Notes()
    r = run(started(), *GROWN, snap(FULL), observers=[notes], until_seq=2)
    assert (r.last_seq, r.stopped, r.processes[0].space.total // 4096) == (2, True, 33)
    assert ("end",) not in notes.notes
    last = run(started(), *GROWN, until_seq=3)
    assert (last.stopped, last.processes[0].space.total // 4096) == (False, 67)
    assert run(started(), *GROWN, until_t=19).last_seq == 2


def test_a_libc_counts_once_and_is_inherited(run: Any) -> None:
    libc = Libc(t=1, mm=1, path="/libc.so.6", version="2.36")
    r = run(started(), libc, libc, Fork(t=1, pid=5, tid=5, mm=1, child=6, child_mm=2))
    assert [[k.version for k in p.libcs] for p in r.processes] == [["2.36"], ["2.36"]]
