# SPDX-License-Identifier: GPL-2.0-or-later
"""When heaps are walked, and what is looked at for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from memtrace.collect import procfs, walking, wire
from memtrace.collect.chain import LAYOUT_32, LAYOUT_64
from memtrace.collect.channel import Channel, Wishes
from memtrace.collect.tracee import Mm, Tracee, Walked
from memtrace.collect.walking import ALLOWANCE_NS, Walks

START, MIB, MS = 0x5555_5000, 1 << 20, 1_000_000


class Kept(Channel):
    """A channel that keeps what is sent."""

    def flush(self) -> None:
        pass


class Clock:
    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic_ns", clock.monotonic_ns)
    return clock


@pytest.fixture
def mm(clock: Clock) -> Mm:
    mm = Mm(1, 1)
    mm.walked = Walked(START, seen=True)
    return mm


def grown(mm: Mm, size: int) -> str:
    """Why a walk is due once the heap has this size."""
    mm.walk_due = ""
    Walks.moved(mm, START + size)
    return mm.walk_due


def after(mm: Mm, size: int, cost: int) -> None:
    """A walk was made."""
    mm.walked.size, mm.walked.cost = size, cost
    mm.walked.spent += cost


# -- when -----------------------------------------------------------------------------------------


def test_a_heap_of_a_mib_is_walked_and_then_when_it_has_grown(mm: Mm, clock: Clock) -> None:
    clock.ns += 10**12
    assert grown(mm, MIB - 4096) == ""
    assert grown(mm, MIB) == "peak"
    after(mm, 20 * MIB, 1)
    assert grown(mm, 20 * MIB) == ""
    assert grown(mm, 21 * MIB + MIB // 2) == ""
    assert grown(mm, 22 * MIB) == "peak"
    after(mm, 22 * MIB, 1)
    assert grown(mm, 10 * MIB) == ""


def test_walks_take_a_fiftieth_of_the_time(mm: Mm, clock: Clock) -> None:
    after(mm, 100 * MIB, 400 * MS)
    clock.ns += 50 * (400 + 480) * MS - 100 * MS  # as much as it has taken, and as this one will
    assert grown(mm, 120 * MIB) == ""
    clock.ns += 200 * MS
    assert grown(mm, 120 * MIB + 4096) == "peak"


def test_a_heap_that_doubles_is_walked_beyond_that(mm: Mm, clock: Clock) -> None:
    after(mm, 10 * MIB, 60 * MS)
    assert grown(mm, 19 * MIB) == ""
    assert grown(mm, 20 * MIB) == "peak"  # 60 ms and 120 ms more
    after(mm, 20 * MIB, 120 * MS)
    assert grown(mm, 40 * MIB) == ""  # more than the allowance
    assert ALLOWANCE_NS == 250 * MS


def test_a_forked_child_has_no_allowance(mm: Mm, clock: Clock) -> None:
    after(mm, 10 * MIB, 60 * MS)
    child = Mm(2, 2)
    child.inherits(mm)
    assert child.walked.breaks == mm.walked.breaks
    assert child.walked.breaks is not mm.walked.breaks
    assert grown(child, 30 * MIB) == ""
    clock.ns += 50 * 180 * MS
    assert grown(child, 30 * MIB + 4096) == ""
    clock.ns += MS * 50
    assert grown(child, 30 * MIB + 8192) == "peak"


def test_where_the_break_was_is_known_from_an_exec_on(mm: Mm) -> None:
    for brk in (START, START, START + 4096, START):
        Walks.moved(mm, brk)
    assert mm.walked.breaks == [START, START + 4096, START]
    attached = Mm(2, 2)
    attached.begins({"start_brk": START, "tids": [2]})
    Walks.moved(attached, START + 4096)
    assert (attached.walked.breaks, attached.walked.brk) == (None, START + 4096)
    new = Mm(3, 3)
    new.begins({"start_brk": START})
    assert (new.walked.breaks, new.walked.start) == ([], START)


def test_so_many_breaks_are_kept(mm: Mm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "_MOST_BREAKS", 3)
    for i in range(4):
        Walks.moved(mm, START + 4096 * i)
    assert mm.walked.breaks is None


# -- where ----------------------------------------------------------------------------------------


def test_where_arenas_can_begin() -> None:
    maps = b"""\
