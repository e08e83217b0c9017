# SPDX-License-Identifier: GPL-2.0-or-later
"""The writer: turns the tracer's raw messages into records, runs the model beside them, writes.

It is a process of its own, so that neither decoding nor the disk ever makes the target wait, and so
that a killed tracer loses nothing that was sent. This half is pure: messages in,
lines out; `writing.py` is the process around it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from memtrace.collect import procfs, wire
from memtrace.collect.abi import INDEX
from memtrace.collect.code import CodeFinder
from memtrace.collect.decode import decode
from memtrace.collect.libc import LibcFinder
from memtrace.collect.redact import Redaction
from memtrace.collect.sites import Known, Sites
from memtrace.space.address_space import AddressSpace
from memtrace.space.calls import MAP_ANONYMOUS, PROT_EXEC, Change, apply, prot_perms
from memtrace.space.canonical import MapsCache
from memtrace.space.compare import compare
from memtrace.space.seed import seed
from memtrace.trace.codec import Interner, encode
from memtrace.trace.mapping import decode_maps
from memtrace.trace.records import (
    MMAP_TAIL,
    Attach,
    Call,
    Exec,
    Ext,
    FileId,
    Life,
    LifeRecord,
    Start,
)
from memtrace.trace.sizes import PAGE, round_up

_MAX_UNPEEKED = 4096


class Model:
    """What the writer keeps of one mm."""

    __slots__ = (
        "asked", "calls", "code", "freed", "known", "libcs", "malloc", "offset", "older", "pid",
        "space",
    )  # fmt: skip

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.space = AddressSpace()
        self.calls = 0
        self.libcs: set[tuple[str, int]] = set()
        self.code: set[tuple[str, int]] = set()
        self.malloc: dict[int, int] = {}
        self.freed: dict[int, tuple[int, int]] = {}  # by the address that a munmap begins at
        self.asked = False
        self.offset = 0
        self.older = False  # than the trace
        self.known = Known(pid, self.space)


class Scribe:
    """Messages to lines.

    Args:
        ask: called with an mm whose page count and model disagree.
        redaction: applied to every record; the model goes by the true names.
    """

    def __init__(
        self,
        ask: Callable[[int], None],
        find_libc: LibcFinder | None = None,
        redaction: Redaction | None = None,
        find_code: CodeFinder | None = None,
    ) -> None:
        self.lines: list[bytes] = []
        self.seq = 0
        self.counts = {
            "records": 0,
            "calls": 0,
            "snapshots": 0,
            "exact": 0,
            "lost": 0,
            "overlaps": 0,
        }
        self.grown = 0
        self.drift: list[tuple[int, int]] = []
        self.heap_peak: int | None = None
        self.vm_peak = self.rss_peak = 0
        self._ask = ask
        self._models: dict[int, Model] = {}
        self._awaited: set[int] = set()
        self._interner = Interner()
        self._cache = MapsCache()
        self._t = 0
        self._start = 0
        self._headers: list[tuple[int, int]] = []
        self._libc = find_libc or LibcFinder()
        self._code = find_code or CodeFinder()
        self._sites = Sites(self._interner)
        self._redaction = redaction

    @property
    def now(self) -> int:
        """Time of the last record, ns since the start."""
        return self._t

    def start(self, start_ns: int) -> None:
        """CLOCK_MONOTONIC of time 0."""
        self._start = start_ns

    def feed(self, message: wire.Message) -> None:
        """Take one message; its line is appended to `lines`."""
        if isinstance(message, wire.CallMessage):
            self._call(message)
        elif isinstance(message, wire.HeaderMessage):
            model = self._models.get(message.mm)
            seq = model.malloc.pop(message.call, 0) if model is not None else 0
            if seq:
                self._headers.append((seq, message.word1))
        elif isinstance(message, wire.FreedMessage):
            model = self._models.get(message.mm)
            if model is not None:
                model.freed[message.address] = message.first, message.inner
        else:
            self._life(message.fields, message.blob)

    # -- calls --------------------------------------------------------------------------------

    def _call(self, m: wire.CallMessage) -> None:
        model = self._models.get(m.mm)
        if model is None:
            if m.mm in self._awaited:
                return  # before the beginning
            model = self._models[m.mm] = Model(0)
        model.calls += 1
        extra = m.extra
        name, used, ret, ext = decode(m)
        space = model.space
        file: FileId | None = None
        if extra is not None and ext is not None:
            own = extra.get("personality")
            if own is not None and own != space.personality:
                ext.personality = space.personality = own
            ext.layout, ext.dontfork = extra.get("layout"), extra.get("dontfork")
            if "x" in extra:
                low, high, lines = extra["x"]
                ext.x = (low, high, [" ".join(line.split(None, 5)) for line in lines])
            elif "b" in extra:
                file = self._backing(space, ext, used, extra["b"])
        change = apply(space, name, used, ret, ext, file, self._cache)
        if change is not None and _touches_code(change):
            model.known.code_changed(change)
        seq = self.seq = self.seq + 1
        if model.freed and name == "munmap" and (freed := model.freed.pop(used[0], None)):
            ext = ext or Ext()
            ext.freed = freed
        if ext is not None and ext == _NO_EXT:
            ext = None
        if self._headers:
            ext = ext or Ext()
            ext.h = self._take_headers(seq)
        vm, rss = self._count_pages(model, m)
        t = m.t1 - self._start
        written = used[:4] if name == "mmap" and used[4:] == MMAP_TAIL else used
        site = self._sites.of(model.known, m, name)
        dt, dur = t - self._t, m.t1 - m.t0
        self._append(Call(dt, dur, m.tid, m.mm, INDEX[name], written, ret, site, vm, rss, ext))
        self._t = t
        self.counts["calls"] += 1
        if name == "mmap":
            if used[3] & MAP_ANONYMOUS:
                model.malloc[model.calls] = seq
                if len(model.malloc) > _MAX_UNPEEKED:
                    del model.malloc[next(iter(model.malloc))]
            elif file is not None and ret is not None:
                self._look_for_libc(m.mm, model, file.dev, file.ino, file.path)
                if used[2] & PROT_EXEC:
                    self._look_into(m.mm, model, file.dev, file.ino, file.path)
        elif name == "brk" and space.start_brk is not None and ret is not None:
            self.heap_peak = max(self.heap_peak or 0, ret - space.start_brk)

    def _count_pages(self, model: Model, m: wire.CallMessage) -> tuple[int | None, int | None]:
        """(total, resident) pages after the call; where the total is not the model's, ask."""
        counts = procfs.statm(m.statm)
        if counts is None:
            return None, None
        vm, rss = counts
        if vm * PAGE != model.space.total + model.offset and not model.asked:
            model.asked = True
            self._ask(m.mm)
        if vm > self.vm_peak:
            self.vm_peak = vm
        if rss > self.rss_peak:
            self.rss_peak = rss
        return vm, rss

    def _backing(
        self, space: AddressSpace, ext: Ext, args: list[int], back: list[Any]
    ) -> FileId | None:
        """Compare the line the kernel shows for a new mapping with what its arguments promise:
        then a file number is enough, else the line itself is the record."""
        low, high, raw = back
        lines = [" ".join(line.split(None, 5)) for line in raw]
        parsed = self._cache.parse(lines)
        if len(parsed) == 1 and high == low + round_up(args[1]):
            start, end, attr, path = parsed[0]
            if (
                start <= low and end >= high and attr.is_file and attr.delta == args[5] - low
                and not args[3] & MAP_ANONYMOUS
                and attr.perms == prot_perms(space, args[2], "s" if args[3] & 15 in (1, 3) else "p")
            ):  # fmt: skip
                ref = ext.f = self._interner.file(attr.dev, attr.ino, path)
                return ref if isinstance(ref, FileId) else FileId(ref, attr.dev, attr.ino, path)
        ext.x = (low, high, lines)
        return None

    def _look_for_libc(self, mm: int, model: Model, dev: str, ino: int, path: str) -> None:
        if (dev, ino) not in model.libcs:  # not another segment of it
            self._note_libc(mm, model, dev, ino, path, self._libc.look(model.pid, dev, ino, path))

    def _note_libc(
        self, mm: int, model: Model, dev: str, ino: int, path: str, found: dict[str, Any] | None
    ) -> None:
        if found is not None:
            model.libcs.add((dev, ino))
            self._write({"rec": "libc", "mm": mm, "path": path, **found, "t": self._t})

    def _look_into(
        self, mm: int, model: Model, dev: str, ino: int, path: str, *, main: bool = False
    ) -> None:
        """Whose allocator's code a file holds that is mapped to be executed."""
        key = dev, ino
        if key in model.code or key in model.libcs:
            return
        model.code.add(key)
        at = self._start + self._t + time.time_ns() - time.monotonic_ns()
        held = self._code.look(model.pid, dev, ino, path, main=main, at=at)
        facts: dict[str, Any] = {"read": False} if held is None else dict(held)
        if facts.pop("libc", False):
            # It may have any name, and musl's is mapped by execve: it is the loader, too.
            found = self._libc.look_into(model.pid, dev, ino, path)
            self._note_libc(mm, model, dev, ino, path, found)
            if found is not None:
                return
        if facts:
            self._write({"rec": "allocator", "mm": mm, "path": path, **facts, "t": self._t})

    # -- life cycle ---------------------------------------------------------------------------

    def _life(self, fields: dict[str, Any], blob: bytes) -> None:
        if blob:
            fields["maps"] = decode_maps(blob)
        rec, mm = fields["rec"], fields.get("mm")
        if rec == "awaited":
            self._awaited.add(fields["mm"])
            return
        if rec == "attach":
            self._awaited.discard(fields["mm"])
        elif mm in self._awaited:
            return  # before the beginning
        if rec in ("exec", "attach"):
            self._begin(fields)
        elif rec == "fork":
            parent = self._models.get(fields["mm"])
            model = self._models[fields["child_mm"]] = Model(fields["child"])
            if parent is not None:
                model.space = parent.space.fork()
                model.known = Known(model.pid, model.space)
                model.known.twice = parent.known.twice.copy()
                model.offset = 0
        elif rec == "gone":
            self._models.pop(fields["mm"], None)
        elif rec == "lost":
            self.counts["lost"] += fields.get("count") or 1
        elif rec == "overlap":
            self.counts["overlaps"] += 1
        self._write(fields)
        if rec == "snap":
            self._snap(fields)
        elif rec in ("exec", "attach"):
            self._code_there(fields["mm"], fields.get("exe", ""), libcs=rec == "attach")

    def _begin(self, fields: dict[str, Any]) -> None:
        model = self._models[fields["mm"]] = Model(fields["pid"])
        model.calls = fields.pop("calls", 0)
        record: Start = msgspec.convert(fields, Exec | Attach)
        model.older = isinstance(record, Attach)
        seed(model.space, record, self._cache.parse(record.maps))
        if record.vm is not None:
            self.vm_peak = max(self.vm_peak, record.vm)
            self.rss_peak = max(self.rss_peak, record.rss or 0)
        space = model.space
        if space.brk is not None and space.start_brk is not None and not space.brk_by_label:
            self.heap_peak = max(self.heap_peak or 0, space.brk - space.start_brk)

    def _code_there(self, mm: int, exe: str, *, libcs: bool) -> None:
        """What was mapped without a call: by execve, or before the trace began."""
        model = self._models[mm]
        for _, _, attr, _ in list(model.space.pieces()):
            if attr.is_file and attr.perms[2] == "x":
                path = model.space.paths.get((attr.dev, attr.ino), "")
                if libcs:
                    self._look_for_libc(mm, model, attr.dev, attr.ino, path)
                self._look_into(mm, model, attr.dev, attr.ino, path, main=path == exe)

    def _snap(self, fields: dict[str, Any]) -> None:
        model = self._models.get(fields["mm"])
        if model is None:
            return
        model.asked = False
        result = compare(
            model.space, fields.get("maps", []), self._cache, self.seq, fields["mm"], fields["why"]
        )
        self.counts["snapshots"] += 1
        self.grown += result.grown
        if result.drift is None:
            self.counts["exact"] += 1
        else:
            model.known.forget()  # code may be where the model did not have it
            if len(self.drift) < 100:
                self.drift.append((self.seq, fields["mm"]))
        if "vm" in fields:
            # A kernel that miscounts by a constant must not be asked for ever.
            model.offset = fields["vm"] * PAGE - model.space.total
            self.vm_peak = max(self.vm_peak, fields["vm"])
            self.rss_peak = max(self.rss_peak, fields["rss"])
            if not model.older:  # VmHWM is of all its life
                self.rss_peak = max(self.rss_peak, fields.get("hwm", 0))

    def _take_headers(self, seq: int) -> list[tuple[int, int]]:
        """The headers that ride on record `seq`: how many records back, and the word."""
        taken = [(seq - mmap, word) for mmap, word in self._headers]
        self._headers.clear()
        return taken

    def _write(self, fields: dict[str, Any]) -> None:
        self.seq += 1
        if self._headers:
            fields["h"] = self._take_headers(self.seq)
        self._t = fields["t"]
        record: Life = msgspec.convert(fields, LifeRecord)
        self._append(record)

    def _append(self, record: Call | Life) -> None:
        if self._redaction is not None:
            record = self._redaction.record(record)
        self.lines.append(encode(record))


_NO_EXT = Ext()


def _touches_code(change: Change) -> bool:
    return any(p[2].perms[2] == "x" for p in change.removed) or any(
        p[2].perms[2] == "x" for p in change.added
    )
