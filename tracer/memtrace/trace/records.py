# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of a trace as values: what docs/trace-format.md describes, one class each.

Two shapes. A `Call` is the hot event, one memory syscall, stored as an array row whose column
names stand in the header. Everything else is a life-cycle record, stored as an object that names
itself in `rec`. Times `t` are nanoseconds since the trace's start, sizes `vm` and `rss` are pages
of /proc/PID/statm, addresses are integers, absent knowledge is None.

Compatibility: fields are only ever added, with a default; unknown fields are ignored and unknown
records kept (`Unknown`).
"""

from __future__ import annotations

from typing import Any

import msgspec

FORMAT = 1

#: The last two arguments (fd, offset) glibc gives an anonymous mmap. A row leaves them out when
#: they are exactly these, and the reader puts them back: nearly every mmap of a program is one.
MMAP_TAIL = [0xFFFFFFFF, 0]

#: Names of the columns of a call's row, in order; trailing ones may be left out.
COLUMNS = ("dt", "dur", "tid", "mm", "call", "args", "ret", "site", "vm", "rss", "ext")


class FileId(msgspec.Struct, frozen=True, gc=False):
    """A file behind a mapping, as the line of maps names it. Identity is (dev, ino); `path` is
    text.
    """

    id: int
    dev: str
    ino: int
    path: str


#: Of the machines that Linux runs on, in bytes.
PAGE_SIZES = (4096, 8192, 16384, 65536, 262144)

#: How exact a trace's times are, `Header.clock`.
CLOCKS = ("ns", "us", "ms", "s", "none")

#: A code address: [file id (or the file, at its first use), offset in the file]; an address in no
#: file is [None, address].
Place = tuple[int | FileId | None, int]


class Site(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a call was made from.

    `ip` is the instruction after the syscall, `ret` the return address of the function around it,
    where the call frame information of its file says that it is (glibc's munmap and brk push
    nothing, its mmap in some builds two registers); without such information, and in traces of
    before, the word at the stack pointer. `outer` is a further word of the frame: for brk sbrk's
    return address by the same information (None without it; in traces of before, [sp+0x20]), for
    mremap [sp+0x58]. Of an i386 call `ip` is in the function that put the call's number into eax,
    after its call of the vdso's `__kernel_vsyscall` or of what calls that; `ret`, and `outer` of a
    brk, are told by call frame information or not at all.
    `direct`, for an mmap whose `ip` and `ret` are in one file: whether the instruction before `ret`
    was seen to call the function that `ip` is in. False: `ret` may be the caller of a function that
    ended in a jump to mmap. For a brk the same of `ret` and `outer`, and sbrk; and of `ip` and
    `ret`, and brk. `base`, where the file of `ip` is mapped to be executed more than once: the
    address that its first byte has, or would have, in the mapping of `ip`.
    """

    id: int
    ip: Place
    ret: Place | None = None
    outer: Place | None = None
    direct: bool | None = None
    base: int | None = None


class Ext(msgspec.Struct, omit_defaults=True, gc=False):
    """What a call's row carries only sometimes.

    `f`: the file behind the new mapping. `x`: `[low, high, lines]`, the range as re-read from the
    kernel after the call: it replaces the range, whatever the call's arguments say. `h`: headers
    of malloc chunks peeked since the last record, `[how many records back the mmap is, size word]`
    each (low bits 0: the address of a meta of musl's malloc, which points back; 0: the words there
    were no header); the reader gives the mmap's sequence number.
    `abi`: "i386" or "x32" when not the native one. `raw`: the name of the call actually made
    (mmap2, old_mmap, ipc). `name`: the string of prctl(PR_SET_VMA). `personality`: the caller's
    (personality(2)), where it is not that of the address space's beginning and calls before.
    `layout`: `[start_brk, brk, start_stack]` as prctl(PR_SET_MM_MAP) has set them. `dontfork`:
    `[low, high, ranges]`: of [low, high), the ranges with VM_DONTCOPY after the call (smaps' `dc`).
    `freed`, of a munmap: the size word at the start of the mapping, and that of a chunk further in
    which memalign made (0: there is none), where the first is a mapped chunk's, and the size is
    larger than all before it, so that its free may move malloc's threshold.
    """

    f: int | FileId | None = None
    x: tuple[int, int, list[str]] | None = None
    h: list[tuple[int, int]] | None = None
    abi: str | None = None
    raw: str | None = None
    name: str | None = None
    personality: int | None = None
    layout: tuple[int, int, int] | None = None
    dontfork: tuple[int, int, list[tuple[int, int]]] | None = None
    freed: tuple[int, int] | None = None