5555555a000-5555557b000 rw-p 00000000 00:00 0                            [heap]
7f0000000000-7f0000021000 rw-p 00000000 00:00 0 \n\
7f0003fff000-7f0008001000 rw-p 00000000 00:00 0                          [anon: glibc: malloc arena]
7f0010000000-7f0010021000 ---p 00000000 00:00 0 \n\
7f0020000000-7f0020021000 rw-p 00000000 fe:00 9                          /lib/a
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
"""
    heap_end, bases = walking._places(maps, LAYOUT_64)
    assert heap_end == 0x5555557B000
    assert [b for places in bases for b in places] == [
        0x7F0000000000, 0x7F0004000000, 0x7F0008000000,
    ]  # fmt: skip
    assert sum(map(len, walking._places(maps, LAYOUT_32)[1])) > 60


def test_the_name_of_a_file_is_no_line_of_its_own_and_no_heap() -> None:
    maps = (
        b"5555555a000-5555557b000 rw-p 00000000 00:00 0                            [heap]\n"
        b"7f0000000000-7f0000001000 r--p 00000000 fe:00 9      /tmp/a\x0c rw-p 00000000 00:00 0\n"
        b"7f0010000000-7f0010001000 r--p 00000000 fe:00 9      /tmp/b\x85[heap]\n"
        b"7f0020000000-7f0020001000 r--p 00000000 fe:00 9      /tmp/c[heap]\n"
    )
    assert walking._places(maps, LAYOUT_64) == (0x5555557B000, [])


def test_terabytes_that_are_mapped_are_not_looked_through(
    sleeper: Tracee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a sanitizer has them."""
    shadow = b"10007fff8000-40007fff8000 rw-p 00000000 00:00 0 \n"
    real, asked = procfs.read_fd, 0
    monkeypatch.setattr(procfs, "read_fd", lambda fd: real(fd) + shadow)

    def present(mm: Mm, address: int, length: int) -> bytes:
        nonlocal asked
        asked += length
        return bytes(length // 4096)

    monkeypatch.setattr(walking, "_present", present)
    walks = Walks(Kept(-1, Wishes()))
    walks.last(sleeper.mm, sleeper, "detach")
    assert walk_of(walks)["left_out"] == 0
    assert asked <= 1 << 30


# -- a real process, asleep -----------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[Tracee]:
    """A shell that waits for its stdin."""
    with subprocess.Popen(["sh", "-c", "read x"], stdin=subprocess.PIPE) as process:
        mm = Mm(1, process.pid)
        while procfs.syscall_of(process.pid) != 0:  # read
            os.sched_yield()
        mm.open(process.pid)
        mm.walk_due = "attach"
        yield Tracee(process.pid, process.pid, mm)
        mm.close()
        process.kill()


def walk_of(walks: Walks) -> dict[str, Any]:
    (message,) = wire.Parser().feed(bytes(walks.channel.out))
    assert isinstance(message, wire.LifeMessage)
    walks.channel.out.clear()
    return message.fields


def test_the_walk_of_a_process_that_sleeps(sleeper: Tracee) -> None:
    walks = Walks(Kept(-1, Wishes()))
    assert walks.all_sleep(sleeper.mm)
    walks.due(sleeper.mm, sleeper)
    fields = walk_of(walks)
    assert (fields["rec"], fields["why"], fields["still"]) == ("walk", "attach", True)
    (heap,) = fields["heaps"]
    assert heap["complete"]
    assert sleeper.mm.walk_due == ""
    assert sleeper.mm.walked.size == heap["end"] - heap["base"]
    assert sleeper.mm.walked.spent >= sleeper.mm.walked.cost > 0


def test_what_does_not_hold_is_looked_at_once_more(
    sleeper: Tracee, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks, mm = Walks(Kept(-1, Wishes())), sleeper.mm
    monkeypatch.setattr(walking, "_read", lambda *_: None)
    walks.due(mm, sleeper)
    assert not walks.channel.out
    assert (mm.walk_due, mm.walked.again) == ("attach", True)
    walks.due(mm, sleeper)
    (heap,) = walk_of(walks)["heaps"]
    assert "cannot be read" in heap["problem"]
    assert (mm.walk_due, mm.walked.again) == ("", False)


def test_the_child_of_a_moment_is_spared(sleeper: Tracee) -> None:
    walks, mm = Walks(Kept(-1, Wishes())), sleeper.mm
    mm.walked.forked, mm.walked.cost = True, 10**15
    walks.last(mm, sleeper, "exit")
    assert not walks.channel.out
    mm.walked.cost = 0
    walks.last(mm, sleeper, "exit")
    assert walk_of(walks)["why"] == "exit"


def test_a_task_killed_while_it_was_looked_at_tells_nothing(sleeper: Tracee) -> None:
    """Its memory may have gone in the midst of it."""
    walks = Walks(Kept(-1, Wishes()))
    walks.last(sleeper.mm, sleeper, "exit", lambda t: t is not sleeper)
    assert not walks.channel.out
    walks.last(sleeper.mm, sleeper, "exit", lambda _: True)
    assert walk_of(walks)["why"] == "exit"


def test_a_task_that_runs_is_told_from_one_that_sleeps(sleeper: Tracee) -> None:
    own = Mm(2, os.getpid())
    Tracee(os.getpid(), os.getpid(), own)
    assert not Walks.all_sleep(own)
    assert Walks.all_sleep(sleeper.mm)


def test_a_task_that_has_run_meanwhile_is_told(
    sleeper: Tracee, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([{sleeper.pid: (1, 0)}, {sleeper.pid: (2, 0)}])
    monkeypatch.setattr(walking, "_running", lambda mm: next(counts))
    walks = Walks(Kept(-1, Wishes()))
    walks.last(sleeper.mm, sleeper, "detach")
    assert walk_of(walks)["still"] is False


def test_where_the_break_was_is_forgotten_when_the_heap_is_somewhere_else(sleeper: Tracee) -> None:
    """prctl(PR_SET_MM) sets where it begins."""
    walked = sleeper.mm.walked
    walked.start, walked.breaks, walked.brk = START, [START + 4096], START + 4096
    walks = Walks(Kept(-1, Wishes()))
    walks.last(sleeper.mm, sleeper, "detach")
    (heap,) = walk_of(walks)["heaps"]
    assert heap["complete"]
    after: Any = walked
    assert (after.start, after.breaks, after.brk) == (heap["base"], None, 0)
