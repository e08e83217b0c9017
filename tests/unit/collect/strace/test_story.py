# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose line it is, what begins and ends, and what is said of what no line tells."""

from __future__ import annotations

import pytest
from tests.unit.collect.strace.telling import BASE, Lines, Told

from memtrace.collect.strace import events as ev
from memtrace.trace.records import Attach, Clone, Exec, Exit, Fork, Gone, Libc, Lost

VM, THREAD = 0x100, 0x10100
PAGE = 4096


def test_a_program_from_its_exec_to_its_end() -> None:
    n = Lines()
    told = Told([
        n.exec(7, ret=-2), n.exec(7, "/bin/p"), n.call(7, "brk", [0], 0x5000), n.mmap(7, BASE),
        n.end(7, 3),
    ])  # fmt: skip
    assert told.names == ["exec", "call", "call", "exit", "gone"]
    first, exit_, gone = told.lives
    assert isinstance(first, Exec)
    assert (first.pid, first.tid, first.mm, first.old_mm) == (7, 7, 1, None)
    assert (first.exe, first.argv, first.start_brk) == ("/bin/p", ["/bin/p"], 0x5000)
    assert first.assumed
    assert first.env_lost
    assert isinstance(exit_, Exit)
    assert (exit_.code, exit_.mm) == (3, 1)
    assert isinstance(gone, Gone)
    assert told.story.reason == ""


@pytest.mark.parametrize(("call", "args", "ret", "what"), [
    ("shmat", [1, 0, 0], BASE, "how long the shared memory is"),
    ("io_setup", [8, 0], 0, "how long the ring is"),
    ("arch_prctl", [0x2003, 0], 8192, "where the vdso is mapped"),
    ("prctl", [35, 14, 0x1000, 104, 0], 0, "where the break is put"),
    ("process_madvise", [3, 0, 1, 10, 0], PAGE, "what a child inherits"),
])  # fmt: skip
def test_an_effect_that_no_line_tells_is_lost(
    call: str, args: list[int], ret: int, what: str
) -> None:
    n = Lines()
    told = Told([n.exec(1), n.call(1, call, args, -1), n.call(1, call, args, ret), n.end(1)])
    assert told.story.reason == f"{call} at line 3: {what} is not in the log"


def test_advice_without_effect_on_children_is_not_lost() -> None:
    n = Lines()
    told = Told([n.exec(1), n.call(1, "process_madvise", [3, 0, 1, 20, 0], PAGE), n.end(1)])
    assert told.story.reason == ""


RIE = 0x400000  # READ_IMPLIES_EXEC


def personalities(told: Told) -> list[int | None]:
    """What each call says of its caller's."""
    return [c[7].personality if c[7] else None for c in told.contents if isinstance(c, tuple)]


def test_a_personality_belongs_to_a_thread() -> None:
    n = Lines()
    told = Told([
        n.exec(1), n.mmap(1, BASE), n.fork(1, 2, THREAD), n.call(2, "personality", [RIE], 0),
        n.mmap(2, BASE + PAGE), n.mmap(1, BASE + 2 * PAGE), n.fork(2, 3),
        n.mmap(3, BASE + 3 * PAGE), n.call(3, "personality", [0xFFFFFFFF], RIE),
        n.call(3, "personality", [8], RIE),
        n.mmap(3, BASE + 4 * PAGE), n.end(3), n.end(2), n.end(1),
    ])  # fmt: skip
    assert personalities(told) == [None, RIE, RIE, 0, RIE, RIE, 8, 8]
    assert told.story.reason == ""


def test_a_personality_survives_the_exec_of_a_32_bit_program_alone() -> None:
    for mode, expected in (("i386", RIE), (None, None)):
        n = Lines()
        told = Told([
            n.exec(1), n.call(1, "personality", [RIE], 0), n.exec(1), ev.Mode(n._next(), 1, mode),
            n.mmap(1, BASE), n.end(1),
        ])  # fmt: skip
        assert personalities(told) == [RIE, expected]


