# SPDX-License-Identifier: GPL-2.0-or-later
"""Which process of one trace is held against which of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from tests.unit.conftest import Scene

from memtrace.report import versus_markdown
from memtrace.report.comparison import compare
from memtrace.report.model import Report
from memtrace.report.pairing import paired
from memtrace.report.versus import render

Scenes = Callable[[str], Scene]


def programs(s: Scene, lines: Sequence[str]) -> Report:
    """A trace of programs that exec one another, each line the arguments of one."""
    for mm, line in enumerate(lines, 1):
        s.exec(mm, pid=mm, argv=line.split(), exe="/bin/" + line.split()[0])
    return s.report()


@pytest.mark.parametrize(
    ("old", "new", "pairs"),
    [
        (["sh -c x", "prog"], ["prog"], [(2, 1, "arguments")]),
        (["prog"], ["sh -c x", "prog"], [(1, 2, "arguments")]),
        (["prog 1", "prog 2"], ["prog 2", "prog 1"], [(2, 1, "arguments"), (1, 2, "arguments")]),
        (["prog 1", "prog 2"], ["prog 3", "prog 2"], [(1, 1, "program"), (2, 2, "arguments")]),
        (["prog 1", "prog 2"], ["prog 3", "prog 4"], [(1, 1, "program"), (2, 2, "program")]),
        (["old", "cc"], ["new", "cc"], [(1, 1, "first"), (2, 2, "arguments")]),
        (["old"], ["new"], [(1, 1, "first")]),
        (["a", "b"], ["b", "c"], [(2, 1, "arguments")]),
        (["/x/prog"], ["/y/prog"], [(1, 1, "arguments")]),
        ([], ["a"], []),
    ],
)
def test_by_program_then_arguments_then_order(
    scenes: Scenes, old: list[str], new: list[str], pairs: list[tuple[int, int, str]]
) -> None:
    one, two = programs(scenes("a"), old), programs(scenes("b"), new)
    found = paired(one.processes, two.processes)
    assert [(a.pid, b.pid, by) for a, b, by in found.couples] == pairs
    assert len(found.before) == len(old) - len(pairs)
    assert len(found.after) == len(new) - len(pairs)


def test_different_programs_are_said_to_be(scenes: Scenes) -> None:
    found = compare(programs(scenes("a"), ["old"]), programs(scenes("b"), ["new"]))
    assert "old and new, different programs   pid 1" in render(found, ("a", "b"))


def test_findings_of_a_process_without_a_partner_are_shown(scenes: Scenes) -> None:
    s = scenes("a").glibc(argv=["prog"]).exit().glibc(mm=2, pid=2, argv=["other"])
    s.call("mmap", [0, 1 << 40, 3, 0x22, -1, 0], -12, by="program")
    one, two = s.exit().report(), programs(scenes("b"), ["prog"])
    for pair, side in (((one, two), "before"), ((two, one), "after")):
        found = compare(*pair)
        (alone,) = found.alone
        assert (alone.side, alone.name, alone.pid) == (side, "other", 2)
        assert [x.rule for x in alone.findings] == ["MT113"]
        text = render(found, ("a", "b"))
        assert f"only {side}:  other\n\n  other   pid 2\n    MT113  warning " in text
        assert "- other (pid 2) **MT113** warning: " in versus_markdown.render(found, ("a", "b"))


@pytest.mark.parametrize("more", [True, False])
def test_names_of_a_redacted_trace_pair_nothing(scenes: Scenes, more: bool) -> None:  # noqa: FBT001
    s = scenes("a")
    for mm, n in ((1, 2), (2, 1)):
        s.exec(mm, pid=mm, argv=[f"/redacted/file-{n}", "<redacted>"], exe=f"/redacted/file-{n}")
    one = s.report()
    two = programs(scenes("b"), ["file-1", "file-2"] + (["file-3"] if more else []))
    found = compare(one, two)
    pairs = [(p.before, p.after, p.by) for p in found.pairs]
    assert pairs == ([(1, 1, "order")] if more else [(1, 1, "order"), (2, 2, "order")])
    text = render(found, ("a", "b"))
    assert "before is redacted: its names are its own" in text
    assert "paired by order" in text
    settings = {x.name: (x.before, x.after) for x in found.pairs[0].settings}
    assert settings["arguments"] == ("redacted (2)", "file-1")
    assert settings["program's file"] == ("not known", "/bin/file-1")


def test_findings_of_what_order_alone_pairs_have_not_gone(scenes: Scenes) -> None:
    traces = []
    for name in ("a", "b"):
        s = scenes(name)
        s.exec(argv=["/redacted/file-1"], exe="/redacted/file-1")
        if name == "a":
            for _ in range(3):
                s.call("mprotect", [0x1000, 4096, 3], -12)
        traces.append(s.exit().report())
    (pair,) = compare(*traces).pairs
    assert (pair.by, pair.appeared, pair.went) == ("order", [], [])
    assert [(x.rule, x.side, x.why) for x in pair.unseen] == [("MT113", "before", ["redacted"])]
