# SPDX-License-Identifier: GPL-2.0-or-later
"""On a busy machine a tracer sees a stop long after it happened, and decides by then: the program
must not notice. The wait for the stop is made longer here than an attach waits.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.live.attaching import Attaching, assert_detached
from tests.live.tracing import environment, state_of, target, until

#: `memtrace`, but for its first wait, which does not end until a file is there. The timer ticks on.
LATE = """
import os, sys, time
wait = os.waitpid
def late(pid, flags):
    os.waitpid = wait
    while not os.path.exists("seen"):
        time.sleep(0.01)
    return wait(pid, flags)
from memtrace.cli.main import main
from memtrace.collect import engine
def loop(self, go=engine.Engine.loop):
    os.waitpid = late
    go(self)
engine.Engine.loop = loop
sys.argv[0] = "memtrace"
main()
"""

WAITS = """
#include <sys/epoll.h>
#include <unistd.h>
int main(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    int fd = epoll_create1(0);

    if (epoll_ctl(fd, EPOLL_CTL_ADD, 0, &event) != 0)
        return 8;
    if (write(3, "{\\"what\\":\\"ready\\"}\\n", 17) != 17)
        return 9;
    return 1 - epoll_wait(fd, &event, 1, -1);
}
"""


@pytest.fixture
def waits(tmp_path: Path) -> Path:
    """Ends with 0 when epoll_wait has told it of its stdin."""
    program, source = tmp_path / "waits", tmp_path / "waits.c"
    source.write_text(WAITS)
    subprocess.run(["gcc", "-O1", "-Wall", source, "-o", program], check=True)
    return program


@pytest.mark.parametrize("leaving", [False, True], ids=["while attached", "while leaving"])
def test_a_stop_that_is_seen_late(waits: Path, tmp_path: Path, *, leaving: bool) -> None:
    said = tmp_path / "said"
    with target(tmp_path / "account", [waits]) as t:
        t.tells("ready")
        with said.open("wb") as stderr:
            words = ["attach", str(t.pid), "-o", str(tmp_path / "t.json")]
            process = subprocess.Popen(
                [sys.executable, "-c", LATE, *words], env=environment(),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, cwd=tmp_path,
            )  # fmt: skip
        with process:
            a = Attaching(tmp_path / "t.json", t.pid, said, process)
            try:
                a.begun()
                assert state_of(t.pid) == "t"
                if leaving:
                    process.send_signal(signal.SIGINT)
                (tmp_path / "seen").touch()
                if not leaving:
                    until(lambda: [1] if state_of(t.pid) in "SZ" else [])
                    process.send_signal(signal.SIGINT)
                done = a.ended()
            finally:
                process.kill()
        assert_detached(done)
        assert t.process.poll() is None
        t.step()
        assert t.ended() == 0
