# SPDX-License-Identifier: GPL-2.0-or-later
"""What the stored logs do not hold: times, modes, calls in flight, and names that are damaged."""

import pytest
from tests.unit.collect.strace.told import DATA, read

from memtrace.collect.strace.calls import NAMES
from memtrace.collect.strace.events import (
    Called,
    Entered,
    Event,
    Execed,
    Forked,
    Listened,
    Opened,
    Unreadable,
)
from memtrace.collect.strace.parser import Parser

_SYSCALLS = (DATA / "syscalls.txt").read_text().split()


def events(*lines: str) -> list[Event]:
    return read("".join(line + "\n" for line in lines).encode())[0]


def one(line: str) -> Event:
    (event,) = events(line)
    return event


# ---- names ----


def test_a_name_with_one_letter_wrong_is_never_taken_for_a_call_that_does_not_matter() -> None:
    for name in NAMES:
        for at in range(len(name)):
            for wrong in (name[:at] + "z" + name[at + 1 :], name[:at] + name[at + 1 :]):
                if wrong in NAMES or wrong in _SYSCALLS or not wrong:
                    continue
                event = one(f"5 {wrong}(0x7f0000000000, 4096) = 0")
                assert isinstance(event, Unreadable), wrong
                assert event.lost


def test_no_system_call_is_taken_for_a_damaged_one() -> None:
    for name in _SYSCALLS:
        if name not in NAMES:
            assert events(f"5 {name}(0x7f0000000000, 4096) = 0") == [], name


@pytest.mark.parametrize("flags", ["0x8", "0x18|0x2", "SECCOMP_FILTER_FLAG_NEW_LISTENER"])
def test_a_filter_with_a_listener(flags: str) -> None:
    call = f"seccomp(0x1, {flags}, {{len=5, filter=0x7ffce72a1140}}"
    assert one(f"5 {call}) = 3") == Listened(1, 5)
    assert events(f"5 {call} <unfinished ...>", "5 <... seccomp resumed>) = 3") == [Listened(2, 5)]
    assert events(f"5 {call}) = -1 EFAULT (Bad address)", f"5 {call}) = ?") == []


@pytest.mark.parametrize("flags", ["0", "0x10|0x4", "SECCOMP_FILTER_FLAG_TSYNC|0x4"])
def test_a_filter_without_one(flags: str) -> None:
    assert events(f"5 seccomp(SECCOMP_SET_MODE_FILTER, {flags}, {{len=5, filter=0x7f}}) = 0") == []


@pytest.mark.parametrize(
    ("number", "call"), [("0x1ce", "mseal"), ("0x1c5", "map_shadow_stack"), ("0x400001ce", "mseal")]
)
def test_a_call_that_strace_knows_by_number_only_is_read(number: str, call: str) -> None:
    event = one(f"5 syscall_{number}(0x7f0000000000, 0x1000, 0x1, 0x2, 0x3, 0x4) = 0")
    assert isinstance(event, Called)
    assert (event.call, event.args) == (call, [0x7F0000000000, 0x1000, 1])
    assert event.abi == ("x32" if len(number) > 5 else None)


def test_an_error_newer_than_the_table_matters_only_for_calls_of_which_it_is_recorded() -> None:
    assert events('5 openat(AT_FDCWD, "/x", O_RDONLY) = -1 EFTYPE (Inappropriate file type)') == []
    event = one("5 munmap(0x7f0000000000, 4096) = -1 EFTYPE (Inappropriate file type)")
    assert isinstance(event, Unreadable)


# ---- times ----


@pytest.mark.parametrize("marks", ["???", "????"])
def test_a_call_that_strace_could_not_see_was_never_made(marks: str) -> None:
    # Its thread was killed on entry (ptrace_report_syscall_entry).
    parser = Parser()
    lines = f"8 {marks}( <unfinished ...>\n8 <... {marks} resumed>)   = ?\n9 {marks}()    = ?\n"
    assert parser.feed(lines.encode()) == []
    assert parser.ignored == parser.lines == 3


def test_a_call_torn_by_a_message_did_not_end_when_it_began() -> None:
    told = events(
        "12:00:00.000001 clone(child_stack=NULL, flags=SIGCHLDstrace: Process 6 attached",
        ") = 6",
    )
    (forked,) = (e for e in told if isinstance(e, Forked))
    assert (forked.since, forked.line, forked.t1) == (1, 2, None)


def test_midnight_is_passed_in_the_short_way_and_in_the_long_one() -> None:
    told = events(
        "5 23:59:59.000001 brk(NULL) = 0x1000",
        "5 23:59:59.000002 brk(NULL) = 0x1000",
        "5 00:00:00.000003 brk(NULL) = 0x1000",
        "5 00:00:00.000004 brk(NULL) = 0x1000",
        "5 00:00:01.000004 nanosleep({tv_sec=1, tv_nsec=0}, NULL) = 0",
        "5 00:00:02.000005 brk(NULL) = 0x1000",
    )
    times = [e.t0 for e in told if isinstance(e, Called)]
    day = 86_400_000_000_000
    second = 1_000_000_000
    assert times == [day - second + 1000, day - second + 2000, day + 3000, day + 4000,
        day + 2 * second + 5000]  # fmt: skip


def test_the_end_of_a_cut_call_is_the_time_of_its_second_line() -> None:
    for name in ("munmap(0x7f0000000000, 4096", "mlock(0x7f0000000000, 4096"):
        told = events(
            f"5 1700000000.000001 {name} <unfinished ...>",
            "6 1700000000.000002 brk(NULL) = 0x1000",
            f"5 1700000000.000009 <... {name.partition('(')[0]} resumed>) = 0",
        )
        ended = told[-1]
        assert isinstance(ended, Called)
        assert (ended.t0, ended.t1) == (1700000000_000001000, 1700000000_000009000)