class Call(msgspec.Struct, array_like=True, gc=False):
    """One memory syscall, in the order of application.

    `dt`: ns since the record before. `dur`: ns from entry to exit. `call`: index into the header's
    `calls`. `args`: the used arguments, signed 64-bit. `ret`: the kernel's signed return, None when
    the thread died inside. `vm`, `rss`: pages after the call. `dt`, `dur`: None where an imported
    log does not say.
    """

    dt: int | None
    dur: int | None
    tid: int
    mm: int
    call: int
    args: list[int]
    ret: int | None = None
    site: int | Site | None = None
    vm: int | None = None
    rss: int | None = None
    ext: Ext | None = None


class Life(msgspec.Struct, tag_field="rec", kw_only=True, omit_defaults=True):
    """Common to all life-cycle records: the time (None: an imported log without times), and chunk
    headers peeked since the last one.
    """

    t: int | None
    h: list[tuple[int, int]] | None = None


class Start(Life, kw_only=True):
    """Common to `Exec` and `Attach`: an address space `mm` of process `pid`, known from here on.

    It begins with `maps`. `start_stack` is field 28 and `start_brk` field 47 of /proc/PID/stat.
    `env` holds only GLIBC_TUNABLES, MALLOC_*, LD_PRELOAD, LD_LIBRARY_PATH and PYTHONMALLOC, as they
    were at the process's exec. `env_lost`: what it was is not known: the program has written over
    it, as setproctitle(3) does, or a name is there twice with two values, or an imported log does
    not show it. `assumed`: `maps` was not read from the kernel but inferred from the calls of an
    imported log: it holds only what these prove, and more may be mapped; `exe` is the path that
    execve was given.
    """

    pid: int
    mm: int
    ppid: int | None = None
    exe: str = ""
    argv: list[str] = []
    env: dict[str, str] = {}
    at_secure: bool | None = None
    personality: int = 0
    abi: str = ""
    start_brk: int = 0
    start_stack: int = 0
    rlimits: dict[str, int | None] = {}
    vm: int | None = None
    rss: int | None = None
    maps: list[str] = []
    env_lost: bool = False
    assumed: bool = False


class Exec(Start, tag="exec", kw_only=True):
    """A new address space; the first one of `run` is the traced program's.

    `tid` is the thread that called execve and has become `pid`. `old_mm` is what the process had
    before (None for the first). `withheld`: privileges that the file grants and the kernel did not
    give, because the program is traced: setuid, setgid, capabilities.
    """

    tid: int
    old_mm: int | None = None
    withheld: list[str] = []


class Attach(Start, tag="attach", kw_only=True):
    """An address space that is older than the trace: everything in `maps` was there before, and how
    it came about is not known.

    The break is known to the page only (the end of the [heap] line); the first brk tells it.
    `tids`: the process's traced tasks. `stacks`: (task, its stack pointer) where it was seen
    stopped. `dontfork`, `growsdown`: ranges with VM_DONTCOPY and VM_GROWSDOWN (smaps' `dc`, `gd`).
    `chunks`: (address, size word) of headers of chunks that malloc had mapped: at a mapping's start
    and chained from there (flag 2 set, a whole number of pages, inside the mapping). `groups`:
    (address, bytes, address of its meta) of what musl's malloc had mapped, likewise. `age_ns`: how
    long before the process was started. `why`: "attach" for the target, "fork" for a child whose
    parent is not known, "log" for a process that was there when an imported log began.
    """

    tids: list[int] = []
    stacks: list[tuple[int, int]] = []
    dontfork: list[tuple[int, int]] = []
    growsdown: list[tuple[int, int]] = []
    chunks: list[tuple[int, int]] = []
    groups: list[tuple[int, int, int]] = []
    age_ns: int | None = None
    why: str = "attach"


