# SPDX-License-Identifier: GPL-2.0-or-later
"""On a terminal, under a shell with job control, a program under memtrace is as it is without."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live.terminal import Terminal
from tests.live.tracing import state_of, until

LEAVE_ALTERNATE_SCREEN = r"\x1b\[\?1049l"

#: Tells each signal it gets on the terminal; stops itself as less and ncurses do (`ncurses`,
#: handle_SIGTSTP): first it puts the terminal in order, then it stops by the default action.
TELLS = """
import os, signal
def tell(number, _):
    os.write(1, b"got %d\\n" % number)
    if number == signal.SIGTSTP:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, tell)
        os.write(1, b"back\\n")
for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "TSTP", "CONT"):
    signal.signal(signal.Signals["SIG" + name], tell)
wake, write = os.pipe()
os.set_blocking(write, False)
signal.set_wakeup_fd(write)  # a sleep would miss a signal that comes just before it
os.write(1, b"ready %d\\n" % os.getpid())
while True:
    os.read(wake, 1)
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "tells.py").write_text(TELLS)
    with Terminal(tmp_path) as t:
        yield t


@pytest.fixture
def tells(terminal: Terminal) -> int:
    """`tells.py` in the foreground: its pid."""
    terminal.type("memtrace /usr/bin/python3 tells.py\n")
    return int(terminal.expect(r"ready \d+").rpartition(" ")[2])


def is_stopped(pid: int) -> list[int]:
    return [pid] if state_of(pid) in "Tt" else []


# -- programs that own the screen --------------------------------------------------------------


def test_vim_edits_a_file_and_leaves_the_terminal_as_it_was(
    terminal: Terminal, tmp_path: Path
) -> None:
    before = terminal.modes()
    terminal.type("memtrace vim -u NONE -i NONE file\n")
    terminal.expect('"file" .*New')
    assert terminal.modes() != before
    terminal.type("ihello")
    terminal.expect("hello")
    terminal.type("\x1b:wq\r")
    terminal.expect(LEAVE_ALTERNATE_SCREEN)
    assert terminal.prompt() == 0
    assert terminal.modes() == before
    assert (tmp_path / "file").read_text() == "hello\n"
    terminal.traced().assert_exact()


def test_vim_suspends_itself(terminal: Terminal) -> None:
    before = terminal.modes()
    terminal.type("memtrace vim -u NONE -i NONE file\n")
    terminal.expect('"file" .*New')
    terminal.type("\x1a")  # vim reads it as a key, and sends SIGTSTP to its group
    terminal.expect(LEAVE_ALTERNATE_SCREEN)
    terminal.expect("Stopped")
    assert terminal.prompt() == 128 + signal.SIGTSTP
    assert terminal.modes() == before
    terminal.type("fg\n")
    terminal.expect(r"\x1b\[\?1049h")
    terminal.type(":q!\r")
    assert terminal.prompt() == 0
    terminal.traced().assert_exact()


def test_less_sees_the_window_change_and_suspends(terminal: Terminal) -> None:
    terminal.command("seq 1000 > numbers")
    terminal.type("memtrace less numbers\n")
    terminal.expect(r"\b23\b.*numbers")
    terminal.process("less", "S")
    terminal.resize(40)  # SIGWINCH
    terminal.expect(r"\b39\b")
    terminal.process("less", "S")
    terminal.type("\x1a")
    # It leaves its screen before the shell is told that it has stopped.
    assert "Stopped" not in terminal.expect(LEAVE_ALTERNATE_SCREEN)
    terminal.expect("Stopped")
    assert terminal.prompt() == 128 + signal.SIGTSTP
    terminal.type("fg\n")
    terminal.expect(r"\b39\b")
    terminal.type("q")
    assert terminal.prompt() == 0
    terminal.traced().assert_exact()