# ---- calls in flight ----


def test_a_beginning_is_told_and_changes_nothing() -> None:
    parser = Parser()
    parser.feed(b"5 brk(NULL) = 0x1000\n5 munm")
    assert parser.rest == b"5 munm"
    piece = b"5 00:00:01 munmap(0x7f0000000000, 4096"
    entered = Entered(2, 5, 1_000_000_000, "munmap", [0x7F0000000000, 4096])
    assert parser.entry(piece) == entered
    assert parser.entry(piece) == entered
    assert (parser.lines, parser.clock, parser.rest) == (1, None, b"5 munm")
    assert parser.entry(b"5 read(3, ") is None
    assert parser.entry(b"5 <... munmap resumed>") is None
    assert parser.entry(b"5 munmap(0x7f0000000000, 4096) = 0") is None
    vfork = parser.entry(b"5 vfork(")
    assert vfork == Entered(2, 5, None, "vfork", [])


def test_a_call_that_another_line_of_its_thread_overtakes_is_not_read() -> None:
    told = events(
        "5 munmap(0x7f0000000000, 4096 <unfinished ...>",
        "5 getuid() = 0",
        "5 <... munmap resumed>) = 0",
    )
    assert [type(e) for e in told] == [Entered, Unreadable, Unreadable]
    assert [e.line for e in told] == [1, 1, 3]


def test_a_line_without_a_number_ends_the_only_call_of_that_name() -> None:
    """strace on a terminal names no thread while there is only one."""
    told = events(
        "[pid 5] munmap(0x7f0000000000, 4096 <unfinished ...>", "<... munmap resumed>) = 0"
    )
    assert isinstance(told[1], Called)
    assert told[1].tid == 5
    told = events(
        "[pid 5] munmap(0x7f0000000000, 4096 <unfinished ...>",
        "[pid 6] munmap(0x7f0000001000, 4096 <unfinished ...>",
        "<... munmap resumed>) = 0",
    )
    assert isinstance(told[2], Unreadable)


def test_a_log_cut_behind_a_digit_does_not_tell_the_call() -> None:
    parser = Parser()
    assert parser.feed(b"5 brk(NULL) = 0x1000\n5 brk(0x2000) = 0x2") != []
    (cut,) = parser.close()
    assert isinstance(cut, Unreadable)
    assert (cut.line, cut.lost) == (2, True)
    parser = Parser()
    parser.feed(b"5 brk(0x2000) = 0x2000 <0.000010>")
    assert isinstance(parser.close()[0], Called)


# ---- modes ----


def test_a_child_runs_in_the_mode_of_its_parent() -> None:
    told = events(
        "5 [ Process PID=5 runs in 32 bit mode. ]",
        "5 fork() = 6",
        "6 brk(NULL) = 0x1000",
        "5 [ Process PID=5 runs in 64 bit mode. ]",
        "5 brk(NULL) = 0x1000",
        "6 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0xf7000000",
    )
    assert [(e.tid, e.abi, e.raw) for e in told if isinstance(e, Called)] == [
        (6, "i386", None), (5, None, None), (6, "i386", "old_mmap"),
    ]  # fmt: skip


# ---- what is printed of files and programs ----


@pytest.mark.parametrize(
    ("shown", "path"),
    [
        (r'"/a\"b\\c\n\t\1772"', '/a"b\\c\n\t\x7f2'),
        (r'"\x2f\x61\xff"', "/a\\xff"),
        (r'"/\303\244"', "/ä"),
        ('"/long"...', "/long..."),
        ("0x7ffd0000", ""),
    ],
)
def test_a_path_is_read_as_it_is(shown: str, path: str) -> None:
    event = one(f"5 open({shown}, O_RDONLY) = 3")
    assert event == Opened(1, 5, 3, path, cloexec=False)


def test_an_exec_keeps_what_is_printed_of_its_arguments() -> None:
    shown = '5 execve("/bin/x", ["x", "a, b]", 0x7ffd0000, ...], ["A=1", "B=["]) = 0'
    assert one(shown) == Execed(
        1, 1, 5, None, None, "/bin/x", ["x", "a, b]", "0x7ffd0000", "..."], ["A=1", "B=["], 0
    )
    assert one('5 execve("/bin/x", NULL, 0x7ffd0000 /* 3 vars */) = 0') == Execed(
        1, 1, 5, None, None, "/bin/x", None, None, 0
    )
    event = one('5 execveat(3</bin>, "x", ["x"], [/* 3 vars */], AT_EMPTY_PATH) = 0')
    assert isinstance(event, Execed)
    assert (event.path, event.argv, event.env) == ("/bin/x", ["x"], None)
    for shown, path in (('3</memfd:x (deleted)>, ""', "/memfd:x (deleted)"), ('3, "x"', "x")):
        event = one(f"5 execveat({shown}, NULL, NULL, AT_EMPTY_PATH) = 0")
        assert isinstance(event, Execed)
        assert event.path == path


@pytest.mark.parametrize("path", ["/etc/passwd-", "/-", "/a->b-", "/dev/pts/0"])
def test_a_path_may_end_with_a_hyphen(path: str) -> None:
    """Debian's copies of /etc/passwd and the like do; the arrow is a socket's."""
    shown = path.replace(">", r"\76")
    line = f"7 mmap(NULL, 4096, 0x1, 0x2, 3<{shown}>, 0) = 0x7f0000000000\n"
    (called,) = Parser().feed(line.encode())
    assert isinstance(called, Called)
    assert called.path == path
