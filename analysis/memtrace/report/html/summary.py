# SPDX-License-Identifier: GPL-2.0-or-later
"""The words and numbers of the page's head and of each process, all of them cleaned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memtrace.report import words
from memtrace.report.lines import clean, plural
from memtrace.trace.sizes import format_size

if TYPE_CHECKING:
    from memtrace.report.model import KindRow, ProcessRow, Report, ThresholdRow

_EVIDENCE = 60
_MOVES = 2000
_ARGUMENTS = 400


def opening(report: Report, p: ProcessRow | None) -> dict[str, Any]:
    """What is said first of a trace: of which program."""
    name = words.command(p) if p is not None else " ".join(report.argv) or "a trace"
    facts = []
    if p is not None:
        facts = [words.ending(p), words.allocator(p), clean(report.machine)]
    return {"command": _cut(name), "facts": [f for f in facts if f]}


def process_facts(p: ProcessRow, *, brief: bool = False) -> dict[str, Any]:
    """One process; `brief`: only the line of a list."""
    line = {
        "pid": p.pid,
        "mm": p.mm,
        "born": p.born_seq,
        "died": p.died_seq,
        "name": _cut(words.command(p), 120 if brief else _ARGUMENTS),
        "ending": clean(words.ending(p)),
        "calls": p.calls_total,
        "mapped": p.memory.vm_peak_bytes,
        "heap": p.heap.peak_bytes,
        "findings_count": sum(x.severity != "info" for x in p.findings),
    }
    if brief:
        return line
    t = p.threshold
    stated = p.allocator.rule is not None or t.low is not None
    return {
        **line,
        "exactness": p.exactness,
        "allocator": words.allocator(p),
        "cards": _cards(p),
        "odd": [clean(x) for x in words.oddities(p)] or ["nothing stands out"],
        "findings": [
            {
                "rule": x.rule,
                "severity": x.severity,
                "title": clean(x.title),
                "message": clean(x.message),
                "remedy": clean(x.remedy),
                "evidence": x.evidence[:_EVIDENCE],
                "evidence_total": len(x.evidence),
            }
            for x in p.findings
        ],
        "kinds": [_kind(p, n, k) for n, k in p.kinds_by_size()],
        "threshold": {
            "text": words.interval(t.low, t.high) if stated else clean(words.no_threshold(p)),
            "start": clean(words.start(p)) if stated else "",
            "initial": t.initial,
            "history": _moves(t),
        },
        "unseen": [clean(x) for x in words.unseen([p])],
    }


def _moves(t: ThresholdRow) -> list[list[int | str | None]]:
    """Record, time, bounds and cause of each move; where they are not kept no bounds, until the
    last of them.
    """
    kept = t.history[:_MOVES]
    out: list[list[int | str | None]] = [
        [m.seq, m.t_ns, m.low, m.high, clean(m.cause)] for m in kept
    ]
    if kept and t.last_move is not None and t.last_move > kept[-1].seq:
        text = f"more moves than the {len(kept):,} that are kept"
        out += [[kept[-1].seq + 1, None, None, None, text], [t.last_move, None, t.low, t.high, ""]]
    return out


def _kind(p: ProcessRow, name: str, k: KindRow) -> dict[str, Any]:
    return {
        "name": name, "count": k.count, "peak": k.peak_bytes, "final": k.final_bytes,
        "resident": k.resident_bytes, "committed": k.committed_bytes,
        "gloss": words.gloss(p, name),
    }  # fmt: skip


def _cards(p: ProcessRow) -> list[list[str]]:
    """How much: label, value, note."""
    end, heap, chunks = words.last(p), p.heap, p.kinds.get("malloc-chunk")
    out = []
    moves = f"{plural(heap.growths, 'growth')}, {plural(heap.shrinks, 'shrink')}"
    if heap.most_bytes is not None:
        out.append(["heap", *words.untold(heap.most_bytes)])
    elif heap.peak_bytes is not None and heap.final_bytes is not None:
        note = f"{words.peak(p)}; {format_size(heap.final_bytes)} {end}; {moves}"
        out.append(["heap", format_size(heap.peak_bytes), note])
    else:
        out.append(["heap", "unknown", "no call told where it is"])
    if chunks is not None:
        note = f"{words.peak(p)}; {chunks.count:,} in all, {chunks.alive:,} alive {end}"
        note += words.perhaps_chunks(p)
        out.append(["malloc chunks", format_size(chunks.peak_bytes), note])
    elif p.assumed:
        out.append(
            ["malloc chunks", "unknown", "the log does not tell which mappings are malloc's"]
        )
    elif p.allocator.name == "glibc":
        out.append(["malloc chunks", "0 B", "no mapping is proven to be one"])
    if p.arenas:
        opened = sum(a.committed_peak_bytes for a in p.arenas)
        note = f"opened in {plural(len(p.arenas), 'heap')} of theirs, each at its peak"
        out.append(["thread arenas", format_size(opened), note])
    if p.memory.vm_peak_bytes is not None:
        note = f"peak at #{p.peak_seq}: address space, touched or not"
        out.append(["total mapped", format_size(p.memory.vm_peak_bytes), note])
    else:
        note = f"{words.peak(p)} at #{p.peak_seq} of what calls mapped"
        out.append(["mapped at least", format_size(p.seen_bytes), note])
    if p.memory.rss_peak_bytes is not None:
        note = "peak of pages really in memory, as far as read"
        out.append(["resident", format_size(p.memory.rss_peak_bytes), note])
    return [[a, clean(b), clean(c)] for a, b, c in out]


def _cut(text: str, most: int = _ARGUMENTS) -> str:
    return clean(text if len(text) <= most else text[:most] + "…")
