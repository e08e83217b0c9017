# SPDX-License-Identifier: GPL-2.0-or-later
"""Where glibc's 128 KiB rule does not apply, or another ABI's applies: other mallocs, other C
libraries, Go, i386.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.driving import (
    GLIBC,
    Drive,
    Driven,
    chunks,
    driver,
    kinds,
    needs_32_bit,
    of_kind,
    steps,
)
from tests.live.tracing import Traced

from memtrace.report.model import ProcessRow

LIBRARIES = {
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "mimalloc": "libmimalloc.so.2",
}
GO = """
package main

import "fmt"

var kept [][]byte

func main() {
	for i := 0; i < 50; i++ {
		block := make([]byte, 200000)
		block[i] = 1
		kept = append(kept, block)
	}
	fmt.Println(len(kept))
}
"""


def library(name: str) -> Path:
    """A shared library that a distribution may install."""
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"):
        path = Path(folder, name)
        if path.exists():
            return path
    pytest.skip(f"{name} is not installed")


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def assert_no_rule(p: ProcessRow) -> None:
    """Nothing is held against the threshold."""
    assert p.allocator.rule != "mmap-threshold"
    assert chunks(p) == []
    assert all(r.request is None for r in p.regions)
    t = p.threshold
    assert (t.initial, t.low, t.high, t.fixed_by, t.history) == (None, None, None, None, [])
    verdicts = {r.verdict for r in p.regions if r.kind in ("heap", "runtime-heap", "unknown")}
    assert verdicts | {s.verdict for s in p.heap.steps} <= {"not-applicable"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_25_another_malloc_in_its_place(drv: Drive, name: str) -> None:
    env = {"LD_PRELOAD": str(library(LIBRARIES[name]))}
    d = drv("m1 m200000 m5000000", env=env)
    p = d.process
    assert p.allocator.name == name
    assert [a.name for a in p.allocators if a.rule == "mmap-threshold"] == ["glibc"]
    assert_no_rule(p)
    assert {r.owner for r in of_kind(p, "runtime-heap")} <= {name}
    if name == "tcmalloc":
        # It takes from the break what it needs, in MiB or rounded to 8 KiB.
        # and a page where the break was not at a multiple of 8 KiB.
        deltas = [s.delta for s in p.heap.steps if s.delta != 0x1000]
        assert deltas == [0x800000, 0x100000, 0x4C6000]
        assert {s[1:] for s in steps(p)} == {("not-applicable", "other-allocator")}
    else:
        assert steps(p) == []
        assert "heap" not in kinds(p)
        assert "runtime-heap" in kinds(p)
    for o in d.ops:  # each block lies in what is its allocator's
        at = [r for r in p.regions if r.start <= o["ptr"] < r.end and r.died_seq is None]
        assert [r.kind for r in at] == ["heap" if name == "tcmalloc" else "runtime-heap"]


@pytest.mark.parametrize("name", LIBRARIES)
def test_25_its_threads_and_frees_move_no_threshold(drv: Drive, name: str) -> None:
    env = {"LD_PRELOAD": str(library(LIBRARIES[name]))}
    d = drv("m100000 m2000000 f1 m2000000 thr3,200000,5,1 m300000", env=env)
    assert_no_rule(d.process)
    assert d.process.arenas == []


@pytest.mark.parametrize("form", ["musl", "musl-static"])
def test_26_musl_has_a_rule_of_its_own(drv: Drive, form: str) -> None:
    needs("musl-gcc")
    d = drv("m5000 m131049 m200000", form)
    p = d.process
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")
    assert "mallocng" in d.rows[0]["allocator"]["own_rule"]
    assert [s.delta for s in p.heap.steps] == [0x2000]  # for metadata
    lengths = [e["args"][1] for e in d.traced.calls("mmap") if e["args"][3] == 0x22]
    assert 131072 in lengths
    assert 200020 in lengths  # the request and 20 bytes, rounded by the kernel
    for o in d.ops:
        at = [r for r in p.regions if r.start <= o["ptr"] < r.end and r.died_seq is None]
        assert [(r.kind, r.owner, r.evidence) for r in at] == [("runtime-heap", "musl", "header")]


@pytest.mark.parametrize("form", ["musl", "musl-static"])
def test_26_each_of_its_events_is_held_against_no_rule(drv: Drive, form: str) -> None:
    needs("musl-gcc")
    p = drv("m5000 m131049 m200000", form).process
    assert_no_rule(p)
    assert {s.role for s in p.heap.steps} == {"other-allocator"}
    assert {(r.kind, r.owner) for r in p.regions if r.bytes >= 16384 and r.born_seq > 1} >= {
        ("runtime-heap", "musl")
    }


@pytest.mark.parametrize("form", ["musl", "musl-static"])
def test_26_nothing_false_is_said_of_it(drv: Drive, form: str) -> None:
    needs("musl-gcc")
    p = drv("m5000 m131049 m200000 f2 m200000 thr2,200000,3,1 m131049", form).process
    assert p.allocator.name in ("musl", "unknown")
    assert chunks(p) == []
    assert of_kind(p, "arena", "main-arena") == []
    assert {s.verdict for s in p.heap.steps} <= {"unknown", "not-applicable"}
    assert p.threshold.low is None
    assert p.threshold.history == []


@pytest.fixture(scope="module")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("go")
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(GO)
    env = {
        "PATH": "/usr/local/go/bin:/usr/bin:/bin", "HOME": str(folder), "GO111MODULE": "off",
        "GOCACHE": str(folder / "cache"), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local",
    }  # fmt: skip
    subprocess.run(["go", "build", "-o", "made", "main.go"], cwd=folder, env=env, check=True)
    return folder / "made"


def test_27_go_has_no_break(run: Callable[..., Traced], go_program: Path) -> None:
    done = run(go_program)
    assert (done.returncode, done.stdout) == (0, b"50\n")
    p = Driven(done).process
    assert p.heap.steps == []
    assert p.heap.growths == 0
    assert "heap" not in kinds(p)
    assert chunks(p) == []
    assert not of_kind(p, "arena", "main-arena")
    assert [r for r in p.regions if r.start == 0xC000000000]
    assert {r.verdict for r in p.regions} <= {"not-applicable", "unknown"}
    assert p.allocator.rule != "mmap-threshold"


def test_27_its_heap_is_called_so(run: Callable[..., Traced], go_program: Path) -> None:
    p = Driven(run(go_program)).process
    assert p.allocator.name == "go"
    assert p.allocator.rule == "not-applicable"
    (heap,) = [r for r in p.regions if r.start == 0xC000000000]
    assert (heap.kind, heap.owner, heap.verdict) == ("runtime-heap", "go", "not-applicable")


def test_29_i386_has_its_own_sizes(drv: Drive) -> None:
    needs_32_bit()
    d = drv("m100000 m131053", "i386")
    p = d.process
    assert p.allocator.name == "glibc"
    assert p.allocator.version == GLIBC
    (r,) = chunks(p)
    (made,) = [e for e in d.traced.calls("mmap") if e["seq"] == r.born_seq]  # mmap2 in truth
    assert made["args"] == [0, 135168, 3, 0x22, 0xFFFFFFFF, 0]
    told = d.block(1)
    assert (r.start, r.bytes) == (told["map_start"], told["map_length"]) == (made["ret"], 135168)
    assert (r.evidence, r.verdict) == ("header", "holds")
    assert r.request is not None
    assert r.request.min <= 131053 <= r.request.max == 135132
    assert len(p.heap.steps) == 2
    assert p.heap.end == told["break_after"]
    assert {s.verdict for s in p.heap.steps} <= {"holds", "explained", "unknown"}


def test_29_one_byte_less_is_served_by_the_heap(drv: Drive) -> None:
    needs_32_bit()
    d = drv("m100000 m131052", "i386")
    assert chunks(d.process) == []
    assert not d.block(1)["mapped"]


def test_29_its_free_raises_the_threshold_by_its_own_size(drv: Drive) -> None:
    needs_32_bit()
    d = drv("m100000 m200000 f1 m520000 f2 m524300 f3", "i386")
    t = d.process.threshold
    told = [o["old_chunk"] for o in d.ops if o["op"] == "f"]
    # The maximum is 512 KiB: the last one is over it.
    assert told[0] < told[1] < 512 << 10 < told[2]
    assert [m.low for m in t.history] == [m.high for m in t.history] == told[:2]


def test_29_the_request_is_bounded_by_the_threshold_as_well(drv: Drive) -> None:
    needs_32_bit()
    d = drv("m100000 m131053", "i386")
    (r,) = chunks(d.process)
    t = d.process.threshold
    assert r.request is not None
    assert (r.request.min, r.request.max, r.verdict) == (131037, 135132, "holds")
    assert (t.low, t.high) == (131072, 131072)
    # What holds is that the chunk is T at least: the request and 4 bytes, rounded up to 16.
    assert max(r.request.min, 131072 - 4 - 15) == 131053


def test_29_the_heap_begins_with_two_growths(drv: Drive) -> None:
    needs_32_bit()
    d = drv("m100000 m131053", "i386")
    assert [s["role"] for s in d.rows[0]["heap"]["steps"]] == ["first-heap", "alignment"]
    assert [v for _, v, _ in steps(d.process)] == ["holds", "explained"]


def test_a_static_program_has_the_same_rule(drv: Drive) -> None:
    d = drv("m100000 m131049 f1 m131049 m135145", "static")
    p = d.process
    assert p.allocator.name == "glibc"
    first, second = chunks(p)
    assert (first.bytes, second.bytes) == (135168, 139264)
    assert {(r.evidence, r.verdict) for r in (first, second)} == {("header", "holds")}
    t = p.threshold
    assert t.low is not None
    assert t.high is not None
    assert t.low <= 135168 <= t.high
    assert {s.verdict for s in p.heap.steps} <= {"holds", "explained", "unknown"}


@pytest.mark.parametrize("form", ["static", "i386", "i386-static"])
def test_the_driver_in_every_form(drv: Drive, form: str) -> None:
    if "i386" in form:
        needs_32_bit()
    d = drv("m100000 m200000 f1 thr2,100000,2,1 fork m5", form)
    assert d.traced.told("end")
    assert driver(form).exists()
