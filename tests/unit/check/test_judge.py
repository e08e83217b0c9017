# SPDX-License-Identifier: GPL-2.0-or-later
"""A report against limits: just below, at and just above each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.check.test_budget import budget

from memtrace.check.judge import Verdict, judge

if TYPE_CHECKING:
    from tests.unit.conftest import Scene


def verdicts(scene: Scene, text: str) -> list[Verdict]:
    return judge(scene.report(), budget("[budget]\n" + text + "\n"))


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("heap.growths = 1", False),
        ("heap.growths = 2", True),
        ("heap.growths = 3", True),
        ("heap.growths = { min = 1 }", True),
        ("heap.growths = { min = 2 }", True),
        ("heap.growths = { min = 3 }", False),
        ("heap.growths = { min = 2, max = 2 }", True),
        ("heap.growths = { max = 1, tolerance = 1 }", True),
        ('heap.growths = { max = 1, tolerance = "99%" }', False),
        ('heap.growths = { max = 1, tolerance = "100%" }', True),
        ("heap.growths = { min = 3, tolerance = 1 }", True),
        ('heap.growths = { min = 3, tolerance = "33%" }', False),
        ('heap.growths = { min = 3, tolerance = "34%" }', True),
        ('heap.peak = "199 KiB"', False),
        ('heap.peak = "200 KiB"', True),
        ("heap.peak = 204799", False),
        ("heap.peak = 204800", True),
        ("calls.mremap = 0", True),
        ("calls.mremap = { min = 1 }", False),
        ("trust.drift = 0", True),
    ],
)
def test_a_limit_is_kept_up_to_and_with_its_end(grown: Scene, text: str, *, ok: bool) -> None:
    (verdict,) = verdicts(grown, text)
    assert verdict.ok is ok
    assert verdict.fails is not ok


def test_what_fails_names_its_records_and_the_side_that_was_passed(grown: Scene) -> None:
    (verdict,) = verdicts(grown, "heap.growths = { min = 3, max = 5 }")
    assert verdict.text == "heap.growths 2, at least 3"
    steps = [s.seq for s in grown.report().processes[0].heap.steps if s.delta > 0]
    assert verdict.evidence == tuple(steps)


def test_a_metric_that_the_trace_does_not_tell_is_unknown_and_never_kept(scene: Scene) -> None:
    scene.exec()
    scene.exit()
    name = "growth.over_threshold"  # of what is not glibc there is none
    for text in (f"{name} = 1", f"{name} = {{ min = 1 }}", f"tree.{name} = 1"):
        (verdict,) = verdicts(scene, text)
        assert (verdict.measured, verdict.ok, verdict.unknown, verdict.fails) == (
            None, None, True, False,
        )  # fmt: skip


def test_an_advisory_limit_fails_nothing(grown: Scene) -> None:
    over, asked, unknown = verdicts(
        grown,
        "memory.minor_faults = { max = 0 }\nheap.growths = { max = 0, gate = false }\n"
        "memory.rss_peak = 0",
    )
    assert not any(v.fails or v.unknown for v in (over, asked, unknown))
    assert asked.ok is False


def test_scopes(grown: Scene) -> None:
    """A child that is forked and grows once more by 8 KiB, under the same name."""
    child = grown
    text = (
        'heap.growths = 2\ntree.heap.growths = 2\nprocess."n*".heap.growths = 1\n'
        "process.other.heap.growths = 1"
    )
    first, tree, named, nobody = verdicts(child, text.replace('"n*"', '"*"'))
    assert (first.measured, tree.measured, named.measured) == (2, 2, 2)
    assert (first.ok, tree.ok, named.ok, nobody.ok) == (True, True, False, None)
    assert named.who.endswith("(pid 1)")
    assert nobody.who == "no process named other"


def test_the_tree_is_the_sum_and_unknown_if_one_is(scene: Scene) -> None:
    scene.glibc().query()
    scene.brk(132 << 10)
    scene.fork(2)
    scene.as_(2, 2)
    scene.brk(68 << 10)
    (tree,) = verdicts(scene, "tree.heap.growths = 2")
    assert (tree.measured, tree.ok) == (2, True)
    (over,) = verdicts(scene, "tree.heap.growths = 1")
    assert over.fails


def test_a_call_that_a_log_does_not_have_may_have_been_left_out(scene: Scene) -> None:
    scene.exec(assumed=True, env_lost=True)
    scene.exit()
    (verdict,) = verdicts(scene, "calls.mremap = 0")
    assert (verdict.ok, verdict.unknown) == (None, True)
