# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that get privileges from their file, traced by a user who has none: they run without,
as under any tracer, and it is said.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live.hard import build
from tests.live.tracing import (
    ACCOUNT_FD,
    PATIENCE,
    Traced,
    account_of,
    environment,
)

from memtrace.trace.reader import Trace
from memtrace.trace.records import Exec

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to make a setuid program")

NOBODY = 65534
#: Becomes another user after everything is imported, because the interpreter may be root's alone,
#: and dumpable again, as a program of that user's is.
AS_NOBODY = f"""
import ctypes, difflib, fcntl, os, sys
import email.parser, memtrace.cli.main, memtrace.cli.run
import memtrace.collect.options, memtrace.collect.recorder
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
os.chdir("/")
sys.exit(memtrace.cli.main.run(sys.argv[1:]))
"""
AS_ROOT = "import sys, memtrace.cli.main as m; sys.exit(m.run(sys.argv[1:]))"
CAP_NET_RAW = 1 << 13
#: struct vfs_cap_data, revision 2 with the effective bit: that one capability.
CAPABILITIES = struct.pack("<5I", 0x02000001, CAP_NET_RAW, 0, 0, 0)


@pytest.fixture
def program() -> Iterator[Path]:
    """hard_cases in a folder of root's that everybody may look into; `trace.json` there can be
    anybody's.
    """
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o1777)
    try:
        assert not os.statvfs(folder).f_flag & os.ST_NOSUID, f"{folder} is mounted nosuid"
        yield build(folder)
    finally:
        shutil.rmtree(folder)


def run(code: str, program: Path, *words: str | Path, options: tuple[str, ...] = ()) -> Traced:
    path, told = program.with_name("trace.json"), program.with_name("account")
    with told.open("wb") as account:
        done = subprocess.run(
            [
                "bash", "-c", f'exec "$@" {ACCOUNT_FD}>&{account.fileno()}', "bash",
                sys.executable, "-c", code, "run", "-o", path, *options, "--", *words,
            ],
            pass_fds=[account.fileno()], env=environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    return Traced(path, done.returncode, b"", done.stderr, account_of(told))


def facts(done: Traced) -> dict[str, int]:
    """What the program says of itself."""
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    assert done.assert_marks(grown=True) == 1
    (euid, egid, raw) = done.told("who")
    return {"euid": euid["euid"], "egid": egid["egid"], "net_raw": raw["net_raw"]}


def withheld(done: Traced) -> list[list[str]]:
    with Trace(str(done.path)) as trace:
        return [r.withheld for _, _, r in trace.records() if isinstance(r, Exec)]


def grant(kind: str, program: Path) -> str:
    """Give it to the file; returns how it is called."""
    if kind == "setuid":
        program.chmod(0o4755)
        return "setuid root"
    if kind == "setgid":
        os.chown(program, 0, 0)
        program.chmod(0o2755)
        return "setgid root"
    os.setxattr(program, "security.capability", CAPABILITIES)
    return "given capabilities"


OWN = {"setuid": "euid", "setgid": "egid", "capabilities": "net_raw"}
KINDS = pytest.mark.parametrize("kind", list(OWN))


@KINDS
@pytest.mark.parametrize("options", [(), ("--no-seccomp",)], ids=["filter", "no-seccomp"])
def test_it_runs_without_and_it_is_said(program: Path, kind: str, options: tuple[str, ...]) -> None:
    phrase = grant(kind, program)
    done = run(AS_NOBODY, program, program, "who", options=options)
    assert facts(done) == {"euid": NOBODY, "egid": NOBODY, "net_raw": 0}
    assert withheld(done) == [[kind]]
    lines = done.stderr.splitlines()
    assert lines[-2] == (
        f"memtrace: {program} is {phrase} and ran without that privilege, "
        "because the kernel withholds it from a traced program"
    )
    assert lines[-1] == (
        f"  try: sudo memtrace run -- setpriv --reuid={NOBODY} --regid={NOBODY} --init-groups "
        f"{program} who"
    )


@KINDS
def test_what_is_typed_then_helps(program: Path, kind: str) -> None:
    grant(kind, program)
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--init-groups"]
    done = run(AS_ROOT, program, "setpriv", *user, program, "who")
    plain = {"euid": NOBODY, "egid": NOBODY, "net_raw": 0}
    own = {
        "setuid": {"euid": 0, "net_raw": 1},
        "setgid": {"egid": 0},
        "capabilities": {"net_raw": 1},
    }
    assert facts(done) == plain | own[kind]
    assert withheld(done) == [[], []]
    assert "privilege" not in done.stderr


def test_a_program_that_another_one_starts(program: Path) -> None:
    grant("setuid", program)
    script = f"{program} who; {program} who 3>&-; exit 0"
    done = run(AS_NOBODY, program, "sh", "-c", script)
    assert facts(done)["euid"] == NOBODY
    assert withheld(done) == [[], ["setuid"], ["setuid"]]
    assert done.stderr.count("setuid root and ran without") == 1
    assert "privilege" not in run(AS_NOBODY, program, program, "who", options=("-q",)).stderr


def test_where_it_would_have_none_anyway(program: Path) -> None:
    grant("setuid", program)
    words: list[str | Path] = ["setpriv", "--no-new-privs", program, "who"]
    done = run(AS_NOBODY, program, *words, options=("--no-seccomp",))
    assert facts(done)["euid"] == NOBODY
    assert withheld(done) == [[], []]
    root = run(AS_ROOT, program, program, "who")
    assert facts(root) == {"euid": 0, "egid": 0, "net_raw": 1}
    assert withheld(root) == [[]]
