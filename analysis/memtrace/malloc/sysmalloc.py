# SPDX-License-Identifier: GPL-2.0-or-later
"""What glibc's formula for growing the heap proves of the chunk that made it grow.

`sysmalloc` asks for nb + top_pad + MINSIZE bytes, less the top chunk that it has, rounded up to
pages. An empty arena has no top; any other's is at least MINSIZE (it asserts that), no larger than
the heap, and too small for the request.
"""

from __future__ import annotations

from typing import NamedTuple

HUGE = 2 << 20  # thp_pagesize on x86


class Span(NamedTuple):
    """Sizes in bytes, both ends included; `most` None: no upper bound."""

    least: int
    most: int | None


def served(
    growth: int, *, top_pad: int, minsize: int, unit: int, top: Span, below: int | None = None
) -> Span | None:
    """The sizes of a chunk that makes the heap grow by so many bytes.

    Args:
        growth: what was asked for, a multiple of the page.
        top_pad: bytes (`mp_.top_pad`).
        minsize: MINSIZE: 32, on i386 16.
        unit: what the growth was rounded up to: the page, or `HUGE`.
        top: how large the old top may have been.
        below: the chunk is smaller than that, because it was not mapped; None: not known.

    Returns:
        None if no chunk does.

    >>> served(0x21000, top_pad=131072, minsize=32, unit=4096, top=Span(0, 0))
    Span(least=32, most=4064)
    >>> served(0x38000, top_pad=131072, minsize=32, unit=4096, top=Span(32, None), below=131072)
    Span(least=94224, most=131056)
    """
    if growth <= top_pad:  # the old top is less than nb + MINSIZE
        return None
    least = growth - unit + 1 - top_pad - minsize + top.least
    low = max(minsize, -(-least // 16) * 16)
    high = None if top.most is None else growth - top_pad - minsize + top.most
    if below is not None:
        high = below - 1 if high is None else min(high, below - 1)
    if high is None:
        return Span(low, None)
    high = high // 16 * 16
    return Span(low, high) if low <= high else None


def old_top(second: int, unit: int, minsize: int) -> Span:
    """The old top, by the second of two growths after a foreign sbrk: that asks for it once more,
    and for what aligns the beginning (to 16) and the end (to pages).
    """
    return Span(max(minsize, second - (unit - 1) - 15), second)
