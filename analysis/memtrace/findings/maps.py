# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings about the number of mappings: near the kernel's limit, and refused by it."""

from __future__ import annotations

from memtrace.findings.facts import Facts
from memtrace.findings.finding import ERROR, WARNING, Finding, Rule, seqs
from memtrace.trace.sizes import plural

#: Percent of vm.max_map_count from which on it is said.
NEAR = 80


def _remedy(limit: int) -> str:
    """Four times what it is: some systems have a limit far above the kernel's default."""
    return (
        f"sudo sysctl vm.max_map_count={max(262144, 4 * limit)}  raises it until the next boot; "
        f"fewer mappings: see memtrace explain MT106"
    )


def _made(f: Facts) -> str:
    """Which calls may have made so many."""
    listed = ", ".join(f"{name} {count:,}" for name, count in f.mapping_calls[:3])
    return f" Calls that may have added mappings: {listed}." if listed else ""


def near_limit(f: Facts) -> Finding | None:
    """A map was read that is near vm.max_map_count."""
    if f.maps_peak is None or not f.maps_limit or map_limit(f) is not None:
        return None
    if 100 * f.maps_peak < NEAR * f.maps_limit:
        return None
    percent = 100 * f.maps_peak // f.maps_limit
    text = (
        f"/proc/PID/maps had {f.maps_peak:,} lines at a moment it was read: {percent} % of "
        f"vm.max_map_count ({f.maps_limit:,}). Between those moments there may have been more. At "
        f"the limit mmap, mprotect and munmap fail with ENOMEM, however much memory is free."
        f"{_made(f)}"
    )
    return Finding(
        rule="MT106",
        severity=WARNING,
        headline=f"{f.maps_peak:,} mappings: {percent} % of vm.max_map_count",
        message=text,
        evidence=() if f.maps_seq is None else (f.maps_seq,),
        remedy=_remedy(f.maps_limit),
    )


NEAR_LIMIT = Rule(
    "MT106",
    "the number of mappings is near the kernel's limit",
    near_limit,
    f"""\
The kernel lets one process have vm.max_map_count mappings (65530 by default). The map is cut into
more of them by each mprotect, madvise or munmap of a part, by guard pages, by thread stacks, by
files mapped in pieces. At the limit a call that would add one fails with ENOMEM, which reads like
"out of memory" and is not.

How it is decided. The largest number of lines of /proc/PID/maps in any snapshot of the trace is
at least
{NEAR} % of the limit as the trace's header states it. Between snapshots there may have been
more: the
number is a lower bound. More snapshots: memtrace run --snapshots every=100ms.

What to do. Raise the limit, or have fewer mappings: one mprotect for a range instead of one for
each page, larger slabs, fewer guard pages.
    sudo sysctl vm.max_map_count=262144
What the mappings are: memtrace report TRACE (memory by kind), memtrace maps TRACE --at peak

See it live.
    memtrace run --snapshots every=1000 build/samples/map-limit 55000
    memtrace report trace.json
""",
)


def map_limit(f: Facts) -> Finding | None:
    """A call failed with ENOMEM while the map was full."""
    full = [r for r in f.refusals if r.full(f.maps_limit)]
    if not full or not f.maps_limit:
        return None
    proven = [r for r in full if r.proven(f.maps_limit)]
    first = (proven or full)[0]
    count = first.maps if first.maps is not None else first.least
    had = f"{count:,}" if first.maps is not None else f"{count:,} or more"
    text = (
        f"{first.call} at #{first.seq} failed with ENOMEM. The process had {had} mappings at that "
        f"moment, and vm.max_map_count is {f.maps_limit:,}: "
    )
    if proven:
        text += "that alone refuses the call, whatever memory is free."
    else:
        text += (
            "a call that needs one more mapping is refused by that alone. Whether this one needed "
            "one, nothing in the trace tells."
        )
    others = sum(n for _, errno, n, _ in f.failed if errno == 12) - 1
    if others > 0:
        text += f" {plural(others, 'more call')} failed with ENOMEM."
    text += _made(f)
    return Finding(
        rule="MT107",
        severity=ERROR,
        headline=f"{first.call} failed at #{first.seq}: "
        + ("the limit of mappings, not memory" if proven else "the map was full then"),
        message=text,
        evidence=seqs([r.seq for r in full]),
        remedy=_remedy(f.maps_limit),
    )


MAP_LIMIT = Rule(
    "MT107",
    "ENOMEM because of the number of mappings",
    map_limit,
    """\
A call failed with ENOMEM, and not for lack of memory: the process had as many mappings as
vm.max_map_count allows. The kernel refuses every mmap when there are more than that, and the
mprotect or munmap that would have to split a mapping when there are as many.

How it is decided. The number of mappings at that very moment must be known: memtrace reads the
kernel's map when a memory call fails with ENOMEM (the first time in each address space, and again
when some time has passed), before any other call of that address space. Without that reading the
replayed map gives a lower bound, which is enough if it reaches the limit by itself. "That alone
refuses the call" is said of an mmap above the limit, and of an mprotect or munmap within one
mapping that would have had to split it. If the number then was below the limit, MT113 says that
this is not the cause. The limit is the header's: as it was when the recording began.

What to do. As for MT106: raise the limit (sudo sysctl vm.max_map_count=262144), or have fewer
mappings.

See it live.
    memtrace run -o t.json -- build/samples/map-limit
    memtrace report t.json
""",
)
