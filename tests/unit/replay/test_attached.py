# SPDX-License-Identifier: GPL-2.0-or-later
"""An address space that is older than the trace: it begins with what the attach found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memtrace.replay import trust
from memtrace.replay.engine import replay
from memtrace.replay.moment import state_at
from memtrace.replay.result import Replay
from memtrace.space.address_space import AddressSpace
from memtrace.space.canonical import DONTFORK, MapsCache
from memtrace.space.seed import seed
from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.reader import Trace
from memtrace.trace.records import (
    Attach,
    Call,
    Clone,
    Exec,
    Exit,
    Footer,
    Fork,
    Gone,
    Header,
    Life,
    Snap,
)

BRK, MMAP, MUNMAP, MADVISE = range(4)
TEXT = "400000-401000 r-xp 00000000 fe:00 7 /bin/a"
HEAP = "600000-622000 rw-p 00000000 00:00 0 [heap]"
OTHER = "700000-710000 rw-p 00000000 00:00 0"
STACK = "7ff0000-8000000 rw-p 00000000 00:00 0 [stack]"
MAPS = [TEXT, HEAP, OTHER, STACK]
PAGES = 1 + 34 + 16 + 16
LEFT = Footer(stop=9000, complete=True, reason="detached")

Run = Callable[..., Replay]


def found(mm: int = 1, pid: int = 5, **more: Any) -> Attach:
    more.setdefault("maps", MAPS)
    more.setdefault("tids", [pid])
    return Attach(t=3, pid=pid, mm=mm, ppid=1, exe="/bin/a", argv=["a"], start_brk=0x600000,
                  start_stack=0x7FFFF00, age_ns=10**9, **more)  # fmt: skip


def call(number: int, args: list[int], ret: int, vm: int | None = None, **who: int) -> Call:
    return Call(10, 1, who.get("tid", 5), who.get("mm", 1), number, args, ret, None, vm)


def snap(maps: list[str], why: str = "detach", mm: int = 1, pid: int = 5, **more: Any) -> Snap:
    return Snap(t=5000, mm=mm, pid=pid, tid=pid, why=why, maps=maps, **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.json"


@pytest.fixture
def run(path: Path) -> Run:
    def go(*records: Call | Life, footer: Footer | None = LEFT) -> Replay:
        header = encode_header(Header(calls=["brk", "mmap", "munmap", "madvise"]))
        if footer:
            footer = msgspec.structs.replace(footer, counts={"records": len(records)})
        end = encode_footer(footer) if footer else b""
        path.write_bytes(header + b"".join(encode(r) for r in records) + end)
        with Trace(path) as trace:
            return replay(trace)

    return go


def test_it_begins_with_the_map_that_was_found_and_is_checked_at_the_detach(run: Run) -> None:
    r = run(found(), call(MMAP, [0, 0x2000, 3, 0x22, -1, 0], 0x800000, PAGES + 2),
            call(MUNMAP, [0x700000, 0x8000], 0, PAGES - 6),
            snap([TEXT, HEAP, "708000-710000 rw-p 0 00:00 0", "800000-802000 rw-p 0 00:00 0",
                  STACK], vm=PAGES - 6))  # fmt: skip
    (p,) = r.processes
    assert trust.sentence(r) == (
        "exact: 1 of 1 kernel snapshots reproduced, 2 of 2 checksums, no gaps"
    )
    assert (p.attached, p.inherited, p.left, p.alive) == (True, False, True, True)
    assert (p.exe, p.argv, p.ppid, p.born_seq, p.born_t) == ("/bin/a", ["a"], 1, 1, 3)
    assert (p.mapped_peak, p.mapped_peak_seq) == ((PAGES + 2) * 4096, 2)


def test_the_map_it_begins_with_is_no_comparison(run: Run) -> None:
    r = run(found(), call(BRK, [0], 0x621800))
    assert (r.processes[0].snapshots, trust.exactness(r)) == (0, "unverified")


@pytest.mark.parametrize(
    ("calls", "heap"),
    [
        # the page is all that was known: what the kernel answers is no move
        ([([0], 0x621800)], HEAP),
        ([([0x700000], 0x621800)], HEAP),
        ([([0], 0x621800), ([0x622001], 0x622001)], HEAP.replace("622000", "623000")),
        ([([0x630000], 0x630000)], HEAP.replace("622000", "630000")),
        ([([0x61F800], 0x61F800)], HEAP.replace("622000", "620000")),
        ([([0x621100], 0x621100)], HEAP),
    ],
)
def test_the_first_brk_tells_the_break(
    run: Run, calls: list[tuple[list[int], int]], heap: str
) -> None:
    r = run(found(), *[call(BRK, args, ret) for args, ret in calls],
            snap([TEXT, heap, OTHER, STACK]))  # fmt: skip
    assert trust.exactness(r) == "exact"


def test_what_maps_does_not_show_is_kept(run: Run) -> None:
    # a fork leaves out VM_DONTCOPY, and a VM_GROWSDOWN area may have grown at the next look
    r = run(
        found(dontfork=[(0x700000, 0x704000), (0x702000, 0x706000)],
              growsdown=[(0x708000, 0x710000)],
              maps=[TEXT, "700000-706000 rw-p 0 00:00 0", "708000-710000 rw-p 0 00:00 0", STACK]),
        Fork(t=9, pid=5, tid=5, mm=1, child=6, child_mm=2),
        snap([TEXT, "708000-710000 rw-p 0 00:00 0", STACK], "fork", mm=2, pid=6),
        snap([TEXT, "700000-706000 rw-p 0 00:00 0", "707000-710000 rw-p 0 00:00 0", STACK]),
    )  # fmt: skip
    first, child = r.processes
    assert trust.exactness(r) == "exact"
    assert first.stack_growth_bytes == 0x1000
    assert (child.attached, child.inherited, child.start) == (False, True, first.start)
    assert child.left  # by the footer: there was no last look at it


def test_its_threads_are_known_from_the_start(run: Run) -> None:
    r = run(found(tids=[5, 7, 8]), Exit(t=4, pid=5, tid=7, mm=1, code=0))
    assert r.tasks.pid_of == {5: 5, 8: 5}
    r = run(found(tids=[7, 8]), Clone(t=4, pid=5, tid=7, mm=1, child=9, child_pid=9),
            *[Exit(t=4, pid=5, tid=tid, mm=1, code=0) for tid in (7, 8)])  # fmt: skip
    assert r.tasks.users == {1: {9}}  # the leader had ended before the attach


def test_two_attached_processes_and_an_exec_after_the_attach(run: Run) -> None:
    r = run(
        found(), found(2, 6, why="fork"),
        Exec(t=9, pid=5, tid=5, mm=3, old_mm=1, exe="/bin/b", maps=[STACK]),
        Exit(t=10, pid=6, tid=6, mm=2, code=1), Gone(t=11, mm=2),
        snap([STACK], mm=3),
    )  # fmt: skip
    first, second, third = r.processes
    assert [p.attached for p in r.processes] == [True, True, False]
    assert (first.died_seq, second.exit_code, second.left, third.left) == (3, 1, False, True)
    assert trust.exactness(r) == "exact"


def test_without_a_clean_detach_nothing_says_that_it_runs_on(run: Run) -> None:
    assert not run(found(), footer=None).processes[0].left
    broken = Footer(stop=1, complete=False, reason="detached")
    assert not run(found(), footer=broken).processes[0].left
    ended = Footer(stop=1, complete=True, reason="the last process ended")
    assert not run(found(), footer=ended).processes[0].left
    assert run(found(), snap(MAPS), footer=None).processes[0].left


def test_moments_of_an_attached_process(run: Run, path: Path) -> None:
    run(found(), call(MUNMAP, [0x700000, 0x10000], 0), snap([TEXT, HEAP, STACK]))
    assert len(state_at(str(path), "start").process.space.mappings()) == 4
    assert state_at(str(path), "peak").seq == 1
    assert len(state_at(str(path), "end", 5).process.space.mappings()) == 3
    heap = state_at(str(path), "1").process.space.mappings()[1]
    assert (heap.start, heap.end, heap.path) == (0x600000, 0x622000, "[heap]")


def test_a_second_attach_is_a_problem(run: Run) -> None:
    again = run(found(), found(), call(MUNMAP, [0x700000, 0x10000], 0), snap([TEXT, HEAP, STACK]))
    assert again.problems == [(2, "an attach to address space 1, which is known already")]
    assert again.processes[0].exact == 1
    other = run(found(), found(2))
    assert other.problems == [(2, "an attach to process 5, which is known already")]
    assert (other.processes[0].died_seq, other.processes[1].alive) == (2, True)


HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"maps": [*MAPS, "705000-70f000 r--p 0 00:00 0"]}, "the lines of its map overlap"),
        ({"maps": ["x"]}, "its map is not maps text: not a line of /proc/PID/maps: 'x'"),
        ({"dontfork": [(0x701000, 0x700000)]}, "its dontfork ranges are no ranges"),
        ({"growsdown": [(0, HUGE)]}, "its growsdown ranges are no ranges"),
        ({"chunks": [(HUGE, 0x21002)]}, "it has a chunk header where nothing is mapped"),
        ({"chunks": [(0x500000, HUGE)]}, "it has a chunk header where nothing is mapped"),
    ],
)  # fmt: skip
def test_damage_is_a_problem(run: Run, damage: dict[str, Any], says: str) -> None:
    r = run(found(**damage), call(MUNMAP, [0x700000, 0x10000], 0))
    assert r.problems == [(1, says)]
    assert trust.exactness(r) == "drift"


def test_the_kernels_high_water_mark_of_before_is_no_peak_since(run: Run) -> None:
    r = run(found(rss=40), snap(MAPS, why="exit", rss=44, hwm=9000))
    assert (r.processes[0].hwm, r.processes[0].rss_peak) == (9000, 44)


class Counted(AddressSpace):
    """Counts how often pages are flagged."""

    flagged = 0

    def flag(self, low: int, high: int, flag: int) -> None:
        Counted.flagged += 1
        super().flag(low, high, flag)


def test_ranges_that_repeat_cost_no_more_than_the_map() -> None:
    # 20,000 ranges over 3,000 pieces each: 60 million cuts if every range were cut by itself
    lines = [f"{n << 13:x}-{(n << 13) + 4096:x} rw-p 0 00:00 0" for n in range(1, 3000)]
    record = found(maps=lines, dontfork=[(n, 1 << 40) for n in range(20_000)])
    space = Counted()
    seed(space, record, MapsCache().parse(lines))
    assert Counted.flagged == 1
    assert {attr.flags for _, _, attr, _ in space.pieces()} == {DONTFORK}


def test_no_memory_is_taken_by_an_absurd_range(run: Run) -> None:
    r = run(found(dontfork=[(0, 1 << 57)], growsdown=[(4096, 1 << 56)], tids=[]))
    assert (r.problems, r.tasks.pid_of) == ([], {5: 5})
