# SPDX-License-Identifier: GPL-2.0-or-later
"""What musl's malloc (mallocng) maps, told by what it writes there; what only looks like it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.attaching import attaching
from tests.live.driving import Drive, Driven, driver, of_kind, region_at
from tests.live.test_malloc_cases_elsewhere import needs
from tests.live.tracing import Traced, target

from memtrace.report.model import ProcessRow

FORMS = pytest.mark.parametrize("form", ["musl", "musl-static"])
THEIRS = ("runtime-heap", "musl", "header", "not-applicable", "other-allocator")
#: A record of the program's own in each mapping, with a pointer to its owner, which points back.
OWN = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
struct record { struct owner *owner; long n; };
struct owner {
    struct owner *prev, *next;
    struct record *record;
    unsigned int a, b;
    unsigned long w;
};
static char *get(size_t length)
{
    return mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
int main(void)
{
    size_t sizes[] = { 4096, 16384, 131072, 200020, 200704, 5000020 };
    char *page = get(8192);
    struct owner *owners = (struct owner *)(page + 24);  /* as the slots of metas lie */
    for (int i = 0; i < 6; i++) {
        struct record *r = (struct record *)get(sizes[i]);
        unsigned long w = 63 << 6 | 32 | (sizes[i] + 4095) / 4096 << 12;
        r->owner = &owners[i];
        owners[i] = (struct owner){ NULL, NULL, r, 0, 0, w };
        printf("%lu\n", (unsigned long)r);
    }
    munmap(page + 4096, 4096);
    return 0;
}
"""


def told(p: ProcessRow, at: int, seq: int | None = None) -> tuple[object, ...]:
    r = region_at(p, at, seq)
    return r.kind, r.owner, r.evidence, r.verdict, r.reason


@FORMS
def test_groups_and_single_allocations_by_what_is_written_there(drv: Drive, form: str) -> None:
    needs("musl-gcc")
    d = drv("m5000 m131049 m131052 m200000 c5000000 m60000 m1000 m40", form)
    p = d.process
    assert [told(p, o["ptr"]) for o in d.ops[:6]] == [THEIRS] * 6
    lengths = {e["seq"]: e["args"][1] for e in d.traced.calls("mmap")}
    assert {200020, 5000020} <= {lengths[r.born_seq] for r in of_kind(p, "runtime-heap")}
    # The page that guards the metadata is no group, and not malloc's word is on it.
    assert all(r.evidence == "header" and r.owner == "musl" for r in of_kind(p, "runtime-heap"))
    assert all(r.bytes == 4096 for r in of_kind(p, "unknown"))


@FORMS
def test_its_break_is_for_metadata(drv: Drive, form: str) -> None:
    needs("musl-gcc")
    d = drv("n300,200000 F0,299 b4096", form)
    steps = [(s.delta, s.role, s.verdict, s.reason) for s in d.process.heap.steps]
    meta = ("other-allocator", "not-applicable", "other-allocator")
    # 101 metas a page; the first one has a guard. The program's own brk is another instruction's.
    *first, own = steps
    assert own == (0x1000, "unknown", "not-applicable", None)
    assert first[:3] == [(0x2000, *meta), (0x1000, *meta), (0x1000, *meta)]
    assert set(first[3:]) <= {(0x1000, *meta)}


@FORMS
def test_what_is_freed_moved_and_mapped_anew(drv: Drive, form: str) -> None:
    needs("musl-gcc")
    d = drv("m200000 m300000 f0 m200000 r1,5000000 r1,140000 m150000 f2 f1", form)
    p = d.process
    large = [
        r for r in p.regions if r.peak_bytes >= 140000 and r.born_seq > 2 and r.kind != "library"
    ]
    groups = [r for r in large if r.kind not in ("stack", "heap", "loader")]
    assert len(groups) >= 4
    assert {(r.kind, r.owner, r.evidence) for r in groups} == {THEIRS[:3]}
    assert any(r.moves for r in groups)
    assert [r for r in groups if r.died_seq is not None]


@FORMS
def test_threads_stacks_are_no_groups(drv: Drive, form: str) -> None:
    needs("musl-gcc")
    d = drv("m200000 thr4,200000,5,1 m300000 stk131072", form)
    p = d.process
    lengths = {e["seq"]: e["args"][1:4] for e in d.traced.calls("mmap")}
    theirs = of_kind(p, "runtime-heap")
    assert {tuple(lengths[r.born_seq][1:]) for r in theirs} == {(3, 0x22)}
    assert len([r for r in theirs if lengths[r.born_seq][0] == 200020]) == 21
    assert len(of_kind(p, "thread-stack")) == 5
    d.traced.assert_exact()


