# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace attach`: a program in some state is attached to, goes on, and is left; what it then
tells of its own map is what the trace says.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.live.attaching import assert_free, attaching, built
from tests.live.tracing import ROOT, Target, Traced, cli, state_of, target, until

from memtrace.trace.reader import Trace
from memtrace.trace.records import Attach, Clone, Exec, Lost, Record


@pytest.fixture(scope="module")
def cases() -> Path:
    return built("attach_cases")


Standing = Callable[[str], AbstractContextManager[Target]]


@pytest.fixture
def standing(cases: Path, tmp_path: Path) -> Standing:
    """A case that has told that it stands."""

    @contextmanager
    def start(case: str) -> Iterator[Target]:
        with target(tmp_path / "account", [cases, case]) as t:
            t.tells("ready")
            yield t

    return start


def records(done: Traced, *kinds: type) -> list[Record]:
    with Trace(str(done.path)) as trace:
        return [r for _, _, r in trace.records() if isinstance(r, kinds)]


def attached(done: Traced) -> Attach:
    (record,) = records(done, Attach)
    assert isinstance(record, Attach)
    return record


def whole(
    standing: Standing, case: str, tmp_path: Path, marks: int = 1, options: tuple[str, ...] = ()
) -> Traced:
    """Attach to a standing case, let it go on to its end; everything it told is in the trace."""
    with standing(case) as t:
        with attaching(tmp_path / "t.json", t.pid, *options, told=t.told) as a:
            a.begun()
            t.step()
            done = a.ended()
        assert t.ended() == 0
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert done.assert_marks(grown=True) == marks
    assert cli("verify", done.path).returncode == 0
    return done


def test_what_was_there_and_what_came_after(standing: Standing, tmp_path: Path) -> None:
    done = whole(standing, "plain", tmp_path)
    record = attached(done)
    assert record.exe.endswith("/attach_cases")
    assert record.argv[1:] == ["plain"]
    assert record.age_ns is not None
    assert 0 <= record.age_ns < 1e12
    assert record.start_brk > 0
    assert record.start_stack > 0
    assert {"STACK", "AS"} <= record.rlimits.keys()
    assert record.at_secure is False
    assert record.tids == [record.pid] == [task for task, _ in record.stacks]
    assert "exit 0" in done.stderr
    assert [c["version"] for c in done.calls("libc")] or done.calls("libc")


def test_flags_that_no_map_shows(standing: Standing, tmp_path: Path) -> None:
    record = attached(whole(standing, "flags", tmp_path, marks=2))
    assert [high - low for low, high in record.dontfork if high - low == 3 * 4096]
    assert (0x200000000, 0x200004000) in record.growsdown


def test_chunks_of_malloc_that_were_there(standing: Standing, tmp_path: Path) -> None:
    done = whole(standing, "chunks", tmp_path)
    told = {(e["start"], e["length"] | 2) for e in done.told("chunk")}
    assert len(told) == 8
    assert told <= set(attached(done).chunks)


def test_the_break_is_known_to_the_page_until_brk_tells(standing: Standing, tmp_path: Path) -> None:
    done = whole(standing, "broken-page", tmp_path)
    (told,) = done.told("break")
    (heap,) = [line for line in attached(done).maps if line.endswith("[heap]")]
    end = int(heap.split()[0].split("-")[1], 16)
    assert end == (told["end"] + 4095) & ~4095
    assert len(done.calls("brk")) == 2


