# SPDX-License-Identifier: GPL-2.0-or-later
"""`--heap-walk` against what malloc itself says of its heaps (mallinfo2), in real processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.live.attaching import assert_detached, attaching, built
from tests.live.driving import lacking
from tests.live.programs import PYTHON
from tests.live.tracing import ROOT, Event, Traced, cli, target

from memtrace.report import json as report_json

PAGE = 4096
SOURCE = Path(__file__).with_name("heap_walk.c")
FLAGS = {"dynamic": (), "static": ("-static",), "i386": ("-m32",)}
FORMS_OF = {"dynamic": "", "static": "static", "i386": "i386"}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """heap_walk, built in each way."""
    folder = tmp_path_factory.mktemp("heap_walk")
    made = {}
    for name, flags in FLAGS.items():
        if lacking(FORMS_OF[name]):
            continue
        made[name] = folder / name
        subprocess.run(
            ["gcc", "-std=c11", "-O1", "-pthread", *flags, f"-I{ROOT / 'samples'}", SOURCE, "-o",
             made[name]],
            check=True,
        )  # fmt: skip
    return made


@pytest.fixture(params=FLAGS)
def program(request: pytest.FixtureRequest, programs: dict[str, Path]) -> Path:
    """One of them."""
    if reason := lacking(FORMS_OF[request.param]):
        pytest.skip(reason)
    made: Path = programs[request.param]
    return made


def walks(done: Traced, why: str = "") -> list[Event]:
    """The walk records, of one kind if it is given; the trace is exact."""
    done.assert_exact()
    return [e for e in done.calls("walk") if not why or e["why"] == why]


def walked(done: Traced, why: str = "exit") -> list[Event]:
    """The heaps of the one walk of a kind."""
    (walk,) = walks(done, why)
    heaps: list[Event] = walk["heaps"]
    return heaps


def total(heaps: list[Event], *keys: str) -> int:
    """The sum of some fields over all heaps."""
    return sum(h.get(key, 0) for h in heaps for key in keys)


def lead(done: Traced) -> int:
    """Bytes at the beginning of the heap that somebody else took: not by whole pages."""
    breaks = [e["ret"] for e in done.calls("brk")]
    moved = next(b for b in breaks if b != breaks[0]) - breaks[0]
    return moved if moved % PAGE else 0


def assert_as_malloc_says(heaps: list[Event], info: Event, *, outside: int) -> None:
    """Each number that malloc tells. It takes what is not its own for used: the bytes of no chunk,
    but for the `outside` ones, which lie before its first area or behind its last.
    """
    assert all(h["complete"] for h in heaps), heaps
    tops = [h["top"][1] for h in heaps if "top" in h]
    size, used, free = total(heaps, "end") - total(heaps, "base"), total(heaps, "used"), 0
    free = total(heaps, "free") + sum(tops)
    assert size == info["arena"] + outside
    assert free == info["fordblks"] - info["fsmblks"]
    assert used == info["uordblks"] + info["fsmblks"] - (total(heaps, "other") - outside)
    assert used + free + total(heaps, "other") == size
    assert total(heaps, "free_chunks") + len(tops) == info["ordblks"]
    assert heaps[0]["kind"] == "main"
    assert heaps[0]["top"][1] == info["keepcost"]


# -- as malloc says -------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(1, 20000), (2, 3000), (3, 60000)])
def test_the_main_heap(
    run: Callable[..., Traced], program: Path, arguments: tuple[int, int]
) -> None:
    done = run(program, "random", *map(str, arguments), options=("--heap-walk",))
    (info,) = done.told("info")
    (heap,) = walked(done)
    assert_as_malloc_says([heap], info, outside=lead(done))
    # But for what a static program has before, and what is lost to alignment, all is malloc's.
    assert heap["other"] - lead(done) < 16
    assert heap["first"] - heap["base"] == heap["other"]
    assert "searched" not in heap


@pytest.mark.parametrize(("mode", "arguments"), [("threads", (5, 4000)), ("hog", (1500,))])
def test_thread_arenas(
    run: Callable[..., Traced], program: Path, mode: str, arguments: tuple[int, ...]
) -> None:
    done = run(program, mode, *map(str, arguments), options=("--heap-walk",))
    (info,) = done.told("info")
    heaps = walked(done)
    assert_as_malloc_says(heaps, info, outside=lead(done))
    arenas = [h for h in heaps if h["kind"] == "arena"]
    count = len({h["arena"] for h in arenas})
    assert count == (5 if mode == "threads" else 1) or (program.name == "i386" and 1 <= count < 5)
    assert len([h for h in arenas if "top" in h]) == len({h["arena"] for h in arenas})
    assert all(h["end"] - h["base"] <= h["opened"] for h in arenas)
    if mode == "hog":
        assert len(arenas) > 2
    # What is no chunk: heap_info, malloc_state, and a fence in each heap but the last.
    assert all(h["other"] < 2600 for h in arenas)


def test_somebody_elses_sbrk(run: Callable[..., Traced], program: Path) -> None:
    done = run(program, "foreign", "3000", options=("--heap-walk",))
    (info,) = done.told("info")
    at = {a["name"]: a["value"] for a in done.told("at")}
    (heap,) = walked(done)
    behind = heap["end"] - at["behind"]
    assert behind == 2 * PAGE
    assert_as_malloc_says([heap], info, outside=lead(done) + behind)
    top, size = heap["top"]
    assert top + size == at["behind"]
    assert heap["other"] >= 5000 + 3 * PAGE + 24 + behind


def test_other_threads_at_work(run: Callable[..., Traced], program: Path) -> None:
    done = run(program, "busy", "30", options=("--heap-walk",))
    (info,) = done.told("info")
    for walk in walks(done):
        for h in walk["heaps"]:
            if "complete" in h:
                assert h["used"] + h["free"] + h["other"] + h.get("top", (0, 0))[1] == (
                    h["end"] - h["base"]
                )
            else:
                assert "used" not in h
                assert h["problem"]
    assert_as_malloc_says(walked(done), info, outside=lead(done))


def test_peaks_are_seen_while_the_heap_grows(run: Callable[..., Traced], program: Path) -> None:
    done = run(program, "random", "5", "60000", options=("--heap-walk",))
    found = walks(done, "peak")
    sizes = [h["end"] - h["base"] for w in found for h in w["heaps"]]
    assert len(sizes) >= 2
    assert all(b >= a + a // 10 for a, b in pairwise(sizes))
    assert all(w["still"] for w in found)


# -- what does not hold ---------------------------------------------------------------------------


@pytest.mark.parametrize("word", [0, 32, 4096, 1 << 30])
def test_a_header_that_the_program_wrote_over(
    run: Callable[..., Traced], program: Path, word: int
) -> None:
    done = run(program, "scribble", str(word), options=("--heap-walk",))
    (at,) = done.told("at")
    (heap,) = walked(done)
    assert "complete" not in heap
    assert heap["problem"]
    assert not {"used", "free", "top", "pin", "other"} & heap.keys()
    assert heap["walked"] <= at["value"] + 4096
    assert "not walked to the end" in text_of(done)


def test_a_heap_that_the_program_has_unmapped_a_part_of(
    run: Callable[..., Traced], program: Path
) -> None:
    done = run(program, "hole", options=("--heap-walk",))
    (heap,) = walked(done)
    assert "complete" not in heap
    assert "is not in memory" in heap["problem"]


def test_a_heap_that_is_not_mallocs(run: Callable[..., Traced], programs: dict[str, Path]) -> None:
    done = run(programs["dynamic"], "none", options=("--heap-walk",))
    (heap,) = walked(done)
    assert "complete" not in heap
    assert "no chunk of glibc's malloc begins" in heap["problem"]


# -- nothing is done to the program ---------------------------------------------------------------


def memory_of(pid: int) -> tuple[str, list[str], list[int]]:
    """statm, the counts of page faults, and which pages of the heap are there: one that was only
    read for the first time is, and is not counted in the others.
    """
    proc = Path(f"/proc/{pid}")
    stat = (proc / "stat").read_text().rpartition(")")[2].split()
    (heap,) = [x for x in (proc / "maps").read_text().splitlines() if x.endswith("[heap]")]
    low, high = (int(x, 16) // PAGE for x in heap.split()[0].split("-"))
    with (proc / "pagemap").open("rb") as f:
        f.seek(8 * low)
        entries = f.read(8 * (high - low))
    there = [i for i in range(high - low) if entries[8 * i + 7] & 0x80]
    assert 0 < len(there) < high - low
    return (proc / "statm").read_text(), stat[7:11], there


def test_an_attach_leaves_memory_and_faults_as_they_were(program: Path, tmp_path: Path) -> None:
    told = tmp_path / "account"
    with target(told, [program, "wait"]) as t:
        (info,) = t.tells("info")
        (at,) = t.account("at")
        before = memory_of(t.pid)
        with attaching(tmp_path / "t.json", t.pid, "--heap-walk", told=told) as a:
            a.begun()
            done = a.left(signal.SIGINT)
        assert memory_of(t.pid) == before
    assert_detached(done)
    (heap,) = walked(done, "detach")
    # No call has told where the top ends: behind it lies what may as well be written over.
    assert "complete" not in heap
    assert heap["walked"] < at["value"] < heap["end"]
    assert heap["resident"] < heap["end"] - heap["base"] - (4 << 20)
    assert info["keepcost"] >= 4 << 20


def test_an_attach_says_what_malloc_says(program: Path, tmp_path: Path) -> None:
    told = tmp_path / "account"
    with target(told, [program, "wait", "quiet"]) as t:
        (info,) = t.tells("info")
        before = memory_of(t.pid)
        with attaching(tmp_path / "t.json", t.pid, "--heap-walk", told=told) as a:
            a.begun()
            done = a.left(signal.SIGINT)
        assert memory_of(t.pid) == before
    assert_detached(done)
    (heap,) = walked(done, "attach")
    assert_as_malloc_says([heap], info, outside=heap["first"] - heap["base"] & ~15)
    assert heap.get("searched", False) == (program.name == "static")
    assert heap["resident"] < heap["end"] - heap["base"] - (4 << 20)
    assert heap["top_resident"] == 0


THREADS = """
import threading
met, done = threading.Barrier(5), threading.Event()
def work():
    block = bytearray(5000)  # malloc's: pymalloc serves 512 bytes at most
    met.wait()
    done.wait()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
