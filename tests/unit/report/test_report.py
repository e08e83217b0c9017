# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of hand-written traces: JSON that satisfies its schema, text that fits and stays text."""

from __future__ import annotations

import json as stdlib_json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec.structs import replace

from memtrace.malloc.series import Moment, Series
from memtrace.report import json, ledger, palette, text
from memtrace.report.build import build
from memtrace.report.lines import clean, columns, fit, fit_end, sparkline
from memtrace.trace.codec import encode_header
from memtrace.trace.reader import Trace
from memtrace.trace.records import Exit, Ext, Gone

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Scene

    from memtrace.report.model import Report

VALIDATOR = jsonschema.Draft202012Validator(json.schema())
DOCS = Path(__file__).parents[3] / "docs" / "report-json.md"
CHUNK = 135168


def validated(report: Report) -> dict[str, Any]:
    data: dict[str, Any] = stdlib_json.loads(json.render(report))
    VALIDATOR.validate(data)
    return data


def checked_text(report: Report) -> str:
    out = text.render(report)
    for line in out.splitlines():
        assert columns(line) <= 80, line
    # nothing but printable characters and newlines
    assert all(c == "\n" or unicodedata.category(c)[0] not in "CM" for c in out)
    coloured = text.render(report, color=True)
    assert re.sub(r"\x1b\[[0-9;]+m", "", coloured) == out
    return out


@pytest.fixture
def busy(scene: Scene) -> Scene:
    """Some of everything."""
    scene.glibc(argv=["/usr/bin/prog", "-x"])
    scene.query()
    scene.brk(0x21000)
    a = scene.mmap(212992)
    scene.munmap(a, 212992)
    scene.brk(0x51000)
    scene.refused(1 << 40)
    scene.mmap(1 << 20, "program")
    scene.call("mprotect", [0x1000, 4096, 1], -12, by="program")
    scene.mmap(CHUNK, by="")
    scene.fork(2, 2).as_(2, 2)
    scene.brk(0x1000)
    scene.exit(3)
    scene.as_(1, 1).exit(0)
    return scene


def test_json_has_every_key_of_the_schema_and_no_other(busy: Scene) -> None:
    data = validated(busy.report())

    def compare(schema: dict[str, Any], value: Any, where: str) -> None:
        schema = (
            json.schema()["$defs"][schema["$ref"].rpartition("/")[2]]
            if "$ref" in schema
            else schema
        )
        if schema.get("type") == "object" and "properties" in schema:
            assert set(value) == set(schema["properties"]) == set(schema["required"]), where
            for k, sub in schema["properties"].items():
                compare(sub, value[k], f"{where}.{k}")
        elif schema.get("type") == "array":
            for i, v in enumerate(value):
                compare(schema["items"], v, f"{where}[{i}]")

    compare(json.schema(), data, "report")


def test_json_facts(busy: Scene) -> None:
    data = validated(busy.report())
    assert data["format"] == "memtrace-report/1"
    assert data["trace"] == {
        "engine": "test", "log": None, "clock": "ns", "complete": True, "events": 12, "lost": 0,
        "duration_ns": data["trace"]["duration_ns"],
    }  # fmt: skip
    first, second = data["processes"]
    assert (first["exit"], second["exit"]) == ({"code": 0}, {"code": 3})
    assert second["ppid"] == 1
    assert first["calls"]["mprotect"] == {"count": 1, "failed": 1}
    assert first["calls"]["brk"] == {"count": 4, "failed": 1}
    # a growth of 0x51000 proves nb >= 0x51000 - 4096 - 131072 - 16 = 196592
    assert first["metrics"]["heap.growths_over_128k"] == 1
    assert first["metrics"]["calls.mprotect"] == 1
    assert first["metrics"]["calls.total"] == 11
    assert second["heap"]["start"] == first["heap"]["start"]
    assert second["metrics"]["heap.growths"] == 1
    assert first["regions_total"] == len(first["regions"])


