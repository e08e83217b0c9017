# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces with one event changed, and what a naive replay says of them.

`Recorded` is a real trace as values. `mutations` changes one record of it at a time. `Naive`
replays with none of memtrace's code: a map is a list of ranges, made anew by every call. It answers
whether a mutation can be seen:

- *visible*: what the trace itself holds of the kernel contradicts it. A snapshot is another map
  than the replayed one, a call's page count (statm) another total, a call lands on pages that are
  mapped, moves pages that are not, or belongs to an address space that is not there.
- *unseen*: it is not visible, but after some event some map is not the recorded one: it was wrong,
  and right again, or gone, before the kernel was asked. A wrong total is seen at once, for every
  call carries the kernel's page count; what only snapshots can show is which pages are mapped and
  as what: a protection that is changed and changed back, a mapping moved by a page and unmapped.
- *possible*: no more than a stack growth is between the changed trace and the kernel's maps. A page
  fault is in no trace, so that this may have happened.
- *without effect*: every map is the recorded one after every event (munmap of nothing, an mprotect
  to what it was, a thread's clone, the end of an address space that goes unmentioned: `gone`).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from memtrace.trace.codec import (
    Decoder,
    decode_footer,
    decode_header,
    encode,
    encode_footer,
    encode_header,
)
from memtrace.trace.records import (
    Call,
    Clone,
    Exec,
    Ext,
    FileId,
    Footer,
    Fork,
    Gone,
    Header,
    Life,
    Snap,
)

PAGE = 4096
MAP_FIXED, MAP_ANONYMOUS, MAP_GROWSDOWN = 0x10, 0x20, 0x100
DONTUNMAP, DONTFORK, DOFORK, ENOMEM = 4, 10, 11, -12
Record = Call | Life
Sight = Literal["visible", "unseen", "possible", "without effect"]


# -- the naive replay ---------------------------------------------------------------------------


class What(NamedTuple):
    """Of a range; `delta` is file offset less address."""

    perms: str
    dev: str = "00:00"
    ino: int = 0
    delta: int = 0
    name: str = ""
    dontfork: bool = False
    grows: bool = False


Range = tuple[int, int, What]


