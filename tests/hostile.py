# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces that no recorder writes: records that contradict each other, and far too many of them.

`CONTRADICTIONS`: small traces, each with the event whose record cannot be true. `LARGE`: streams of
records that grow with one number, each of one kind, to find what costs more than its share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.records import (
    Attach,
    Call,
    Clone,
    Exec,
    Exit,
    Ext,
    FileId,
    Footer,
    Fork,
    Gone,
    Header,
    Libc,
    Life,
    Lost,
    Overlap,
    Site,
    Snap,
    Walk,
    WalkedHeap,
)

CALLS = [
    "brk", "mmap", "munmap", "mremap", "mprotect", "pkey_mprotect", "madvise", "shmat", "shmdt",
    "remap_file_pages", "io_setup", "io_destroy", "prctl",
]  # fmt: skip
PAGE = 4096
ANON, FIXED_ANON, GROWSDOWN = 0x22, 0x32, 0x122
CODE = "400000-401000 r-xp 00000000 fe:00 9 /bin/a"
STACK = "7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]"
MAPS = [CODE, STACK]
BRK = 0x600000
#: Where the mappings of large traces are.
LOW = 0x10000000
Record = Call | Life


def call(name: str, args: list[int], ret: int | None = 0, *, mm: int = 1, **kw: Any) -> Call:
    """A row, ten ns after the record before."""
    return Call(10, 1, kw.pop("tid", 1), mm, CALLS.index(name), args, ret, **kw)


def mmap(at: int, length: int = PAGE, flags: int = ANON, prot: int = 3, **kw: Any) -> Call:
    """An anonymous mapping that the kernel put at `at`."""
    return call("mmap", [0, length, prot, flags, -1, 0], at, **kw)


def begun(t: int = 10, mm: int = 1, pid: int = 1, **kw: Any) -> Exec:
    """The exec that a program begins with."""
    facts = {"exe": "/bin/a", "argv": ["a"], "start_brk": BRK, "start_stack": 0x7FFFFFFFE000}
    return Exec(t=t, pid=pid, tid=pid, mm=mm, **{**facts, "maps": MAPS, **kw})


def snap(t: int, maps: list[str] | None = None, mm: int = 1, **kw: Any) -> Snap:
    """The kernel's word: by default that nothing has changed since the exec."""
    kw.setdefault("why", "periodic")
    return Snap(t=t, pid=1, tid=1, mm=mm, maps=MAPS if maps is None else maps, **kw)


def walk(t: int, heaps: int, mm: int = 1) -> Walk:
    """Some heaps of malloc, each a page larger than the one before."""
    return Walk(t=t, pid=1, tid=1, mm=mm, why="exit", heaps=[
        WalkedHeap(
            kind="arena", base=i << 26, end=(i << 26) + i * PAGE, arena=1 << 26, complete=True,
            chunks=1, used=i * PAGE, used_chunks=1, free=0, free_chunks=0, largest_free=0, other=0,
            resident=0, free_resident=0,
        )
        for i in range(1, heaps + 1)
    ])  # fmt: skip


def line(start: int, end: int, perms: str = "rw-p") -> str:
    """A line of maps, anonymous."""
    return f"{start:x}-{end:x} {perms} 00000000 00:00 0"


def header(**kw: Any) -> Header:
    """Of a trace that memtrace recorded itself."""
    return Header(engine="ptrace", calls=CALLS, argv=["a"], **kw)


def write(path: Path, records: Iterable[Record | bytes], head: Header | None = None) -> Path:
    """A complete trace of these records."""
    with path.open("wb") as f:
        f.write(encode_header(head or header()))
        for record in records:
            f.write(record if isinstance(record, bytes) else encode(record))
        f.write(encode_footer(Footer(stop=1 << 50, complete=True)))
    return path


# -- what contradicts itself ------------------------------------------------------------------


@dataclass(frozen=True)
class Contradiction:
    """`records` begin with event 1; what stands in `event` cannot be true."""

    records: list[Record]
    event: int


HUGE = {"2^63 - 1": (1 << 63) - 1, "2^63": -(1 << 63), "2^64 - 1": -1, "2^58": 1 << 58}
#: A map that is there at the end whatever the odd call was about.
END = snap(10_000)


