# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose malloc a program has, told of real programs with each; what is said of what they map."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.live.driving import Driven, chunks, driver, kinds, of_kind
from tests.live.programs import PYTHON
from tests.live.tracing import Traced, cli

from memtrace.report.model import ProcessRow

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
OPS = ["m1", "m200000", "m5000000", "m5000", "m131049", "f1", "m200000"]
GO = """
package main
import "syscall"
func main() {
	var kept [][]byte
	for i := 0; i < 40; i++ { kept = append(kept, make([]byte, 200000)) }
	flags := syscall.MAP_ANON | syscall.MAP_PRIVATE
	own, err := syscall.Mmap(-1, 0, 12345678, syscall.PROT_READ, flags)
	if err != nil || len(own)+len(kept) == 0 { panic(err) }
}
"""
CGO = """
package main
/*
#include <stdlib.h>
#include <string.h>
static char *get(long n) { char *p = malloc(n); memset(p, 1, n); return p; }
*/
import "C"
func main() {
	var kept [][]byte
	for i := 0; i < 40; i++ { kept = append(kept, make([]byte, 200000)) }
	C.free(nil)
	p := C.get(300000)
	if p == nil || len(kept) == 0 { panic(p) }
}
"""
GO_LIBRARY = """
package main
import "C"
var kept [][]byte
//export work
func work() { for i := 0; i < 40; i++ { kept = append(kept, make([]byte, 200000)) } }
func main() {}
"""
OPENS = """
#include <dlfcn.h>
int main(int argc, char **argv) {
	void *library = dlopen(argv[1], RTLD_NOW);
	((void (*)(void))dlsym(library, "work"))();
	return 0;
}
"""
# What a static program asks the C library for that it has opened, and what itself.
GUEST = """
#include <dlfcn.h>
#include <stdlib.h>
int main(void) {
	void *library = dlopen("libc.so.6", RTLD_NOW);
	void *(*get)(size_t) = dlsym(library, "malloc");
	void (*put)(void *) = dlsym(library, "free");
	char *p = get(1000);
	*p = 1;
	put(get(5000000));
	for (int i = 0; i < 2; i++) { p = malloc(300000); *p = 1; }
	return 0;
}
"""
JAVA = """
class A { public static void main(String[] a) {
    byte[][] kept = new byte[50][];
    for (int i = 0; i < 50; i++) kept[i] = new byte[200000];
    System.out.println(kept.length);
} }
"""


MID = """
#include <stdlib.h>
int mid(void);
int main(void) { char *p = malloc(200000); p[0] = 1; return mid(); }
"""


def needs(*programs: str) -> None:
    """Skip where one is not installed (which is a failure where live tests are required)."""
    for name in programs:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")


def library(name: str) -> Path:
    """An allocator of the system's packages."""
    path = LIBRARIES / name
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return path


def last(done: Traced) -> ProcessRow:
    """The report on the last program that was executed; nothing in it contradicts another."""
    assert done.returncode == 0, done.stderr
    process = Driven(done).processes[-1]
    sound(process)
    return process


def sound(p: ProcessRow) -> None:
    """What must hold of any report on a program that does nothing bad."""
    verdicts = {r.verdict for r in p.regions} | {s.verdict for s in p.heap.steps}
    assert "contradiction" not in verdicts
    assert p.allocator.evidence
    if p.allocator.rule != "mmap-threshold":
        assert p.threshold.low is None
        assert not {"holds", "explained"} & {s.verdict for s in p.heap.steps}
    for r in p.regions:
        if r.kind == "runtime-heap":
            assert (r.verdict, r.reason) == ("not-applicable", "other-allocator")
            assert r.owner


# -- mallocs that are loaded before the program's -----------------------------------------------


@dataclass(frozen=True)
class Other:
    """An allocator: the file that brings it, its version, and whether it moves the break."""

    file: str
    name: str
    version: str | None
    moves_break: bool = False


OTHERS = [
    Other("libjemalloc.so.2", "jemalloc", "5."),
    Other("libtcmalloc.so.4", "tcmalloc", "2.", moves_break=True),
    Other("libmimalloc.so.2", "mimalloc", None),
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda o: o.name)
def test_a_malloc_that_is_preloaded(run: Callable[..., Traced], other: Other) -> None:
    path = library(other.file)
    p = last(run("env", f"LD_PRELOAD={path}", str(driver()), *OPS))
    assert (p.allocator.name, p.allocator.rule) == (other.name, "not-applicable")
    assert (p.allocator.version or "").startswith(other.version or "")
    assert f"{path.resolve().name} defines malloc, " in p.allocator.evidence
    assert p.allocator.build_id
    assert p.allocator.own_rule
    assert [a.name for a in p.allocators] == [other.name, "glibc"]
    assert chunks(p) == []
    assert {r.owner for r in of_kind(p, "runtime-heap")} == {other.name}
    assert bool(p.heap.growths) is other.moves_break
    assert {(s.verdict, s.reason) for s in p.heap.steps} <= {("not-applicable", "other-allocator")}


