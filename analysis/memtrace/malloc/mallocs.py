# SPDX-License-Identifier: GPL-2.0-or-later
"""The allocators that one address space has, which of them serves malloc, and how that one stands.

The loader takes the first `malloc` in its order of search, which is the order in which it maps: the
program, what LD_PRELOAD names, the libraries that are needed, the C library near the end. So what
was there when the program was loaded is known from its exec on. After an attach it is not: a later
dlopen replaces nothing, and looks the same in the map. Then it stays open until one of them is seen
at work.

That a file defines malloc and holds an allocator's names is no proof that its code runs: a library
may define what it likes, and pass all requests on. Until the one that was chosen has made a call of
its own, glibc's malloc may be seen at work instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from memtrace.malloc import allocator
from memtrace.malloc.allocator import Allocator
from memtrace.malloc.caller import ALLOCATOR, LIBC, Caller
from memtrace.malloc.copies import Copies, Copy, Key
from memtrace.malloc.glibc import Layout, Settings, Version, parse_version, settings
from memtrace.malloc.origin import Scene
from memtrace.malloc.threshold import Threshold
from memtrace.trace.records import Allocator as Code
from memtrace.trace.records import Attach, Libc, Start


class Mallocs:
    """What allocates in one address space.

    Attributes:
        serving: the process's malloc, `allocator.UNKNOWN` or the like while it is not known.
        every: those that serve or are at work, and the C libraries, in order.
        rivals: by name, those that were mapped before an attach and may serve malloc.
        held: by name, those whose code is there; whether it ever runs is not known.
        claimed: what was chosen by what its file defines, and has made no call of its own yet; or
            what glibc's malloc was seen at work instead of.
        layout: of glibc's mapped chunks.
        settings: what the environment configured.
        threshold: where glibc's mmap threshold stands; nothing is known of it under another malloc.
        glibc: whether the process's malloc is glibc's.
        one_glibc: whether no second copy of glibc is mapped, whose malloc would be another one.
        copies: of glibc, if there is more than one.
        scene: what all this means to a new mapping; another value whenever it changes.
    """

    def __init__(self, start: Start, page: int, *, code: bool = False) -> None:
        self.start = start
        self.code = code  # executable files were looked into
        self.serving = allocator.NONE_FOUND if code else allocator.UNKNOWN
        self.every: list[Allocator] = []
        self.rivals: dict[str, Allocator] = {}
        self.held: dict[str, Allocator] = {}
        self.claimed: Allocator | None = None
        self._chosen = False  # the loader's search is over
        self.layout = Layout(None, start.abi, page)
        self.settings = Settings()
        self.threshold = Threshold()
        self.glibc = False
        self.one_glibc = True
        self.copies = Copies()
        self._copies = 0  # of glibc; the second one has a malloc of its own
        self._paths: set[str] = set()
        self.scene = Scene(page=page, heap_max=self.layout.heap_max)

    def fork(self) -> Mallocs:
        """The child's copy."""
        child = Mallocs(self.start, self.layout.page, code=self.code)
        child.serving, child.every = self.serving, list(self.every)
        child.rivals, child.claimed = dict(self.rivals), self.claimed
        child.held = dict(self.held)
        child._chosen = self._chosen
        child.layout, child.settings = self.layout, self.settings
        child.threshold = self.threshold.fork()
        child._copies, child._paths = self._copies, set(self._paths)
        child.copies = self.copies.fork()
        child.glibc, child.one_glibc, child.scene = self.glibc, self.one_glibc, self.scene
        return child

    def _changed(self) -> None:
        """Something that a new mapping is judged by."""
        self.one_glibc = self._copies <= 1
        version = self.layout.version
        old_stdio = version is not None and version < (2, 23)
        hugetlb = self.settings.hugetlb
        page, heap_max = self.layout.page, self.layout.heap_max
        other = self.serving.rule == allocator.NO_RULE and not self._copies
        self.scene = Scene("", self.one_glibc, old_stdio, hugetlb, page, heap_max, other)

    # -- what comes -----------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether a call may still tell which of them is at work."""
        return bool(self.rivals) or self.claimed is not None

    def libc(
        self, seq: int, record: Libc, bases: Iterable[int] = (), *, static: bool = False,
        early: bool = False,
    ) -> None:  # fmt: skip
        """A C library was identified.

        Args:
            seq: of the record.
            record: what it is.
            bases: of its text, as far as that is mapped.
            static: the program brings its own, and has opened this one besides.
            early: it was there at the attach.
        """
        self._libc(seq, record, static=static)
        if record.name == "glibc":
            if record.path not in self._paths:
                self._copies += 1
                self._paths.add(record.path)
            for base in bases:
                self.mapped(record.path, base, seq)
            self.copies.told = self.copies.told and not (early and self._copies > 1)
            self._changed()

    def _libc(self, seq: int, record: Libc, *, static: bool) -> None:
        if any(a.path == record.path for a in self.every):
            return
        found = allocator.from_libc(record, seq)
        older = isinstance(self.start, Attach) and self.start.assumed  # what was there is not known
        free = self.serving.name == "unknown" and not self.rivals and not self._chosen
        if self.start.assumed:
            found = allocator.of_log(found)
        if free and not older and not static:
            self._serves(found)
            # musl's is mapped first, because it is the loader, and searched last.
            self._chosen = found.name != "musl" or isinstance(self.start, Attach)
        else:
            self.every.append(found)

    def holds(self, seq: int, record: Code, *, main: bool, static: bool, early: bool) -> None:
        """A file was looked into: it defines malloc, or holds the code of an allocator.

        Args:
            seq: of the record.
            record: what it holds.
            main: it is the program itself.
            static: that has no loader, so that what it holds is all there is.
            early: the loader maps it at start, or it was there at the attach.
        """
        if any(a.path == record.path for a in self.every):
            return
        found = allocator.from_code(record, seq)
        whole = main and static and found.name != "unknown"
        if not whole and not (record.malloc and early):
            self._hold(found)
            return
        if not whole and found.name in allocator.RUNTIMES:
            self._hold(found)
            found = allocator.of_nobody(record, seq)
        attached = isinstance(self.start, Attach)
        asked = allocator.preloaded(record.path, self.start.env.get("LD_PRELOAD", ""))
        if attached and not main and not asked:
            if not self._chosen or self.serving.name in ("glibc", "musl"):
                self.rivals[found.name] = found
                self._withdraw(allocator.undecided(self.rivals.values(), seq))
            return
        if self._chosen and not attached:
            self._hold(found)  # it comes later in the order of search
            return
        self.rivals.clear()
        self._chosen = True
        if found.name == "unknown":
            self._withdraw(found)
            return
        self._withdraw(found)
        if whole:  # a header may have told of it before
            self.every = [a for a in self.every if a.path]
        self._serves(found)
        if not whole:
            self.claimed = found
        elif self.glibc:
            self._linked_in(record.path, seq)

    def _linked_in(self, path: str, seq: int) -> None:
        """The program's own copy of glibc is the one that serves it; what it opens is a guest."""
        copies, others = self.copies, [(p, b) for p, bs in self.copies.bases.items() for b in bs]
        copies.bases[path], copies.main = [0], (path, 0)
        copies.told = copies.told and not others  # which came before the attach
        self._paths.add(path)
        self._copies += 1
        for key in others:
            self._inner(key, seq, once_more=False)
        self._changed()

    def mapped(self, path: str, base: int, seq: int) -> None:
        """A library's text was mapped, with its file's first byte at `base`."""
        if path not in self._paths:
            return
        copies, key = self.copies, (path, base)
        bases = copies.bases.setdefault(path, [])
        again = base in bases  # at the place of one that was closed
        if not again:
            bases.append(base)
            self._copies += len(bases) > 1
        if copies.main is None and self.glibc and path == self.serving.path:
            copies.main = key
        elif key != copies.main and self.glibc:
            self._inner(key, seq, once_more=again or len(bases) > 1)
        self._changed()

    def _inner(self, key: Key, seq: int, *, once_more: bool) -> None:
        """A further copy: its malloc begins as the environment says."""
        row = next((a for a in self.every if a.path == key[0]), None)
        if row is None:
            return
        if once_more:
            row = replace(row, evidence=f"mapped {key[0]} once more (#{seq})", seq=seq)
            self.every.append(row)
        layout, configured = self._configured(parse_version(row.version))
        threshold = Threshold(since=seq)
        threshold.configure(configured, i386=layout.i386)
        self.copies.inner[key] = Copy(row, layout, configured, threshold)

    def of(self, key: Key | None) -> Mallocs | Copy:
        """How the malloc of a copy stands; None: of the process's, or it is not told whose."""
        if key is None:
            return self
        if key == self.copies.main:
            return Copy(self.serving, self.layout, self.settings, self.threshold)
        return self.copies.inner.get(key, self)

    def inner(self, key: Key | None) -> bool:
        """Whether a copy is another one's guest, which leaves the break alone (since 2.33)."""
        copy = None if key is None else self.copies.inner.get(key)
        return copy is not None and (copy.layout.version or (0, 0)) >= (2, 33)

    def thresholds(self, key: Key | None) -> Iterable[tuple[Mallocs | Copy, bool]]:
        """The copies that a free by the copy `key` acts on, and whether it surely does."""
        if key is not None or self.one_glibc:
            return [(self.of(key), True)]
        return [(self, False), *((c, False) for c in self.copies.inner.values())]

    def loaded(self, path: str, seq: int) -> None:
        """A file that the loader maps before the program runs."""
        if not self.code:
            self._by_name(path, seq)

    def unread(self, path: str, seq: int, *, early: bool) -> None:
        """A file could not be looked into: its name must tell, as in a trace of before."""
        if early and isinstance(self.start, Attach):
            self.code = False
            self.find(seq, [path], header=False)
            self.code = True
        elif early:
            self._by_name(path, seq)

    def _by_name(self, path: str, seq: int) -> None:
        if any(a.path == path for a in self.every):
            return
        found = allocator.from_library(path, seq)
        if found is None:
            return
        if self._chosen and self.glibc:
            self.every.append(found)  # it comes later in the order of search
            return
        self._chosen = True
        self._withdraw(found)
        self._serves(found)

    def find(
        self, seq: int, libraries: Iterable[str], *, header: bool, group: bool = False
    ) -> None:
        """What is there at an attach; `header`: also a chunk of glibc's, in a static program;
        `group`: a group of musl's.
        """
        preload = self.start.env.get("LD_PRELOAD", "")
        for path in () if self.code else libraries:
            found = allocator.of_older(path, seq, preload)
            if found is None:
                continue
            if found[1]:
                self._serves(found[0])
            else:
                self.rivals[found[0].name] = found[0]
        if self.serving.name != "unknown":
            self.rivals.clear()
        elif self.rivals:
            self.serving = allocator.undecided(self.rivals.values(), seq)
        elif header:
            self.header_proves(seq, "found at the attach")
        elif group:
            self.group_proves(seq, "found at the attach")

    # -- what decides ---------------------------------------------------------------------------

    def decide(self, seq: int, name: str, caller: Caller) -> None:
        """Somebody makes a memory call: whose malloc is at work?"""
        owners = (caller.owner, caller.outer_owner)
        who = {o for o in owners if o is not None}
        rival = self.rivals.get(caller.owner or "") if caller.who == ALLOCATOR else None
        if rival is not None:
            self.rivals.clear()
            self._serves(rival)
        elif self.claimed is not None and self.claimed.name in who:
            claimed, self.claimed = self.claimed, None
            if self.glibc:
                self._withdraw(allocator.both(claimed, self.serving, seq))
        elif name == "brk" and caller.who == caller.outer == LIBC and not self.glibc:
            self.works(seq, f"its malloc moves the break (#{seq})")

    def works(self, seq: int, evidence: str) -> None:
        """Glibc's malloc is seen at work, though it was not known to serve this process."""
        known = next((a for a in self.every if a.name == "glibc"), None)
        if known is None or (self.claimed is None and not self._chosen) or not self.one_glibc:
            return
        self.rivals.clear()
        seen = replace(known, evidence=f"{known.evidence}; {evidence}")
        self.every = [seen if a is known else a for a in self.every if a is not self.claimed]
        self._serves(seen)

    def at_work(self, owner: str) -> None:
        """Memory of this allocator or runtime was mapped: it is not only there."""
        found = self.held.pop(owner, None)
        if found is not None:
            self.every.append(found)

    def header_proves(self, seq: int, where: str) -> None:
        """The header of a chunk: glibc's malloc is the one at work, if it is the only one: of two
        copies the other one may have made it for what dlmopen loaded.
        """
        if not self.one_glibc:
            return
        known = next((a for a in self.every if a.name == "glibc"), None)
        self.rivals.clear()
        evidence = f"a malloc chunk header ({where})"
        self._serves(known or Allocator("glibc", None, allocator.GLIBC_RULE, evidence, seq))

    def group_proves(self, seq: int, where: str) -> None:
        """The header of a group of slots: musl's malloc is at work. If another one was chosen, the
        loader alone may have it (`__libc_malloc`).
        """
        if self._chosen or self.every or self.open or self.serving.name != "unknown":
            return
        evidence, own = f"the header of a mallocng group ({where})", allocator.OWN_RULES["musl"]
        self._serves(Allocator("musl", None, allocator.NO_RULE, evidence, seq, own_rule=own))

    def finish(self) -> None:
        """No more calls come: what was never seen at work is not known to serve."""
        if self.claimed is not None and self.serving is self.claimed:
            self._withdraw(allocator.unseen(self.claimed))

    def _hold(self, a: Allocator) -> None:
        if a.name != "unknown":
            self.held.setdefault(a.name, a)

    def _withdraw(self, a: Allocator) -> None:
        """It is not the malloc that was taken for it until now."""
        self.serving, self.glibc = a, False
        self.threshold.forget()
        self._changed()

    def _serves(self, a: Allocator) -> None:
        if a not in self.every:
            self.every.append(a)
        self.serving = a
        self.glibc = a.name == "glibc"
        if not self.glibc:
            self._changed()
            return
        seen = not isinstance(self.start, Attach)
        self.layout, self.settings = self._configured(parse_version(a.version))
        self.threshold.configure(self.settings, seen=seen, i386=self.layout.i386)
        self._changed()

    def _configured(self, version: Version | None) -> tuple[Layout, Settings]:
        """What a glibc of this version makes of the environment."""
        start, layout = self.start, Layout(version, self.layout.abi, self.layout.page)
        if start.env_lost and not start.at_secure:
            return layout, Settings(threshold=None, certain=False, trim=None)
        found = settings(start.env, at_secure=start.at_secure, version=version, i386=layout.i386)
        return layout, found
