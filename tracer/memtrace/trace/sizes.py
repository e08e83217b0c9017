# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes, times and counts as text: the only place with units.

Inside memtrace a size is an int of bytes and a time an int of nanoseconds. Sizes are printed in
powers of 1024 (KiB, MiB); "KB" is never printed, because the reader cannot know which one it is.
"""

from __future__ import annotations

import re

PAGE = 4096

_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_SIZE = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*\Z")
_SCALE = {
    "": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20,
    "g": 1 << 30, "gib": 1 << 30, "t": 1 << 40, "tib": 1 << 40,
}  # fmt: skip
_TIMES = {
    "ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}  # fmt: skip
_TOO_LARGE = 1 << 1000  # to be printed: a float ends at 1 << 1024
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|h)\s*\Z", re.ASCII | re.IGNORECASE)


def round_up(n: int, to: int = PAGE) -> int:
    """`n` bytes rounded up to a multiple of `to`, as the kernel's PAGE_ALIGN does.

    >>> round_up(1), round_up(4096), round_up(0)
    (4096, 4096, 0)
    """
    return (n + to - 1) // to * to


def format_size(n: int) -> str:
    """Bytes as people read them: three significant digits, 1024-based units.

    >>> [format_size(n) for n in (0, 1000, 135168, 1258291, -4096, 64 << 20)]
    ['0 B', '1000 B', '132 KiB', '1.20 MiB', '-4 KiB', '64 MiB']
    """
    sign, n = ("-", -n) if n < 0 else ("", n)
    for unit, scale in _UNITS:
        if n >= scale:
            value = n / scale
            if n % scale == 0 or value >= 99.95:
                return f"{sign}{value:.0f} {unit}"
            return f"{sign}{value:.1f} {unit}" if value >= 9.995 else f"{sign}{value:.2f} {unit}"
    return f"{sign}{n} B"


def parse_size(text: str) -> int:
    """The bytes that `text` names; a bare number is bytes, units are 1024-based.

    Raises:
        ValueError: the text is not a size.

    >>> parse_size("2 MiB"), parse_size("128k"), parse_size("4096")
    (2097152, 131072, 4096)
    """
    m = _SIZE.match(text)
    if m is None or m[2].lower() not in _SCALE:
        raise ValueError(f"not a size: {text!r}")
    return _scaled(m, _SCALE[m[2].lower()])


def parse_time(text: str) -> int:
    """The nanoseconds that `text` names; the unit is required, its case does not matter.

    Raises:
        ValueError: the text is not a time.

    >>> parse_time("1.5s"), parse_time("20ms")
    (1500000000, 20000000)
    """
    m = _TIME.match(text)
    if m is None:
        raise ValueError(f"not a time: {text!r}")
    return _scaled(m, _TIMES[m[2].lower()])


def _scaled(m: re.Match[str], scale: int) -> int:
    """Exactly: a float's nearest to 0.031855220 is less, and would be one nanosecond before."""
    whole, _, part = m[1].partition(".")
    sign = -1 if whole[:1] == "-" else 1
    parts: int = 10 ** len(part)
    n = abs(int(whole + part)) * scale // parts
    if n >= _TOO_LARGE:
        raise ValueError(f"too large: {m[0][:80]!r}")
    return sign * n


def exact_time(ns: int) -> str:
    """Nanoseconds as seconds, with every digit that they have; `parse_time` reads it.

    >>> [exact_time(n) for n in (2 * 10**9, 117_034_512, 1, 0)]
    ['2s', '0.117034512s', '0.000000001s', '0s']
    """
    whole, part = divmod(ns, 10**9)
    return (f"{whole}.{part:09}".rstrip("0") if part else f"{whole}") + "s"


def format_moment(ns: int | None, clock: str) -> str:
    """A time as people read it, no more exact than the trace's clock (`Header.clock`).

    >>> format_moment(2 * 10**9, "s"), format_moment(None, "none"), format_moment(1500000, "us")
    ('2 s', 'unknown', '1.50 ms')
    """
    if ns is None:
        return "unknown"
    return f"{ns // 10**9} s" if clock == "s" else format_time(ns)


def format_time(ns: int) -> str:
    """Nanoseconds as people read them.

    >>> [format_time(n) for n in (900, 4_400_000, 1_500_000_000, 75_000_000_000)]
    ['900 ns', '4.40 ms', '1.50 s', '75.0 s']
    """
    for unit, scale in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= scale:
            v = ns / scale
            return (
                f"{v:.0f} {unit}"
                if v >= 99.95
                else f"{v:.1f} {unit}"
                if v >= 9.995
                else f"{v:.2f} {unit}"
            )
    return f"{ns} ns"


def plural(n: int, one: str, many: str = "") -> str:
    """A count with its noun.

    >>> plural(1, "call"), plural(1200, "call"), plural(2, "process", "processes")
    ('1 call', '1,200 calls', '2 processes')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
