# SPDX-License-Identifier: GPL-2.0-or-later
"""From a trace to a report, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec

from memtrace.findings.catalogue import findings
from memtrace.findings.facts import facts_of
from memtrace.malloc import arenas, refused
from memtrace.malloc.account import Account
from memtrace.malloc.accounts import Accounts
from memtrace.malloc.allocator import Allocator
from memtrace.malloc.populated import populated
from memtrace.malloc.regions import Region
from memtrace.malloc.series import GROUPS, Curves, Series
from memtrace.malloc.tags import Cuts, Kinds
from memtrace.malloc.threshold import Threshold
from memtrace.replay.book import Book, Making
from memtrace.replay.engine import replay
from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.replay.result import Replay
from memtrace.replay.trust import exactness, process_exactness, sentence
from memtrace.report.inside import walk_row
from memtrace.report.model import (
    FORMAT,
    AllocatorRow,
    ArenaLimitRow,
    ArenaRow,
    AttachedRow,
    Bounds,
    CallCount,
    DriftRow,
    Finding,
    HeapRow,
    Interval,
    KindRow,
    MapsRow,
    MemoryRow,
    MoveRow,
    NoTrimRow,
    ProcessRow,
    Range,
    RegionRow,
    Report,
    StepRow,
    ThresholdRow,
    TraceFacts,
    TrimRow,
    Verification,
)
from memtrace.report.recording import begun, recording
from memtrace.report.rows import Kept, Late, Rows, keep
from memtrace.space.canonical import Run
from memtrace.space.compare import Drift
from memtrace.trace.reader import Trace
from memtrace.trace.records import Attach
from memtrace.trace.sidecar import is_file

#: Metrics of what only callers or chunk headers prove: a log of system calls has neither.
_BY_EVIDENCE = (
    "arenas.count", "arenas.reserved_bytes", "chunks.alive_at_exit", "chunks.final_bytes",
    "chunks.mapped", "chunks.peak_bytes",
    "growth.over_threshold", "heap.growths_over_128k", "threshold.rises",
)  # fmt: skip
#: Lines shown of each side of a drift.
_DRIFT_LINES = 20
_REPORT = "report"
#: How a report is kept: without rows; then of each row what is late, and the rest of it.
_DECODER = msgspec.msgpack.Decoder(tuple[Report, list[Late], list[msgspec.Raw]])


def read(path: str) -> Report:
    """The report on a trace, as it was made before of the very same trace, or else made now.

    Raises:
        TraceFormatError: the trace cannot be read.
    """
    book = Book.found(path) if is_file(path) else None
    report = None if book is None else _kept_in(book)
    if report is not None:
        return report
    with Trace(path) as trace, Making(trace) as making:
        return making_of(trace, making)[0]


def read_both(path: str) -> tuple[Report, Book, Kinds] | None:
    """The report and what `read_book` gives, of one pass at most; None if it is no file."""
    found = read_book(path)
    if found is None:
        return None
    book, kinds = found
    return _kept_in(book) or read(path), book, kinds


def _kept_in(book: Book) -> Report | None:
    """The report beside a book, None if there is none."""
    with suppress(msgspec.MsgspecError, ValueError):
        saved = _DECODER.decode(book.blobs.get(_REPORT) or b"")
        return msgspec.structs.replace(saved[0], processes=Rows(saved[2], saved[1]))
    return None


def read_book(path: str, pid: int | None = None) -> tuple[Book, Kinds] | None:
    """The book of a trace and what kind each region was; None if it is no file, which can be read
    but once.

    Args:
        path: the trace.
        pid: of the process whose regions are wanted; None: of the first.

    Raises:
        TraceFormatError: the trace cannot be read.
    """
    if not is_file(path):
        return None
    book = Book.found(path)
    if book is not None:
        kinds, spans = Kinds(book.blobs), book.outline.spans
        of = book.outline.first_pid if pid is None else pid
        wanted = () if of is None else spans.get(of, ())
        if book.blobs.get(_REPORT) is not None and all(kinds.holds(s.mm) for s in wanted):
            return book, kinds
    with Trace(path) as trace, Making(trace) as making:
        book = making_of(trace, making)[1]
    return book, Kinds(book.blobs)


def series_of(book: Book, kinds: Kinds, mms: Iterable[int]) -> dict[int, Series]:
    """How much memory each kind had over time, by address space.

    Args:
        book: of the trace, which is read again.
        kinds: of its regions.
        mms: the address spaces wanted.

    Raises:
        TraceFormatError: the trace cannot be read any more.
        UsageError: it is not what was read.
    """
    page = book.outline.page_size
    curves = Curves(kinds, page, dict.fromkeys(mms, GROUPS))
    with book.again() as trace:
        result = replay(trace, [Cuts(page), curves])
    return curves.series(timed=result.timed)


def making_of(trace: Trace, making: Making) -> tuple[Report, Book]:
    """Read the trace, and make report and book of it."""
    writer = _Writer()
    accounts = Accounts(trace, writer.closed, making.store)
    result = replay(trace, [accounts, writer, *making.observers], keeper=making.keeper)
    report, rows = writer.report(trace)
    kept = [msgspec.Raw(k) for k in rows.kept if not isinstance(k, ProcessRow)]
    if len(kept) < len(rows):  # numbers that no kernel has
        return report, making.done(result)
    head = msgspec.structs.replace(report, processes=[])
    try:
        data = msgspec.msgpack.encode((head, rows.late, kept))
    except OverflowError:
        return report, making.done(result)
    return report, making.done(result, [(_REPORT, data)])


def build(trace: Trace) -> Report:
    """Read the trace, which is consumed, and report on it."""
    writer = _Writer()
    replay(trace, [Accounts(trace, writer.closed), writer])
    return writer.report(trace)[0]


def of_process(report: Report, pid: int) -> Report:
    """Only the entries of one process; an exec starts a new one."""
    every = report.processes
    chosen = [i for i, p in enumerate(every) if pid in p.pids]
    only = every.only(chosen) if isinstance(every, Rows) else [every[i] for i in chosen]
    return msgspec.structs.replace(report, processes=only)


class _Writer(Observer):
    """Writes each process's row at its death."""

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}

    def begin(self, replay: Replay) -> None:
        """See `Observer`."""
        self._result = replay

    def closed(self, a: Account) -> None:
        """A process's last moment."""
        self._kept[a.p.mm] = keep(_process(self._result, a, self._result.header.page_size))

    def report(self, trace: Trace) -> tuple[Report, Rows]:
        """The pass over that trace is over."""
        result = self._result
        execs = {(p.pid, p.born_seq) for p in result.processes if not p.inherited}
        late = [
            Late(
                exit=_exit(p),
                running=p.left and p.alive and _exit(p) is None,
                replaced=any((pid, p.died_seq) in execs for pid in p.pids),
                exactness=process_exactness(result, p),
                lost=p.lost,
            )
            for p in result.processes
        ]
        rows = Rows([self._kept.pop(p.mm) for p in result.processes], late)
        return _report(result, rows, trace), rows