def test_a_personality_that_came_from_nowhere_is_said() -> None:
    n = Lines()
    told = Told([n.exec(1), n.call(1, "personality", [0xFFFFFFFF], RIE), n.mmap(1, BASE), n.end(1)])
    assert told.story.reason == "line 2 tells of a personality that no line before has set"
    assert personalities(told) == [RIE, RIE]


def test_the_environment_is_known_where_it_was_printed() -> None:
    n = Lines()
    env = ["HOME=/", "MALLOC_ARENA_MAX=1", "MALLOC_ARENA_MAX=2", "LD_PRELOAD=x"]
    first = Told([n.exec(7, env=env), n.end(7)]).lives[0]
    assert isinstance(first, Exec)
    assert not first.env_lost
    assert first.env == {"MALLOC_ARENA_MAX": "1", "LD_PRELOAD": "x"}


def test_a_fork_copies_and_an_exec_begins_anew() -> None:
    n = Lines()
    told = Told([
        n.exec(1), n.mmap(1, BASE), n.fork(1, 2), n.mmap(2, BASE + PAGE), n.exec(2, "/bin/q"),
        n.mmap(2, BASE), n.end(2), n.end(1),
    ])  # fmt: skip
    assert told.names == [
        "exec", "call", "fork", "call", "exec", "call", "exit", "gone", "exit", "gone",
    ]  # fmt: skip
    fork, second = told.lives[1:3]
    assert isinstance(fork, Fork)
    assert (fork.mm, fork.child, fork.child_mm) == (1, 2, 2)
    assert isinstance(second, Exec)
    assert (second.mm, second.old_mm, second.pid) == (3, 2, 2)
    assert [mm for _, mm, *_ in told.rows] == [1, 2, 3]


def test_a_vfork_child_speaks_before_its_parents_call_has_ended() -> None:
    n = Lines()
    told = Told([
        n.exec(1), n.mmap(1, BASE), n.enter(1, "vfork", []), n.mmap(2, BASE + PAGE),
        n.exec(2, "/bin/q"), n.fork(1, 2, VM | 0x4000, "vfork"), n.mmap(2, BASE),
        n.end(2), n.end(1),
    ])  # fmt: skip
    assert [mm for _, mm, *_ in told.rows] == [1, 1, 2]
    clone = told.lives[1]
    assert isinstance(clone, Clone)
    assert (clone.child, clone.child_pid, clone.pid) == (2, 2, 1)
    assert [type(r) for r in told.lives].count(Gone) == 2
    assert told.story.reason == ""


def test_a_child_may_live_all_its_life_before_its_parents_call_has_ended() -> None:
    n = Lines()
    told = Told([
        n.exec(1), n.enter(1, "clone", [0, 0]), n.mmap(2, BASE), n.end(2), n.fork(1, 2),
        n.mmap(1, BASE), n.end(1),
    ])  # fmt: skip
    assert [(tid, mm) for tid, mm, *_ in told.rows] == [(2, 2), (1, 1)]
    assert [type(r) for r in told.lives] == [Exec, Fork, Exit, Gone, Exit, Gone]
    assert told.story.reason == ""


def test_a_child_may_have_ended_before_the_file_of_its_parent_says_that_it_was_born() -> None:
    # strace -ff: a call's line has its beginning and its end, and the child's file its own time.
    n = Lines()
    begin, fork = n.exec(1), n.fork(1, 2)
    told = Told([begin, n.mmap(2, BASE), n.end(2), fork, n.mmap(1, BASE), n.end(1)], ahead=[fork])
    assert [type(r) for r in told.lives] == [Exec, Fork, Exit, Gone, Exit, Gone]
    assert told.story.reason == ""


