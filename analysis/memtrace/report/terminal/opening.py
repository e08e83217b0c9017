# SPDX-License-Identifier: GPL-2.0-or-later
"""How the text report opens: how much, is it odd, can I trust it."""

from __future__ import annotations

from memtrace.report import words
from memtrace.report.lines import columns, fit, paragraph, plural
from memtrace.report.model import ProcessRow, Report
from memtrace.report.terminal.blocks import BAD, BOLD, GOOD, WARN, Block, marked, paragraphs
from memtrace.trace.sizes import format_size

_LABEL = 17


def opening(
    report: Report, p: ProcessRow, elsewhere: dict[str, list[int]], width: int
) -> list[Block]:
    """What is to be known at first, of the process that matters most.

    Args:
        report: of the trace.
        p: that process.
        elsewhere: rule -> processes that have such a finding, too.
        width: columns.
    """
    facts = [words.ending(p), words.allocator(p)]
    facts += [report.machine] if report.machine else []
    if report.page_size % 1024 == 0 and report.trace.log is None:
        facts.append(f"pages {format_size(report.page_size)}")
    tail = "   ".join(fit(f, 24) for f in facts if f)
    room = width - columns(tail) - 3
    name = fit(words.command(p), room if room >= 20 else width)
    out = marked([f"{name}   {tail}" if room >= 20 else name], BOLD, 0, len(name))
    if room < 20:
        out.append("  " + fit(tail, width - 2))
    if p.attached is not None:
        out += paragraph(words.attached(p), width, "  ")
    out.append("")
    if len(report.processes) > 1:
        every, some = plural(report.address_spaces, "address space"), len(report.processes)
        which = f"{some:,} of the {every}" if some < report.address_spaces else every
        about = f"the largest, process {p.pid} (born #{p.born_seq})"
        if p.attached is not None:
            was = "there before the log begins" if p.assumed else "attached to"
            about = f"process {p.pid}, which was {was}"
        text = f"{which} in this trace; the next lines are about {about}"
        out += [*paragraph(text, width, "  "), ""]
    out += _how_much(p, width)
    out += ["", *_odd(p, elsewhere, width), *trust(report, width)]
    return out


def _how_much(p: ProcessRow, width: int) -> list[Block]:
    heap, chunks, before = p.heap, p.kinds.get("malloc-chunk"), p.attached
    end, peak = words.last(p), words.peak(p)
    rows = []
    moves = f"{plural(heap.growths, 'growth')}, {plural(heap.shrinks, 'shrink')}"
    if heap.start is None and heap.end is not None:
        rows.append(("heap (brk)", "unknown", f"no call told where it begins; {moves}"))
    if heap.most_bytes is not None:
        rows.append(("heap (brk)", *words.untold(heap.most_bytes)))
    if heap.peak_bytes is not None and heap.final_bytes is not None:
        was = _was(None if before is None else before.heap_bytes)
        note = f"{peak}; {was}{format_size(heap.final_bytes)} {end}; {moves}"
        rows.append(("heap (brk)", format_size(heap.peak_bytes), note))
    if chunks is not None:
        note = f"{peak}; {format_size(chunks.final_bytes)} {end}; "
        if chunks.older:
            note += f"{chunks.older:,} older, {chunks.count - chunks.older:,} mapped since, "
        else:
            note += f"{chunks.count:,} mapped, "
        note += f"{chunks.alive:,} alive {end}{words.perhaps_chunks(p)}"
        rows.append(("malloc chunks", format_size(chunks.peak_bytes), note))
    elif p.assumed:
        note = "the log does not tell which mappings are malloc's"
        rows.append(("malloc chunks", "unknown", note))
    elif p.allocator.name == "glibc":
        note = "no mapping is proven to be one" + words.perhaps_chunks(p)
        rows.append(("malloc chunks", "0 B", note))
    if p.arenas:
        opened = sum(a.committed_peak_bytes for a in p.arenas)
        count = plural(len(p.arenas), "heap")
        size = format_size(max(a.reserved_bytes for a in p.arenas))
        note = f"in {count} of theirs, each at its peak; each reserves {size}"
        rows.append(("thread arenas", format_size(opened), note))
    if p.memory.vm_peak_bytes is not None:
        note = f"peak at #{p.peak_seq}: address space, touched or not"
        if before is not None:
            now = format_size(sum(k.final_bytes for k in p.kinds.values()))
            note = f"{peak}, #{p.peak_seq}; {_was(before.mapped_bytes)}{now} "
            note += f"{end}; touched or not"
        rows.append(("total mapped", format_size(p.memory.vm_peak_bytes), note))
    elif p.assumed:
        note = f"{peak} at #{p.peak_seq} of what calls mapped; what was there before them adds"
        rows.append(("mapped at least", format_size(p.seen_bytes), note))
    if p.memory.rss_peak_bytes is not None:
        note = "peak of pages really in memory, as far as read"
        if before is not None and before.resident_bytes is not None:
            note += f"; {_was(before.resident_bytes)[:-2]}"
        rows.append(("resident", format_size(p.memory.rss_peak_bytes), note))
    return _labelled(rows, width)


def _labelled(rows: list[tuple[str, str, str]], width: int) -> list[Block]:
    size = max((columns(r[1]) for r in rows), default=0)
    out: list[Block] = []
    for label, value, note in rows:
        start = f"  {label:<{_LABEL}}"
        first = f"{start}{value:>{size}}  "
        out += marked(paragraph(note, width, first), BOLD, len(start), len(first))
    return out


def _odd(p: ProcessRow, elsewhere: dict[str, list[int]], width: int) -> list[Block]:
    statements = words.oddities(p)
    if elsewhere:
        statements = [*(statements or ["nothing stands out here"]), words.elsewhere(elsewhere)]
    if not statements:
        statements = ["nothing stands out"]
    out: list[Block] = []
    for i, text in enumerate(statements):
        label = "is it odd?" if i == 0 else ""
        out += paragraph(text, width, f"  {label:<{_LABEL}}")
    return out


def trust(report: Report, width: int) -> list[Block]:
    """Whether the trace can be trusted, and why."""
    label = f"  {'can I trust it?':<{_LABEL}}"
    lines = paragraph(report.trust, width, label)
    word = report.exactness
    out: list[Block] = [*lines]
    if lines[0].startswith(label + word):
        style = {"exact": GOOD, "unverified": WARN}.get(word, BAD)
        out = marked(lines, style, len(label), len(label) + len(word))
    return [*out, *paragraphs(report.problems[:3], width, " " * len(label)), ""]


def _was(size: int | None) -> str:
    return "" if size is None else f"{format_size(size)} at the attach, "