class Fork(Life, tag="fork"):
    """A copy of an address space: `child_mm` begins as `mm` less its MADV_DONTFORK parts."""

    pid: int
    tid: int
    mm: int
    child: int
    child_mm: int


class Clone(Life, tag="clone"):
    """A new task in the same address space: a thread (`child_pid` == `pid`), or a vfork,
    posix_spawn or CLONE_VM child process. `stack` is the stack pointer the child starts with, where
    known.
    """

    pid: int
    tid: int
    mm: int
    child: int
    child_pid: int
    flags: int | None = None
    stack: int | None = None


class Exit(Life, tag="exit"):
    """A task ended, by `code` or `signal`. A process's own status is its leader's (tid == pid)."""

    pid: int
    tid: int
    mm: int
    code: int | None = None
    signal: int | None = None


class Gone(Life, tag="gone"):
    """The last user of the address space is gone."""

    mm: int


class Snap(Life, tag="snap"):
    """The kernel's own map at this point, to be compared with the replayed one.

    `why`: fork, exec (before one), exit, detach, periodic, statm, unfinished, overlap, lost, stack
    (before a call on pages into which a stack may have grown), enomem (after a call that failed
    with it).

    At exit and detach: `resident`, of each line of `maps` the pages that smaps counts as Rss, and
    `present` for mappings without a name that are there in part: the line's index, then first page
    (from the mapping's) and number of pages of each run in memory.
    """

    mm: int
    pid: int
    tid: int
    why: str
    vm: int | None = None
    rss: int | None = None
    minflt: int | None = None
    majflt: int | None = None
    hwm: int | None = None
    resident: list[int] | None = None
    present: list[list[int]] = []
    maps: list[str] = []


class Libc(Life, tag="libc"):
    """A C library that was mapped: `name` glibc or musl, `version` as its banner says it."""

    mm: int
    path: str
    name: str = "glibc"
    version: str | None = None
    build_id: str | None = None


class Allocator(Life, tag="allocator"):
    """A file with executable pages that defines malloc, or holds the code of an allocator or of a
    runtime that has one, as the file itself shows; no C library: that is a `Libc`.

    `name` is whose code it is, "" if none that memtrace knows; `how` what shows it. `malloc`: the
    file defines `malloc` for others, so that the loader may choose it. `read`: False: it could not
    be read, or was no more what had been mapped, so that nothing is known of it.
    """

    mm: int
    path: str
    name: str = ""
    malloc: bool = False
    read: bool = True
    how: str = ""
    version: str | None = None
    build_id: str | None = None


class Overlap(Life, tag="overlap"):
    """Memory calls of one mm ran at the same time: their order is unknown. A snap follows."""

    mm: int
    tids: list[int] = []


