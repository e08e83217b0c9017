# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace file's promises, on real traces: valid JSON, its schema, its numbering, its size."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.live.tracing import ROOT, Traced, cli

from memtrace.trace.reader import Trace

SCHEMA = json.loads((ROOT / "tracer/memtrace/trace/trace.schema.json").read_text())
SUFFIXES = [".json", ".json.gz", ".json.zst"]


def text_of(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(raw)
    if path.suffix == ".zst":
        zstd = import_module(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        )
        return bytes(zstd.decompress(raw))
    return raw


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["mapping-kinds", "fork-tree", "clone-vm", "exec-from-thread"])
def test_a_trace_is_json_by_its_schema(
    sample: Callable[..., Traced], name: str, suffix: str
) -> None:
    done = sample(name, suffix=suffix)
    done.assert_exact()
    document: list[Any] = json.loads(text_of(done.path))
    jsonschema.validate(document, SCHEMA)
    header, *records, footer = document
    assert header["memtrace"] == "trace"
    assert header["argv"] == [str(a) for a in done.calls("exec")[0]["argv"]]
    assert footer["complete"] is True
    assert footer["counts"]["records"] == len(records) == len(done.events)
    assert footer["counts"]["calls"] == len(done.calls())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_line_and_record_numbers_agree_without_a_gap(
    sample: Callable[..., Traced], suffix: str
) -> None:
    done = sample("threads-fight", 2, 4, 100, suffix=suffix)
    lines = text_of(done.path).decode().splitlines()
    # `[` and the header, the records, the footer, `]`: record N stands N lines below the header.
    assert (lines[0][0], lines[-1]) == ("[", "]")
    assert len(lines) == len(done.events) + 3
    assert [e["seq"] for e in done.events] == list(range(1, len(done.events) + 1))
    with Trace(str(done.path)) as trace:
        assert [seq for seq, _, _ in trace.records()] == [e["seq"] for e in done.events]
    # A call is an array row, its tid in the third column.
    for e in done.calls()[:200]:
        row = json.loads(lines[e["seq"]].rstrip(","))
        assert isinstance(row, list)
        assert row[2] == e["tid"]
    times = [e["t_ns"] for e in done.events]
    assert times[0] >= 0
    assert all(isinstance(t, int) for t in times)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_per_event(sample: Callable[..., Traced], suffix: str) -> None:
    done = sample("syscall-churn", "mmap", 20, 1000, suffix=suffix)
    size, events = done.path.stat().st_size, len(done.calls())
    assert events >= 20_000
    assert size / events <= (80 if suffix == ".json" else 20)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_compressed_trace_says_the_same(sample: Callable[..., Traced], suffix: str) -> None:
    done = sample("self-maps", 4, 200, 20, suffix=suffix)
    done.assert_exact()
    plain = done.path.with_name("plain.json")
    plain.write_bytes(text_of(done.path))
    for verb in (("verify",), ("events", "--format", "jsonl"), ("report", "--format", "json")):
        ours, theirs = (cli(verb[0], path, *verb[1:]) for path in (done.path, plain))
        assert ours.returncode == theirs.returncode == 0
        assert ours.stdout == theirs.stdout
        assert ours.stdout


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0.4, 0.97])
def test_a_trace_cut_anywhere_is_read_up_to_the_cut(
    sample: Callable[..., Traced], suffix: str, kept: float
) -> None:
    done = sample("syscall-churn", "mmap", 20, 1000, suffix=suffix)
    whole = [e["seq"] for e in done.calls()]
    cut = done.path.with_name(f"cut{suffix}")
    raw = done.path.read_bytes()
    cut.write_bytes(raw[: int(len(raw) * kept)])
    half = Traced(cut, 0, b"", "", [])
    assert half.exactness == "incomplete"
    read = [e["seq"] for e in half.calls()]
    assert read == whole[: len(read)]
    assert len(read) > len(whole) * kept / 2
    assert not any(p.drifted for p in half.replayed.processes)
    assert cli("verify", cut).returncode == 3
