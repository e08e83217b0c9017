# SPDX-License-Identifier: GPL-2.0-or-later
"""What is not the same before anything ran: of the recording, the machine, the program. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from memtrace.report.compared import UNKNOWN, Setting
from memtrace.report.model import ProcessRow, Report
from memtrace.trace.sizes import format_size

Found = Iterable[tuple[str, str | None, str | None]]
_REDACTED = "<redacted>"
#: vm.overcommit_memory (proc_sys_vm(5)).
_OVERCOMMIT = {0: "0 (heuristic)", 1: "1 (always)", 2: "2 (never)"}


def differing(found: Found) -> list[Setting]:
    """Those that are not the same."""
    return [Setting(name, a, b) for name, a, b in found if a != b]


def one_log(before: Report, after: Report) -> bool:
    """Whether one alone is an imported log."""
    return (before.trace.log is None) != (after.trace.log is None)


def of_recording(before: Report, after: Report) -> Found:
    """How each trace came about."""
    a, b = before.recording, after.recording
    yield "engine", before.trace.engine or UNKNOWN, after.trace.engine or UNKNOWN
    yield "imported log", _yes(before.trace.log is not None), _yes(after.trace.log is not None)
    yield "memtrace", a.version or UNKNOWN, b.version or UNKNOWN
    if not one_log(before, after):  # which has none of it
        yield "callers and chunk headers", _yes(a.evidence), _yes(b.evidence)
        yield "snapshots", a.snapshots or UNKNOWN, b.snapshots or UNKNOWN
        yield "heap walk", _yes(a.heap_walk), _yes(b.heap_walk)
    yield "redacted", _yes(a.redacted), _yes(b.redacted)


def of_machine(before: Report, after: Report) -> Found:
    """What each ran on."""
    a, b = before.recording, after.recording
    yield "machine", before.machine or UNKNOWN, after.machine or UNKNOWN
    yield "kernel", before.kernel or UNKNOWN, after.kernel or UNKNOWN
    yield "page size", _page(before), _page(after)
    yield "CPUs", _count(a.cpus), _count(b.cpus)
    yield "mappings allowed", _count(a.max_map_count), _count(b.max_map_count)
    yield "transparent huge pages", a.thp or UNKNOWN, b.thp or UNKNOWN
    yield "overcommit", _overcommit(a.overcommit), _overcommit(b.overcommit)


def of_program(a: ProcessRow, b: ProcessRow, redacted: tuple[bool, bool]) -> Found:
    """What each process began with.

    Args:
        a: the earlier.
        b: the later.
        redacted: whether names of each are its trace's own.
    """
    one, two = redacted
    yield "arguments", _arguments(a, redacted=one), _arguments(b, redacted=two)
    path = _path(a, redacted=one), _path(b, redacted=two)
    yield ("program's file", *path)
    if path[0] == path[1] != UNKNOWN:
        yield "device and inode of it", a.begun.file or UNKNOWN, b.begun.file or UNKNOWN
    yield "malloc", _allocator(a), _allocator(b)
    yield "build of malloc", a.allocator.build_id or UNKNOWN, b.allocator.build_id or UNKNOWN
    yield from _environment(a, b, redacted)
    yield from _limits(a, b)
    yield "ABI", _abi(a), _abi(b)
    yield "personality", _personality(a), _personality(b)
    yield "secure mode (AT_SECURE)", _yes(a.begun.at_secure), _yes(b.begun.at_secure)
    yield "withheld privileges", _withheld(a), _withheld(b)


def _arguments(p: ProcessRow, *, redacted: bool) -> str:
    if redacted:
        return f"redacted ({len(p.argv)})"
    return shlex.join(p.argv)


def _path(p: ProcessRow, *, redacted: bool) -> str:
    return UNKNOWN if redacted or p.assumed or not p.exe else p.exe


def _environment(a: ProcessRow, b: ProcessRow, redacted: tuple[bool, bool]) -> Found:
    one, two = a.environment, b.environment
    if one is None or two is None:
        yield "environment", _whether(one), _whether(two)
        return
    for name in sorted(one.keys() | two.keys()):
        if "redacted-" not in name:  # a name of that trace's own
            old = _value(one.get(name), redacted=redacted[0])
            yield name, old, _value(two.get(name), redacted=redacted[1])


def _value(value: str | None, *, redacted: bool) -> str | None:
    hidden = redacted and value is not None and ("/redacted/" in value or _REDACTED in value)
    return UNKNOWN if hidden else value


def _limits(a: ProcessRow, b: ProcessRow) -> Found:
    one, two = a.rlimits, b.rlimits
    if one is None or two is None:
        yield "resource limits", _whether(one), _whether(two)
    else:
        for name in sorted(one.keys() | two.keys()):
            yield f"RLIMIT_{name}", _limit(one, name), _limit(two, name)


def _limit(limits: Mapping[str, int | None], name: str) -> str:
    if name not in limits:
        return UNKNOWN
    limit = limits[name]
    if limit is None:
        return "unlimited"
    return f"{limit:,}" if name == "NPROC" else format_size(limit)


def _allocator(p: ProcessRow) -> str:
    return UNKNOWN if p.allocator.name == "unknown" else p.allocator.label


def _abi(p: ProcessRow) -> str:
    return p.begun.abi or (UNKNOWN if p.assumed else "native")


def _personality(p: ProcessRow) -> str:
    return UNKNOWN if p.begun.personality is None else f"{p.begun.personality:#x}"


def _withheld(p: ProcessRow) -> str:
    if p.begun.withheld is None:
        return UNKNOWN
    return ", ".join(p.begun.withheld) or "none"


def _page(report: Report) -> str:
    # A log does not tell it; it is taken for granted.
    return UNKNOWN if report.trace.log is not None else format_size(report.page_size)


def _overcommit(value: int | None) -> str:
    return UNKNOWN if value is None else _OVERCOMMIT.get(value, str(value))


def _whether(found: object) -> str:
    return UNKNOWN if found is None else "known"


def _yes(value: object) -> str:
    return UNKNOWN if value is None else "yes" if value else "no"


def _count(n: int | None) -> str:
    return UNKNOWN if n is None else f"{n:,}"
