# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as values: field for field the JSON that docs/report-json.md describes.

Sizes are bytes, times nanoseconds since the trace's start, addresses integers, absent knowledge
None. Fields under `# text only` are not part of the JSON. Rows are arrays where they are kept
(`rows.py`): the names of their fields would be most of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from memtrace.report.lines import program
from memtrace.report.recording import Begun, Recording

FORMAT = "memtrace-report/1"


class TraceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The recording. `events` counts calls, `lost` what the trace says it does not hold. `log`: the
    name of the log that it was imported from; `clock`: how exact times are, "none": there are none.
    """

    engine: str
    log: str | None
    clock: str
    complete: bool
    events: int
    lost: int
    duration_ns: int | None


class AllocatorRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A malloc, or a runtime that has one; `rule` is `mmap-threshold`, `not-applicable` or None,
    `own_rule` the one it goes by if it is not glibc's, a sentence. `threshold`: of a further copy
    of glibc, which has one of its own.
    """

    name: str
    version: str | None
    rule: str | None
    evidence: str
    build_id: str | None
    own_rule: str | None
    threshold: ThresholdRow | None = None

    @property
    def label(self) -> str:
        """Its name and version: `glibc 2.36`."""
        return f"{self.name} {self.version or ''}".strip()


class CallCount(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How often a call was made and failed."""

    count: int
    failed: int


class DriftRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A snapshot that was not reproduced; the differing lines on each side, at most 20."""

    seq: int
    why: str
    model: list[str]
    kernel: list[str]


class Verification(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How the replayed map compares with the kernel's."""

    snapshots: int
    exact: int
    checksums: int
    stack_growth_bytes: int
    drift: list[DriftRow]


class AttachedRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What was there when memtrace attached: `regions` older than the trace, `regions_gone` of them
    since. All is None of a process that was there when an imported log began.
    """

    seq: int
    t_ns: int | None
    age_ns: int | None
    regions: int | None
    regions_gone: int | None
    mapped_bytes: int | None
    heap_bytes: int | None
    resident_bytes: int | None


class StepRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A move of the break, see malloc/heap.py; `role` is one of malloc/roles.py."""

    seq: int
    t_ns: int | None
    tid: int
    delta: int
    end: int
    asked: int
    exact: bool
    role: str
    chunk: Bounds | None
    cause: str | None
    room: int | None
    candidates: list[str]
    after_malloc_trim: bool
    verdict: str
    reason: str | None


class Bounds(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Bytes, both ends included; `max` None: no upper bound."""

    min: int
    max: int | None


class NoTrimRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Why malloc kept the heap, see malloc/heap.py."""

    reason: str
    since_seq: int | None


class HeapRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The brk heap."""

    start: int | None
    end: int | None
    most_bytes: int | None
    peak_bytes: int | None
    peak_seq: int | None
    final_bytes: int | None
    grown_bytes: int
    shrunk_bytes: int
    trimmed_bytes: int
    malloc_trims: int
    no_trim: NoTrimRow | None
    growths: int
    shrinks: int
    exact: bool
    steps: list[StepRow]


class TrimRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The trim threshold: the free end of the heap that free gives back is at least that large."""

    initial: int | None
    low: int | None
    high: int | None
    least: int | None


class Range(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Bytes, both ends included; `high` None: no upper bound; both None: nothing is known."""

    low: int | None
    high: int | None


class MoveRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A change of the threshold's interval. `against`: what had set the one that it excludes."""

    seq: int
    t_ns: int | None
    low: int | None
    high: int | None
    least: int | None
    trim: Range
    cause: str
    against: int | None


class ThresholdRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """glibc's mmap threshold, see malloc/threshold.py; `least`, `most`: what holds even if freed
    chunks of unknown size were aligned ones. `last_move`: the last record that moved it, which
    `history` may not reach.
    """

    initial: int | None
    low: int | None
    high: int | None
    least: int | None
    most: int | None
    fixed_by: str | None
    trim: TrimRow
    history: list[MoveRow]
    # text only
    first: Interval | None
    last_move: int | None


class Interval(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Bytes, both ends included."""

    min: int
    max: int


class RegionRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One region's lifetime."""

    start: int
    end: int
    bytes: int
    peak_bytes: int
    kind: str
    owner: str | None
    evidence: str
    candidates: list[str]
    born_seq: int
    died_seq: int | None
    older: bool
    tid: int | None
    moves: int
    populated: bool | None
    request: Interval | None
    verdict: str
    reason: str | None
    # text only
    path: str
    inherited: bool


class ArenaRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One heap of a thread arena, see malloc/arenas.py. `arena`: which heaps belong together; no
    call tells.
    """

    base: int
    arena: int | None
    born_seq: int
    died_seq: int | None
    reserved_bytes: int
    committed_peak_bytes: int
    committed_bytes: int | None
    given_back_bytes: int
    shrinks: int
    tid: int | None


class ArenaLimitRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How many arenas malloc makes at most, the main one counted."""

    max: int | None
    reason: str | None
    cpus: int | None


class KindRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """All regions of a kind: how many ever, `older` of them than the trace; the most bytes at one
    time, bytes at the end, of these what may be accessed (no PROT_NONE), and what was in memory at
    the last look (`MemoryRow.resident_seq`).
    """

    count: int
    peak_bytes: int
    final_bytes: int
    committed_bytes: int | None
    resident_bytes: int | None
    older: int
    # text only
    alive: int


class MapsRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Lines of /proc/PID/maps, at the moments it was read."""

    peak: int | None
    final: int | None
    limit: int | None


class MemoryRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The whole address space. `resident_seq`: the snapshot of the kinds' bytes in memory."""

    vm_peak_bytes: int | None
    rss_peak_bytes: int | None
    resident_seq: int | None
    minor_faults: int | None
    major_faults: int | None


class ChunkRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A chunk of malloc's, its header included."""

    address: int
    bytes: int


class WalkedHeapRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One heap of malloc as a walk found it, see trace/records.py."""

    kind: str
    base: int
    end: int
    opened_bytes: int | None
    arena: int | None
    first: int | None
    searched: bool
    walked: int | None
    complete: bool
    problem: str | None
    chunks: int | None
    used_bytes: int | None
    used_chunks: int | None
    free_bytes: int | None
    free_chunks: int | None
    largest_free_bytes: int | None
    top: ChunkRow | None
    pin: ChunkRow | None
    below_pin_bytes: int | None
    other_bytes: int | None
    resident_bytes: int | None
    free_resident_bytes: int | None
    top_resident_bytes: int | None


class WalkRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A walk of the heaps; sums are None unless all heaps were walked to the end."""

    seq: int
    t_ns: int | None
    why: str
    still: bool
    took_ns: int
    heaps: list[WalkedHeapRow]
    heaps_total: int
    bytes: int
    resident_bytes: int
    used_bytes: int | None
    free_bytes: int | None
    top_bytes: int | None
    free_resident_bytes: int | None
    top_resident_bytes: int | None


class Finding(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A statement about the program, with the records that prove it: see findings/finding.py."""

    rule: str
    severity: str
    title: str
    message: str
    evidence: list[int]
    remedy: str


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One address space. `assumed`: its first map was not read but inferred from calls of a log.
    `environment`: the variables that bear on memory; None if they are not known. `rlimits`: soft
    limits, None: unlimited; all of it None if they are not known.
    """

    pid: int
    mm: int
    ppid: int | None
    pids: list[int]
    argv: list[str]
    exe: str
    environment: dict[str, str] | None
    rlimits: dict[str, int | None] | None
    exit: dict[str, int] | None
    running: bool
    assumed: bool
    attached: AttachedRow | None
    allocator: AllocatorRow
    allocators: list[AllocatorRow]
    verification: Verification
    calls: dict[str, CallCount]
    heap: HeapRow
    threshold: ThresholdRow
    regions: list[RegionRow]
    regions_total: int
    arenas: list[ArenaRow]
    arena_limit: ArenaLimitRow
    walks: list[WalkRow]
    walks_total: int
    kinds: dict[str, KindRow]
    maps: MapsRow
    memory: MemoryRow
    metrics: dict[str, int | float]
    findings: list[Finding]
    # text only
    born_seq: int
    died_seq: int | None
    replaced: bool
    inherited: bool
    threshold_inherited: bool
    env_lost: bool
    steps_total: int
    peak_seq: int
    seen_bytes: int
    exactness: str
    begun: Begun

    @property
    def program(self) -> str:
        """The program's name, as it was started."""
        return program(self.argv[0] if self.argv else self.exe)

    @property
    def own_bytes(self) -> int:
        """The peaks of its own memory: heap, malloc and anonymous mappings, not libraries; what a
        fork copied is not of its own as long as it does nothing with it.
        """
        if self.inherited and not self.calls:
            return 0
        left = ("library", "file", "loader")
        return sum(k.peak_bytes for n, k in self.kinds.items() if n not in left)

    @property
    def calls_total(self) -> int:
        """How many calls it made."""
        return sum(c.count for c in self.calls.values())

    def kinds_by_size(self) -> list[tuple[str, KindRow]]:
        """Its kinds, that of the largest peak first."""
        return sorted(self.kinds.items(), key=lambda kv: (-kv[1].peak_bytes, kv[0]))

    def calls_by_count(self) -> list[tuple[str, CallCount]]:
        """Its calls, the most frequent first."""
        return sorted(self.calls.items(), key=lambda kv: (-kv[1].count, kv[0]))


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a trace."""

    format: str
    trace: TraceFacts
    processes: Sequence[ProcessRow]
    # text only
    address_spaces: int
    machine: str
    kernel: str
    page_size: int
    argv: list[str]
    exactness: str
    trust: str
    problems: list[str]
    recording: Recording


#: Fields that the JSON leaves out, by class.
TEXT_ONLY: dict[type[msgspec.Struct], tuple[str, ...]] = {
    RegionRow: ("path", "inherited"),
    KindRow: ("alive",),
    ThresholdRow: ("first", "last_move"),
    ProcessRow: (
        "born_seq", "died_seq", "replaced", "inherited", "threshold_inherited", "env_lost",
        "steps_total", "peak_seq", "seen_bytes", "exactness", "begun",
    ),
    Report: (
        "address_spaces", "machine", "kernel", "page_size", "argv", "exactness", "trust",
        "problems", "recording",
    ),
}  # fmt: skip
