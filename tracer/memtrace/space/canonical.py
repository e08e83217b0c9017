# SPDX-License-Identifier: GPL-2.0-or-later
"""The canonical form: what a map says about every page, and nothing else.

/proc/PID/maps is a table of runs of f(page) = (rwx, p/s, dev, inode, file offset, special name).
Where the kernel ends one line and begins the next depends on page faults, fork history and
invisible flags (`vma_merge`, anon_vma, VM_ACCOUNT ...), so lines cannot be derived from syscalls;
f can. The canonical form is the maximal-run encoding of f: equal canonical forms mean the same
permissions and backing for every page. Dropped are exactly the run boundaries that f does not
show and the labels [heap] and [stack], which are functions of brk and start_stack.

A label hides a name: of pages that prctl(PR_SET_VMA_ANON_NAME) has named the kernel shows it only
where neither label stands (`get_vma_name`). So a labelled line says nothing about their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from memtrace.trace.mapping import ANON_DEV, Mapping, parse_line

DONTFORK = 1  # VM_DONTCOPY, from madvise(MADV_DONTFORK)
GROWSDOWN = 2  # VM_GROWSDOWN: the main stack, or mmap(MAP_GROWSDOWN)


class Attr(NamedTuple):
    """What a run of pages is. Two neighbours with equal attributes are one run.

    `delta` is file offset minus address, so that it is the same for every page of a mapping and
    equal across a seam exactly when offsets continue; 0 for memory without an inode. `name` is a
    special name such as `[vdso]`, "" for ordinary memory and for files (a path is no identity).
    `flags` is not part of f.
    """

    perms: str
    dev: str
    ino: int
    delta: int
    name: str
    flags: int = 0

    @property
    def is_file(self) -> bool:
        """See `Mapping.is_file`."""
        return self.ino != 0 or self.dev != ANON_DEV

    @property
    def accessible(self) -> bool:
        """Whether the pages may be accessed in any way: they are not PROT_NONE."""
        return self.perms[:3] != "---"


class Run(NamedTuple):
    """A maximal run [start, end) of pages with one (perms, dev, ino, delta, name)."""

    start: int
    end: int
    perms: str
    dev: str
    ino: int
    delta: int
    name: str

    @property
    def is_file(self) -> bool:
        """See `Mapping.is_file`."""
        return self.ino != 0 or self.dev != ANON_DEV


#: Name of pages that an imported log's calls prove to have been mapped, and nothing else of them.
ASSUMED = "[assumed]"


#: Private memory without a file or name, one value for each protection: most pieces are that.
PLAIN = {
    perms: Attr(perms, ANON_DEV, 0, 0, "")
    for p in range(8)
    for perms in ["".join(c if p >> i & 1 else "-" for i, c in enumerate("rwx")) + "p"]
}
_PLAIN_NAMES = ("", "[heap]")


def is_label(name: str) -> bool:
    """Whether a maps name is only a label the kernel derives from addresses."""
    return name in ("[heap]", "[stack]") or name.startswith("[stack:")


def is_given(name: str) -> bool:
    """Whether a name is one that prctl(PR_SET_VMA_ANON_NAME) gave, or none: it can change while the
    pages stay what they are.
    """
    return not name or name.startswith("[anon:")


def may_hide(label: str, shown: Attr, held: Attr) -> bool:
    """Whether pages that the kernel shows as `shown` under a label may be what the model holds: all
    the same but a given name.
    """
    return (
        shown[:4] == held[:4]
        and not shown.name
        and not held.is_file
        and is_given(held.name)
        and is_label(label)
    )


def attr_of(m: Mapping) -> Attr:
    """The attributes of a line of maps."""
    if m.is_file:
        return Attr(m.perms, m.dev, m.ino, m.offset - m.start, "", 0)
    if m.path in _PLAIN_NAMES:
        plain = PLAIN.get(m.perms)
        if plain is not None:
            return plain
    flags = GROWSDOWN if m.path == "[stack]" else 0
    return Attr(m.perms, ANON_DEV, 0, 0, "" if is_label(m.path) else m.path, flags)


class MapsCache:
    """Parses maps lines, remembering each: consecutive snapshots share nearly all of them."""

    def __init__(self, limit: int = 200_000) -> None:
        self._seen: dict[str, tuple[int, int, Attr, str]] = {}
        self._limit = limit

    def parse(self, lines: Iterable[str]) -> list[tuple[int, int, Attr, str]]:
        """(start, end, attributes, path) of each line.

        Raises:
            ValueError: a line is not one of maps.
        """
        seen = self._seen
        if len(seen) > self._limit:
            seen.clear()
        lines = list(lines)
        try:
            return [seen[line] for line in lines]
        except KeyError:
            for line in lines:
                if line not in seen:
                    m = parse_line(line)
                    seen[line] = m.start, m.end, attr_of(m), m.path
        return [seen[line] for line in lines]


def merge(pieces: Iterable[tuple[int, int, Attr]]) -> list[Run]:
    """Maximal runs of sorted, disjoint pieces.

    >>> a = Attr("rw-p", "00:00", 0, 0, "")
    >>> [(r.start, r.end) for r in merge([(0, 1, a), (1, 3, a), (4, 5, a)])]
    [(0, 3), (4, 5)]
    """
    runs: list[Run] = []
    start = end = -1
    key: tuple[str, str, int, int, str] | None = None
    for s, e, attr in pieces:
        k = attr[:5]
        if s == end and k == key:
            end = e
            continue
        if key is not None:
            runs.append(Run(start, end, *key))
        start, end, key = s, e, k
    if key is not None:
        runs.append(Run(start, end, *key))
    return runs


def canonical(lines: Iterable[str], cache: MapsCache | None = None) -> list[Run]:
    """The canonical form of maps text given as lines."""
    return merge((s, e, a) for s, e, a, _ in (cache or MapsCache()).parse(lines))
