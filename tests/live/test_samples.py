# SPDX-License-Identifier: GPL-2.0-or-later
"""Each sample tells what it did; the trace must say the same."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.live.tracing import Traced, cli

from memtrace.trace.reader import Trace
from memtrace.trace.records import Clone, Exec, Exit, Fork

PAGE = 4096
I32 = 0xFFFFFFFF
EINVAL, ENOMEM = -22, -12

SAMPLES = {
    "heap-grow": (), "heap-shrink": (), "heap-pinned": (), "threshold-edge": (),
    "threshold-moves": (), "mapping-kinds": (), "lazy-population": (),
    "thread-arenas": (4, "together"), "fork-tree": (), "self-maps": (3, 200, 10),
    "threads-fight": (3, 4, 60), "exec-from-thread": (), "clone-vm": (), "direct-mmap": (),
    "syscall-churn": ("malloc-churn", 2, 20), "heap-foreign": (), "break-rules": (),
    "dynamic-cost": (), "mmap-churn": ("mallopt", 20), "mallopt-hidden": (), "map-limit": (200,),
    "rss-stays": ("trim",),
}  # fmt: skip


def call_key(line: dict[str, Any]) -> tuple[Any, ...]:
    args = line["args"]
    if line["call"] == "mremap" and not args[3] & 6:
        args = args[:4]  # without MREMAP_FIXED and MREMAP_DONTUNMAP it has no fifth
    return line["pid"], line["tid"], line["call"], tuple(args), line["ret"]


def assert_told_calls_are_events(done: Traced) -> int:
    """The account's calls are the trace's, per thread in the same order, with the same numbers."""
    told = [call_key(line) for line in done.told("call")]
    for tid in {key[1] for key in told}:
        ours = iter([call_key(e) for e in done.calls(tid=tid)])
        for key in (key for key in told if key[1] == tid):
            assert key in ours, f"{key} is missing, or out of order"
    return len(told)


def break_changes(done: Traced, pid: int | None = None) -> list[tuple[int, int]]:
    """(before, after) of each change of the break, from the brk calls of the trace."""
    at: dict[int, int] = {}
    changes = []
    for e in done.calls("brk"):
        before = at.get(e["mm"])
        at[e["mm"]] = e["ret"]
        if before is not None and before != e["ret"] and pid in {None, e["pid"]}:
            changes.append((before, e["ret"]))
    return changes


def report(done: Traced) -> dict[str, Any]:
    shown = cli("report", done.path, "--format", "json")
    assert shown.returncode == 0, shown.stderr
    answer: dict[str, Any] = json.loads(shown.stdout)
    return answer


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kernel_map_is_reproduced(sample: Callable[..., Traced], name: str) -> None:
    done = sample(name, *SAMPLES[name])
    done.assert_exact()
    assert done.told("begin")[0]["sample"] == name
    assert all(line["expected"] for line in done.told("end"))
    assert not done.told("failed")
    assert_told_calls_are_events(done)


@pytest.mark.parametrize("name", SAMPLES)
def test_with_a_kernel_map_after_every_call(sample: Callable[..., Traced], name: str) -> None:
    done = sample(name, *SAMPLES[name], options=("--snapshots", "every=1"))
    done.assert_exact()
    snapshots, calls = len(done.calls("snap")), len(done.calls())
    # Only while calls of one mm overlap can there be none; and an exec's or fork's own come on top.
    assert snapshots >= calls - len(done.calls("overlap")) - 2


@pytest.mark.parametrize("name", ["mapping-kinds", "lazy-population", "fork-tree", "clone-vm"])
def test_told_calls_are_in_the_trace(sample: Callable[..., Traced], name: str) -> None:
    assert assert_told_calls_are_events(sample(name)) >= 5


def test_every_call_of_a_series_is_in_the_trace_and_no_other(
    sample: Callable[..., Traced],
) -> None:
    done = sample("self-maps", 5, 300, 300)
    assert assert_told_calls_are_events(done) >= 300
    end = next(i for i, line in enumerate(done.account) if line["what"] == "mark")
    told = [call_key(line) for line in done.account[:end] if line["what"] == "call"]
    mark = next(e["seq"] for e in done.calls("munmap", ret=EINVAL) if e["args"] == [1 << 12, 0])
    ours = [call_key(e) for e in done.calls() if e["seq"] < mark]
    assert len(told) >= 300
    assert ours[-len(told) :] == told


@pytest.mark.parametrize("name", ["mapping-kinds", "heap-shrink", "self-maps", "threshold-moves"])
def test_with_and_without_the_filter_the_calls_are_the_same(
    sample: Callable[..., Traced], name: str
) -> None:
    ours, theirs = sample(name), sample(name, options=("--no-seccomp",))
    theirs.assert_exact()
    assert_told_calls_are_events(theirs)
    # Addresses differ from run to run; names, lengths and outcomes do not.
    assert [shape(e) for e in ours.calls()] == [shape(e) for e in theirs.calls()]


def shape(e: dict[str, Any]) -> tuple[Any, ...]:
    ret = e["ret"]
    args = [a if a < 1 << 32 else "address" for a in e["args"]]
    return e["call"], args, ret if -PAGE < ret <= 0 else "address"


@pytest.mark.parametrize("name", ["heap-grow", "heap-shrink", "heap-pinned"])
def test_the_breaks_are_the_programs_own(sample: Callable[..., Traced], name: str) -> None:
    done = sample(name)
    told = [(line["before"], line["after"]) for line in done.told("break")]
    assert len(told) >= 3
    assert break_changes(done) == told
    (process,) = report(done)["processes"]
    steps = [(s["end"] - s["delta"], s["end"]) for s in process["heap"]["steps"] if s["delta"]]
    assert steps == told
    assert process["heap"]["end"] == told[-1][1]
    assert process["heap"]["start"] == told[0][0]
    totals = done.told("total")
    if totals:
        assert process["heap"]["grown_bytes"] == totals[0]["grown_bytes"]
        assert process["heap"]["shrunk_bytes"] == totals[0].get("shrunk_bytes", 0)
        assert process["heap"]["end"] == totals[0]["final_break"]


@pytest.mark.parametrize("name", ["threshold-edge", "threshold-moves", "direct-mmap"])
def test_mallocs_are_calls_of_the_trace(sample: Callable[..., Traced], name: str) -> None:
    done = sample(name)
    mapped = [m for m in done.told("malloc") if m["where"] == "mapped"]
    assert mapped
    maps = {e["ret"]: e for e in done.calls("mmap")}
    for m in mapped:
        assert maps[m["map_start"]]["args"][1] == m["map_length"]
    moved = [
        (m["break_before"], m["break_after"])
        for m in done.account
        if m["what"] in {"malloc", "free"} and m["break_before"] != m["break_after"]
    ]
    assert break_changes(done) == moved


def headers(done: Traced) -> dict[int, int]:
    """mmap's seq -> the size word, of the lines of `memtrace events`."""
    shown = cli("events", done.path, "--format", "jsonl", "--call", "mmap")
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    return {e["seq"]: e["header"] for e in events if "header" in e}


