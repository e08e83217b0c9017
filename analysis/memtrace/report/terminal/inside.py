# SPDX-License-Identifier: GPL-2.0-or-later
"""The section on what is in malloc's heaps, as walks found it."""

from __future__ import annotations

from memtrace.report.lines import plural
from memtrace.report.model import ProcessRow, WalkedHeapRow, WalkRow
from memtrace.report.terminal.blocks import Block, grid, heading, paragraphs
from memtrace.trace.sizes import format_size

_LISTED = 8
_MOMENTS = {
    "attach": "at the attach",
    "peak": "as the heap grew",
    "exec": "before the exec",
    "exit": "at exit",
    "detach": "at the end",
}


def section(p: ProcessRow, width: int) -> list[Block]:
    """The section of a process, [] if its heaps were not walked: the last walk, and before it the
    one that found the largest heaps, if they were larger.
    """
    if not p.walks:
        return []
    last = p.walks[-1]
    peak = max(p.walks, key=lambda w: w.bytes)
    note = "malloc's chunks, read from their headers (--heap-walk)"
    out: list[Block] = [heading("inside the heap", note, width)]
    if peak.bytes > last.bytes:
        out += [*_walk(peak, width), ""]
    return [*out, *_walk(last, width), *_glossary(width), ""]


def _walk(w: WalkRow, width: int) -> list[Block]:
    moment = _MOMENTS.get(w.why, "")
    rows: list[tuple[str, ...]] = [
        (f"{moment}, #{w.seq}".strip(", "), "size", "used", "free", "top", "in memory")
    ]
    order = sorted(w.heaps, key=lambda h: (h.kind != "main", h.base - h.end))
    rows += [_row(h) for h in order[:_LISTED]]
    out: list[Block] = [grid(rows, "<>>>>>", width)]
    hidden = w.heaps_total - len(order[:_LISTED])
    if hidden:
        out += paragraphs([f"and {plural(hidden, 'smaller heap')} of arenas"], width)
    return [*out, *paragraphs(_statements(w, order), width, "  - ")]


def _row(h: WalkedHeapRow) -> tuple[str, ...]:
    name = "heap" if h.kind == "main" else f"arena {h.base:x}"
    whole = [None if not h.complete else n for n in (h.used_bytes, h.free_bytes)]
    top = None if not h.complete else 0 if h.top is None else h.top.bytes
    sizes = [h.end - h.base, *whole, top, h.resident_bytes]
    return (name, *("unknown" if n is None else format_size(n) for n in sizes))


def _statements(w: WalkRow, heaps: list[WalkedHeapRow]) -> list[str]:
    """What the numbers mean; only what they prove."""
    out = [_incomplete(h) for h in heaps if not h.complete]
    main = next((h for h in heaps if h.kind == "main" and h.complete), None)
    if main is not None:
        out += _main(main)
    if w.free_bytes:
        given = w.free_resident_bytes or 0
        text = f"{plural(_count(heaps), 'free chunk')}, the largest {format_size(_largest(heaps))}"
        if w.heaps_total > len(heaps):
            text = f"{format_size(w.free_bytes)} free in all"
        if given:
            text += (
                f"; {format_size(given)} of that are whole pages in memory, which the program's "
                "malloc_trim(0) would give back"
            )
        else:
            text += "; no whole page of that is in memory: nothing for malloc_trim(0) to give back"
        out.append(text)
    if not w.still:
        out.append("other threads ran while it was read: the numbers are of no single moment")
    return out


def _main(h: WalkedHeapRow) -> list[str]:
    out = []
    if h.top is None:
        out.append(
            "the heap has no top: malloc goes on in another area, since the break could not grow"
        )
    elif h.pin is not None and (h.free_bytes or 0) >= h.top.bytes:
        size = h.end - h.base
        text = (
            f"the heap does not shrink below {h.top.address:#x}, where its top begins, as long as "
            f"the chunk right below, of {format_size(h.pin.bytes)} at {h.pin.address:#x}, counts "
            f"as used"
        )
        if h.below_pin_bytes:
            text += f"; right below that {format_size(h.below_pin_bytes)} are free"
        share = 100 * (h.free_bytes or 0) // size
        out.append(f"{text}; of the whole heap {share} % are free below the top")
    if h.searched:
        out.append("where its first chunk lies was found by a search: no call told it")
    if h.other_bytes:
        out.append(
            f"{format_size(h.other_bytes)} of it are no chunk of malloc's: taken by others (sbrk, "
            "thread-local storage of a static program), or not yet taken over"
        )
    return out


def _incomplete(h: WalkedHeapRow) -> str:
    name = "the heap" if h.kind == "main" else f"the arena's heap at {h.base:x}"
    text = f"{name} was not walked to the end: {h.problem}"
    if h.used_bytes is None or h.free_bytes is None or h.walked is None or h.first is None:
        return text
    return (
        f"{text}; of its first {format_size(h.walked - h.first)}, "
        f"{format_size(h.used_bytes)} were used and {format_size(h.free_bytes)} free"
    )


def _count(heaps: list[WalkedHeapRow]) -> int:
    return sum(h.free_chunks or 0 for h in heaps)


def _largest(heaps: list[WalkedHeapRow]) -> int:
    return max((h.largest_free_bytes or 0 for h in heaps), default=0)


def _glossary(width: int) -> list[Block]:
    text = (
        "used: chunks the program has, and freed ones that malloc keeps in thread caches and fast "
        "bins, which look the same. free: chunks malloc can give out again. top: the last piece, "
        "the only one that lowering the break gives back"
    )
    return paragraphs([text], width, "  - ")
