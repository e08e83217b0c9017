# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes of how a trace was recorded is no change of the program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.unit.conftest import Scene

from memtrace.report import versus_markdown
from memtrace.report.compared import Change, Comparison, Pair
from memtrace.report.comparison import compare
from memtrace.report.model import Report
from memtrace.report.versus import render
from memtrace.trace.records import Footer, Manner, Snap

Scenes = Callable[[str], Scene]
CHUNK = 135168


def manner(**other: Any) -> Manner:
    usual: dict[str, Any] = {
        "evidence": True, "snapshots": "default", "heap_walk": False, "redact": False,
    }  # fmt: skip
    return Manner(**usual | other)


def made(s: Scene, by: str = "malloc", **how: Any) -> Scene:
    """A program that maps a chunk and is refused a mapping."""
    s.header.manner = manner(**how)
    s.glibc()
    s.query()
    s.brk(132 << 10, by=by)
    s.mmap(CHUNK, by=by)
    if by:
        s.seen(s.seq, CHUNK | 2).query()
    s.call("mmap", [0, 1 << 40, 3, 0x22, -1, 0], -12, by=by and "program")
    return s


def numbers(pair: Pair) -> dict[str, Change]:
    return {f"{x.group} {x.name}": x for x in pair.changes}


def shown(found: Comparison) -> str:
    """As text, which Markdown does not contradict."""
    names = "a.json", "b.json"
    text, marked = render(found, names), versus_markdown.render(found, names)
    assert text.count("unknown") == marked.count("unknown")
    return text


def never_a_change(report: Report, other: Report) -> list[Pair]:
    """Pairs, in both directions, that claim nothing of findings."""
    pairs = [compare(report, other).pairs[0], compare(other, report).pairs[0]]
    for pair in pairs:
        assert (pair.appeared, pair.went, pair.changed) == ([], [], [])
        assert pair.unseen
    return pairs


def test_evidence_that_one_does_not_have(scenes: Scenes) -> None:
    one = made(scenes("a")).exit().report()
    two = made(scenes("b"), by="", evidence=False).exit().report()
    found = compare(one, two)
    every = numbers(found.pairs[0])
    for name in ("malloc-chunk peak", "malloc-chunk at the end", "malloc-chunk regions"):
        assert every[name].before
        assert every[name].after is None
        assert not every[name].comparable
    assert every["unknown peak"].after is None  # it is not that of nobody's kind
    assert every["heap peak"].comparable
    assert every["library peak"].comparable
    text = shown(found)
    begin = text.index("Not both were recorded with callers and chunk headers")
    assert begin < text.index("callers and chunk headers  yes  to  no") < text.index("malloc-chunk")
    assert "0 B" not in text
    assert "mmap threshold\n  before 128 KiB\n  after  unknown\n" in text


def test_a_trace_of_before_tells_by_its_records(scenes: Scenes) -> None:
    one, two, three = scenes("a").exec(), scenes("b").exec(), scenes("c").exec()
    one.brk(132 << 10)
    two.brk(132 << 10, by="")
    a, b, c = (s.exit().report() for s in (one, two, three))
    assert [r.recording.evidence for r in (a, b, c)] == [True, False, None]
    assert [x.name for x in compare(a, b).recorded] == ["callers and chunk headers"]


def snapped(s: Scene, lines: int, **how: Any) -> Report:
    made(s, **how)
    maps = [f"{i << 20:x}-{(i << 20) + 4096:x} rw-p 0 00:00 0" for i in range(1, lines + 1)]
    s.life(Snap(t=9000, mm=1, pid=1, tid=1, why="exit", maps=maps))
    return s.exit().report()


def test_snapshots_that_were_not_taken_alike(scenes: Scenes) -> None:
    one, two = snapped(scenes("a"), 6000), snapped(scenes("b"), 23, snapshots="off")
    (pair,) = compare(one, two).pairs
    peak = numbers(pair)["maps peak"]
    assert (peak.before, peak.after, peak.least) == (6000, 23, (True, True))
    assert not peak.comparable
    text = shown(compare(one, two))
    line = next(x for x in text.splitlines() if "maps peak" in x)
    assert line.split()[-6:] == ["≥", "6,000", "≥", "23", "not", "comparable"]
    assert "snapshots  default  to  off" in text
    alike = compare(one, snapped(scenes("c"), 23))
    assert numbers(alike.pairs[0])["maps peak"].comparable
    assert numbers(alike.pairs[0])["maps peak"].advisory
    line = next(x for x in render(alike, ("a", "c")).splitlines() if "maps peak" in x)
    assert "%" not in line  # it would round to -100


