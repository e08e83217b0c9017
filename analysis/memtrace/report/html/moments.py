# SPDX-License-Identifier: GPL-2.0-or-later
"""What the timeline stacks, and at which of its moments the page shows the map: few enough to draw,
and every peak among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from memtrace.malloc.tags import CARVED

if TYPE_CHECKING:
    from memtrace.malloc.series import Series

MASK = CARVED - 1
#: What the timeline stacks, from the bottom up.
LAYERS = ("heap", "chunks", "arenas", "other")


def layers(series: Series) -> list[list[int]]:
    """The bytes of each layer at each moment: of arenas what may be accessed, the rest of them
    counts as other.
    """
    heap, chunks, main = series.of("heap"), series.of("malloc-chunk"), series.of("main-arena")
    arenas = [m.opened + n for m, n in zip(series.moments, main, strict=True)]
    known = zip(series.moments, heap, chunks, arenas, strict=True)
    return [heap, chunks, arenas, [sum(m.bytes) - a - b - c for m, a, b, c in known]]


def peaks(series: Series) -> list[int]:
    """The records at which a layer or their sum was at its most or least, resident memory at its
    most.
    """
    if not series.moments:
        return []
    measures = [*layers(series), [sum(m.bytes) for m in series.moments]]
    at = dict.fromkeys(values.index(edge(values)) for values in measures for edge in (max, min))
    read = [i for i, m in enumerate(series.moments) if m.rss is not None]
    if read:
        at[max(read, key=lambda i: series.moments[i].rss or 0)] = None
    return [series.moments[i].seq for i in at]


def pick(series: Series, most: int, wanted: Iterable[int] = ()) -> list[int]:
    """The records after which the map is shown: at most `most`, in order.

    First, last and peaks of the whole life come first, then what is `wanted` (the evidence of
    findings), then moments spread evenly.
    """
    known = sorted({*(m.seq for m in series.moments), series.last[0]})
    if len(known) <= most:
        return known
    first, last = known[0], known[-1]
    chosen = dict.fromkeys((first, last, *peaks(series)))
    chosen.update(dict.fromkeys(s for s in wanted if first <= s <= last))
    out = list(chosen)[:most]
    room = most - len(out)
    spread = sorted(set(known) - set(out))
    if room > 0 and spread:
        step = max(len(spread) / room, 1.0)
        out += [spread[int(i * step)] for i in range(min(room, len(spread)))]
    return sorted(set(out))
