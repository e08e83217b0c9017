# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged logs: no exception, no hang, and every line accounted for."""

from __future__ import annotations

import random

import pytest
from tests.unit.collect.strace.told import LOGS

from memtrace.collect.strace.events import Entered, Event
from memtrace.collect.strace.parser import Parser

_LINES = [line for log in LOGS for line in log.read_bytes().split(b"\n")]
_PIECES = [
    b"<unfinished ...>", b" <unfinished ...>", b"<... mmap resumed>", b") = 0", b"(", b")", b'"',
    b"\\", b"/*", b"*/", b"<", b">", b"->", b"{", b"[", b"]", b"|", b"<<", b", ", b" = ", b"\r",
    b"\x00", b"\xff", b"[pid 5] ", b"5 ", b"+++ ", b"--- ", b"strace: Process 5 attached",
    b"[ Process PID=5 runs in 32 bit mode. ]", b"<detached ...>", b" <pid changed to 7 ...>",
    b"0x", b"99999999999999999999999", b"\x1b[0m", b" <0.000001>", b"resumed>", b"...",
]  # fmt: skip


def mutated(line: bytes, rng: random.Random) -> bytes:
    """The line with one to three damages: flipped bits, cuts, splices, repetitions."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(line))
        kind = rng.randrange(8)
        if kind == 0 and line:
            at = min(at, len(line) - 1)
            line = line[:at] + bytes([line[at] ^ 1 << rng.randrange(8)]) + line[at + 1 :]
        elif kind == 1:
            line = line[:at]
        elif kind == 2:
            line = line[at:]
        elif kind == 3:
            line = line[:at] + rng.choice(_PIECES) + line[at:]
        elif kind == 4:
            other = rng.choice(_LINES)
            line = line[:at] + other[rng.randint(0, len(other)) :]
        elif kind == 5:
            end = rng.randint(at, min(len(line), at + 20))
            line = line[:end] + line[at:end] * rng.randint(1, 3) + line[end:]
        elif kind == 6:
            end = rng.randint(at, min(len(line), at + 20))
            line = line[:at] + line[end:]
        else:
            line = line[:at] + b"\n" + line[at:]
    return line


def _fed(parser: Parser, data: bytes) -> list[Event]:
    """Feed one line; it must be told, ignored, held or unreadable."""
    before = (parser.lines, parser.ignored + parser.held)
    events = parser.feed(data + b"\n")
    assert parser.lines == before[0] + 1
    # A torn beginning that `<unfinished ...>` completes is told with the line of the beginning.
    told = any(event.line == parser.lines or isinstance(event, Entered) for event in events)
    assert told or parser.ignored + parser.held == before[1] + 1, data
    return events


def _run(seed: int, count: int) -> None:
    rng = random.Random(seed)
    alone = Parser()
    lines: list[bytes] = []
    for _ in range(count):
        line = mutated(rng.choice(_LINES), rng) if rng.random() < 0.8 else rng.choice(_LINES)
        lines += line.split(b"\n")
    events = [event for line in lines for event in _fed(alone, line)]
    events += alone.close()
    whole = Parser()
    data = b"\n".join(lines) + b"\n"
    assert whole.feed(data) + whole.close() == events
    assert (whole.lines, whole.ignored, whole.held) == (len(lines), alone.ignored, alone.held)
    assert whole.unreadable == alone.unreadable > 0


@pytest.mark.parametrize("seed", range(4))
def test_damaged_lines_are_all_accounted_for(seed: int) -> None:
    _run(seed, 1000)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("chunk", range(10))
def test_a_million_damaged_lines(chunk: int) -> None:
    for part in range(10):
        _run(1000 + chunk * 10 + part, 10_000)  # each is read alone and in its log


_HOSTILE = [
    b"5 mmap(" + b"(" * 450_000,
    b"5 mmap(" + b"<" * 450_000,
    b"5 mmap(3" + b"<a->" * 180_000,
    b"5 mmap(" + b'"' * 450_009,
    b"5 mmap(" + b'"\\' * 450_000,
    b"5 mmap(" + b"/*" * 450_000,
    b"5 mmap(" + b"/* */" * 180_000,
    b"5 mmap(" + b"/* " * 297_000,
    b"5 mmap(" + b"/*/ " * 225_000,
    b"5 mmap(" + b"0|" * 450_000 + b") = 0",
    b"5 mmap(" + b"{a=[" * 180_000 + b") = 0",
    b"5 read(" + b"= " * 450_000,
    b"5 read(" + b'"a" = ' * 180_000,
    b"5 read(" + b") = 0 " * 180_000,
    b"5 read() = 0" + b" (a" * 180_000,
    b"5 brk() = 0" + b" (a)" * 180_000,
    b"5 brk() = 0" + b" ((a)" * 180_000,
    b"5 brk() = 3" + b"<" * 450_000,
    b"[pid " + b" " * 900_000,
    b"[pid 5<" + b"\\<" * 450_000,
    b" " * 900_000,
    b"1" * 900_000,
    b"--- SIGSEGV " + b"-" * 900_000,
    b"--- SIGSEGV " + b" ---" * 180_000 + b"x",
    b"strace: " * 90_000,
    b"/" * 900_000 + b"strace: ",
    b"5 mmap(" + b"strace: Process 5 attached" * 36_000,
    b"5 mmap(" + b"[pid 5] " * 90_000,
    b"5 mmap(" + b"[pid" + b" " * 900_000,
    b"5 x(" + b"mmap" * 180_000,
    b"5 clone3({" + b"flags=" * 180_000,
    b"5 execve(" + b'["a", ' * 180_000,
    b'5 execve("a", [' + b'"a", ' * 180_000 + b"], []) = 0",
    b"0.00 " * 180_000,
]


@pytest.mark.parametrize("line", _HOSTILE, ids=range(len(_HOSTILE)))
def test_a_hostile_line_takes_linear_time(line: bytes) -> None:
    """Near the longest line that is read, anything quadratic does not end within the timeout."""
    text = b"% time     seconds  usecs/call\n" + line
    for data in (
        text,
        text + b" <unfinished ...>",
        text + b" = 0",
        text + b"\n5 <... mmap resumed>",
    ):
        parser = Parser()
        parser.feed(data + b"\n")
        parser.close()
        assert parser.lines == data.count(b"\n") + 1


def test_many_torn_lines_take_linear_time() -> None:
    parser = Parser()
    parser.feed(b"5 mmap(" + b"0, " * 30_000 + b"\n" + b", 1\n" * 30_000)
    parser.close()
    assert parser.lines == 30_001