@pytest.mark.parametrize("name", ["threshold-edge", "direct-mmap", "threshold-moves"])
def test_a_chunk_header_is_read_where_malloc_wrote_one_and_nowhere_else(
    sample: Callable[..., Traced], name: str
) -> None:
    done = sample(name)
    told = [m for m in done.told("malloc") if m["where"] == "mapped"]
    # In order of time, because an address may be used again.
    ours = [(e["ret"], e["args"][1], e["seq"]) for e in done.calls("mmap")]
    found = headers(done)
    starts = [(start, length) for start, length, seq in ours if seq in found]
    assert starts == [(m["map_start"], m["map_length"]) for m in told]
    assert list(found.values()) == [m["size_field"] for m in told]


def test_the_programs_own_mapping_has_no_header(sample: Callable[..., Traced]) -> None:
    done = sample("direct-mmap")
    of = {m["by"]: m for m in done.told("mapping")}
    assert of["program"]["length"] == of["malloc"]["length"] == 135168
    own = {e["seq"] for e in done.calls("mmap", ret=of["program"]["start"])}
    mallocs = {e["seq"] for e in done.calls("mmap", ret=of["malloc"]["start"])}
    found = set(headers(done))
    assert mallocs <= found
    assert not own & found
    (process,) = report(done)["processes"]
    regions = {r["start"]: r for r in process["regions"] if r["died_seq"] is None}
    assert regions[of["malloc"]["start"]]["kind"] == "malloc-chunk"
    assert regions[of["malloc"]["start"]]["evidence"] == "header"
    assert regions[of["program"]["start"]]["kind"] == "anon"


