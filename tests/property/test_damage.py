# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage anywhere in a trace: it is read as far as it goes, or refused, and never called exact."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.replay import trust
from memtrace.replay.engine import replay
from memtrace.replay.result import Replay
from memtrace.report import json as report_json
from memtrace.report import text as report_text
from memtrace.report.build import build
from memtrace.report.decoded import Events
from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.errors import TraceFormatError
from memtrace.trace.reader import Trace
from memtrace.trace.records import (
    Attach,
    Call,
    Exec,
    Exit,
    Ext,
    FileId,
    Footer,
    Fork,
    Gone,
    Header,
    Libc,
    Snap,
    Walk,
    WalkedHeap,
)

SCHEMA = jsonschema.Draft202012Validator(report_json.schema())
STACK = "7ff0000-8000000 rw-p 00000000 00:00 0 [stack]"
HEAP = "600000-610000 rw-p 00000000 00:00 0 [heap]"
WALKED = WalkedHeap(
    kind="main", base=0x600000, end=0x610000, first=0x600000, walked=0x610000, complete=True,
    chunks=3, used=0x300, used_chunks=2, free=0x9D00, free_chunks=1, largest_free=0x9D00,
    top=(0x60A000, 0x6000), pin=(0x609FE0, 32), below_pin=0x9D00, other=0, resident=0x10000,
    free_resident=0x9000, top_resident=0x5000,
)  # fmt: skip
BROKEN = WalkedHeap(kind="arena", base=1 << 26, end=(1 << 26) + 4096, opened=8192, arena=1 << 26,
                    first=(1 << 26) + 0x8D0, walked=(1 << 26) + 0x900, problem="x")  # fmt: skip
WHO: dict[str, Any] = {"pid": 5, "tid": 5, "mm": 1}
WHOLE = (
    encode_header(Header(calls=["brk", "mmap", "mremap", "mprotect", "madvise", "shmdt"]))
    + b"".join(
        encode(record)
        for record in (
            Exec(t=1, **WHO, exe="/bin/a", start_brk=0x600000, start_stack=0x7FFFF00, maps=[STACK]),
            Call(1, 1, 5, 1, 0, [0x610000], 0x610000, None, 32, 3),
            Call(1, 1, 5, 1, 1, [0, 0x2000, 1, 2, 3, 0], 0x700000, None, 34, 3,
                 Ext(f=FileId(1, "fe:00", 9, "/b"))),
            Call(1, 1, 5, 1, 4, [0x700000, 0x1000, 10], 0, None, 34, 3),
            Fork(t=5, **WHO, child=6, child_mm=2),
            Call(1, 1, 5, 1, 2, [0x700000, 0x2000, 0x4000, 1], 0x800000, None, 36, 3),
            Call(1, 1, 5, 1, 3, [0x800000, 0x9000, 1], -12, None, 36, 3,
                 Ext(x=(0x800000, 0x809000, ["800000-804000 r--p 0 fe:00 9 /b"]), h=[(3, 7)])),
            Snap(t=8, **WHO, why="exit", maps=[HEAP, "800000-804000 r--p 0 fe:00 9 /b", STACK]),
            Walk(t=8, **WHO, why="exit", took=5, still=True, heaps=[WALKED, BROKEN]),
            Exit(t=9, **WHO, code=0),
            Gone(t=9, mm=1),
        )
    )
    + encode_footer(Footer(stop=10, complete=True))
)  # fmt: skip


CHUNKS = "700000-742000 rw-p 00000000 00:00 0"  # two of 132 KiB, shown as one
LIBC = "/lib/libc.so.6"
TEXT = f"760000-780000 r-xp 00000000 fe:00 3 {LIBC}"
ATTACHED = (
    encode_header(Header(calls=["brk", "mmap", "munmap", "mprotect"]))
    + b"".join(
        encode(record)
        for record in (
            Attach(t=1, pid=5, mm=1, exe="/bin/a", argv=["a"], start_brk=0x600000,
                   start_stack=0x7FFFF00, at_secure=False, maps=[HEAP, CHUNKS, TEXT, STACK],
                   tids=[5, 7], stacks=[(5, 0x7FFFE00), (7, 0x741F00)],
                   dontfork=[(0x700000, 0x721000)], growsdown=[(0x7FF0000, 0x8000000)],
                   chunks=[(0x700000, 0x21002), (0x721000, 0x21002)], age_ns=10**9),
            Libc(t=1, mm=1, path=LIBC, version="2.36"),
            Call(1, 1, 5, 1, 0, [0x620000], 0x60F800, None, 130, 3),
            Call(1, 1, 7, 1, 2, [0x700000, 0x21000], 0, None, 97, 3),
            Call(1, 1, 5, 1, 0, [0x620800], 0x620800, None, 114, 3),
            Fork(t=5, pid=5, tid=5, mm=1, child=6, child_mm=2),
            Attach(t=6, pid=8, mm=3, why="fork", maps=[STACK], tids=[8]),
            Exit(t=7, pid=8, tid=8, mm=3, code=0),
            Gone(t=7, mm=3),
            Snap(t=8, pid=5, tid=5, mm=1, why="detach", vm=114,
                 maps=[HEAP.replace("610000", "621000"), CHUNKS.replace("700000", "721000"), TEXT,
                       STACK]),
        )
    )
    + encode_footer(Footer(stop=10, complete=True, reason="detached"))
)  # fmt: skip
TRACES = [WHOLE, ATTACHED]


def account(data: bytes) -> Replay | None:
    """What is made of a file, in every form: None if it is refused."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        try:
            with Trace(path) as trace:
                result = replay(trace)
            with Trace(path) as trace:
                events = Events(trace, {})
                for line in events.lines(events.jsonl, None, None):
                    json.loads(line)
            with Trace(path) as trace:
                events = Events(trace, {})
                assert all(text.count("\n") == 1 for text in events.lines(events.text, None, None))
            with Trace(path) as trace:
                report = build(trace)
            SCHEMA.validate(json.loads(report_json.render(report)))
            assert report_text.render(report)
        except TraceFormatError:
            return None
        return result


@pytest.mark.parametrize("whole", TRACES)
def test_the_whole_trace_is_exact(whole: bytes) -> None:
    result = account(whole)
    assert result is not None
    assert trust.exactness(result) == "exact", trust.sentence(result)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(TRACES),
    st.integers(0, max(map(len, TRACES)) - 1),
    st.binary(max_size=6) | st.sampled_from([b"-", b"99999999999999999999", b"null", b"\n", b"[["]),
    st.integers(0, 12),
)
def test_bytes_replaced_anywhere(whole: bytes, at: int, new: bytes, gone: int) -> None:
    at %= len(whole)
    account(whole[:at] + new + whole[at + gone :])


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TRACES), st.lists(st.integers(1, 10), min_size=1, max_size=4))
def test_lines_repeated_in_any_order(whole: bytes, numbers: list[int]) -> None:
    lines = whole.splitlines(keepends=True)
    account(b"".join([*lines[:5], *(lines[n] for n in numbers), *lines[5:]]))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TRACES), st.integers(0, max(map(len, TRACES))))
def test_a_cut_trace_is_never_exact(whole: bytes, at: int) -> None:
    result = account(whole[: at % (len(whole) - 4) + 1])
    assert result is None or trust.exactness(result) == "incomplete"