def test_two_forks_in_flight_wait_for_the_line_that_names_the_child() -> None:
    n = Lines()
    told = Told([
        n.exec(1), n.fork(1, 2, THREAD), n.fork(1, 3), n.mmap(3, BASE),
        n.enter(2, "clone", [0, 0]), n.enter(3, "clone", [THREAD, 0]),
        n.mmap(9, BASE + PAGE), n.mmap(1, BASE + 8 * PAGE),
        n.fork(2, 8), n.fork(3, 9, THREAD),
        n.mmap(8, BASE), n.end(9), n.end(8), n.end(3), n.end(2), n.end(1),
    ])  # fmt: skip
    where = [(tid, mm) for tid, mm, *_ in told.rows]
    assert where == [(3, 2), (9, 2), (1, 1), (8, 3)]
    assert [r.child for r in told.lives if isinstance(r, Clone)] == [2, 9]
    assert told.story.reason == ""


def test_a_child_that_no_line_names_is_one_of_unknown_origin_and_that_is_said() -> None:
    n = Lines()
    told = Told([
        n.exec(1), n.fork(1, 2, THREAD),
        n.enter(1, "clone", [THREAD, 0]), n.enter(2, "clone", [0, 0]), n.mmap(9, BASE),
    ])  # fmt: skip
    attach = next(r for r in told.lives if isinstance(r, Attach))
    assert attach.pid == 9
    assert "thread 9 belongs to" in told.story.reason


def test_an_exec_from_a_thread_gives_it_the_number_of_its_process() -> None:
    n = Lines()
    told = Told([
        n.exec(1), n.fork(1, 2, THREAD), n.enter(2, "execve", None),
        ev.Superseded(n._next(), 1, None, 2), n.exec(1, "/bin/q"), n.mmap(1, BASE), n.end(1),
    ])  # fmt: skip
    second = [r for r in told.lives if isinstance(r, Exec)][1]
    assert (second.pid, second.tid, second.old_mm, second.mm) == (1, 2, 1, 2)
    assert [(tid, mm) for tid, mm, *_ in told.rows] == [(1, 2)]
    assert told.names[-2:] == ["exit", "gone"]


def test_lines_without_a_number_are_the_only_process_whose_number_comes_later() -> None:
    n = Lines()
    told = Told([
        n.exec(0), n.mmap(0, BASE), n.fork(0, 12), n.mmap(11, BASE + PAGE), n.mmap(12, BASE),
        n.end(12), n.mmap(0, BASE + 2 * PAGE), n.end(0),
    ])  # fmt: skip
    assert [tid for tid, *_ in told.rows] == [11, 11, 12, 11]
    assert {r.pid for r in told.lives if isinstance(r, Exec | Fork)} == {11}


def test_its_number_may_be_what_a_call_answers() -> None:
    n = Lines()
    told = Told([n.exec(0), n.mmap(0, BASE), ev.Named(n._next(), 0, own=33), n.end(0)])
    assert [tid for tid, *_ in told.rows] == [33]


def test_a_process_without_a_number_is_0() -> None:
    n = Lines()
    told = Told([n.exec(0), n.mmap(0, BASE), n.end(0)])
    assert told.rows[0][0] == 0
    assert told.story.unnamed


def test_a_log_that_begins_in_mid_life_begins_with_what_is_not_known() -> None:
    n = Lines()
    told = Told([n.mmap(5, BASE), n.end(5)])
    first = told.lives[0]
    assert isinstance(first, Attach)
    assert (first.why, first.maps, first.assumed, first.env_lost) == ("log", [], True, True)
    assert told.story.reason == ""


def test_threads_of_the_one_process_that_strace_was_attached_to() -> None:
    n = Lines()
    told = Told([
        ev.Attached(n._next(), 5), n.mmap(5, BASE), n.mmap(6, BASE + PAGE), n.end(6), n.end(5),
    ])  # fmt: skip
    assert [(tid, mm) for tid, mm, *_ in told.rows] == [(5, 1), (6, 1)]
    assert told.story.reason == ""


