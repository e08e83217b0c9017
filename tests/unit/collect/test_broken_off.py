# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a call that waits may wait, from its arguments."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from memtrace.collect import broken_off
from memtrace.collect.tracee import Mm, Tracee


class Memory(Mm):
    """An address space with one struct timespec at address 64."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        super().__init__(1, 1)
        self.text = text

    def bytes_at(self, address: int, size: int) -> bytes:
        return self.text[:size] if address == 64 else b""


def limit(number: int, value: int, text: bytes = b"") -> int | None:
    kind, _, _ = broken_off._LIMITS[number]
    return broken_off.limit_ns(Tracee(os.getpid(), os.getpid(), Memory(text)), kind, value)


EPOLL_WAIT, RT_SIGTIMEDWAIT, READ, SENDTO = 232, 128, 0, 44


@pytest.mark.parametrize(("ms", "ns"), [
    (0, 0), (1, 1_000_000), (0x7FFFFFFF, 0x7FFFFFFF * 1_000_000),
    (0xFFFFFFFF, None), ((1 << 64) - 1, None), (0x80000000, None),
    (7 << 32 | 5, 5_000_000),  # an int argument: the upper half of the register means nothing
])  # fmt: skip
def test_milliseconds(ms: int, ns: int | None) -> None:
    assert limit(EPOLL_WAIT, ms) == ns


def test_a_timespec() -> None:
    assert limit(RT_SIGTIMEDWAIT, 64, struct.pack("<qq", 2, 5)) == 2_000_000_005
    assert limit(RT_SIGTIMEDWAIT, 0) is None
    assert limit(RT_SIGTIMEDWAIT, 64, b"short") is None
    assert limit(RT_SIGTIMEDWAIT, 72, bytes(16)) is None


def test_a_sockets_own_limits() -> None:
    with socket.socket() as s:
        assert limit(READ, s.fileno()) is None
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("<qq", 3, 200_000))
        assert limit(READ, s.fileno()) == 3_200_000_000
        assert limit(SENDTO, s.fileno()) is None
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("<qq", 0, 4000))
        assert limit(SENDTO, s.fileno()) == 4_000_000
    read, write = os.pipe()
    assert limit(READ, read) is None
    os.close(read)
    os.close(write)
    assert limit(READ, read) is None
