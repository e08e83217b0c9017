# SPDX-License-Identifier: GPL-2.0-or-later
"""The strongest proof: programs read their own /proc/self/maps and mark the spot with a failing
munmap; `memtrace maps --at` that event must be canonically the same.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.live.tracing import Traced, cli, normal

from memtrace.space.canonical import canonical

EINVAL = -22
SLOW_SEEDS = range(100, 160)


def check(sample: Callable[..., Traced], *arguments: object, marks: int, **kw: object) -> None:
    print("seed:", *arguments)  # noqa: T201 - what a failure needs to be seen again
    done = sample(arguments[0], *arguments[1:], **kw)
    done.assert_exact()
    assert done.assert_marks() == marks


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_series_of_random_calls(sample: Callable[..., Traced], seed: int) -> None:
    check(sample, "self-maps", seed, 400, 10, marks=40)


@pytest.mark.parametrize("seed", range(20, 26))
def test_marked_at_every_call(sample: Callable[..., Traced], seed: int) -> None:
    check(sample, "self-maps", seed, 150, 1, marks=150)


@pytest.mark.parametrize("seed", range(30, 36))
def test_a_fork_half_way(sample: Callable[..., Traced], seed: int) -> None:
    done = sample("self-maps", seed, 300, 5, "fork")
    done.assert_exact()
    marks = done.assert_marks()
    (child,) = {line["child"] for line in done.told("fork")}
    assert marks == len(done.told("mark"))
    # The child's series is its own, in an address space of its own.
    assert sum(m["pid"] == child for m in done.told("mark")) >= 10
    (fork,) = done.calls("fork")
    assert {e["mm"] for e in done.calls(pid=child)} == {fork["child_mm"]}


@pytest.mark.parametrize("options", [("--no-seccomp",), ("--snapshots", "every=3"),
                                     ("--snapshots", "off"), ("--evidence", "none")])  # fmt: skip
def test_under_every_option(sample: Callable[..., Traced], options: tuple[str, ...]) -> None:
    check(sample, "self-maps", 50, 200, 10, marks=20, options=options)


@pytest.mark.parametrize("seed", range(1, 9))
def test_the_order_between_fighting_threads(sample: Callable[..., Traced], seed: int) -> None:
    check(sample, "threads-fight", seed, 8, 150, marks=1)


@pytest.mark.parametrize("seed", range(60, 63))
def test_fighting_threads_with_a_kernel_map_at_every_call(
    sample: Callable[..., Traced], seed: int
) -> None:
    check(sample, "threads-fight", seed, 4, 60, marks=1, options=("--snapshots", "every=1"))


def test_fighting_threads_without_the_filter(sample: Callable[..., Traced]) -> None:
    check(sample, "threads-fight", 70, 6, 100, marks=1, options=("--no-seccomp",))


def test_every_call_of_every_thread_is_counted(sample: Callable[..., Traced]) -> None:
    done = sample("threads-fight", 80, 8, 100)
    (start,) = done.told("start")
    low, high = start["region_start"], start["region_end"]
    for line in done.told("thread"):
        ours = done.calls("mmap", "munmap", "mprotect", tid=line["tid"])
        inside = [e for e in ours if low <= e["args"][0] < high]
        assert sum(e["call"] == "mprotect" for e in inside) == line["mprotect"]
        # Outside of the region a thread maps and unmaps what the kernel placed: both or neither.
        placed = [e for e in ours if e["call"] == "mmap" and e["args"][0] == 0]
        fixed = [e for e in inside if e["call"] == "mmap"]
        assert line["mmap"] <= len(placed) + len(fixed)
        assert len(fixed) > 0
    assert len(done.calls("mmap", "munmap", "mprotect")) >= start["threads"] * start["calls"]


def test_the_command_says_the_same_as_the_replay(sample: Callable[..., Traced]) -> None:
    done = sample("self-maps", 40, 200, 20, "fork")
    told = done.told("mark")
    assert len({m["pid"] for m in told}) == 2
    last = {m["pid"]: m for m in told}
    for pid, mark in last.items():
        (event,) = [e for e in done.calls("munmap", pid=pid, ret=EINVAL)
                    if e["args"] == [mark["mark"] << 12, 0]]  # fmt: skip
        shown = cli("maps", done.path, "--at", event["seq"], "--pid", pid)
        assert shown.returncode == 0, shown.stderr
        ours = canonical(normal(shown.stdout.splitlines()))
        theirs = [r for r in canonical(normal(mark["maps"])) if r.name != "[vsyscall]"]
        assert ours == theirs
        # One call earlier the map may be the same; at its birth it was not.
        born = cli("maps", done.path, "--at", "start", "--pid", pid)
        assert canonical(normal(born.stdout.splitlines())) != theirs
    verified = cli("verify", done.path)
    assert verified.returncode == 0
    assert verified.stdout.startswith("exact: "), verified.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_more_seeds(sample: Callable[..., Traced], seed: int) -> None:
    check(sample, "self-maps", seed, 2000, 20, marks=100)
    check(sample, "threads-fight", seed, 16, 400, marks=1)
    done = sample("self-maps", seed, 1000, 10, "fork")
    done.assert_exact()
    assert done.assert_marks() >= 100