@pytest.mark.parametrize("shown", [0, 5])
def test_what_is_born_after_strace_attached_may_be_a_child(shown: int) -> None:
    n = Lines()
    told = Told([
        ev.Attached(n._next(), 5), n.mmap(shown, BASE), ev.Attached(n._next(), 6), n.mmap(6, BASE),
        n.end(6), n.end(5),
    ])  # fmt: skip
    assert [(tid, mm) for tid, mm, *_ in told.rows] == [(5, 1), (6, 2)]
    assert "thread 6 belongs to" in told.story.reason


def test_threads_that_nothing_says_the_process_of_are_not_guessed_silently() -> None:
    n = Lines()
    told = Told([n.mmap(5, BASE), n.mmap(6, BASE + PAGE), n.end(6), n.end(5)])
    assert "thread 6 belongs to" in told.story.reason
    assert any(isinstance(r, Lost) for r in told.lives)


def test_children_that_the_log_does_not_follow() -> None:
    n = Lines()
    told = Told([n.exec(0), n.fork(0, 2), n.mmap(0, BASE), n.end(0)])
    assert [mm for _, mm, *_ in told.rows] == [1]
    assert "-f" in told.story.reason


@pytest.mark.parametrize("first", ["the call", "the child"])
def test_a_number_that_is_given_again_though_no_line_told_the_end(first: str) -> None:
    n = Lines()

    def child() -> list[ev.Event]:
        if first == "the call":
            return [n.fork(1, 2), n.mmap(2, BASE), n.enter(2, "exit_group", [3])]
        begun = n.enter(1, "clone", [0x11, 0])
        return [begun, n.mmap(2, BASE), n.enter(2, "exit_group", [3]), n.fork(1, 2)]

    told = Told([n.exec(1), *child(), *child(), n.end(1)])
    assert [mm for _, mm, *_ in told.rows] == [2, 3]
    assert [r.code for r in told.lives if isinstance(r, Exit) and r.tid == 2] == [3, 3]
    assert told.story.reason == ""


def test_children_whose_making_was_not_written() -> None:
    n = Lines()
    ended = ev.Signalled(n._next(), 0, None, "SIGCHLD", stopped=False, child=True)
    told = Told([n.exec(0), n.mmap(0, BASE), ended, n.end(0)])
    assert "no call that made it" in told.story.reason
    killed = ev.Signalled(n._next(), 0, None, "SIGCHLD", stopped=False)
    assert Told([n.exec(0), n.mmap(0, BASE), killed, n.end(0)]).story.reason == ""


def test_a_log_that_ends_too_early() -> None:
    n = Lines()
    assert "running" in Told([n.exec(4), n.mmap(4, BASE)]).story.reason


def test_a_process_whose_exit_was_seen_though_not_its_end_has_ended() -> None:
    n = Lines()
    told = Told([n.exec(4), n.mmap(4, BASE), n.enter(4, "exit_group", [7])])
    exit_ = told.lives[1]
    assert isinstance(exit_, Exit)
    assert exit_.code == 7
    assert told.story.reason == ""


def test_a_line_that_cannot_be_read_is_a_record() -> None:
    n = Lines()
    bad = ev.Unreadable(n._next(), b"garbage", "it has no form", lost=True)
    told = Told([n.exec(4), bad, n.call(4, "brk", [0], 0x5000), n.end(4)])
    lost = next(r for r in told.lives if isinstance(r, Lost))
    assert "line 1" in lost.why
    assert "garbage" in lost.why
    assert "line 1" in told.story.reason
    first = told.lives[0]
    assert isinstance(first, Exec)
    assert first.start_brk == 0  # a brk may have been in that line


def test_a_redacted_trace_quotes_no_line() -> None:
    n = Lines()
    bad = ev.Unreadable(n._next(), b"secret", "it has no form", lost=True)
    told = Told([n.exec(4), bad, n.mmap(4, BASE), n.end(4)], quoting=False)
    assert not any("secret" in r.why for r in told.lives if isinstance(r, Lost))


