# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are hard to trace (hard_cases.c): each does what it does without memtrace, and its
trace is the map that it reads itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from tests.live.hard import build, checked, told
from tests.live.tracing import Traced

from memtrace.trace.reader import Trace
from memtrace.trace.records import Clone, Exec, Fork

BOTH = pytest.mark.parametrize("options", [(), ("--no-seccomp",)], ids=["filter", "no-seccomp"])
#: And by a real strace, but where strace itself stands in the program's way.
ALL = pytest.mark.parametrize(
    "options",
    [(), ("--no-seccomp",), ("--engine", "strace")],
    ids=["filter", "no-seccomp", "strace"],
)
#: The handler of a fault in a system call takes privileges (vm.unprivileged_userfaultfd).
NR_USERFAULTFD = 323
needs_userfaultfd = pytest.mark.skipif(
    os.geteuid() != 0 and ctypes.CDLL(None).syscall(NR_USERFAULTFD, os.O_CLOEXEC) < 0,
    reason="userfaultfd takes root here",
)
EPERM, EINVAL, ENOMEM, ENOSYS = 1, 22, 12, 38
CLONE_UNTRACED = 0x800000
MADV_POPULATE_WRITE = 23


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("hard"))


class Hard(Protocol):
    """A case, traced; exact, with all its marks."""

    def __call__(self, case: str, *options: str, marks: int, code: int = 0) -> Traced: ...


@pytest.fixture
def hard(run: Callable[..., Traced], program: Path) -> Hard:
    def go(case: str, *options: str, marks: int, code: int = 0) -> Traced:
        return checked(run(program, case, options=options), marks, code)

    return go


