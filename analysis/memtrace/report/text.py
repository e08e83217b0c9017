# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as text in 80 columns: how much, is it odd, can I trust it; then the details.

Every number has the number of its record behind it (`#18`; `memtrace events` shows the record).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from memtrace.malloc.series import Series
from memtrace.report import ledger, tree, words
from memtrace.report.chart import chart
from memtrace.report.inside import section
from memtrace.report.lines import columns, fit, fit_end, paragraph, plural, sparkline, table
from memtrace.report.model import HeapRow, ProcessRow, RegionRow, Report, StepRow
from memtrace.trace.sizes import format_moment, format_size

_DETAILED = 3
_REGIONS = 15
_STEPS = 14
_EVIDENCE = 8
_INDENT = 2
_LABEL = 17

_STYLES = {
    "bold": "1", "dim": "2", "good": "32", "bad": "31", "warn": "33",
    "heap": "34", "chunk": "36", "arena": "35",
}  # fmt: skip
_ESCAPE = re.compile("\x01([a-z]+)\x02|\x03")


#: The series of address spaces, asked for those that are described.
Source = Callable[[list[int]], Mapping[int, Series]]


def render(
    report: Report, *, series: Source = lambda _: {}, color: bool = False, width: int = 80
) -> str:
    """The report as text that ends with a newline.

    Args:
        report: what `build` made.
        series: of the address spaces that are described; without one there is no chart.
        color: use ANSI colours.
        width: columns; less than 60 is taken as 60, more than 80 as 80.
    """
    lines = _Text(report, series, min(max(width, 60), 80)).lines()
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    if color:
        return _ESCAPE.sub(lambda m: f"\x1b[{_STYLES[m[1]]}m" if m[1] else "\x1b[0m", text)
    return _ESCAPE.sub("", text)


def _styled(style: str, text: str) -> str:
    # Marks that `clean` never lets through from a name: they become colour, or nothing.
    return f"\x01{style}\x02{text}\x03"


