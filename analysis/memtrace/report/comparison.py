# SPDX-License-Identifier: GPL-2.0-or-later
"""Two reports side by side: what differs on purpose, and what came of it. Pure.

Processes are paired in order among those of one program's name, the first with the first whatever
their names are. A number that one side does not know is None, never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from memtrace.report.model import Finding, ProcessRow, Report
from memtrace.trace.sizes import format_size

FORMAT = "memtrace-diff/1"
#: The value of a setting that no record tells.
UNKNOWN = "not known"

Number = int | float


class Setting(msgspec.Struct, frozen=True):
    """Something that is not the same before anything has run; None: not set. `UNKNOWN`: no record
    tells.
    """

    name: str
    before: str | None
    after: str | None


class Change(msgspec.Struct, frozen=True):
    """A number on both sides; `unit` is `bytes` or `count`, `advisory` one that depends on the
    machine.
    """

    group: str
    name: str
    unit: str
    before: Number | None
    after: Number | None
    advisory: bool = False


class Stand(msgspec.Struct, frozen=True):
    """Where the threshold stood from a record on, None: from the start. In bytes; `high` None:
    there is none; both None: not known.
    """

    seq: int | None
    low: int | None
    high: int | None
    cause: str


class Told(msgspec.Struct, frozen=True):
    """A finding of one side."""

    rule: str
    severity: str
    title: str


class Pair(msgspec.Struct, frozen=True):
    """One process of each trace.

    Attributes:
        name: the program's.
        before, after: their pids.
        settings: what differs between their programs.
        changes: every number that either knows.
        threshold: how it moved, in each.
        appeared, went: findings that only the later, only the earlier has, by rule.
        logged: whether each is of an imported log, which proves but a few findings.
    """

    name: str
    before: int
    after: int
    settings: list[Setting]
    changes: list[Change]
    threshold: tuple[list[Stand], list[Stand]]
    appeared: list[Told]
    went: list[Told]
    logged: tuple[bool, bool]


class Comparison(msgspec.Struct, frozen=True):
    """Two traces.

    Attributes:
        settings: of the machine and the recording.
        trust: how far each can be trusted, a sentence.
        trusted: whether it can.
        pairs: processes of both, in the later's order of birth.
        only_before, only_after: programs of one side alone, and how many processes of each.
    """

    settings: list[Setting]
    trust: tuple[str, str]
    trusted: tuple[bool, bool]
    pairs: list[Pair]
    only_before: dict[str, int]
    only_after: dict[str, int]
    format: str = FORMAT


def compare(before: Report, after: Report) -> Comparison:
    """The later report beside the earlier one."""
    old, new = list(before.processes), list(after.processes)
    couples, left, right = _couples(old, new)
    return Comparison(
        settings=_settings(
            (
                ("engine", before.trace.engine, after.trace.engine),
                ("machine", before.machine or UNKNOWN, after.machine or UNKNOWN),
                ("kernel", before.kernel or UNKNOWN, after.kernel or UNKNOWN),
                ("page size", format_size(before.page_size), format_size(after.page_size)),
            )
        ),
        trust=(before.trust, after.trust),
        trusted=(before.exactness == "exact", after.exactness == "exact"),
        pairs=[_pair(a, b) for a, b in couples],
        only_before=dict(Counter(p.program for p in left)),
        only_after=dict(Counter(p.program for p in right)),
    )


def _couples(
    old: Sequence[ProcessRow], new: Sequence[ProcessRow]
) -> tuple[list[tuple[ProcessRow, ProcessRow]], list[ProcessRow], list[ProcessRow]]:
    couples = list(zip(old[:1], new[:1], strict=False))
    waiting: dict[str, list[ProcessRow]] = {}
    for p in reversed(old[1:] if couples else old):
        waiting.setdefault(p.program, []).append(p)
    alone = []
    for p in new[1:] if couples else new:
        same = waiting.get(p.program)
        if same:
            couples.append((same.pop(), p))
        else:
            alone.append(p)
    return couples, [p for rest in waiting.values() for p in rest], alone


def _settings(found: Iterable[tuple[str, str | None, str | None]]) -> list[Setting]:
    return [Setting(name, a, b) for name, a, b in found if a != b]


def _pair(a: ProcessRow, b: ProcessRow) -> Pair:
    rules = {x.rule for x in a.findings}, {x.rule for x in b.findings}
    return Pair(
        name=b.program,
        before=a.pid,
        after=b.pid,
        settings=_settings(_of_process(a, b)),
        changes=list(_changes(a, b)),
        threshold=(_stands(a), _stands(b)),
        appeared=[_told(x) for x in b.findings if x.rule not in rules[0]],
        went=[_told(x) for x in a.findings if x.rule not in rules[1]],
        logged=(a.assumed, b.assumed),
    )


def _of_process(a: ProcessRow, b: ProcessRow) -> Iterable[tuple[str, str | None, str | None]]:
    yield "arguments", " ".join(a.argv), " ".join(b.argv)
    yield "malloc", _allocator(a), _allocator(b)
    yield "build of malloc", a.allocator.build_id or UNKNOWN, b.allocator.build_id or UNKNOWN
    one, two = a.environment, b.environment
    if one is None or two is None:
        yield "environment", _whether(one), _whether(two)
    else:
        for name in sorted(one.keys() | two.keys()):
            yield name, one.get(name), two.get(name)
    yield from _limits(a, b)


def _whether(found: object) -> str:
    return UNKNOWN if found is None else "known"


def _limits(a: ProcessRow, b: ProcessRow) -> Iterable[tuple[str, str | None, str | None]]:
    one, two = a.rlimits, b.rlimits
    if one is None or two is None:
        yield "resource limits", _whether(one), _whether(two)
    else:
        for name in sorted(one.keys() | two.keys()):
            yield f"RLIMIT_{name}", _limit(one, name), _limit(two, name)
    yield "mappings allowed", _count(a.maps.limit), _count(b.maps.limit)
    yield "CPUs", _count(a.arena_limit.cpus), _count(b.arena_limit.cpus)


def _limit(limits: Mapping[str, int | None], name: str) -> str:
    if name not in limits:
        return UNKNOWN
    limit = limits[name]
    if limit is None:
        return "unlimited"
    return f"{limit:,}" if name == "NPROC" else format_size(limit)


def _count(n: int | None) -> str:
    return UNKNOWN if n is None else f"{n:,}"


def _allocator(p: ProcessRow) -> str:
    return UNKNOWN if p.allocator.name == "unknown" else p.allocator.label


def _changes(a: ProcessRow, b: ProcessRow) -> Iterable[Change]:
    for name in ("peak_bytes", "final_bytes", "growths", "shrinks"):
        unit = "bytes" if name.endswith("_bytes") else "count"
        word = name.removesuffix("_bytes").replace("final", "at the end")
        yield Change("heap", word, unit, getattr(a.heap, name), getattr(b.heap, name))
    for kind in sorted(a.kinds.keys() | b.kinds.keys()):
        if kind == "heap":
            continue
        one, two = a.kinds.get(kind), b.kinds.get(kind)
        for field, word, unit in (
            ("peak_bytes", "peak", "bytes"), ("final_bytes", "at the end", "bytes"),
            ("count", "regions", "count"),
        ):  # fmt: skip
            yield Change(
                kind, word, unit,
                _nothing(a) if one is None else getattr(one, field),
                _nothing(b) if two is None else getattr(two, field),
            )  # fmt: skip
    for name in sorted(a.calls.keys() | b.calls.keys()):
        for field, word in (("count", name), ("failed", f"{name} failed")):
            yield Change(
                "calls", word, "count",
                getattr(a.calls[name], field) if name in a.calls else 0,
                getattr(b.calls[name], field) if name in b.calls else 0,
            )  # fmt: skip
    yield Change("arenas", "heaps", "count", _arenas(a), _arenas(b))
    yield Change("maps", "peak", "count", a.maps.peak, b.maps.peak)
    for name, word in (("vm_peak_bytes", "mapped peak"), ("rss_peak_bytes", "resident peak")):
        yield Change(
            "memory", word, "bytes", getattr(a.memory, name), getattr(b.memory, name),
            advisory=name.startswith("rss"),
        )  # fmt: skip


def _arenas(p: ProcessRow) -> int | None:
    return len(p.arenas) or _nothing(p)


def _nothing(p: ProcessRow) -> int | None:
    """How much there is of a kind that the report does not have: of a log nobody can say."""
    return None if p.assumed else 0


def _stands(p: ProcessRow) -> list[Stand]:
    t = p.threshold
    first = (t.initial, t.initial) if t.first is None else (t.first.min, t.first.max)
    begin = [Stand(None, *first, "start")] if p.allocator.name in ("glibc", "unknown") else []
    return begin + [Stand(m.seq, m.low, m.high, m.cause) for m in t.history]


def _told(x: Finding) -> Told:
    return Told(x.rule, x.severity, x.title)