def _report(result: Replay, rows: Rows, trace: Trace) -> Report:
    header = result.header
    return Report(
        format=FORMAT,
        trace=TraceFacts(
            engine=header.engine,
            log=header.log,
            clock=header.clock,
            complete=result.complete,
            events=result.events,
            lost=result.lost,
            duration_ns=result.duration_ns if result.timed else None,
        ),
        processes=rows,
        address_spaces=len(result.processes),
        machine=header.machine,
        kernel=header.kernel,
        page_size=header.page_size,
        argv=list(header.argv),
        exactness=exactness(result),
        trust=sentence(result),
        problems=[f"#{seq}: {text}" for seq, text in result.problems],
        recording=recording(result, trace),
    )


def _process(result: Replay, a: Account, page: int) -> ProcessRow:
    """The row of a process at its end, without what is `Late`."""
    p = a.p
    kinds = {
        name: KindRow(
            count=k.count,
            peak_bytes=k.peak,
            final_bytes=k.bytes,
            committed_bytes=None if a.committed is None else a.committed.get(name, 0),
            resident_bytes=None if a.resident is None else a.resident.get(name, 0),
            older=k.older,
            alive=k.alive,
        )
        for name, k in sorted(a.regions.kinds.items())
        if k.count
    }
    assumed = p.start.assumed
    # What nobody saw is mapped, too: how much there was in all is not known.
    vm = None if assumed else max(p.vm_peak * page, p.mapped_peak)
    rss = p.rss_peak * page or None
    rows = a.regions.rows()
    found = findings(facts_of(a, result, rows))
    further = {c.row: c.threshold for c in a.mallocs.copies.inner.values()}
    return ProcessRow(
        pid=p.pid,
        mm=p.mm,
        ppid=p.ppid,
        pids=list(p.pids),
        argv=list(p.argv),
        exe=p.exe,
        environment=None if p.start.env_lost else dict(sorted(p.start.env.items())),
        rlimits=dict(sorted(p.start.rlimits.items())) or None,
        exit=None,
        running=False,
        assumed=assumed,
        attached=_attached(a, page, timed=result.timed),
        allocator=_allocator(a.mallocs.serving),
        allocators=[_allocator(x, further.get(x), timed=result.timed) for x in a.mallocs.every],
        verification=Verification(
            snapshots=p.snapshots,
            exact=p.exact,
            checksums=p.checksums,
            stack_growth_bytes=p.stack_growth_bytes,
            drift=[_drift(d) for d in p.drift],
        ),
        calls={n: CallCount(count=c[0], failed=c[1]) for n, c in sorted(p.calls.items())},
        heap=_heap(a, result.header.overcommit, timed=result.timed),
        threshold=_threshold(a.mallocs.threshold, timed=result.timed),
        regions=[region_row(a, r) for r in rows],
        regions_total=a.regions.total,
        arenas=[
            ArenaRow(
                base=x.base,
                arena=None,
                born_seq=x.born_seq,
                died_seq=x.died_seq,
                reserved_bytes=x.reserved,
                committed_peak_bytes=x.committed_peak,
                committed_bytes=x.committed,
                given_back_bytes=x.given_back,
                shrinks=x.shrinks,
                tid=x.tid,
            )
            for x in a.arenas.all
        ],
        arena_limit=_arena_limit(a, result.header.cpus_online),
        walks=[walk_row(w, timed=result.timed) for w in a.walks.kept],
        walks_total=a.walks.total,
        kinds=kinds,
        maps=MapsRow(
            peak=None if assumed else p.maps_peak or None,
            final=None if assumed else p.maps_last,
            limit=result.header.max_map_count,
        ),
        memory=MemoryRow(
            vm_peak_bytes=vm,
            rss_peak_bytes=rss,
            resident_seq=a.resident_seq,
            minor_faults=p.minflt,
            major_faults=p.majflt,
        ),
        metrics=_metrics(a, vm, rss),
        findings=[
            Finding(
                rule=x.rule,
                severity=x.severity,
                title=x.headline,
                message=x.message,
                evidence=list(x.evidence),
                remedy=x.remedy,
            )
            for x in found
        ],
        born_seq=p.born_seq,
        died_seq=p.died_seq,
        replaced=False,
        inherited=p.inherited,
        env_lost=p.start.env_lost,
        threshold_inherited=a.mallocs.threshold.inherited,
        steps_total=a.heap.steps_total,
        peak_seq=p.mapped_peak_seq,
        seen_bytes=p.mapped_peak,
        exactness="",
        begun=begun(p),
    )