def _two(first: Record, *more: Record) -> list[Record]:
    return [begun(), first, *more, END]


CONTRADICTIONS: dict[str, Contradiction] = {
    "a call before any exec": Contradiction([mmap(LOW), begun(20), END], 1),
    "no exec at all": Contradiction([mmap(LOW), snap(30)], 1),
    "a call in an unknown mm": Contradiction(_two(mmap(LOW, mm=7)), 2),
    "a snapshot of an unknown mm": Contradiction(_two(snap(20, mm=7)), 2),
    "a walk of the heaps of an unknown mm": Contradiction(_two(walk(20, 1, mm=7)), 2),
    "a fork of an unknown mm": Contradiction(
        _two(Fork(t=20, pid=1, tid=1, mm=7, child=2, child_mm=8)), 2
    ),
    "a clone in an unknown mm": Contradiction(
        _two(Clone(t=20, pid=1, tid=1, mm=7, child=2, child_pid=1)), 2
    ),
    "the end of an unknown mm": Contradiction(_two(Gone(t=20, mm=7)), 2),
    "a call after the end": Contradiction(
        [begun(), snap(20), Gone(t=20, mm=1), mmap(LOW), Gone(t=40, mm=1)], 4
    ),
    "a snapshot after the end": Contradiction([begun(), snap(20), Gone(t=20, mm=1), snap(30)], 4),
    "a second exec into the same mm": Contradiction(_two(begun(20)), 2),
    "an attach to a known mm": Contradiction(_two(Attach(t=20, pid=2, mm=1, maps=MAPS)), 2),
    "an attach to a known process": Contradiction(_two(Attach(t=20, pid=1, mm=2, maps=MAPS)), 2),
    "a fork into a known mm": Contradiction(
        _two(Fork(t=20, pid=1, tid=1, mm=1, child=2, child_mm=1)), 2
    ),
    "a fork into the mm of another": Contradiction(
        [begun(), begun(20, 2, 2), Fork(t=30, pid=1, tid=1, mm=1, child=3, child_mm=2), END], 3
    ),
    "an mmap on mapped pages": Contradiction(_two(mmap(0x400000)), 2),
    "an mmap half on mapped pages": Contradiction(_two(mmap(0x3FF000, 2 * PAGE)), 2),
    "a break that grows over a mapping": Contradiction(
        _two(mmap(BRK + PAGE), call("brk", [BRK + 4 * PAGE], BRK + 4 * PAGE)), 3
    ),
    "an mremap of nothing": Contradiction(
        _two(call("mremap", [LOW, PAGE, 2 * PAGE, 1], 2 * LOW)), 2
    ),
    "an mremap of nothing, in place": Contradiction(
        _two(call("mremap", [LOW, PAGE, 2 * PAGE, 1], LOW)), 2
    ),
    "a second mapping of nothing": Contradiction(
        _two(call("mremap", [LOW, 0, PAGE, 1], 2 * LOW)), 2
    ),
    "an mremap to nothing": Contradiction(
        _two(call("mremap", [0x400000, PAGE, 0, 1], 0x400000)), 2
    ),
    "a row with too few arguments": Contradiction(_two(call("mmap", [0], LOW)), 2),
    "a row with no arguments": Contradiction(_two(call("munmap", [])), 2),
    "lines of an exec that overlap": Contradiction(
        [begun(maps=[line(LOW, LOW + 2 * PAGE), line(LOW + PAGE, LOW + 3 * PAGE)]), snap(20)], 1
    ),
    "lines of an exec that are none": Contradiction([begun(maps=["x"]), snap(20)], 1),
    "lines of a snapshot that overlap": Contradiction(
        [begun(), snap(20, [*MAPS[:1], line(LOW, LOW + 2 * PAGE), line(LOW, LOW + PAGE), STACK])], 2
    ),
    "lines of a snapshot in no order": Contradiction([begun(), snap(20, MAPS[::-1])], 2),
    "lines of a snapshot that are none": Contradiction([begun(), snap(20, ["zz"]), END], 2),
    "a line of a snapshot that ends before it begins": Contradiction(
        [begun(), snap(20, [*MAPS[:1], line(LOW + PAGE, LOW), STACK]), END], 2
    ),
    "a range read back that is not maps text": Contradiction(
        _two(call("mprotect", [LOW, PAGE, 1], -12, ext=Ext(x=(LOW, LOW + PAGE, ["?"])))), 2
    ),
    "an address of a snapshot with a hundred digits": Contradiction(
        [begun(), snap(20, [*MAPS, f"{'f' * 100}-{'f' * 101} rw-p 0 00:00 0"]), END], 2
    ),
    "a total that is not the map's": Contradiction(_two(mmap(LOW, vm=1), mmap(2 * LOW, vm=2)), 2),
    "a chunk header of the future": Contradiction(
        _two(mmap(LOW, ext=Ext(h=[(-5, 0x1002)])), call("munmap", [LOW, PAGE])), 2
    ),
    "a chunk header of the header": Contradiction(
        _two(mmap(LOW, ext=Ext(h=[(2, 0x1002)])), call("munmap", [LOW, PAGE])), 2
    ),
    "a chunk header from before the file": Contradiction(
        _two(mmap(LOW, ext=Ext(h=[(1 << 62, 2)])), call("munmap", [LOW, PAGE])), 2
    ),
    "dontfork ranges that are none": Contradiction(
        [Attach(t=1, pid=1, mm=1, maps=MAPS, dontfork=[(5, 1)]), END], 1
    ),
    "chunks where nothing is mapped": Contradiction(
        [Attach(t=1, pid=1, mm=1, maps=MAPS, chunks=[(LOW, 0x21002)]), END], 1
    ),
    "a call's time that goes back": Contradiction(
        [begun(), Call(-5, 1, 1, 1, 0, [0], BRK), END], 2
    ),
    "a snapshot's time that goes back": Contradiction([begun(1000), snap(999), END], 2),
    "the time of an exec before the start": Contradiction([begun(-1), END], 1),
}
for _name, _n in HUGE.items():
    CONTRADICTIONS |= {
        f"an mmap of {_name} bytes": Contradiction(_two(mmap(LOW, _n)), 2),
        f"a fixed mmap of {_name} bytes": Contradiction(_two(mmap(LOW, _n, FIXED_ANON)), 2),
        f"a munmap of {_name} bytes": Contradiction(_two(call("munmap", [LOW, _n])), 2),
        f"a munmap at {_name}": Contradiction(_two(call("munmap", [_n, PAGE])), 2),
        f"an mprotect of {_name} bytes": Contradiction(_two(call("mprotect", [LOW, _n, 1])), 2),
        f"an mremap to {_name} bytes": Contradiction(
            _two(call("mremap", [0x400000, PAGE, _n, 1], LOW)), 2
        ),
        f"an mremap from {_name} bytes": Contradiction(
            _two(call("mremap", [0x400000, _n, PAGE, 1], LOW)), 2
        ),
        f"a range read back of {_name} bytes": Contradiction(
            _two(call("mprotect", [LOW, PAGE, 1], -12, ext=Ext(x=(0, _n, [])))), 2
        ),
    }
    if _n != -1:  # that as a result is EPERM
        CONTRADICTIONS |= {
            f"an mmap at {_name}": Contradiction(_two(mmap(_n)), 2),
            f"an mremap to address {_name}": Contradiction(
                _two(call("mremap", [0x400000, PAGE, PAGE, 1], _n)), 2
            ),
            f"a break at {_name}": Contradiction(_two(call("brk", [_n], _n)), 2),
        }