def test_without_evidence_neither_headers_nor_callers(sample: Callable[..., Traced]) -> None:
    done = sample("direct-mmap", options=("--evidence", "none"))
    done.assert_exact()
    assert not headers(done)
    assert not any("caller" in e for e in done.events)
    assert any("caller" in e for e in sample("direct-mmap").events)


def records(done: Traced, kind: type) -> list[Any]:
    with Trace(str(done.path)) as trace:
        return [record for _, _, record in trace.records() if isinstance(record, kind)]


def assert_every_task_ends(done: Traced) -> None:
    """Each task that was born has one exit record, and each address space one end."""
    born = Counter([(records(done, Exec)[0].pid)])
    born.update(r.child for kind in (Fork, Clone) for r in records(done, kind))
    # Threads that an exec of a sibling ends have none.
    gone = Counter(r.tid for r in records(done, Exit))
    assert gone == born
    ended = Counter(e["mm"] for e in done.calls("gone"))
    assert ended == Counter(p.mm for p in done.replayed.processes)
    assert not done.calls("lost")


def test_threads_share_the_address_space(sample: Callable[..., Traced]) -> None:
    done = sample("thread-arenas", 4, "together")
    done.assert_exact()
    (process,) = done.replayed.processes
    assert process.pids == [process.pid]
    told = {line["tid"]: line for line in done.told("thread")}
    clones = records(done, Clone)
    assert {c.child for c in clones} == set(told)
    assert {c.child_pid for c in clones} == {process.pid}
    for c in clones:
        line = told[c.child]
        assert line["stack_start"] < c.stack <= line["stack_end"]
    # Each arena's 64 MiB were reserved by the thread that has it.
    maps = done.calls("mmap")
    for tid, line in told.items():
        base = line["arena_base"]
        assert any(e["tid"] == tid and e["ret"] <= base < e["ret"] + e["args"][1] for e in maps)
    assert_every_task_ends(done)


def test_a_tree_of_forks(sample: Callable[..., Traced]) -> None:
    done = sample("fork-tree")
    done.assert_exact()
    born = {line["role"]: line for line in done.told("born")}
    child_of = {line["how"]: line["child"] for line in done.told("fork")}
    parent, child, grandchild = (born[r]["pid"] for r in ("parent", "child", "grandchild"))
    forks = {r.child: r for r in records(done, Fork)}
    assert set(forks) == {child, grandchild}
    assert forks[child].pid == parent
    assert forks[grandchild].pid == child
    mm = {pid: forks[pid].child_mm for pid in forks} | {parent: forks[child].mm}
    assert len(set(mm.values())) == 3
    assert forks[grandchild].mm == mm[child]
    for line in done.told("call"):
        (event,) = [e for e in done.calls(tid=line["tid"]) if call_key(e) == call_key(line)]
        assert event["mm"] == mm[line["pid"]]
    # vfork and posix_spawn borrow their parent's memory until they exec.
    clones = {r.child: r for r in records(done, Clone)}
    assert set(clones) == {child_of["vfork"], child_of["posix_spawn"]}
    execs = {r.pid: r for r in records(done, Exec)}
    for how in ("vfork", "posix_spawn"):
        pid = child_of[how]
        assert clones[pid].mm == mm[parent] == execs[pid].old_mm
        assert clones[pid].child_pid == pid
        assert execs[pid].mm not in mm.values()
    own = next(p for p in done.replayed.processes if p.mm == mm[parent])
    assert own.pids == [parent, child_of["vfork"], child_of["posix_spawn"]]
    assert_every_task_ends(done)


