# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of exit codes: each row of it driven, code by code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_verbs import ENVIRONMENT, HEAP, RECORDS, STACK, TEXT, WHO, command, write

from memtrace.cli.main import VERBS
from memtrace.trace.records import Snap

ROOT = Path(__file__).resolve().parents[2]
_OTHERS = "all but `run` and `attach`"


def documented() -> dict[str, set[int]]:
    """Each verb's codes, as README.md and the man page have them."""
    told = (ROOT / "README.md").read_text().partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    found: dict[str, set[int]] = {verb: set() for verb in VERBS}
    for row in re.findall(r"^\| ((?:`|all).*) \|$", told, re.MULTILINE):
        names, codes = row.split(" | ", 1)
        every = set(VERBS) - {"run", "attach"}
        for verb in every if names == _OTHERS else re.findall(r"`(\w+)`", names):
            found[verb] |= {int(n) for n in re.findall(r"(?:^|; )(\d+)\b", codes)}
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the lines below are about, in the working directory."""
    monkeypatch.chdir(tmp_path)
    grown = HEAP.replace("610000", "620000")
    drifted = [r if not isinstance(r, Snap) else Snap(t=80, **WHO, why="exit",
               maps=[TEXT, grown, STACK]) for r in RECORDS]  # fmt: skip
    write(tmp_path / "whole", RECORDS)
    write(tmp_path / "cut", RECORDS[:-3], None)
    write(tmp_path / "drifted", drifted)
    for name, limit in (("kept", "calls.total = 99"), ("passed", "calls.total = 1")):
        (tmp_path / f"{name}.toml").write_text(f"[budget]\n{limit}\n")
    (tmp_path / "wrong.toml").write_text("[budget]\nnothing.such = 1\n")
    (tmp_path / "no-trace").write_text("no trace")
    (tmp_path / "log").write_text("1 brk(NULL) = 0x1000\n")
    (tmp_path / "text").write_text("text")
    os.mkfifo(tmp_path / "waits")
    return tmp_path


#: Verb, code, what is typed; PID is a process that sleeps.
LINES = [
    ("run", 2, "--nothing"),
    ("run", 2, "--check wrong.toml -- true"),
    ("run", 125, "-o /nothing/t.json -- true"),
    ("run", 126, "./text"),
    ("run", 127, "./nothing"),
    ("attach", 0, "--for 50ms PID"),
    ("attach", 2, "x"),
    ("attach", 125, "99999999"),
    ("attach", 125, "-o /nothing/t.json PID"),
    *((verb, 0, f"whole {more}") for verb, more in (
        ("report", ""), ("events", ""), ("maps", "--at end"), ("diff", "--at start --at end"),
        ("export", "--to csv"), ("verify", ""), ("check", "--budget kept.toml"))),
    *((verb, 0, f"cut {more}") for verb, more in (
        ("report", ""), ("events", ""), ("maps", "--at end"), ("diff", "--at start --at end"),
        ("export", "--to csv"))),
    *((verb, 2, f"whole {more}") for verb, more in (
        ("report", "--pid 77"), ("events", "--nothing"), ("maps", "--at 99"), ("diff", "--at 1"),
        ("export", ""), ("verify", "--nothing"), ("check", "--budget wrong.toml"))),
    *((verb, 3, f"no-trace {more}") for verb, more in (
        ("report", ""), ("events", ""), ("maps", "--at end"), ("diff", "whole"),
        ("export", "--to csv"), ("verify", ""), ("check", "--budget kept.toml"),
        ("import", ""))),
    ("check", 1, "whole --budget passed.toml"),
    ("check", 3, "cut --budget kept.toml"),
    ("verify", 1, "drifted"),
    ("verify", 3, "cut"),
    ("import", 0, "log"),
    ("import", 2, "--nothing"),
    ("doctor", 0, "PID"),
    ("doctor", 1, "99999999"),
    ("doctor", 2, "x"),
    ("explain", 0, "heap"),
    ("explain", 2, "nothing-of-this-name"),
    ("completion", 0, "bash"),
    ("completion", 2, "tcsh"),
    *((verb, 125, "whole -o /nothing/r" + more) for verb, more in (
        ("report", ""), ("export", " --to csv"), ("check", " --budget kept.toml"))),
    ("import", 125, "log -o /nothing/t.json"),
]  # fmt: skip
#: What writes to stdout, or waits for its input.
WRITING = {
    "report": "whole", "events": "whole", "maps": "whole --at end", "verify": "whole",
    "diff": "whole --at start --at end", "export": "whole --to csv", "explain": "",
    "check": "whole --budget kept.toml", "doctor": "", "completion": "bash",
}  # fmt: skip
WAITING = {
    "report": "waits", "events": "waits", "verify": "waits",
    "diff": "waits whole", "export": "waits --to csv", "check": "waits --budget kept.toml",
    "import": "waits",
}  # fmt: skip


@pytest.fixture
def sleeping() -> Iterator[int]:
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize(("verb", "code", "typed"), LINES)
def test_a_code_of_a_row(place: Path, sleeping: int, verb: str, code: int, typed: str) -> None:
    words = typed.replace("PID", str(sleeping)).split()
    ran = subprocess.run(
        command(verb, *words), env=ENVIRONMENT, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert ran.returncode == code, ran.stderr


@pytest.mark.parametrize("verb", WRITING)
def test_what_cannot_be_written(place: Path, verb: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            command(verb, *WRITING[verb].split()), env=ENVIRONMENT, stdout=full,
            stderr=subprocess.PIPE, check=False, timeout=60,
        )  # fmt: skip
    assert ran.returncode == 125, ran.stderr


@pytest.mark.parametrize("verb", WRITING)
def test_a_reader_that_has_gone(place: Path, verb: str) -> None:
    read, written = os.pipe()
    os.close(read)
    ran = subprocess.run(
        command(verb, *WRITING[verb].split()), env=ENVIRONMENT, stdout=written,
        stderr=subprocess.PIPE, check=False, timeout=60,
    )  # fmt: skip
    os.close(written)
    assert (ran.returncode, ran.stderr) == (141, b"")


def started(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*words), env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("verb", WAITING)
def test_ctrl_c(place: Path, verb: str) -> None:
    with started(verb, *WAITING[verb].split()) as process:
        last = time.monotonic() + 60
        fd = None
        while fd is None and time.monotonic() < last:
            try:  # as soon as it is being read
                fd = os.open("waits", os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                time.sleep(0.05)
        assert fd is not None
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        os.close(fd)
    assert process.returncode == 130


def test_ctrl_c_detaches(place: Path, sleeping: int) -> None:
    with started("attach", str(sleeping)) as process:
        assert process.stderr is not None
        assert b"attached to" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert Path(f"/proc/{sleeping}/comm").read_text() == "sleep\n"


@pytest.mark.parametrize(
    ("program", "status"),
    [("exit 7", 7), ("kill -TERM $$", -signal.SIGTERM), ("kill -INT $$", -signal.SIGINT)],
)
def test_run_ends_as_the_program(place: Path, program: str, status: int) -> None:
    ran = subprocess.run(
        command("run", "sh", "-c", program), env=ENVIRONMENT, capture_output=True, check=False
    )
    assert ran.returncode == status


@pytest.mark.parametrize(("budget", "code"), [("kept", 0), ("passed", 1)])
def test_run_with_a_budget_ends_as_check(place: Path, budget: str, code: int) -> None:
    for program, status in (("true", code), ("exit 7", 7)):
        ran = subprocess.run(
            command("run", "--check", f"{budget}.toml", "sh", "-c", program), env=ENVIRONMENT,
            capture_output=True, check=False,
        )  # fmt: skip
        assert ran.returncode == status, ran.stderr


def test_every_code_of_the_table_is_driven_and_no_other() -> None:
    driven: dict[str, set[int]] = {verb: set() for verb in VERBS}
    for verb, code, _ in LINES:
        driven[verb].add(code)
    for verb in set(WRITING) | {"import"}:
        driven[verb] |= {125, 130, 141}  # those that neither write nor wait are over at once
    assert driven == documented()
