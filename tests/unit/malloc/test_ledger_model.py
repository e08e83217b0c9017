# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of each move of the break, held against an arena that knows what it does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.malloc.model import Arena

from memtrace.malloc.caller import LIBC, PROGRAM, Caller
from memtrace.malloc.glibc import Layout, Settings
from memtrace.malloc.heap import Heap
from memtrace.malloc.judge import Judge
from memtrace.malloc.sysmalloc import Span, old_top, served
from memtrace.malloc.threshold import Threshold
from memtrace.space.address_space import AddressSpace
from memtrace.trace.records import Exec

MALLOC = Caller(LIBC, outer=LIBC)
PROGRAMS_OWN = Caller(LIBC, outer=PROGRAM)
ROLES = {
    "grow": {"first-heap", "growth"}, "align": {"alignment"}, "free": {"shrink"},
    "malloc_trim": {"shrink"}, "sbrk": {"foreign-sbrk"},
}  # fmt: skip
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("malloc"), st.integers(0, 131000)),
        st.tuples(st.just("free"), st.integers(0, 6)),
        st.tuples(st.just("trim"), st.integers(0, 200_000)),
        st.tuples(st.just("sbrk"), st.integers(1, 20_000)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(
    operations=OPERATIONS,
    i386=st.booleans(),
    top_pad=st.one_of(st.just(131072), st.integers(0, 300_000)),
    trim=st.one_of(st.just(131072), st.integers(65536, 2_000_000)),
    begin=st.one_of(st.just(0), st.integers(0, 4095)),
)
def test_what_is_said_of_a_move_is_true(
    *, operations: list[tuple[str, int]], i386: bool, top_pad: int, trim: int, begin: int
) -> None:
    start = 0x1000000 + begin
    arena = Arena(start, 4 if i386 else 8, top_pad, trim)
    live: list[int] = []
    for op, n in operations:
        if op == "malloc":
            live.append(arena.malloc(n))
        elif op == "free" and live:
            size = sum(live[-1 - n :])
            del live[-1 - n :]
            arena.free(size)
        elif op == "trim":
            arena.malloc_trim(n)
        elif op == "sbrk":
            live.clear()  # below it; the arena frees no more of them into its top
            arena.morecore("sbrk", n)
    space = AddressSpace()
    space.start_brk = space.brk = start
    heap, threshold = Heap.begin(space), Threshold()
    configured = Settings(top_pad=top_pad, trim=trim, fixed_by="environ")
    threshold.configure(configured)
    layout = Layout((2, 36), "i386" if i386 else "")
    for seq, told in enumerate(arena.told):
        caller = PROGRAMS_OWN if told.by == "sbrk" else MALLOC
        judge = Judge(
            caller,
            glibc=True,
            layout=layout,
            settings=configured,
            threshold=threshold,
            start=Exec(t=0, pid=1, tid=1, mm=1),
        )
        assert heap.moved(seq, 0, 1, told.new, told.new, space, judge) is not None
    first = True
    for told, step in zip(arena.told, heap.steps, strict=True):
        assert step.role in ROLES[told.by], (told, step)
        assert step.verdict != "contradiction"
        if told.by == "free":
            assert step.reason == "trim"
        if told.by == "grow":
            assert (step.role == "first-heap") == first
            first = False
            assert step.chunk is not None
            assert told.nb is not None
            assert step.chunk.least <= told.nb, (told, step)
            assert step.chunk.most is not None
            assert told.nb <= step.chunk.most, (told, step)
        else:
            assert step.chunk is None
    assert heap.trimmed_bytes == sum(
        t.old - t.new for t in arena.told if t.by in {"free", "malloc_trim"}
    )


@given(
    requested=st.integers(0, 1 << 24),
    pad=st.integers(0, 1 << 20),
    top=st.integers(0, 1 << 22),
    i386=st.booleans(),
    unit=st.sampled_from([4096, 2 << 20]),
)
def test_a_growth_bounds_its_chunk_and_no_tighter_than_it_can(
    *, requested: int, pad: int, top: int, i386: bool, unit: int
) -> None:
    arena = Arena(0, 4 if i386 else 8, pad)
    nb = arena.chunk(requested)
    top = min(top // 16 * 16, nb + arena.minsize - 16)
    growth = -(-(nb + pad + arena.minsize - top) // unit) * unit
    kw = {"top_pad": pad, "minsize": arena.minsize, "unit": unit}
    exact = served(growth, top=Span(top, top), **kw)
    assert exact is not None
    assert exact.most is not None
    assert exact.least <= nb <= exact.most
    # Both ends are sizes that make the heap grow by just that.
    for n in exact:
        assert n is not None
        assert -(-(n + pad + arena.minsize - top) // unit) * unit == growth
    loose = served(growth, top=Span(0, None), **kw)
    assert loose is not None
    assert loose.least <= exact.least
    assert loose.most is None
    below = served(growth, top=Span(0, None), below=nb + 16, **kw)
    assert below is not None
    assert below.most == nb


@given(st.integers(32, 1 << 22), st.integers(0, 15), st.integers(0, 4095))
def test_the_second_of_two_tells_the_old_top(top: int, front: int, end: int) -> None:
    span = old_top(top + front + end, 4096, 32)
    assert span.most is not None
    assert span.least <= top <= span.most