def test_a_library_that_a_program_opens_later_replaces_nothing(
    tmp_path: Path, run: Callable[..., Traced]
) -> None:
    path = library("libmimalloc.so.2")
    source, program = tmp_path / "a.c", tmp_path / "a"
    source.write_text(
        "#include <dlfcn.h>\n#include <stdlib.h>\nint main(int c, char **v) {\n"
        "void *h = dlopen(v[1], RTLD_NOW); char *p = malloc(200000); p[0] = 1;\n"
        'void *(*get)(size_t) = dlsym(h, "mi_malloc"); char *q = get(300000); q[0] = 1;\n'
        "return p == q; }\n"
    )
    subprocess.run(["gcc", source, "-o", program], check=True)
    p = last(run(program, path))
    assert (p.allocator.name, p.allocator.rule) == ("glibc", "mmap-threshold")
    assert [a.name for a in p.allocators] == ["glibc", "mimalloc"]
    assert [(r.verdict, r.request is not None) for r in chunks(p)] == [("holds", True)]
    assert {r.owner for r in of_kind(p, "runtime-heap")} == {"mimalloc"}


def test_the_c_library_is_searched_before_a_librarys_own_needs(
    tmp_path: Path, run: Callable[..., Traced]
) -> None:
    """jemalloc is there from the start, and yet malloc is glibc's: it was needed by a library, and
    the C library by the program.
    """
    path = library("libjemalloc.so.2")
    mid, program = tmp_path / "libmid.so", tmp_path / "prog"
    for made, text, flags in (
        (mid, "int mid(void) { return 0; }", ["-shared", "-fPIC", "-nostdlib", str(path)]),
        (program, MID, [str(mid), "-lc", f"-Wl,-rpath,{tmp_path}"]),
    ):
        words = ["gcc", "-x", "c", "-", "-x", "none", "-Wl,--no-as-needed", *flags]
        subprocess.run([*words, "-o", made], input=text.encode(), check=True)
    p = last(run(program))
    assert p.allocator.name == "glibc"
    assert any("libjemalloc" in r.path for r in p.regions)
    assert [r.verdict for r in chunks(p)] == ["holds"]


# -- C libraries --------------------------------------------------------------------------------


def test_glibc_with_its_build_id(run: Callable[..., Traced]) -> None:
    p = last(run(driver(), *OPS))
    assert (p.allocator.name, p.allocator.rule, p.allocator.own_rule) == (
        "glibc", "mmap-threshold", None,
    )  # fmt: skip
    assert p.allocator.build_id
    assert len(chunks(p)) == 4 - 1  # the last of 200,000 comes from the heap


def test_glibc_in_a_static_program(run: Callable[..., Traced]) -> None:
    p = last(run(driver("static"), *OPS))
    assert (p.allocator.name, p.allocator.version, p.allocator.rule) == (
        "glibc", None, "mmap-threshold",
    )  # fmt: skip
    assert 'holds the text "malloc(): corrupted top size"' in p.allocator.evidence
    assert [r.evidence for r in chunks(p)] == ["header"] * 3


@pytest.mark.parametrize("option", ["-static", "-static-pie"])
def test_a_c_library_that_a_static_program_opens(
    tmp_path: Path, run: Callable[..., Traced], option: str
) -> None:
    """Each has a malloc, and what the one frees moves no threshold of the other."""
    program = tmp_path / "a"
    words: list[str | Path] = ["gcc", "-w", "-x", "c", "-", option, "-o", program]
    subprocess.run(words, input=GUEST.encode(), check=True, stderr=subprocess.DEVNULL)
    p = last(run(program))
    assert "holds the text" in p.allocator.evidence
    assert [a.name for a in p.allocators] == ["glibc", "glibc"]
    assert [(r.bytes, r.verdict) for r in chunks(p)] == [
        (5001216, "holds"), (303104, "holds"), (303104, "holds"),
    ]  # fmt: skip
    assert [r.reason for r in of_kind(p, "main-arena")] == ["inner-libc"]
    inner = p.allocators[1].threshold
    assert inner is not None
    assert (p.threshold.low, inner.low) == (131072, 5001216)


