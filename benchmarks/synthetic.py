# SPDX-License-Identifier: GPL-2.0-or-later
"""A trace of any length, as memtrace would have recorded it: for the speed of what reads traces.

One process with a given number of live mappings makes memory calls: malloc's mapped chunks and
their frees with headers, mappings of the program's own, part of them unmapped or re-protected,
mremap, a heap that grows and shrinks. A snapshot of the whole map stands after every so many calls.
Seeded: the same arguments give the same bytes.

    python benchmarks/synthetic.py -n 1000000 --mappings 500 -o big.json
"""

from __future__ import annotations

import argparse
import random
from typing import TYPE_CHECKING

from memtrace.space.address_space import AddressSpace
from memtrace.space.calls import EFFECTS, apply
from memtrace.space.canonical import MapsCache
from memtrace.space.seed import seed
from memtrace.trace.codec import Interner, encode, encode_footer, encode_header
from memtrace.trace.mapping import format_mapping
from memtrace.trace.records import (
    Call,
    Exec,
    Exit,
    Ext,
    FileId,
    Footer,
    Gone,
    Header,
    Libc,
    Snap,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS = sorted(EFFECTS)
_INDEX = {name: i for i, name in enumerate(CALLS)}
_PAGE = 4096
_LIBC = ("fe:00", 11, "/usr/lib/x86_64-linux-gnu/libc.so.6")
_EXE = ("fe:00", 12, "/usr/bin/synthetic")
_LOADER = ("fe:00", 13, "/usr/lib64/ld-linux-x86-64.so.2")
_START = (
    "555555554000-555555560000 r-xp 00000000 fe:00 12 /usr/bin/synthetic",
    "555555560000-555555562000 rw-p 0000c000 fe:00 12 /usr/bin/synthetic",
    "7ffff7fc0000-7ffff7ff0000 r-xp 00000000 fe:00 13 /usr/lib64/ld-linux-x86-64.so.2",
    "7ffff7ff0000-7ffff7ff2000 rw-p 00030000 fe:00 13 /usr/lib64/ld-linux-x86-64.so.2",
    "7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]",
)
_BRK = 0x555555564000
_TOP = 0x7FFF00000000
#: Who calls: malloc, the program itself, malloc through sbrk. Where from: ip, ret, outer.
LOADER, MALLOC, DIRECT, SBRK = range(4)
_PLACES = (
    ((*_LOADER, 0x20001), (*_LOADER, 0x9001), None),
    ((*_LIBC, 0x101001), (*_LIBC, 0x99001), None),
    ((*_LIBC, 0x101001), (*_EXE, 0x2000), None),
    ((*_LIBC, 0x101003), (*_LIBC, 0x99003), (*_LIBC, 0x99100)),
)


class Process:
    """The process that the trace is of, and its map."""

    def __init__(self, rng: random.Random, mappings: int) -> None:
        self.rng = rng
        self.mappings = mappings
        self.space = AddressSpace()
        self.cache = MapsCache()
        self.exec = Exec(
            t=0, pid=100, tid=100, mm=1, ppid=1, exe=_EXE[2], argv=["synthetic"], at_secure=False,
            env={"MALLOC_MMAP_THRESHOLD_": "131072"}, start_brk=_BRK, start_stack=0x7FFFFFFFE000,
            maps=list(_START), vm=0, rss=1,
        )  # fmt: skip
        seed(self.space, self.exec, self.cache.parse(_START))
        self.live: list[tuple[int, int, int]] = []  # address, bytes, site
        self.free: dict[int, list[int]] = {}  # bytes -> addresses that had it
        self.top = _TOP
        self.headers: list[tuple[int, int]] = []
        self.interner = Interner()
        self.seq = 0

    def place(self, size: int) -> int:
        """Where the kernel would map so much."""
        again = self.free.get(size)
        if again:
            return again.pop()
        self.top -= size + _PAGE * self.rng.randrange(3)
        return self.top

    def library(self) -> Call:
        """The C library's text, as the loader maps it."""
        file = FileId(9, *_LIBC)
        return self.call("mmap", [0, 0x200000, 5, 2, 3, 0], 0x7FFFF7D00000, LOADER, file)

    def call(
        self, name: str, args: list[int], ret: int, site: int, file: FileId | None = None
    ) -> Call:
        """One call's row, applied to the map."""
        apply(self.space, name, args, ret, None, file, self.cache)
        where, definition = self.interner.site(*_PLACES[site], direct=site != DIRECT)
        ext = None if file is None else Ext(f=self.interner.file(*_LIBC))
        if self.headers:
            back = [(self.seq + 1 - seq, word) for seq, word in self.headers]
            ext, self.headers = Ext(h=back), []
        vm = self.space.total // _PAGE
        if name == "mmap" and args[4:] == [0xFFFFFFFF, 0]:
            args = args[:4]
        return Call(
            90_000, 4_000, 100, 1, _INDEX[name], args, ret, definition or where, vm, vm // 2, ext
        )

    def next(self) -> Call:
        """The next call of a program that holds about so many mappings."""
        rng, live = self.rng, self.live
        roll = rng.random()
        if roll < 0.04:
            return self._brk()
        if roll < 0.10 and live:
            return self._partly()
        if len(live) < self.mappings or (rng.random() < 0.5 and len(live) < self.mappings * 1.1):
            site = MALLOC if rng.random() < 0.7 else DIRECT
            size = _PAGE * rng.choice((33, 34, 49, 65, 100, 129, 257))
            at = self.place(size)
            live.append((at, size, site))
            row = self.call("mmap", [0, size, 3, 0x22, 0xFFFFFFFF, 0], at, site)
            if site == MALLOC:  # read at the next call
                self.headers.append((self.seq + 1, size | 2))
            return row
        i = rng.randrange(len(live))
        live[i], live[-1] = live[-1], live[i]
        at, size, site = live.pop()
        self.free.setdefault(size, []).append(at)
        return self.call("munmap", [at, size], 0, site)

    def _brk(self) -> Call:
        space, rng = self.space, self.rng
        old = space.brk or _BRK
        grown = old - _BRK
        delta = -135168 if grown > 64 << 20 or (grown > 1 << 20 and rng.random() < 0.4) else 135168
        return self.call("brk", [old + delta], old + delta, SBRK)

    def _partly(self) -> Call:
        rng, live = self.rng, self.live
        i = rng.randrange(len(live))
        at, size, site = live[i]
        if site == DIRECT and size > 2 * _PAGE:
            pages = size // _PAGE
            if rng.random() < 0.5:
                low = rng.randrange(pages)
                prot = rng.choice((0, 1, 3))
                return self.call("mprotect", [at + low * _PAGE, _PAGE, prot], 0, DIRECT)
            live[i] = at, size - _PAGE, site
            return self.call("munmap", [at + size - _PAGE, _PAGE], 0, DIRECT)
        return self.call("madvise", [at + _PAGE, size - _PAGE, 4], 0, DIRECT)

    def snapshot(self, t: int, why: str) -> Snap:
        """The kernel's map, as it would be."""
        lines = [" ".join(format_mapping(m).split()) for m in self.space.mappings()]
        vm = self.space.total // _PAGE
        return Snap(t=t, mm=1, pid=100, tid=100, why=why, vm=vm, rss=vm // 2, minflt=self.seq,
                    majflt=0, hwm=vm // 2, maps=lines)  # fmt: skip


def trace(calls: int, mappings: int, every: int, number: int = 1) -> Iterator[bytes]:
    """The trace's bytes, line by line.

    Args:
        calls: memory calls in it.
        mappings: about so many live ones.
        every: calls between two snapshots.
        number: of the random series.
    """
    yield encode_header(
        Header(engine="ptrace", machine="x86_64", kernel="6.1", max_map_count=65530,
               argv=["synthetic"], calls=CALLS)
    )  # fmt: skip
    p = Process(random.Random(number), mappings)
    for record in (p.exec, p.library(), Libc(t=90_000, mm=1, path=_LIBC[2], version="2.36")):
        p.seq += 1
        yield encode(record)
    t = 90_000
    for n in range(1, calls + 1):
        row = p.next()
        p.seq += 1
        t += row.dt or 0
        yield encode(row)
        if n % every == 0:
            p.seq += 1
            yield encode(p.snapshot(t, "periodic"))
    p.seq += 1
    yield encode(p.snapshot(t, "exit"))
    yield encode(Exit(t=t, pid=100, tid=100, mm=1, code=0))
    yield encode(Gone(t=t, mm=1))
    counts = {"records": p.seq + 2, "calls": calls + 1}  # and the library's mmap
    yield encode_footer(Footer(stop=t, complete=True, counts=counts))


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--calls", type=int, default=1_000_000)
    parser.add_argument("--mappings", type=int, default=500)
    parser.add_argument("--every", type=int, default=1000, help="calls between two snapshots")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", default="synthetic.json")
    chosen = parser.parse_args()
    with open(chosen.output, "wb", buffering=1 << 20) as f:
        f.writelines(trace(chosen.calls, chosen.mappings, chosen.every, chosen.seed))


if __name__ == "__main__":
    main()
