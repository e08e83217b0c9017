# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of messages: that in which calls began, although strace tells of their ends in another.

A call has its place from its entry on, and a message when strace has told its result. Until then
whatever is sent waits behind it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from memtrace.collect.channel import Channel


class Place:
    """Where the message of a call in flight will stand; taken at `since`, CLOCK_MONOTONIC ns."""

    __slots__ = ("message", "settled", "since")

    def __init__(self) -> None:
        self.since = time.monotonic_ns()
        self.message = bytearray()
        self.settled = False


class Sequence(Channel):
    """A channel in front of the real one. `channel`: what is in order goes there."""

    def __init__(self, channel: Channel) -> None:  # no descriptor of its own
        self.channel = channel
        self.wishes = channel.wishes
        self.start_ns = channel.start_ns
        self.out = channel.out
        self._waiting: deque[Place | bytearray] = deque()

    def place(self) -> Place:
        """Take the next place."""
        place = Place()
        self.out = bytearray()
        self._waiting += (place, self.out)
        return place

    def settle(self, place: Place, message: bytes = b"") -> None:
        """The call's message, nothing if there is none to be."""
        place.message += message
        place.settled = True
        self._advance()

    @contextmanager
    def into(self, place: Place) -> Iterator[None]:
        """What is sent meanwhile is the place's."""
        outside, self.out = self.out, place.message
        try:
            yield
        finally:
            self.out = outside

    def send(self, message: bytes) -> None:
        """Queue one message."""
        self.out += message

    def flush(self) -> None:
        """Hand over what is in order."""
        self.channel.flush()

    def in_vain(self) -> bool:
        """Whether nothing that is sent will be written."""
        return self.channel.in_vain()

    def _advance(self) -> None:
        waiting, out = self._waiting, self.channel.out
        while waiting:
            first = waiting[0]
            if isinstance(first, Place):
                if not first.settled:
                    return
                out += first.message
            else:
                out += first
            waiting.popleft()
        self.out = out