# -- far too many -----------------------------------------------------------------------------


def _times(record: Record, n: int) -> Iterator[bytes]:
    """The same line again and again."""
    text = encode(record)
    for _ in range(n):
        yield text


def snapshots(n: int) -> Iterator[Record | bytes]:
    """Small ones."""
    yield begun()
    yield from _times(snap(20), n)


def wide_snapshots(n: int, lines: int = 40_000) -> Iterator[Record | bytes]:
    """Of a large map each."""
    maps = [line(LOW + 2 * i * PAGE, LOW + (2 * i + 1) * PAGE) for i in range(lines)]
    yield begun(maps=maps)
    yield from _times(snap(20, maps), n)


def wide_drifting(n: int, lines: int = 2000) -> Iterator[Record | bytes]:
    """Snapshots of a large map, each of them another."""
    for i in range(n):
        low = LOW + (i & 1) * PAGE
        maps = [line(low + 2 * j * PAGE, low + (2 * j + 1) * PAGE) for j in range(lines)]
        yield begun(maps=maps) if i == 0 else snap(20 + i, maps)


def forks(n: int) -> Iterator[Record | bytes]:
    """Children of one parent; none of them ever calls, or ends."""
    yield begun()
    for i in range(n):
        yield Fork(t=20, pid=1, tid=1, mm=1, child=i + 2, child_mm=i + 2)
    yield END