def test_another_line_of_no_call_is_only_counted() -> None:
    n = Lines()
    told = Told([n.exec(4), ev.Unreadable(n._next(), b"hello", "?", lost=False), n.end(4)])
    assert told.story.foreign == 1
    assert told.story.reason == ""


# -- files --------------------------------------------------------------------------------------


def file_map(n: Lines, tid: int, fd: int, at: int, path: str | None = None) -> ev.Called:
    return n.call(tid, "mmap", [0, PAGE, 5, 2, fd, 0], at, path=path)


def paths(told: Told) -> list[str]:
    names: dict[int, str] = {}
    out = []
    for c in told.contents:
        if isinstance(c, tuple) and c[7] is not None and c[7].f is not None:
            f = c[7].f
            if not isinstance(f, int):
                names[f.id] = f.path
            out.append(names[f if isinstance(f, int) else f.id])
    return out


def test_a_descriptor_is_what_was_opened_under_its_number() -> None:
    n = Lines()
    told = Told([
        n.exec(1), ev.Opened(n._next(), 1, 3, "/lib/libc-2.31.so", cloexec=True),
        file_map(n, 1, 3, BASE), ev.Duplicated(n._next(), 1, 3, 5, cloexec=False),
        ev.Closed(n._next(), 1, 3, 3), file_map(n, 1, 3, BASE + PAGE),
        file_map(n, 1, 5, BASE + 2 * PAGE), file_map(n, 1, 9, BASE + 3 * PAGE, "/y"),
        n.fork(1, 2), ev.Closed(n._next(), 1, 5, 5), file_map(n, 2, 5, BASE),
        n.exec(2), file_map(n, 2, 5, BASE), n.end(2), n.end(1),
    ])  # fmt: skip
    libc = "/lib/libc-2.31.so"
    assert paths(told) == [libc, "fd 3", libc, "/y", libc, libc]
    assert [(r.version, r.mm) for r in told.lives if isinstance(r, Libc)] == [
        ("2.31", 1), ("2.31", 3),
    ]  # fmt: skip


def test_an_exec_closes_what_is_marked_so() -> None:
    n = Lines()
    told = Told([
        n.exec(1), ev.Opened(n._next(), 1, 3, "/x", cloexec=True), n.exec(1),
        file_map(n, 1, 3, BASE), n.end(1),
    ])  # fmt: skip
    assert paths(told) == ["fd 3"]


def test_shared_memory_without_a_file_is_a_file_of_its_own_each_time() -> None:
    n = Lines()
    shared = [0, PAGE, 3, 0x21, -1, 0]
    told = Told([
        n.exec(1), n.call(1, "mmap", shared, BASE), n.call(1, "mmap", shared, BASE + PAGE),
        n.end(1),
    ])  # fmt: skip
    files = [c[7].f for c in told.contents if isinstance(c, tuple) and c[7] is not None]
    assert [f.path for f in files if f is not None and not isinstance(f, int)] == [
        "/dev/zero (deleted)"
    ] * 2
    assert len({f.ino for f in files if f is not None and not isinstance(f, int)}) == 2


# -- the assumed start --------------------------------------------------------------------------


def start_of(*events: ev.Event) -> Exec:
    first = Told(events).lives[0]
    assert isinstance(first, Exec)
    return first


ASSUMED = f"{BASE:x}-{BASE + 2 * PAGE:x} ???? 00000000 00:00 0 [assumed]"


@pytest.mark.parametrize("call", [
    ("mprotect", [BASE, 2 * PAGE, 1], 0), ("mlock", [BASE, 2 * PAGE], 0),
    ("madvise", [BASE, 2 * PAGE, 4], 0),
    ("mremap", [BASE, 2 * PAGE, 4 * PAGE, 1], BASE + 64 * PAGE),
])  # fmt: skip
def test_pages_that_a_call_proves_to_have_been_there(call: tuple[str, list[int], int]) -> None:
    n = Lines()
    assert start_of(n.exec(1), n.call(1, *call), n.end(1)).maps == [ASSUMED]