def _exit(p: Process) -> dict[str, int] | None:
    if p.exit_signal is not None:
        return {"signal": p.exit_signal}
    return None if p.exit_code is None else {"code": p.exit_code}


def _attached(a: Account, page: int, *, timed: bool) -> AttachedRow | None:
    start, p = a.p.start, a.p
    if not p.attached or not isinstance(start, Attach):
        return None
    return AttachedRow(
        seq=p.born_seq,
        t_ns=p.born_t if timed else None,
        age_ns=start.age_ns,
        regions=None if start.assumed else a.regions.older,
        regions_gone=None if start.assumed else a.regions.older_gone,
        mapped_bytes=a.mapped_before,
        heap_bytes=a.heap.first,
        resident_bytes=None if start.rss is None else max(start.rss, 0) * page,
    )


def _allocator(
    a: Allocator, threshold: Threshold | None = None, *, timed: bool = True
) -> AllocatorRow:
    return AllocatorRow(
        name=a.name, version=a.version, rule=a.rule, evidence=a.evidence,
        build_id=a.build_id, own_rule=a.own_rule,
        threshold=None if threshold is None else _threshold(threshold, timed=timed),
    )  # fmt: skip


def _drift(d: Drift) -> DriftRow:
    return DriftRow(
        seq=d.seq,
        why=d.why,
        model=[_line(r) for r in d.model[:_DRIFT_LINES]],
        kernel=[_line(r) for r in d.kernel[:_DRIFT_LINES]],
    )