def generations(n: int) -> Iterator[Record | bytes]:
    """Each child has one child."""
    yield begun()
    for i in range(1, n):
        yield Fork(t=20, pid=i, tid=i, mm=i, child=i + 1, child_mm=i + 1)
    yield END


def wide_forks(n: int) -> Iterator[Record | bytes]:
    """Children of a parent with 1,000 mappings."""
    maps = [line(LOW + 2 * i * PAGE, LOW + (2 * i + 1) * PAGE) for i in range(1000)]
    yield begun(maps=maps)
    for i in range(n):
        yield Fork(t=20, pid=1, tid=1, mm=1, child=i + 2, child_mm=i + 2)
    yield snap(30, maps)


def short_lives(n: int) -> Iterator[Record | bytes]:
    """Children that end at once."""
    yield begun()
    for i in range(2, n + 2):
        yield Fork(t=20, pid=1, tid=1, mm=1, child=i, child_mm=i)
        yield Exit(t=20, pid=i, tid=i, mm=i, code=0)
        yield Gone(t=20, mm=i)
    yield END


def execs(n: int) -> Iterator[Record | bytes]:
    """One process, an exec after the other."""
    for i in range(n):
        yield begun(t=20, mm=i + 1)
    yield snap(30, mm=n)


def attaches(n: int) -> Iterator[Record | bytes]:
    """A process each."""
    for i in range(1, n + 1):
        yield Attach(t=20, pid=i, mm=i, maps=MAPS, tids=[i])
    yield END


def libcs(n: int) -> Iterator[Record | bytes]:
    """Each another library."""
    yield begun()
    for i in range(n):
        yield Libc(t=20, mm=1, path=f"/lib/{i}", version="2.36")
    yield END


def walks(n: int) -> Iterator[Record | bytes]:
    """Heaps that are walked all the time, and grow."""
    yield begun()
    for i in range(n):
        yield walk(20, i % 50 + 1)
    yield END


def walked_heaps(n: int) -> Iterator[Record | bytes]:
    """Very many heaps in one."""
    yield begun()
    yield walk(20, n)
    yield END


def same_libcs(n: int) -> Iterator[Record | bytes]:
    """One library, told again and again."""
    yield begun()
    yield from _times(Libc(t=20, mm=1, path="/lib/libc.so.6", version="2.36"), n)
    yield END


def libcs_inherited(n: int) -> Iterator[Record | bytes]:
    """Many libraries, then as many forks."""
    yield begun()
    for i in range(n):
        yield Libc(t=20, mm=1, path=f"/lib/{i}", version="2.36")
    for i in range(n):
        yield Fork(t=20, pid=1, tid=1, mm=1, child=i + 2, child_mm=i + 2)
    yield END


def threads(n: int) -> Iterator[Record | bytes]:
    """None of them ever ends."""
    yield begun()
    for i in range(n):
        yield Clone(t=20, pid=1, tid=1, mm=1, child=i + 2, child_pid=1, stack=0x7FFFFFFFE000)
    yield END


def sharers(n: int) -> Iterator[Record | bytes]:
    """Processes in one address space (CLONE_VM)."""
    yield begun()
    for i in range(n):
        yield Clone(t=20, pid=1, tid=1, mm=1, child=i + 2, child_pid=i + 2)
    yield END


def sharers_that_end(n: int) -> Iterator[Record | bytes]:
    """Processes in one address space, each ends before the next."""
    yield begun()
    for i in range(2, n + 2):
        yield Clone(t=20, pid=1, tid=1, mm=1, child=i, child_pid=i)
        yield Exit(t=20, pid=i, tid=i, mm=1, code=0)
    yield END


