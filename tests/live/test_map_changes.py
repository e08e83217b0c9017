# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that changes /proc/PID/maps, or what a child inherits of it, and the test that shows
that it is replayed exactly. A word alone is a case of map_changes.c: after each of its steps the
program's own map is the replayed one, under each engine.

mmap in all its flags                         mmap-flags one-personality
                                              test_self_maps::test_marked_at_every_call
mmap2, old_mmap and ipc of i386               test_hard_programs::test_a_program_of_32_bits
                                              test_hard_programs::test_32_bit_calls_of_a_64_bit_program
MAP_FIXED over anything, MAP_FIXED_NOREPLACE  map-fixed test_odd_calls::test_each_leaves_the_map_that_the_program_reads
a failed MAP_FIXED that leaves a hole         drivers test_odd_calls::test_each_leaves_the_map_that_the_program_reads
huge pages                                    test_map_changes::test_huge_pages
memfds; rename, unlink and truncate           file-names test_samples::test_mapping_kinds_are_told_apart
munmap with holes                             munmap
brk, refused in each way, shrunk over others  brk test_samples::test_the_breaks_are_the_programs_own
mremap in all forms, over gaps                mremap
mprotect, pkey_mprotect, part-way             mprotect
PROT_GROWSDOWN, MAP_GROWSDOWN                 growing divided
stack growth                                  stack grown-elsewhere
                                              test_odd_calls::test_each_did_what_it_is_there_for
stack growth of a child                       grown-child
madvise DONTFORK, DOFORK; process_madvise     dontfork
advice that fails part-way                    advice-part-way
VM_DONTCOPY of a driver (perf)                drivers
the mlock family, MCL_FUTURE                  locks
mseal and what fails after it                 seals
mbind; advice, names and prctl on VMAs        policies
shmat, shmdt, SHM_REMAP                       segments
remap_file_pages                              file-pages
remap_file_pages where reads imply exec       file-pages-exec
aio rings                                     aio
userfaultfd                                   userfaultfd test_hard_programs::test_a_call_served_by_a_thread_that_maps
prctl PR_SET_MM                               mm-fields
arch_prctl ARCH_MAP_VDSO_*                    vdso
map_shadow_stack                              shadow-stack
READ_IMPLIES_EXEC from exec on                test_map_changes::test_a_program_whose_reads_imply_exec
                                              test_odd_calls::test_after_a_personality_of_executable_reads
READ_IMPLIES_EXEC by personality(2)           one-personality test_map_changes::test_personalities_of_tasks
                                              test_map_changes::test_personalities_in_a_log_of_strace
execve, execveat; from a thread               execveat test_families::test_a_chain_of_execs
                                              test_samples::test_an_exec_by_a_thread_that_is_not_the_leader
                                              test_storms::test_a_thread_execs_while_others_are_in_calls
fork                                          test_samples::test_a_tree_of_forks test_self_maps::test_a_fork_half_way
vfork, posix_spawn, CLONE_VM                  test_families::test_children_that_borrow_the_memory_until_they_exec
                                              test_samples::test_two_processes_in_one_address_space
exit of the first thread before the others    test_hard_programs::test_a_process_that_outlives_its_first_thread
threads that change one map                   test_self_maps::test_the_order_between_fighting_threads
attach in mid-life                            test_map_changes::test_attached_to_in_mid_life
                                              test_attach::test_the_tool_that_knows_its_own_maps
                                              test_attach::test_flags_that_no_map_shows
