# SPDX-License-Identifier: GPL-2.0-or-later
"""The allocators that one address space has, which of them serves malloc, and how that one stands.

What was there when the program was loaded is known from its exec on. After an attach it is not: a
library that replaces malloc does so only if the loader found it at start, and a later dlopen looks
the same in the map. Then it stays open until one of them is seen at work.
"""

from __future__ import annotations

from collections.abc import Iterable

from memtrace.malloc import allocator
from memtrace.malloc.allocator import Allocator
from memtrace.malloc.caller import ALLOCATOR, Caller
from memtrace.malloc.glibc import Layout, Settings, parse_version, settings
from memtrace.malloc.origin import Scene
from memtrace.malloc.threshold import Threshold
from memtrace.trace.records import Attach, Libc, Start


class Mallocs:
    """What allocates in one address space.

    Attributes:
        serving: the process's malloc, `allocator.UNKNOWN` or the like while it is not known.
        every: all that were seen, in order.
        rivals: by name, those that were mapped before an attach and may serve malloc.
        layout: of glibc's mapped chunks.
        settings: what the environment configured.
        threshold: where glibc's mmap threshold stands; nothing is known of it under another malloc.
        glibc: whether the process's malloc is glibc's.
        one_glibc: whether no second copy of glibc is mapped, whose malloc would be another one.
        scene: what all this means to a new mapping; another value whenever it changes.
    """

    def __init__(self, start: Start, page: int) -> None:
        self.start = start
        self.serving = allocator.UNKNOWN
        self.every: list[Allocator] = []
        self.rivals: dict[str, Allocator] = {}
        self.layout = Layout(None, start.abi, page)
        self.settings = Settings()
        self.threshold = Threshold()
        self.glibc = False
        self.one_glibc = True
        self._copies = 0  # of glibc; the second one has a malloc of its own
        self._paths: set[str] = set()
        self.scene = Scene(page=page, heap_max=self.layout.heap_max)

    def fork(self) -> Mallocs:
        """The child's copy."""
        child = Mallocs(self.start, self.layout.page)
        child.serving, child.every = self.serving, list(self.every)
        child.rivals = dict(self.rivals)
        child.layout, child.settings = self.layout, self.settings
        child.threshold = self.threshold.fork()
        child._copies, child._paths = self._copies, set(self._paths)
        child.glibc, child.one_glibc, child.scene = self.glibc, self.one_glibc, self.scene
        return child

    def _changed(self) -> None:
        """Something that a new mapping is judged by."""
        self.one_glibc = self._copies <= 1
        version = self.layout.version
        old_stdio = version is not None and version < (2, 23)
        hugetlb = self.settings.hugetlb
        page, heap_max = self.layout.page, self.layout.heap_max
        self.scene = Scene("", self.one_glibc, old_stdio, hugetlb, page, heap_max)

    # -- what comes -----------------------------------------------------------------------------

    def libc(self, seq: int, record: Libc, copies: int) -> None:
        """A C library was identified; it is mapped so many times."""
        if record.name == "glibc":
            if self._copies == 0:
                self._copies = copies
            elif record.path not in self._paths:
                self._copies += 1
            self._paths.add(record.path)
            self._changed()
        if any(a.path == record.path for a in self.every):
            return
        found = allocator.from_libc(record, seq)
        older = isinstance(self.start, Attach) and self.start.assumed  # what was there is not known
        if self.serving.name == "unknown" and not self.rivals and not older:
            self._serves(found)
        else:
            self.every.append(found)

    def mapped_again(self, path: str) -> None:
        """A library's text once more: dlmopen gives a namespace its own libc."""
        if path in self._paths:
            self._copies += 1
            self._changed()

    def loaded(self, path: str, seq: int) -> None:
        """A file that the loader maps before the program runs."""
        if any(a.path == path for a in self.every):
            return
        found = allocator.from_library(path, seq)
        if found is not None:
            self._serves(found)
            self.threshold.forget()

    def find(self, seq: int, libraries: Iterable[str], *, header: bool) -> None:
        """What is there at an attach; `header`: also a chunk of glibc's, in a static program."""
        preload = self.start.env.get("LD_PRELOAD", "")
        for path in libraries:
            found = allocator.of_older(path, seq, preload)
            if found is None:
                continue
            if found[1]:
                self._serves(found[0])
            else:
                self.rivals[found[0].name] = found[0]
        if self.serving is not allocator.UNKNOWN:
            self.rivals.clear()
        elif self.rivals:
            self.serving = allocator.undecided(self.rivals.values(), seq)
        elif header:
            self.header_proves(seq, "found at the attach")

    # -- what decides ---------------------------------------------------------------------------

    def decide(self, caller: Caller) -> None:
        """One of the rivals makes a memory call: it is the one at work."""
        rival = self.rivals.get(caller.owner or "") if caller.who == ALLOCATOR else None
        if rival is not None:
            self.rivals.clear()
            self._serves(rival)

    def header_proves(self, seq: int, where: str) -> None:
        """The header of a chunk: glibc's malloc is the one at work."""
        known = next((a for a in self.every if a.name == "glibc"), None)
        self.rivals.clear()
        evidence = f"a malloc chunk header ({where})"
        self._serves(known or Allocator("glibc", None, allocator.GLIBC_RULE, evidence, seq))

    def _serves(self, a: Allocator) -> None:
        if a not in self.every:
            self.every.append(a)
        self.serving = a
        self.glibc = a.name == "glibc"
        if not self.glibc:
            return
        start, version = self.start, parse_version(a.version)
        self.layout = Layout(version, self.layout.abi, self.layout.page)
        seen = not isinstance(start, Attach)
        self.settings = settings(
            start.env, at_secure=start.at_secure, version=version, i386=self.layout.i386
        )
        if start.env_lost and not start.at_secure:
            self.settings = Settings(threshold=None, certain=False, trim=None)
        self.threshold.configure(self.settings, seen=seen, i386=self.layout.i386)
        self._changed()