def test_the_heaps_of_a_fork_are_two(sample: Callable[..., Traced]) -> None:
    done = sample("fork-tree")
    for line in done.told("break"):
        changes = break_changes(done, line["pid"])
        if line["phase"] == "child":  # it inherits the break, and no call says where it was
            changes = [(e["ret"], e["ret"]) for e in done.calls("brk", pid=line["pid"])]
            assert changes[-1][1] == line["after"] > line["before"]
        else:
            assert changes[0][0] == line["before"]
            assert changes[-1][1] == line["after"]
    rows = {p["pid"]: p for p in report(done)["processes"] if not p["argv"][0].endswith("true")}
    for line in done.told("break"):
        heap = rows[line["pid"]]["heap"]
        assert heap["end"] == line["after"]
        if line["phase"] == "child":
            assert heap["steps"][0]["end"] - heap["steps"][0]["delta"] == line["before"]


def test_two_processes_in_one_address_space(sample: Callable[..., Traced]) -> None:
    done = sample("clone-vm")
    done.assert_exact()
    (shared,) = done.told("shared")
    (process,) = done.replayed.processes
    assert process.pids == [shared["pid"], shared["child"]]
    assert {e["mm"] for e in done.calls(pid=shared["child"])} == {process.mm}
    (clone,) = records(done, Clone)
    assert (clone.child, clone.child_pid) == (shared["child"], shared["child"])
    assert_every_task_ends(done)


def test_an_exec_by_a_thread_that_is_not_the_leader(sample: Callable[..., Traced]) -> None:
    done = sample("exec-from-thread")
    done.assert_exact()
    first, second = records(done, Exec)
    (told,) = done.told("exec")
    assert (first.pid, first.tid) == (told["pid"], told["pid"])
    assert (second.pid, second.tid, second.old_mm) == (told["pid"], told["tid"], first.mm)
    assert second.argv[1] == "second life"
    one, two = done.told("life")
    maps = done.calls("mmap", ret=one["map_start"])
    assert [(e["mm"], e["args"][1]) for e in maps] == [(first.mm, one["map_length"])]
    assert not any(r["start"] == one["map_start"] for r in report(done)["processes"][1]["regions"])
    # One leader's exit only, at the very end; and the second life's heap begins anew.
    assert [(r.pid, r.mm, r.code) for r in records(done, Exit)] == [(told["pid"], second.mm, 0)]
    assert two["break"] != one["break"]
    assert second.start_brk <= two["break"]


def test_resident_pages_follow_the_touch(sample: Callable[..., Traced]) -> None:
    done = sample("lazy-population")
    moments = {m["at"]: m for m in done.told("moment")}
    calls = [e for e in done.calls("mmap", "madvise", "munmap") if e["args"][1] == 64 << 20]
    mapped, given_back, unmapped = calls[0], calls[1], calls[2]
    assert mapped["vm"] == moments["mapped"]["vm_bytes"]
    assert given_back["vm"] == moments["dontneed"]["vm_bytes"]
    assert unmapped["vm"] == moments["unmapped"]["vm_bytes"]
    # The kernel counts in batches per processor (mm counters): 1 MiB is far more than these hold.
    for event, at in ((mapped, "mapped"), (given_back, "dontneed"), (unmapped, "unmapped")):
        assert abs(event["rss"] - moments[at]["rss_bytes"]) < 1 << 20
    assert moments["half-touched"]["rss_bytes"] - mapped["rss"] > 30 << 20


def test_mapping_kinds_are_told_apart(sample: Callable[..., Traced]) -> None:
    done = sample("mapping-kinds")
    kinds = {r["start"]: r["kind"] for r in report(done)["processes"][0]["regions"]}
    told = {line["note"]: line["ret"] for line in done.told("call") if line["call"] == "mmap"}
    expected = {
        "private-anonymous": "anon", "shared-anonymous": "shared-anon", "private-file": "file",
        "shared-file": "shared-file", "memfd": "shared-file",
    }  # fmt: skip
    assert {note: kinds[told[note]] for note in expected} == expected
    assert [e["errno"] for e in done.calls("mprotect") if e["ret"] < 0] == ["ENOMEM"]


def test_the_account_needs_no_help_from_the_tracer(samples: Path) -> None:
    """Without descriptor 3 a sample tells nothing: the account above came through memtrace."""
    done = subprocess.run([samples / "heap-grow"], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
