# SPDX-License-Identifier: GPL-2.0-or-later
"""A log's times as nanoseconds since its first."""

from __future__ import annotations


class Clock:
    """`first`: the first time of the log, ns of its own clock; None as long as it has none."""

    __slots__ = ("first",)

    def __init__(self) -> None:
        self.first: int | None = None

    def ns(self, t: int | None) -> int | None:
        """Nanoseconds since the first time; None for none."""
        if t is None:
            return None
        if self.first is None:
            self.first = t
        return t - self.first
