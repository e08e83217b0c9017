# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs whose own seccomp filter gives calls to a listener, which lets them go on. It
goes before the filter of `run`, and must hide nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.live.attaching import built
from tests.live.tracing import Traced

Run = Callable[..., Traced]
PAGE = 4096
BOTH = pytest.mark.parametrize("options", [(), ("--no-seccomp",)], ids=["filter", "no-seccomp"])
#: case -> (marks, how many numbers of calls it tells)
CASES = {"heirs": (6, 4), "threads": (1, 4), "later": (1, 4)}


def check(done: Traced, marks: int, numbers: int) -> None:
    """Exact, and each call that it tells of is there."""
    assert done.returncode == 0, done.stderr
    assert not done.told("failed"), done.told("failed")
    done.assert_exact()
    assert done.assert_marks() == marks
    assert len(done.told("expects")) == numbers
    for told in done.told("expects"):
        for name in ("mmap", "munmap"):
            own = [
                e for e in done.calls(name)
                if e["args"][1] == told["pages"] * PAGE and "/listeners+" in e.get("caller", "")
            ]  # fmt: skip
            assert len(own) == told["count"], (name, told)


@BOTH
@pytest.mark.parametrize("case", CASES)
def test_calls_that_a_listener_lets_go_on(run: Run, case: str, options: tuple[str, ...]) -> None:
    check(run(built("listeners"), case, options=options), *CASES[case])


@BOTH
def test_beside_other_filters(run: Run, options: tuple[str, ...]) -> None:
    done = run(built("listeners"), "others", options=options)
    check(done, 0, 0)
    pid = max(e["pid"] for e in done.calls("brk"))
    failed = [(e["call"], e["errno"]) for e in done.calls(pid=pid) if e["errno"]]
    assert failed == [("madvise", "ENOSYS"), ("mmap", "ENOMEM"), ("mremap", "ENOMEM")]
    assert len([e for e in done.calls("brk", pid=pid) if e["args"][0]]) == 1


def test_strace_says_what_its_filter_may_miss(run: Run) -> None:
    done = run(built("listeners"), "heirs", options=("--engine", "strace"))
    assert done.exactness == "incomplete"
    (lost,) = done.calls("lost")  # one filter, though others were asked for, and refused
    assert "--no-seccomp" in lost["why"]
    options = ("--engine", "strace", "--no-seccomp")
    check(run(built("listeners"), "heirs", options=options), *CASES["heirs"])
