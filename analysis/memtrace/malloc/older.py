# SPDX-License-Identifier: GPL-2.0-or-later
"""What is there when a process is attached to, and what of it can be proven.

Nobody saw these regions come. What the kernel's own map says of them proves some kinds: a name, a
file, the pages around; the evidence is `shape`. A chunk's header proves a chunk. All else stays
`unknown` with candidates, which go by the place in the map and prove nothing.

A line of maps is one region, and the kernel shows neighbours of one kind as one line. Where a
chunk's size tells its end, the line is cut there, so that its free is a free of a whole chunk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from memtrace.malloc import origin
from memtrace.malloc.glibc import DEFAULT_THRESHOLD, Layout, settings
from memtrace.malloc.origin import Decision
from memtrace.space.address_space import READ_IMPLIES_EXEC, AddressSpace
from memtrace.space.canonical import Attr
from memtrace.trace.records import Attach
from memtrace.trace.sizes import round_up

#: The largest area without access below a stack that is taken for its guard: the JVM's zones have
#: some 100 KiB.
_GUARD_MAX = 1 << 20
#: Names that glibc gives its memory (`__set_vma_name`, with the tunable glibc.mem.decorate_maps).
_NAMED = (
    ("[anon: glibc: malloc arena]", Decision("arena", "shape")),
    ("[anon: glibc: pthread", Decision("thread-stack", "shape")),
    ("[anon: glibc: loader malloc]", Decision("loader", "shape")),
    ("[anon: glibc: malloc]", Decision("unknown", "none", None, ("malloc-chunk", "main-arena"))),
)


class Found(NamedTuple):
    """A region that is there at the attach: `size` bytes in [start, end) bear its tag."""

    tag: int
    start: int
    end: int
    size: int
    path: str
    decision: Decision


class Line(NamedTuple):
    """The pages of one tag in one place."""

    start: int
    end: int
    attr: Attr
    tag: int

    @property
    def plain(self) -> bool:
        """Whether it is private memory of no file and no name."""
        a = self.attr
        return not a.is_file and not a.name and a.perms[3:] == "p"

    @property
    def shut(self) -> bool:
        """Whether it is such memory without access."""
        return self.plain and not self.attr.accessible

    @property
    def open(self) -> bool:
        """Whether it is such memory to read and write."""
        return self.plain and self.attr.perms[:2] == "rw"


def regions(space: AddressSpace, record: Attach, layout: Layout) -> list[Found]:
    """Every region of the map that the attach found, in address order.

    Args:
        space: as `seed` has filled it; regions that lie in one line get tags of their own.
        record: the attach.
        layout: of mapped chunks, the version not known yet.
    """
    _own_the_heap(space)
    chunks = set(_cut_chunks(space, record, layout))
    groups = set(_cut_groups(space, record, layout.page, chunks))
    arenas = set(_join_arenas(space, _lines(space), layout.heap_max))
    lines = _lines(space)
    stacks, guards = _stacks(lines, record, chunks | groups | arenas | {space.heap_tag})
    runnable = executable(space)
    marked = bool(record.personality & READ_IMPLIES_EXEC)
    found: dict[int, Found] = {}
    for i, line in enumerate(lines):
        tag, attr = line.tag, line.attr
        size = line.end - line.start
        known = found.get(tag)
        if known is not None:
            start, end = min(known.start, line.start), max(known.end, line.end)
            found[tag] = known._replace(start=start, end=end, size=known.size + size)
            continue
        path = space.path_of(attr)
        if tag in chunks:
            d = Decision("malloc-chunk", "header")
        elif tag in groups:
            d = Decision("runtime-heap", "header", "musl")
        elif tag in arenas:
            d = Decision("unknown", "none", None, ("arena", "anon"))
        elif tag in stacks:
            d = Decision("thread-stack", "shape")
        elif tag in guards:
            d = Decision("guard", "shape")
        elif line.plain and tag == space.heap_tag:
            d = Decision("heap", "shape")
        elif line.plain and space.start_stack is not None and (
            line.start <= space.start_stack < line.end
        ):  # fmt: skip
            d = Decision("stack", "shape")
        elif line.plain:
            d = Decision("unknown", "none", None, _candidates(lines, i, arenas))
        elif not attr.is_file:
            d = _named(attr)
        else:
            known_file = (attr.dev, attr.ino) in runnable
            d = _of_file(attr, path, is_library=known_file, marked=marked)
        found[tag] = Found(tag, line.start, line.end, size, path, d)
    return list(found.values())


def executable(space: AddressSpace) -> set[tuple[str, int]]:
    """(dev, inode) of the files with private executable pages."""
    return {
        (a.dev, a.ino) for _, _, a, _ in space.pieces() if a.is_file and a.perms[2:] == "xp"
    }  # fmt: skip


def _lines(space: AddressSpace) -> list[Line]:
    lines: list[Line] = []
    for s, e, attr, tag in space.pieces():
        last = lines[-1] if lines else None
        if last is not None and last.end == s and last.tag == tag and last.attr[:5] == attr[:5]:
            lines[-1] = last._replace(end=e)
        else:
            lines.append(Line(s, e, attr, tag))
    return lines


def _named(attr: Attr) -> Decision:
    named = origin.special(attr, heap=False)
    if named is not None:
        return named
    for beginning, decision in _NAMED:
        if attr.name.startswith(beginning):
            return decision
    return Decision("unknown", "none")


def _of_file(attr: Attr, path: str, *, is_library: bool, marked: bool) -> Decision:
    """The kind of pages of an inode; `marked`: READ_IMPLIES_EXEC makes all of them executable."""
    if attr.perms[3:] == "s":
        # mmap(MAP_SHARED | MAP_ANONYMOUS) and shmat: `shmem_zero_setup`, `newseg`.
        anonymous = path.startswith(("/dev/zero (deleted)", "/SYSV", "/anon_hugepage (deleted)"))
        return Decision("shared-anon" if anonymous else "shared-file", "shape")
    if path == "/anon_hugepage (deleted)":  # MAP_HUGETLB: an inode of hugetlbfs behind no file
        return Decision("unknown", "none", None, ("malloc-chunk", "main-arena", "anon"))
    if is_library and marked:
        return Decision("unknown", "none", None, ("library", "file"))
    return Decision("library" if is_library else "file", "shape")


def _candidates(lines: list[Line], i: int, arenas: set[int]) -> tuple[str, ...]:
    """What plain memory may be, by its place in the map; likeliest first."""
    line = lines[i]
    below = lines[i - 1] if i and lines[i - 1].end == line.start else None
    if line.shut:
        small = line.end - line.start <= _GUARD_MAX
        return ("guard", "anon") if small else ("anon", "runtime-heap")
    if line.attr.perms[2] == "x":
        return "jit", "anon"
    if not line.open:
        return "loader", "anon"
    if below is not None and below.attr.is_file and below.attr.perms[1:] == "w-p":
        return (
            "loader",
            "malloc-chunk",
            "anon",
            "runtime-heap",
        )  # zeroed data behind a library's (_dl_map_segments)
    if below is not None and below.shut and below.tag not in arenas:
        return "thread-stack", "malloc-chunk", "anon", "runtime-heap"
    return "malloc-chunk", "anon", "runtime-heap"


def _own_the_heap(space: AddressSpace) -> None:
    """All of [start_brk, brk) is one region, whatever lines it is shown in, and nothing else is."""
    start, brk, tag = space.start_brk, space.brk, space.heap_tag
    if start is None or brk is None or not tag:
        return
    high = round_up(brk)
    for s, e, attr, was in list(space.pieces()):
        if not Line(s, e, attr, was).plain:
            continue
        low, end = max(s, start), min(e, high)
        if was == tag:  # what the kernel shows as one line with it
            for a, b in ((s, min(e, start)), (max(s, high), e)):
                if a < b:
                    space.retag(a, b, space.new_tag())
        elif low < end:
            space.retag(low, end, tag)


def _cut_chunks(space: AddressSpace, record: Attach, layout: Layout) -> Iterator[int]:
    """Give every chunk whose header was found a tag of its own; the tags.

    A call's length, which a header of the trace's own time must fit, is not known here, and two
    words alone may be a program's own data: they must be a chunk that the configured rule maps.
    """
    least = settings(record.env, at_secure=record.at_secure, version=layout.version).threshold
    if least is None or record.env_lost:
        least = DEFAULT_THRESHOLD
    runs = _runs(line for line in _lines(space) if _may_hold_chunks(line, space))
    position = 0
    for address, word in sorted(record.chunks):
        length = round_up(word & ~7)
        end = address + length
        if address < position or address % layout.page or not length or not layout.known:
            continue
        if not _inside(runs, address, end) or not layout.is_header(word, length):
            continue
        if layout.chunk(length)[1] < least:
            continue
        position = end
        yield _cut(space, address, end)


def _cut_groups(space: AddressSpace, record: Attach, page: int, chunks: set[int]) -> Iterator[int]:
    """Give everything that musl's malloc had mapped a tag of its own; the tags."""
    runs = _runs(
        line for line in _lines(space) if line.tag not in chunks and _may_hold_chunks(line, space)
    )
    position = 0
    for address, size, _ in sorted(record.groups):
        end = address + size
        if address < position or size <= 0 or (address | size) % page:
            continue
        if _inside(runs, address, end):
            position = end
            yield _cut(space, address, end)


