# SPDX-License-Identifier: GPL-2.0-or-later
"""The replayed map held against the kernel's.

A snapshot is reproduced when both canonical forms are equal. One thing may be imported: a growing
piece (the stack) whose start moved down in a page fault, which no syscall shows
(`expand_downwards`); its bytes are counted. Any other difference is a `Drift`: named with its
event, then resynchronised.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memtrace.space.address_space import AddressSpace
from memtrace.space.canonical import Attr, MapsCache, Run, may_hide

#: Runs of a drift that are kept, of each side.
KEEP = 40


@dataclass(frozen=True, slots=True)
class Drift:
    """A snapshot that was not reproduced.

    `model` and `kernel` are the canonical runs that differ, on each side: the first `KEEP` of them;
    `differing` is how many rows there are side by side.
    """

    seq: int
    mm: int
    why: str
    model: tuple[Run, ...]
    kernel: tuple[Run, ...]
    differing: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of one snapshot: `drift` None means reproduced; `grown` bytes of stack were
    imported; `runs` maximal runs are in the kernel's map.
    """

    grown: int
    drift: Drift | None
    runs: int


def compare(
    space: AddressSpace, lines: Sequence[str], cache: MapsCache, seq: int, mm: int, why: str
) -> Comparison:
    """Compare and, on a difference, make the model equal to the kernel's map.

    Raises:
        ValueError: the snapshot's lines are not maps text.
    """
    parsed = cache.parse(lines)
    for _, _, attr, path in parsed:
        if path and attr.is_file:
            space.paths[attr.dev, attr.ino] = path
    runs = space.agrees(parsed)
    if runs is not None:
        return Comparison(0, None, runs)
    grown = import_growth(space, parsed)
    if grown and (runs := space.agrees(parsed)) is not None:
        return Comparison(grown, None, runs)
    kernel = space.shown(parsed)
    model = space.canonical()
    theirs, ours = set(kernel), set(model)
    model = [r for r in model if r not in theirs]
    other = [r for r in kernel if r not in ours]
    rows = sum(1 for _ in side_by_side(model, other))
    drift = Drift(seq, mm, why, tuple(model[:KEEP]), tuple(other[:KEEP]), rows)
    space.load(parsed)
    return Comparison(grown, drift, len(kernel))


def side_by_side(
    model: Sequence[Run], kernel: Sequence[Run]
) -> Iterator[tuple[Run | None, Run | None]]:
    """The runs of both sides by address; two that begin at the same one are a row."""
    ours, theirs = sorted(model, key=_start), sorted(kernel, key=_start)
    i = j = 0
    while i < len(ours) or j < len(theirs):
        a = ours[i] if i < len(ours) else None
        b = theirs[j] if j < len(theirs) else None
        if a is not None and b is not None and a.start != b.start:
            a, b = (a, None) if a.start < b.start else (None, b)
        i, j = i + (a is not None), j + (b is not None)
        yield a, b


def _start(run: Run) -> int:
    return run.start


def import_growth(space: AddressSpace, parsed: Sequence[tuple[int, int, Attr, str]]) -> int:
    """Move growing pieces down to where the kernel has them; returns the bytes.

    Only if the piece starts inside a kernel line of the same key and the gap below is unmapped in
    the model.
    """
    grown, lines = 0, None
    for start, _, attr in list(space.lowest_growing()):
        lines = lines or sorted((s, e, kernel, label) for s, e, kernel, label in parsed)
        i = bisect_left(lines, (start,)) - 1
        if i < 0:
            continue
        s, e, kernel, label = lines[i]
        alike = kernel[:5] == attr[:5] or may_hide(label, kernel, attr)
        if start < e and alike and space.is_free(s, start):
            grown += space.grow_down(start, s)
    return grown