@pytest.mark.parametrize("options", [(), ("--engine", "strace")], ids=["ptrace", "strace"])
@pytest.mark.parametrize(("case", "marks"), [
    ("heap-shrinks", 3), ("heap-stays", 3), ("heap-moves", 2), ("heap-grows-over-a-hole", 2),
    ("heap-shrinks-over-a-hole", 2), ("heap-gone", 2), ("heap-of-a-child", 3),
])  # fmt: skip
def test_the_first_brk_wherever_the_break_stood(
    standing: Standing, tmp_path: Path, case: str, marks: int, options: tuple[str, ...]
) -> None:
    """A mapping that is like the heap lies right above it, or its last pages are not mapped."""
    done = whole(standing, case, tmp_path, marks, options)
    (told,) = done.told("break")
    ends = {
        int(line.split()[0].split("-")[1], 16)
        for line in attached(done).maps
        if line.endswith("[heap]")
    }
    assert told["end"] not in ends  # the kernel's label does not tell it


def test_a_zombie_leader(standing: Standing, tmp_path: Path) -> None:
    done = whole(standing, "zombie-leader", tmp_path)
    record = attached(done)
    assert record.pid not in record.tids
    assert len(record.tids) == 1
    assert record.argv[1:] == ["zombie-leader"]
    assert "the first thread" in done.stderr
    assert " ended " in done.stderr


def test_exec_from_a_thread(standing: Standing, tmp_path: Path) -> None:
    with standing("exec-from-thread") as t:
        with attaching(tmp_path / "t.json", t.pid, told=t.told) as a:
            a.begun()
            t.step()
            t.tells("ready", 2)
            t.step()
            done = a.ended()
        assert t.ended() == 0
    done.assert_exact()
    assert done.assert_marks() == 1
    (begun,) = records(done, Exec)
    assert isinstance(begun, Exec)
    assert begun.pid == t.pid != begun.tid
    assert begun.old_mm == attached(done).mm


def test_a_parent_that_waits_for_a_vfork_child(standing: Standing, tmp_path: Path) -> None:
    """The parent cannot stop; its child changes the map of both, and is traced with it."""
    with standing("vfork-parent") as t:
        assert state_of(t.pid) == "D"
        with attaching(tmp_path / "t.json", t.pid, told=t.told) as a:
            a.begun()
            assert state_of(t.pid) == "D"
            t.step()
            done = a.ended()
        assert t.ended() == 0
    done.assert_exact()
    assert done.assert_marks() == 1
    (shares,) = records(done, Clone)
    assert isinstance(shares, Clone)
    assert shares.child_pid != t.pid
    sizes = {(e["pid"], e["args"][1]) for e in done.calls("mmap")}
    assert {(shares.child_pid, 7 * 4096), (t.pid, 5 * 4096)} <= sizes


def test_left_while_the_parent_waits(standing: Standing, tmp_path: Path) -> None:
    with standing("vfork-parent") as t:
        with attaching(tmp_path / "t.json", t.pid) as a:
            a.begun()
            done = a.left(signal.SIGINT)
        assert state_of(t.pid) == "D"
        assert_free(t.pid)
        t.step()
        assert t.ended() == 0
    done.assert_exact()


def test_a_process_with_the_same_memory(standing: Standing, tmp_path: Path) -> None:
    done = whole(standing, "clone-vm", tmp_path)
    assert len({e["pid"] for e in done.calls("munmap")}) == 2


def test_the_child_of_a_shared_memory_alone(standing: Standing, tmp_path: Path) -> None:
    """Its parent shares the map and is not traced: said, and the trace is not called exact."""
    with standing("clone-vm") as t:
        (child,) = until(lambda: Path(f"/proc/{t.pid}/task/{t.pid}/children").read_text().split())
        with attaching(tmp_path / "t.json", child, told=t.told) as a:
            a.begun()
            t.step()
            done = a.ended()
        assert t.ended() == 0
    assert done.returncode == 0
    assert done.exactness == "incomplete"
    assert any("same address space" in r.why for r in records(done, Lost) if isinstance(r, Lost))


def rows(path: Path) -> list[bytes]:
    """The calls in a trace that is being written."""
    return [line for line in path.read_bytes().splitlines()[1:] if line[:1] == b"["]