@pytest.mark.parametrize("form", ["musl", "musl-static"])
def test_musl(run: Callable[..., Traced], form: str) -> None:
    needs("musl-gcc")
    p = last(run(driver(form), *OPS))
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")
    assert chunks(p) == []
    assert kinds(p) <= {"heap", "runtime-heap", "unknown", "guard"}
    assert {(r.owner, r.evidence) for r in of_kind(p, "runtime-heap")} == {("musl", "header")}
    assert p.kinds["heap"].count == 1
    assert {r.verdict for r in p.regions} == {"not-applicable"}
    assert {s.verdict for s in p.heap.steps} == {"not-applicable"}
    if form == "musl":
        assert p.allocator.version
        assert p.allocator.version.startswith("1.")


def test_musls_malloc_for_programs_that_never_free(
    tmp_path: Path, run: Callable[..., Traced]
) -> None:
    needs("musl-gcc")
    source, program = tmp_path / "a.c", tmp_path / "a"
    source.write_text(
        "#include <stdlib.h>\nint main(void) { char *p = malloc(5000000); return !p; }\n"
    )
    subprocess.run(["musl-gcc", "-O0", "-static", source, "-o", program], check=True)
    p = last(run(program))
    assert (p.allocator.name, p.allocator.rule) == ("musl", "not-applicable")
    assert p.allocator.own_rule
    assert "growth of the heap" in p.allocator.own_rule
    assert p.heap.peak_bytes
    assert p.heap.peak_bytes > 5000000


# -- runtimes -----------------------------------------------------------------------------------


def go(folder: Path, text: str, *options: str) -> Path:
    needs("go")
    source, program = folder / "a.go", folder / "a"
    source.write_text(text)
    words: list[str | Path] = ["go", "build", *options, "-o", program, source]
    subprocess.run(words, check=True, capture_output=True, cwd=folder)
    return program