def spawns(n: int) -> Iterator[Record | bytes]:
    """posix_spawn: a child in the same address space that execs."""
    yield begun()
    for i in range(2, n + 2):
        yield Clone(t=20, pid=1, tid=1, mm=1, child=i, child_pid=i)
        yield begun(20, mm=i, pid=i)
    yield END


def mappings(n: int) -> Iterator[Record | bytes]:
    """Each below the last, none merges."""
    yield begun()
    for i in range(n, 0, -1):
        yield mmap(LOW + 2 * i * PAGE)
    yield END


def mappings_scattered(n: int) -> Iterator[Record | bytes]:
    """At places all over the space."""
    yield begun()
    for i in range(n):
        yield mmap(LOW + (i * 0x9E3779B1 % (1 << 30)) * 2 * PAGE)
    yield END


def pairs(n: int) -> Iterator[Record | bytes]:
    """A mapping that comes and goes."""
    yield begun()
    two = encode(mmap(LOW)) + encode(call("munmap", [LOW, PAGE]))
    for _ in range(n):
        yield two
    yield END


def cuts(n: int) -> Iterator[Record | bytes]:
    """A large mapping, page by page made holes."""
    yield begun()
    yield mmap(LOW, 2 * n * PAGE)
    for i in range(n):
        yield call("munmap", [LOW + 2 * i * PAGE, PAGE])
    yield END


def splits(n: int) -> Iterator[Record | bytes]:
    """A large mapping, every second page protected."""
    yield begun()
    yield mmap(LOW, 2 * n * PAGE)
    for i in range(n):
        yield call("mprotect", [LOW + 2 * i * PAGE, PAGE, 1])
    yield END


def growing(n: int) -> Iterator[Record | bytes]:
    """MAP_GROWSDOWN pieces, then snapshots that each show them all grown."""
    yield begun()
    step = 1000 * PAGE
    for i in range(n):
        yield mmap(LOW + (i + 1) * step, flags=GROWSDOWN)
    for k in range(1, 9):
        grown = [
            line(LOW + (i + 1) * step - k * PAGE, LOW + (i + 1) * step + PAGE) for i in range(n)
        ]
        yield snap(1 << 40, [CODE, *grown, STACK])


def growing_once(n: int) -> Iterator[Record | bytes]:
    """MAP_GROWSDOWN pieces that have all grown at the one snapshot."""
    yield begun()
    for i in range(1, n + 1):
        yield mmap(LOW + i * 9 * PAGE, flags=GROWSDOWN)
    grown = [line(LOW + (i * 9 - 1) * PAGE, LOW + (i * 9 + 1) * PAGE) for i in range(1, n + 1)]
    yield snap(1 << 40, [CODE, *grown, STACK])


def growing_gone(n: int) -> Iterator[Record | bytes]:
    """MAP_GROWSDOWN pieces that the one snapshot knows nothing of."""
    yield begun()
    for i in range(1, n + 1):
        yield mmap(LOW + i * 9 * PAGE, flags=GROWSDOWN)
    yield END


def moved(n: int) -> Iterator[Record | bytes]:
    """One mapping, moved again and again."""
    yield begun()
    yield mmap(LOW)
    two = encode(call("mremap", [LOW, PAGE, PAGE, 3, 2 * LOW], 2 * LOW)) + encode(
        call("mremap", [2 * LOW, PAGE, PAGE, 3, LOW], LOW)
    )
    for _ in range(n):
        yield two
    yield END


def copied(n: int) -> Iterator[Record | bytes]:
    """MREMAP_DONTUNMAP: one mapping that is in more and more places."""
    yield begun()
    yield mmap(LOW)
    for i in range(1, n + 1):
        yield call("mremap", [LOW, PAGE, PAGE, 5, 0], LOW + 2 * i * PAGE)
    yield END


def breaks(n: int) -> Iterator[Record | bytes]:
    """A heap that grows and shrinks."""
    yield begun()
    two = encode(call("brk", [BRK + PAGE], BRK + PAGE)) + encode(call("brk", [BRK], BRK))
    for _ in range(n):
        yield two
    yield END


def growing_heap(n: int) -> Iterator[Record | bytes]:
    """A heap that only grows."""
    yield begun()
    for i in range(1, n + 1):
        yield call("brk", [BRK + i * PAGE], BRK + i * PAGE)
    yield END


