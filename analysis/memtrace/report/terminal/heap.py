# SPDX-License-Identifier: GPL-2.0-or-later
"""The heap of a process, and the steps that it moved by."""

from __future__ import annotations

from memtrace.report import ledger, words
from memtrace.report.lines import plural, sparkline
from memtrace.report.model import HeapRow, ProcessRow, StepRow
from memtrace.report.terminal.blocks import Block, grid, heading, paragraphs
from memtrace.trace.sizes import format_moment, format_size

_STEPS = 14


def section(p: ProcessRow, clock: str, page: int, width: int) -> list[Block]:
    """The section of a process.

    Args:
        p: the process.
        clock: how exact the trace's times are.
        page: bytes.
        width: columns.
    """
    heap = p.heap
    note = "the area that brk moves the end of; small requests live here"
    out: list[Block] = [heading("heap", note, width)]
    if heap.most_bytes is not None:
        text = f"never moved{words.since(p)}; {': '.join(words.untold(heap.most_bytes))}"
        return [*out, *paragraphs([text], width), ""]
    if heap.end is None:
        return [*out, "  not seen: no call told where it is", ""]
    if heap.start is None:
        text = "no call told where it begins, so its size is not known"
        if not heap.exact:
            text += "; the first call seen may have moved it, from where is not known either"
        out += paragraphs([text], width)
    if not p.steps_total:
        if heap.start is None:
            return [*out, ""]
        text = "never moved" + words.since(p)
        if heap.final_bytes:
            text += f"; it holds {format_size(heap.final_bytes)}"
            text += ", inherited from its parent" if p.inherited else ""
        return [*out, *paragraphs([text], width), ""]
    sizes = [s.end - heap.start for s in heap.steps] if heap.start is not None else []
    line = sparkline(sizes, width - 30)
    if len(sizes) > 1 and line:
        out.append(f"  {line}  {format_size(sizes[-1])} after #{heap.steps[-1].seq}")
    rows = [("#", "time", "change", "after", "chunk", "why")]
    rows += [_step(heap, s, clock) for s in _chosen(heap.steps)]
    if not any(row[4] for row in rows[1:]):
        rows[0] = (*rows[0][:4], "", "why")
    out.append(grid(rows, ">>>>><", width))
    loose = next((s for s in heap.steps if not s.exact), None)
    if loose is not None:
        text = (
            f"#{loose.seq}: where in its page the heap ended before is not known; the true "
            f"change is up to {format_size(page)} more than shown"
        )
        out += paragraphs([text], width)
    left = p.steps_total - (len(rows) - 1)
    if left > 0:
        text = f"{plural(left, 'more step')}; shown are the first, the largest and the last"
        out += paragraphs([text], width)
    return [*out, *paragraphs(ledger.notes(p), width), ""]


def _step(heap: HeapRow, s: StepRow, clock: str) -> tuple[str, str, str, str, str, str]:
    change = f"{'+' if s.delta > 0 else ''}{format_size(s.delta)}"
    if not s.delta:
        asked = s.asked - s.end
        change = f"0 of {'+' if asked > 0 else ''}{format_size(asked)}"
    size = "unknown" if heap.start is None else format_size(s.end - heap.start)
    when = format_moment(s.t_ns, clock)
    return f"#{s.seq}", when, change, size, ledger.chunk(s), ledger.step(s)


def _chosen(steps: list[StepRow]) -> list[StepRow]:
    """The first, the largest and the last steps, in order."""
    if len(steps) <= _STEPS:
        return steps
    edge = steps[:4] + steps[-4:]
    seen = {s.seq for s in edge}
    rest = sorted((s for s in steps if s.seq not in seen), key=lambda s: (-abs(s.delta), s.seq))
    return sorted(edge + rest[: _STEPS - len(edge)], key=lambda s: s.seq)