def _line(r: Run) -> str:
    file = f" {r.dev} {r.ino} +{r.delta + r.start:#x}" if r.is_file else ""
    return f"{r.start:x}-{r.end:x} {r.perms}{file}{' ' + r.name if r.name else ''}"


def _arena_limit(a: Account, cpus: int | None) -> ArenaLimitRow:
    limit = arenas.Limit(cpus=cpus)
    if a.mallocs.glibc:
        limit = arenas.limit(a.p.start, a.mallocs.layout, cpus)
    return ArenaLimitRow(max=limit.most, reason=limit.reason, cpus=limit.cpus)


def _heap(a: Account, overcommit: int | None, *, timed: bool) -> HeapRow:
    h = a.heap
    final = h.final()
    m = a.mallocs
    least = m.settings.top_pad + m.layout.least + 1 + m.layout.page
    kept = h.no_trim(m.threshold, a.walks.last, least) if m.glibc else None
    return HeapRow(
        start=h.start,
        end=h.end(),
        most_bytes=h.most(),
        peak_bytes=None if final is None else h.peak,
        peak_seq=None if final is None else h.peak_seq,
        final_bytes=final,
        grown_bytes=h.grown_bytes,
        shrunk_bytes=h.shrunk_bytes,
        trimmed_bytes=h.trimmed_bytes,
        malloc_trims=h.malloc_trims,
        no_trim=None if kept is None else NoTrimRow(reason=kept.reason, since_seq=kept.since),
        growths=h.growths,
        shrinks=h.shrinks,
        exact=not (h.loose or h.rounded or h.blind),
        steps=list(step_rows(a, overcommit, timed=timed)),
    )


def step_rows(a: Account, overcommit: int | None, *, timed: bool) -> Iterator[StepRow]:
    """The steps of the heap as the report has them."""
    excluded = refused.OVERCOMMIT if overcommit == 1 else None
    for s in a.heap.steps:
        yield StepRow(
            seq=s.seq,
            t_ns=s.t_ns if timed else None,
            tid=s.tid,
            delta=s.delta,
            end=s.end,
            asked=s.asked,
            exact=s.exact,
            role=s.role,
            chunk=None if s.chunk is None else Bounds(min=s.chunk.least, max=s.chunk.most),
            cause=s.cause,
            room=s.room,
            candidates=[c for c in s.candidates if c != excluded],
            after_malloc_trim=s.after_malloc_trim,
            verdict=s.verdict,
            reason=s.reason,
        )


