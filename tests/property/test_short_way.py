# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls of most of a trace take a shorter way, and come to the same."""

from __future__ import annotations

from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.space import calls as space_calls
from memtrace.space.address_space import READ_IMPLIES_EXEC, AddressSpace
from memtrace.space.calls import TASK_MAX, apply
from memtrace.space.canonical import MapsCache
from memtrace.trace.records import Ext, FileId

PAGE = 4096
CALLS = ["mmap", "mmap", "munmap", "munmap", "brk", "mprotect", "mremap", "madvise", "unheard_of"]
odd = st.sampled_from([-1, 0, 1, 5000, 1 << 47, TASK_MAX - PAGE, TASK_MAX, 1 << 63, (1 << 64) - 1])
near = st.integers(0, 24).map(lambda i: i * PAGE)
words = near | near | near | odd
flags = st.sampled_from([0x22, 0x22, 0x32, 0x122, 0x21, 0x2, 0x12, 0x100022, 0x33, 0])
results = near | near | st.just(0) | st.sampled_from([None, -12, -22, -4095]) | odd
exts = st.none() | st.just(Ext(h=[(1, 2)])) | st.just(Ext(personality=READ_IMPLIES_EXEC))
files = st.none() | st.none() | st.just(FileId(1, "fe:00", 5, "/f"))


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, list[int], int | None, Ext | None, FileId | None]:
    name = draw(st.sampled_from(CALLS))
    args = [draw(words), draw(words), draw(st.integers(0, 7)), draw(flags), -1, draw(near)]
    args = args[: draw(st.sampled_from([6, 6, 6, 6, 4, 1, 0]))]
    ret = draw(st.just(0) if name == "munmap" and draw(st.booleans()) else results)
    return name, args, ret, draw(exts), draw(files)


@settings(max_examples=500, deadline=None)
@given(st.lists(calls(), max_size=30), st.sampled_from([0, READ_IMPLIES_EXEC]))
def test_both_ways_lead_to_the_same_map(
    script: list[tuple[str, list[int], int | None, Ext | None, FileId | None]], personality: int
) -> None:
    long, short, cache = AddressSpace(), AddressSpace(), MapsCache()
    long.personality = short.personality = personality
    long.start_brk = long.brk = short.start_brk = short.brk = 8 * PAGE
    for name, args, ret, ext, file in script:
        with mock.patch.object(space_calls, "most_calls", return_value=None):
            want = apply(long, name, list(args), ret, ext, file, cache)
        got = apply(short, name, list(args), ret, ext, file, cache)
        assert got == want, (name, args, ret)
        assert list(short.pieces(0, 1 << 70)) == list(long.pieces(0, 1 << 70)), (name, args, ret)
        assert (short.total, short.next_tag, short.brk) == (long.total, long.next_tag, long.brk)