def test_go(tmp_path: Path, run: Callable[..., Traced]) -> None:
    p = last(run(go(tmp_path, GO)))
    assert (p.allocator.name, p.allocator.rule) == ("go", "not-applicable")
    assert p.allocator.version
    assert p.heap.growths == 0
    assert "heap" not in p.kinds
    theirs = of_kind(p, "runtime-heap")
    assert {r.owner for r in theirs} == {"go"}
    assert any(r.start == 0xC000000000 for r in theirs)
    # What the program maps itself is made by another instruction.
    (own,) = [r for r in p.regions if r.peak_bytes == -(-12345678 // 4096) * 4096]
    assert (own.kind, own.candidates) == ("unknown", ["runtime-heap", "anon"])


def test_go_with_c(tmp_path: Path, run: Callable[..., Traced]) -> None:
    p = last(run(go(tmp_path, CGO)))
    assert (p.allocator.name, p.allocator.rule) == ("glibc", "mmap-threshold")
    assert [a.name for a in p.allocators] == ["glibc", "go"]
    assert {r.owner for r in of_kind(p, "runtime-heap")} == {"go"}
    assert [r.verdict for r in chunks(p)] == ["holds"]


def test_go_that_is_position_independent(tmp_path: Path, run: Callable[..., Traced]) -> None:
    """It has a loader and no C library; its build information is not where others have it."""
    p = last(run(go(tmp_path, GO, "-buildmode=pie")))
    assert [(a.name, bool(a.version)) for a in p.allocators] == [("go", True)]
    theirs = of_kind(p, "runtime-heap")
    assert {r.owner for r in theirs} == {"go"}
    assert any(r.start == 0xC000000000 for r in theirs)


def test_go_in_a_library(tmp_path: Path, run: Callable[..., Traced]) -> None:
    library, program = go(tmp_path, GO_LIBRARY, "-buildmode=c-shared"), tmp_path / "prog"
    words: list[str | Path] = ["gcc", "-x", "c", "-", "-o", program]
    subprocess.run(words, input=OPENS.encode(), check=True)
    p = last(run(program, library))
    assert p.allocator.name == "glibc"
    assert [a.name for a in p.allocators] == ["glibc", "go"]
    assert {r.owner for r in of_kind(p, "runtime-heap")} == {"go"}
    assert any(r.start == 0xC000000000 for r in of_kind(p, "runtime-heap"))
    assert of_kind(p, "anon") == []


def test_java(tmp_path: Path, run: Callable[..., Traced]) -> None:
    needs("javac", "java")
    source = tmp_path / "A.java"
    source.write_text(JAVA)
    subprocess.run(["javac", "-d", tmp_path, source], check=True)
    p = last(run("java", "-cp", str(tmp_path), "A"))
    assert p.allocator.name == "glibc"
    assert [a.name for a in p.allocators] == ["glibc", "jvm"]
    assert {r.owner for r in of_kind(p, "runtime-heap", "jit")} == {"jvm"}


def test_node(run: Callable[..., Traced]) -> None:
    needs("node")
    script = "const p = []; for (let i = 0; i < 50; i++) p.push(Buffer.alloc(200000));"
    p = last(run("node", "-e", script))
    assert p.allocator.name == "glibc"
    assert [a.name for a in p.allocators] == ["glibc", "v8"]
    assert "v8" in {r.owner for r in of_kind(p, "runtime-heap", "jit")}
    # Its buffers are malloc's: mapped until the collector frees one, which raises the threshold.
    assert "holds" in {r.verdict for r in chunks(p) if r.peak_bytes == 200704}


def test_python(run: Callable[..., Traced]) -> None:
    needs(PYTHON)
    p = last(run(PYTHON, "-c", "x = [i * 1000 for i in range(100000)]; y = bytearray(3000000)"))
    assert p.allocator.name == "glibc"
    assert [a.name for a in p.allocators] == ["glibc", "pymalloc"]
    assert {r.owner for r in of_kind(p, "runtime-heap")} == {"pymalloc"}
    assert any(r.peak_bytes >= 3000000 for r in chunks(p))


# -- what checks each use -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["asan", "tsan"])
def test_a_sanitizer(tmp_path: Path, run: Callable[..., Traced], name: str) -> None:
    program = tmp_path / "a"
    sanitizer = {"asan": "address", "tsan": "thread"}[name]
    words: list[str | Path] = ["gcc", "-x", "c", "-", f"-fsanitize={sanitizer}", "-o", program]
    text = "#include <stdlib.h>\nint main(void) { free(malloc(200000)); return 0; }"
    subprocess.run(words, input=text.encode(), check=True)
    # The leak check of the end is a tracer itself, and fails under another one.
    p = last(run("env", "ASAN_OPTIONS=detect_leaks=0", str(program)))
    assert (p.allocator.name, p.allocator.rule) == (name, "not-applicable")
    assert {r.owner for r in of_kind(p, "runtime-heap")} == {name}
    assert chunks(p) == []


def test_valgrind(run: Callable[..., Traced]) -> None:
    needs("valgrind")
    p = last(run("valgrind", "-q", str(driver()), "m1", "m200000"))
    assert (p.allocator.name, p.allocator.rule) == ("valgrind", "not-applicable")
    assert chunks(p) == []
    assert "glibc" in {a.name for a in p.allocators}


# -- files that lie -----------------------------------------------------------------------------


def test_a_library_that_passes_all_on(tmp_path: Path, run: Callable[..., Traced]) -> None:
    """It defines what jemalloc defines; glibc's malloc does the work."""
    made = tmp_path / "libpassing.so"
    source = Path(__file__).parent / "passing_on.c"
    subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", made], check=True)
    p = last(run("env", f"LD_PRELOAD={made}", str(driver()), *OPS))
    assert (p.allocator.name, p.allocator.rule) == ("glibc", "mmap-threshold")
    assert "its malloc moves the break" in p.allocator.evidence
    assert [a.name for a in p.allocators] == ["glibc"]
    assert len(chunks(p)) == 3
    assert {r.verdict for r in chunks(p)} == {"holds"}
    assert of_kind(p, "runtime-heap") == []


def test_a_program_that_passes_all_on(tmp_path: Path, run: Callable[..., Traced]) -> None:
    program = tmp_path / "a"
    text = (
        "#include <stdlib.h>\nint main(void) { char *p = malloc(1), *q = malloc(200000);"
        " *p = *q = 1; free(q); return 0; }"
    )
    source = Path(__file__).parent / "passing_on.c"
    words: list[str | Path] = ["gcc", "-O0", "-rdynamic", source, "-x", "c", "-", "-o", program]
    subprocess.run(words, input=text.encode(), check=True)
    p = last(run(program))
    assert p.allocator.name == "glibc"
    assert [r.verdict for r in chunks(p)] == ["holds"]


@pytest.mark.parametrize("name", ["node", "python3", "tool"])
def test_a_program_with_another_ones_name_and_symbols(
    tmp_path: Path, run: Callable[..., Traced], name: str
) -> None:
    """What it maps is not said to be V8's or Python's: that its symbols say is no proof."""
    program = tmp_path / name
    text = (
        "#include <sys/mman.h>\n#include <stdlib.h>\n"
        "int _ZN2v87Isolate10GetCurrentEv, PyObject_Malloc;\n"
        "int main(void) { char *p = mmap(0, 1 << 20, 3, 0x22, -1, 0), *q = malloc(200000);"
        " *p = *q = 1; return 0; }"
    )
    words: list[str | Path] = ["gcc", "-O0", "-x", "c", "-", "-rdynamic", "-o", program]
    subprocess.run(words, input=text.encode(), check=True)
    p = last(run(program))
    assert [a.name for a in p.allocators] == ["glibc"]
    (own,) = [r for r in p.regions if r.peak_bytes == 1 << 20]
    assert own.kind in {"anon", "unknown"}
    assert own.owner is None


def test_a_library_with_a_famous_name(tmp_path: Path, run: Callable[..., Traced]) -> None:
    made = tmp_path / "libjemalloc.so.2"
    text = b"int nothing(void) { return 0; }"
    subprocess.run(["gcc", "-x", "c", "-", "-shared", "-o", made], input=text, check=True)
    p = last(run("env", f"LD_PRELOAD={made}", str(driver()), *OPS))
    assert p.allocator.name == "glibc"
    assert len(chunks(p)) == 3


# -- programs that do bad things ----------------------------------------------------------------


def test_a_break_moved_by_the_system_call(run: Callable[..., Traced]) -> None:
    p = last(run(driver(name="bad_heap"), "raw"))
    assert [(s.delta, s.verdict, s.reason) for s in p.heap.steps[1:3]] == [
        (0x5000, "not-applicable", "foreign-sbrk"),
        (0x100000, "not-applicable", "foreign-sbrk"),
    ]
    assert [r.verdict for r in chunks(p)] == ["holds"]
    assert p.threshold.low == p.threshold.high == 200704


def test_a_program_that_unmaps_its_heap(run: Callable[..., Traced]) -> None:
    p = last(run(driver(name="bad_heap"), "unmap"))
    assert p.exactness == "exact" or p.verification.exact == p.verification.snapshots
    (own,) = [r for r in p.regions if r.peak_bytes == 0x8000 and r.kind == "anon"]
    assert (own.verdict, own.reason) == ("not-applicable", "direct-call")
    assert chunks(p) == []
    assert all(s.verdict in ("holds", "not-applicable") for s in p.heap.steps)


def test_settings_that_a_program_writes_too_late(run: Callable[..., Traced]) -> None:
    filler = "x" * 100
    p = last(run("env", f"FILLER={filler}", str(driver(name="bad_heap")), "environ"))
    assert p.threshold.initial == 131072
    assert p.threshold.fixed_by is None
    assert [r.verdict for r in chunks(p)] == ["holds"]


@pytest.mark.parametrize("same", [True, False], ids=["the same file", "another file"])
def test_two_c_libraries(tmp_path: Path, run: Callable[..., Traced], *, same: bool) -> None:
    path: str | Path = "libc.so.6"
    if not same:
        path = tmp_path / "libc.so.6"
        shutil.copy(LIBRARIES / "libc.so.6", path)
    done = run(driver(name="two_libcs"), path)
    p = last(done)
    where = [
        (word, int(text, 16))
        for word, text in map(str.split, done.stdout.decode().split("\n")[:-1])
    ]
    kinds_at = [
        (word, [r for r in p.regions if r.start <= address < r.end][-1]) for word, address in where
    ]
    assert [(w, r.kind, r.verdict, r.reason) for w, r in kinds_at] == [
        ("main", "main-arena", "explained", "inner-libc"),
        ("chunk", "malloc-chunk", "holds", None),
        ("freed", "malloc-chunk", "holds", None),
        ("chunk", "malloc-chunk", "holds", None),
        ("outer", "malloc-chunk", "holds", None),
    ]
    assert [a.name for a in p.allocators] == ["glibc", "glibc"]
    inner = p.allocators[1].threshold
    assert inner is not None
    # Each free moved the threshold of its own copy.
    assert (p.threshold.low, p.threshold.high) == (200704, 200704)
    assert inner.low == inner.high
    assert inner.low is not None
    assert 3000000 < inner.low < 3010000
    text = " ".join(cli("report", done.path).stdout.split())
    assert "a further copy of glibc" in text
