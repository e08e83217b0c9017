# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of each region between two moments of one address space. Pure.

A region is known by its tag, which its pages keep through splits, mprotect and mremap. The guard
that is cut out of a thread's stack counts to the mapping it was made with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memtrace.space.address_space import AddressSpace
    from memtrace.space.canonical import Attr


@dataclass(frozen=True, slots=True)
class Extent:
    """A region at one moment: `size` bytes of it in [start, end); `perms` of its largest part."""

    start: int
    end: int
    size: int
    perms: str
    path: str


@dataclass(frozen=True, slots=True)
class Fate:
    """A region that is not the same at both moments.

    Attributes:
        kind: what it was for.
        before, after: None where it was not there.
        protected: bytes of pages, there at both moments in the same place, with other permissions;
            of a region that has moved, bytes that have others now.
        shifted: bytes that it lost in one place and gained in another, while the rest stayed.
    """

    kind: str
    before: Extent | None
    after: Extent | None
    protected: int = 0
    shifted: int = 0

    @property
    def there(self) -> Extent:
        """Where it is, or was."""
        extent = self.after or self.before
        if extent is None:
            raise ValueError("a region that never was")
        return extent

    @property
    def delta(self) -> int:
        """Bytes more after than before."""
        return (self.after.size if self.after else 0) - (self.before.size if self.before else 0)

    @property
    def moved(self) -> bool:
        """Whether it lies elsewhere: nothing of it is where something of it was."""
        b, a = self.before, self.after
        return b is not None and a is not None and (a.start >= b.end or a.end <= b.start)


@dataclass(slots=True)
class Sum:
    """The fates of one kind: how many regions, and how many bytes, each way."""

    born: int = 0
    born_bytes: int = 0
    gone: int = 0
    gone_bytes: int = 0
    grown: int = 0
    grown_bytes: int = 0
    shrunk: int = 0
    shrunk_bytes: int = 0
    protected: int = 0
    protected_bytes: int = 0
    moved: int = 0

    @property
    def delta(self) -> int:
        """Bytes more after than before."""
        return self.born_bytes - self.gone_bytes + self.grown_bytes - self.shrunk_bytes


Pages = list[tuple[int, int, "Attr"]]
Kind = Callable[[int], str]


def difference(before: AddressSpace, after: AddressSpace, kind: Kind, mask: int) -> list[Fate]:
    """Every region that is not the same, largest change first.

    Args:
        before: the earlier map.
        after: a later one of the same address space, or of its copy.
        kind: of a tag.
        mask: the bits of a tag that name the region.
    """
    old, new = _regions(before, mask), _regions(after, mask)
    fates = []
    for tag in old.keys() | new.keys():
        was, now = old.get(tag), new.get(tag)
        one = _extent(was, before) if was else None
        two = _extent(now, after) if now else None
        fate = Fate(kind(tag), one, two)
        if was and now:
            shifted = 0 if fate.moved else min(_outside(was, now), _outside(now, was))
            fate = Fate(kind(tag), one, two, _protected(was, now), shifted)
        if not (one and two) or fate.delta or fate.moved or fate.protected or fate.shifted:
            fates.append(fate)
    fates.sort(key=lambda f: (-abs(f.delta), -f.protected, -f.shifted, f.there.start))
    return fates


def replaced(
    before: AddressSpace, after: AddressSpace, kinds: tuple[Kind, Kind], mask: int
) -> list[Fate]:
    """The same of two address spaces that have nothing to do with each other: an exec lies between.

    Args:
        before: the map that went.
        after: the one that came.
        kinds: of a tag, of each.
        mask: see `difference`.
    """
    fates = [
        Fate(kinds[0](tag), _extent(pages, before), None)
        for tag, pages in _regions(before, mask).items()
    ]
    fates += [
        Fate(kinds[1](tag), None, _extent(pages, after))
        for tag, pages in _regions(after, mask).items()
    ]
    fates.sort(key=lambda f: (-abs(f.delta), f.after is None, f.there.start))
    return fates


def sums(fates: list[Fate]) -> dict[str, Sum]:
    """The fates by kind, the largest change first."""
    by: dict[str, Sum] = {}
    for f in fates:
        s = by.setdefault(f.kind, Sum())
        if f.before is None:
            s.born += 1
            s.born_bytes += f.delta
        elif f.after is None:
            s.gone += 1
            s.gone_bytes -= f.delta
        else:
            s.grown += f.delta > 0
            s.grown_bytes += max(f.delta, 0)
            s.shrunk += f.delta < 0
            s.shrunk_bytes += max(-f.delta, 0)
            s.moved += f.moved
        s.protected += f.protected > 0
        s.protected_bytes += f.protected
    return dict(sorted(by.items(), key=lambda kv: (-abs(kv[1].delta), kv[0])))


def _regions(space: AddressSpace, mask: int) -> dict[int, Pages]:
    found: dict[int, Pages] = {}
    for start, end, attr, tag in space.pieces():
        found.setdefault(tag & mask, []).append((start, end, attr))
    return found


def _extent(pages: Pages, space: AddressSpace) -> Extent:
    by_perms = _by_perms(pages)
    attr = pages[0][2]
    size = sum(end - start for start, end, _ in pages)
    perms = by_perms.most_common(1)[0][0]
    return Extent(pages[0][0], pages[-1][1], size, perms, space.path_of(attr))


def _by_perms(pages: Pages) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for start, end, attr in pages:
        sizes[attr.perms] += end - start
    return sizes


def _protected(was: Pages, now: Pages) -> int:
    """Bytes there both times with other permissions; see `Fate.protected`."""
    same = other = 0
    for size, one, two in _both(was, now):
        if one.perms == two.perms:
            same += size
        else:
            other += size
    if same or other:
        return other
    before, after = _by_perms(was), _by_perms(now)
    total = min(before.total(), after.total())
    return max(total - (before & after).total(), 0)


def _outside(pages: Pages, others: Pages) -> int:
    """Bytes where none of the others is."""
    return sum(end - start for start, end, _ in pages) - sum(n for n, _, _ in _both(pages, others))


def _both(was: Pages, now: Pages) -> Iterator[tuple[int, Attr, Attr]]:
    """What is there both times: bytes, and what they were and are."""
    i = 0
    for start, end, attr in was:
        while i < len(now) and now[i][1] <= start:
            i += 1
        j = i
        while j < len(now) and now[j][0] < end:
            yield min(end, now[j][1]) - max(start, now[j][0]), attr, now[j][2]
            j += 1
