# SPDX-License-Identifier: GPL-2.0-or-later
"""Which malloc a process has. The threshold rule is glibc's alone; elsewhere it does not apply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memtrace.malloc.caller import MALLOCS, base_name, owner_of
from memtrace.malloc.glibc import Version, parse_version
from memtrace.trace.records import Libc

GLIBC_RULE = "mmap-threshold"
NO_RULE = "not-applicable"


@dataclass(frozen=True, slots=True)
class Allocator:
    """An allocator of the process.

    `rule`: `mmap-threshold` (glibc's dynamic or fixed threshold), `not-applicable` (it has no such
    rule), None when unknown. `evidence` is a sentence with the record's number; `seq` that number.
    """

    name: str
    version: str | None
    rule: str | None
    evidence: str
    seq: int | None = None
    path: str = ""


UNKNOWN = Allocator("unknown", None, None, "no C library was identified in this trace")


def from_libc(record: Libc, seq: int) -> Allocator:
    """The malloc of a C library that was mapped."""
    if record.name == "glibc":
        version = parse_version(record.version)
        text = record.version if version is None else f"{version[0]}.{version[1]}"
        evidence = f"mapped {record.path} (#{seq})"
        return Allocator("glibc", text or None, GLIBC_RULE, evidence, seq, record.path)
    rule = NO_RULE if record.name == "musl" else None
    return Allocator(
        record.name, record.version, rule, f"mapped {record.path} (#{seq})", seq, record.path
    )


def from_library(path: str, seq: int) -> Allocator | None:
    """The malloc that a library brings, if its name is one that replaces malloc."""
    owner = owner_of(path)
    if owner not in MALLOCS:
        return None
    return Allocator(owner, None, NO_RULE, f"mapped {base_name(path)} (#{seq}) at start", seq, path)


def of_older(path: str, seq: int, preload: str) -> tuple[Allocator, bool] | None:
    """The malloc that a library brings which was mapped before the attach, if its name is one that
    replaces malloc; and whether it surely did: only a library that the loader found at start does,
    a later dlopen replaces nothing.
    """
    owner = owner_of(path)
    if owner not in MALLOCS:
        return None
    name = base_name(path)
    # The file may be named by its soname, which is a link to it.
    asked = any(
        f"{name}.".startswith(f"{base_name(item)}.") for item in preload.replace(":", " ").split()
    )
    if asked:
        evidence = f"LD_PRELOAD named {name} (#{seq})"
    else:
        evidence = f"{name} is at work; it was mapped before the attach (#{seq})"
    return Allocator(owner, None, NO_RULE, evidence, seq, path), asked


def undecided(rivals: Iterable[Allocator], seq: int) -> Allocator:
    """One of several that may be the process's malloc: settled before the attach."""
    names = ", ".join(base_name(a.path) for a in rivals)
    evidence = (
        f"{names} is there (#{seq}); whether it replaced malloc was settled before the attach"
    )
    return Allocator("unknown", None, None, evidence, seq)


def version_of(a: Allocator) -> Version | None:
    """The version of a glibc as numbers."""
    return parse_version(a.version) if a.name == "glibc" else None
