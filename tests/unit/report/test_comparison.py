# SPDX-License-Identifier: GPL-2.0-or-later
"""Two traces side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.unit.conftest import Scene

from memtrace.report import versus_markdown
from memtrace.report.cells import percent
from memtrace.report.compared import Comparison, Pair
from memtrace.report.comparison import compare
from memtrace.report.model import Report
from memtrace.report.versus import render

CHUNK = 135168


def changed(pair: Pair) -> dict[str, tuple[float | None, float | None]]:
    return {f"{x.group} {x.name}": (x.before, x.after) for x in pair.changes if x.before != x.after}


def scene(path: Path, **facts: object) -> Scene:
    made = Scene(path).glibc(**facts)  # type: ignore[arg-type]
    made.query()
    return made


@pytest.fixture
def found(tmp_path: Path) -> Comparison:
    """The heap grows twice, then once; a chunk is mapped by the later only; a setting differs."""
    one = scene(tmp_path / "a.json")
    one.brk(132 << 10)
    one.brk(68 << 10)
    two = scene(tmp_path / "b.json", env={"MALLOC_ARENA_MAX": "1"})
    two.brk(132 << 10)
    two.chunk(CHUNK)
    return compare(one.exit().report(), two.exit().report())


def test_settings_come_first(found: Comparison) -> None:
    (pair,) = found.pairs
    assert [(s.name, s.before, s.after) for s in pair.settings] == [("MALLOC_ARENA_MAX", None, "1")]
    text = render(found, ("a.json", "b.json"))
    assert text.index("MALLOC_ARENA_MAX  not set  to  1") < text.index("heap peak")
    assert all(len(line) <= 80 for line in text.splitlines())


def test_only_what_differs_is_a_change(found: Comparison) -> None:
    (pair,) = found.pairs
    assert changed(pair)["heap peak"] == (200 << 10, 132 << 10)
    assert changed(pair)["heap growths"] == (2, 1)
    assert changed(pair)["malloc-chunk regions"] == (0, 1)
    assert changed(pair)["calls mmap"][1] == changed(pair)["calls mmap"][0] + 1  # type: ignore[operator]
    assert not any(name.startswith("library") for name in changed(pair))
    text = render(found, ("a.json", "b.json"))
    line = next(x for x in text.splitlines() if "heap peak" in x)
    assert line.split() == ["heap", "peak", "200", "KiB", "132", "KiB", "-68", "KiB", "-34%"]


def test_the_same_trace_does_not_differ(tmp_path: Path) -> None:
    one = scene(tmp_path / "a.json")
    one.brk(132 << 10)
    report = one.exit().report()
    found = compare(report, report)
    (pair,) = found.pairs
    assert (changed(pair), pair.settings, pair.appeared, pair.went) == ({}, [], [], [])
    assert "no number differs" in render(found, ("a", "b"))


def test_unknown_is_not_zero(tmp_path: Path) -> None:
    one, two = Scene(tmp_path / "a.json"), scene(tmp_path / "b.json")
    one.attach([], assumed=True, env_lost=True, why="log")
    two.brk(132 << 10)
    found = compare(one.report(), two.exit().report())
    (pair,) = found.pairs
    assert changed(pair)["heap peak"] == (None, 132 << 10)
    settings = {s.name: (s.before, s.after) for s in pair.settings}
    assert settings["environment"] == ("not known", "known")
    assert settings["malloc"] == ("not known", "glibc 2.36")
    assert changed(pair)["arenas heaps"] == (None, 0)
    assert (pair.threshold[0][0].low, pair.threshold[0][0].high) == (None, None)
    text = render(found, ("a", "b"))
    assert "unknown" in next(x for x in text.splitlines() if "heap peak" in x)
    assert "  before unknown\n  after  128 KiB\n" in text
    assert "0 B" not in text


def test_a_finding_that_a_log_does_not_have_may_hold_of_it(tmp_path: Path) -> None:
    log, trace = Scene(tmp_path / "a.json"), scene(tmp_path / "b.json")
    log.header.log = "s.log"
    log.attach([], assumed=True, env_lost=True, why="log")
    trace.brk(132 << 10)
    trace.call("mmap", [0, 4096, 3, 0x22, -1, 0], -12, by="program")
    one, two = log.report(), trace.exit().report()
    assert two.processes[0].findings
    for pair, word in (((one, two), "before"), ((two, one), "after")):
        assert f"{word} is an imported log" in render(compare(*pair), ("a", "b"))
        text = versus_markdown.render(compare(*pair), ("a", "b"))
        assert f"{word.capitalize()} is an imported log" in text
    assert "imported log" not in render(compare(two, two), ("a", "b"))


def test_limits_are_settings(tmp_path: Path) -> None:
    one = scene(tmp_path / "a.json", rlimits={"AS": None, "NPROC": 20, "STACK": 8 << 20})
    two = scene(tmp_path / "b.json", rlimits={"AS": 1 << 30, "NPROC": 3000, "STACK": 8 << 20})
    three = scene(tmp_path / "c.json")
    a, b, c = (s.exit().report() for s in (one, two, three))
    (pair,) = compare(a, b).pairs
    assert [(s.name, s.before, s.after) for s in pair.settings] == [
        ("RLIMIT_AS", "unlimited", "1 GiB"), ("RLIMIT_NPROC", "20", "3,000"),
    ]  # fmt: skip
    (pair,) = compare(a, c).pairs
    assert [(s.name, s.before, s.after) for s in pair.settings] == [
        ("resource limits", "known", "not known")
    ]


def test_processes_are_paired_by_name_and_order(tmp_path: Path) -> None:
    def tree(name: str, children: list[int]) -> Scene:
        s = scene(tmp_path / name)
        for i, growth in enumerate(children):
            s.fork(i + 2, pid=i + 2)
            s.as_(i + 2, i + 2)
            s.brks[i + 2] = s.brks[1]
            s.brk(growth)
            s.as_(1, 1)
        return s

    one = tree("a.json", [132 << 10, 200 << 10]).report()
    two = tree("b.json", [132 << 10, 400 << 10, 600 << 10]).report()
    found = compare(one, two)
    assert [(p.before, p.after) for p in found.pairs] == [(1, 1), (2, 2), (3, 3)]
    assert changed(found.pairs[1]) == {}
    assert changed(found.pairs[2])["heap peak"] == (200 << 10, 400 << 10)
    assert sum(found.only_after.values()) == 1
    assert found.only_before == {}
    assert "only after:" in render(found, ("a", "b"))


def test_a_trace_without_processes(tmp_path: Path) -> None:
    empty = Scene(tmp_path / "a.json").report()
    full = scene(tmp_path / "b.json").exit().report()
    for pair in ((empty, full), (full, empty), (empty, empty)):
        found = compare(*pair)
        assert found.pairs == []
        assert "no process of one is in the other" in render(found, ("a", "b"))


def test_as_markdown(found: Comparison) -> None:
    text = versus_markdown.render(found, ("a.json", "b.json"))
    assert text.startswith("## memtrace diff: a.json to b.json\n\n")
    assert "\n\n### prog (pid 1)\n\n" in text
    assert "\n| setting | before | after |\n| --- | --- | --- |\n" in text
    assert "\n| --- | ---: | ---: | ---: | ---: |\n" in text
    assert "\n| MALLOC\\_ARENA\\_MAX | not set | 1 |\n" in text
    assert "\n| heap peak | 200 KiB | 132 KiB | -68 KiB | -34% |\n" in text
    assert text.index("ARENA") < text.index("heap peak")
    assert text[-2:].count("\n") == 1


def test_nothing_of_a_trace_is_markup(tmp_path: Path) -> None:
    hostile = "<script>|x`y` @all\n# a\u202eb ![z](http://w)"
    one = scene(tmp_path / "a.json", argv=[hostile])
    two = scene(tmp_path / "b.json", argv=[hostile, hostile], env={"LD_PRELOAD": hostile})
    found = compare(one.exit().report(), two.exit().report())
    text = versus_markdown.render(found, (hostile, hostile))
    assert "`![z](http://w)`" in text  # what would link is in a code span
    outside = re.sub("`!.*?`", "", text)
    for part in ("<script", "|x", "`y", "@all", "\n# a", "\u202e", "![z", "](http"):
        escaped = outside.replace("\\\\", "").replace("\\" + part[0], "")
        assert part not in (escaped if part[0] != "\n" else outside), part
    settings = [line for line in text.splitlines() if line.startswith("| ")]
    columns = {re.sub(r"\\\\|\\\|", "", line).count("|") for line in settings}
    assert columns == {4}  # no cell has become two


def tree(path: Path, failing: int, growths: int = 0) -> Scene:
    """Ten processes, of which one makes a call that fails, each with a heap of its own size."""
    s = Scene(path)
    for mm in range(1, 11):
        s.glibc(mm=mm, pid=mm, argv=[f"p{mm}"])
        s.query()
        s.brk((mm + growths) << 20)
        if mm == failing:
            s.call("mmap", [0, 1 << 40, 3, 0x22, -1, 0], -12, by="program")
        s.exit()
    return s


def test_no_finding_is_hidden(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "a.json", 0), tree(tmp_path / "b.json", 7, growths=1)
    found = compare(one.report(), two.report())
    for text in (render(found, ("a", "b")), versus_markdown.render(found, ("a", "b"))):
        assert text.index("p7") < text.index("MT113") < text.index("p1 ")
        assert re.search(r"(?i)and 7 more pairs of processes that differ", text)
    same = compare(one.report(), one.report())
    assert "10 pairs of processes without a difference" in render(same, ("a", "b"))


def test_findings_beyond_the_pairs_shown_in_full_are_shown(tmp_path: Path) -> None:
    def all_fail(name: str, *, fail: bool) -> Report:
        s = Scene(tmp_path / name)
        for mm in range(1, 11):
            s.glibc(mm=mm, pid=mm, argv=[f"p{mm}"])
            if fail:
                s.call("mmap", [0, 1 << 40, 3, 0x22, -1, 0], -12, by="program")
            s.exit()
        return s.report()

    found = compare(all_fail("a.json", fail=False), all_fail("b.json", fail=True))
    text = render(found, ("a", "b"))
    assert text.count("appeared MT113") == 10
    assert "of 7 pairs of processes only the findings are shown" in text
    assert versus_markdown.render(found, ("a", "b")).count("appeared **MT113**") == 10


def test_a_finding_that_changed(tmp_path: Path) -> None:
    def failing(name: str, errno: int, times: int = 1) -> Report:
        s = scene(tmp_path / name)
        for _ in range(times):
            s.call("mmap", [0, 1 << 40, 3, 0x22, -1, 0], -errno, by="program")
        return s.exit().report()

    one, two, more = failing("a.json", 12), failing("b.json", 22), failing("c.json", 12, times=3)
    (pair,) = compare(one, two).pairs
    (turned,) = pair.changed
    assert (turned.rule, turned.severities) == ("MT113", ("warning", "info"))
    assert (pair.appeared, pair.went) == ([], [])
    text = render(compare(one, two), ("a", "b"))
    assert "changed  MT113  warning to info" in text
    assert "- changed **MT113** warning to info:" in versus_markdown.render(
        compare(one, two), ("a", "b")
    )
    (pair,) = compare(one, more).pairs
    assert pair.changed == []  # a number, which is among the numbers


def test_facts_of_the_machine_are_named_once(tmp_path: Path) -> None:
    one, two = Scene(tmp_path / "a.json"), Scene(tmp_path / "b.json")
    for s, n in ((one, 1), (two, 2)):
        h = s.header
        h.cpus_online, h.max_map_count, h.overcommit = n, 1000 * n, n
        h.thp, h.version = ("never", "always")[n - 1], f"0.{n}"
    found = compare(one.report(), two.report())
    assert found.pairs == []
    assert {x.name: (x.before, x.after) for x in found.settings} == {
        "CPUs": ("1", "2"), "mappings allowed": ("1,000", "2,000"),
        "transparent huge pages": ("never", "always"),
        "overcommit": ("1 (always)", "2 (never)"),
    }  # fmt: skip
    assert [(x.name, x.before, x.after) for x in found.recorded] == [("memtrace", "0.1", "0.2")]
    text = render(found, ("a", "b"))
    assert text.count("mappings allowed") == 1


def test_what_a_program_began_with(tmp_path: Path) -> None:
    maps = [f"400000-401000 r-xp 00000000 fe:00 {n} /bin/prog" for n in (1, 9)]
    one = scene(tmp_path / "a.json", maps=maps[:1])
    two = scene(tmp_path / "b.json", maps=maps[1:], personality=0x40000, abi="i386",
                at_secure=True, withheld=["setuid"])  # fmt: skip
    three = scene(tmp_path / "c.json", exe="/opt/prog",
                  maps=[maps[0].replace("/bin", "/opt")])  # fmt: skip
    a, b, c = (s.exit().report() for s in (one, two, three))
    assert {x.name: (x.before, x.after) for x in compare(a, b).pairs[0].settings} == {
        "device and inode of it": ("fe:00 1", "fe:00 9"), "ABI": ("native", "i386"),
        "personality": ("0x0", "0x40000"), "secure mode (AT_SECURE)": ("no", "yes"),
        "withheld privileges": ("none", "setuid"),
    }  # fmt: skip
    assert [(x.name, x.before, x.after) for x in compare(a, c).pairs[0].settings] == [
        ("program's file", "/bin/prog", "/opt/prog")
    ]


def test_arguments_are_told_apart(tmp_path: Path) -> None:
    many = [f"file{i}" for i in range(5000)]
    one = scene(tmp_path / "a.json", argv=["prog", "a b"]).exit().report()
    two = scene(tmp_path / "b.json", argv=["prog", "a", "b"]).exit().report()
    (setting,) = compare(one, two).pairs[0].settings
    assert (setting.before, setting.after) == ("prog 'a b'", "prog a b")
    one = scene(tmp_path / "a.json", argv=["prog", *many]).exit().report()
    other = [*many[:2500], "another", *many[2501:]]
    two = scene(tmp_path / "b.json", argv=["prog", *other]).exit().report()
    found = compare(one, two)
    (setting,) = found.pairs[0].settings
    assert setting.after is not None
    assert setting.after.split()[1:] == other  # the JSON has them whole
    for text in (render(found, ("a", "b")), versus_markdown.render(found, ("a", "b"))):
        assert "another file2501" in text
        assert "file2500 file2501" in text
        assert len(text) < 3000


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(65530, 23, ""), (1000, 1001, ""), (1000, 999, ""), (1000, 990, "-1%"), (4, 3, "-25%"),
     (100, 200, "x2.0"), (1000, 1999, ""), (0, 5, ""), (5, 0, "")],
)  # fmt: skip
def test_no_percentage_that_is_not_so(before: int, after: int, said: str) -> None:
    assert percent(before, after) == said