# -- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["sleep 1000", "cat"])
@pytest.mark.parametrize(("key", "number"), [("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT)])
def test_a_key_kills(
    terminal: Terminal, program: str, key: str, number: signal.Signals
) -> None:  # fmt: skip
    terminal.type(f"memtrace {program}\n")
    terminal.process(program.split(maxsplit=1)[0], "S")
    terminal.type(key)
    assert terminal.prompt() == 128 + number
    done = terminal.traced()
    done.assert_exact()
    assert done.replayed.processes[-1].exit_signal == number


def test_each_key_is_one_signal(terminal: Terminal, tells: int) -> None:
    terminal.type("\x03")
    terminal.expect("got 2\r\n")
    terminal.type("\x1c")
    terminal.expect("got 3\r\n")
    terminal.type("\x1c")
    assert "got 2" not in terminal.expect("got 3\r\n")


def test_the_third_interrupt_kills_what_does_not_answer(terminal: Terminal, tells: int) -> None:
    for _ in range(2):
        terminal.type("\x03")
        terminal.expect("got 2\r\n")
    terminal.type("\x03")
    assert terminal.prompt() == 128 + signal.SIGKILL
    assert state_of(tells) == ""
    assert terminal.traced().replayed.complete


def test_the_end_of_input(terminal: Terminal) -> None:
    terminal.type("memtrace cat\n")
    terminal.process("cat", "S")
    terminal.type("word\n")
    terminal.expect("word\r\nword\r\n")
    terminal.type("\x04")
    assert terminal.prompt() == 0
    terminal.traced().assert_exact()


# -- jobs --------------------------------------------------------------------------------------


def test_stop_list_continue_in_the_background_and_kill(terminal: Terminal) -> None:
    terminal.type("memtrace sleep 1000\n")
    sleeper = terminal.process("sleep", "S")
    terminal.type("\x1a")
    terminal.expect(r"\[1\]\+ +Stopped +memtrace sleep 1000")
    assert terminal.prompt() == 128 + signal.SIGTSTP
    assert is_stopped(sleeper)
    assert "Stopped" in terminal.command("jobs")
    terminal.command("bg")
    assert terminal.process("sleep", "S") == sleeper
    assert "Running" in terminal.command("jobs")
    terminal.command("kill %1")
    assert terminal.status("wait %1") == 128 + signal.SIGTERM
    terminal.traced().assert_exact()


def test_stop_and_continue_in_the_foreground(terminal: Terminal) -> None:
    terminal.type("memtrace sleep 1000\n")
    sleeper = terminal.process("sleep", "S")
    for _ in range(3):
        terminal.type("\x1a")
        assert terminal.prompt() == 128 + signal.SIGTSTP
        assert is_stopped(sleeper)
        terminal.type("fg\n")
        assert terminal.process("sleep", "S") == sleeper
    terminal.type("\x03")
    assert terminal.prompt() == 128 + signal.SIGINT
    terminal.traced().assert_exact()


def test_a_stopped_job_does_nothing(terminal: Terminal) -> None:
    terminal.type("memtrace sh -c 'sleep 1000 | cat | cat'\n")
    terminal.process("sleep", "S")
    terminal.process("cat", "S")
    terminal.type("\x1a")
    assert terminal.prompt() == 128 + signal.SIGTSTP
    pids = [p for p in terminal.processes() if p != terminal.shell.pid]
    assert len(pids) >= 6  # memtrace, its writer, sh, its three

    def switches() -> list[str]:
        """How often each process has given up the processor, or lost it."""
        lines = [Path(f"/proc/{p}/status").read_text().splitlines() for p in pids]
        return [line for text in lines for line in text if "ctxt_switches" in line]

    def idle() -> list[bool]:
        before = switches()
        time.sleep(0.3)
        return [True] if switches() == before else []

    until(idle)
    assert not [p for p in pids if state_of(p) in "RD"]
    terminal.type("fg\n")
    terminal.process("cat", "S")
    terminal.type("\x03")
    assert terminal.prompt() == 128 + signal.SIGINT


def test_started_in_the_background(terminal: Terminal) -> None:
    terminal.command("memtrace sh -c 'echo hidden; kill -STOP $$; exit 9' > out &")
    shell = terminal.process("sh", "Tt")
    # It has stopped itself: the shell knows it.
    terminal.expect_job("Stopped")
    os.kill(shell, 0)
    terminal.command("bg")
    assert terminal.status("wait %1") == 9
    terminal.traced().assert_exact()


def test_output_in_the_background_stops_where_the_terminal_says_so(terminal: Terminal) -> None:
    terminal.command("stty tostop")
    terminal.command("memtrace sh -c 'echo shown; exit 7' &")
    terminal.expect_job("Stopped")
    terminal.type("fg\n")
    terminal.expect("shown\r\n")
    assert terminal.prompt() == 7
    terminal.traced().assert_exact()


def test_a_summary_in_the_background_stops_as_any_output(terminal: Terminal) -> None:
    terminal.command("stty tostop; MEMTRACE_OPTIONS=")
    terminal.command("memtrace true &")
    terminal.expect_job("Stopped")
    terminal.type("fg\n")
    terminal.expect(r"exact(\x1b\[0m)?: 1 of 1")
    assert terminal.prompt() == 0


def test_a_summary_is_coloured_unless_that_is_not_wanted(terminal: Terminal) -> None:
    terminal.command("MEMTRACE_OPTIONS=; unset NO_COLOR FORCE_COLOR")
    for options, shown in (
        ("", r"\x1b\[32mexact\x1b\[0m: 1 of 1"),
        ("NO_COLOR=1", "  exact: 1 of 1"),
        ("MEMTRACE_OPTIONS='--color never'", "  exact: 1 of 1"),
        ("NO_COLOR=1 MEMTRACE_OPTIONS='--color always'", r"\x1b\[32mexact\x1b\[0m: 1 of 1"),
    ):
        terminal.type(f"{options} memtrace true\n")
        terminal.expect(shown)
        assert terminal.prompt() == 0
    assert "\x1b" not in terminal.command("memtrace true 2>&1 | cat")
    assert "\x1b[32mexact" in terminal.command("FORCE_COLOR=1 memtrace true 2>&1 | cat")


def test_input_in_the_background_stops_until_it_is_in_the_foreground(terminal: Terminal) -> None:
    terminal.command("memtrace cat &")
    terminal.expect_job("Stopped")
    terminal.type("fg\n")
    terminal.process("cat", "S")
    terminal.type("word\n")
    terminal.expect("word\r\nword\r\n")
    terminal.type("\x04")
    assert terminal.prompt() == 0
    terminal.traced().assert_exact()


def test_a_program_that_puts_the_terminal_in_order_before_it_stops(
    terminal: Terminal, tells: int
) -> None:
    for _ in range(2):
        terminal.type("\x1a")
        shown = terminal.expect("Stopped")
        assert shown.count("got 20\r\n") == 1
        terminal.prompt()
        assert is_stopped(tells)
        terminal.type("fg\n")
        shown = terminal.expect("back\r\n")
        assert shown.count("got 18\r\n") == 1
    terminal.type("\x1c")
    assert "got 18" not in terminal.expect("got 3\r\n")


@pytest.mark.parametrize("name", ["HUP", "TERM", "USR1", "USR2"])
def test_a_signal_to_the_job_comes_once(terminal: Terminal, name: str) -> None:
    number = signal.Signals["SIG" + name].value
    terminal.type("memtrace /usr/bin/python3 tells.py &\n")
    terminal.expect(r"ready \d+")
    for _ in range(3):
        terminal.type(f"kill -{name} %1\n")  # to the whole group
        terminal.expect(f"got {number}\r\n")
    terminal.type("kill -INT $!\n")  # to memtrace alone
    assert f"got {number}" not in terminal.expect("got 2\r\n")
    terminal.type("kill -KILL %1\n")


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2"])
def test_a_signal_to_memtrace_is_the_programs(terminal: Terminal, name: str) -> None:
    number = signal.Signals["SIG" + name].value
    terminal.type("memtrace /usr/bin/python3 tells.py &\n")
    terminal.expect(r"ready \d+")
    terminal.type(f"kill -{name} $!\n")
    terminal.expect(f"got {number}\r\n")
    terminal.type("kill -KILL %1\n")


def test_a_stopped_job_is_continued_through_memtrace(terminal: Terminal) -> None:
    terminal.type("memtrace sleep 1000\n")
    sleeper = terminal.process("sleep", "S")
    terminal.type("\x1a")
    terminal.prompt()
    terminal.command("kill -CONT $(jobs -p)")  # to memtrace alone
    assert terminal.process("sleep", "S") == sleeper
    terminal.command("kill %1")
    assert terminal.status("wait %1") == 128 + signal.SIGTERM


def test_what_the_program_left_running_is_stopped_and_continued(terminal: Terminal) -> None:
    terminal.type("memtrace sh -c 'sleep 1000 & exit 6'\n")
    sleeper = terminal.process("sleep", "S")
    until(lambda: [] if "sh" in terminal.processes().values() else [1])
    terminal.type("\x1a")
    assert terminal.prompt() == 128 + signal.SIGTSTP
    assert is_stopped(sleeper)
    terminal.type("fg\n")
    terminal.process("sleep", "S")
    os.kill(sleeper, signal.SIGKILL)
    assert terminal.prompt() == 6


def test_a_stop_of_the_program_by_others_is_not_the_jobs(terminal: Terminal) -> None:
    terminal.type("memtrace sleep 1000\n")
    sleeper = terminal.process("sleep", "S")
    os.kill(sleeper, signal.SIGSTOP)
    until(lambda: is_stopped(sleeper))
    os.kill(sleeper, signal.SIGCONT)
    terminal.process("sleep", "S")
    terminal.type("\x03")
    assert terminal.prompt() == 128 + signal.SIGINT
    terminal.traced().assert_exact()


def test_a_shell_with_jobs_of_its_own(terminal: Terminal) -> None:
    terminal.type("memtrace bash --norc --noprofile --noediting -i\n")
    terminal.prompt()
    terminal.type("sleep 1000\n")
    sleeper = terminal.process("sleep", "S")
    terminal.type("\x1a")
    assert terminal.prompt() == 128 + signal.SIGTSTP
    assert is_stopped(sleeper)
    terminal.type("fg\n")
    terminal.process("sleep", "S")
    terminal.type("\x03")
    assert terminal.prompt() == 128 + signal.SIGINT
    terminal.type("suspend\n")
    terminal.expect("Stopped")
    assert terminal.prompt() == 128 + signal.SIGSTOP
    assert terminal.status("fg") == 0  # the inner shell's prompt
    assert "suspend" in terminal.command("echo $((2 + 3)) suspend")
    assert terminal.status("exit 5") == 5
    assert "exit" not in terminal.command("jobs")
    terminal.traced().assert_exact()


def test_pipes(terminal: Terminal) -> None:
    assert "141 0" in terminal.command("memtrace yes | head -n 1; echo ${PIPESTATUS[*]}")
    done = terminal.traced()
    done.assert_exact()
    assert done.replayed.processes[-1].exit_signal == signal.SIGPIPE
    assert terminal.status("yes | memtrace sh -c 'head -n 2; exit 4'") == 4
    assert terminal.status("memtrace sh -c 'yes | head -n 1'") == 0
    assert "1000" in terminal.command("seq 1000 | memtrace cat | tail -n 1")


# -- the end of the terminal -------------------------------------------------------------------


@pytest.mark.parametrize("options", ["-q", ""], ids=["quiet", "summary"])
def test_the_terminal_is_hung_up(terminal: Terminal, options: str) -> None:
    terminal.command(f"MEMTRACE_OPTIONS={options}")
    terminal.type("memtrace sleep 1000\n")
    sleeper = terminal.process("sleep", "S")
    pids = terminal.processes()
    terminal.hang_up()
    until(lambda: [] if terminal.processes() else [True])
    assert state_of(sleeper) == ""
    assert len(pids) >= 4
    done = terminal.traced()
    done.assert_exact()
    assert done.replayed.processes[-1].exit_signal == signal.SIGHUP
