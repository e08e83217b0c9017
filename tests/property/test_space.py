# SPDX-License-Identifier: GPL-2.0-or-later
"""AddressSpace against the simplest model there is: a dict of pages.

Random scripts of calls run in both. The page model knows a page's permissions, file and file page,
and whether a child gets it; it has no ranges at all, so it cannot share a mistake about splitting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.space.address_space import AddressSpace
from memtrace.space.calls import apply
from memtrace.space.canonical import MapsCache, Run, canonical
from memtrace.space.compare import compare
from memtrace.trace.mapping import format_mapping
from memtrace.trace.records import Ext, FileId

PAGE = 4096
PAGES = 12  # the scripts live in pages 16 to 27 and a little above; the break begins at page 4
BASE, BREAK = 16, 4
RW, FIXED, ANON, SHARED, PRIVATE = 3, 0x10, 0x20, 1, 2


class Page(NamedTuple):
    perms: str
    ino: int = 0
    file_page: int = 0
    dontfork: bool = False


@dataclass
class Pages:
    """The oracle."""

    at: dict[int, Page] = field(default_factory=dict)
    brk: int = BREAK * PAGE

    def run(self, call: str, a: list[int], ret: int, ino: int) -> None:
        getattr(self, call)(a, ret, ino)

    def mmap(self, a: list[int], ret: int, ino: int) -> None:
        kind = "s" if a[3] & SHARED else "p"
        for i in range(pages(a[1])):
            page = Page(letters(a[2]) + kind)
            if not a[3] & ANON:
                page = page._replace(ino=ino, file_page=a[5] // PAGE + i)
            self.at[ret // PAGE + i] = page

    def munmap(self, a: list[int], ret: int, ino: int) -> None:
        for i in range(pages(a[1])):
            self.at.pop(a[0] // PAGE + i, None)

    def mprotect(self, a: list[int], ret: int, ino: int) -> None:
        for i in range(pages(a[1])):
            page = self.at.get(a[0] // PAGE + i)
            if page is not None:
                perms = letters(a[2]) + page.perms[3]
                self.at[a[0] // PAGE + i] = page._replace(perms=perms)

    def madvise(self, a: list[int], ret: int, ino: int) -> None:
        for i in range(pages(a[1])):
            page = self.at.get(a[0] // PAGE + i)
            if page is not None and a[2] in (10, 11):
                self.at[a[0] // PAGE + i] = page._replace(dontfork=a[2] == 10)

    def mremap(self, a: list[int], ret: int, ino: int) -> None:
        old, new, n, m = a[0] // PAGE, ret // PAGE, pages(a[1]), pages(a[2])
        first = self.at[old]
        if n and not a[3] & 4:
            for i in range(n):
                del self.at[old + i]
        for i in range(m):
            self.at[new + i] = replace_page(first, i)

    def brk_(self, a: list[int], ret: int, ino: int) -> None:
        old, new = pages(self.brk), pages(ret)
        for i in range(old, new):
            self.at[i] = Page("rw-p")
        for i in range(new, old):
            self.at.pop(i, None)
        self.brk = ret

    def fork(self) -> Pages:
        return Pages({i: p for i, p in self.at.items() if not p.dontfork}, self.brk)

    def runs(self) -> list[Run]:
        out: list[Run] = []
        for i in sorted(self.at):
            p = self.at[i]
            dev = "fe:01" if p.ino else "00:00"
            delta = (p.file_page - i) * PAGE if p.ino else 0
            start, key = i * PAGE, (p.perms, dev, p.ino, delta, "")
            if out and out[-1].end == start and out[-1][2:] == key:
                out[-1] = out[-1]._replace(end=start + PAGE)
            else:
                out.append(Run(start, start + PAGE, *key))
        return out


def replace_page(page: Page, by: int) -> Page:
    return page._replace(file_page=page.file_page + by if page.ino else 0)


def pages(length: int) -> int:
    return -(-length // PAGE)


def letters(prot: int) -> str:
    return "".join(c if prot & bit else "-" for c, bit in zip("rwx", (1, 2, 4), strict=True))


page_numbers = st.integers(0, PAGES - 1).map(lambda n: (BASE + n) * PAGE)
lengths = st.integers(1, 4 * PAGE)
protections = st.integers(0, 7)
moves = st.tuples(
    st.just("mremap"), page_numbers, st.integers(0, 3).map(lambda n: n * PAGE), lengths,
    st.sampled_from([1, 3, 7]), page_numbers,
)  # fmt: skip
maps = st.tuples(
    st.just("mmap"), page_numbers, lengths, protections,
    st.sampled_from([PRIVATE | ANON, PRIVATE, SHARED]), st.integers(0, 9),
)  # fmt: skip
advice = st.tuples(st.just("madvise"), page_numbers, lengths, st.sampled_from([4, 10, 10, 11]))
steps = st.one_of(
    maps, moves, moves, moves,
    st.tuples(st.just("munmap"), page_numbers, lengths),
    st.tuples(st.just("mprotect"), page_numbers, lengths, protections),
    advice, advice,
    st.tuples(st.just("brk"), st.integers(BREAK * PAGE, 12 * PAGE)),
    st.tuples(st.just("fork")),
)  # fmt: skip
#: Most calls need something to act on.
scripts = st.lists(maps, max_size=3).flatmap(
    lambda first: st.lists(steps, min_size=1, max_size=15).map(lambda rest: [*first, *rest])
)


@dataclass
class Both:
    """A space and the oracle, fed alike with what a kernel would have allowed."""

    space: AddressSpace = field(default_factory=AddressSpace)
    oracle: Pages = field(default_factory=Pages)
    cache: MapsCache = field(default_factory=MapsCache)

    def step(self, s: tuple[object, ...]) -> None:
        numbers: list[int] = list(s[1:])  # type: ignore[arg-type]
        if s[0] == "fork":
            self.space, self.oracle = self.space.fork(), self.oracle.fork()
            return
        call, a, ret, ino = str(s[0]), numbers, 0, 0
        if call == "mmap":
            address, length, prot, flags, page = numbers
            ino = 0 if flags & ANON else 77
            a = [address, length, prot, flags | FIXED, -1 if flags & ANON else 3, page * PAGE]
            ret = address
        elif call == "brk":
            ret = a[0]
            if any(i in self.oracle.at for i in range(pages(self.oracle.brk), pages(ret))):
                return  # the kernel refuses to grow over a mapping
        elif call == "mremap":
            allowed = self._mremap(a)
            if allowed is None:
                return
            a, ret = allowed
        file = FileId(1, "fe:01", ino, "/f") if ino else None
        change = apply(self.space, call, a, ret, Ext(), file, self.cache)
        assert change is None or not change.conflict
        if call == "brk":
            self.oracle.brk_(a, ret, ino)
        else:
            self.oracle.run(call, a, ret, ino)

    def _mremap(self, a: list[int]) -> tuple[list[int], int] | None:
        """A call that the kernel lets pass, as near to the drawn one as the map allows."""
        at = self.oracle.at
        if not at:
            return None
        wish, before, after, flags, target = a
        mapped = sorted(at)
        first = mapped[wish // PAGE % len(mapped)]
        old, n = first * PAGE, 1  # as much of one mapping as was asked for
        while n < pages(before) and at.get(first + n) == replace_page(at[first], n):
            n += 1
        if flags & 4:
            after = n * PAGE  # MREMAP_DONTUNMAP: the size stays
        elif before == 0 and at[first].perms[3] == "s":
            n, flags = 0, 3  # a second mapping of a shared one
        m = pages(after)
        if flags & 2:
            if target < old + max(n, 1) * PAGE and old < target + m * PAGE:
                target = (BASE + PAGES + 8) * PAGE
            return [old, n * PAGE, after, flags, target], target
        if any(first + i in at for i in range(n, m)):
            after = n * PAGE  # it could not grow in place
        return [old, n * PAGE, after, 1], old


@settings(max_examples=600, deadline=None)
@given(scripts)
def test_any_script_gives_the_map_of_the_page_model(script: list[tuple[object, ...]]) -> None:
    both = Both()
    both.space.start_brk = both.space.brk = BREAK * PAGE
    for s in script:
        both.step(s)
        assert both.space.canonical() == both.oracle.runs()
        assert both.space.total == len(both.oracle.at) * PAGE
        assert both.space.brk == both.oracle.brk
        pieces = list(both.space.pieces())
        assert all(p[0] < p[1] for p in pieces)
        assert all(p[1] <= q[0] for p, q in pairwise(pieces))


@settings(max_examples=100, deadline=None)
@given(scripts)
def test_the_map_as_text_is_reproduced_and_its_canonical_form_is_its_own(
    script: list[tuple[object, ...]],
) -> None:
    both = Both()
    both.space.start_brk = both.space.brk = BREAK * PAGE
    for s in script:
        both.step(s)
    lines = [format_mapping(m) for m in both.space.mappings()]
    assert canonical(lines) == both.space.canonical()
    assert compare(both.space, lines, MapsCache(), 1, 1, "x").drift is None
    loaded = AddressSpace()
    loaded.load(MapsCache().parse(lines))
    assert loaded.canonical() == both.space.canonical()
    assert loaded.total == both.space.total


@settings(max_examples=100, deadline=None)
@given(scripts, st.data())
def test_leaving_out_a_visible_call_is_noticed(
    script: list[tuple[object, ...]], data: st.DataObject
) -> None:
    """The kernel's map at the end tells whether the replay saw every call that shows in it."""
    script = [s for s in script if s[0] != "mremap"]  # of another map it may be another call
    if not script:
        return
    missing = data.draw(st.integers(0, len(script) - 1))
    kernel, replayed = Both(), Both()
    for both in (kernel, replayed):
        both.space.start_brk = both.space.brk = BREAK * PAGE
    for i, s in enumerate(script):
        kernel.step(s)
        if i != missing:
            replayed.step(s)
    lines = [format_mapping(m) for m in kernel.space.mappings()]
    visible = kernel.oracle.runs() != replayed.oracle.runs()
    drift = compare(replayed.space, lines, MapsCache(), 1, 1, "x").drift
    assert (drift is not None) is visible
    assert replayed.space.canonical() == kernel.oracle.runs()  # and made right again