no call: io_uring                             test_map_changes::test_advice_by_io_uring_is_found_out
no call: uprobes                              test_map_changes::test_a_probes_page_is_found_out_and_named
"""  # noqa: E501 - a table

from __future__ import annotations

import ast
import fcntl
import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.live.attaching import attaching, built
from tests.live.hard import checked
from tests.live.tracing import Traced, account_of, cli, environment, normal, target

from memtrace.space.canonical import canonical

#: The cases of map_changes.c: how many marks each sets.
CASES = {
    "grown-child": 3, "advice-part-way": 8, "file-pages-exec": 4,
    "mmap-flags": 33, "map-fixed": 11, "drivers": 9, "munmap": 11, "brk": 21, "mremap": 24,
    "mprotect": 11, "growing": 9, "stack": 9, "divided": 5, "dontfork": 26, "locks": 13,
    "seals": 12, "policies": 8, "userfaultfd": 8, "segments": 19, "file-pages": 7,
    "file-names": 11, "aio": 13, "vdso": 8, "shadow-stack": 2, "mm-fields": 9,
    "by-personality": 7, "one-personality": 12, "execveat": 8, "grown-elsewhere": 5,
}  # fmt: skip
#: Whose stack, or a mapping like one, grows: where to, only the next kernel map can tell.
GROWING = {"growing", "stack", "divided", "grown-elsewhere"}
#: Those of one process and one thread.
ALONE = (
    "file-pages-exec",
    "mmap-flags", "map-fixed", "munmap", "brk", "mremap", "mprotect", "policies", "file-pages",
    "file-names", "shadow-stack", "one-personality", "execveat", "divided", "grown-elsewhere",
)  # fmt: skip
READ_IMPLIES_EXEC = 0x400000
HUGE_PAGES, COMPACT = Path("/proc/sys/vm/nr_hugepages"), Path("/proc/sys/vm/compact_memory")


def table() -> dict[str, list[tuple[str, str]]]:
    """The rows of the table above: (module, test) or ("", case)."""
    rows: dict[str, list[tuple[str, str]]] = {}
    row = ""
    for line in (__doc__ or "").partition("\n\n")[2].splitlines():
        row = line[:45].strip() or row
        shown = rows.setdefault(row, [])
        for word in line[45:].split():
            module, _, name = word.rpartition("::")
            shown.append((module, name))
    return rows


def test_every_case_stands_in_the_table() -> None:
    named = [name for shown in table().values() for module, name in shown if not module]
    assert set(named) == set(CASES) - {"by-personality"}
    source = Path(__file__).with_name("map_changes.c").read_text()
    cases = set(re.findall(r'\{"([a-z-]+)", \w+\}', source))
    assert set(CASES) | {"mid-life", "second-life"} == cases


@pytest.mark.parametrize("row", list(table()))
def test_the_tests_of_a_row_are_there(row: str) -> None:
    assert table()[row]
    for module, name in table()[row]:
        if module:
            tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text())
            assert name in {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}, module
        else:
            assert name in CASES


# -- with a call ----------------------------------------------------------------------------------


def check(done: Traced, marks: int, case: str) -> None:
    """It did what it is there for, and the trace is its own account, to the last mark."""
    assert done.returncode == 0, done.stderr
    assert not done.told("failed"), done.told("failed")
    done.assert_exact()
    assert done.assert_marks(grown=case in GROWING) == marks


@pytest.mark.parametrize("options", [
    (), ("--no-seccomp", "--snapshots", "every=1"), ("--engine", "strace"),
], ids=["filter", "every-call", "strace"])  # fmt: skip
@pytest.mark.parametrize("case", CASES)
def test_a_case(run: Callable[..., Traced], case: str, options: tuple[str, ...]) -> None:
    check(run(built("map_changes"), case, options=options), CASES[case], case)


@pytest.mark.parametrize("case", ALONE)
def test_a_case_by_python_ptrace(run: Callable[..., Traced], case: str) -> None:
    done = run(built("map_changes"), case, options=("--engine", "python-ptrace"))
    check(done, CASES[case], case)


@pytest.mark.parametrize("options", [(), ("--engine", "strace")], ids=["filter", "strace"])
def test_the_first_segment_of_all_has_inode_0(
    run: Callable[..., Traced], options: tuple[str, ...]
) -> None:
    alone = ("unshare", "--ipc" if os.geteuid() == 0 else "-Uri")
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel has no user namespaces for everybody")
    done = run(*alone, built("map_changes"), "segments", options=options)
    seq = done.calls("shmat")[0]["seq"]
    assert [r.ino for r in done.maps([seq])[seq] if r.perms == "rw-s"] == [0]
    check(done, CASES["segments"], "segments")


def test_what_grew_is_looked_at_before_a_call_changes_it(run: Callable[..., Traced]) -> None:
    done = run(built("map_changes"), "stack")
    (process, _child) = done.replayed.processes
    looks = done.calls("snap", why="stack", pid=process.pid)
    assert 1 <= len(looks) <= 2  # not before each: it is asked whether it has grown
    after = next(e for e in done.calls("mprotect") if e["seq"] > looks[0]["seq"])
    assert after["seq"] == looks[0]["seq"] + 1
    assert process.stack_growth_bytes > 2 << 20


@contextmanager
def mounted(folder: Path, kind: str, *options: str) -> Iterator[Path | None]:
    """A file system for the time being; None without the right to."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", kind, *options, "none", folder], check=False)
    if done.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def huge_pages(count: int) -> Iterator[bool]:
    """So many free ones for the time being, for one test of the machine at a time; False: none at
    all, for less than that is of no use.
    """
    with HUGE_PAGES.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = HUGE_PAGES.read_text()
        mine = os.access(HUGE_PAGES, os.W_OK)
        try:
            if mine:
                used = int(before) - free_huge_pages()
                reserve(used + count)
                if free_huge_pages() < count and COMPACT.exists():
                    COMPACT.write_text("1")
                    reserve(used + count)
                if free_huge_pages() < count:
                    reserve(0)
            free = free_huge_pages()
            if 0 < free < count:
                pytest.skip(f"{free} huge pages are free here, and only root changes that")
            yield free >= count
        finally:
            if mine:
                HUGE_PAGES.write_text(before)