def homeless(n: int) -> Iterator[Record | bytes]:
    """Calls in an address space that nothing began."""
    yield begun()
    yield from _times(mmap(LOW, mm=9), n)
    yield END


def headers_in_one(n: int) -> Iterator[Record | bytes]:
    """Chunk headers of the same mmap, all with one record."""
    yield begun()
    yield mmap(LOW)
    yield call("munmap", [LOW, PAGE], ext=Ext(h=[(1, 0x1002)] * n))
    yield END


def headers_anywhere(n: int) -> Iterator[Record | bytes]:
    """Chunk headers of every event there was."""
    yield begun()
    for i in range(n):
        yield mmap(LOW + 2 * i * PAGE, ext=Ext(h=[(i * 7919 % (i + 1), 0x1002)]))
    yield END


def sharing_headers(n: int) -> Iterator[Record | bytes]:
    """Two address spaces take turns, so that each call has another owner than the one before."""
    yield begun()
    yield begun(20, mm=2, pid=2)
    two = encode(mmap(LOW)) + encode(mmap(LOW, mm=2))
    two += encode(call("munmap", [LOW, PAGE])) + encode(call("munmap", [LOW, PAGE], mm=2))
    for _ in range(n):
        yield two
    yield END


def attached_chunks(n: int) -> Iterator[Record | bytes]:
    """One attach with many chunks, each on a line of its own."""
    places = [LOW + 2 * i * PAGE for i in range(n)]
    maps = [line(p, p + PAGE) for p in places]
    yield Attach(t=1, pid=1, mm=1, maps=[CODE, *maps, STACK], chunks=[(p, 0x1002) for p in places])
    yield snap(20, [CODE, *maps, STACK])


def attached_chunks_chained(n: int) -> Iterator[Record | bytes]:
    """One attach with many chunks on one line."""
    low, high = LOW, LOW + n * PAGE
    maps = [CODE, line(low, high), STACK]
    chunks = [(p, 0x1002) for p in range(low, high, PAGE)]
    yield Attach(t=1, pid=1, mm=1, maps=maps, chunks=chunks)
    yield snap(20, maps)


def attached_stacks(n: int) -> Iterator[Record | bytes]:
    """One attach with many tasks, the stack of each on a line of its own."""
    maps = [line(LOW + 2 * i * PAGE, LOW + (2 * i + 1) * PAGE) for i in range(n)]
    stacks = [(i + 1, LOW + 2 * i * PAGE + 64) for i in range(n)]
    maps = [CODE, *maps, STACK]
    yield Attach(t=1, pid=1, mm=1, maps=maps, tids=[t for t, _ in stacks], stacks=stacks)
    yield snap(20, maps)


def attached_stacks_in_one(n: int) -> Iterator[Record | bytes]:
    """One attach with many tasks, all on one stack."""
    stacks = [(i + 1, 0x7FFFFFFFE000) for i in range(n)]
    yield Attach(t=1, pid=1, mm=1, maps=MAPS, tids=[t for t, _ in stacks], stacks=stacks)
    yield END


def attached_dontfork(n: int) -> Iterator[Record | bytes]:
    """One attach with many ranges that a child does not get, and ranges that grow, on one line."""
    maps = [CODE, line(LOW, LOW + 2 * n * PAGE), STACK]
    ranges = [(LOW + 2 * i * PAGE, LOW + (2 * i + 1) * PAGE) for i in range(n)]
    yield Attach(t=1, pid=1, mm=1, maps=maps, dontfork=ranges, growsdown=ranges)
    yield snap(20, maps)


def attached_dontfork_lines(n: int) -> Iterator[Record | bytes]:
    """The same, each range a line, and the same ranges over and over."""
    ranges = [(LOW + 2 * i * PAGE, LOW + (2 * i + 1) * PAGE) for i in range(n)]
    maps = [CODE, *(line(*r) for r in ranges), STACK]
    yield Attach(t=1, pid=1, mm=1, maps=maps, dontfork=ranges * 2, growsdown=ranges)
    yield snap(20, maps)


def shm_detached(n: int) -> Iterator[Record | bytes]:
    """Segments attached, all before any is detached."""
    yield begun()
    for i in range(n):
        a = LOW + 2 * i * PAGE
        text = f"{a:x}-{a + PAGE:x} rw-s 00000000 00:01 {i + 1} /SYSV00000000 (deleted)"
        yield call("shmat", [i, 0, 0], a, ext=Ext(x=(a, a + PAGE, [text])))
    for i in range(n):
        yield call("shmdt", [LOW + 2 * i * PAGE])
    yield END


