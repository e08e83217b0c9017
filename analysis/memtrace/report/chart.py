# SPDX-License-Identifier: GPL-2.0-or-later
"""What malloc held over time, as a chart of block characters. Pure.

A column shows the state in it that had the most, so that no peak is lost; in a cell stands the
character of whatever reaches through its middle.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from memtrace.malloc.series import Series
from memtrace.trace.sizes import format_moment, format_size

#: What is stacked, from below: kind, character, name.
LAYERS = (("heap", "█", "heap"), ("malloc-chunk", "▓", "mapped chunks"), ("arena", "░", "arenas"))
#: How far the topmost cell of a column is filled; never whole, which is the heap's sign.
_PARTS = "▁▂▃▄▅▆▇"

#: (kind, text); "" is of no kind.
Span = tuple[str, str]
Layers = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, and what to say of it.

    Attributes:
        lines: of spans, from the top.
        layers: the kind, character and name of what was ever there.
    """

    lines: list[list[Span]]
    layers: list[tuple[str, str, str]]


def chart(series: Series, clock: str, width: int, height: int = 6) -> Chart | None:
    """Heap, mapped chunks and opened arenas, the peak marked; None if there never was anything.

    Args:
        series: of one address space.
        clock: how exact the trace's times are; columns go by records where they go back, or there
            are none.
        width: columns, the axis among them.
        height: lines, without the axis and the mark.
    """
    heap, chunks = series.of("heap"), series.of("malloc-chunk")
    stacks: list[Layers] = [
        (h, c, m.opened) for h, c, m in zip(heap, chunks, series.moments, strict=True)
    ]
    totals = [sum(s) for s in stacks]
    top = max(totals, default=0)
    if top <= 0:
        return None
    labels = [format_size(round(top * (height - i) / height)) for i in range(height)]
    margin = max(map(len, labels))
    room = max(width - margin - 2, 10)
    times, timed = _times(series)
    columns = _columns(times, totals, room)
    peak = totals.index(top)
    place = next(i for i, at in enumerate(columns) if totals[at] == top)
    lines = [_mark(margin, room, place, f"peak {format_size(top)} at #{series.moments[peak].seq}")]
    for i, label in enumerate(labels):
        row = height - 1 - i
        cells = [_cell(stacks[at], row * top, top, height) for at in columns]
        lines.append([("", f"{label:>{margin}} │"), *_joined(cells)])
    ends = (f"#{times[0]}", f"#{times[-1]}")
    if timed:
        ends = (format_moment(times[0], clock), format_moment(times[-1], clock))
    lines.append([("", f"{'0':>{margin}} └" + "─" * room)])
    gap = " " * max(room - sum(map(len, ends)), 1)
    lines.append([("", " " * (margin + 2) + ends[0] + gap + ends[1])])
    there = [any(s[i] for s in stacks) for i in range(len(LAYERS))]
    return Chart(lines, [layer for layer, seen in zip(LAYERS, there, strict=True) if seen])


def _times(series: Series) -> tuple[list[int], bool]:
    """When each moment was, and after them all when the life ended; whether these are times."""
    seq, t = series.last
    times = [m.t_ns for m in series.moments] + [t]
    known = [t for t in times if t is not None]
    if len(known) == len(times) and known == sorted(known):
        return known, True
    return [*(m.seq for m in series.moments), max(seq, series.moments[-1].seq)], False


def _columns(times: Sequence[int], totals: Sequence[int], room: int) -> list[int]:
    """Of each column the moment that had the most: of those that fall into it, and the one that
    lasted into it. Times are in order, the last one is the end.
    """
    first, span = times[0], max(times[-1] - times[0], 1)
    edges = [first + span * i // room for i in range(room)]
    found: list[int] = []
    inside: list[list[int]] = [[] for _ in range(room)]
    for k in range(len(totals)):
        inside[bisect_right(edges, times[k]) - 1].append(k)
    lasting = 0
    for i, places in enumerate(inside):
        # Where one begins with the column nothing is left of the one before.
        at_once = places and times[places[0]] == edges[i]
        there = places if at_once else [lasting, *places]
        found.append(max(there, key=lambda k: totals[k]))
        lasting = there[-1]
    return found


def _cell(stack: Layers, low: int, top: int, height: int) -> Span:
    """The cell whose lower edge is at `low` / `height` bytes, `top` / `height` bytes high."""
    filled = sum(stack) * height - low
    if filled <= 0:
        return "", " "
    kind, character = _layer(stack, low + min(filled, top) // 2, height)
    if filled >= top:
        return kind, character
    return kind, _PARTS[min(filled * 8 // top, 6)]


def _layer(stack: Layers, at: int, height: int) -> tuple[str, str]:
    """What is stacked at `at` / `height` bytes."""
    below = 0
    for size, (kind, character, _) in zip(stack, LAYERS, strict=True):
        below += size * height
        if at < below:
            return kind, character
    return LAYERS[-1][:2]


def _joined(cells: Sequence[Span]) -> list[Span]:
    """Neighbours of one kind as one span."""
    out: list[Span] = []
    for kind, text in cells:
        if out and out[-1][0] == kind:
            out[-1] = kind, out[-1][1] + text
        else:
            out.append((kind, text))
    return out


def _mark(margin: int, room: int, place: int, text: str) -> list[Span]:
    """The line above the chart that names the peak, on whichever side of it there is room."""
    if place + len(text) + 2 <= room:
        return [("", " " * (margin + 2 + place) + "▼ " + text)]
    return [("", " " * max(margin + 2 + place - len(text) - 1, 0) + text + " ▼")]