def reserve(count: int) -> None:
    """Huge pages of the usual size; as many as the kernel finds."""
    HUGE_PAGES.write_text(str(count))


def free_huge_pages() -> int:
    found = re.search(r"^HugePages_Free: +(\d+)$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.parametrize("options", [(), ("--engine", "strace")], ids=["filter", "strace"])
def test_huge_pages(run: Callable[..., Traced], tmp_path: Path, options: tuple[str, ...]) -> None:
    """Private, shared, of a memfd, of a file, of a segment; where there are none, refused."""
    with huge_pages(12) as there, mounted(tmp_path / "huge", "hugetlbfs") as at:
        words = [at] if at is not None else []
        done = run(built("map_changes"), "hugetlb", *words, options=options)
    marks = len(done.told("mark"))
    assert marks >= (15 if there else 2)
    check(done, marks, "hugetlb")


@pytest.mark.parametrize("options", [
    (), ("--no-seccomp", "--snapshots", "every=1"), ("--engine", "strace"),
], ids=["filter", "every-call", "strace"])  # fmt: skip
def test_personalities_of_tasks(
    run: Callable[..., Traced], tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Of threads, of a child, and on a file system where nothing is executable."""
    with mounted(tmp_path / "noexec", "tmpfs", "-o", "noexec") as at:
        words = [at] if at is not None else []
        done = run(built("map_changes"), "personality", *words, options=options)
    check(done, 37 + 2 * len(words), "personality")
    told = [line for m in done.told("mark") for line in m["maps"] if " rwxp " in line]
    assert told
    assert len(done.calls("personality")) == 6


def test_personalities_in_a_log_of_strace(tmp_path: Path) -> None:
    log, trace, told = tmp_path / "log", tmp_path / "t.json", tmp_path / "account"
    calls = "trace=%memory,%process,prctl,personality"
    for form in ("abbrev", "raw", "verbose"):
        with told.open("wb") as account:
            subprocess.run(
                ["strace", "-f", "-ttt", "-X", form, "-e", calls, "-o", log, "bash", "-c",
                 f'exec "$0" personality 3>&{account.fileno()}', built("map_changes")],
                pass_fds=[account.fileno()], env=environment(), check=True,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        imported = cli("import", log, "-o", trace)
        assert imported.returncode == 0, imported.stderr
        done = Traced(trace, 0, b"", imported.stderr, account_of(told))
        assert done.exactness == "unverified", done.sentence
        assert mapped_by_calls(done) > 1000


def mapped_by_calls(done: Traced) -> int:
    """Of a log's trace: private pages that it knows are as the program saw them; how many."""
    marks = {(m["pid"], m["mark"]): m["maps"] for m in done.told("mark")}
    at = {
        (e["pid"], e["args"][0] >> 12): e["seq"]
        for e in done.calls("munmap", ret=-22) if e["args"][1] == 0
    }  # fmt: skip
    maps = done.maps(at.values())
    pages = 0
    for key, lines in marks.items():
        theirs = canonical(normal(lines))
        for ours in maps[at[key]]:
            if ours.ino or ours.name or "?" in ours.perms:
                continue
            inside = [r for r in theirs if r.start < ours.end and r.end > ours.start]
            assert {r.perms for r in inside} == {ours.perms}, (key, ours, inside)
            pages += (ours.end - ours.start) // 4096
    return pages


def test_a_log_that_begins_amid_a_personality_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '10 execve("/p", ["p"], 0x7ffc8 /* 1 var */) = 0\n'
        "10 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n"
        "10 personality(0xffffffff) = 0x400000 (PER_LINUX|READ_IMPLIES_EXEC)\n"
        "10 exit_group(0) = ?\n10 +++ exited with 0 +++\n"
    )
    imported = cli("import", log, "-o", tmp_path / "t.json")
    assert "line 3 tells of a personality that no line before has set" in imported.stderr
    assert cli("verify", tmp_path / "t.json").returncode == 3


@pytest.mark.parametrize("how", [
    (), ("setarch", "-X"), ("bash", "-c", 'ulimit -s unlimited; exec setarch -X "$0"'),
], ids=["file", "setarch", "unlimited"])  # fmt: skip
def test_a_program_whose_reads_imply_exec(
    run: Callable[..., Traced], tmp_path: Path, how: tuple[str, ...]
) -> None:
    """A 32-bit program without PT_GNU_STACK has it from its exec on (elf_read_implies_exec), and
    keeps it where a 64-bit one would lose it.
    """
    made = tmp_path / "i386"
    subprocess.run(
        ["gcc", "-m32", "-O1", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector",
         "-fno-pie", "-no-pie", "-w", Path(__file__).with_name("i386.c"), "-o", made], check=True,
    )  # fmt: skip
    if not how:
        made.write_bytes(without_gnu_stack(made.read_bytes()))
    done = checked(run(*how, made), 5)
    # Once before the call whose arguments lie in the stack (old_mmap), not before each.
    looks = [e["mm"] for e in done.calls("snap", why="stack")]
    assert len(set(looks)) == len(looks)
    (begun,) = [p.start for p in done.replayed.processes if p.start.abi == "i386"][:1]
    assert begun.personality & READ_IMPLIES_EXEC
    told = [line for m in done.told("mark") for line in m["maps"]]
    assert any(" rwxp " in line for line in told)


def without_gnu_stack(elf: bytes) -> bytes:
    """A 32-bit ELF file whose PT_GNU_STACK is a PT_NULL."""
    (table_at,) = struct.unpack_from("<I", elf, 28)
    size, count = struct.unpack_from("<HH", elf, 42)
    changed = bytearray(elf)
    for at in range(table_at, table_at + size * count, size):
        if struct.unpack_from("<I", elf, at)[0] == 0x6474E551:
            struct.pack_into("<I", changed, at, 0)
    assert changed != elf
    return bytes(changed)


def test_attached_to_in_mid_life(tmp_path: Path) -> None:
    """A thread has a personality, a mapping grows, and a driver's is not inherited."""
    with target(tmp_path / "account", [built("map_changes"), "mid-life"]) as t:
        t.tells("ready")
        with attaching(tmp_path / "t.json", t.pid, told=t.told) as a:
            a.begun()
            t.step()
            done = a.ended()
        assert t.ended() == 0
    check(done, 13, "growing")


# -- without one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--snapshots", "off")], ids=["usual", "no-snapshots"])
def test_advice_by_io_uring_is_found_out(
    run: Callable[..., Traced], options: tuple[str, ...]
) -> None:
    """The child lacks pages, though no call said that it should: the map at its birth tells."""
    done = run(built("hidden_changes"), "ring", options=options)
    assert done.returncode == 0, done.stderr  # else io_uring is forbidden here
    (advised,) = done.told("advised")
    low, high = advised["at"], advised["at"] + advised["bytes"]
    snap = done.calls("snap", why="fork")[0]
    verified = cli("verify", done.path)
    assert verified.returncode == 1, verified.stdout
    assert verified.stdout.startswith("drift: ")
    assert f"first at event {snap['seq']}: a snapshot is not reproduced" in verified.stdout
    assert f"first mismatch: snapshot (fork) at event {snap['seq']} of pid {snap['pid']}" in (
        verified.stdout
    )
    _, child = done.replayed.processes
    (drift,) = child.drift
    lacking = pages(drift.model) - pages(drift.kernel)
    assert lacking == set(range(low, high, 4096))
    assert not pages(drift.kernel) - pages(drift.model)
    for run_ in (*drift.model, *drift.kernel):  # both sides, next to each other
        assert f"{run_.start:x}-{run_.end:x} {run_.perms}" in verified.stdout
    assert "NOT exact" in done.stderr
    shown = cli("report", done.path)
    assert shown.returncode == 0
    assert "drift: " in shown.stdout


def pages(runs: tuple[object, ...]) -> set[int]:
    """The addresses of the pages of runs."""
    return {page for r in runs for page in range(r.start, r.end, 4096)}  # type: ignore[attr-defined]


def test_advice_by_io_uring_that_was_taken_back_changes_nothing(run: Callable[..., Traced]) -> None:
    done = run(built("hidden_changes"), "ring-twice")
    done.assert_exact()
    assert done.assert_marks() == 3


@contextmanager
def probe(folder: Path, program: Path, offset: int) -> Iterator[None]:
    """A uprobe in a program's file, while it lasts."""
    name = f"memtrace_{os.getpid()}"
    with mounted(folder, "tracefs") as tracing:
        if tracing is None or not (tracing / "uprobe_events").exists():
            pytest.skip("no uprobe can be set here (root, tracefs and CONFIG_UPROBE_EVENTS)")
        events, switch = tracing / "uprobe_events", tracing / "events" / name / "hit" / "enable"
        append(events, f"p:{name}/hit {program}:{offset:#x}\n")
        try:
            switch.write_text("1")
            yield
        finally:
            switch.write_text("0")
            append(events, f"-:{name}/hit\n")


def append(file: Path, line: str) -> None:
    """One write(2) to a file of tracefs, in which nobody can seek."""
    fd = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


@pytest.mark.parametrize("case", ["probed", "nop"])
def test_a_probes_page_is_found_out_and_named(
    run: Callable[..., Traced], tmp_path: Path, case: str
) -> None:
    program = built("hidden_changes")
    before = run(program, case)
    before.assert_exact()
    assert before.assert_marks() == 3
    (place,) = before.told("probe")
    with probe(tmp_path / "tracing", program, place["offset"]):
        done = run(program, case)
    assert done.returncode == 0, done.stderr
    hit = [line for line in done.told("mark")[-1]["maps"] if "[uprobes" in line]
    assert hit, "the kernel has mapped no page for the probe"
    verified = cli("verify", done.path)
    assert verified.returncode == 1, verified.stdout
    for line in hit:
        low, _, high = line.split()[0].partition("-")
        assert f"{low}-{high} {line.split()[1]} {line.split()[-1]}" in verified.stdout
    (process,) = done.replayed.processes
    assert {r.name for r in process.drift[0].kernel} == {line.split()[-1] for line in hit}
    assert not process.drift[0].model
