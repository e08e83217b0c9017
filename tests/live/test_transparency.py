# SPDX-License-Identifier: GPL-2.0-or-later
"""The program cannot tell: stdio, arguments, environment, descriptors, signals and limits are those
it would have without memtrace.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.live.tracing import PATIENCE, Traced, command, environment

BOTH = [(), ("--no-seccomp",)]


def both(
    tmp_path: Path, argv: list[str], *options: str, **kw: Any
) -> tuple[subprocess.CompletedProcess[bytes], subprocess.CompletedProcess[bytes]]:
    """The same program started the same way, without memtrace and with it."""
    kw = {"stdin": subprocess.DEVNULL, "env": environment(), **kw}
    first, second = (
        subprocess.run(words, capture_output=True, check=False, timeout=PATIENCE, **kw)
        for words in (argv, command(tmp_path / "t.json", argv, *options))
    )
    assert second.returncode == first.returncode, second.stderr
    return first, second


@pytest.mark.parametrize("options", BOTH)
def test_a_mebibyte_through_a_pipe(run: Callable[..., Traced], options: tuple[str, ...]) -> None:
    data = os.urandom(1 << 20)
    done = run("cat", data=data, options=options)
    assert (done.returncode, len(done.stdout)) == (0, 1 << 20)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_stderr_is_the_programs_first(run: Callable[..., Traced]) -> None:
    done = run("sh", "-c", "echo out; echo err >&2")
    assert done.stdout == b"out\n"
    assert done.stderr.startswith("err\nmemtrace")
    quiet = run("sh", "-c", "echo err >&2", options=("-q",))
    assert quiet.stderr == "err\n"


def test_a_broken_pipe_inside_kills_as_it_always_does(run: Callable[..., Traced]) -> None:
    done = run("bash", "-c", "yes | head -n 1; echo ${PIPESTATUS[0]}")
    assert done.stdout.split() == [b"y", b"141"]
    done.assert_exact()


def test_a_broken_pipe_outside_kills_the_program_and_then_memtrace(tmp_path: Path) -> None:
    with subprocess.Popen(
        command(tmp_path / "t.json", ["yes"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(), restore_signals=True,
    ) as memtrace:  # fmt: skip
        assert memtrace.stdout is not None
        assert memtrace.stdout.read(2) == b"y\n"
        memtrace.stdout.close()
        assert memtrace.wait(PATIENCE) == -signal.SIGPIPE


def test_arguments_that_are_no_utf_8(run: Callable[..., Traced]) -> None:
    odd = [b"\xff\xfe", b"", b"a b", b"--help", b"-o", b"\xc3\xa4", b"new\nline", b"%s", b"\x01"]
    done = run("printf", "%s\\0", *odd)
    assert done.stdout.split(b"\0")[:-1] == odd
    done.assert_exact()


def test_options_after_the_program_are_the_programs(tmp_path: Path) -> None:
    words = [*command(tmp_path / "t.json", [])[:-1], "echo", "-n", "--no-seccomp", "-o", "x"]
    done = subprocess.run(words, env=environment(), capture_output=True, check=True)
    assert done.stdout == b"--no-seccomp -o x"


def test_the_environment(tmp_path: Path) -> None:
    env = environment({"ODD": "\udcff", "EMPTY": "", "LANG": "C", "MALLOC_ARENA_MAX": "1"})
    without, within = both(tmp_path, ["env", "-0"], env=env)
    assert within.stdout.split(b"\0") == without.stdout.split(b"\0")


def test_no_environment_at_all(tmp_path: Path) -> None:
    words = ["env", "-i", "PYTHONPATH=" + environment()["PYTHONPATH"]]
    done = subprocess.run(
        [*words, *command(tmp_path / "t.json", ["/usr/bin/env"])], capture_output=True, check=True
    )
    # Without any locale the interpreter sets LC_CTYPE for itself (PEP 538).
    assert done.stdout.splitlines() == [("PYTHONPATH=" + environment()["PYTHONPATH"]).encode()]


@pytest.mark.parametrize("options", BOTH)
def test_no_descriptor_is_left_open(tmp_path: Path, options: tuple[str, ...]) -> None:
    # Descriptor 9 is the caller's own and must come through.
    listing = "import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd')))"
    program = ["/usr/bin/python3", "-c", listing]
    shown = []
    for words in (program, command(tmp_path / "t.json", program, *options)):
        done = subprocess.run(
            ["bash", "-c", 'exec "$@" 9</dev/null', "sh", *words],
            stdin=subprocess.DEVNULL, env=environment(), capture_output=True, check=True,
        )  # fmt: skip
        shown.append(done.stdout)
    assert shown[0] == shown[1] == b"[0, 1, 2, 3, 9]\n"


#: What /proc/self/status says that memtrace could change by accident.
KEPT = ("SigQ", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "Umask", "Uid", "Gid", "Groups",
        "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "CoreDumping", "THP_enabled",
        "Cpus_allowed_list", "Threads")  # fmt: skip


def status(raw: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in raw.decode().splitlines())
    fields = {key: value.strip() for key, _, value in pairs}
    fields["SigQ"] = fields["SigQ"].partition("/")[2]  # the limit; the rest is the whole user's
    return fields


@pytest.mark.parametrize("options", BOTH)
@pytest.mark.parametrize("shell", [
    "true",
    # Not PIPE and XFSZ: the interpreter ignores these two itself, and nobody can tell.
    "trap '' INT TERM HUP QUIT USR1 ALRM CHLD",
    "umask 027; ulimit -c 0",
], ids=["plain", "ignoring", "umask"])  # fmt: skip
def test_signals_umask_and_privileges(tmp_path: Path, shell: str, options: tuple[str, ...]) -> None:
    shown = []
    for words in (["cat"], command(tmp_path / "t.json", ["cat"], *options)):
        done = subprocess.run(
            ["bash", "-c", shell + '; exec "$@" /proc/self/status', "sh", *words],
            env=environment(), capture_output=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
        shown.append(status(done.stdout))
    without, within = shown
    assert {k: within.get(k) for k in KEPT} == {k: without.get(k) for k in KEPT}


def test_a_blocked_signal_stays_blocked(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    shown = []
    for words in (["/bin/cat"], command(tmp_path / "t.json", ["cat"])):
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "/proc/self/status"],
            env=environment(), capture_output=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
        shown.append(status(done.stdout)["SigBlk"])
    assert shown[0] == shown[1] == f"{1 << 9 | 1 << 14:016x}"


def test_new_privileges_are_only_given_up_where_the_filter_needs_it(
    run: Callable[..., Traced],
) -> None:
    # seccomp(2): without CAP_SYS_ADMIN a filter can only be set after no_new_privs.
    privileges = status(run("cat", "/proc/self/status").stdout)["NoNewPrivs"]
    assert privileges == ("0" if os.geteuid() == 0 else "1")
    done = run("cat", "/proc/self/status", options=("--no-seccomp",))
    assert status(done.stdout)["NoNewPrivs"] == "0"


def test_limits(tmp_path: Path) -> None:
    def lower() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, resource.RLIM_INFINITY))

    without, within = both(tmp_path, ["cat", "/proc/self/limits"], preexec_fn=lower)
    assert within.stdout == without.stdout
    assert b"200" in within.stdout


def test_the_working_directory_and_the_names_in_it(tmp_path: Path) -> None:
    program = tmp_path / "prog"
    program.write_text('#!/bin/sh\npwd; echo "$0" "$@"; exit 6\n')
    program.chmod(0o755)
    without, within = both(tmp_path, ["./prog", "x"], cwd=tmp_path)
    assert within.returncode == 6
    assert within.stdout == without.stdout
    assert within.stdout.splitlines() == [bytes(tmp_path), b"./prog x"]


def test_the_default_output_is_trace_json_beside_the_user(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "memtrace", "run", "--", "true"]
    subprocess.run(words, env=environment(), cwd=tmp_path, capture_output=True, check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["trace.json"]
    # What a program was called with is nobody else's business.
    assert stat.S_IMODE((tmp_path / "trace.json").stat().st_mode) == 0o600


def test_the_parent_is_the_tracer_and_the_group_is_the_callers(tmp_path: Path) -> None:
    code = "import os; print(os.getpgrp(), os.getsid(0), os.getppid())"
    with subprocess.Popen(
        command(tmp_path / "t.json", ["/usr/bin/python3", "-c", code]),
        stdout=subprocess.PIPE, env=environment(),
    ) as memtrace:  # fmt: skip
        assert memtrace.stdout is not None
        group, session, parent = map(int, memtrace.stdout.read().split())
    assert (group, session, parent) == (os.getpgrp(), os.getsid(0), memtrace.pid)
