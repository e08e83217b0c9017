# SPDX-License-Identifier: GPL-2.0-or-later
"""memtrace leaves as the program left, and nothing of its own ends it before."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.tracing import PATIENCE, Traced, environment

CODES = (0, 1, 2, 3, 7, 42, 99, 124, 125, 126, 127, 128, 129, 137, 143, 254, 255)


@pytest.mark.parametrize("code", CODES)
def test_the_exit_code_is_the_programs(run: Callable[..., Traced], code: int) -> None:
    done = run("sh", "-c", f"exit {code}")
    assert done.returncode == code
    assert done.exactness == "exact", done.sentence
    assert f"exit {code} " in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("code", sorted(set(range(256)) - set(CODES)))
def test_every_exit_code_is_the_programs(run: Callable[..., Traced], code: int) -> None:
    assert run("sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize(
    "name", ["SIGTERM", "SIGKILL", "SIGSEGV", "SIGABRT", "SIGHUP", "SIGINT", "SIGALRM", "SIGPIPE"]
)
def test_a_death_by_signal_is_died_again(
    run: Callable[..., Traced], samples: Path, name: str
) -> None:
    number = signal.Signals[name]
    argv = ["abort"] if name == "SIGABRT" else ["signal", str(int(number))]
    done = run(samples / "exit-codes", *argv)
    assert done.returncode == -number
    assert f"killed by {name}" in done.stderr
    (process,) = done.replayed.processes
    assert process.exit_signal == number
    assert process.exit_code is None
    assert done.replayed.complete, done.sentence
    assert not process.drifted, done.sentence


def test_the_tracers_own_timer_ends_with_the_trace(tmp_path: Path) -> None:
    # The interpreter takes its time to end, with the signals already at their defaults.
    code = (
        "import sys, time\n"
        "class Late:\n"
        "    def __del__(self, sleep=time.sleep): sleep(0.4)\n"
        "sys.late = Late()\n"
        "from memtrace.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "-o", str(tmp_path / "t.json"), "--", "true"],
        env=environment(), capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