def _threshold(t: Threshold, *, timed: bool) -> ThresholdRow:
    trim = t.trim()
    return ThresholdRow(
        initial=t.initial,
        low=t.low,
        high=t.high,
        least=t.floor,
        most=t.ceiling,
        fixed_by=t.fixed_by,
        trim=TrimRow(initial=t.trim_initial, low=trim[0], high=trim[1], least=t.trim_floor()),
        history=[
            MoveRow(
                seq=m.seq,
                t_ns=m.t_ns if timed else None,
                low=m.low,
                high=m.high,
                least=m.floor,
                trim=Range(low=m.trim[0], high=m.trim[1]),
                cause=m.cause,
                against=m.against,
            )
            for m in t.history
        ],
        first=None if t.first is None else Interval(min=t.first[0], max=t.first[1]),
        last_move=t.since or None,
    )


def region_row(a: Account, r: Region) -> RegionRow:
    """A region as the report has it."""
    request = None
    if r.kind == "malloc-chunk" and a.mallocs.glibc:
        bounds = a.mallocs.of(r.libc).layout.request(r.length)
        if bounds is not None:
            request = Interval(min=bounds[0], max=bounds[1])
    return RegionRow(
        start=r.start,
        end=r.end,
        bytes=r.bytes,
        peak_bytes=r.peak,
        kind=r.kind,
        owner=r.owner,
        evidence=r.evidence,
        candidates=list(r.candidates),
        born_seq=r.born_seq,
        died_seq=r.died_seq,
        older=r.older,
        tid=r.tid,
        moves=r.moves,
        populated=populated(r),
        request=request,
        verdict=r.verdict,
        reason=r.reason,
        path=r.path,
        inherited=r.inherited,
    )


def _metrics(a: Account, vm: int | None, rss: int | None) -> dict[str, int | float]:
    """Flat numbers for budgets; docs/report-json.md names each. Unknown ones are left out."""
    p, h = a.p, a.heap
    chunks = a.regions.kinds.get("malloc-chunk")
    values: dict[str, int | float | None] = {
        "arenas.count": len(a.arenas),
        "arenas.reserved_bytes": sum(x.reserved for x in a.arenas.alive.values()),
        "calls.total": sum(c[0] for c in p.calls.values()),
        "calls.failed": sum(c[1] for c in p.calls.values()),
        "chunks.alive_at_exit": chunks.alive if chunks else 0,
        "chunks.final_bytes": chunks.bytes if chunks else 0,
        "chunks.mapped": chunks.born if chunks else 0,
        "chunks.peak_bytes": chunks.peak if chunks else 0,
        "churn.pairs": a.churn.pairs,
        "growth.over_threshold": None if a.mallocs.threshold.initial is None else h.over_initial,
        "heap.final_bytes": h.final(),
        "heap.grown_bytes": h.grown_bytes,
        "heap.growths": h.growths,
        "heap.growths_over_128k": h.over_default,
        "heap.peak_bytes": None if h.final() is None else h.peak,
        "heap.refused": h.refused,
        "heap.shrinks": h.shrinks,
        "heap.shrunk_bytes": h.shrunk_bytes,
        "maps.peak": p.maps_peak or None,
        "memory.major_faults": p.majflt,
        "memory.minor_faults": p.minflt,
        "memory.rss_peak_bytes": rss,
        "memory.vm_peak_bytes": vm,
        "regions.total": a.regions.total,
        "regions.unknown": a.regions.kinds["unknown"].count if "unknown" in a.regions.kinds else 0,
        "threshold.high_bytes": a.mallocs.threshold.high,
        "threshold.low_bytes": a.mallocs.threshold.low,
        "threshold.rises": a.mallocs.threshold.rises,
        "trust.checksum_mismatches": p.unexplained,
        "trust.drift": p.drifts + p.conflicts,
        "trust.lost": p.lost,
        "trust.snapshots": p.snapshots,
    }
    if p.start.assumed:
        values |= dict.fromkeys(_BY_EVIDENCE)
    for name, count in p.calls.items():
        values[f"calls.{name}"] = count[0]
    return {name: v for name, v in sorted(values.items()) if v is not None}