@pytest.mark.parametrize("call", [
    ("mprotect", [BASE, 2 * PAGE, 1], -12), ("madvise", [BASE, 2 * PAGE, 4], -12),
    ("munmap", [BASE, 2 * PAGE], 0), ("mprotect", [BASE, 2 * PAGE, 1], None),
    ("mremap", [BASE, 2 * PAGE, 2 * PAGE, 3, BASE + 64 * PAGE], BASE + 64 * PAGE),
    ("mremap", [BASE, 2 * PAGE, PAGE, 3, BASE + 64 * PAGE], BASE + 64 * PAGE),
    ("mprotect", [BASE, 2 * PAGE, 0x01000001], 0),  # PROT_GROWSDOWN
])  # fmt: skip
def test_a_call_that_proves_nothing(call: tuple[str, list[int], int | None]) -> None:
    n = Lines()
    assert start_of(n.exec(1), n.call(1, *call), n.end(1)).maps == []


@pytest.mark.parametrize("size", [PAGE, 3 * PAGE, 4 * PAGE])
def test_of_what_does_not_grow_only_the_first_page_is_proven(size: int) -> None:
    n = Lines()
    first = start_of(n.exec(1), n.call(1, "mremap", [BASE, 4 * PAGE, size, 1], BASE), n.end(1))
    assert first.maps == [f"{BASE:x}-{BASE + PAGE:x} ???? 00000000 00:00 0 [assumed]"]


def test_what_the_log_mapped_or_unmapped_itself_was_not_there_before() -> None:
    n = Lines()
    first = start_of(
        n.exec(1), n.mmap(1, BASE), n.munmap(1, BASE + 2 * PAGE),
        n.call(1, "mprotect", [BASE, 4 * PAGE, 1], 0), n.end(1),
    )  # fmt: skip
    line = "{:x}-{:x} ???? 00000000 00:00 0 [assumed]"
    assert first.maps == [
        line.format(BASE + PAGE, BASE + 2 * PAGE), line.format(BASE + 3 * PAGE, BASE + 4 * PAGE)
    ]  # fmt: skip


@pytest.mark.parametrize(("args", "ret", "start"), [
    ([0], 0x5000, 0x5000), ([0x9000], 0x5000, 0x5000), ([0x9000], 0x9000, 0),
])  # fmt: skip
def test_the_first_brk_tells_where_the_heap_begins_unless_it_moves_it(
    args: list[int], ret: int, start: int
) -> None:
    n = Lines()
    assert start_of(n.exec(1), n.call(1, "brk", args, ret), n.end(1)).start_brk == start


def test_in_mid_life_no_brk_tells_where_the_heap_begins() -> None:
    n = Lines()
    first = Told([n.call(5, "brk", [0], 0x5000), n.end(5)]).lives[0]
    assert isinstance(first, Attach)
    assert first.start_brk == 0


def test_what_waits_is_bounded() -> None:
    n = Lines()
    events: list[ev.Event] = [n.exec(1)]
    events += [n.mmap(1, BASE + i * PAGE) for i in range(300)]
    told = Told(events)
    assert len(told.story.order.waiting) == 0
    # A process that lives on with few calls keeps nothing back.
    n = Lines()
    events = [n.exec(1), n.fork(1, 2), n.exec(2)]
    events += [n.mmap(1, BASE + i * PAGE) for i in range(40_000)]
    seen: list[int] = []
    story = Told([]).story
    story.order._emit = lambda item: seen.append(len(story.order.waiting))
    for e in events:
        story.feed([e])
        assert len(story.order.waiting) <= 16385
    assert seen