def _runs(lines: Iterable[Line]) -> list[tuple[int, int]]:
    """The ranges that lines cover, those joined that touch one another."""
    runs: list[tuple[int, int]] = []
    for line in lines:
        if runs and runs[-1][1] == line.start:
            runs[-1] = runs[-1][0], line.end
        else:
            runs.append((line.start, line.end))
    return runs


def _inside(runs: list[tuple[int, int]], address: int, end: int) -> bool:
    """Whether one of the ranges holds all of it."""
    i = bisect_right(runs, (address, end)) - 1
    if i < len(runs) - 1 and runs[i + 1][0] == address:
        i += 1
    return i >= 0 and end <= runs[i][1]


def _cut(space: AddressSpace, address: int, end: int) -> int:
    """A new tag for a range, which was part of a line."""
    tag = space.new_tag()
    below, above = space.at(address - 1), space.at(end)
    if below is not None and above is not None and below[3] == above[3]:
        space.retag(end, _end_of(space, end, above[3]), space.new_tag())
    space.retag(address, end, tag)
    return tag


def _end_of(space: AddressSpace, start: int, tag: int) -> int:
    """Where the pages of a tag end that go on from `start`."""
    end = start
    for s, e, _, other in space.pieces(start):
        if s != end or other != tag:
            break
        end = e
    return end