def test_threads_that_are_born_and_die_meanwhile(standing: Standing, tmp_path: Path) -> None:
    with standing("threads") as t:
        for number, how in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, 0)):
            options = () if how else ("--for", "0.3s")
            path = tmp_path / f"{number}.json"
            with attaching(path, t.pid, *options) as a:
                a.begun()
                if how:  # not before it has seen a call
                    until(partial(rows, path))
                done = a.left(how) if how else a.ended()
            assert done.returncode == 0, done.stderr
            assert "detached, it runs on" in done.stderr
            done.assert_exact()
            assert done.replayed.events > 0
            assert_free(t.pid)
            assert t.process.poll() is None


def test_a_program_with_a_filter_of_its_own(standing: Standing, tmp_path: Path) -> None:
    done = whole(standing, "filter", tmp_path)
    assert [e["errno"] for e in done.calls("mremap")] == ["EPERM"]


def test_children_made_with_clone_untraced_are_missed(standing: Standing, tmp_path: Path) -> None:
    with standing("escapes") as t:
        with attaching(tmp_path / "t.json", t.pid, told=t.told) as a:
            a.begun()
            t.step()
            done = a.ended()
        assert t.ended() == 0
    assert done.exactness == "incomplete"
    assert done.assert_marks() == 3
    lost = [r.why for r in records(done, Lost) if isinstance(r, Lost)]
    assert lost == ["a child made with CLONE_UNTRACED is not traced"] * 2
    (process,) = done.replayed.processes
    assert process.exact == process.snapshots


def test_signals_arrive_as_they_would(standing: Standing, tmp_path: Path) -> None:
    with standing("signals") as t:
        with attaching(tmp_path / "t.json", t.pid, told=t.told) as a:
            a.begun()
            for count in range(1, 3):
                os.kill(t.pid, signal.SIGUSR1)
                assert t.tells("handled", count)[-1]["count"] == count
            done = a.left(signal.SIGINT)
        assert_free(t.pid)
        os.kill(t.pid, signal.SIGUSR1)
        assert t.ended() == 0
        assert t.tells("handled", 3)[-1]["count"] == 3
    done.assert_exact()


@pytest.mark.parametrize("options", [(), ("--no-seccomp",)])
def test_ignored_signals_break_off_no_call(
    run: Callable[..., Traced], cases: Path, options: tuple[str, ...]
) -> None:
    done = run(cases, "ignored", options=options)
    assert done.returncode == 0, done.account
    done.assert_exact()


def test_a_signal_that_kills(standing: Standing, tmp_path: Path) -> None:
    with standing("signals") as t:
        with attaching(tmp_path / "t.json", t.pid) as a:
            a.begun()
            os.kill(t.pid, signal.SIGTERM)
            done = a.ended()
        assert t.ended() == -signal.SIGTERM
    assert done.returncode == 0
    assert "killed by SIGTERM" in done.stderr
    done.assert_exact()


def test_a_stopped_process_stays_stopped(standing: Standing, tmp_path: Path) -> None:
    with standing("plain") as t:
        os.kill(t.pid, signal.SIGSTOP)
        until(lambda: ["x"] if state_of(t.pid) == "T" else [])
        with attaching(tmp_path / "a.json", t.pid) as a:
            a.begun()
            done = a.left(signal.SIGINT)
        # It passes from the one stop to the other without running a single instruction.
        until(lambda: ["x"] if state_of(t.pid) == "T" else [])
        done.assert_exact()
        with attaching(tmp_path / "b.json", t.pid, told=t.told) as a:
            a.begun()
            os.kill(t.pid, signal.SIGCONT)
            t.step()
            done = a.ended()
        assert t.ended() == 0
    done.assert_exact()
    assert done.assert_marks() == 1


