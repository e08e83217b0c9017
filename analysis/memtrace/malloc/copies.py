# SPDX-License-Identifier: GPL-2.0-or-later
"""Further copies of glibc in one address space: dlmopen gives a namespace a C library of its own,
and a program may ship one besides the system's. Each has its own malloc with its own threshold.

A copy is a mapping of a file: its path, and the base, which is where the file's first byte would
be in the mapping of its text. Calls tell the file, and where that is mapped more than once also the
base (`Site.base`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from memtrace.malloc.allocator import Allocator
from memtrace.malloc.glibc import Layout, Settings
from memtrace.malloc.threshold import Threshold

#: Path and base.
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of glibc, and how its malloc stands.

    Attributes:
        row: what the report says of it.
        layout: of its mapped chunks.
        settings: what the environment configured.
        threshold: its own.
        one_glibc: whose it is, is told.
    """

    row: Allocator
    layout: Layout
    settings: Settings
    threshold: Threshold
    one_glibc: bool = True


@dataclass(slots=True)
class Copies:
    """The copies of one address space.

    Attributes:
        bases: of each file, in the order in which they came.
        main: the copy that serves the program.
        inner: all others.
        told: it is known which one is the program's. Not so if an attach found more than one.
    """

    bases: dict[str, list[int]] = field(default_factory=dict)
    main: Key | None = None
    inner: dict[Key, Copy] = field(default_factory=dict)
    told: bool = True

    def key(self, path: str, base: int | None) -> Key | None:
        """The copy that a call came from; None if that is not told."""
        bases = self.bases.get(path, ())
        key = (path, bases[0]) if len(bases) == 1 else (path, -1 if base is None else base)
        known = self.told and (key == self.main or key in self.inner)
        return key if known else None

    def fork(self) -> Copies:
        """The child's copy."""
        return Copies(
            {path: list(bases) for path, bases in self.bases.items()},
            self.main,
            {k: replace(c, threshold=c.threshold.fork()) for k, c in self.inner.items()},
            self.told,
        )
