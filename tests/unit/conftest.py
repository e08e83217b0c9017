# SPDX-License-Identifier: GPL-2.0-or-later
"""`scene`: a trace written by hand, call by call, through the real codec.

It stands for a program on x86-64: what it maps gets the addresses the kernel could have given.
Who calls is named: "malloc" (from libc's text), "loader", "program" (through libc's wrapper),
"sbrk" (the program's own), "sbrk of PATH", "inline" (the system call
instruction stands in the program), "thread" (a function that libc's start_thread called, by a
jump), "raw PATH" (as inline, in that file), or the path of a library, from another place of it with
" elsewhere" behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memtrace.report.build import build, of_process
from memtrace.report.model import ProcessRow, RegionRow, Report
from memtrace.trace.codec import Interner, encode, encode_footer, encode_header
from memtrace.trace.reader import Trace
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
    Site,
)

EXE, LD, LIBC = "/bin/prog", "/lib/ld-linux-x86-64.so.2", "/lib/libc.so.6"
HEAP = 0x1000000
TOP = 0x7F0000000000
CALLS = [
    "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "prctl", "shmat", "mlockall",
    "munlockall",
]  # fmt: skip
MAPS = [
    f"400000-401000 r-xp 00000000 fe:00 1 {EXE}",
    f"402000-403000 rw-p 00002000 fe:00 1 {EXE}",
    "7ff000000000-7ff000020000 r-xp 00000000 fe:00 2 " + LD,
    "7ff000020000-7ff000022000 rw-p 00000000 00:00 0",
    "7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]",
    "7fffffffd0000000-7fffffffd0002000 r-xp 00000000 00:00 0 [vdso]".replace(
        "7fffffffd0", "7ffed0"
    ),
]
INODES = {EXE: 1, LD: 2, LIBC: 3}


class Scene:
    """Writes records; `report()` reads them back. Addresses of mmaps go down from `TOP`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Call | Life] = []
        self.names = Interner()
        self.top = TOP
        self.brks: dict[int, int] = {}
        self.tid = self.mm = 1
        self.header = Header(engine="test", machine="x86_64", calls=CALLS, max_map_count=65530)
        self.pending: list[tuple[int, int]] | None = None
        self.complete = True
        self.base: int | None = None  # of the C library that calls, where it is mapped twice
        self.footer: Footer | None = None

    @property
    def seq(self) -> int:
        """The number of the last record."""
        return len(self.records)

    # -- life -----------------------------------------------------------------------------------

    def exec(self, mm: int = 1, *, maps: list[str] | None = None, **facts: Any) -> Scene:
        self.mm = mm
        self.brks[mm] = facts.get("start_brk", HEAP)
        facts.setdefault("start_brk", HEAP)
        facts.setdefault("start_stack", 0x7FFFFFFFE000)
        facts.setdefault("exe", EXE)
        facts.setdefault("argv", ["prog"])
        facts.setdefault("at_secure", False)
        facts.setdefault("pid", 1)
        facts.setdefault("tid", facts["pid"])
        self.records.append(Exec(t=self._t(), mm=mm, maps=MAPS if maps is None else maps, **facts))
        self.tid = facts["tid"]
        return self

    def attach(
        self, maps: list[str], mm: int = 1, *, brk: int = HEAP, libc: str = "2.36", **facts: Any
    ) -> Scene:
        """A program in mid-life: MAPS, its libc and `maps`; `brk` is the true break."""
        self.mm = mm
        self.brks[mm] = brk
        facts.setdefault("start_brk", HEAP)
        facts.setdefault("start_stack", 0x7FFFFFFFE000)
        facts.setdefault("exe", EXE)
        facts.setdefault("argv", ["prog"])
        facts.setdefault("at_secure", False)
        facts.setdefault("pid", 1)
        facts.setdefault("tids", [facts["pid"]])
        facts.setdefault("age_ns", 90 * 10**9)
        library = [
            f"7fe000000000-7fe000026000 r--p 00000000 fe:00 3 {LIBC}",
            f"7fe000026000-7fe000126000 r-xp 00026000 fe:00 3 {LIBC}",
            f"7fe000126000-7fe000128000 rw-p 00126000 fe:00 3 {LIBC}",
        ]
        every = [*MAPS, *(library if libc else []), *maps]
        every.sort(key=lambda line: int(line.partition("-")[0], 16))
        self.records.append(Attach(t=self._t(), mm=mm, maps=every, **facts))
        self.tid = facts["pid"]
        if libc:
            self.life(Libc(t=self._t(), mm=mm, path=LIBC, version=libc))
        return self

    def detach(self) -> Scene:
        """Memtrace leaves; what ran runs on."""
        self.footer = Footer(stop=self.seq + 1, complete=True, reason="detached")
        return self

    def glibc(self, version: str = "2.36", **exec_facts: Any) -> Scene:
        """A dynamic program with glibc, mapped by the loader."""
        self.exec(**exec_facts)
        self.library(LIBC)
        return self.life(Libc(t=self._t(), mm=self.mm, path=LIBC, version=version))

    def library(self, path: str) -> Scene:
        base = self._place(0x200000)
        flags = 0x802
        self.call("mmap", [0, 0x200000, 1, flags, 3, 0], base, by="loader", file=path)
        self.call("mmap", [base + 0x26000, 0x100000, 5, flags | 0x10, 3, 0x26000], base + 0x26000,
                  by="loader", file=path)  # fmt: skip
        return self

    def _headers(self) -> list[tuple[int, int]]:
        """The pending headers as the next record carries them: so many records back."""
        assert self.pending is not None
        seq, pending, self.pending = len(self.records) + 1, self.pending, None
        return [(seq - mmap, word) for mmap, word in pending]

    def life(self, record: Life) -> Scene:
        if self.pending is not None:
            record.h = self._headers()
        self.records.append(record)
        return self

    def fork(self, child_mm: int, pid: int = 2) -> Scene:
        self.life(
            Fork(t=self._t(), pid=self.tid, tid=self.tid, mm=self.mm, child=pid, child_mm=child_mm)
        )
        self.brks[child_mm] = self.brks[self.mm]
        return self

    def as_(self, mm: int, tid: int) -> Scene:
        """Whose calls follow."""
        self.mm, self.tid = mm, tid
        return self

    def clone(self, tid: int, stack: int | None) -> Scene:
        return self.life(
            Clone(
                t=self._t(),
                pid=1,
                tid=1,
                mm=self.mm,
                child=tid,
                child_pid=1,
                flags=0x3D0F00,
                stack=stack,
            )
        )

    def exit(self, code: int = 0) -> Scene:
        self.life(Exit(t=self._t(), pid=self.tid, tid=self.tid, mm=self.mm, code=code))
        return self.life(Gone(t=self._t(), mm=self.mm))

    def lost(self) -> Scene:
        return self.life(Lost(t=self._t(), why="test"))

    # -- calls ----------------------------------------------------------------------------------

    def call(
        self,
        name: str,
        args: list[int],
        ret: int | None,
        *,
        by: str = "malloc",
        file: str = "",
        ext: Ext | None = None,
        tid: int | None = None,
        vm: int | None = None,
    ) -> int:
        ext = ext or (Ext() if file or self.pending is not None else None)
        if file:
            assert ext is not None
            ext.f = self._file(file)
        if self.pending is not None:
            assert ext is not None
            ext.h = self._headers()
        site = self._site(by)
        self.records.append(
            Call(
                1000,
                10,
                tid or self.tid,
                self.mm,
                CALLS.index(name),
                args,
                ret,
                site,
                vm,
                None,
                ext,
            )
        )
        return self.seq

    def brk(self, delta: int, by: str = "malloc", **kw: Any) -> int:
        old = self.brks[self.mm]
        self.brks[self.mm] = old + delta
        return self.call("brk", [old + delta], old + delta, by=by, **kw)

    def query(self) -> int:
        return self.call("brk", [0], self.brks[self.mm], by="malloc")

    def refused(self, delta: int, by: str = "malloc", **kw: Any) -> int:
        old = self.brks[self.mm]
        return self.call("brk", [old + delta], old, by=by, **kw)

    def mmap(
        self,
        length: int,
        by: str = "malloc",
        *,
        prot: int = 3,
        flags: int = 0x22,
        at: int = 0,
        ret: int | None = None,
        **kw: Any,
    ) -> int:
        """Returns the address."""
        address = self._place(length) if ret is None else ret
        fd = -1 if flags & 0x20 else 3
        self.call("mmap", [at, length, prot, flags, fd, 0], address, by=by, **kw)
        return address

    def munmap(self, address: int, length: int, by: str = "malloc", **kw: Any) -> int:
        return self.call("munmap", [address, length], 0, by=by, **kw)

    def seen(self, mmap_seq: int, word: int) -> Scene:
        """The next record carries this word, read in the mapping born at `mmap_seq`."""
        self.pending = [*(self.pending or []), (mmap_seq, word)]
        return self

    def chunk(self, length: int, **kw: Any) -> int:
        """A mapped chunk of malloc's, whose header is read at the thread's next call."""
        address = self.mmap(length, **kw)
        born = self.seq
        self.seen(born, length | 2).query()
        return address

    # -- result ---------------------------------------------------------------------------------

    def write(self) -> Path:
        body = b"".join(encode(r) for r in self.records)
        footer = self.footer or Footer(stop=self.seq + 1, complete=True)
        foot = encode_footer(footer) if self.complete else b""
        self.path.write_bytes(encode_header(self.header) + body + foot)
        return self.path

    def report(self, pid: int | None = None) -> Report:
        report = build(Trace(self.write()))
        return report if pid is None else of_process(report, pid)

    def process(self, index: int = 0) -> ProcessRow:
        return self.report().processes[index]

    def region(self, seq: int, index: int = 0) -> RegionRow:
        """The region born at this record."""
        (row,) = [r for r in self.process(index).regions if r.born_seq == seq]
        return row

    # -- inside ---------------------------------------------------------------------------------

    def _t(self) -> int:
        return 1000 * len(self.records)

    def _place(self, length: int) -> int:
        self.top -= -(-length // 4096) * 4096 + 0x10000
        return self.top

    def _file(self, path: str) -> int | FileId:
        return self.names.file("fe:00", INODES.setdefault(path, len(INODES) + 1), path)

    def _site(self, by: str) -> int | Site | None:
        def place(path: str, offset: int) -> tuple[str, int, str, int]:
            return "fe:00", INODES.setdefault(path, len(INODES) + 1), path, offset

        places: dict[str, tuple[Any, ...]] = {
            "malloc": (place(LIBC, 0x100), place(LIBC, 0x200), place(LIBC, 0x300)),
            "loader": (place(LD, 0x100), place(LD, 0x200), None),
            "program": (place(LIBC, 0x100), place(EXE, 0x200), None),
            "sbrk": (place(LIBC, 0x100), place(LIBC, 0x210), place(EXE, 0x300)),
            "thread": (place(LIBC, 0x100), place(LIBC, 0x900), None),
            "inline": (place(EXE, 0x100), place(EXE, 0x200), None),
        }
        if by == "":
            return None
        if by.startswith("sbrk of "):
            places[by] = place(LIBC, 0x100), place(LIBC, 0x210), place(by[8:], 0x300)
        if by.startswith("raw "):
            places[by] = place(by[4:], 0x100), place(by[4:], 0x200), None
        path, elsewhere, _ = by.partition(" elsewhere")
        at = place(path, 0x900 if elsewhere else 0x200)
        words = places.get(by, (place(LIBC, 0x100), at, None))
        n, site = self.names.site(*words, base=self.base)
        return site if site is not None else n


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """An empty trace to fill."""
    return Scene(tmp_path / "trace.json")


@pytest.fixture
def scenes(tmp_path: Path) -> Callable[[str], Scene]:
    """More than one, by name."""
    return lambda name: Scene(tmp_path / f"{name}.json")