def protected_all(n: int) -> Iterator[Record | bytes]:
    """A large map protected whole, a hundredth as many times as it has pieces."""
    yield begun()
    for i in range(n):
        yield mmap(LOW + i * PAGE)
    for i in range(n // 100):
        yield call("mprotect", [LOW, n * PAGE, 1 + 2 * (i & 1)])
    yield END


def sites(n: int) -> Iterator[Record | bytes]:
    """Each call from a place and a file of its own."""
    yield begun()
    for i in range(1, n + 1):
        site = Site(i, (FileId(i, "fe:00", i, f"/lib/{i}"), 5), (i, 9))
        yield call("brk", [0], BRK, site=site)
    yield END


def files(n: int) -> Iterator[Record | bytes]:
    """Each mapping of a file of its own, one in the place of the other; then forks."""
    yield begun()
    for i in range(1, n + 1):
        ext = Ext(f=FileId(i, "fe:00", i, f"/lib/{i}"))
        yield call("mmap", [LOW, PAGE, 1, 0x12, 3, 0], LOW, ext=ext)
    for i in range(n // 100):
        yield Fork(t=1 << 40, pid=1, tid=1, mm=1, child=i + 2, child_mm=i + 2)
    yield snap(1 << 40)


def named(n: int) -> Iterator[Record | bytes]:
    """One range, each time with another name."""
    yield begun()
    yield mmap(LOW)
    for i in range(n):
        args = [0x53564D41, 0, LOW, PAGE, 1]
        yield call("prctl", args, ext=Ext(name=f"n{i}"))
    yield END


def lost(n: int) -> Iterator[Record | bytes]:
    """Losses and overlaps."""
    yield begun()
    for _ in range(n):
        yield Lost(t=20, why="x", mm=1)
        yield Overlap(t=20, mm=1, tids=[1, 2])
    yield END


def exits(n: int) -> Iterator[Record | bytes]:
    """Of a thread that nobody knows."""
    yield begun()
    yield from _times(Exit(t=20, pid=1, tid=77, mm=1, code=0), n)
    yield END


def refused(n: int) -> Iterator[Record | bytes]:
    """Calls that failed, with what the kernel showed after each."""
    yield begun()
    ext = Ext(x=(0x400000, 0x402000, [CODE]))
    yield from _times(call("mprotect", [0x400000, 2 * PAGE, 5], -12, ext=ext), n)
    yield END


Large = Callable[[int], Iterator[Record | bytes]]
LARGE: dict[str, Large] = {
    f.__name__: f
    for f in (
        snapshots, wide_snapshots, wide_drifting, forks, generations, wide_forks, short_lives,
        execs, attaches, libcs, same_libcs, libcs_inherited, walks,
        walked_heaps, threads, sharers, sharers_that_end,
        spawns, mappings, mappings_scattered, pairs, cuts, splits, growing, growing_once,
        growing_gone, moved, copied, breaks, growing_heap, homeless, headers_in_one,
        headers_anywhere, sharing_headers, attached_chunks, attached_chunks_chained,
        attached_stacks, attached_stacks_in_one, attached_dontfork, attached_dontfork_lines,
        shm_detached, protected_all, sites, files, named, lost, exits, refused,
    )
}  # fmt: skip

#: These contradict their last snapshot, or themselves, or are lost; the others are exact.
WRONG = {
    "wide_drifting", "libcs", "libcs_inherited", "mappings", "mappings_scattered", "cuts", "splits",
    "growing_gone", "moved", "copied", "growing_heap", "homeless", "headers_anywhere",
    "sharing_headers", "protected_all", "files", "named", "lost",
}  # fmt: skip
#: How many make a large trace, where it is not the same number as for the others.
SIZES = {
    "wide_snapshots": 40, "wide_drifting": 500, "wide_forks": 2000, "shm_detached": 4000,
    "protected_all": 10_000,
}  # fmt: skip
#: What there is to do grows with the square of their number: each call is about the whole map.
SQUARE = {"protected_all", "shm_detached"}
