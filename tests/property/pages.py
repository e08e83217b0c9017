# SPDX-License-Identifier: GPL-2.0-or-later
"""The simplest model of an address space there is: a dict of pages.

A page knows its permissions, its file and the page of it, whether a child gets it, and whether it
is locked, which no map shows and which divides a VMA from the next all the same. There are no
ranges at all, so that this model cannot share a mistake about cutting them. `Kernel` makes of a
wish a call that a kernel would have let pass on such a map, with what it would have answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from memtrace.space.canonical import Run
from memtrace.trace.records import Ext, FileId

PAGE = 4096
PAGES = 12  # the scripts live in pages 16 to 27 and a little above; the break begins at page 4
BASE, BREAK = 16, 4
SHARED, PRIVATE, FIXED, ANON, GROWSDOWN = 1, 2, 0x10, 0x20, 0x100
PROT_READ, PROT_EXEC, PROT_GROWSDOWN = 1, 4, 0x01000000
MAYMOVE, MREMAP_FIXED, DONTUNMAP = 1, 2, 4
DONTFORK, DOFORK = 10, 11
ENOMEM, EINVAL = -12, -22
PR_SET_VMA, PR_SET_MM, PR_SET_MM_BRK = 0x53564D41, 35, 7
#: Devices: of files, of shared memory (SysV segments and MAP_SHARED | MAP_ANONYMOUS), of aio rings.
DISK, SHMEM, AIO = "fe:01", "00:01", "00:0f"


class Page(NamedTuple):
    perms: str
    dev: str = "00:00"
    ino: int = 0
    file_page: int = 0
    name: str = ""
    dontfork: bool = False
    grows: bool = False
    sysv: bool = False  # of a segment of shmget(2), not of other shared memory
    locked: bool = False

    def after(self, by: int) -> Page:
        """The page `by` pages behind this one in the same mapping."""
        return self._replace(file_page=self.file_page + by if self.ino else 0)


def pages(length: int) -> int:
    return -(-length // PAGE)


@dataclass
class Pages:
    """The oracle."""

    at: dict[int, Page] = field(default_factory=dict)
    brk: int = BREAK * PAGE
    start_brk: int = BREAK * PAGE
    implies_exec: bool = False

    def fork(self) -> Pages:
        at = {i: p._replace(locked=False) for i, p in self.at.items() if not p.dontfork}
        return Pages(at, self.brk, self.start_brk, self.implies_exec)

    def letters(self, prot: int) -> str:
        if prot & PROT_READ and self.implies_exec:
            prot |= PROT_EXEC
        return "".join(c if prot & bit else "-" for c, bit in zip("rwx", (1, 2, 4), strict=True))

    def mapped(self, first: int, count: int) -> Iterator[int]:
        return (i for i in range(first, first + count) if i in self.at)

    def runs(self, first: int = 0, count: int = 1 << 52) -> list[Run]:
        """The canonical form, page by page."""
        out: list[Run] = []
        for i in sorted(i for i in self.at if first <= i < first + count):
            p = self.at[i]
            delta = (p.file_page - i) * PAGE if p.ino else 0
            start, key = i * PAGE, (p.perms, p.dev, p.ino, delta, p.name)
            if out and out[-1].end == start and out[-1][2:] == key:
                out[-1] = out[-1]._replace(end=start + PAGE)
            else:
                out.append(Run(start, start + PAGE, *key))
        return out

    def lines(self, first: int = 0, count: int = 1 << 52) -> list[str]:
        """The same as the kernel writes it: pages that differ in a flag share no line."""
        out: list[tuple[int, int, Page]] = []
        for i in sorted(i for i in self.at if first <= i < first + count):
            if out and out[-1][1] == i and out[-1][2].after(i - out[-1][0]) == self.at[i]:
                out[-1] = out[-1][0], i + 1, out[-1][2]
            else:
                out.append((i, i + 1, self.at[i]))
        return [
            f"{s * PAGE:x}-{e * PAGE:x} {p.perms} {p.file_page * PAGE:08x} {p.dev} {p.ino} "
            f"{'[heap]' if self.is_heap(s, e, p) else path_of(p)}".rstrip()
            for s, e, p in out
        ]

    def is_heap(self, first: int, end: int, page: Page) -> bool:
        """Whether a line bears the label: vma_is_initial_heap, before a name (`get_vma_name`)."""
        return not page.ino and first * PAGE < self.brk and end * PAGE > self.start_brk

    def nameless(self) -> set[int]:
        """The addresses of the pages of which lines tell no name, because a label hides it."""
        return {
            page
            for line in self.lines()
            if line.endswith("[heap]")
            for low, high in [line.split()[0].split("-")]
            for page in range(int(low, 16), int(high, 16), PAGE)
        }


def path_of(p: Page) -> str:
    if p.dev == SHMEM:
        return "/SYSV00000000 (deleted)" if p.sysv else "/dev/zero (deleted)"
    if p.dev == AIO:
        return "/[aio] (deleted)"
    return "/f" if p.ino else p.name


class Made(NamedTuple):
    """A call that was made, as a trace tells it."""

    call: str
    args: list[int]
    ret: int | None
    ext: Ext | None = None
    file: FileId | None = None


@dataclass
class Kernel:
    """Performs wishes on the page model. Each method returns the call, None if it made none."""

    map: Pages
    inodes: int = 100
    rings: dict[int, int] = field(default_factory=dict)  # inode -> pages

    def mmap(self, at: int, length: int, prot: int, kind: str, page: int, *fixed: bool) -> Made:
        m, n = self.map, pages(length)
        if not any(fixed):
            while any(m.mapped(at, n)):
                at += 1
        flags, file, first = PRIVATE | ANON, None, Page("")
        if kind in {"file", "shared-file"}:
            file, flags = FileId(1, DISK, 77, "/f"), PRIVATE if kind == "file" else SHARED
            first = Page("", DISK, 77, page)
        elif kind == "shared":
            self.inodes += 1  # shmem_zero_setup: a new inode, from its start, whatever was asked
            file, flags = FileId(2, SHMEM, self.inodes, "/dev/zero (deleted)"), SHARED | ANON
            first = Page("", SHMEM, self.inodes)
        elif kind == "grows":
            flags |= GROWSDOWN
            first = Page("", grows=True)
        first = first._replace(perms=m.letters(prot) + ("s" if flags & SHARED else "p"))
        for i in range(n):
            m.at[at + i] = first.after(i)
        args = [at * PAGE, length, prot, flags | (FIXED if any(fixed) else 0)]
        return Made("mmap", [*args, -1 if flags & ANON else 3, page * PAGE], at * PAGE, Ext(), file)

    def munmap(self, at: int, length: int) -> Made:
        for i in list(self.map.mapped(at, pages(length))):
            del self.map.at[i]
        return Made("munmap", [at * PAGE, length], 0)

    def mprotect(self, call: str, at: int, length: int, prot: int) -> Made:
        """Up to the first hole, where it fails: what it has changed before is read back."""
        m, n, low = self.map, pages(length), at
        page = m.at.get(at)
        if prot & PROT_GROWSDOWN:
            if page is None or not page.grows:
                return Made(call, [at * PAGE, length, prot], EINVAL, Ext(x=self._look(at, n)))
            while m.at.get(low - 1) == page:
                low -= 1
        for i in range(low, at + n):
            if i not in m.at:
                looked = self._look(low, at + n - low)
                return Made(call, [at * PAGE, length, prot], ENOMEM, Ext(x=looked))
            m.at[i] = m.at[i]._replace(perms=m.letters(prot) + m.at[i].perms[3])
        ext = Ext(x=self._look(low, at + n - low)) if prot & PROT_GROWSDOWN else None
        return Made(call, [at * PAGE, length, prot], 0, ext)

    def mlock(self, at: int, length: int) -> Made:
        m = self.map
        for i in m.mapped(at, pages(length)):
            m.at[i] = m.at[i]._replace(locked=True)
        return Made("mlock", [at * PAGE, length], 0)

    def madvise(self, at: int, length: int, advice: int) -> Made:
        m, n = self.map, pages(length)
        for i in m.mapped(at, n):
            if advice in {DONTFORK, DOFORK}:
                m.at[i] = m.at[i]._replace(dontfork=advice == DONTFORK)
        whole = sum(1 for _ in m.mapped(at, n)) == n
        return Made("madvise", [at * PAGE, length, advice], 0 if whole else ENOMEM)

    def mremap(self, wish: int, before: int, length: int, flags: int, target: int) -> Made | None:
        """As near to the wish as the map allows; of one mapping but for a move of equal size."""
        at = self.map.at
        places = [i for i in sorted(at) if at[i].dev != AIO]  # a ring has rules of its own
        if not places:
            return None
        old = places[wish % len(places)]
        first, n = at[old], 1
        while n < before and at.get(old + n) == first.after(n):
            n += 1
        m = pages(length)
        if flags & DONTUNMAP:
            m = n
        elif before == 0 and first.perms[3] == "s":
            n, flags = 0, MAYMOVE | MREMAP_FIXED  # a second mapping of a shared one
        elif flags & MREMAP_FIXED and wish & 1:
            n = m = max(before, 1)  # since 6.17: whatever lies there, with its gaps
        if not flags & MREMAP_FIXED:
            if any(old + i in at for i in range(n, m)):
                m = n  # it could not grow in place
            self._move(old, n, old, m)
            return Made("mremap", [old * PAGE, n * PAGE, m * PAGE, MAYMOVE], old * PAGE)
        if target < old + max(n, 1) and old < target + m:
            target = BASE + PAGES + 8
        if any(at[i].dev == AIO for i in self.map.mapped(old, max(n, m))):
            return None
        self._move(old, n, target, m, keep=bool(flags & DONTUNMAP))
        args = [old * PAGE, n * PAGE, m * PAGE, flags, target * PAGE]
        return Made("mremap", args, target * PAGE)

    def _move(self, old: int, n: int, new: int, m: int, *, keep: bool = False) -> None:
        at = self.map.at
        first = at[old]
        taken = {i: at[old + i] for i in range(n) if old + i in at} or {0: first}
        if m > n:
            taken |= {i: first.after(i) for i in range(m)}
        if n and not keep:
            for i in range(n):
                at.pop(old + i, None)
        for i, page in taken.items():
            if i < m:
                at[new + i] = page

    def brk(self, address: int) -> Made:
        m = self.map
        old, new = pages(m.brk), pages(address)
        if address < m.start_brk or any(m.mapped(old, new - old)):
            return Made("brk", [address], m.brk)  # asked, or refused: never an errno
        for i in range(old, new):
            m.at[i] = Page(m.letters(3) + "p")
        for i in range(new, old):
            m.at.pop(i, None)
        m.brk = address
        return Made("brk", [address], address)

    def shmat(self, at: int, count: int, *remap: bool) -> Made:
        m = self.map
        self.inodes += 1
        while not any(remap) and any(m.mapped(at, count)):
            at += 1
        for i in range(count):
            m.at[at + i] = Page("rw-s", SHMEM, self.inodes, i, sysv=True)
        return Made("shmat", [1, 0, 0], at * PAGE, Ext(x=self._look(at, count)))

    def shmdt(self, wish: int) -> Made:
        """ksys_shmdt: of the first segment found from there on, all that was attached there."""
        m = self.map
        places = sorted({i - p.file_page for i, p in m.at.items() if p.sysv})
        if not places:
            return Made("shmdt", [BASE * PAGE], EINVAL)
        base = places[wish % len(places)]
        there = [i for i, p in sorted(m.at.items())
                 if i >= base and p.sysv and i - p.file_page == base]  # fmt: skip
        if not there:
            return Made("shmdt", [base * PAGE], EINVAL)
        ino = m.at[there[0]].ino
        for i in there:
            if m.at[i].ino == ino:
                del m.at[i]
        return Made("shmdt", [base * PAGE], 0)

    def remap_file_pages(self, wish: int, count: int, page: int) -> Made | None:
        m = self.map
        shared = sorted(i for i, p in m.at.items() if p.dev in {DISK, SHMEM} and p.perms[3] == "s")
        if not shared:
            return None
        first = shared[wish % len(shared)]
        n = 1
        while n < count and m.at.get(first + n) == m.at[first].after(n):
            n += 1
        for i in range(n):
            m.at[first + i] = m.at[first + i]._replace(file_page=page + i)
        ext = Ext(x=self._look(first, n)) if wish & 1 else None
        return Made("remap_file_pages", [first * PAGE, n * PAGE, 0, page, 0], 0, ext)

    def io_setup(self, at: int, count: int) -> Made:
        m = self.map
        self.inodes += 1
        self.rings[self.inodes] = count
        while any(m.mapped(at, count)):
            at += 1
        for i in range(count):
            m.at[at + i] = Page("rw-s", AIO, self.inodes, i)
        return Made("io_setup", [8, 0], 0, Ext(x=self._look(at, count)))

    def io_destroy(self, wish: int) -> Made:
        """kill_ioctx unmaps the ring where it was made; here only one that is still all there."""
        m = self.map
        rings: dict[int, list[int]] = {}
        for i, p in sorted(m.at.items()):
            if p.dev == AIO:
                rings.setdefault(p.ino, []).append(i)
        whole = [r for ino, r in rings.items() if len(r) == self.rings[ino]]
        if not whole:
            return Made("io_destroy", [BASE * PAGE], EINVAL)
        ring = whole[wish % len(whole)]
        for i in ring:
            del m.at[i]
        return Made("io_destroy", [ring[0] * PAGE], 0)

    def prctl(self, at: int, length: int, name: str) -> Made:
        """PR_SET_VMA_ANON_NAME."""
        m = self.map
        for i in m.mapped(at, pages(length)):
            if not m.at[i].ino:
                m.at[i] = m.at[i]._replace(name=f"[anon:{name}]" if name else "")
        args = [PR_SET_VMA, 0, at * PAGE, length, 1]
        return Made("prctl", args, 0, Ext(name=name or None))

    def set_brk(self, address: int) -> Made:
        """PR_SET_MM_BRK: the break moves, no page does."""
        self.map.brk = address
        return Made("prctl", [PR_SET_MM, PR_SET_MM_BRK, address, 0, 0], 0)

    def fails(self, call: str, args: list[int], errno: int) -> Made:
        """Without any effect; with what a look at the range shows, as the tracer does."""
        first = args[0] // PAGE if call != "brk" else BASE
        return Made(call, args, -errno, Ext(x=self._look(first, 4)))

    def unfinished(self, call: str, args: list[int]) -> Made:
        """The thread died inside, before anything was done."""
        return Made(call, args, None)

    def grows(self, wish: int, count: int) -> int:
        """A page fault below a growing mapping: how many pages came, without any call."""
        at = self.map.at
        lowest = [i for i, p in sorted(at.items()) if p.grows and not at.get(i - 1, Page("")).grows]
        if not lowest:
            return 0
        first = lowest[wish % len(lowest)]
        came = 0
        while came < count and not any(self.map.mapped(first - came - 2, 2)):  # the guard gap
            came += 1
        for i in range(1, came + 1):
            at[first - i] = at[first]
        return came

    def _look(self, first: int, count: int) -> tuple[int, int, list[str]]:
        return first * PAGE, (first + count) * PAGE, self.map.lines(first, count)