def test_every_metric_is_documented(busy: Scene) -> None:
    documented = set(re.findall(r"`([a-z]+\.[a-z0-9_]+)`", DOCS.read_text()))
    for process in busy.report().processes:
        undocumented = {m for m in process.metrics if m not in documented and f"calls.{m[6:]}" != m}
        assert not undocumented


def test_one_process_alone(busy: Scene) -> None:
    report = busy.report(pid=2)
    assert [p.pid for p in report.processes] == [2]
    assert "process 2" not in checked_text(report)
    assert busy.report(pid=99).processes == []


def test_the_text_says_what_happened(busy: Scene) -> None:
    out = checked_text(busy.report(pid=1))
    lines = out.splitlines()
    assert lines[0].startswith("prog -x   exit 0   glibc 2.36")
    flat = " ".join(out.split())
    assert "MT101 the mmap threshold rose from 128 KiB to at most 208 KiB" in flat
    assert "Freeing a mapped chunk at #8 raised glibc's mmap threshold from 128 KiB" in flat
    assert "MT109 1 growth of the heap refused by the kernel" in flat
    assert "MT113 warning Calls that failed: mprotect 1." in flat
    assert "unverified: no kernel snapshot to compare" in flat
    assert "what 1 region is for" in flat
    assert out.index("is it odd?") < out.index("can I trust it?") < out.index("memory by kind")