# -- how it was built ----------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [
    ("-static",), ("-static-pie",), ("-no-pie",), ("-static", "-no-pie"), ("-m64", "-O2", "-pie"),
], ids=" ".join)  # fmt: skip
def test_however_it_is_linked(
    run: Callable[..., Traced], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    done = checked(run(build(tmp_path, *flags), "kinds"), 2)
    assert bool(done.calls("libc")) == ("-static" not in " ".join(flags))


# -- other numbers for the same calls ------------------------------------------------------------


@BOTH
def test_a_program_of_32_bits(
    run: Callable[..., Traced], tmp_path: Path, options: tuple[str, ...]
) -> None:
    made = tmp_path / "i386"
    subprocess.run(
        [
            "gcc", "-m32", "-O1", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector",
            "-fno-pie", "-no-pie", "-Wall", "-Wextra", "-Werror",
            Path(__file__).with_name("i386.c"), "-o", made,
        ],
        check=True,
    )  # fmt: skip
    try:
        subprocess.run([made], check=True)
    except OSError:
        pytest.skip("this kernel has no IA32_EMULATION")
    done = checked(run(made, options=options), 5)
    calls = done.calls()
    assert all(e["abi"] == "i386" for e in calls)
    assert {"mmap2", "old_mmap", "ipc"} == {e["raw"] for e in calls if "raw" in e}
    assert {e["call"] for e in calls} == {
        "brk", "mmap", "munmap", "mprotect", "mremap", "madvise", "shmat", "shmdt", "io_setup",
        "io_destroy", "remap_file_pages", "mlock", "munlock", "personality",
    }  # fmt: skip
    assert len(done.calls("fork")) == 3
    assert not done.calls("semget")
    with Trace(str(done.path)) as trace:
        (begun,) = [record for _, _, record in trace.records() if isinstance(record, Exec)]
    assert (begun.abi, begun.at_secure) == ("i386", False)
    # Offsets are in bytes, whatever the call counted in.
    assert {e["args"][5] for e in done.calls("mmap") if e.get("path")} == {4096}


@ALL
def test_32_bit_calls_of_a_64_bit_program(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("int80", *options, marks=1)
    if done.told("no-i386"):
        pytest.skip("this kernel has no IA32_EMULATION")
    (mapped,) = told(done, "i386")
    calls = [e for e in done.calls() if e.get("abi") == "i386"]
    assert [e.get("raw", e["call"]) for e in calls] == [
        "mmap2", "munmap", "mprotect", "mprotect", "old_mmap", "mremap", "madvise"
    ]  # fmt: skip
    assert calls[0]["ret"] & 0xFFFFFFFF == mapped["mmap"]
    assert calls[3]["errno"] == "ENOMEM"


@ALL
def test_x32_calls(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("x32", *options, marks=1)
    (call,) = [e for e in done.calls("mmap") if e.get("abi") == "x32"]
    assert [call["ret"]] == [e["ret"] for e in told(done, "x32")]


# -- children that ask not to be traced ----------------------------------------------------------


@BOTH
def test_children_made_with_clone_untraced_are_traced(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("untraced", *options, marks=7)
    assert [e["errno"] for e in told(done, "refused")] == [EINVAL] * 4
    children = [e["child"] for e in told(done, "child")]
    with Trace(str(done.path)) as trace:
        records = [record for _, _, record in trace.records()]
    shared = {r.child: r.flags for r in records if isinstance(r, Clone)}
    alone = [r.child for r in records if isinstance(r, Fork)]
    assert sorted([*shared, *alone]) == sorted(children)
    assert len(shared) == 4
    assert all((flags or 0) & CLONE_UNTRACED for flags in shared.values())
    # The program's registers and memory were looked at by itself: nothing "failed".


@BOTH
@pytest.mark.parametrize("sanitizer", ["leak", "address"])
def test_leak_sanitizer_says_that_it_is_traced(
    run: Callable[..., Traced], tmp_path: Path, sanitizer: str, options: tuple[str, ...]
) -> None:
    # It attaches to its own threads, which cannot be traced twice: so it says under any tracer.
    made = tmp_path / "leaks"
    source = "#include <stdlib.h>\nint main(void) { return malloc(1000) == 0; }"
    subprocess.run(
        ["gcc", f"-fsanitize={sanitizer}", "-x", "c", "-", "-o", made],
        input=source, text=True, check=True,
    )  # fmt: skip
    done = run(made, options=options)
    assert "LeakSanitizer does not work under ptrace" in done.stderr
    assert done.returncode in {1, 23}
    done.assert_exact()
    assert done.calls("clone")


# -- programs that trace, and programs that filter -----------------------------------------------


@ALL
def test_a_program_that_has_its_child_trace_it(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("traceme", *options, marks=2)
    assert told(done, "traceme") == [{"errno": EPERM}]
    assert len(done.calls("exec")) == 2


@ALL
def test_a_program_that_attaches_to_its_child(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("ptrace-attach", *options, marks=2)
    assert told(done, "attach") == told(done, "seize") == [{"errno": EPERM}]


@ALL
def test_a_filter_that_lets_mmap_fail(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("filter-errno", *options, marks=1)
    assert told(done, "mmap") == [{"ret": -ENOMEM}]


@BOTH
def test_a_filter_that_asks_for_a_tracer_finds_none(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("filter-trace", *options, marks=1)
    assert told(done, "mmap") == told(done, "getppid") == [{"ret": -ENOSYS}]


@ALL
def test_a_filter_that_traps(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("filter-trap", *options, marks=1)
    assert told(done, "trapped") == [{"by": 1}]


@BOTH
def test_a_filter_that_kills(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("filter-kill", *options, marks=1, code=-signal.SIGSYS)
    assert "killed by SIGSYS" in done.stderr
    assert not [e for e in done.calls("mmap") if e["ret"] == 9]


@ALL
def test_a_filter_that_kills_one_thread(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("filter-kill-thread", *options, marks=2)
    assert [e["signal"] for e in done.calls("exit") if "signal" in e] == [signal.SIGSYS]


# -- many threads, and calls that wait for others ------------------------------------------------


@ALL
def test_four_hundred_threads_come_and_go(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("threads", *options, marks=1)
    # One that came before its parent's event is told again, with its stack.
    assert len({e["child"] for e in done.calls("clone")}) == 400
    assert len(done.calls("exit")) == 401


@ALL
def test_a_process_that_outlives_its_first_thread(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("leaderless", *options, marks=2, code=4)
    other, leader = done.calls("exit")
    # The first thread ended first; its status is the process's, and so it is told last.
    assert other["tid"] != other["pid"]
    assert (leader["tid"], leader["code"]) == (leader["pid"], 4)


@ALL
def test_signals_at_any_moment_of_a_call(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("alarms", *options, marks=1)
    (alarms,), (forks,) = told(done, "alarms"), told(done, "forks")
    assert alarms["count"] > 10
    # None of a call's restarts is a call of its own.
    assert len(done.calls("fork")) == forks["count"]
    for name in ("mmap", "munmap"):
        own = [e for e in done.calls(name) if "/hard_cases+" in e.get("caller", "")]
        assert len([e for e in own if e["args"][1] == 3 * 4096]) == 2000
    assert told(done, "cut") == told(done, "naps")


@needs_userfaultfd
@ALL
def test_a_call_served_by_a_thread_that_maps(hard: Hard, options: tuple[str, ...]) -> None:
    # The madvise waits in the kernel for a userfaultfd handler, whose mmap waits for its turn:
    # after a while it is let through, and that is said.
    done = hard("populate", *options, marks=1)
    overlaps = done.calls("overlap")
    assert overlaps
    assert all(len(e["tids"]) == 2 for e in overlaps)
    (populate,) = [e for e in done.calls("madvise") if e["args"][2] == MADV_POPULATE_WRITE]
    assert populate["tid"] == overlaps[0]["tids"][0]
    handler = done.calls("mmap", "munmap", tid=overlaps[0]["tids"][1])
    between = [e for e in handler if overlaps[0]["seq"] < e["seq"] < populate["seq"]]
    assert [e["call"] for e in between][:10] == ["mmap", "munmap"] * 5
    assert done.calls("snap", why="overlap")


@needs_userfaultfd
@ALL
@pytest.mark.parametrize("call", ["madvise", "mlock"])
def test_killed_in_the_middle_of_a_call(hard: Hard, call: str, options: tuple[str, ...]) -> None:
    done = hard(f"killed-in-{call}", *options, marks=2)
    (child,) = [e["child"] for e in told(done, "killed")]
    (last,) = done.calls(call, pid=child)
    assert last["ret"] is None or last["ret"] < 0
    (ended,) = done.calls("exit", pid=child)
    assert ended["signal"] == signal.SIGKILL


# -- surroundings --------------------------------------------------------------------------------


@ALL
def test_every_descriptor_is_taken(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("descriptors", *options, marks=1)
    (opened,) = told(done, "opened")
    assert opened["count"] > 100


@ALL
def test_children_whose_end_is_ignored(hard: Hard, options: tuple[str, ...]) -> None:
    done = hard("ignored", *options, marks=6)
    assert [e["code"] for e in done.calls("exit")] == [3] * 5 + [0]


@ALL
def test_signals_that_are_blocked_and_waited_for(hard: Hard, options: tuple[str, ...]) -> None:
    hard("blocked", *options, marks=2)
