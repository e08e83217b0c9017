# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages through the pipe, and calls as the trace names them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.collect.messages import I386, call, encoded

from memtrace.collect import wire
from memtrace.collect.decode import decode
from memtrace.trace.records import Ext

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | i64 | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=6), json_values, max_size=4)
entries = st.tuples(*[u64] * 4, *[i64] * 6, u64)
calls = st.builds(
    wire.CallMessage, st.integers(0, 255), u32, u32, u64, u64, i64, entries,
    st.binary(max_size=255), st.binary(max_size=255), st.none() | objects,
)  # fmt: skip
lives = st.builds(wire.LifeMessage, objects, st.binary(max_size=300))
headers = st.builds(wire.HeaderMessage, u32, u64, u64, u64)
Message = wire.CallMessage | wire.LifeMessage | wire.HeaderMessage


@given(st.lists(calls | lives | headers, max_size=6), st.data())
def test_messages_survive_any_cutting(messages: list[Message], data: st.DataObject) -> None:
    whole = b"".join(map(encoded, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parser, got = wire.Parser(), []
    for low, high in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += list(parser.feed(whole[low:high]))
    assert got == messages


def test_messages_survive_byte_by_byte() -> None:
    messages: list[Message] = [
        call("mmap", [0, 4096, 3, 34, -1, 0], 0x7F0000000000, stack=b"s" * 96, statm=b"1 2 3"),
        wire.LifeMessage({"rec": "gone", "mm": 1}, b""),
        wire.HeaderMessage(1, 7, 0, 0x21002),
        wire.LifeMessage({"rec": "snap"}, bytes(range(256))),
        call("munmap", [4096, 1], -22, extra={"x": [1, 2, ["three"]]}),
    ]
    parser, got = wire.Parser(), []
    for byte in b"".join(map(encoded, messages)):
        got += list(parser.feed(bytes([byte])))
    assert got == messages


@pytest.mark.parametrize("kind", [0, 5, 0x5B, 255])
def test_an_unknown_message_is_an_error(kind: int) -> None:
    parser = wire.Parser()
    with pytest.raises(ValueError, match=f"message of kind {kind}"):
        list(parser.feed(encoded(wire.HeaderMessage(1, 2, 3, 4)) + bytes([kind]) + bytes(200)))


# -- decode -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            call(12, [0x5000, 77, 77, 77, 77, 77], 0x5000),
            ("brk", [0x5000], 0x5000, None),
            id="only the used arguments",
        ),
        pytest.param(call(152, [7], 0), ("munlockall", [], 0, None), id="no arguments"),
        pytest.param(call(11, [-1, 0], -22), ("munmap", [-1, 0], -22, None), id="a failure"),
        pytest.param(
            call(9, [0, 4096, 3, 34, 0xFFFFFFFF, 0], 0x7F0000000000),
            ("mmap", [0, 4096, 3, 34, 0xFFFFFFFF, 0], 0x7F0000000000, None),
            id="all six",
        ),
        pytest.param(
            call(9 | 0x40000000, [0, 4096, 3, 34, -1, 0], 0x40001000),
            ("mmap", [0, 4096, 3, 34, -1, 0], 0x40001000, Ext(abi="x32")),
            id="x32",
        ),
        pytest.param(
            call(11, [0x5000, 4096], 0, flags=wire.UNFINISHED),
            ("munmap", [0x5000, 4096], None, None),
            id="never returned",
        ),
        pytest.param(
            call(25, [0x5000, 4096, 8192, 1, 0x9999], 0x5000),
            ("mremap", [0x5000, 4096, 8192, 1], 0x5000, None),
            id="mremap without an address",
        ),
        pytest.param(
            call(25, [0x5000, 4096, 8192, 3, 0x9000], 0x9000),
            ("mremap", [0x5000, 4096, 8192, 3, 0x9000], 0x9000, None),
            id="mremap MREMAP_FIXED",
        ),
        pytest.param(
            call(25, [0x5000, 4096, 4096, 5, 0x9000], 0x9000),
            ("mremap", [0x5000, 4096, 4096, 5, 0x9000], 0x9000, None),
            id="mremap MREMAP_DONTUNMAP",
        ),
        pytest.param(
            call(45, [0x80000000], 0x80000000, arch=I386),
            ("brk", [0x80000000], 0x80000000, Ext(abi="i386")),
            id="i386 has its own numbers",
        ),
        pytest.param(
            call(45, [0x95000000], 0x95000000 - 2**32, arch=I386),
            ("brk", [0x95000000], 0x95000000, Ext(abi="i386")),
            id="an i386 address is no negative number",
        ),
        pytest.param(
            call(91, [1, 4096], -22, arch=I386),
            ("munmap", [1, 4096], -22, Ext(abi="i386")),
            id="an i386 error is",
        ),
        pytest.param(
            call(192, [0, 4096, 3, 2, 5, 3], 0xF7000000, arch=I386,
                 extra={"args": [0, 4096, 3, 2, 5, 12288], "call": "mmap", "raw": "mmap2"}),
            ("mmap", [0, 4096, 3, 2, 5, 12288], 0xF7000000, Ext(abi="i386", raw="mmap2")),
            id="mmap2",
        ),
        pytest.param(
            call(90, [0xFFFF0000], 0xF7000000, arch=I386,
                 extra={"args": [0, 4096, 3, 34, 9, 0], "call": "mmap", "raw": "old_mmap"}),
            ("mmap", [0, 4096, 3, 34, 9, 0], 0xF7000000, Ext(abi="i386", raw="old_mmap")),
            id="old_mmap",
        ),
        pytest.param(
            call(117, [22, 0, 0, 0, 0xF7000000], 0, arch=I386,
                 extra={"args": [0xF7000000, 0, 0, 0, 0, 0], "call": "shmdt", "raw": "ipc"}),
            ("shmdt", [0xF7000000], 0, Ext(abi="i386", raw="ipc")),
            id="ipc",
        ),
        pytest.param(
            call(157, [0x53564D41, 0, 0x5000, 4096, 0x6000], 0, extra={"name": "pool"}),
            ("prctl", [0x53564D41, 0, 0x5000, 4096, 0x6000], 0, Ext(name="pool")),
            id="the name of an area",
        ),
    ],
)  # fmt: skip
def test_a_call_as_the_trace_names_it(message: wire.CallMessage, expected: Any) -> None:
    assert decode(message) == expected
