# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever an attach finds: every page belongs to one region, and the sums are the map's."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.report.build import build
from memtrace.report.model import ProcessRow
from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.reader import Trace
from memtrace.trace.records import Attach, Call, Footer, Header, Libc, Life, Snap

PAGE = 4096
AREA, ARENA = 0x7D0000000000, 64 << 20
HEAP = 0x1000000
PERMS = ("rw-p", "rw-p", "rw-p", "---p", "r--p", "rwxp", "rw-s")

#: (gap below, pages, perms, whether it is a file's): one line of a map.
Line = tuple[int, int, str, bool]
lines = st.tuples(
    st.sampled_from([0, 0, 1, 7, ARENA // PAGE]),
    st.sampled_from([1, 2, 33, 34, 66, 2048, 2049, ARENA // PAGE - 33]) | st.integers(1, 300),
    st.sampled_from(PERMS),
    st.booleans(),
)
#: Somewhere in the area: a page, or the start of a line.
places = st.tuples(st.integers(0, 12), st.integers(0, 80))


def maps_of(drawn: list[Line], heap: int) -> tuple[list[str], list[int]]:
    """Lines of maps in order, and where each begins."""
    text, starts, at = [], [], AREA
    if heap:
        text.append(f"{HEAP:x}-{HEAP + heap * PAGE:x} rw-p 00000000 00:00 0 [heap]")
    for i, (gap, pages, perms, file) in enumerate(drawn):
        at += gap * PAGE
        backing = f"fe:00 {i + 5} /f{i}" if file or perms[3] == "s" else "00:00 0"
        text.append(f"{at:x}-{at + pages * PAGE:x} {perms} 00000000 {backing}")
        starts.append(at)
        at += pages * PAGE
    return text, starts or [AREA]


def process(records: list[Call | Life]) -> ProcessRow:
    with tempfile.NamedTemporaryFile() as file:
        header = encode_header(Header(calls=["brk", "munmap", "mprotect"]))
        body = b"".join(encode(r) for r in records)
        file.write(header + body + encode_footer(Footer(stop=9, complete=True)))
        file.flush()
        with Trace(Path(file.name)) as trace:
            return build(trace).processes[0]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(lines, max_size=12), st.integers(0, 40),
    st.lists(st.tuples(places, st.integers(1, 70)), max_size=8),
    st.lists(st.tuples(places, st.integers(-1, 70)), max_size=8),
    st.lists(places, max_size=4),
    st.lists(st.tuples(places, st.integers(1, 100), st.integers(0, 2)), max_size=6),
)  # fmt: skip
def test_the_regions_are_the_map(
    drawn: list[Line],
    heap: int,
    chunks: list[tuple[tuple[int, int], int]],
    groups: list[tuple[tuple[int, int], int]],
    stacks: list[tuple[int, int]],
    calls: list[tuple[tuple[int, int], int, int]],
) -> None:
    maps, starts = maps_of(drawn, heap)

    def where(place: tuple[int, int]) -> int:
        return starts[place[0] % len(starts)] + place[1] * PAGE

    records: list[Call | Life] = [
        Attach(t=0, pid=5, mm=1, exe="/f0", start_brk=HEAP, at_secure=False, maps=maps,
               env={"MALLOC_MMAP_THRESHOLD_": "0"},
               tids=[5, *range(6, 6 + len(stacks))], rlimits={"STACK": 8 << 20},
               stacks=[(6 + i, where(p) + 8) for i, p in enumerate(stacks)],
               chunks=[(where(p), size * PAGE | 2) for p, size in chunks],
               groups=[(where(p), size * PAGE, 0x18) for p, size in groups],
               dontfork=[(where(p), where(p) + PAGE) for p in stacks]),
        Libc(t=0, mm=1, path="/f1", version="2.36"),
    ]  # fmt: skip
    p = process(records)
    assert p.attached is not None
    assert sum(r.bytes for r in p.regions) == p.attached.mapped_bytes
    assert sum(k.final_bytes for k in p.kinds.values()) == p.attached.mapped_bytes
    assert sum(k.older for k in p.kinds.values()) == p.attached.regions == p.regions_total
    order = sorted(p.regions, key=lambda r: r.start)
    assert all(a.end <= b.start for a, b in pairwise(order))
    assert all(r.older and r.bytes == r.end - r.start for r in order)
    heaps = [r for r in order if r.kind == "heap"]
    assert sum(r.bytes for r in heaps) == heap * PAGE
    claimed = {(where(p), size * PAGE) for p, size in chunks}
    assert {(r.start, r.bytes) for r in order if r.kind == "malloc-chunk"} <= claimed
    claimed = {(where(p), size * PAGE) for p, size in groups}
    assert {(r.start, r.bytes) for r in order if r.owner == "musl"} <= claimed

    for place, pages, what in calls:
        if what == 2:
            records.append(Call(1, 1, 5, 1, 2, [where(place), pages * PAGE, 3], 0))
        else:
            records.append(Call(1, 1, 5, 1, 1, [where(place), pages * PAGE], 0))
    records.append(Call(1, 1, 5, 1, 0, [HEAP + 50 * PAGE], HEAP + 50 * PAGE))
    records.append(Snap(t=9, mm=1, pid=5, tid=5, why="detach", maps=maps))  # another map: drift
    after = process(records)
    alive = [r for r in after.regions if r.died_seq is None]
    total = sum(int(b, 16) - int(a, 16) for a, b in (m.split()[0].split("-") for m in maps))
    assert sum(r.bytes for r in alive) == total
    assert sum(k.final_bytes for k in after.kinds.values()) == total
    assert all(k.peak_bytes >= k.final_bytes >= 0 for k in after.kinds.values())
