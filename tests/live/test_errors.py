# SPDX-License-Identifier: GPL-2.0-or-later
"""What cannot be run or written: a sentence, a remedy, the exit code, and nothing half done."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.live.tracing import PATIENCE, Traced, cli, command, environment, trace

LINES = 2  # the sentence, the remedy


def said(done: Traced, *words: str) -> None:
    lines = done.stderr.splitlines()
    assert len(lines) == LINES, done.stderr
    assert lines[0].startswith("memtrace: ")
    assert lines[1].startswith("  try: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def odd(tmp_path: Path) -> Callable[[str], Path]:
    """Files that are no programs."""

    def make(what: str) -> Path:
        path = tmp_path / what
        if what == "directory":
            path.mkdir()
            return path
        path.write_bytes({
            "no-execute-bit": b"#!/bin/sh\nexit 0\n",
            "no-format": b"just text\n",
            "empty": b"",
            "no-interpreter": b"#!/no/such/interpreter\n",
            "cut-elf": b"\x7fELF\x02\x01\x01",
        }[what])  # fmt: skip
        path.chmod(0o644 if what == "no-execute-bit" else 0o755)
        return path

    return make


@pytest.mark.parametrize("options", [(), ("--no-seccomp",)])
@pytest.mark.parametrize(("what", "code", "word"), [
    ("directory", 126, "is a directory"),
    ("no-execute-bit", 126, "permission denied"),
    ("no-format", 126, "not a program"),
    ("empty", 126, "not a program"),
    ("cut-elf", 126, "not a program"),
    ("no-interpreter", 127, "interpreter does not exist"),
])  # fmt: skip
def test_what_cannot_be_executed(
    tmp_path: Path, odd: Callable[[str], Path], what: str, code: int, word: str,
    options: tuple[str, ...],
) -> None:  # fmt: skip
    program = odd(what)
    path = tmp_path / "t.json"
    path.write_text("what was there before")
    done = trace(path, [program], *options)
    assert done.returncode == code
    said(done, str(program), word)
    assert path.read_text() == "what was there before"
    assert not path.with_name("t.json.old").exists()


@pytest.mark.parametrize("program", ["no-such-program-anywhere", "./no-such-file", "/no/such"])
def test_what_does_not_exist(tmp_path: Path, program: str) -> None:
    done = trace(tmp_path / "t.json", [program])
    assert done.returncode == 127
    said(done, program, "no such file")
    assert not done.path.exists()


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("the first")
    done = trace(path, ["true"])
    done.assert_exact()
    old = path.with_name("t.json.old")
    assert old.read_text() == "the first"
    first = path.read_bytes()
    trace(path, ["true"]).assert_exact()
    assert old.read_bytes() == first


def test_an_output_that_cannot_be_created(tmp_path: Path) -> None:
    witness = tmp_path / "started"
    done = trace(tmp_path / "t.json", ["true"])  # the account file's folder must exist
    words = command(tmp_path / "no" / "such" / "t.json", ["touch", witness])
    failed = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert failed.returncode == 125
    done = Traced(done.path, 125, b"", failed.stderr, [])
    said(done, "cannot write", "no such file")
    assert not witness.exists()


def test_what_to_type_is_an_attach_when_it_was_one(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as target:
        try:
            done = cli("attach", "-o", tmp_path / "no" / "t.json", target.pid)
            assert target.poll() is None
        finally:
            target.kill()
    assert done.returncode == 125
    assert done.stderr.splitlines() == [
        f"memtrace: cannot write {tmp_path}/no/t.json: no such file or directory",
        f"  try: memtrace attach -o /tmp/trace.json {target.pid}",
    ]


def test_an_output_that_is_a_directory(tmp_path: Path) -> None:
    witness = tmp_path / "started"
    (tmp_path / "d.json").mkdir()
    done = trace(tmp_path / "d.json", ["touch", witness])
    assert done.returncode == 125
    said(done, "cannot write", "is a directory")
    assert not witness.exists()


def test_a_device_that_is_full_from_the_start(tmp_path: Path) -> None:
    witness = tmp_path / "started"
    words = command(Path("/dev/full"), ["touch", witness])
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "no space left" in done.stderr
    assert not witness.exists()
    assert Path("/dev/full").exists()


def test_the_null_device_takes_a_trace(run: Callable[..., Traced]) -> None:
    done = subprocess.run(
        command(Path("/dev/null"), ["sh", "-c", "exit 5"]), env=environment(), check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 5
    assert Path("/dev/null").is_char_device()


@pytest.fixture(params=["full-disk", "file-size-limit"])
def little_room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A folder with room for 100 KiB, half of the smallest trace here: `path` and what
    `subprocess` needs. Without root, and where mounting is forbidden, a limit on the file's size
    stands for the full disk.
    """
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = False
    if request.param == "full-disk" and os.geteuid() == 0:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder],
            check=False, capture_output=True,
        )  # fmt: skip
        mounted = done.returncode == 0

    def limit() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, hard))

    yield {"path": folder / "t.json", "kw": {} if mounted else {"preexec_fn": limit}}
    if mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zst"])
