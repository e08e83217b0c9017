# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a process that was attached to, held against what that process knows of itself."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.live.attaching import attaching
from tests.live.tracing import ROOT, Event, Traced, cli, target


class Told(NamedTuple):
    """What the program told, and what the report says."""

    is_: list[Event]
    ready: Event
    now: Event
    done: Traced
    report: dict[str, Any]

    @property
    def process(self) -> dict[str, Any]:
        first: dict[str, Any] = self.report["processes"][0]
        return first

    def region(self, at: int, *, older: bool = True) -> dict[str, Any]:
        """The region that held the address, of those older than the trace or born in it."""
        (row,) = [
            r for r in self.process["regions"]
            if r["start"] <= at < r["end"] and r["older"] is older
        ]  # fmt: skip
        found: dict[str, Any] = row
        return found

    def of(self, kind: str) -> list[Event]:
        return [e for e in self.is_ if e["kind"] == kind]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Attached to when it is ready, left after the step."""
    folder = tmp_path_factory.mktemp("mid-life")
    program, source = folder / "mid_life", Path(__file__).with_name("mid_life.c")
    flags = ["-std=c11", "-O0", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["gcc", *flags, f"-I{ROOT / 'samples'}", source, "-o", program], check=True)
    trace = folder / "t.json"
    with target(folder / "account", [program]) as t:
        (ready,) = t.tells("ready")
        with attaching(trace, t.process.pid) as a:
            a.begun()
            t.step()
            (now,) = t.tells("now")
            done = a.left(signal.SIGINT)
        is_ = t.account("is")
        t.step()
        assert t.ended() == 0
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    shown = cli("report", trace, "--format", "json")
    assert shown.returncode == 0, shown.stderr
    return Told(is_, ready, now, done, json.loads(shown.stdout))


def test_it_says_that_it_was_attached_to_and_runs_on(told: Told) -> None:
    p = told.process
    assert (p["running"], p["exit"], len(told.report["processes"])) == (True, None, 1)
    a = p["attached"]
    assert a["regions"] == sum(r["older"] for r in p["regions"]) > 10
    (first,) = told.done.calls("attach")
    assert (a["seq"], a["mapped_bytes"]) == (first["seq"], first["vm"])
    assert 0 < a["age_ns"] < 1000 * 10**9
    assert (p["allocator"]["name"], p["allocator"]["rule"]) == ("glibc", "mmap-threshold")


def test_every_chunk_is_one_region_and_nothing_else_is_a_chunk(told: Told) -> None:
    old = {(e["at"], e["bytes"]) for e in told.of("malloc-chunk")[:4]}
    assert len(old) == 4
    found = [r for r in told.process["regions"] if r["kind"] == "malloc-chunk"]
    assert {(r["start"], r["peak_bytes"]) for r in found if r["older"]} == old
    (freed,) = told.of("freed")
    assert told.region(freed["at"])["died_seq"] is not None
    (new,) = [r for r in found if not r["older"]]
    assert (new["start"], new["bytes"]) == (
        told.of("malloc-chunk")[4]["at"], told.of("malloc-chunk")[4]["bytes"],
    )  # fmt: skip
    for e in [*told.of("anon"), *told.of("hidden-chunk")]:  # in one line: nothing tells them apart
        assert told.region(e["at"])["kind"] == "unknown"
    assert {r["evidence"] for r in found} == {"header"}


def test_the_thread_has_its_stack_and_its_arena(told: Told) -> None:
    (stack,), (arena,) = told.of("thread-stack"), told.of("arena")
    assert told.region(stack["at"])["kind"] == "thread-stack"
    r = told.region(arena["at"])
    assert (r["start"], r["bytes"], r["kind"], r["evidence"]) == (
        arena["at"], arena["bytes"], "arena", "caller",
    )  # fmt: skip
    (row,) = told.process["arenas"]
    assert row["base"] == arena["at"]
    assert row["committed_bytes"] >= 200 * 4000


def test_the_heap_is_where_the_program_says_and_not_more_exact_than_known(told: Told) -> None:
    heap = told.process["heap"]
    assert heap["end"] == told.now["break"]
    first, *rest = heap["steps"]
    assert (first["exact"], {s["exact"] for s in rest}) == (False, {True})
    at_start = heap["end"] - sum(s["delta"] for s in heap["steps"])
    assert at_start - 4096 < told.ready["break"] <= at_start
    assert told.ready["break"] % 4096  # the test would show little otherwise
    assert at_start == heap["start"] + told.process["attached"]["heap_bytes"]


def test_the_threshold_is_inside_its_interval_at_every_moment(told: Told) -> None:
    t = told.process["threshold"]
    assert (t["initial"], t["fixed_by"]) == (None, None)
    moves = [{"low": 131072, "high": 32 << 20, "seq": 0}, *t["history"]]
    freed = next(
        e["seq"] for e in told.done.calls("munmap")
        if e["args"] == [told.of("malloc-chunk")[4]["at"], 303104]
    )  # fmt: skip
    for m in moves:
        truth = told.ready["threshold"] if m["seq"] < freed else told.now["threshold"]
        assert m["low"] <= truth <= m["high"], (m, t)
    assert t["low"] == told.now["threshold"]
    verdicts = {s["verdict"] for s in told.process["heap"]["steps"]}
    assert "contradiction" not in verdicts
    assert all(r["verdict"] != "contradiction" for r in told.process["regions"])


def test_the_text_fits_and_says_what_cannot_be_known(told: Told) -> None:
    text = cli("report", told.done.path).stdout
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "mid_life still running glibc" in flat
    assert "regions are older than the trace" in flat
    assert "what happened before the attach" in flat