class _Text:
    def __init__(self, report: Report, series: Source, width: int) -> None:
        self.report = report
        self.source = series
        self.series: Mapping[int, Series] = {}
        self.width = width
        self.spaces: list[tree.Space] = []

    def lines(self) -> list[str]:
        report = self.report
        if not report.processes:
            return [*self._empty(), *self._trust()]
        weights, attached = [], None  # each row is made anew when it is asked for: once is enough
        grave: dict[str, list[tuple[int, int]]] = {}
        for i, p in enumerate(report.processes):
            own = p.own_bytes  # its own memory largest first
            weights.append((-own, p.born_seq, i))
            self.spaces.append(tree.space(p, own))
            for rule in sorted({x.rule for x in p.findings if x.severity != "info"}):
                grave.setdefault(rule, []).append((p.mm, p.pid))
            if attached is None and p.attached is not None:
                attached = i
        order = [i for _, _, i in sorted(weights)]
        if attached is not None:  # the one that was asked about, however small
            order.remove(attached)
            order.insert(0, attached)
        shown = [report.processes[i] for i in order[:_DETAILED]]
        main = shown[0]
        shown.sort(key=lambda p: p.born_seq)
        self.series = self.source([p.mm for p in shown])
        elsewhere = {
            rule: pids
            for rule, places in sorted(grave.items())
            if (pids := [pid for mm, pid in places if mm != main.mm])
        }
        out = self._opening(main, elsewhere)
        if len(report.processes) > 1:
            out += self._processes(shown)
        for p in shown:
            out += self._process(p, named=len(report.processes) > 1)
        return out + self._unseen(shown)

    def _empty(self) -> list[str]:
        command = fit(" ".join(self.report.argv) or "a trace", self.width - 2)
        return [command, "", "  nothing was recorded: the trace holds no process", ""]

    # -- the opening ----------------------------------------------------------------------------

    def _opening(self, p: ProcessRow, elsewhere: dict[str, list[int]]) -> list[str]:
        report = self.report
        facts = [words.ending(p), words.allocator(p)]
        facts += [report.machine] if report.machine else []
        if report.page_size % 1024 == 0 and report.trace.log is None:
            facts.append(f"pages {format_size(report.page_size)}")
        tail = "   ".join(fit(f, 24) for f in facts if f)
        room = self.width - columns(tail) - 3
        name = fit(words.command(p), room if room >= 20 else self.width)
        out = [_styled("bold", name) + "   " + tail if room >= 20 else _styled("bold", name)]
        if room < 20:
            out.append("  " + fit(tail, self.width - 2))
        if p.attached is not None:
            out += paragraph(words.attached(p), self.width, "  ")
        out.append("")
        if len(report.processes) > 1:
            every, some = plural(report.address_spaces, "address space"), len(report.processes)
            which = f"{some:,} of the {every}" if some < report.address_spaces else every
            about = f"the largest, process {p.pid} (born #{p.born_seq})"
            if p.attached is not None:
                was = "there before the log begins" if p.assumed else "attached to"
                about = f"process {p.pid}, which was {was}"
            text = f"{which} in this trace; the next lines are about {about}"
            out += [*paragraph(text, self.width, "  "), ""]
        out += self._how_much(p)
        out += ["", *self._odd(p, elsewhere), *self._trust()]
        return out

    def _how_much(self, p: ProcessRow) -> list[str]:
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
        return self._labelled(rows)

    def _labelled(self, rows: list[tuple[str, str, str]]) -> list[str]:
        size = max((columns(r[1]) for r in rows), default=0)
        out = []
        for label, value, note in rows:
            first = f"  {label:<{_LABEL}}{value:>{size}}  "
            lines = paragraph(note, self.width, first)
            head = f"  {label:<{_LABEL}}" + _styled("bold", f"{value:>{size}}") + "  "
            out += [head + lines[0][len(first) :], *lines[1:]]
        return out

    def _odd(self, p: ProcessRow, elsewhere: dict[str, list[int]]) -> list[str]:
        statements = words.oddities(p)
        if elsewhere:
            statements = [*(statements or ["nothing stands out here"]), words.elsewhere(elsewhere)]
        if not statements:
            statements = ["nothing stands out"]
        out = []
        for i, text in enumerate(statements):
            label = "is it odd?" if i == 0 else ""
            out += paragraph(text, self.width, f"  {label:<{_LABEL}}")
        return out

    def _trust(self) -> list[str]:
        report = self.report
        label = f"  {'can I trust it?':<{_LABEL}}"
        lines = paragraph(report.trust, self.width, label)
        style = {"exact": "good", "unverified": "warn"}.get(report.exactness, "bad")
        word = report.exactness
        if lines[0][len(label) :].startswith(word):
            lines[0] = label + _styled(style, word) + lines[0][len(label) + len(word) :]
        for text in report.problems[:3]:
            lines += paragraph(text, self.width, " " * len(label))
        return [*lines, ""]

    # -- many processes -------------------------------------------------------------------------

    def _processes(self, shown: list[ProcessRow]) -> list[str]:
        rows, hidden = tree.rows(self.spaces, [p.mm for p in shown])
        lines = [("process", "born", "mapped", "heap", "calls", "end", "program"), *rows]
        out = [self._heading("processes", "who forked whom; → an exec, which begins a new space")]
        out += [fit(line, self.width) for line in table(lines, "<>>>><<")]
        if hidden:
            out.append(f"  and {hidden:,} smaller ones")
        out += paragraph(
            "* described below. One process alone: memtrace report TRACE --pid PID",
            self.width,
            "  ",
        )
        return [*out, ""]

    # -- one process ----------------------------------------------------------------------------

    def _process(self, p: ProcessRow, *, named: bool) -> list[str]:
        out: list[str] = []
        if named:
            title = f"── process {p.pid}, born #{p.born_seq} "
            name = fit(words.command(p), self.width - columns(title) - 4)
            line = title + name + " "
            out = [_styled("bold", line + "─" * max(self.width - columns(line), 0)), ""]
        out += self._findings(p)
        out += self._kinds(p)
        out += self._chart(p)
        out += self._heap(p)
        out += section(p, self.width, self._heading)
        out += self._threshold(p)
        out += self._regions(p)
        out += self._arenas(p)
        return out + self._calls(p)

    def _findings(self, p: ProcessRow) -> list[str]:
        if not p.findings:
            return []
        note = f"what each means: memtrace explain {p.findings[0].rule}"
        out = [self._heading("findings", note)]
        style = {"error": "bad", "warning": "warn"}
        for x in p.findings:
            lines = paragraph(x.message, self.width, f"  {x.rule}  {x.severity:<7}  ", " " * 9)
            head = _styled(style.get(x.severity, "dim"), x.severity)
            out += [lines[0].replace(x.severity, head, 1), *lines[1:]]
            if x.evidence:
                shown = " ".join(f"#{seq}" for seq in x.evidence[:_EVIDENCE])
                more = len(x.evidence) - _EVIDENCE
                shown += f" and {more} more" if more > 0 else ""
                out += paragraph(shown, self.width, " " * 9 + "evidence  ", " " * 19)
            out += paragraph(x.remedy, self.width, " " * 9 + "try       ", " " * 19)
        return [*out, ""]

    def _kinds(self, p: ProcessRow) -> list[str]:
        if not p.kinds:
            return []
        end = words.last(p)
        # Memory that may not be accessed is address space only: worth a column where there is some.
        apart = any(k.committed_bytes not in (None, k.final_bytes) for k in p.kinds.values())
        rows: list[tuple[str, ...]] = [
            ("kind", "count", "peak", end, "committed" if apart else "", "what it is")
        ]
        for name, k in p.kinds_by_size():
            gloss = words.KINDS.get(name, "")
            if name == "heap" and p.heap.most_bytes is not None:
                gloss = words.LABELLED
            peak, final = format_size(k.peak_bytes), format_size(k.final_bytes)
            usable = "" if k.committed_bytes is None else format_size(k.committed_bytes)
            rows.append((name, f"{k.count:,}", peak, final, usable if apart else "", gloss))
        if not apart:
            rows = [(*row[:4], row[5]) for row in rows]
        note = "count: regions ever; peak: the most at one time"
        if apart:
            note = "peak: the most at one time; committed: may be accessed"
        heading = self._heading("memory by kind", note)
        align = "<>>>><" if apart else "<>>><"
        return [heading, *(fit(x, self.width) for x in table(rows, align)), ""]

    def _chart(self, p: ProcessRow) -> list[str]:
        series = self.series.get(p.mm)
        made = None
        if series is not None and len(series.moments) > 1:
            made = chart(series, self.report.trace.clock, self.width - 4)
        if made is None:
            return []
        legend = ", ".join(f"{_styled(style, sign)} {name}" for style, sign, name in made.layers)
        out = [f"{_styled('bold', 'malloc over time')}   {legend}"]
        for spans in made.lines:
            text = "".join(_styled(style, x) if style else x for style, x in spans)
            out.append(f"  {text}")
        return [*out, ""]

    def _heap(self, p: ProcessRow) -> list[str]:
        heap = p.heap
        out = [
            self._heading("heap", "the area that brk moves the end of; small requests live here")
        ]
        if heap.most_bytes is not None:
            text = f"never moved{words.since(p)}; {': '.join(words.untold(heap.most_bytes))}"
            return [*out, *paragraph(text, self.width, "  "), ""]
        if heap.end is None:
            return [*out, "  not seen: no call told where it is", ""]
        if heap.start is None:
            text = "no call told where it begins, so its size is not known"
            if not heap.exact:
                text += "; the first call seen may have moved it, from where is not known either"
            out += paragraph(text, self.width, "  ")
        if not p.steps_total:
            if heap.start is None:
                return [*out, ""]
            text = "never moved" + words.since(p)
            if heap.final_bytes:
                text += f"; it holds {format_size(heap.final_bytes)}"
                text += ", inherited from its parent" if p.inherited else ""
            return [*out, *paragraph(text, self.width, "  "), ""]
        sizes = [s.end - heap.start for s in heap.steps] if heap.start is not None else []
        line = sparkline(sizes, self.width - 30)
        if len(sizes) > 1 and line:
            out.append(f"  {line}  {format_size(sizes[-1])} after #{heap.steps[-1].seq}")
        rows = [("#", "time", "change", "after", "chunk", "why")]
        rows += [self._step(heap, s) for s in _chosen(heap.steps)]
        if not any(row[4] for row in rows[1:]):
            rows[0] = (*rows[0][:4], "", "why")
        lines = table(rows, ">>>>><")
        out += [fit(x, self.width) for x in lines]
        loose = next((s for s in heap.steps if not s.exact), None)
        if loose is not None:
            text = (
                f"#{loose.seq}: where in its page the heap ended before is not known; the true "
                f"change is up to {format_size(self.report.page_size)} more than shown"
            )
            out += paragraph(text, self.width, "  ")
        left = p.steps_total - (len(rows) - 1)
        if left > 0:
            out += paragraph(
                f"{left:,} more steps; shown are the first, the largest and the last",
                self.width, "  ",
            )  # fmt: skip
        for text in ledger.notes(p):
            out += paragraph(text, self.width, "  ")
        return [*out, ""]

    def _step(self, heap: HeapRow, s: StepRow) -> tuple[str, str, str, str, str, str]:
        change = f"{'+' if s.delta > 0 else ''}{format_size(s.delta)}"
        if not s.delta:
            asked = s.asked - s.end
            change = f"0 of {'+' if asked > 0 else ''}{format_size(asked)}"
        size = "unknown" if heap.start is None else format_size(s.end - heap.start)
        when = format_moment(s.t_ns, self.report.trace.clock)
        return f"#{s.seq}", when, change, size, ledger.chunk(s), ledger.step(s)

    def _threshold(self, p: ProcessRow) -> list[str]:
        t = p.threshold
        out = [
            self._heading(
                "mmap threshold", "requests of this size or more get a mapping of their own"
            )
        ]
        if p.allocator.name != "glibc":
            return [*out, *paragraph(words.no_threshold(p), self.width, "  "), ""]
        first = (t.initial, t.initial) if t.first is None else (t.first.min, t.first.max)
        birth = "attach" if p.attached is not None and not p.assumed else "start"
        rows = [(birth, words.interval(*first), words.start(p))]
        moves = t.history
        shown = moves if len(moves) <= 10 else [*moves[:5], *moves[-4:]]
        before = ""
        for m in shown:
            why = "likewise" if m.cause == before and m.against is None else ledger.move(m)
            rows.append((f"#{m.seq}", words.interval(m.low, m.high), why))
            before = m.cause
        if len(moves) > len(shown):
            rows.append(("...", "", f"{len(moves) - len(shown):,} more moves"))
        end = words.last(p)
        rows.append((end, words.interval(t.low, t.high), words.standing(p)))
        size = max(columns(r[1]) for r in rows)
        room = max(10, *(columns(r[0]) + 2 for r in rows))
        for when, value, why in rows:
            out += paragraph(why, self.width, f"  {when:<{room}}{value:>{size}}  ")
        trim = ledger.trim(p)
        out += [] if trim is None else paragraph(trim, self.width, "  ")
        for text in words.further(p):
            out += paragraph(text, self.width, "  ")
        return [*out, ""]

    def _regions(self, p: ProcessRow) -> list[str]:
        own = [r for r in p.regions if r.kind not in ("library", "vdso", "loader", "stack")]
        if not own:
            return []
        rows: list[tuple[str, ...]] = [("address", "peak", "kind", "proven by", "born", "gone")]
        rows += [self._region(r) for r in own[:_REGIONS]]
        room = max(self.width - max(map(columns, table(rows, "<><<>>"))) - 2, 1)
        labelled = p.heap.most_bytes is not None
        notes = [
            "",
            *(
                fit(words.LABELLED, room) if labelled and r.kind == "heap" else _about(r, room)
                for r in own[:_REGIONS]
            ),
        ]
        note = "without the program's own files, its loader and stack"
        if p.attached is not None:
            note = "older: than the trace; without libraries and the main stack"
        out = [self._heading("largest regions", note)]
        lines = table([(*row, note) for row, note in zip(rows, notes, strict=True)], "<><<>><")
        out += [fit(x, self.width) for x in lines]
        if len(own) > _REGIONS:
            out.append(f"  and {p.regions_total - _REGIONS - (len(p.regions) - len(own)):,} more")
        return [*out, ""]

    def _region(self, r: RegionRow) -> tuple[str, ...]:
        return (
            f"{r.start:x}",
            format_size(r.peak_bytes),
            r.kind,
            r.evidence if r.kind != "unknown" else "-",
            "fork" if r.inherited else "older" if r.older else f"#{r.born_seq}",
            "" if r.died_seq is None else f"#{r.died_seq}",
        )

    def _arenas(self, p: ProcessRow) -> list[str]:
        if not p.arenas:
            return []
        rows = [("base", "thread", "opened", "opened now", "given back", "reserved", "gone")]
        for a in p.arenas[:_REGIONS]:
            now = "unknown" if a.committed_bytes is None else format_size(a.committed_bytes)
            rows.append((
                f"{a.base:x}", "" if a.tid is None else str(a.tid),
                format_size(a.committed_peak_bytes), now, format_size(a.given_back_bytes),
                format_size(a.reserved_bytes), "" if a.died_seq is None else f"#{a.died_seq}",
            ))  # fmt: skip
        out = [self._heading("thread arenas", "malloc's memory for threads other than the first")]
        first, *others = ledger.arenas(p)
        out += paragraph(first, self.width, "  ")
        out += [fit(x, self.width) for x in table(rows, "<>>>>>>")]
        if len(p.arenas) > _REGIONS:
            out.append(f"  and {len(p.arenas) - _REGIONS:,} more")
        for text in others:
            out += paragraph(text, self.width, "  ")
        return [*out, ""]

    def _calls(self, p: ProcessRow) -> list[str]:
        if not p.calls:
            return []
        rows = [("call", "count", "failed")]
        rows += [
            (fit(n, 30), f"{c.count:,}", f"{c.failed:,}" if c.failed else "")
            for n, c in p.calls_by_count()
        ]
        total = p.calls_total
        failed = sum(c.failed for c in p.calls.values())
        rows.append(("total", f"{total:,}", f"{failed:,}" if failed else ""))
        lines = [fit(x, self.width) for x in table(rows, "<>>")]
        return [self._heading("system calls", "failed: refused by the kernel"), *lines, ""]

    def _heading(self, title: str, note: str) -> str:
        note = fit(note, self.width - columns(title) - 3)
        return _styled("bold", title) + (f"   {_styled('dim', note)}" if note else "")

    # -- the end --------------------------------------------------------------------------------

    def _unseen(self, shown: list[ProcessRow]) -> list[str]:
        out = [self._heading("what this trace cannot know", "")]
        for text in words.unseen(shown):
            out += paragraph(text, self.width, "  - ")
        return out


