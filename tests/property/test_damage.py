# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage anywhere in a trace: it is read as far as it goes, or refused, and never called exact."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.cli.events import Events
from memtrace.replay import trust
from memtrace.replay.engine import replay
from memtrace.replay.result import Replay
from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.errors import TraceFormatError
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call, Exec, Exit, Ext, FileId, Footer, Fork, Gone, Header, Snap

STACK = "7ff0000-8000000 rw-p 00000000 00:00 0 [stack]"
HEAP = "600000-610000 rw-p 00000000 00:00 0 [heap]"
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
            Exit(t=9, **WHO, code=0),
            Gone(t=9, mm=1),
        )
    )
    + encode_footer(Footer(stop=10, complete=True))
)  # fmt: skip


def account(data: bytes) -> Replay | None:
    """What is made of a file: None if it is refused."""
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
        except TraceFormatError:
            return None
        return result


def test_the_whole_trace_is_exact() -> None:
    result = account(WHOLE)
    assert result is not None
    assert trust.exactness(result) == "exact"


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, len(WHOLE) - 1),
    st.binary(max_size=6) | st.sampled_from([b"-", b"99999999999999999999", b"null", b"\n", b"[["]),
    st.integers(0, 12),
)
def test_bytes_replaced_anywhere(at: int, new: bytes, gone: int) -> None:
    account(WHOLE[:at] + new + WHOLE[at + gone :])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=4))
def test_lines_repeated_in_any_order(numbers: list[int]) -> None:
    lines = WHOLE.splitlines(keepends=True)
    account(b"".join([*lines[:5], *(lines[n] for n in numbers), *lines[5:]]))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, len(WHOLE) - 4))
def test_a_cut_trace_is_never_exact(at: int) -> None:
    result = account(WHOLE[:at])
    assert result is None or trust.exactness(result) == "incomplete"
