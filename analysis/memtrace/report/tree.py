# SPDX-License-Identifier: GPL-2.0-or-later
"""Who started whom: address spaces as a tree of processes, an exec's in the line of its process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memtrace.report import words
from memtrace.report.lines import columns, fit
from memtrace.report.model import ProcessRow
from memtrace.trace.sizes import format_size

#: Lines of a tree.
_LISTED = 30
#: Columns of a program's name, with the guides before it.
_PROGRAM = 32
_DEPTH = 6


@dataclass(frozen=True, slots=True)
class Space:
    """What the tree needs of an address space; a row is not kept for it."""

    mm: int
    pids: tuple[int, ...]
    ppid: int | None
    born: int
    died: int | None
    replaced: bool
    forked: bool
    note: str
    mapped: int | None
    seen: int | None
    heap: int | None
    calls: int
    end: str
    program: str
    weight: int


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the tree.

    Attributes:
        cells: process, birth, mapped, heap, calls, end.
        guide: what stands before the programs.
        programs: that the process was, one after another; of the last one the arguments, too.
        note: what stands behind them.
    """

    cells: tuple[str, ...]
    guide: str
    programs: tuple[str, ...]
    note: str

    def program(self, room: int) -> str:
        """The last cell: the programs in as many columns, if that is some; the note is beyond."""
        own = max(min(room, _PROGRAM - len(self.note)) - len(self.guide), 4)
        return self.guide + _chain(self.programs, own) + self.note


@dataclass(slots=True)
class _Line:
    """A process: its address spaces from fork over each exec, and what it forked."""

    spaces: list[Space]
    parent: _Line | None = None

    @property
    def weight(self) -> int:
        return max(s.weight for s in self.spaces)

    @property
    def born(self) -> int:
        return self.spaces[0].born

    def alive(self, seq: int) -> bool:
        died = self.spaces[-1].died
        return self.born < seq and (died is None or seq <= died)


def space(p: ProcessRow, weight: int) -> Space:
    """Of a row, what the tree needs; `weight`: the larger, the sooner it is shown."""
    note = ""
    if p.attached is not None:
        note = " (older)" if p.assumed else " (attach)"
    return Space(
        p.mm, (p.pid, *p.pids), p.ppid, p.born_seq, p.died_seq, p.replaced, p.inherited, note,
        p.memory.vm_peak_bytes, p.seen_bytes if p.assumed else None, p.heap.peak_bytes,
        p.calls_total,
        "running" if p.running else fit(words.ending(p), 10),
        fit(words.command(p), _PROGRAM), weight,
    )  # fmt: skip


def rows(spaces: Iterable[Space], described: Iterable[int]) -> tuple[list[Row], int]:
    """The tree's lines, and how many processes it has no line for.

    Args:
        spaces: all of the trace.
        described: address spaces that are marked with an asterisk.
    """
    every = _lines(sorted(spaces, key=lambda s: s.born))
    marked = set(described)
    first = [x for x in every if any(s.mm in marked for s in x.spaces)]
    rest = sorted((x for x in every if x not in first), key=lambda x: (-x.weight, x.born))
    shown = first + rest[: max(_LISTED - len(first), 0)]
    kept = {id(x) for x in shown}
    children: dict[int | None, list[_Line]] = {}
    for x in sorted(shown, key=lambda x: x.born):
        up = x.parent
        while up is not None and id(up) not in kept:
            up = up.parent
        children.setdefault(None if up is None else id(up), []).append(x)
    out: list[Row] = []
    waiting = [(x, "", "") for x in reversed(children.get(None, []))]
    while waiting:  # a loop: a chain of forks may be longer than Python's stack
        x, guide, below = waiting.pop()
        out.append(_row(x, guide, marked))
        mine = children.get(id(x), [])
        deep = len(below) >= 2 * _DEPTH
        for i, child in reversed(list(enumerate(mine))):
            last = i == len(mine) - 1
            under = below if deep else below + ("  " if last else "│ ")
            waiting.append((child, below + ("└ " if last else "├ "), under))
    return out, len(every) - len(shown)


def _lines(spaces: Sequence[Space]) -> list[_Line]:
    """Processes, and who forked each, as far as the trace tells."""
    out: list[_Line] = []
    of: dict[int, list[_Line]] = {}
    for s in spaces:
        before = next((x for x in reversed(of.get(s.pids[0], [])) if _execs(x, s)), None)
        if before is not None:
            before.spaces.append(s)
        else:
            own = _Line([s])
            parents = () if s.ppid is None else reversed(of.get(s.ppid, []))
            own.parent = next((x for x in parents if x.alive(s.born)), None)
            out.append(own)
            before = own
        for pid in set(s.pids):
            known = of.setdefault(pid, [])
            if before not in known[-1:]:
                known.append(before)
    return out


def _execs(x: _Line, s: Space) -> bool:
    """Whether `s` is what an exec made of the process."""
    old = x.spaces[-1]
    return not s.forked and old.replaced and old.died is not None and old.died <= s.born


def _row(x: _Line, guide: str, marked: set[int]) -> Row:
    last = x.spaces[-1]
    mapped = [s.mapped for s in x.spaces if s.mapped is not None]
    size = format_size(max(mapped)) if mapped else ""
    if last.seen is not None and not mapped:
        size = f"≥ {format_size(last.seen)}"
    heaps = [s.heap for s in x.spaces if s.heap is not None]
    names = [s.program for s in x.spaces]
    note = last.note
    if not guide and len(x.spaces) == 1 and last.forked:
        note = " (fork)"
    cells = (
        f"{'*' if any(s.mm in marked for s in x.spaces) else ' '}{last.pids[0]}",
        f"#{x.born}",
        size,
        format_size(max(heaps)) if heaps else "",
        f"{sum(s.calls for s in x.spaces):,}",
        last.end,
    )
    return Row(cells, guide, (*(n.split(" ")[0] for n in names[:-1]), names[-1]), note)


def _chain(names: Sequence[str], room: int) -> str:
    """Programs that followed one another, in `room` columns. The last one matters most: what is
    left out is first of those between, then of its arguments, then the first one.

    >>> _chain(["env", "sh", "bash", "python3 x.py"], 26)
    'env → … → python3 x.py'
    >>> _chain(["env", "sh", "python3 x.py"], 18)
    'env → … → python3…'
    >>> _chain(["env", "sh", "python3 x.py"], 16)
    '… → python3 x.py'
    """
    *before, last = names
    ways = [" → ".join(names)]  # those before the last, fewer and fewer
    for n in range(len(before) - 1, 0, -1):
        later = before[len(before) - n + 1 :]
        ways.append(" → ".join([before[0], "…", *later, last]))
    for way in ways:
        if columns(way) <= room:
            return way
    program = columns(last.partition(" ")[0])
    told = columns(last) - program
    if columns(ways[-1]) - told + (told > 0) <= room or not before:
        return fit(ways[-1], room)
    behind, least = "… → ", min(program + (told > 0), 8)
    return fit(behind + last if columns(behind) + least <= room else last, room)
