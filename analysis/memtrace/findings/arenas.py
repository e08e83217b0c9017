# SPDX-License-Identifier: GPL-2.0-or-later
"""MT104: thread arenas reserve far more address space than they use."""

from __future__ import annotations

from memtrace.findings.facts import Facts
from memtrace.findings.finding import WARNING, Finding, Rule, seqs
from memtrace.trace.sizes import format_size, plural

#: Heaps of arenas at the end that are worth a word, at least.
HEAPS = 8
#: Of the reserved bytes so large a part at most was opened: 1 / SHARE.
SHARE = 4
_SET = {"environ": "MALLOC_ARENA_MAX", "tunable": "GLIBC_TUNABLES"}


def blow_up(f: Facts) -> Finding | None:
    """Many reservations, of which little was opened."""
    if not f.arenas or not f.glibc:
        return None
    size = max(a.reserved for a in f.arenas)
    opened = sum(a.peak for a in f.arenas)
    reserved = sum(a.reserved for a in f.arenas)
    if len(f.arenas) < HEAPS or opened * SHARE > reserved:
        return None
    text = (
        f"malloc holds {format_size(reserved)} of address space for arenas of other threads at the "
        f"end, {len(f.arenas):,} times {format_size(size)}, and opened {format_size(opened)} of it "
        f"(the sum of their peaks). {_limit(f)} Reserved is "
        f"not resident: it costs no memory, but counts against ulimit -v and in VIRT. What it "
        f"costs is that memory freed in one arena is not used by threads of another."
    )
    born = [a.seq for a in f.arenas if a.seq is not None]
    return Finding(
        rule="MT104",
        severity=WARNING,
        headline=f"thread arenas reserve {format_size(reserved)} and opened {format_size(opened)}",
        message=text,
        evidence=seqs(born),
        remedy="MALLOC_ARENA_MAX=2 PROG ARGS...  (or mallopt(M_ARENA_MAX, 2)) bounds them",
    )


def _limit(f: Facts) -> str:
    """How many arenas there may be, and why."""
    most, reason, cpus = f.arena_limit
    if reason in _SET and most is not None:
        return f"{_SET[reason]} allows {most:,} arenas, the heap included."
    each = 2 if f.i386 else 8
    text = f"glibc makes up to {each} arenas per online CPU"
    if most is not None and cpus is not None:
        text += f" ({most:,} on these {plural(cpus, 'CPU')}, the heap included)"
    if reason == "cpus-allowed":
        text += "; where 2.34 to 2.38 are not patched, per CPU that the process may run on"
    return f"{text}; a container's CPU quota does not count."


BLOW_UP = Rule(
    "MT104",
    "thread arenas reserve far more than they use",
    blow_up,
    f"""\
Threads other than the first do not allocate from the heap: glibc gives each an arena, until there
are 8 per online CPU (i386: 2), the main one included; then threads share. Each heap of an arena
reserves 64 MiB of address space without access (i386: 1 MiB) and opens it page by page. On a
machine with 64 CPUs that is up to 32 GiB of VIRT. The count goes by the CPUs that are online:
glibc does not know a container's CPU quota (2.34 to 2.38, where not patched, go by the CPUs that
the process may run on).

How it is decided. {HEAPS} heaps of arenas or more are reserved at the end, and the sum of what
each opened at
its peak is at most 1/{SHARE} of that. Those that fork copied are not counted. Reserved, not
resident: the finding says nothing about memory in use.
An arena that shrinks keeps its pages open, so that its peak stays known though its regrowth makes
no call.

What to do. MALLOC_ARENA_MAX=2 PROG ARGS..., or glibc.malloc.arena_max=2 in GLIBC_TUNABLES, or
mallopt(M_ARENA_MAX, 2). The price: more threads wait for the same arena's lock.

See it live.
    memtrace run -o t.json -- build/samples/thread-arenas 12 together
    memtrace report t.json
""",
)