class WalkedHeap(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One heap of glibc's malloc, its chunks followed from header to header.

    `kind`: "main", the brk heap from `base` (start_brk) to `end` (the break), or "arena", one heap
    of a thread arena, from `base` to `end`, of which libc has opened `opened` bytes (`mprotect`);
    `arena` is the base of that arena's first heap. `first`: the first chunk, `searched` if no call
    told where it is; the chain held up to `walked`. `complete`: it held to the end. If not,
    `problem` says why, and what is counted is None, except where only time was lacking: then it is
    of the chunks before `walked`.

    Bytes, chunk headers included: `used` (what thread caches and fast bins hold is in use for the
    headers), `free` in `free_chunks` of which the largest has `largest_free`, and `top`, (address,
    size), None in a heap that is not the arena's last, or where malloc has its top elsewhere.
    `other`: of no chunk. The four are `end` - `base` together. `pin`, (address, size): the used
    chunk right below the top; `below_pin` the size of the free chunk right below it, 0: none.
    `resident`: of pages in memory; `free_resident`, `top_resident`: of those, in whole pages of
    free chunks and of the top.
    """

    kind: str
    base: int
    end: int
    opened: int | None = None
    arena: int | None = None
    first: int | None = None
    searched: bool = False
    walked: int | None = None
    complete: bool = False
    problem: str | None = None
    chunks: int | None = None
    used: int | None = None
    used_chunks: int | None = None
    free: int | None = None
    free_chunks: int | None = None
    largest_free: int | None = None
    top: tuple[int, int] | None = None
    pin: tuple[int, int] | None = None
    below_pin: int | None = None
    other: int | None = None
    resident: int | None = None
    free_resident: int | None = None
    top_resident: int | None = None


class Walk(Life, tag="walk"):
    """The heaps of glibc's malloc, read before anything else happens to the address space.

    `why`: attach, peak (the break has been higher than ever), exec (before one), exit, detach.
    `took`: ns. `still`: none of its tasks ran meanwhile; if not, the numbers are of no one moment.
    `left_out`: heaps of arenas that were too many.
    """

    mm: int
    pid: int
    tid: int
    why: str
    took: int = 0
    still: bool = False
    heaps: list[WalkedHeap] = []
    left_out: int = 0


class Lost(Life, tag="lost"):
    """Something happened that this trace does not hold. `mm` None: anything may be missing."""

    why: str
    mm: int | None = None
    count: int | None = None


class Unknown(msgspec.Struct):
    """A record of a later format: kept, counted, not understood."""

    rec: str
    t: int
    data: dict[str, Any]


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a trace was recorded, as far as that decides what it can hold: the options of `run`.

    `evidence`: callers and chunk headers were read. `snapshots`: `default`, `off`, or `every=` with
    a time (`100ms`) or a number of calls. `heap_walk`: the heaps of malloc were walked. `redact`:
    texts of the program's own were left out.
    """

    evidence: bool
    snapshots: str
    heap_walk: bool
    redact: bool


class Header(msgspec.Struct, kw_only=True):
    """The first object of a trace: what is known before the target starts.

    `log`: the name of the log that the trace was imported from. `clock`: how exact its times are:
    "ns", "us", "ms", "s", or "none": no record has a time. `code`: executable files were looked
    into: one without an `allocator` or `libc` record holds nothing of either that could be told.
    `frames`: where a file has call frame information, `Site`'s return addresses are by it.
    `manner`: how it was recorded; None in traces of before, and of imported logs.
    """

    memtrace: str = "trace"
    format: int = FORMAT
    version: str = ""
    engine: str = ""
    machine: str = ""
    kernel: str = ""
    page_size: int = 4096
    cpus_online: int | None = None
    thp: str | None = None
    max_map_count: int | None = None
    overcommit: int | None = None
    argv: list[str] = []
    started: str = ""
    log: str | None = None
    clock: str = "ns"
    code: bool = False
    frames: bool = False
    manner: Manner | None = None
    columns: list[str] = msgspec.field(default_factory=lambda: list(COLUMNS))
    calls: list[str] = []


class Footer(msgspec.Struct, kw_only=True):
    """The last object of a trace. No footer: the trace is incomplete."""

    stop: int | None
    complete: bool
    reason: str = ""
    counts: dict[str, int] = {}


LifeRecord = (
    Exec | Attach | Fork | Clone | Exit | Gone | Snap | Libc | Allocator | Overlap | Walk | Lost
)
Record = Call | LifeRecord | Unknown
