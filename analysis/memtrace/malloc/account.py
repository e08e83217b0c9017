# SPDX-License-Identifier: GPL-2.0-or-later
"""One address space's account: regions, heap, arenas and threshold, as its calls tell them.

`Accounts` (accounts.py) brings it the records of a replay. What is decided where: who called in
`caller.py`, kinds in `origin.py` (of what an attach finds in `older.py`), their verdicts in
`verdicts.py`, sums in `regions.py`, the break in `heap.py` and `judge.py`, which malloc it is in
`mallocs.py`, the threshold in `threshold.py`. This file only brings the calls to them.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from memtrace.malloc import beginnings, older, origin
from memtrace.malloc.allocator import RUNTIMES
from memtrace.malloc.arenas import Arenas
from memtrace.malloc.beginnings import Legacy
from memtrace.malloc.caller import (
    LIBC,
    LIBRARY,
    LOADER,
    PROGRAM,
    STATIC,
    UNKNOWN,
    Callers,
    owner_of,
)
from memtrace.malloc.chunks import Chunks
from memtrace.malloc.churn import NEAR, Churn
from memtrace.malloc.copies import Key
from memtrace.malloc.heap import Heap
from memtrace.malloc.judge import Judge
from memtrace.malloc.limits import Refusals
from memtrace.malloc.mallocng import Metadata
from memtrace.malloc.mallocs import Mallocs
from memtrace.malloc.origin import Decision, Scene
from memtrace.malloc.populated import locks_future
from memtrace.malloc.regions import Region, Regions
from memtrace.malloc.resident import Look, resident_by_kind
from memtrace.malloc.runtimes import Runtimes
from memtrace.malloc.sequences import MADV_DONTNEED, Sequences
from memtrace.malloc.tags import Tags
from memtrace.malloc.threads import Threads
from memtrace.malloc.threshold import Threshold
from memtrace.malloc.verdicts import excluded, hold, last_word, rule_on
from memtrace.malloc.walks import Walks, is_sound
from memtrace.replay.process import Process
from memtrace.space.address_space import AddressSpace, Piece
from memtrace.space.calls import MAP_FIXED, MAP_PRIVATE, MAP_TYPE, PROT_READ, Change
from memtrace.space.canonical import Attr
from memtrace.space.compare import Comparison
from memtrace.trace.records import Allocator, Attach, Call, Clone, Exec, Libc, Site, Snap, Walk
from memtrace.trace.sizes import round_up

#: Ways of mapping whose judgement is remembered.
_REMEMBERED = 4096
#: A chunk by its caller alone, when another place of libc is known to be malloc's, or malloc would
#: not have mapped it. The word at the stack pointer is in libc also when a function that libc had
#: called (start_thread, a signal handler) ended in a jump to mmap.
_ELSEWHERE = Decision("unknown", "none", None, ("malloc-chunk", "anon"), "header")
#: As large as an arena of CPython's, from another place of the interpreter.
_PERHAPS_PYMALLOC = Decision("unknown", "none", None, ("runtime-heap", "anon"))
#: What lies right above the heap: what malloc maps where a brk has failed, or anything else.
_BESIDE_THE_HEAP = ("main-arena", "malloc-chunk", "anon")
#: What only programs without a loader hold of a C library.
_LINKED_IN = frozenset({"glibc", "musl", "valgrind"})
#: Whose munmap is not malloc's, and whose may be.
CLONE_VFORK = 0x4000
_ELSEWHERE_THAN_LIBC, _PERHAPS_LIBC = (PROGRAM, LIBRARY), (LIBC, STATIC, UNKNOWN)
#: Calls of most of a trace, which no arena makes of its reservation.
_MAPPING = frozenset({"mmap", "munmap"})
_LOCKING = frozenset({"mlockall", "munlockall"})
#: Calls that a mapping may wait for its header; the tracer reads it at the thread's next call.
_PATIENCE = 256
#: Regions among which the largest chunk is looked for.
_LOOKED_AT = 1000
_PATIENT = frozenset({"header", "library", "runtime"})


class Failed(NamedTuple):
    """A call that failed, and what it was to malloc: of mmap "reserve" or "chunk" (of `length`
    bytes), "heap" of the mprotect that opens a reservation; of brk "malloc" if a mapping takes its
    place (`sysmalloc_mmap_fallback`), "any" where that is not known; else "".
    """

    name: str
    what: str = ""
    length: int = 0


#: What a mapping is, whether it has the shape of what a malloc maps, and where in libc the mmap
#: returned to.
Judged = tuple[Decision, bool, tuple[str, int] | None]


class Account:
    """What is known about one process's memory; final after `Observer.died`.

    Args:
        p: the process.
        callers: of its calls.
        page: bytes.
        first_tag: the first that is not inherited.
        legacy: what a forked child has of its parent's.
    """

    def __init__(
        self,
        p: Process,
        callers: Callers,
        page: int,
        first_tag: int = 1,
        legacy: Legacy | None = None,
    ) -> None:
        self.p = p
        self.callers = callers
        self.page = page
        self.tags = Tags(first_tag)
        self.regions = Regions(self.tags)
        self.heap: Heap = Heap() if legacy is None else legacy.heap.fork()
        code = callers.owners is not None
        self.mallocs: Mallocs = (
            Mallocs(p.start, page, code=code) if legacy is None else legacy.mallocs.fork()
        )
        self.arenas: Arenas = (
            Arenas(self.mallocs.layout.heap_max)
            if legacy is None
            else legacy.arenas.fork(p.born_seq)
        )
        self.mallocs.threshold.since = p.born_seq
        self.chunks = Chunks(self.regions, self.mallocs, callers)
        self.sequences = Sequences(p.space, self.regions, self.arenas, self.mallocs, callers)
        self.churn = Churn()
        self.refusals = Refusals()
        self.runtimes = Runtimes(p.space, self.regions)
        if legacy is not None:
            self.runtimes.inherit(legacy.runtimes)
        self.walks = Walks()
        self.metadata = Metadata(page)
        self.loading: bool = legacy is not None and legacy.loading
        self.libraries: set[tuple[str, int]] = set() if legacy is None else set(legacy.libraries)
        self.mapped_before: int | None = None  # bytes at an attach
        self.committed: dict[str, int] | None = (
            None  # bytes by kind that may be accessed at the end
        )
        #: What the last snapshot that tells it says is in memory, by kind, and its number.
        self.resident: dict[str, int | None] | None = None
        self.resident_seq: int | None = None
        self._looked: Look | None = None
        self.threads = Threads()
        self._failed: dict[int, Failed] = {}
        self._advised: set[int] = set()
        self._locks_future = False
        self._settled = False  # nothing waits for the next call of any thread
        self._calls = 0
        self._told = 0  # of what it was told besides calls
        self._legacy: tuple[tuple[int, int], Legacy] | None = None
        self._seen: Scene | None = None  # the last one
        # Mappings without a file are judged alike if they are made alike, from one place.
        self._judged: dict[tuple[object, ...], Judged] = {}

    def walked(self, seq: int, t: int, record: Walk) -> None:
        """Malloc's heaps were read. An arena's, whose chunks hold together up to its end, shows
        what a reservation is that is older than the trace.
        """
        self.walks.add(seq, t, record)
        bases = {
            h.base: h.opened
            for h in record.heaps
            if h.kind == "arena" and h.complete and h.opened is not None and is_sound(h)
        }
        if not bases:
            return
        size = self.arenas.size
        for r in list(self.regions.alive.values()):
            opened = bases.get(r.start)
            if opened is None or not r.older or r.kind != "unknown" or r.bytes != size:
                continue
            self.regions.become(r, "arena", "header")
            self.arenas.found(r.start, min(opened, size), r.born_seq, seq, inherited=r.inherited)

    # -- birth ----------------------------------------------------------------------------------

    def begin(self, seq: int, record: Exec) -> None:
        """A program was loaded."""
        space = self.p.space
        self.loading = True
        # Where the heap begins the first brk would tell: if it is not in the log, no call does.
        self.heap = Heap.begin(space, older=record.assumed and space.start_brk is None)
        self.libraries |= {
            (a.dev, a.ino) for _, _, a, _ in space.pieces() if a.is_file and a.perms[2] == "x"
        }
        for r in beginnings.loaded(space, seq, record, self.libraries):
            self.regions.born(r)

    def find(self, seq: int, record: Attach) -> None:
        """A running program was attached to."""
        space = self.p.space
        self.threads = Threads(several=record.assumed or len(record.tids) > 1)
        self.heap = Heap.begin(space, older=True)
        self.mapped_before = None if record.assumed else space.total
        self.libraries |= older.executable(space)
        for r in beginnings.found(space, seq, record, self.mallocs.layout):
            self.regions.born(r)
        there = {r.path for r in self.regions.alive.values() if r.kind == "library"}
        static = self.callers.static
        header, group = static and self.chunks.alive() > 0, static and bool(record.groups)
        self.mallocs.find(seq, sorted(there), header=header, group=group)

    @classmethod
    def heir(cls, p: Process, legacy: Legacy, page: int) -> Account:
        """A forked child's: everything as its parent had it, nothing of what that did."""
        a = cls(p, legacy.callers.fork(), page, legacy.tag, legacy)
        for r in legacy.regions:
            a.regions.born(r.copy(p.born_seq))
        if legacy.in_flight:
            m = a.mallocs
            m.threshold.copied(p.born_seq, p.born_t, legacy.in_flight, m.layout)
        return a

    def legacy(self, child: AddressSpace) -> Legacy:
        """What a child born now has of it."""
        now = self._calls, self._told
        if self._legacy is None or self._legacy[0] != now:
            self._legacy = now, Legacy(self, child)
        return self._legacy[1]

    # -- calls ----------------------------------------------------------------------------------

    def call(self, seq: int, t: int, call: Call, name: str, change: Change | None) -> None:
        """One memory call, already applied to the map."""
        calls = self._calls = self._calls + 1
        if not calls & 31:
            self.regions.expire(calls)
        if self.threads.several:
            self.threads.calls(call.tid, seq)
        if self._settled and change is not None and (ret := call.ret) is not None and (
            ret >= 0 or ret < -4095
        ):  # fmt: skip
            if name == "munmap":
                self._unmapped(seq, t, call, change)
                return
            if name == "mmap" and not change.removed and len(change.added) == 1:
                piece = change.added[0]
                judged = None if piece[2].ino else self._judged.get((call.site, tuple(call.args)))
                if judged is None or self._seen is not self.mallocs.scene:
                    self._birth(seq, t, call, name, piece, change)
                else:
                    self._born_alike(seq, t, call, piece, judged)
                return
        self._any_call(seq, t, call, name, change)
        self._settled = not (
            self.loading or self.mallocs.open or self.heap.second is not False
            or self._failed or self._advised or self.sequences.stacks or self.sequences.reserves
        )  # fmt: skip

    def _any_call(self, seq: int, t: int, call: Call, name: str, change: Change | None) -> None:
        """A call when more than the map is to be told of it."""
        if self.loading:
            self._perhaps_runs(call, name, change)
        if self.mallocs.open or (name == "brk" and not self.mallocs.glibc):
            self.mallocs.decide(seq, name, self.callers.of(call.site))
        if name == "brk":
            self._brk(seq, t, call, change)
            return
        tid, ret = call.tid, call.ret
        if self.heap.second is not False:
            self.heap.other_call(tid)
        failed = ret is None or -4096 < ret < 0
        if name == "madvise" or self._advised:
            self._note_advice(call, name)
        if name == "prctl" and ret != -errno.EFAULT:
            self.runtimes.named(call, self._judged.clear)
        if failed:
            self._failed[tid] = self._refused(call, name)
            if name == "mremap":
                self.chunks.stays(call.args)
            if ret is not None:
                space = self.p.space
                self.refusals.failed(seq, self._calls, name, call.args, -ret, space)
            if change is None:
                return
        sequences = self.sequences
        if tid in sequences.stacks:
            sequences.stack_step(seq, tid, name, call.args)
        if tid in sequences.reserves:
            sequences.reserve_step(tid, name, call.args)
        if name not in _MAPPING:
            sequences.opened_or_shrunk(call, name)
            if name in _LOCKING and ret == 0:
                self._locks_future = locks_future(name, call.args)
        if change is None:
            pass
        elif name == "munmap":
            self._unmapped(seq, t, call, change)
        elif name == "mmap" and not change.removed and len(change.added) == 1:
            self._birth(seq, t, call, name, change.added[0], change)
        else:
            self._follow(seq, t, call, name, change)
        if self._failed and not failed:
            before = self._failed.pop(tid, None)
            if name == "munmap" and before is not None and before.what == "heap":
                self._failed[tid] = Failed(name, "reserve")  # new_heap gives up

    def _note_advice(self, call: Call, name: str) -> None:
        """malloc_trim gives whole free pages of the heap back (`mtrim`), before it lets the break
        down.
        """
        args, heap, tid = call.args, self.heap, call.tid
        before = tid in self._advised
        self._advised.discard(tid)
        if name != "madvise" or len(args) < 3 or args[2] != MADV_DONTNEED or call.ret:
            return
        start, end = heap.start, heap.brk
        if start is None or end is None or not start <= args[0] < args[0] + args[1] <= end:
            return
        if self.mallocs.glibc and self.callers.of(call.site).who == LIBC:
            self._advised.add(tid)
            heap.malloc_trims += not before

    def in_flight(self) -> int:
        """With other threads, the largest chunk that one of them may be freeing; else 0."""
        if not self.threads.several:
            return 0
        most, alive = self.mallocs.layout.raises_to, self.regions.alive
        if len(alive) > _LOOKED_AT:
            return most
        sizes = (
            r.bytes
            for r in alive.values()
            if r.kind == "malloc-chunk" or "malloc-chunk" in r.candidates
        )
        return max((n for n in sizes if n <= most), default=0)

    def _perhaps_runs(self, call: Call, name: str, change: Change | None) -> None:
        """The loader's calls end where others begin."""
        if self.callers.musl:
            # Its loader allocates as the program does. It protects what it has relocated once all
            # libraries are there (reloc_all).
            self.loading = name != "mprotect" or call.args[2:] != [PROT_READ]
        elif call.site is not None:
            self.loading = self.callers.of(call.site).who in (LOADER, UNKNOWN)
        elif self.p.start.assumed:
            self.loading = not self._runs(name, change)

    def _runs(self, name: str, change: Change | None) -> bool:
        """Whether the program runs, where no caller tells: malloc moves the break before the first
        dlopen, and the loader has unmapped its cache by then (`_dl_unload_cache`).
        """
        if change is None:
            return False
        if name == "brk":
            return True
        paths = self.p.space.paths
        return name == "munmap" and any(
            paths.get((attr.dev, attr.ino), "").endswith("/ld.so.cache")
            for _, _, attr, _ in change.removed
            if attr.is_file
        )

    def _refused(self, call: Call, name: str) -> Failed:
        """What a failed call would have been to malloc."""
        args, before = call.args, self._failed.get(call.tid)
        if name == "mprotect" and args:
            piece = self.p.space.at(args[0])
            r = None if piece is None else self.regions.alive.get(piece[3])
            if r is not None and "arena" in (r.kind, *r.candidates[:1]):
                return Failed(name, "heap")
        if name != "mmap" or (before is not None and before[:2] == ("brk", "malloc")):
            return Failed(name)  # after the brk malloc gives up
        if origin.is_reserve(args, self.mallocs.layout.heap_max):
            return Failed(name, "reserve")
        if origin.is_chunk_shape(args, self.page) and self.callers.of(call.site).who == LIBC:
            return Failed(name, "chunk", args[1])
        return Failed(name)

    def _brk(self, seq: int, t: int, call: Call, change: Change | None) -> None:
        if call.ret is None or not call.args:
            return
        tid = call.tid
        caller = self.callers.of(call.site)
        failed, m = self._failed.pop(tid, None), self.mallocs
        it = m.of(self._copy(call.site))
        several = self.threads.several
        judge = Judge(
            caller, m.glibc, it.layout, it.settings, it.threshold, self.p.start,
            0 if failed is None else failed.length,
            self.chunks.most() if several else self.chunks.alive(),
            self.chunks.unseen_bytes(), call.vm, several, self.in_flight(), tid in self._advised,
            m.scene.other,
        )  # fmt: skip
        self._advised.discard(tid)
        labelled, second = self.heap.loose, self.heap.perhaps_second(tid)
        step = self.heap.moved(seq, t, tid, call.args[0], call.ret, self.p.space, judge, change)
        if step is not None and not m.glibc:
            self.metadata.grew(self.heap, step, self.callers.instruction(call.site))
        if step is not None and step.asked > step.end:
            # Of two growths malloc does without the second.
            malloc = caller.who == LIBC and caller.outer == LIBC and not second
            self._failed[tid] = Failed("brk", "malloc" if malloc else "any")
        if change is not None and labelled:
            change = self._labelled(change, change.brk_from or round_up(call.ret))
        if change is not None:
            self._follow(seq, t, call, "brk", change)

    def _unmapper(self, call: Call) -> tuple[str, bool]:
        """Who unmaps, and whether that may be free though the word at the stack pointer is not
        libc's: before 2.33, which made it keep errno, free may end in a jump to munmap, and that
        word is that of its own caller.
        """
        caller = self.callers.of(call.site)
        if caller.who in _ELSEWHERE_THAN_LIBC and not caller.direct:
            version = self.mallocs.layout.version
            if version is None or version < (2, 33):
                return UNKNOWN, True
        return caller.who, False

    def _unmapped(self, seq: int, t: int, call: Call, change: Change) -> None:
        (who, jumped), removed = self._unmapper(call), change.removed
        if len(removed) != 1 or change.added:
            if who in _ELSEWHERE_THAN_LIBC:
                self.chunks.unmapped_elsewhere(change)
            elif who in _PERHAPS_LIBC and removed:
                self.chunks.perhaps_freed(seq, t, call.args, change, self._copy(call.site))
            self._follow(seq, t, call, "munmap", change)
            return
        piece = removed[0]
        r = self.regions.alive.get(piece[3])
        if r is None:
            return
        if who in _ELSEWHERE_THAN_LIBC:
            if r.kind == "malloc-chunk":
                self.chunks.unmapped_elsewhere(change)
        elif (r.older or r.kind == "unknown") and who in _PERHAPS_LIBC:
            self.chunks.perhaps_freed(seq, t, call.args, change, self._copy(call.site))
        if self.regions.unmapped(piece, seq) is not None:
            if self.chunks.waiting:
                self.chunks.waiting.pop(r.born_seq, None)
            if seq - r.born_seq <= NEAR:
                self.churn.gone(seq, t, r)
            self._gone_by_munmap(seq, t, call, who, r, jumped=jumped)

    def _labelled(self, change: Change, before: int) -> Change:
        """The first brk after an attach told what of the [heap] line was the heap, up to `before`:
        the rest gets a region of its own. What is left of the change.
        """
        space = self.p.space
        heap = self.regions.alive.get(space.heap_tag)
        others = [piece for piece in change.added if piece[3] != space.heap_tag]
        if heap is not None and others:
            tag = others[0][3]
            r = Region(tag, others[0][0], others[-1][1], self.p.born_seq, None, "attach")
            r.length = r.bytes = r.peak = sum(e - s for s, e, _, _ in others)
            r.older, r.inherited, r.candidates = heap.older, heap.inherited, _BESIDE_THE_HEAP
            rule_on(r)
            self.regions.carve(heap, r)
            low = space.start_brk if space.start_brk is not None else heap.start
            self.regions.never_more(heap, max(before - (low & -self.page), 0))
            spans = {piece[:2] for piece in others}
            change = Change(
                [piece for piece in change.removed if piece[:2] not in spans],
                [piece for piece in change.added if piece[:2] not in spans],
            )
        return change

    def _follow(self, seq: int, t: int, call: Call, name: str, change: Change) -> None:
        births, died, changed = self.regions.shift(change.removed, change.added, seq)
        for r in died:
            self._died(seq, t, call, name, r)
        if name == "mremap":
            for r in changed:
                r.moves += 1
                r.resized = True
        for piece in births:
            self._birth(seq, t, call, name, piece, change)

    def _birth(self, seq: int, t: int, call: Call, name: str, piece: Piece, change: Change) -> None:
        low, high, attr, tag = piece
        args, tid = call.args, call.tid
        r = Region(tag, low, high, seq, tid, name)
        if len(change.added) > 1:
            r.length = sum(e - s for s, e, _, x in change.added if x == tag)
            r.bytes = r.peak = r.length
        r.born_t = t
        threshold = self.mallocs.threshold
        r.t_low = self._low(threshold)
        if threshold.unseen:
            r.t_high = threshold.high
        if not self.mallocs.one_glibc:
            self._note_copy(r, call.site)
        is_file = attr.is_file
        if is_file:
            r.path = self.p.space.paths.get((attr.dev, attr.ino), "")
        if name == "mmap" and len(args) >= 4:
            d = self._mapped(seq, call, attr, r, is_file=is_file)
        elif name == "brk":
            d = Decision("heap", "sequence")
        elif name == "mremap" and (source := self._source(args)) is not None:
            # MREMAP_DONTUNMAP, or old_size 0: a second mapping of the same
            d = Decision(source.kind, "sequence", source.owner)
            r.path = source.path
        else:
            d = origin.special(attr, heap=False) or origin.of_other(name, attr)
        self._decided(r, d)

    def _decided(self, r: Region, d: Decision) -> None:
        """What a new region is, as far as that is known."""
        if self._locks_future:
            r.locked = True
        r.kind, r.evidence, r.owner, r.candidates, wait = d
        if r.owner is not None and r.owner in self.mallocs.held:
            self.mallocs.at_work(r.owner)
        if wait:
            r.settled = False
            if wait in _PATIENT:
                r.until = self._calls + _PATIENCE
            elif r.tid is not None:
                self._settled = False
                self.sequences.wait(wait, r.tid, r)
        self.regions.born(r)
        if r.kind == "malloc-chunk":
            hold(r, self.mallocs)
        else:
            rule_on(r)

    def _born_alike(self, seq: int, t: int, call: Call, piece: Piece, judged: Judged) -> None:
        """A mapping without a file, made as one that was judged already: `_birth` of it."""
        tid, args, threshold = call.tid, call.args, self.mallocs.threshold
        r = Region(piece[3], piece[0], piece[1], seq, tid, "mmap")
        r.born_t, r.t_low, r.prot, r.flags = t, threshold.low, args[2], args[3]
        if self.threads.several:
            r.t_low = threshold.low_since(self.threads.before)
        if threshold.unseen:
            r.t_high = threshold.high
        if not self.mallocs.one_glibc:
            self._note_copy(r, call.site)
        self._decided(r, self._perhaps_malloc(seq, r, args, judged) if judged[1] else judged[0])

    def _mapped(self, seq: int, call: Call, attr: Attr, r: Region, *, is_file: bool) -> Decision:
        """What a new mmap is; notes what else it tells."""
        args, tid = call.args, call.tid
        r.prot, r.flags = args[2], args[3]
        if is_file:
            self._note_file(seq, attr, r.path)
        if args[2] == 0 and args[3] & MAP_FIXED:
            closed = self.sequences.closed(r.start, r.length)
            if closed is not None:
                return closed
        if self._failed:
            r.no_arena = tid in self._failed and self._failed[tid].what == "reserve"
        scene = self._scene(tid) if self._failed else self.mallocs.scene
        if scene is not self._seen:
            self._judged.clear()
            self._seen = scene
        key = call.site, tuple(args)
        judged = None if is_file else self._judged.get(key)
        if judged is None:
            caller = self.callers.of(call.site)
            if caller.owner == "go" and not is_file and args[3] & MAP_TYPE == MAP_PRIVATE:
                return self.runtimes.go(args, self.callers.text(call.site), r)
            library = is_file and (attr.dev, attr.ino) in self.libraries
            if r.libc is not None:
                scene = scene._replace(one_libc=not self.mallocs.inner(r.libc))
            d = origin.of_mmap(args, attr, caller, scene, is_library=library)
            if d.owner == "pymalloc" and not self.callers.maps_arenas(call.site):
                d = _PERHAPS_PYMALLOC
            site = self.callers.place(call.site) if caller.who == LIBC else None
            judged = d, origin.is_group_shape(args) and args[1] > 0, site
            if not is_file and args[2]:  # of no access may be an arena's (`_in_arena`)
                if len(self._judged) >= _REMEMBERED:
                    self._judged.clear()
                self._judged[key] = judged
        return self._perhaps_malloc(seq, r, args, judged) if judged[1] else judged[0]

    def _perhaps_malloc(self, seq: int, r: Region, args: list[int], judged: Judged) -> Decision:
        """What a mapping is that has the shape of malloc's: its header may tell more."""
        d, _, r.site = judged
        self.chunks.waiting[seq] = r
        if args[1] % self.page:
            r.unrounded = True
        return _ELSEWHERE if d.kind == "malloc-chunk" and self._elsewhere(r) else d

    def _elsewhere(self, r: Region) -> bool:
        """Whether libc may have mapped it for itself. What malloc would not map where the threshold
        stands is its header's to prove, until a place of malloc's is known: libc keeps the last
        words of a program in such a mapping (`__libc_message`, `__assert_fail_base`).
        """
        places = self.callers.malloc
        return r.site not in places and (bool(places) or excluded(r, self.mallocs))

    def _copy(self, site: int | Site | None) -> Key | None:
        """The copy of glibc that a call came from, if there is more than one and it is told."""
        if self.mallocs.one_glibc:
            return None
        at = self.callers.copy(site)
        return None if at is None else self.mallocs.copies.key(*at)

    def _low(self, threshold: Threshold) -> int | None:
        """How low the threshold was when the thread that calls now looked at it, at least."""
        if not self.threads.several:
            return threshold.low
        return threshold.low_since(self.threads.before)

    def _note_copy(self, r: Region, site: int | Site | None) -> None:
        """A mapping that may be the chunk of one of several copies: that one's threshold counts."""
        r.libc = self._copy(site)
        if r.libc is not None:
            threshold = self.mallocs.of(r.libc).threshold
            r.t_low = self._low(threshold)
            r.t_high = threshold.high if threshold.unseen else None

    def _source(self, args: list[int]) -> Region | None:
        """The region an mremap copied, unless malloc's: a copy of a chunk is no chunk."""
        piece = self.p.space.at(args[0]) if args else None
        r = None if piece is None else self.regions.alive.get(piece[3])
        return r if r is not None and r.kind in origin.NO_RULE else None

    def _note_file(self, seq: int, attr: Attr, path: str) -> None:
        """An executable piece makes all of the file's mappings a library's."""
        if self.loading:
            self.mallocs.loaded(path, seq)
        key = (attr.dev, attr.ino)
        if attr.perms[2] != "x" or attr.perms[3] == "s":
            return
        self.mallocs.mapped(path, -attr.delta, seq)
        if key in self.libraries:
            return
        self.libraries.add(key)
        space = self.p.space
        for _, _, a, tag in list(space.pieces()):
            r = self.regions.alive.get(tag)
            if r is None or (a.dev, a.ino) != key:
                continue
            if r.kind == "file" and r.evidence != "caller":
                self.regions.become(r, "library", "sequence")

    def _scene(self, tid: int) -> Scene:
        failed = self._failed.get(tid)
        brk_failed = failed.what if failed is not None and failed.name == "brk" else ""
        return self.mallocs.scene._replace(brk_failed=brk_failed)

    def _died(self, seq: int, t: int, call: Call, name: str, r: Region) -> None:
        if self.chunks.waiting:
            self.chunks.waiting.pop(r.born_seq, None)
        if name == "munmap":
            who, jumped = self._unmapper(call)
            self._gone_by_munmap(seq, t, call, who, r, jumped=jumped)

    def _gone_by_munmap(
        self, seq: int, t: int, call: Call, who: str, r: Region, *, jumped: bool
    ) -> None:
        args, ext = call.args, call.ext
        if self.arenas.alive and len(args) > 1:
            self.arenas.unmapped(args[0], args[0] + args[1], seq)
        if r.kind == "malloc-chunk":
            freed = None if ext is None else ext.freed
            copy = self._copy(call.site)
            self.chunks.unmapped(seq, t, args, who, r, freed, copy, jumped=jumped)

    # -- other records --------------------------------------------------------------------------

    def libc(self, seq: int, record: Libc) -> None:
        """A C library was identified."""
        self._told += 1
        if record.name == "glibc":
            self.callers.add_libc(record.path)
        elif record.name == "musl":
            self.callers.add_musl(record.path)
        bases = older.bases(self.p.space, record.path)
        if self.p.start.assumed:
            static = not self.loading and not self.p.attached  # it has a heap, and no C library
        else:
            static = self.callers.static
        early = self.p.attached and not self._calls
        self.mallocs.libc(seq, record, bases, static=static, early=early)
        self._judged.clear()

    def holds(self, seq: int, record: Allocator) -> None:
        """A file was looked into: it defines malloc, or holds the code of an allocator."""
        self._told += 1
        callers = self.callers
        if not record.read or (record.malloc and record.name in ("", "unknown")):
            callers.add_malloc(record.path)
        early = self.loading if not self.p.attached else not self._calls
        if record.read:
            callers.add_owner(
                record.path, record.name, mixed=record.malloc and record.name in RUNTIMES
            )
            main = record.path == callers.exe
            if main and record.name in _LINKED_IN:
                callers.is_static()  # an attach may have found the loader that a dlopen brought
            self.mallocs.holds(seq, record, main=main, static=callers.static, early=early)
        else:
            callers.add_owner(record.path, owner_of(record.path) or "")
            self.mallocs.unread(record.path, seq, early=early)
        self._settled = False
        self._judged.clear()

    def header(self, seq: int, mmap_seq: int, word: int) -> None:
        """What was read in the mapping born at `mmap_seq`: the size word of a chunk; the address of
        a meta of musl's malloc, whose low bits are 0; or 0: no header.
        """
        self._told += 1
        self.chunks.header(seq, mmap_seq, word)
        if word and not word & 7 and not self.mallocs.glibc:
            self.metadata.proven(self.heap, word)

    def clone(self, seq: int, record: Clone) -> None:
        """A task starts on a stack of its own."""
        self._told += 1
        if not (record.flags or 0) & CLONE_VFORK:
            self.threads.starts(record.child, seq)
        self.sequences.clone(seq, record)

    def compared(self, seq: int, comparison: Comparison, maps: list[str]) -> None:
        """A snapshot."""
        if self.refusals.enomem:
            self.refusals.counted(self._calls, maps)
        if comparison.grown or comparison.drift is not None:
            self._told += 1
            beginnings.compared(self.p.space, seq, self.regions)

    def looked(self, seq: int, snap: Snap) -> None:
        """A snapshot that says what is in memory; it counts if no call comes after it."""
        self._looked = Look(seq, self._calls, snap)

    def _resident(self) -> None:
        look = self._looked
        if look is None or look.calls != self._calls:
            return
        owner = self.regions.alive.get
        parts = (
            (s, e, None if (r := owner(tag)) is None else r.kind)
            for s, e, _, tag in self.p.space.pieces()
        )
        self.resident = resident_by_kind(look.snap, parts, self.page)
        self.resident_seq = None if self.resident is None else look.seq

    def finish(self) -> None:
        """The last moment of the map: the living get their extents, verdicts their last word."""
        self.mallocs.finish()
        self.metadata.finish(self.heap)
        self.regions.finish()
        extents: dict[int, tuple[int, int]] = {}
        committed: dict[str, int] = {}
        for s, e, attr, tag in self.p.space.pieces():
            low, high = extents.get(tag, (s, e))
            extents[tag] = min(low, s), max(high, e)
            owner = self.regions.alive.get(tag)
            if owner is not None and attr.accessible:
                committed[owner.kind] = committed.get(owner.kind, 0) + e - s
        if not self.p.start.assumed:
            self.committed = committed
        for tag, r in self.regions.alive.items():
            r.start, r.end = extents.get(tag, (r.start, r.end))
            self.tags.note(tag, r.kind)
        for r in self.regions.rows():
            layout = self.mallocs.of(r.libc).layout
            last_word(r, self.heap.verdicts, layout, other=self.mallocs.scene.other)
        self._resident()
        self.heap.trim_steps()
        self.chunks.waiting.clear()