@FORMS
def test_what_the_program_maps_itself_is_unknown(drv: Drive, form: str) -> None:
    needs("musl-gcc")
    d = drv("m200000 M200020 M131072 M16384 m131052 M200704", form)
    p = d.process
    assert [o["op"] for o in d.ops] == ["m", "M", "M", "M", "m", "M"]
    for o in d.ops:
        if o["op"] == "M":
            r = region_at(p, o["ptr"])
            assert (r.kind, r.candidates) == ("unknown", ["runtime-heap", "anon"])
        else:
            assert told(p, o["ptr"]) == THEIRS


@pytest.mark.parametrize("compiler", ["gcc", "musl-gcc", "musl-gcc -static"])
def test_two_pointers_to_one_another_prove_nothing(
    tmp_path: Path, run: Callable[..., Traced], compiler: str
) -> None:
    needs(compiler.partition(" ")[0])
    source, program = tmp_path / "own.c", tmp_path / "own"
    source.write_text(OWN)
    subprocess.run([*compiler.split(), "-O1", source, "-o", program], check=True)
    done = run(program)
    p = Driven(done).process
    for at in map(int, done.stdout.split()):
        kind = region_at(p, at).kind
        assert kind == ("anon" if compiler == "gcc" else "unknown")


def test_a_static_program_without_symbols(tmp_path: Path, run: Callable[..., Traced]) -> None:
    needs("musl-gcc")
    source, program = tmp_path / "a.c", tmp_path / "a"
    source.write_text(
        "#include <stdlib.h>\n"
        "int main(void) { char *volatile p = malloc(200000); free(malloc(9)); return !p; }\n"
    )
    subprocess.run(["musl-gcc", "-O0", "-s", "-static", source, "-o", program], check=True)
    p = Driven(run(program)).process
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")
    assert p.allocator.evidence.startswith("the header of a mallocng group (#")
    assert p.allocator.own_rule is not None
    assert {(s.role, s.verdict, s.reason) for s in p.heap.steps} == {
        ("other-allocator", "not-applicable", "other-allocator")
    }
    assert {r.verdict for r in p.regions} == {"not-applicable"}
    assert next(r.bytes for r in of_kind(p, "runtime-heap")) == 200704


@FORMS
def test_what_is_there_at_an_attach(tmp_path: Path, form: str) -> None:
    needs("musl-gcc")
    ops = "m5000 m131049 m200000 m300000 r3,5000000 wait m250000 f2 wait"
    with target(tmp_path / "account", [driver(form), *ops.split()]) as t:
        t.tells("op", 5)
        with attaching(tmp_path / "t.json", t.process.pid) as a:
            a.begun()
            t.step()
            t.tells("op", 7)
            done = a.left(signal.SIGINT)
        told = t.account("op")
        t.step()
        assert t.ended() == 0
    done.assert_exact()
    p = Driven(done).process
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")
    before = [o for o in told[:5] if o["op"] in "mr"]
    attach = done.calls("attach")[0]["seq"]
    groups = {r.start: r for r in p.regions if r.kind == "runtime-heap"}
    assert {(r.owner, r.evidence) for r in groups.values()} == {("musl", "header")}
    # What has moved since is where it was before.
    for o in [before[0], before[1], before[2], before[4]]:
        r = region_at(p, o["ptr"], attach)
        assert (r.kind, r.older) == ("runtime-heap", True)
    (large,) = [r for r in groups.values() if r.bytes == 5001216]
    assert large.older
    (freed,) = [r for r in groups.values() if r.died_seq is not None]
    assert (freed.bytes, freed.older) == (200704, True)
    (new,) = [r for r in groups.values() if not r.older]
    assert new.bytes == 253952


@FORMS
def test_what_is_freed_at_once_is_not_told(drv: Drive, form: str) -> None:
    needs("musl-gcc")
    d = drv("m60000 m200000 f1 m200000 f2 m200000", form)
    p = d.process
    (kept,) = [r for r in p.regions if r.bytes == 200704 and r.died_seq is None]
    assert (kept.kind, kept.owner, kept.evidence) == THEIRS[:3]
    gone = [r for r in p.regions if r.bytes == 200704 and r.died_seq is not None]
    assert len(gone) == 2
    assert {(r.kind, r.verdict) for r in gone} == {("unknown", "not-applicable")}
    assert all("runtime-heap" in r.candidates for r in gone)
