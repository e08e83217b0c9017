# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes: chunks alive at exit, allocators without the rule, calls that failed."""

from __future__ import annotations

import errno

from memtrace.findings.facts import Facts
from memtrace.findings.finding import INFO, WARNING, Finding, Rule, seqs
from memtrace.findings.maps import map_limit
from memtrace.malloc.allocator import NO_RULE, OWN_RULES
from memtrace.malloc.limits import ENOMEM
from memtrace.trace.sizes import format_size, plural

#: Chunks alive at exit that are worth a word: so many bytes, or so many of them.
ALIVE_BYTES, ALIVE_COUNT = 1 << 20, 16
#: Memory of runtimes that is worth a word, in bytes.
RUNTIME_BYTES = 1 << 20
_NAMED = 6
#: An exec that fails is a search through PATH.
_NOT_MEMORY = frozenset({"execve", "execveat", "fork", "vfork", "clone", "clone3"})

# -- MT108 ----------------------------------------------------------------------------------------


def alive_at_exit(f: Facts) -> Finding | None:
    """Chunks that malloc had mapped were not freed before the program ended."""
    c = f.chunks
    if not f.exited or (c.bytes < ALIVE_BYTES and c.alive < ALIVE_COUNT):
        return None
    seq, size = c.largest[0]
    text = (
        f"{plural(c.alive, 'chunk')} that malloc had mapped, {format_size(c.bytes)} in all, "
        f"{'was' if c.alive == 1 else 'were'} still mapped when the process exited; the largest "
        f"has {format_size(size)} (#{seq}). The "
        f"exit gives them back: a leak it is only in a program that should have freed them."
    )
    if not f.whole:
        text += " The trace has gaps: some of them may have been unmapped there."
    return Finding(
        rule="MT108",
        severity=INFO,
        headline=f"{plural(c.alive, 'malloc chunk')} alive at exit ({format_size(c.bytes)})",
        message=text,
        evidence=seqs([s for s, _ in c.largest]),
        remedy="memtrace events TRACE --call mmap  shows who mapped them; valgrind "
        "--leak-check=full PROG  shows the code",
    )


ALIVE_AT_EXIT = Rule(
    "MT108",
    "malloc's mappings are alive at exit",
    alive_at_exit,
    f"""\
Large blocks that malloc gave mappings of their own and that were never freed. The kernel takes
everything back at exit, so this costs nothing by itself. In a part of a program that runs again and
again it would be a leak; as a budget (chunks.alive_at_exit) it finds regressions.

How it is decided. At the process's own exit (not after a fatal signal, an exec or a detach)
chunks proven by header or caller are still mapped: {format_size(ALIVE_BYTES)} in all, or
{ALIVE_COUNT} of them. Those inherited by fork, and those older than the trace, are not counted.

What to do. Nothing, if they are meant to live as long as the program. Else find who allocates:
    memtrace events TRACE --call mmap
    valgrind --leak-check=full PROG ARGS...

See it live.
    export MALLOC_MMAP_THRESHOLD_=131072
    memtrace run -o t.json -- build/samples/dynamic-cost
    memtrace report t.json
""",
)

# -- MT112 ----------------------------------------------------------------------------------------


def without_the_rule(f: Facts) -> Finding | None:
    """The process's malloc, or a runtime in it, does not follow the rule of 128 KiB."""
    a = f.allocator
    parts, evidence, names = [], [], []
    more = "" if f.all_regions else " or more"
    if a.rule == NO_RULE:
        names.append(a.name)
        own = _sentence(a.own_rule)
        parts.append(
            f"malloc is {a.name}'s here. glibc's mmap threshold says nothing about it."
            + (f" {own}" if own else "")
        )
        evidence += [] if a.seq is None else [a.seq]
    for owner, count, size, first in f.other_heaps:
        if owner != a.name and size >= RUNTIME_BYTES:
            names.append(owner)
            evidence.append(first)
            own = _sentence(OWN_RULES.get(owner))
            parts.append(
                f"{plural(count, 'region')}{more}, at most {format_size(size)} at one time, "
                f"{'belongs' if count == 1 else 'belong'} to {owner}, which asks the kernel "
                f"itself." + (f" {own}" if own else "")
            )
    if not parts:
        return None
    return Finding(
        rule="MT112",
        severity=INFO,
        headline=f"memory of {', '.join(names[:3])} does not follow glibc's rule",
        message=" ".join(parts),
        evidence=seqs(evidence),
        remedy=f"memtrace explain {names[0]}  tells that allocator's own rule",
    )