def test_a_disk_that_fills_up_while_the_program_runs(
    samples: Path, little_room: dict[str, Any], suffix: str
) -> None:
    path = Path(str(little_room["path"])).with_suffix("").with_suffix(suffix)
    done = subprocess.run(
        command(path, [samples / "syscall-churn", "mmap", "40", "1000"]), env=environment(),
        capture_output=True, text=True, check=False, timeout=PATIENCE,
        **little_room["kw"],
    )  # fmt: skip
    assert done.returncode == 125, done.stderr
    assert "exit 0 " in done.stderr
    assert "the trace is incomplete: cannot write" in done.stderr
    assert ("file too large" if little_room["kw"] else "no space left") in done.stderr
    assert "Traceback" not in done.stderr
    # The program ran on to its end: it has measured its calls.
    assert done.stdout
    assert path.stat().st_size > 50_000
    verified = cli("verify", path)
    assert verified.returncode == 3, verified.stdout
    assert verified.stdout.startswith("incomplete: "), verified.stdout
    traced = Traced(path, 125, b"", done.stderr, [])
    assert len(traced.calls()) > 500
    assert not any(p.drifted for p in traced.replayed.processes)
    assert cli("maps", path, "--at", "end").returncode == 0


def test_a_program_that_fails_keeps_its_code_on_a_full_disk(
    little_room: dict[str, Any], samples: Path
) -> None:
    path = Path(str(little_room["path"]))
    script = '"$0" mmap 10 1000; exit 44'
    done = subprocess.run(
        command(path, ["sh", "-c", script, samples / "syscall-churn"]), env=environment(),
        capture_output=True, text=True, check=False, timeout=PATIENCE,
        **little_room["kw"],
    )  # fmt: skip
    assert done.returncode == 44
    assert "incomplete" in done.stderr


def test_without_permission_to_read_the_program(tmp_path: Path) -> None:
    # An execute-only file is no obstacle to running it.
    program = tmp_path / "prog"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o111)
    with contextlib.suppress(FileNotFoundError):
        trace(tmp_path / "t.json", [program]).assert_exact()


@pytest.mark.parametrize("arguments", [
    ["run"], ["run", "--"], ["run", "--no-such-option", "true"], ["run", "--engine", "x", "true"],
    ["run", "--engine", "bpf", "true"], ["run", "--snapshots", "every=0", "true"],
    ["run", "--snapshots", "often", "true"], ["run", "--faults", "true"],
])  # fmt: skip
def test_a_command_line_that_makes_no_sense(tmp_path: Path, arguments: list[str]) -> None:
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == LINES, done.stderr
    assert not list(tmp_path.iterdir())