met.wait()
print("there", flush=True)
input()
"""


@pytest.mark.parametrize("walk", [True, False])
def test_an_attach_shows_which_reservations_are_arenas(
    tmp_path: Path,
    walk: bool,  # noqa: FBT001
) -> None:
    trace = tmp_path / "t.json"
    options = ["--heap-walk"] if walk else []
    with subprocess.Popen(
        [PYTHON, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == "there\n"
        maps = Path(f"/proc/{p.pid}/maps").read_text().splitlines()
        cli("attach", "-q", "-o", trace, "--for", "200ms", *options, p.pid)
        p.communicate("\n")
    spans = [[int(x, 16) for x in line.split()[0].split("-")] for line in maps]
    perms = [line.split()[1] for line in maps]
    size = 64 << 20
    reserved = {
        a[0]
        for a, b, rw, none in zip(spans, spans[1:], perms, perms[1:], strict=False)
        if a[0] % size == 0
        and (rw, none) == ("rw-p", "---p")
        and a[1] == b[0] < a[0] + size <= b[1]
    }
    assert len(reserved) == 4
    (process,) = json.loads(cli("report", "--format", "json", trace).stdout)["processes"]
    found = {r["start"]: r for r in process["regions"] if r["start"] in reserved}
    assert found.keys() == reserved
    assert {r["kind"] for r in found.values()} == {"arena" if walk else "unknown"}
    assert {a["base"] for a in process["arenas"]} == (reserved if walk else set())
    assert all("arena" in r["candidates"] for r in found.values()) != walk


# -- programs of daily use ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        (PYTHON, "-c", "x = [str(i) * 10 for i in range(100000)]; import json, email"),
        ("bash", "-c", "for i in {1..20000}; do a[i]=x$i; done; :"),
        ("perl", "-e", "my %h; $h{$_} = $_ x 20 for 1..50000;"),
        ("node", "-e", "let a = []; for (let i = 0; i < 1000; i++) a.push(Buffer.alloc(5000))"),
    ],
    ids=lambda argv: Path(argv[0]).name,
)  # fmt: skip
def test_programs_of_daily_use(run: Callable[..., Traced], argv: tuple[str, ...]) -> None:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    done = run(*argv, options=("--heap-walk",))
    heaps = walked(done)
    assert all(h["complete"] for h in heaps), heaps
    assert heaps[0]["chunks"] > 300


def test_before_an_exec_and_in_a_child(run: Callable[..., Traced]) -> None:
    done = run(
        "bash", "-c", "for i in {1..20000}; do a[i]=x$i; done; (exit 3); exec true",
        options=("--heap-walk",),
    )  # fmt: skip
    (before,) = walks(done, "exec")
    assert all(h["complete"] for h in before["heaps"])
    assert before["mm"] == 1
    # The child of a moment is spared what its parent's heap takes.
    assert all(w["mm"] != 2 for w in walks(done, "exit"))


# -- what is said ---------------------------------------------------------------------------------


def report_of(done: Traced) -> dict[str, Any]:
    """The first process, of a report that satisfies the schema."""
    said = cli("report", done.path, "--format", "json")
    report = json.loads(said.stdout)
    jsonschema.Draft202012Validator(report_json.schema()).validate(report)
    process: dict[str, Any] = report["processes"][0]
    return process


def text_of(done: Traced) -> str:
    """The report in words, as one line."""
    return " ".join(cli("report", done.path).stdout.split())


def test_the_chunk_that_pins_the_top_is_named(sample: Callable[..., Traced]) -> None:
    done = sample("heap-pinned", options=("--heap-walk",))
    process = report_of(done)
    walk = process["walks"][-1]
    assert process["walks_total"] == len(process["walks"]) == 1
    (heap,) = walk["heaps"]
    assert heap["pin"]["bytes"] == 32
    assert heap["free_bytes"] > 0.95 * (heap["end"] - heap["base"])
    assert heap["below_pin_bytes"] == heap["largest_free_bytes"]
    assert heap["pin"]["address"] + 32 == heap["top"]["address"]
    assert walk["free_bytes"] == heap["free_bytes"]
    text = text_of(done)
    assert f"the chunk right below, of 32 B at {heap['pin']['address']:#x}, counts as used" in text
    assert "97 % are free below the top" in text
    assert "malloc_trim(0)" in text
    line = next(e for e in cli("events", done.path).stdout.splitlines() if "--- walk" in e)
    assert f"pin={heap['pin']['address']:#x}+32" in line


def test_without_it_nothing_is_walked(sample: Callable[..., Traced]) -> None:
    done = sample("heap-pinned")
    assert done.calls("walk") == []
    assert report_of(done)["walks"] == []
    text = text_of(done)
    assert "inside the heap" not in text
    assert "--heap-walk tells it of the heaps" in text


@pytest.mark.parametrize("engine", ["strace", "python-ptrace"])
def test_other_engines_refuse(engine: str, tmp_path: Path) -> None:
    trace = tmp_path / "t.json"
    said = cli("run", "--heap-walk", "--engine", engine, "-o", trace, "true")
    assert said.returncode == 2
    assert "cannot walk heaps" in said.stderr
    assert "memtrace run --engine ptrace --heap-walk" in said.stderr
    assert not trace.exists()


def test_the_program_is_built_like_the_others() -> None:
    assert built("heap_walk").exists()  # with -Wall -Wextra -Werror
