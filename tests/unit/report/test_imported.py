# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports on traces of imported logs: what these lack is unknown, never 0, never guessed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.conftest import CALLS, HEAP, LIBC, Scene

from memtrace.report import text
from memtrace.report.model import ProcessRow, Report
from memtrace.space.address_space import ANON_RW, AddressSpace
from memtrace.space.calls import apply
from memtrace.space.canonical import MapsCache
from memtrace.trace.records import Header, Libc

BIG = 0x40000
SEEN = ["400000-401000 ???? 00000000 00:00 0 [assumed]"]


class Log(Scene):
    """A scene as an import writes it: no sites, no headers, no maps but assumed ones."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.header = Header(engine="strace", log="x.log", calls=CALLS)

    def _site(self, by: str) -> None:
        """A log does not tell who called."""

    def begin(self, **facts: Any) -> Log:
        facts.setdefault("env_lost", True)
        facts.setdefault("maps", SEEN)
        self.exec(assumed=True, start_stack=0, at_secure=None, **facts)
        return self


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "t.json")


def one(report: Report) -> ProcessRow:
    (p,) = report.processes
    return p


def with_libc(log: Log, path: str = LIBC, **facts: Any) -> Log:
    log.begin(**facts)
    base = 0x7FE000000000
    log.call("mmap", [0, 0x200000, 5, 2, 3, 0], base, file=path)
    log.life(Libc(t=log._t(), mm=1, path=path, version=None))
    return log


def test_whether_there_were_arenas_is_not_known(log: Log) -> None:
    metrics = one(with_libc(log).exit().report()).metrics
    assert not metrics.keys() & {"arenas.count", "arenas.reserved_bytes"}


def test_nothing_is_said_of_the_threshold_where_the_environment_is_unknown(log: Log) -> None:
    with_libc(log)
    log.call("mmap", [0, BIG, 3, 0x22, -1, 0], 0x7FD000000000)
    log.call("munmap", [0x7FD000000000, BIG], 0)
    log.call("brk", [HEAP + 0x21000], HEAP + 0x21000)
    p = one(log.exit().report())
    assert p.allocator.name == "glibc"
    assert p.allocator.version is None
    assert "a malloc of the program's own would not show in the log" in p.allocator.evidence
    t = p.threshold
    assert (t.initial, t.low, t.high, t.fixed_by, t.history) == (None, None, None, None, [])
    assert {s.verdict for s in p.heap.steps} == {"unknown"}
    assert "malloc-chunk" not in p.kinds


def test_with_the_environment_the_threshold_starts_where_it_says(log: Log) -> None:
    p = one(with_libc(log, env_lost=False).exit().report())
    assert (p.threshold.initial, p.threshold.low) == (128 * 1024, 128 * 1024)
    other = Log(log.path)
    env = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    p = one(with_libc(other, env_lost=False, env=env).exit().report())
    assert p.threshold.low is None  # AT_SECURE is not known: it may not count


def test_how_much_is_mapped_is_not_stated(log: Log) -> None:
    report = with_libc(log).exit().report()
    p = one(report)
    assert p.memory.vm_peak_bytes is None
    assert p.memory.rss_peak_bytes is None
    assert (p.maps.peak, p.maps.final) == (None, None)
    for name in ("memory.vm_peak_bytes", "chunks.mapped", "chunks.peak_bytes",
                 "chunks.alive_at_exit", "threshold.rises", "heap.growths_over_128k"):  # fmt: skip
        assert name not in p.metrics
    shown = text.render(report)
    assert "mapped at least" in shown
    assert "total mapped" not in shown
    assert "pages 4 KiB" not in shown
    assert "the log does not tell which mappings are malloc's" in shown
    assert "calls that strace was told not to write" in shown


def test_what_is_assumed_has_no_kind(log: Log) -> None:
    p = one(log.begin().exit().report())
    (r,) = p.regions
    assert (r.kind, r.evidence, r.verdict, r.candidates) == ("unknown", "none", "unknown", [])


def test_a_library_that_is_opened_later_does_not_replace_malloc(log: Log) -> None:
    jemalloc = "/usr/lib/libjemalloc.so.2"
    with_libc(log)
    log.call("brk", [HEAP + 0x21000], HEAP + 0x21000)
    log.call("mmap", [0, 0x200000, 5, 2, 3, 0], 0x7FD000000000, file=jemalloc)
    assert one(log.exit().report()).allocator.name == "glibc"


def test_a_c_library_that_a_static_program_opens_does_not_serve_it(log: Log) -> None:
    log.begin()
    log.call("brk", [HEAP + 0x21000], HEAP + 0x21000)
    log.call("mmap", [0, 0x200000, 5, 2, 3, 0], 0x7FD000000000, file=LIBC)
    log.life(Libc(t=log._t(), mm=1, path=LIBC, version=None))
    p = one(log.exit().report())
    assert p.allocator.name == "unknown"
    assert [a.name for a in p.allocators] == ["glibc"]


def test_a_library_that_the_loader_maps_does(log: Log) -> None:
    log.begin()
    path = "/usr/lib/libjemalloc.so.2"
    log.call("mmap", [0, 0x200000, 5, 2, 3, 0], 0x7FD000000000, file=path)
    assert one(log.exit().report()).allocator.name == "jemalloc"


def test_of_a_process_that_was_there_before_nothing_is_known(log: Log) -> None:
    log.attach([], libc="", start_brk=0, start_stack=0, assumed=True, env_lost=True, why="log",
               age_ns=None, at_secure=None)  # fmt: skip
    log.records[0].maps = []  # type: ignore[union-attr]
    log.call("mmap", [0, 0x200000, 5, 2, 3, 0], 0x7FD000000000, file=LIBC)
    log.life(Libc(t=log._t(), mm=1, path=LIBC, version="2.36"))
    report = log.exit().report()
    p = one(report)
    assert p.attached is not None
    assert (p.attached.regions, p.attached.mapped_bytes, p.attached.heap_bytes) == (None,) * 3
    assert p.allocator.name == "unknown"  # another malloc may have been there
    assert p.heap.start is None
    assert "arenas.count" not in p.metrics
    assert "was there before the log begins" in text.render(report)


def test_a_heap_whose_beginning_no_call_told(log: Log) -> None:
    log.begin(start_brk=0)
    log.call("brk", [HEAP + 0x21000], HEAP + 0x21000)
    log.call("brk", [HEAP + 0x42000], HEAP + 0x42000)
    log.call("brk", [HEAP + 0x32000], HEAP + 0x32000)
    log.call("brk", [0], HEAP + 0x32000)
    report = log.exit().report()
    p = one(report)
    assert (p.heap.start, p.heap.peak_bytes, p.heap.final_bytes) == (None, None, None)
    assert [s.delta for s in p.heap.steps] == [0x21000, -0x10000]
    assert (p.heap.growths, p.heap.shrinks, p.heap.exact) == (1, 1, False)
    assert "heap.peak_bytes" not in p.metrics
    shown = text.render(report)
    assert "no call told where it begins; 1 growth, 1 shrink" in shown
    assert re.search(r"\+132 KiB +unknown", shown)
    assert p.kinds["heap"].peak_bytes == 0x21000


def test_the_trust_line(log: Log) -> None:
    report = with_libc(log).exit().report()
    assert report.trust.startswith("unverified: no kernel snapshots in this log")
    other = Log(log.path)
    report = with_libc(other).lost().exit().report()
    assert report.trust.startswith("incomplete: no kernel snapshots in this log")


def test_a_trace_without_times(log: Log) -> None:
    log.header.clock = "none"
    with_libc(log)
    log.call("brk", [HEAP + 0x21000], HEAP + 0x21000)
    report = log.exit().report()
    p = one(report)
    assert report.trace.duration_ns is None
    assert [s.t_ns for s in p.heap.steps] == [None]
    assert "unknown  +132 KiB" in text.render(report)


# -- the map ------------------------------------------------------------------------------------


@pytest.fixture
def space() -> AddressSpace:
    space = AddressSpace()
    space.assumed = True
    return space


Apply = Callable[..., Any]


def call(space: AddressSpace, name: str, args: list[int], ret: int) -> Any:
    return apply(space, name, args, ret, None, None, MapsCache())


def test_what_moves_from_where_nothing_is_known_is_no_contradiction(space: AddressSpace) -> None:
    change = call(space, "mremap", [0x10000, 0x1000, 0x3000, 1], 0x50000)
    assert not change.conflict
    (run,) = space.canonical()
    assert (run.start, run.end, run.perms, run.name) == (0x50000, 0x53000, "????", "[assumed]")
    change = call(space, "mremap", [0x90000, 0x1000, 0x2000, 0], 0x90000)
    assert not change.conflict
    assert (space.canonical()[1].start, space.canonical()[1].end) == (0x90000, 0x92000)
    space.assumed = False
    assert call(space, "mremap", [0xA0000, 0x1000, 0x3000, 1], 0xB0000).conflict


@pytest.mark.parametrize(("ret", "perms"), [(-12, "???p"), (-13, "???p"), (-22, "rw-p")])
def test_a_failed_mprotect_leaves_permissions_unknown(
    space: AddressSpace, ret: int, perms: str
) -> None:
    space.put(0x10000, 0x12000, ANON_RW, 1)
    call(space, "mprotect", [0x10000, 0x5000, 1], ret)
    assert [run.perms for run in space.canonical()] == [perms]
    call(space, "mprotect", [0x10000, 0x2000, 1], 0)
    assert [run.perms for run in space.canonical()] == ["r--p"]


def test_a_heap_of_unknown_size_that_only_grows(log: Log) -> None:
    log.begin(start_brk=0)
    for end in (0, 0x21000, 0x42000):
        log.call("brk", [HEAP + end if end else 0], HEAP + end)
    shown = " ".join(text.render(log.exit().report()).split())
    assert "The heap grew 2 times and never shrank; it grew by 264 KiB." in shown
