# SPDX-License-Identifier: GPL-2.0-or-later
"""The first process is all that it execs: `env`, a shell or an interpreter is not its program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.unit.check.test_budget import budget

from memtrace.check.amounts import Tolerance
from memtrace.check.baseline import compare, of_report
from memtrace.check.judge import Verdict, judge
from memtrace.check.measure import first_process
from memtrace.trace.records import Gone

if TYPE_CHECKING:
    from tests.unit.conftest import Scene

KIB = 1 << 10


def execs(scene: Scene, mm: int, argv: str, *growths: int, assumed: bool = False) -> Scene:
    """The process becomes another program, whose heap grows."""
    old = scene.mm
    scene.exec(mm, argv=[argv], old_mm=old if mm > 1 else None, assumed=assumed, env_lost=assumed)
    if mm > 1:
        scene.life(Gone(t=scene._t(), mm=old))
    scene.query()
    for n in growths:
        scene.brk(n * KIB)
    return scene


@pytest.fixture
def chain(scene: Scene) -> Scene:
    """`env` grows once by 8 KiB, `sh` three times to 60 KiB, `words` twice to 200 KiB."""
    execs(scene, 1, "env", 8)
    execs(scene, 2, "sh", 20, 20, 20)
    execs(scene, 3, "words", 132, 68)
    return scene.exit()


def verdicts(scene: Scene, text: str, *, every: bool = False) -> list[Verdict]:
    return judge(scene.report(), budget("[budget]\n" + text + "\n"), every=every)


@pytest.mark.parametrize(
    ("text", "ok", "measured", "who"),
    [
        ('heap.peak = "199 KiB"', False, 200 * KIB, "words"),
        ('heap.peak = "200 KiB"', True, 200 * KIB, "words"),
        ("heap.growths = 2", False, 3, "sh"),
        ("heap.growths = 3", True, 3, "sh"),
        ("heap.growths = { min = 2 }", True, 2, "words"),
        ("heap.growths = { min = 3 }", False, 2, "words"),
        ("heap.growths = { min = 2, max = 3 }", True, 3, "sh"),
        ("heap.growths = { min = 3, max = 3 }", False, 2, "words"),
        ("heap.growths = { min = 1, max = 2 }", False, 3, "sh"),
    ],
)
def test_a_maximum_holds_each_program_and_a_minimum_the_last(
    chain: Scene, text: str, measured: int, who: str, *, ok: bool
) -> None:
    (v,) = verdicts(chain, text)
    assert (v.ok, v.measured, v.who) == (ok, measured, who)
    assert f" in {who}, " in v.text


def test_of_programs_of_one_name_it_says_which(scene: Scene) -> None:
    execs(scene, 1, "/usr/bin/python3", 8)
    execs(scene, 2, "python3", 16)
    (v,) = verdicts(scene.exit(), "heap.peak = 0")
    assert v.who == "python3 (2 of 2)"


@pytest.mark.parametrize(
    ("text", "ok", "who"),
    [
        ("chunks.mapped = 0", None, "env"),
        ("chunks.mapped = { min = 1 }", False, "words"),  # known of the last
        ("heap.growths = 1", False, "words"),
    ],
)
def test_what_one_program_does_not_tell_is_unknown_unless_another_passes_it(
    scene: Scene, text: str, who: str, *, ok: bool | None
) -> None:
    execs(scene, 1, "env", assumed=True)
    execs(scene, 2, "words", 132, 68)
    (v,) = verdicts(scene.exit(), text)
    assert (v.ok, v.who) == (ok, who)


def test_a_child_is_another_process_whatever_it_execs(scene: Scene) -> None:
    execs(scene, 1, "sh", 8)
    scene.fork(2)
    scene.as_(2, 2).exec(3, pid=2, argv=["words"], old_mm=2)
    report = scene.exit().report()
    assert [p.mm for p in report.processes] == [1, 2, 3]
    assert [p.mm for p in first_process(report.processes)] == [1]


def test_a_later_process_of_the_same_number_is_not_the_first(scene: Scene) -> None:
    execs(scene, 1, "env", 8)
    scene.fork(2, pid=2)
    scene.exit()
    scene.as_(2, 2).fork(3, pid=1)
    report = scene.report()
    assert [p.mm for p in report.processes] == [1, 2, 3]
    assert [p.mm for p in first_process(report.processes)] == [1]


@pytest.fixture
def forked(scene: Scene) -> Scene:
    """`sh` forks a child that grows by 68 KiB to 200 KiB, in one step more."""
    execs(scene, 1, "sh", 132)
    scene.fork(2)
    scene.as_(2, 2).brk(68 * KIB)
    return scene.exit()


@pytest.mark.parametrize(
    ("text", "ok", "measured"),
    [
        ('heap.peak = "199 KiB"', False, 200 * KIB),
        ('heap.peak = "200 KiB"', True, 200 * KIB),
        ('heap.peak = { min = "200 KiB" }', True, 200 * KIB),
        ('heap.peak = { min = "201 KiB" }', False, 200 * KIB),
    ],
)
def test_every_process_may_be_held(forked: Scene, text: str, measured: int, *, ok: bool) -> None:
    (v,) = verdicts(forked, text, every=True)
    assert (v.ok, v.measured, v.who) == (ok, measured, "sh (pid 2)")
    (first,) = verdicts(forked, text)
    assert (first.measured, first.who) == (132 * KIB, "")


def test_a_sum_that_is_unknown_names_who_lacks_its_part(scene: Scene) -> None:
    execs(scene, 1, "env", assumed=True)
    execs(scene, 2, "words", 132, 68)
    (v,) = verdicts(scene.exit(), "tree.chunks.mapped = 9")
    assert (v.ok, v.who) == (None, "env (pid 1)")
    assert v.text == "tree chunks.mapped unknown in env (pid 1), at most 9"


def test_a_baseline_is_the_worst_of_the_programs(chain: Scene) -> None:
    old = of_report(chain.report())
    assert [x.program for x in old.programs] == ["env", "sh", "words"]
    assert (old.metrics["heap.growths"], old.metrics["heap.peak_bytes"]) == (3, 200 * KIB)
    assert old.tree["heap.growths"] == 6
    found = compare(chain.report(), old, [], Tolerance(), ("b.json", {}))
    assert all(v.ok for v in found)
    assert {v.who for v in found if v.limit.name == "heap.growths"} == {"sh"}


def test_a_baseline_of_one_process_holds_a_later_tree(scene: Scene) -> None:
    execs(scene, 1, "words", 132)
    old = of_report(scene.report())
    assert old.tree["heap.growths"] == old.metrics["heap.growths"] == 1
    for child in range(2, 5):
        scene.as_(1, 1).fork(child, pid=child)
        scene.as_(child, child).brk(8 * KIB)
        scene.exit()
    failed = [v.limit.name for v in compare(scene.report(), old, [], Tolerance(), ("b.json", {}))
              if v.fails]  # fmt: skip
    assert "tree heap.growths" in failed
    assert "heap.growths" not in failed