def test_an_attach_begins_in_mid_life(scenes: Scenes) -> None:
    one, s = made(scenes("a")).exit().report(), scenes("b")
    s.header.manner = manner()
    s.attach(["1000000-1021000 rw-p 00000000 00:00 0 [heap]"], brk=0x1021000)
    s.brk(132 << 10)
    found = compare(one, s.exit().report())
    text = shown(found)
    first = text.index("after begins in mid-life: prog (pid 1) was attached to 90.0 s after")
    assert first < text.index("heap peak")
    (pair,) = found.pairs
    every = numbers(pair)
    assert (every["heap growths"].least, every["heap growths"].comparable) == ((False, True), False)
    assert every["heap shrinks"].after is None
    assert every["calls mmap"].after is None
    assert every["malloc-chunk at the end"].after is None
    assert every["library regions"].after is None  # lines of maps, not what was mapped
    assert pair.limits == ([], ["attached"])
    assert {x.rule for x in pair.unseen} == {"MT113"}
    never_a_change(one, s.report())


def test_a_trace_that_was_cut_short(scenes: Scenes) -> None:
    whole, part = made(scenes("a")).exit().report(), made(scenes("b"))
    part.complete = False
    found = compare(whole, part.report())
    text = shown(found)
    assert text.splitlines()[3].startswith("after is INCOMPLETE (the recording was cut short)")
    assert f"record #{part.seq}" in text
    assert found.reach[1].last_seq == part.seq
    every = numbers(found.pairs[0])
    assert every["heap at the end"].after is None
    assert every["calls mmap"].least == (False, True)
    assert every["heap shrinks"].after is None  # 0 so far
    never_a_change(whole, made_differently(scenes("c")))


def made_differently(s: Scene) -> Report:
    s.header.manner = manner()
    s.glibc().query()
    s.complete = False
    return s.report()


def test_a_process_that_was_over_is_whole_in_a_cut_trace(scenes: Scenes) -> None:
    whole, part = made(scenes("a")).exit(), made(scenes("b")).exit()
    part.complete = False
    (pair,) = compare(whole.report(), part.report()).pairs
    assert all(x.comparable for x in pair.changes if x.before is not None)
    assert pair.limits == ([], [])


def test_gaps_leave_no_size_of_a_kind(scenes: Scenes) -> None:
    whole, part = made(scenes("a")).exit().report(), made(scenes("b")).lost().exit().report()
    (pair,) = compare(whole, part).pairs
    every = numbers(pair)
    assert every["malloc-chunk peak"].after is None
    assert every["calls mmap"].least == (False, True)
    assert pair.limits[1] == ["gaps"]


def test_a_process_that_memtrace_left_runs_on(scenes: Scenes) -> None:
    over, left = made(scenes("a")).exit().report(), made(scenes("b"))
    left.footer = Footer(stop=99, complete=True, reason="detached")
    found = compare(over, left.report())
    assert "after ran on when memtrace left it" in shown(found)
    assert numbers(found.pairs[0])["heap at the end"].after is None
    both = compare(left.report(), left.report())
    assert numbers(both.pairs[0])["heap at the end"].comparable


def test_what_a_log_cannot_tell_is_unknown(scenes: Scenes) -> None:
    log, trace = made(scenes("a")), made(scenes("b")).exit().report()
    log.header.log, log.header.manner = "s.log", None
    log.records[0].assumed = True  # type: ignore[union-attr]
    (pair,) = compare(log.exit().report(), trace).pairs
    for name, x in numbers(pair).items():
        kind = name.split()[0]
        if kind in ("library", "loader", "stack", "vdso", "malloc-chunk", "file", "maps"):
            assert x.before is None, name
    assert pair.logged == (True, False)


def test_options_that_are_alike_do_not_matter(scenes: Scenes) -> None:
    one = made(scenes("a"), by="", evidence=False, snapshots="off").exit().report()
    two = made(scenes("b"), by="", evidence=False, snapshots="off")
    two.mmap(CHUNK, by="")
    found = compare(one, two.exit().report())
    assert (found.notes, found.recorded) == ([], [])
    assert numbers(found.pairs[0])["unknown peak"].comparable