def _may_hold_chunks(line: Line, space: AddressSpace) -> bool:
    if line.tag == space.heap_tag:
        return False
    named = line.attr.name.startswith("[anon: glibc: malloc]")
    return line.open or (named and line.attr.perms == "rw-p")


def _join_arenas(space: AddressSpace, lines: list[Line], size: int) -> Iterator[int]:
    """Make one region of what looks like a thread arena's heap: 64 MiB at a multiple of 64 MiB
    (`size`), opened from the start on (`alloc_new_heap`, `grow_heap`). Others reserve like that,
    too.
    """
    for opened, rest in pairwise(lines):
        base, end = opened.start, opened.start + size
        if base % size or not opened.open or opened.tag == space.heap_tag:
            continue
        if opened.end == rest.start < end <= rest.end and rest.shut:
            # What lies above may be shown as one with it: a stack's guard.
            space.retag(opened.end, end, opened.tag)
            yield opened.tag


def _stacks(lines: list[Line], record: Attach, taken: set[int]) -> tuple[set[int], set[int]]:
    """Tags of the threads' stacks, and of the guards below them.

    A stack pointer alone does not tell where a stack ends: neighbours are shown as one with it. It
    is one if there is a guard below and its size is what threads are given: the soft limit
    RLIMIT_STACK (`__pthread_initialize_minimal`), or with or without its guard a power of two.
    """
    starts = [line.start for line in lines]
    usual = record.rlimits.get("STACK")
    stacks: set[int] = set()
    guards: set[int] = set()
    for task, pointer in record.stacks:
        i = bisect_right(starts, pointer) - 1
        if i < 1 or task == record.pid:
            continue
        line, guard = lines[i], lines[i - 1]
        if not (pointer < line.end and line.open and line.tag not in taken):
            continue
        if not (guard.shut and guard.end == line.start and guard.tag not in taken):
            continue
        size, below = line.end - line.start, guard.end - guard.start
        if size == round_up(usual or 0) or _is_power(size) or _is_power(size + below):
            stacks.add(line.tag)
            if below <= _GUARD_MAX:
                guards.add(guard.tag)
    return stacks, guards


def _is_power(size: int) -> bool:
    return size & (size - 1) == 0


def bases(space: AddressSpace, path: str) -> list[int]:
    """Where a library's file would begin in each mapping of its text, in address order: dlmopen
    maps the same file once more.
    """
    files = {key for key, name in space.paths.items() if name == path}
    places: Iterable[tuple[str, int, int]] = (
        (a.dev, a.ino, a.delta) for _, _, a, _ in space.pieces() if a.perms[2] == "x"
    )
    return list(dict.fromkeys(-place[2] for place in places if place[:2] in files))