def _about(r: RegionRow, room: int) -> str:
    """What else is to be said of a region, in `room` columns."""
    if r.owner is not None:
        return fit(r.owner, room)
    if r.path:
        return fit_end(r.path.rpartition("/")[2] or r.path, room)
    if r.kind == "unknown" and r.candidates:
        return _one_of(r.candidates, room)
    if r.moves:
        return fit(plural(r.moves, "mremap"), room)
    if r.populated:
        return fit("paged in at once", room)
    return fit("contradicts the threshold", room) if r.verdict == "contradiction" else ""


def _one_of(candidates: list[str], room: int) -> str:
    """Candidates with a question mark, whole words as far as there is room."""
    for n in range(len(candidates), 0, -1):
        text = " or ".join(candidates[:n]) + ("?" if n == len(candidates) else ", …?")
        if columns(text) <= room:
            return text
    return fit("…?", room)


def _was(size: int | None) -> str:
    return "" if size is None else f"{format_size(size)} at the attach, "


def _chosen(steps: list[StepRow]) -> list[StepRow]:
    """The first, the largest and the last steps, in order."""
    if len(steps) <= _STEPS:
        return steps
    edge = steps[:4] + steps[-4:]
    seen = {s.seq for s in edge}
    rest = sorted((s for s in steps if s.seq not in seen), key=lambda s: (-abs(s.delta), s.seq))
    return sorted(edge + rest[: _STEPS - len(edge)], key=lambda s: s.seq)
