# SPDX-License-Identifier: GPL-2.0-or-later
"""Which malloc a process has. The threshold rule is glibc's alone; elsewhere it does not apply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from memtrace.malloc.caller import MALLOCS, base_name, owner_of
from memtrace.malloc.glibc import Version, parse_version
from memtrace.trace.records import Allocator as Code
from memtrace.trace.records import Libc

GLIBC_RULE = "mmap-threshold"
NO_RULE = "not-applicable"

_INSTRUMENTED = (
    "replaces malloc to check each use of it, with memory of its own around each request"
)
#: What each allocator goes by instead, one sentence each.
OWN_RULES = {
    "musl": (
        "mallocng (1.2.1 and later) maps a request of 131,052 bytes or more by itself, as long as "
        "the request and 20 bytes, and smaller ones as slots of groups; brk holds its metadata "
        "alone; oldmalloc (before) maps above 224 KiB and grows the heap for all else"
    ),
    "jemalloc": (
        "extents of size classes, of at least 2 MiB, are mapped as needed whatever a request's "
        "size; they are kept for reuse, and their pages given back by madvise after a while"
    ),
    "tcmalloc": (
        "the heap grows by brk in steps of at least 1 MiB, also for requests of megabytes, by mmap "
        "only where brk fails or TCMALLOC_SKIP_SBRK is set; pages go back by madvise"
    ),
    "google-tcmalloc": (
        "memory comes in 2 MiB units of regions of up to 1 GiB that are reserved at tagged "
        "addresses; never by brk; pages go back by madvise"
    ),
    "mimalloc": (
        "segments or arenas of 32 MiB to 1 GiB are mapped and divided, whatever a request's size, "
        "but for those above 16 MiB; never by brk"
    ),
    "go": (
        "arenas of 64 MiB are reserved and opened in steps; objects above 32 KiB get pages of "
        "their own there, without a system call each; never by brk"
    ),
    "jvm": (
        "objects live in a heap that is reserved at the start and opened as the collector decides"
    ),
    "v8": (
        "objects live in pages of a reserved range, as the collector decides; buffers of "
        "ArrayBuffer and Buffer come from malloc"
    ),
    "pymalloc": (
        "objects of 512 bytes or less live in arenas of 1 MiB (256 KiB before Python 3.10), each "
        "an mmap; larger ones come from malloc"
    ),
    "valgrind": (
        "the program runs on a processor that valgrind simulates; its system calls, brk among "
        "them, are valgrind's to make or to imitate"
    ),
    "asan": _INSTRUMENTED,
    "lsan": _INSTRUMENTED,
    "tsan": _INSTRUMENTED,
    "msan": _INSTRUMENTED,
}
#: Whose memory is for objects of their own; malloc is never theirs.
RUNTIMES = frozenset({"go", "jvm", "v8", "pymalloc"})
_BUMP = "each request is served by a growth of the heap, whatever its size; nothing is given back"


@dataclass(frozen=True, slots=True)
class Allocator:
    """An allocator of the process.

    `rule`: `mmap-threshold` (glibc's dynamic or fixed threshold), `not-applicable` (it has no such
    rule), None when unknown. `evidence` is a sentence with the record's number; `seq` that number.
    `own_rule`: the one it goes by, if it is not glibc's.
    """

    name: str
    version: str | None
    rule: str | None
    evidence: str
    seq: int | None = None
    path: str = ""
    build_id: str | None = None
    own_rule: str | None = None


UNKNOWN = Allocator("unknown", None, None, "no C library was identified in this trace")
#: The same where executable files were looked into.
NONE_FOUND = Allocator(
    "unknown", None, None, "no file is mapped that is known to hold the code of a malloc"
)


def from_libc(record: Libc, seq: int) -> Allocator:
    """The malloc of a C library that was mapped."""
    if record.name == "glibc":
        version = parse_version(record.version)
        text = record.version if version is None else f"{version[0]}.{version[1]}"
        evidence = f"mapped {record.path} (#{seq})"
        return Allocator(
            "glibc", text or None, GLIBC_RULE, evidence, seq, record.path, record.build_id
        )
    rule = NO_RULE if record.name == "musl" else None
    return Allocator(
        record.name, record.version, rule, f"mapped {record.path} (#{seq})", seq, record.path,
        record.build_id, OWN_RULES.get(record.name),
    )  # fmt: skip


def of_log(libc: Allocator) -> Allocator:
    """The malloc of a C library that an imported log shows; the files were not looked into."""
    evidence = f"{libc.evidence}; a malloc of the program's own would not show in the log"
    return replace(libc, evidence=evidence)


def from_code(record: Code, seq: int) -> Allocator:
    """What a mapped file holds; `rule` None where it is not known whose code it is."""
    file, name, how = base_name(record.path), record.name, record.how
    if record.malloc and how.startswith("defines "):
        how = f"defines malloc, {how.removeprefix('defines ')}"
    elif record.malloc:
        how = f"defines malloc and {how}" if how else "defines malloc"
    evidence = f"{file} {how} (#{seq})"
    if not name:
        return Allocator("unknown", None, None, evidence, seq, record.path, record.build_id)
    own = OWN_RULES.get(name)
    rule: str | None = GLIBC_RULE if name == "glibc" else NO_RULE
    if name == "musl" and "(bump)" in record.how:
        own = _BUMP
    if rule == NO_RULE and own is None:
        rule = None  # of a later version: nothing is known of it here
    return Allocator(name, record.version, rule, evidence, seq, record.path, record.build_id, own)


def of_nobody(record: Code, seq: int) -> Allocator:
    """Whoever's malloc a file defines that holds a runtime: not the runtime's."""
    evidence = f"{base_name(record.path)} defines malloc (#{seq})"
    return Allocator("unknown", None, None, evidence, seq, record.path, record.build_id)


def from_library(path: str, seq: int) -> Allocator | None:
    """The malloc that a library brings, if its name is one that replaces malloc."""
    owner = owner_of(path)
    if owner not in MALLOCS:
        return None
    evidence = f"mapped {base_name(path)} (#{seq}) at start"
    return Allocator(owner, None, NO_RULE, evidence, seq, path, None, OWN_RULES.get(owner))


def of_older(path: str, seq: int, preload: str) -> tuple[Allocator, bool] | None:
    """The malloc that a library brings which was mapped before the attach, if its name is one that
    replaces malloc; and whether it surely did: only a library that the loader found at start does,
    a later dlopen replaces nothing.
    """
    owner = owner_of(path)
    if owner not in MALLOCS:
        return None
    name, asked = base_name(path), preloaded(path, preload)
    if asked:
        evidence = f"LD_PRELOAD named {name} (#{seq})"
    else:
        evidence = f"{name} is at work; it was mapped before the attach (#{seq})"
    own = OWN_RULES.get(owner)
    return Allocator(owner, None, NO_RULE, evidence, seq, path, None, own), asked


def preloaded(path: str, preload: str) -> bool:
    """Whether LD_PRELOAD names a library."""
    # The file may be named by its soname, which is a link to it.
    name, items = base_name(path), preload.replace(":", " ").split()
    return any(f"{name}.".startswith(f"{base_name(item)}.") for item in items)


def undecided(rivals: Iterable[Allocator], seq: int) -> Allocator:
    """One of several that may be the process's malloc: settled before the attach."""
    names = ", ".join(base_name(a.path) for a in rivals)
    evidence = (
        f"{names} is there (#{seq}); whether it replaced malloc was settled before the attach"
    )
    return Allocator("unknown", None, None, evidence, seq)


def unseen(a: Allocator) -> Allocator:
    """It defines malloc, and made no call of its own that was seen."""
    return Allocator("unknown", None, None, f"{a.evidence}; it was not seen at work", a.seq, a.path)


def both(a: Allocator, b: Allocator, seq: int) -> Allocator:
    """Two mallocs are at work, and which one serves the program is not known."""
    evidence = f"{a.name} ({a.evidence}) makes calls (#{seq}), and so does {b.name}: {b.evidence}"
    return Allocator("unknown", None, None, evidence, seq)


def version_of(a: Allocator) -> Version | None:
    """The version of a glibc as numbers."""
    return parse_version(a.version) if a.name == "glibc" else None