def _sentence(rule: str | None) -> str:
    return f"Its own rule: {rule}." if rule else ""


WITHOUT_THE_RULE = Rule(
    "MT112",
    "an allocator without the rule of 128 KiB",
    without_the_rule,
    f"""\
The threshold between brk and mmap is glibc's. musl, jemalloc, tcmalloc, mimalloc, Go, the JVM, V8
and CPython's own allocator have other rules, or none. Their regions get the verdict not-applicable.
Mixed processes are normal: a JVM has glibc's malloc for its native part.

How it is decided. The process's malloc is known (a C library or a preloaded allocator that was
mapped) and is not glibc's; or regions proven to be a runtime's, by the text that made the call,
may have had {format_size(RUNTIME_BYTES)} or more at one time.

What to do. Nothing: it is a note. The allocator's own rule: memtrace explain NAME.

See it live.
    export LD_PRELOAD=libjemalloc.so.2
    memtrace run -o t.json -- build/samples/threshold-edge
    memtrace report t.json
""",
)

# -- MT113 ----------------------------------------------------------------------------------------


def failed_calls(f: Facts) -> Finding | None:
    """Memory calls that the kernel refused."""
    told = map_limit(f) is not None  # of every ENOMEM
    failed = [x for x in f.failed if x[0] not in _NOT_MEMORY and not (told and x[1] == ENOMEM)]
    if not failed:
        return None
    counts: dict[str, int] = {}
    for n, _, count, _ in failed:
        counts[n] = counts.get(n, 0) + count
    listed = ", ".join(f"{n[:24]} {c:,}" for n, c in list(counts.items())[:_NAMED])
    first = [
        f"{n[:24]} with {errno.errorcode.get(e, str(e))} at #{seq}"
        for n, e, _, seq in sorted(failed, key=lambda x: x[3])
    ]
    text = f"Calls that failed: {listed}. The first of each kind: {', '.join(first[:_NAMED])}."
    known = [r for r in f.refusals if r.maps is not None and not r.full(f.maps_limit)]
    if known and f.maps_limit:
        r = known[0]
        text += (
            f" {r.call} at #{r.seq} is not refused for the number of mappings: there were "
            f"{r.maps:,}, and vm.max_map_count is {f.maps_limit:,}."
        )
    enomem = any(e == ENOMEM for _, e, _, _ in failed)
    if not enomem:
        text += " A program may try what the kernel does not allow, and go on."
    return Finding(
        rule="MT113",
        severity=WARNING if enomem else INFO,
        headline=f"calls that failed: {listed}",
        message=text,
        evidence=seqs([seq for _, _, _, seq in failed]),
        remedy="memtrace events TRACE  shows each with its arguments and its errno",
    )


FAILED_CALLS = Rule(
    "MT113",
    "memory calls failed",
    failed_calls,
    """\
System calls about memory that the kernel refused. Many are harmless: programs probe what a kernel
can do. ENOMEM is the one to look at: no memory may be charged (RLIMIT_AS, RLIMIT_DATA, strict
overcommit), pages of the range are not mapped (mprotect, madvise), or there are too many mappings
(MT107).

How it is decided. Any failed call but brk (MT109), exec and fork makes the note; ENOMEM makes
it a warning. Where the kernel's map was read right after an ENOMEM, and had fewer mappings than
the limit, it says that
the number of mappings is not the cause.

What to do. memtrace events TRACE shows each with its arguments and its errno.

See it live.
    memtrace run -o t.json -- build/samples/mapping-kinds
    memtrace report t.json
""",
)
