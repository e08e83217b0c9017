# SPDX-License-Identifier: GPL-2.0-or-later
"""Which process of one trace is held against which of another. Pure.

By the program's name: among those of one name first those with the same arguments, then in order
of birth. The two that the traces begin with, where no other has the name of either, are a pair of
different programs. Names of a redacted trace are its own: there order alone counts, and only where
both traces have as many processes; else but the first ones are a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from memtrace.report.model import ProcessRow


class Couple(NamedTuple):
    """One process of each; `by` as in `Pair`."""

    before: ProcessRow
    after: ProcessRow
    by: str


class Paired(NamedTuple):
    """The pairs, in the later trace's order of birth, and the processes of one trace alone."""

    couples: list[Couple]
    before: list[ProcessRow]
    after: list[ProcessRow]


def paired(old: Sequence[ProcessRow], new: Sequence[ProcessRow], *, named: bool = True) -> Paired:
    """Pair the processes of two traces.

    Args:
        old: of the earlier.
        new: of the later.
        named: names are the programs' own in both.
    """
    if not named:
        whole = len(old) == len(new)
        found = {i: (i, "order") for i in range(len(new) if whole else min(len(old), len(new), 1))}
    else:
        found = {}
        _match(old, new, found, "arguments", lambda p: (p.program, *p.argv[1:]))
        _match(old, new, found, "program", lambda p: p.program)
        taken = {i for i, _ in found.values()}
        if old and new and 0 not in found and 0 not in taken:
            found[0] = 0, "first"
    taken = {i for i, _ in found.values()}
    return Paired(
        [Couple(old[found[j][0]], p, found[j][1]) for j, p in enumerate(new) if j in found],
        [p for i, p in enumerate(old) if i not in taken],
        [p for j, p in enumerate(new) if j not in found],
    )


def _match(
    old: Sequence[ProcessRow],
    new: Sequence[ProcessRow],
    found: dict[int, tuple[int, str]],
    by: str,
    key: Callable[[ProcessRow], Hashable],
) -> None:
    """Pair in order those that have the same key and no partner yet."""
    taken = {i for i, _ in found.values()}
    waiting: dict[Hashable, list[int]] = {}
    for i in range(len(old) - 1, -1, -1):
        if i not in taken:
            waiting.setdefault(key(old[i]), []).append(i)
    for j, p in enumerate(new):
        same = None if j in found else waiting.get(key(p))
        if same:
            found[j] = same.pop(), by