def test_a_quiet_program(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    out = checked_text(scene.exit().report())
    assert "is it odd?       nothing stands out" in out


def test_a_contradiction_is_said_without_a_cause(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    seq = scene.brk(0x10C000)
    flat = " ".join(checked_text(scene.report()).split())
    said = f"the threshold rule as configured is contradicted at #{seq}; the cause is unknown"
    assert said in flat


def test_incomplete_is_said(scene: Scene) -> None:
    scene.glibc()
    scene.complete = False
    report = scene.report()
    assert validated(report)["trace"]["complete"] is False
    assert "incomplete" in checked_text(report)
    scene.lost()
    scene.complete = True
    assert validated(scene.report())["trace"]["lost"] == 1


def test_a_trace_with_only_a_header(scene: Scene) -> None:
    scene.path.write_bytes(encode_header(scene.header))
    report = build(Trace(scene.path))
    data = validated(report)
    assert data["processes"] == []
    assert data["trace"]["events"] == 0
    assert "the trace holds no process" in checked_text(report)


NAMES = [
    "a\nb\r\tc", "\x1b[31mred\x1b[0m\x1b]0;title\x07", "\u202eevil\u2066x", "x" * 5000,
    "漢字" * 60, "e\u0301" * 50, "\ud800", "\x01bold\x02\x03", "", " ", "%s{}[bold]",
    "[red]x[/red]", "[/]", ":smile: [link=file:///x]y[/link]",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_stay_text(scene: Scene, name: str) -> None:
    safe = name.replace("\ud800", "\\ud800")
    scene.glibc(argv=[safe, safe], exe="/bin/prog")
    scene.mmap(4096, "program", flags=2, file="/tmp/" + safe)
    scene.fork(2, 2)
    report = scene.report()
    validated(report)
    assert fit(safe.strip(), 20).rstrip("…") in checked_text(report)


def test_a_kind_has_its_colour_in_every_table_and_in_the_chart(scene: Scene) -> None:
    scene.glibc()
    scene.query()
    scene.brk(0x21000)
    scene.mmap(212992)
    scene.mmap(1 << 20, "program")
    report = scene.report()
    moments = [Moment(n, n * 10, [0x21000, 212992 * n], 0, None) for n in (1, 2)]
    series = Series(["heap", "malloc-chunk"], moments, False, 2, (2, 20))
    shown = text.render(report, series=lambda mms: dict.fromkeys(mms, series), color=True)
    for kind, places in (("heap", 2), ("malloc-chunk", 2), ("anon", 2)):
        number = re.findall(r"\d+", palette.terminal(kind))[0]
        assert len(re.findall(rf"\x1b\[38;5;{number}m +{kind} *\x1b", shown)) == places
    for kind, legend in (("heap", "█ heap"), ("malloc-chunk", "▓ mapped chunks")):
        number = re.findall(r"\d+", palette.terminal(kind))[0]
        assert f"\x1b[38;5;{number}m{legend}\x1b[0m" in shown
        assert f"\x1b[38;5;{number}m{legend[0] * 3}" in shown


@given(st.text(max_size=60), st.integers(2, 40))
def test_clean_and_fit(name: str, width: int) -> None:
    cleaned = clean(name)
    assert clean(cleaned) == cleaned
    assert columns(fit(name, width)) <= width
    assert columns(fit_end(name, width)) <= width


@pytest.mark.parametrize("width", [10, 60, 72, 80, 200])
def test_width_is_kept_between_60_and_80(busy: Scene, width: int) -> None:
    limit = min(max(width, 60), 80)
    out = text.render(busy.report(), width=width)
    assert max(columns(line) for line in out.splitlines()) <= limit


def test_pages_in_memory_have_a_column_where_they_are_known(busy: Scene) -> None:
    report = busy.report()
    plain = checked_text(report)
    assert "resident: in memory" not in plain
    first, *others = report.processes
    sizes = {"heap": 8192, "anon": 0}

    def told(**changes: int) -> str:
        kinds = {
            name: replace(k, resident_bytes=sizes.get(name), **changes)
            for name, k in first.kinds.items()
        }
        return checked_text(replace(report, processes=[replace(first, kinds=kinds), *others]))

    shown = told()
    heading, head, *rows = shown[shown.index("memory by kind") :].splitlines()
    assert heading.endswith("; resident: in memory at exit")
    assert re.search("at exit +resident  what it is$", head)
    edge = head.index("resident") + len("resident")
    found = {row.split()[0]: row[edge - 8 : edge].strip() for row in rows[: len(first.kinds)]}
    assert found == dict.fromkeys(first.kinds, "unknown") | {"heap": "8 KiB", "anon": "0 B"}
    both = told(committed_bytes=4096)
    assert "committed: may be accessed; resident: in memory at exit" in both
    assert re.search("at exit +committed +resident$", both, re.MULTILINE)
    assert "heap: small requests, by brk" in " ".join(both.split())
    for width in (60, 64, 72):  # never a part of a number
        narrow = text.render(
            replace(report, processes=[replace(first, kinds={
                name: replace(k, resident_bytes=1500 << 10, committed_bytes=4096)
                for name, k in first.kinds.items()
            }), *others]), width=width,
        )  # fmt: skip
        part = narrow[narrow.index("memory by kind") :].partition("\n\n")[0]
        assert part.count("1.46 MiB") == len(first.kinds)


def test_many_steps_are_condensed_and_counted(scene: Scene) -> None:
    scene.glibc()
    for _ in range(50):
        scene.brk(0x21000)
    big = scene.brk(0x40000)
    for _ in range(50):
        scene.brk(0x21000)
    p = scene.process()
    assert len(p.heap.steps) == p.heap.growths == 101
    out = checked_text(scene.report())
    assert f"#{big} " in out
    assert "87 more steps" in out


def test_many_processes_are_one_line_each(scene: Scene) -> None:
    scene.glibc()
    for mm in range(2, 60):
        scene.as_(1, 1).fork(mm, mm)
        scene.as_(mm, mm).exit()
    scene.as_(1, 1).exit()
    out = checked_text(scene.report())
    assert "59 address spaces in this trace" in " ".join(out.split())
    assert "and 29 smaller ones" in out


def test_more_regions_than_rows_are_counted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memtrace.malloc.regions.ROWS", 20)
    scene.glibc()
    for _ in range(50):
        a = scene.mmap(4096, "program")
        scene.munmap(a, 4096, "program")
    keep = scene.mmap(8 << 20, "program")
    scene.munmap(keep, 8 << 20, "program")
    p = scene.process()
    assert len(p.regions) == 20
    assert p.regions[0].peak_bytes == 8 << 20
    assert p.kinds["anon"].count == 51
    assert p.regions_total > 51


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), max_size=40))
def test_sums_agree_with_the_map(
    scenes: Callable[[str], Scene], ops: list[tuple[int, int]]
) -> None:
    """Whatever a program does, the alive regions are the mapped bytes."""
    scene = scenes("any").glibc()
    mapped = []
    for what, pages in ops:
        size = pages * 4096
        if what <= 1:
            mapped.append((scene.mmap(size, "program" if what else "malloc"), size))
        elif what == 2:
            scene.brk(size)
        elif mapped and what == 3:
            scene.munmap(*mapped.pop(pages % len(mapped)))
        elif mapped and what == 4:
            a, n = mapped[pages % len(mapped)]
            scene.call("mprotect", [a, min(n, size), 1], 0, by="program")
        elif mapped:
            a, n = mapped.pop(pages % len(mapped))
            new = scene._place(size)
            scene.call("mremap", [a, n, size, 1], new)
            mapped.append((new, size))
    p = scene.process()
    alive = sum(r.bytes for r in p.regions if r.died_seq is None)
    start = sum(r.bytes for r in p.regions if r.born_seq <= 4 and r.died_seq is None)
    assert alive == sum(k.final_bytes for k in p.kinds.values())
    heap = -(-(p.heap.final_bytes or 0) // 4096) * 4096
    assert alive == start + heap + sum(n for _, n in mapped)
    assert all(k.peak_bytes >= k.final_bytes >= 0 for k in p.kinds.values())


def test_sparkline() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([0, 7], 10) == "▁█"
    assert len(sparkline(list(range(1000)), 20)) == 20


def test_a_report_imports_nothing_heavy() -> None:
    code = (
        "import sys; import memtrace.report.build, memtrace.report.json;"
        "print(sorted({'pandas', 'rich', 'jinja2', 'click'} & set(sys.modules)))"
    )
    path = ":".join(str(Path(__file__).parents[3] / d) for d in ("tracer", "analysis"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": path},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_an_address_space_that_an_exec_ends_did_not_exit(scene: Scene) -> None:
    # exec /bin/prog; exec of another: one process, two address spaces
    scene.glibc()
    scene.brk(0x21000)
    scene.exec(2, argv=["other"]).exit(0)
    report = scene.report()
    assert [p.exit for p in report.processes] == [None, {"code": 0}]
    shown = checked_text(report)
    assert "132 KiB at exec" in shown
    assert re.search(r"#1 .* exit 0 +prog → other$", shown, re.MULTILINE)
    assert "ended" not in shown


def test_one_process_alone_does_not_hide_how_many_there_are(scene: Scene) -> None:
    scene.glibc()
    scene.fork(2, 2).as_(2, 2)
    scene.exec(3, pid=2, argv=["other"]).exit(0)
    scene.as_(1, 1).exit(0)
    assert "  2 of the 3 address spaces in this trace" in checked_text(scene.report(2))
    assert "  3 address spaces in this trace" in checked_text(scene.report())


def test_a_large_growth_proves_a_large_request_only_without_mallopt(scene: Scene) -> None:
    # mallopt(M_TOP_PAD, 512 KiB), which leaves no trace: m2097152 f1 m1000
    scene.glibc()
    scene.brk(0x21000)
    a = scene.mmap(2101248)
    scene.munmap(a, 2101248)
    scene.brk(0x81000)
    shown = " ".join(checked_text(scene.exit().report()).split())
    assert "All this unless the program called mallopt" in shown
    assert "proves that the heap" not in shown


def test_an_incomplete_trace_does_not_say_never(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(0x21000)
    scene.complete = False
    shown = " ".join(checked_text(scene.report()).split())
    assert "never shrank" in shown
    assert "As far as recorded: this trace is incomplete." in shown


# -- attached to ------------------------------------------------------------------------------

HEAP_LINE = "1000000-1021000 rw-p 00000000 00:00 0 [heap]"
CHUNKS = "7d0000000000-7d0000042000 rw-p 00000000 00:00 0"  # two, shown as one
TWO = [(0x7D0000000000, CHUNK | 2), (0x7D0000021000, CHUNK | 2)]


@pytest.fixture
def attached(scene: Scene) -> Scene:
    """A process found in mid-life, followed for a while and left."""
    scene.attach([HEAP_LINE, CHUNKS], brk=0x1020800, chunks=TWO, pid=77, rss=16,
                 argv=["/usr/bin/serve", "--port", "80"], age_ns=93_780 * 10**9)  # fmt: skip
    scene.brk(0x21000)
    scene.munmap(0x7D0000000000, CHUNK)
    scene.mmap(409600)
    scene.seen(scene.seq, 409602).query()
    scene.brk(0x21000)
    scene.fork(2, 2).as_(2, 2)
    scene.brk(0x1000)
    scene.exit(3)
    return scene.as_(1, 77).detach()


def test_the_json_of_an_attached_process(attached: Scene) -> None:
    data = validated(attached.report())
    first, child = data["processes"]
    total = sum(k["older"] for k in first["kinds"].values())
    pages = 2 + 0x20 + 2 + 0x21 + 2 + 0x128 + 0x21 + 0x42
    assert first["attached"] == {
        "seq": 1, "t_ns": 0, "age_ns": 93_780 * 10**9, "regions": total, "regions_gone": 1,
        "mapped_bytes": pages * 4096, "heap_bytes": 0x21000, "resident_bytes": 16 * 4096,
    }  # fmt: skip
    assert total == sum(r["older"] for r in first["regions"]) == 12
    assert (first["running"], first["exit"]) == (True, None)
    assert (child["running"], child["exit"], child["attached"]) == (False, {"code": 3}, None)
    assert [s["exact"] for s in first["heap"]["steps"]] == [False, True]
    assert first["threshold"]["initial"] is None
    assert first["metrics"]["chunks.mapped"] == 1
    assert first["metrics"]["chunks.alive_at_exit"] == 2
    assert first["kinds"]["malloc-chunk"] == {
        "count": 3, "older": 2, "peak_bytes": CHUNK + 409600, "final_bytes": CHUNK + 409600,
        "committed_bytes": CHUNK + 409600,
        "resident_bytes": None,
    }  # fmt: skip


def test_the_text_of_an_attached_process(attached: Scene) -> None:
    out = checked_text(attached.report(pid=77))
    lines = out.splitlines()
    assert lines[0] == "serve --port 80   still running   glibc 2.36   x86_64   pages 4 KiB"
    began = "pid 77, attached at #1, 1 d 2 h after its start; 12 regions are older than the trace"
    flat = " ".join(out.split())
    loose = "where in its page the heap ended before is not known"
    before = "what the peaks were until then, and which frees and calls of mallopt moved the"
    for said in (
        f"{began}, 1 of them gone since",
        "peak since the attach; 132 KiB at the attach, 394 KiB at the end; 2 growths, 0 shrinks",
        "2 older, 1 mapped since, 2 alive at the end",
        f"#3: {loose}; the true change is up to 4 KiB more than shown",
        "attach 128 KiB to 32 MiB glibc's rule; frees before the attach are in no record",
        "132 KiB to 32 MiB freeing a mapped chunk raised it to that, unless it was higher before",
        "132 KiB to 409,584 B a chunk was mapped: it was no higher",
        "The heap grew 2 times and never shrank since the attach",
        f"what happened before the attach: what made the 12 older regions, {before} threshold",
    ):
        assert said in flat, said
    for wrong in ("at exit", "first heap", "glibc's default; nothing", "from unknown"):
        assert wrong not in flat
    assert re.search(r"kind +count +peak +at the end +what it is", out)
    assert re.search(r"7d0000000000 +132 KiB +malloc-chunk +header +older +#4", out)


def test_a_title_is_a_name_as_a_whole(scene: Scene) -> None:
    scene.attach([HEAP_LINE], argv=["sshd: ann@pts/0"], brk=0x1021000).detach()
    assert checked_text(scene.report()).startswith("sshd: ann@pts/0   still running")


def test_older_regions_may_hold_more_chunks_than_are_proven(scene: Scene) -> None:
    lone = "7d1000000000-7d1000042000 rw-p 00000000 00:00 0"
    scene.attach([HEAP_LINE, CHUNKS, lone], brk=0x1020800, chunks=TWO).detach()
    flat = " ".join(checked_text(scene.report()).split())
    assert "2 older, 0 mapped since, 2 alive at the end; 2 older regions may hold more" in flat


def test_that_no_chunk_is_proven_does_not_say_that_there_is_none(scene: Scene) -> None:
    scene.attach([HEAP_LINE, CHUNKS], brk=0x1020800).detach()
    flat = " ".join(checked_text(scene.report()).split())
    assert "no mapping is proven to be one; 2 older regions may hold more" in flat


def test_what_an_older_region_may_be_is_not_cut_within_a_word(scene: Scene) -> None:
    path = "/var/lib/of-a-very-long-name/and-its-file-is-long-too.cache"
    file = f"7d2000000000-7d2000001000 r--p 00000000 fe:00 9 {path}"
    stack = "7d1000000000-7d1000001000 ---p 00000000 00:00 0"
    above = "7d1000001000-7d1000801000 rw-p 00000000 00:00 0"
    scene.attach([HEAP_LINE, stack, above, file], brk=0x1020800).detach()
    rows = re.findall(r"^  7d[0-9a-f]+ .*$", checked_text(scene.report()), re.MULTILINE)
    assert [row.split("older")[1].strip() for row in rows] == [
        "thread-stack, …?",
        "guard or anon?",
        "…ile-is-long-too.cache",
    ]


def test_the_process_that_was_asked_about_comes_first(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=0x1021000)
    for mm in range(2, 50):
        scene.as_(1, 1).fork(mm, mm)
        scene.as_(mm, mm).mmap(mm << 20, "program")
    out = checked_text(scene.detach().report())
    flat = " ".join(out.split())
    assert "49 address spaces in this trace; the next lines are about process 1, which was" in flat
    assert re.search(r"\*1 +#1 .* running +prog \(attach\)", out)
    assert "── process 1, born #1 prog" in out
    assert "── process 49, " in out


def test_a_heap_that_nobody_moved_since_the_attach(scene: Scene) -> None:
    scene.attach([HEAP_LINE], brk=0x1020800).detach()
    flat = " ".join(checked_text(scene.report()).split())
    untold = "at most 132 KiB: where the break stands is not known before the first brk"
    assert f"never moved since the attach; {untold}" in flat
    assert f"heap (brk) {untold.replace(':', '')}" in flat
    assert "labelled [heap]: at most that" in flat
    assert "heap.peak_bytes" not in scene.process().metrics
    assert "nothing stands out" in flat
    assert "at the end 128 KiB to 32 MiB no mapping or growth since then narrows it" in flat


@pytest.mark.parametrize(
    ("end", "says"),
    [("detach", "still running"), ("exit", "exit 4"), ("cut", ""), ("killed", "killed by SIGKILL")],
)
def test_the_end_of_an_attached_process(scene: Scene, end: str, says: str) -> None:
    scene.attach([HEAP_LINE], brk=0x1021000)
    if end == "detach":
        scene.detach()
    elif end == "exit":
        scene.exit(4)
    elif end == "killed":
        scene.life(Exit(t=9, pid=1, tid=1, mm=1, signal=9))
        scene.life(Gone(t=9, mm=1))
    else:
        scene.complete = False
    first = checked_text(scene.report()).splitlines()[0]
    assert says in first
    assert ("still running" in first) is (end == "detach")


def test_a_fixed_threshold_of_an_attached_process(scene: Scene) -> None:
    scene.attach([], env={"MALLOC_MMAP_THRESHOLD_": "65536"})
    flat = " ".join(checked_text(scene.report()).split())
    assert (
        "set and fixed by a MALLOC_ variable of the environment, unless the program wrote that "
        "there itself, or called mallopt, before the attach" in flat
    )


def test_a_lost_environment_is_said(scene: Scene) -> None:
    scene.attach([], env_lost=True)
    flat = " ".join(checked_text(scene.report()).split())
    assert "attach unknown the program has written over its environment" in flat


def test_a_setting_that_stands_twice_is_said(scene: Scene) -> None:
    scene.glibc(env={"MALLOC_MMAP_THRESHOLD_": "4096"}, env_lost=True)
    scene.mmap(102400)
    p = scene.process()
    assert (p.threshold.low, p.threshold.high) == (None, None)
    assert {r.verdict for r in p.regions if r.kind == "malloc-chunk"} == {"unknown"}
    flat = " ".join(checked_text(scene.report()).split())
    assert "start unknown a setting stands in the environment twice: which counts" in flat


def test_which_malloc_is_not_known_is_said(scene: Scene) -> None:
    scene.attach(["7f5000000000-7f5000100000 r-xp 00000000 fe:00 40 /lib/libjemalloc.so.2"])
    out = checked_text(scene.report())
    assert "malloc unknown" in out.splitlines()[0]
    assert "libjemalloc.so.2 is there" in " ".join(out.split())


# -- what a reader must not miss ------------------------------------------------------------------


def raised(scene: Scene, length: int) -> None:
    """A freed chunk of that length has raised the threshold."""
    scene.glibc()
    scene.brk(0x21000)
    address = scene.mmap(length)
    scene.seen(scene.seq, length | 2)
    scene.query()
    scene.munmap(address, length, ext=Ext(freed=(length | 2, 0)))


def test_what_stands_out_in_a_smaller_process_is_named_in_the_opening(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.fork(2, pid=20)
    scene.as_(2, 20).refused(0x21000)
    scene.exit()
    scene.as_(1, 1).mmap(100 << 20, by="program")
    scene.exit()
    opening = checked_text(scene.report()).partition("can I trust it?")[0]
    assert "nothing stands out here\n" in opening
    assert "elsewhere in this trace: MT109 in process 20\n" in opening
    alone = checked_text(scene.report(20)).partition("can I trust it?")[0]
    assert "elsewhere" not in alone
    assert "MT109  1 growth of the heap refused" in alone


def test_findings_say_how_the_first_of_them_is_explained(scene: Scene) -> None:
    scene.glibc()
    scene.brk(0x21000)
    scene.brk(0x21000)
    assert "what each means: memtrace explain MT103" in checked_text(scene.report())


def test_a_growth_is_said_to_need_the_risen_threshold_only_where_it_does(scene: Scene) -> None:
    raised(scene, 2 << 20)
    scene.brk(0x21000)  # the top of the heap may have been used up, or not
    scene.brk(0x80000)
    printed = checked_text(scene.report())
    assert "  32 B to 136 KiB  fits, as it has risen" in printed
    assert "threshold had risen" in printed
    (fits, needs) = scene.process().heap.steps[-2:]
    assert fits.reason == needs.reason == "dynamic-threshold"
    assert fits.chunk is not None
    assert fits.chunk.min < 128 << 10 <= (needs.chunk.min if needs.chunk else 0)


@pytest.mark.parametrize("verdict", ["holds", "explained", "contradiction", "unknown"])
def test_why_the_heap_grew_is_not_cut_off(scene: Scene, verdict: str) -> None:
    """What is left of 80 columns beside numbers of five digits and sizes as wide as they get."""
    raised(scene, 16 << 20)
    scene.brk(0x90000)
    row = scene.process().heap.steps[-1]
    words = re.findall(r'^    "([a-z-]+)": "', Path(ledger.__file__).read_text(), re.MULTILINE)
    assert len(words) > 20
    for reason in [None, *words]:
        why = ledger.step(replace(row, verdict=verdict, reason=reason))
        beside = ("#12345", "123 ms", "-123 MiB", "1.23 GiB", "812 KiB to 1.23 GiB")
        assert 2 * 6 + sum(map(len, beside)) + len(why) <= 80, why