def test_stopped_while_attached_and_left_so(standing: Standing, tmp_path: Path) -> None:
    with standing("plain") as t:
        with attaching(tmp_path / "a.json", t.pid) as a:
            a.begun()
            os.kill(t.pid, signal.SIGSTOP)
            until(lambda: ["x"] if state_of(t.pid) in "tT" else [])
            done = a.left(signal.SIGTERM)
        until(lambda: ["x"] if state_of(t.pid) == "T" else [])
        done.assert_exact()
        os.kill(t.pid, signal.SIGCONT)
        t.step()
        assert t.ended() == 0


def test_a_thread_id_stands_for_its_process(standing: Standing, tmp_path: Path) -> None:
    with standing("threads") as t:
        tid = sorted(int(n) for n in os.listdir(f"/proc/{t.pid}/task"))[1]
        with attaching(tmp_path / "t.json", tid, "--for", "0.1s") as a:
            done = a.ended()
        assert done.returncode == 0, done.stderr
        assert attached(done).pid == t.pid


def test_the_tool_that_knows_its_own_maps(samples: Path, tmp_path: Path) -> None:
    """self-maps, attached to in mid-life with forks ahead: every mark since is equal."""
    with target(tmp_path / "account", [samples / "self-maps", "7", "3000", "10", "fork"]) as t:
        t.tells("mark", 5)
        os.kill(t.pid, signal.SIGSTOP)  # it would be through before it is attached to
        with attaching(tmp_path / "t.json", t.pid, told=t.told) as a:
            a.begun()
            os.kill(t.pid, signal.SIGCONT)
            done = a.ended()
        assert t.ended() == 0
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert done.assert_marks(part=True) > 50


@pytest.mark.parametrize("flags", [("-static",), ("-static-pie",)])
def test_static_programs(flags: tuple[str, ...], tmp_path: Path) -> None:
    program = tmp_path / "static"
    source = Path(__file__).with_name("attach_cases.c")
    include = f"-I{ROOT / 'samples'}"
    build = ["gcc", "-O0", "-w", *flags, "-pthread", include, str(source), "-o", str(program)]
    subprocess.run(build, check=True)
    with target(tmp_path / "account", [program, "plain"]) as t:
        t.tells("ready")
        with attaching(tmp_path / "t.json", t.pid, told=t.told) as a:
            a.begun()
            t.step()
            done = a.ended()
        assert t.ended() == 0
    done.assert_exact()
    assert done.assert_marks() == 1


I386 = """
static int sys(int n, int a, int b, int c, int d)
{
    int r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return r;
}

void _start(void)
{
    unsigned event[3] = {1, 0, 0}; /* EPOLLIN */
    int fd = sys(329, 0, 0, 0, 0), end = sys(45, 0, 0, 0, 0), r; /* epoll_create1, brk */

    sys(255, fd, 1, 0, (int)event); /* epoll_ctl: stdin */
    sys(45, end + 8192, 0, 0, 0);
    sys(4, 3, (int)"{\\"what\\":\\"ready\\"}\\n", 17, 0); /* write */
    r = sys(256, fd, (int)event, 1, -1); /* epoll_wait */
    sys(45, end + 40960, 0, 0, 0);
    sys(1, 1 - r, 0, 0, 0);
}
"""


def test_a_32_bit_program(tmp_path: Path) -> None:
    """Attached to in the middle of epoll_wait, left, and attached to again: it sees no EINTR."""
    program, source = tmp_path / "i386", tmp_path / "i386.c"
    source.write_text(I386)
    build = ["gcc", "-m32", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector"]
    subprocess.run([*build, "-O1", str(source), "-o", str(program)], check=True)
    with target(tmp_path / "account", [program]) as t:
        t.tells("ready")
        with attaching(tmp_path / "a.json", t.pid, "--for", "10ms") as a:
            first = a.ended()
        with attaching(tmp_path / "b.json", t.pid) as a:
            a.begun()
            t.step()
            done = a.ended()
        assert t.ended() == 0
    first.assert_exact()
    done.assert_exact()
    assert attached(done).abi == "i386"
    (grown,) = done.calls("brk")
    assert grown["abi"] == "i386"
