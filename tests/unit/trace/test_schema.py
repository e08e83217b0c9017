# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON Schema accepts what the encoder writes and refuses what is no trace."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from memtrace.trace.codec import Interner, encode, encode_footer, encode_header
from memtrace.trace.records import (
    Attach,
    Call,
    Clone,
    Exec,
    Exit,
    Ext,
    Footer,
    Fork,
    Gone,
    Header,
    Libc,
    Life,
    Lost,
    Manner,
    Overlap,
    Site,
    Snap,
    Walk,
    WalkedHeap,
)

WALKED = WalkedHeap(
    kind="main", base=4096, end=12288, first=4096, searched=True, walked=12288, complete=True,
    chunks=3, used=4096, used_chunks=2, free=2048, free_chunks=1, largest_free=2048,
    top=(10240, 2048), pin=(8192, 2048), below_pin=0, other=0, resident=8192, free_resident=0,
    top_resident=0,
)  # fmt: skip
BROKEN = WalkedHeap(
    kind="arena", base=1 << 26, end=(1 << 26) + 4096, opened=8192, arena=1 << 26, problem="x"
)
MAPS = ["1000-2000 r-xp 00000000 fe:00 3 /a b (deleted)", "7000-8000 rw-p 0 00:00 0"]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(files("memtrace.trace").joinpath("trace.schema.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def trace_with_everything() -> list[Any]:
    names = Interner()
    _, site = names.site(("fe:00", 3, "/a", 16), None, 0x7000)
    assert isinstance(site, Site)
    ids: dict[str, Any] = {"pid": 7, "tid": 7, "mm": 1}
    ext = Ext(f=names.file("fe:00", 9, "/b"), x=(0, 4096, MAPS), h=[(3, 0x21002)], abi="i386",
              raw="mmap2", name="pool", freed=(0x21002, 0))  # fmt: skip
    records: list[Call | Life] = [
        Exec(t=1, **ids, old_mm=4, ppid=2, exe="/a", argv=["a"], env={"MALLOC_ARENA_MAX": "1"},
             at_secure=False, personality=4, abi="x86_64", start_brk=4096, start_stack=5,
             rlimits={"STACK": None, "DATA": 4}, vm=1, rss=1, maps=MAPS),
        Attach(t=1, pid=17, mm=3, ppid=2, exe="/a", argv=["a"], env={}, at_secure=True,
               personality=4, abi="i386", start_brk=4096, start_stack=5, rlimits={"AS": None},
               vm=1, rss=1, maps=MAPS, tids=[17, 18], stacks=[(18, 0x7F00)],
               dontfork=[(0x7000, 0x8000)], growsdown=[(0x7000, 0x8000)],
               chunks=[(0x7000, 0x1002)], age_ns=10**12, env_lost=True, why="fork", h=[(1, 0)]),
        Attach(t=1, pid=19, mm=4),
        Call(1, 2, 7, 1, 0, [0, 4096, 3, 34, -1, 0], 0x7000, site, 2, 1, ext),
        Call(1, 2, 7, 1, 0, [2**64 - 1], -22, 1),
        Call(1, 2, 7, 1, 0, []),
        Fork(t=2, **ids, child=8, child_mm=2),
        Clone(t=2, **ids, child=9, child_pid=7, flags=0x3D0F00, stack=4096),
        Exit(t=3, **ids, code=0),
        Exit(t=3, **ids, signal=9, h=[(3, 0)]),
        Snap(t=4, **ids, why="detach", maps=MAPS),
        Snap(t=4, **ids, why="exit", vm=2, rss=1, minflt=3, majflt=0, hwm=2, maps=MAPS),
        Libc(t=5, mm=1, path="/c", version="2.36", build_id="ab"),
        Overlap(t=6, mm=1, tids=[7, 9]),
        Walk(t=6, **ids, why="peak", took=10**6, still=True, left_out=1, heaps=[WALKED, BROKEN]),
        Lost(t=7, why="x"),
        Lost(t=7, why="x", mm=1, count=3),
        Gone(t=8, mm=1),
    ]  # fmt: skip
    manner = Manner(evidence=True, snapshots="every=20ms", heap_walk=False, redact=False)
    text = encode_header(Header(calls=["mmap"], manner=manner)) + b"".join(
        encode(r) for r in records
    )
    loaded: list[Any] = json.loads(text + encode_footer(Footer(stop=9, complete=True)))
    return loaded


def test_a_trace_with_every_record_is_valid(validator: Any) -> None:
    assert [e.message for e in validator.iter_errors(trace_with_everything())] == []


def test_a_later_record_and_later_fields_are_valid(validator: Any) -> None:
    trace = trace_with_everything()
    trace[1]["later"] = {"x": 1}
    trace.insert(2, {"rec": "weather", "t": 3})
    next(record for record in trace if isinstance(record, list)).append("a later column")
    assert validator.is_valid(trace)


@pytest.mark.parametrize(
    "record",
    [[1, 2], {"rec": "exec", "t": 1}, {"t": 1}, 5, None, "text", [1, 2, 7, 1, 0, ["x"], 0],
     {"rec": "snap", "t": 1, "mm": 1, "pid": 7, "tid": 7, "why": "x", "maps": ["no map"]},
     {"rec": "gone", "t": -1, "mm": 1}, {"rec": "attach", "t": 1, "pid": 7},
     {"rec": "attach", "t": 1, "pid": 7, "mm": 1, "chunks": [[4096]]},
     {"rec": "attach", "t": 1, "pid": 7, "mm": 1, "dontfork": [[-1, 4096]]},
     {"rec": "walk", "t": 1, "pid": 7, "tid": 7, "mm": 1, "why": "exit", "heaps": [{"base": 1}]}],
)  # fmt: skip
def test_what_is_no_record_is_refused(validator: Any, record: object) -> None:
    trace = trace_with_everything()
    assert not validator.is_valid([trace[0], record])


def test_a_foreign_array_is_refused(validator: Any) -> None:
    assert not validator.is_valid([])
    assert not validator.is_valid([{"pid": 1, "ts": 3}])