def up(n: int) -> int:
    return -(-n // PAGE) * PAGE


def outside(ranges: list[Range], low: int, high: int) -> list[Range]:
    out = []
    for s, e, w in ranges:
        if e <= low or s >= high:
            out.append((s, e, w))
        else:
            out += [(s, low, w)] if s < low else []
            out += [(high, e, w)] if e > high else []
    return out


def inside(ranges: list[Range], low: int, high: int) -> list[Range]:
    cut = [(max(s, low), min(e, high), w) for s, e, w in ranges]
    return [(s, e, w) for s, e, w in cut if s < e]  # of a length of 0 nothing


def shown(ranges: list[Range]) -> list[Range]:
    """What maps shows: maximal runs, without the flags that it does not show."""
    out: list[Range] = []
    for s, e, w in sorted(ranges):
        seen = What(*w[:5])
        if out and out[-1][1] == s and out[-1][2] == seen:
            out[-1] = out[-1][0], e, seen
        else:
            out.append((s, e, seen))
    return out


def read(lines: list[str]) -> list[Range]:
    out = []
    for line in lines:
        place, perms, offset, dev, ino, *path = line.split(None, 5)
        s, e = (int(n, 16) for n in place.split("-"))
        name = path[0] if path else ""
        if dev != "00:00" or ino != "0":
            out.append((s, e, What(perms, dev, int(ino), int(offset, 16) - s)))
        else:
            plain = name in {"[heap]", "[stack]"}
            out.append((s, e, What(perms, name="" if plain else name, grows=name == "[stack]")))
    return out


@dataclass
class Space:
    ranges: list[Range]
    brk: int
    start_brk: int
    grown: int = 0
    owed: list[int] = field(default_factory=list)  # excess of statm, since the last snapshot


class Naive:
    """One pass; `states` are the maps after each record, `wrong` the first impossible event."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.spaces: dict[int, Space] = {}
        self.known: set[int] = set()
        self.wrong: int | None = None
        self.grown = 0

    def contradicts(self, seq: int) -> None:
        if self.wrong is None:
            self.wrong = seq

    def run(self, records: list[Record]) -> list[dict[int, list[Range]]]:
        states = []
        now: dict[int, list[Range]] = {}
        for seq, record in enumerate(records, 1):
            touched = self.step(seq, record)
            now = {mm: runs for mm, runs in now.items() if mm in self.spaces}
            if touched in self.spaces:
                now[touched] = shown(self.spaces[touched].ranges)
            states.append(now)
        for space in self.spaces.values():
            if space.owed:
                self.contradicts(len(records))
        return states

    def step(self, seq: int, record: Record) -> int:
        if isinstance(record, Exec):
            return self.begins(seq, record.mm, Space(read(record.maps), record.start_brk,
                                                     record.start_brk))  # fmt: skip
        if isinstance(record, Fork):
            parent = self.spaces.get(record.mm)
            if parent is None:
                self.contradicts(seq)
                parent = Space([], 0, 0)
            ranges = [(s, e, w) for s, e, w in parent.ranges if not w.dontfork]
            return self.begins(seq, record.child_mm, Space(ranges, parent.brk, parent.start_brk))
        if isinstance(record, Gone):
            gone = self.spaces.pop(record.mm, None)
            if gone is None or gone.owed:
                self.contradicts(seq)
            return 0
        if not isinstance(record, Call | Clone | Snap):
            return 0
        space = self.spaces.get(record.mm)
        if space is None:
            self.contradicts(seq)
            return 0
        if isinstance(record, Call):
            self.call(seq, space, record)
        elif isinstance(record, Snap):
            self.snap(seq, space, record)
        return record.mm

    def begins(self, seq: int, mm: int, space: Space) -> int:
        if mm in self.known:
            self.contradicts(seq)
        else:
            self.known.add(mm)
            self.spaces[mm] = space
        return mm

    def snap(self, seq: int, space: Space, record: Snap) -> None:
        kernel = read(record.maps)
        if shown(space.ranges) != shown(kernel):
            space.ranges, came = grow(space.ranges, kernel)
            self.grown += came
            if shown(space.ranges) != shown(kernel) or any(not 0 < n <= came for n in space.owed):
                self.contradicts(seq)
        elif space.owed:
            self.contradicts(seq)
        space.owed = []

    def call(self, seq: int, space: Space, c: Call) -> None:
        name = self.calls[c.call]
        ok = c.ret is not None and not -4096 < c.ret < 0
        if ok or (name == "madvise" and c.ret == ENOMEM):
            # None takes one, nor does madvise; but memtrace does not look at what advice is about.
            if name != "madvise" and name in LENGTH and c.args[LENGTH[name]] < 0:
                self.contradicts(seq)
            effect = getattr(self, name, None)
            if effect is not None:
                effect(seq, space, c.args, c.ret, c.ext.f if c.ext else None)
        if c.ext is not None and c.ext.x is not None:
            low, high, lines = c.ext.x
            told = inside(read(lines), low, high)
            if shown(told) != shown(inside(space.ranges, low, high)):
                space.ranges = outside(space.ranges, low, high) + told
        if c.vm is not None:
            excess = c.vm * PAGE - sum(e - s for s, e, _ in space.ranges)
            if excess:
                space.owed.append(excess)

    # What each call does.

    def mmap(self, seq: int, space: Space, a: list[int], ret: int, file: FileId | None) -> None:
        low, high = ret, ret + up(a[1])
        if high <= low:
            return
        perms = letters(a[2]) + ("s" if a[3] & 15 in {1, 3} else "p")
        what = What(perms, grows=bool(a[3] & MAP_GROWSDOWN))
        if file is not None:
            offset = 0 if a[3] & MAP_ANONYMOUS else a[5]
            what = What(perms, file.dev, file.ino, offset - low)
        if inside(space.ranges, low, high) and not a[3] & MAP_FIXED:
            self.contradicts(seq)
        space.ranges = [*outside(space.ranges, low, high), (low, high, what)]

    def munmap(self, seq: int, space: Space, a: list[int], ret: int, _: object) -> None:
        space.ranges = outside(space.ranges, a[0], a[0] + up(a[1]))

    def mprotect(self, seq: int, space: Space, a: list[int], ret: int, _: object) -> None:
        low, high = a[0], a[0] + up(a[1])
        new = [(s, e, w._replace(perms=letters(a[2]) + w.perms[3]))
               for s, e, w in inside(space.ranges, low, high)]  # fmt: skip
        space.ranges = outside(space.ranges, low, high) + new

    pkey_mprotect = mprotect

    def madvise(self, seq: int, space: Space, a: list[int], ret: int, _: object) -> None:
        low, high = a[0], a[0] + up(a[1])
        if a[2] in {DONTFORK, DOFORK}:
            new = [(s, e, w._replace(dontfork=a[2] == DONTFORK))
                   for s, e, w in inside(space.ranges, low, high)]  # fmt: skip
            space.ranges = outside(space.ranges, low, high) + new

    def brk(self, seq: int, space: Space, a: list[int], ret: int, _: object) -> None:
        old, new, space.brk = up(space.brk), up(ret), ret
        if new > old:
            if inside(space.ranges, old, new):
                self.contradicts(seq)
            space.ranges = [*outside(space.ranges, old, new), (old, new, What("rw-p"))]
        elif new < old:
            space.ranges = outside(space.ranges, new, old)

    def mremap(self, seq: int, space: Space, a: list[int], ret: int, _: object) -> None:
        old, n, m = a[0], up(a[1]), up(a[2])
        source = sorted(inside(space.ranges, old, old + max(n, 1)))
        if not source or (ret == old and m > n and source[-1][1] < old + n):
            self.contradicts(seq)
            return
        if n and not a[3] & DONTUNMAP:
            space.ranges = outside(space.ranges, old, old + n)
        s, _e, w = source[-1]
        if m > n:
            source[-1] = s, old + m, w
        for s, e, w in inside(source, old, old + m):
            by = ret - old
            moved = w._replace(delta=w.delta - by) if w.ino else w
            space.ranges = [*outside(space.ranges, s + by, e + by), (s + by, e + by, moved)]


def letters(prot: int) -> str:
    return "".join(c if prot & bit else "-" for c, bit in zip("rwx", (1, 2, 4), strict=True))


def grow(ranges: list[Range], kernel: list[Range]) -> tuple[list[Range], int]:
    """Growing ranges that begin lower in the kernel's map, where nothing was: moved there."""
    came = 0
    for s, e, w in sorted(ranges):
        if not w.grows:
            continue
        for low, high, theirs in kernel:
            if low < s < high and theirs[:5] == w[:5] and not inside(ranges, low, s):
                ranges = [r for r in ranges if r != (s, e, w)] + [(low, e, w)]
                came += s - low
    return ranges, came


# -- the trace ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """A trace as values: files in full wherever they are named, without sites and headers, so that
    a record can be taken out alone.
    """

    header: Header
    records: list[Record]
    footer: Footer

    @classmethod
    def load(cls, path: Path) -> Recorded:
        first, *rest = path.read_bytes().splitlines()
        header = decode_header(first)
        decoder = Decoder(header)
        records: list[Record] = []
        footer = None
        for line in rest[:-1]:
            footer = decode_footer(line)
            if footer is None:
                record = decoder.decode(line)
                assert isinstance(record, Record)
                if isinstance(record, Call):
                    record.site = None
                    if record.ext is not None:
                        record.ext.f, record.ext.h = decoder.file(record.ext.f), None
                        record.ext = None if record.ext == Ext() else record.ext
                else:
                    record.h = None
                records.append(record)
        assert footer is not None
        return cls(header, records, footer)

    def write(self, path: Path, records: list[Record]) -> Path:
        """As if these had been recorded: the footer counts them."""
        calls = sum(isinstance(r, Call) for r in records)
        counts = {**self.footer.counts, "records": len(records), "calls": calls}
        footer = msgspec.structs.replace(self.footer, counts=counts)
        body = b"".join(map(encode, records))
        path.write_bytes(encode_header(self.header) + body + encode_footer(footer))
        return path


@dataclass(frozen=True)
class Mutation:
    """One record changed (`new` None: taken out)."""

    kind: str
    index: int
    new: Record | None

    def of(self, records: list[Record]) -> list[Record]:
        new = [] if self.new is None else [self.new]
        return [*records[: self.index], *new, *records[self.index + 1 :]]

    def __str__(self) -> str:
        return f"{self.kind} at event {self.index + 1}"


def altered(record: Record, **fields: object) -> Record:
    copy = msgspec.convert(msgspec.to_builtins(record), type(record))
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


#: Which argument is what.
LENGTH = {"mmap": 1, "munmap": 1, "mprotect": 1, "pkey_mprotect": 1, "mremap": 2, "madvise": 1}
ADDRESS = {"munmap": 0, "mprotect": 0, "pkey_mprotect": 0, "mremap": 0, "madvise": 0}
PROTECTION = {"mmap": 2, "mprotect": 2, "pkey_mprotect": 2}


def mutations(trace: Recorded) -> Iterator[Mutation]:
    """Every mutation of every record."""
    for i, record in enumerate(trace.records):
        if isinstance(record, Call):
            for kind, new in of_call(trace.header.calls[record.call], record):
                yield Mutation(kind, i, new)
        elif isinstance(record, Exec | Fork | Clone | Gone):
            rec = type(record).__name__.lower()
            yield Mutation(f"{rec} removed", i, None)
            for what, fields in of_life(record):
                yield Mutation(f"{rec}: {what}", i, altered(record, **fields))


def of_call(name: str, c: Call) -> Iterator[tuple[str, Record | None]]:
    dontfork = name == "madvise" and c.args[2] == DONTFORK
    yield "MADV_DONTFORK removed" if dontfork else f"{name} removed", None

    def argument(i: int, value: int) -> Record:
        return altered(c, args=[*c.args[:i], value, *c.args[i + 1 :]])

    if name in LENGTH:
        n = c.args[LENGTH[name]]
        yield f"{name}: longer", argument(LENGTH[name], n + PAGE)
        yield f"{name}: shorter", argument(LENGTH[name], n - PAGE)
    if name in ADDRESS:
        yield f"{name}: higher", argument(ADDRESS[name], c.args[ADDRESS[name]] + PAGE)
        yield f"{name}: lower", argument(ADDRESS[name], c.args[ADDRESS[name]] - PAGE)
    if name in PROTECTION:
        prot = c.args[PROTECTION[name]]
        yield f"{name}: other protection", argument(PROTECTION[name], prot ^ 1)
    if name == "mmap" and c.ext is not None and c.ext.f is not None:
        yield "mmap: other offset", argument(5, c.args[5] + PAGE)
    if c.ret is None:
        return
    failed = -4096 < c.ret < 0
    if name in {"mmap", "mremap", "brk"} and not failed:
        yield f"{name}: another result", altered(c, ret=c.ret + PAGE)
    yield (
        f"{name}: " + ("succeeded" if failed else "failed"),
        altered(c, ret=0 if failed else ENOMEM),
    )
    if c.ext is not None and c.ext.x is not None:
        for what, x in of_range(*c.ext.x):
            yield f"read back: {what}", altered(c, ext=msgspec.structs.replace(c.ext, x=x))


def of_range(
    low: int, high: int, lines: list[str]
) -> Iterator[tuple[str, tuple[int, int, list[str]]]]:
    if not lines:
        yield "a line more", (low, high, [f"{low:x}-{low + PAGE:x} rw-p 00000000 00:00 0"])
        return
    first, *rest = lines
    yield "a line less", (low, high, rest)
    yield "other permissions", (low, high, [swapped(first), *rest])


def swapped(line: str) -> str:
    """The line, readable if it was not, and the other way round."""
    place, perms, more = line.split(" ", 2)
    return f"{place} {'-' if perms[0] == 'r' else 'r'}{perms[1:]} {more}"


def of_life(record: Record) -> Iterator[tuple[str, dict[str, object]]]:
    if isinstance(record, Exec):
        yield "another mm", {"mm": record.mm + 1000}
        yield "a line less", {"maps": record.maps[1:]}
        yield "other permissions", {"maps": [swapped(record.maps[0]), *record.maps[1:]]}
        yield "another break", {"start_brk": record.start_brk + PAGE}
    elif isinstance(record, Fork):
        yield "of an unknown mm", {"mm": record.mm + 1000}
        yield "another child_mm", {"child_mm": record.child_mm + 1000}
        if record.mm > 1:
            yield "of the mm before", {"mm": record.mm - 1}
    elif isinstance(record, Clone | Gone):
        yield "another mm", {"mm": record.mm + 1000}
        if record.mm > 1:
            yield "the mm before", {"mm": record.mm - 1}


def chosen(trace: Recorded, rounds: int, seed: int) -> list[Mutation]:
    """Up to `rounds` of each kind, by chance."""
    kinds: dict[str, list[Mutation]] = defaultdict(list)
    for m in mutations(trace):
        kinds[m.kind].append(m)
    chance = random.Random(seed)
    return [
        m for _, found in sorted(kinds.items())
        for m in chance.sample(found, min(rounds, len(found)))
    ]  # fmt: skip


def judge(trace: Recorded) -> Callable[[Mutation], Sight]:
    """What the naive replay says of a mutation; it must reproduce the trace as it was recorded."""
    calls = trace.header.calls
    truth = Naive(calls)
    states = truth.run(trace.records)
    assert truth.wrong is None, f"the naive replay contradicts event {truth.wrong}"

    def sight(mutation: Mutation) -> Sight:
        naive = Naive(calls)
        records = mutation.of(trace.records)
        after = naive.run(records)
        if naive.wrong is not None:
            return "visible"
        same = states[: mutation.index] + states[mutation.index + (mutation.new is None) :]
        if any(a[mm] != b[mm] for a, b in zip(after, same, strict=True) for mm in a.keys() & b):
            return "possible" if naive.grown > truth.grown else "unseen"
        return "without effect"

    return sight
