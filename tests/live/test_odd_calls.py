# SPDX-License-Identifier: GPL-2.0-or-later
"""Rare calls and failing ones: after each the program's own map is the replayed one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.tracing import ROOT, Traced


@pytest.fixture(scope="module")
def odd_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("odd") / "odd_calls"
    source = Path(__file__).with_name("odd_calls.c")
    flags = ["-std=c11", "-O0", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result"]
    subprocess.run(["gcc", *flags, f"-I{ROOT / 'samples'}", source, "-o", program], check=True)
    return program


def check(done: Traced) -> None:
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    marks = done.assert_marks(grown=True)
    assert marks == len(done.told("mark")) >= 20


@pytest.mark.parametrize("options", [
    (), ("--no-seccomp",), ("--snapshots", "every=1"), ("--snapshots", "off"),
    ("--evidence", "none"),
])  # fmt: skip
def test_each_leaves_the_map_that_the_program_reads(
    run: Callable[..., Traced], odd_calls: Path, options: tuple[str, ...]
) -> None:
    check(run(odd_calls, options=options))


def test_each_did_what_it_is_there_for(run: Callable[..., Traced], odd_calls: Path) -> None:
    done = run(odd_calls)
    failed = {(e["call"], e["errno"]) for e in done.calls() if e["errno"]}
    assert {
        ("mprotect", "ENOMEM"), ("munmap", "EINVAL"), ("mremap", "EFAULT"), ("mremap", "EINVAL"),
        ("mmap", "EINVAL"), ("mmap", "EEXIST"), ("mmap", "ENODEV"), ("mmap", "EBADF"),
        ("mmap", "ENOMEM"), ("madvise", "ENOMEM"), ("mremap", "ENOMEM"),
    } <= failed, failed  # fmt: skip
    assert {"shmat", "shmdt", "io_setup", "io_destroy"} <= {
        e["call"] for e in done.calls() if not e["errno"]
    }
    parent, _child = done.replayed.processes
    assert parent.stack_growth_bytes > 7 << 20


def test_with_a_stack_without_limit(run: Callable[..., Traced], odd_calls: Path) -> None:
    # mmap_base: the legacy layout, mappings grow upwards.
    check(run("bash", "-c", 'ulimit -s unlimited; exec "$0"', odd_calls))


def test_with_addresses_that_are_not_random(run: Callable[..., Traced], odd_calls: Path) -> None:
    one, two = (run("setarch", "-R", odd_calls) for _ in range(2))
    check(one)
    check(two)
    assert len(placed(one)) > 20
    assert placed(one) == placed(two)


def placed(done: Traced) -> list[tuple[object, ...]]:
    """What odd_calls mapped; setarch itself got random addresses."""
    mm = done.replayed.processes[1].mm
    return [(e["call"], e["args"], e["ret"]) for e in done.calls("mmap", "brk", mm=mm)]


def test_after_a_personality_of_executable_reads(
    run: Callable[..., Traced], odd_calls: Path
) -> None:
    # SET_PERSONALITY of a 64-bit exec takes READ_IMPLIES_EXEC away again; the replay must know it.
    done = run("setarch", "-X", odd_calls)
    check(done)
    assert not any("rwxp" in line for m in done.told("mark") for line in m["maps"])
