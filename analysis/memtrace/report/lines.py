# SPDX-License-Identifier: GPL-2.0-or-later
"""Text that is safe to print and fits: names come from the traced program and may hold anything."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from textwrap import wrap

from memtrace.trace.sizes import plural as plural  # noqa: PLC0414 - beside the others

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = str.maketrans("▁▂▃▄▅▆▇█▓░│└├─▼→…", "___--==#+.|`|-v>~")
#: The report's own signs, each of which `plain` writes in as many columns.
_SIGNS = frozenset("▁▂▃▄▅▆▇█▓░│└├─▼→…≥")
_spelled: ContextVar[bool] = ContextVar("spelled", default=False)
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me", "Mc"})


def clean(text: str) -> str:
    r"""`text` with everything that moves, hides or recolours output spelled out.

    >>> clean("a\nb\x1b[31mc\u202ed")
    'a\\nb\\x1b[31mc\\u202ed'
    """
    if text.isascii() and text.isprintable():
        return text
    if _spelled.get():
        return "".join(
            c if c in _SIGNS or (c.isascii() and c.isprintable())
            else c.encode("unicode_escape", "replace").decode("ascii")
            for c in text
        )  # fmt: skip
    return "".join(
        c if unicodedata.category(c) not in _HIDDEN and (c == " " or c.isprintable())
        else c.encode("unicode_escape", "replace").decode("ascii")
        for c in text
    )  # fmt: skip


@contextmanager
def spelled(whether: bool = True) -> Iterator[None]:  # noqa: FBT001, FBT002 - of a with statement
    r"""Here names are cleaned for a terminal without UTF-8, so that what is laid out is as wide
    when `plain` has written it.

    >>> with spelled():
    ...     clean("é → x")
    '\\xe9 → x'
    """
    before = _spelled.set(whether)
    try:
        yield
    finally:
        _spelled.reset(before)


def columns(text: str) -> int:
    """Terminal columns that clean text takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fit(text: str, width: int) -> str:
    """`text`, cleaned, in at most `width` columns; a cut is marked with an ellipsis.

    >>> fit("a long name", 6), fit("short", 6)
    ('a lon…', 'short')
    """
    text = clean(text)
    if columns(text) <= width:
        return text
    out, used = "", 0
    for c in text:
        used += columns(c)
        if used > width - 1:
            break
        out += c
    return out + "…"


def fit_end(text: str, width: int) -> str:
    """Like `fit`, but keeps the end: for paths.

    >>> fit_end("/usr/lib/libc.so.6", 10)
    '…libc.so.6'
    """
    text = clean(text)
    while columns(text) > width:
        text = "…" + text[2:] if text[:1] == "…" else "…" + text[1:]
    return text


def program(argument: str) -> str:
    """The name in a program's first argument: a path's last part; a title that the program has
    written there (setproctitle(3)) stays whole.

    >>> program("/usr/sbin/sshd"), program("sshd: ann@pts/0")
    ('sshd', 'sshd: ann@pts/0')
    """
    return argument if ": " in argument else argument.rpartition("/")[2]


def paragraph(text: str, width: int, first: str = "", rest: str | None = None) -> list[str]:
    """Lines of `text`, wrapped; `first` opens the first line, `rest` each other one."""
    rest = " " * len(first) if rest is None else rest
    return wrap(
        clean(text), width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ) or [first.rstrip()]


def sparkline(values: Sequence[int], width: int) -> str:
    """Block characters for a series from 0 up; of each column the largest value.

    >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8)
    '▁▂▃▄▅▆▇█'
    """
    top = max(values, default=0)
    if top <= 0 or not values:
        return ""
    n = min(width, len(values))
    out = ""
    for i in range(n):
        part = values[
            i * len(values) // n : max((i + 1) * len(values) // n, i * len(values) // n + 1)
        ]
        out += _BLOCKS[max(0, min(7, max(part) * 7 // top))]
    return out


def plain(text: str) -> str:
    r"""`text` for a terminal without UTF-8: each of the report's own signs as one of ASCII, so
    that columns stay; what else is not ASCII is spelled out.

    >>> plain("├ ls → é ≥ 4 KiB █▁")
    '| ls > \\xe9 >=4 KiB #_'
    """
    signs = text.replace("≥ ", ">=").translate(_PLAIN)
    return signs.encode("ascii", "backslashreplace").decode("ascii")
