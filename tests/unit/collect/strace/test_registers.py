# SPDX-License-Identifier: GPL-2.0-or-later
"""A call's entry, put together from what strace prints and what the registers hold."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from memtrace.collect import procfs, wire
from memtrace.collect.channel import Channel, Wishes
from memtrace.collect.options import Options
from memtrace.collect.strace.engine import StraceEngine
from memtrace.collect.strace.registers import Registers, fill
from memtrace.collect.tracee import Mm, Tracee

X86_64, I386 = 0xC000003E, 0x40000003
IP, SP = 0x401000, 0x7FFF0000
MUNMAP, EXIT, MUNMAP_I386, MMAP2 = 11, 60, 91, 192
X32 = 0x40000000


def filled(call: str, found: Registers | None, *args: int) -> tuple[bool, Tracee]:
    tracee = Tracee(7, 7, Mm(1, 7))
    return fill(tracee, call, found, args, evidence=False), tracee


def standing_in(number: int, *args: int) -> Registers:
    return Registers(number, (*args, *[0x99] * (6 - len(args))), SP, IP)


@pytest.mark.parametrize("number", [MUNMAP, MUNMAP | X32])
def test_the_arguments_are_those_that_strace_prints(number: int) -> None:
    its, tracee = filled("munmap", standing_in(number, 0x1000, 4096), 0x1000, 4096)
    assert its
    assert list(tracee.entry[:6]) == [X86_64 << 32 | 1, IP, SP, number, 0x1000, 4096]
    assert tracee.entry[6] == 0  # no argument of it, whatever the register holds


def test_an_argument_printed_as_an_int_is_the_same() -> None:
    its, tracee = filled(
        "mmap", standing_in(9, 0, 4096, 3, 0x22, 0xFFFFFFFF, 0), 0, 4096, 3, 0x22, -1, 0
    )
    assert its
    assert tracee.entry[8] == (1 << 64) - 1


@pytest.mark.parametrize(("call", "number"), [("munmap", MUNMAP_I386), ("mmap", MMAP2)])
def test_of_another_interface_the_registers_tell(call: str, number: int) -> None:
    its, tracee = filled(call, standing_in(number, 0x1000, 4096), 0x1000, 8192)
    assert its
    assert tracee.entry[0] >> 32 == I386
    assert list(tracee.entry[3:6]) == [number, 0x1000, 4096]


def test_arguments_of_another_tasks_call_are_not_its_own() -> None:
    # Both are in munmap; strace has printed the other's (see `fill`).
    its, tracee = filled("munmap", standing_in(MUNMAP, 0x1000, 4096), 0x9000, 8192)
    assert its
    assert list(tracee.entry[3:6]) == [MUNMAP, 0x1000, 4096]


def test_a_call_of_another_task_is_not_its_own() -> None:
    its, tracee = filled("munmap", standing_in(EXIT, 0), 0x1000, 4096)
    assert not its
    assert tracee.entry[0] == 0


def test_of_one_that_has_gone_nothing_is_known() -> None:
    its, tracee = filled("munmap", None, 0x1000, 4096)
    assert its
    assert tracee.entry[0] == 0


@pytest.fixture
def waiting() -> Iterator[int]:
    """A process that stands in read(2), which no trace records."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        until = time.monotonic() + 30
        while not procfs.read(f"/proc/{child.pid}/syscall").startswith(b"0 0x0 "):
            assert time.monotonic() < until
            time.sleep(0.01)
        yield child.pid
        child.kill()


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(("{} munmap(0x1000, 4096", " <unfinished ...>\n"), id="begun"),
        pytest.param(("{} munmap(0x1000, 4096", ") = ?\n"), id="never returned"),
        pytest.param(("{} munmap(0x1000, 4096) = ?\n",), id="in one piece"),
        pytest.param(("{} clone3({{flags=0x0, exit_signal=17, stack=0}}", " <unfinished ...>\n"),
                     id="a fork"),
        pytest.param(("{} vfork(", " <unfinished ...>\n"), id="a vfork"),
    ],
)  # fmt: skip
def test_what_strace_says_of_a_killed_task_for_another_is_no_call(
    waiting: int, pieces: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    channel = Channel(writing, Wishes())
    engine = StraceEngine(channel, Options())
    engine.family.add_root(waiting)
    engine.family.execed(waiting, waiting)
    for piece in (*pieces, "{} +++ killed by SIGKILL +++\n"):
        engine.at(piece.format(waiting).encode())
    engine.end()
    channel.close()
    with open(reading, "rb") as told:
        messages = list(wire.Parser().feed(told.read()))
    assert [m.fields["rec"] for m in messages if isinstance(m, wire.LifeMessage)] == [
        "exec", "exit", "gone",
    ]  # fmt: skip
    assert len(messages) == 3
