# SPDX-License-Identifier: GPL-2.0-or-later
"""Before the program starts: which file is run, on which machine, in which environment, and what
is said when it cannot be.
"""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path

import pytest

from memtrace.collect import machine, procfs
from memtrace.collect.abi import NAMES
from memtrace.collect.launch import environment, not_executable, resolve
from memtrace.collect.machine import require_kernel
from memtrace.collect.options import NEVER, Options, parse_snapshots
from memtrace.trace.errors import (
    MemtraceError,
    NotExecutableError,
    NotFoundError,
    TargetError,
    UsageError,
)


def program(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


# -- which file ---------------------------------------------------------------------------------


def test_the_first_executable_of_the_path_is_run(tmp_path: Path) -> None:
    program(tmp_path / "a" / "prog", 0o644)  # passed over, as execvp does
    (tmp_path / "b" / "prog").mkdir(parents=True)
    third = program(tmp_path / "c" / "prog")
    program(tmp_path / "d" / "prog")
    path = ":".join(str(tmp_path / d) for d in ("missing", "a", "b", "c", "d"))
    assert resolve("prog", path) == third


def test_an_empty_element_of_the_path_is_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "prog")
    monkeypatch.chdir(tmp_path)
    assert resolve("prog", "/nowhere:") == "./prog"
    assert resolve("prog", "/nowhere::/usr") == "./prog"
    with pytest.raises(NotFoundError):
        resolve("prog", "/nowhere")


def test_a_name_with_a_slash_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = program(tmp_path / "x" / "prog")
    monkeypatch.chdir(tmp_path)
    assert resolve(full, "") == full
    assert resolve("x/prog", "") == "x/prog"
    with pytest.raises(NotFoundError, match=r"cannot run y/prog: no such file$"):
        resolve("y/prog", str(tmp_path))


def test_the_path_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = program(tmp_path / "prog")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resolve("prog") == full
    monkeypatch.delenv("PATH")
    assert resolve("sh") in {"/bin/sh", "/usr/bin/sh"}


def test_no_program_at_all() -> None:
    with pytest.raises(NotFoundError, match="no program is named") as e:
        resolve("")
    assert e.value.exit_code == 127


@pytest.mark.parametrize(
    ("name", "error", "code", "sentence"),
    [
        ("plain", NotExecutableError, 126, "permission denied"),
        ("folder", NotExecutableError, 126, "it is a directory"),
        ("missing", NotFoundError, 127, "no such file"),
        ("plain/prog", NotFoundError, 127, "no such file"),
    ],
)
def test_what_cannot_be_run_says_why(
    tmp_path: Path, name: str, error: type[MemtraceError], code: int, sentence: str
) -> None:
    program(tmp_path / "plain", 0o644)
    (tmp_path / "folder").mkdir()
    with pytest.raises(error, match=sentence) as e:
        resolve(str(tmp_path / name))
    assert e.value.exit_code == code
    assert str(tmp_path / name) in e.value.message
    assert e.value.hint


def test_a_file_in_the_path_that_is_not_executable_is_named(tmp_path: Path) -> None:
    full = program(tmp_path / "prog", 0o644)
    with pytest.raises(NotExecutableError) as e:
        resolve("prog", f"{tmp_path}:/nowhere")
    assert e.value.message == f"cannot run {full}: permission denied"
    assert e.value.hint == f"chmod +x {full}"
    with pytest.raises(NotFoundError, match="cannot run other: no such file in PATH"):
        resolve("other", str(tmp_path))
    (tmp_path / "sub").mkdir()
    with pytest.raises(NotFoundError, match="cannot run sub: no such file in PATH"):
        resolve("sub", str(tmp_path))


@pytest.mark.parametrize(
    ("number", "code", "sentence", "hint"),
    [
        (errno.ENOENT, 127, "its interpreter does not exist", "head -c 80"),
        (errno.ENOEXEC, 126, "not a program of this machine", "run -- sh"),
        (errno.EACCES, 126, "permission denied", "chmod +x"),
        (errno.ETXTBSY, 126, "text file busy", "ls -l"),
        (errno.E2BIG, 126, "argument list too long", "ls -l"),
        (errno.ELOOP, 126, "too many levels of symbolic links", "ls -l"),
    ],
)
def test_a_failed_exec_says_why(
    tmp_path: Path, number: int, code: int, sentence: str, hint: str
) -> None:
    path = program(tmp_path / "prog")
    e = not_executable(path, number)
    assert e.exit_code == code
    assert e.message.startswith(f"cannot run {path}: {sentence}")
    assert hint in e.hint
    assert path in e.hint


def test_a_failed_exec_of_a_directory(tmp_path: Path) -> None:
    e = not_executable(str(tmp_path), errno.EACCES)
    assert (e.exit_code, e.message) == (126, f"cannot run {tmp_path}: it is a directory")


# -- the environment ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started_with", "now", "expected"),
    [
        # PEP 538: in the C locale the interpreter sets LC_CTYPE for itself and its children.
        pytest.param(b"A=1\0", b"C.UTF-8", None, id="the interpreter's own"),
        pytest.param(b"A=1\0LC_CTYPE=C\0", b"C.UTF-8", b"C", id="the user's, coerced"),
        pytest.param(b"LC_CTYPE=C.UTF-8\0A=1\0", b"C.UTF-8", b"C.UTF-8", id="the user's"),
        pytest.param(b"XLC_CTYPE=C\0", b"C.utf8", None, id="another variable"),
        pytest.param(b"A=1\0", b"de_DE.UTF-8", b"de_DE.UTF-8", id="no coercion"),
        pytest.param(b"", None, None, id="none"),
    ],
)
def test_the_program_gets_the_users_locale(
    monkeypatch: pytest.MonkeyPatch, started_with: bytes, now: bytes | None, expected: bytes | None
) -> None:
    monkeypatch.setattr(procfs, "read", {"/proc/self/environ": started_with}.__getitem__)
    given = {b"A": b"1", b"RAW": b"\xff"} | ({} if now is None else {b"LC_CTYPE": now})
    monkeypatch.setattr(os, "environb", given)
    env = environment()
    assert env.get(b"LC_CTYPE") == expected
    assert (env[b"A"], env[b"RAW"]) == (b"1", b"\xff")


# -- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["5.3.0", "5.10.0-28-amd64", "6.0", "10.2.1+", "strange"])
def test_a_new_enough_kernel(release: str) -> None:
    require_kernel(release)


@pytest.mark.parametrize("release", ["5.2.21", "4.19.0-26-amd64", "3.10.0-1160.el7.x86_64"])
def test_too_old_a_kernel_is_refused(release: str) -> None:
    with pytest.raises(TargetError, match=r"needs 5\.3 or later") as e:
        require_kernel(release)
    assert release in e.value.message
    assert e.value.exit_code == 125


@pytest.mark.parametrize(("system", "arch"), [("Linux", "aarch64"), ("Darwin", "x86_64")])
def test_another_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch, system: str, arch: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: arch)
    with pytest.raises(TargetError, match=f"not {system} {arch}"):
        require_kernel("6.1")


def test_the_header_says_what_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/sys/kernel/mm/transparent_hugepage/enabled": b"always [madvise] never\n",
        "/proc/sys/vm/max_map_count": b"65530\n",
        "/proc/sys/vm/overcommit_memory": b"",
    }
    monkeypatch.setattr(machine, "read", files.__getitem__)
    h = machine.header("ptrace", ["prog", "a b", os.fsdecode(b"\xff")])
    assert (h.engine, h.thp, h.max_map_count, h.overcommit) == ("ptrace", "madvise", 65530, None)
    assert h.argv == ["prog", "a b", "\\xff"]
    assert h.calls == list(NAMES)
    assert (h.kernel, h.page_size) == (os.uname().release, 4096)


# -- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("off", {"every_ns": NEVER}),
        ("every=1", {"every_calls": 1}),
        ("every=1000", {"every_calls": 1000}),
        ("every=20ms", {"every_ns": 20_000_000, "min_calls": 1}),
        ("every=1.5s", {"every_ns": 1_500_000_000, "min_calls": 1}),
        ("every=1ns", {"every_ns": 1, "min_calls": 1}),
    ],
)
def test_when_snapshots_are_taken(text: str | None, expected: dict[str, int]) -> None:
    assert parse_snapshots(text) == expected
    assert set(expected) <= set(Options.__dataclass_fields__)


@pytest.mark.parametrize(
    "text",
    [
        "", "on", "every", "every=", "every=0", "every=-5", "every=0ms", "every=0.1ns", "every=5x",
        "every=5 parsecs", "each=5ms", "OFF", "every=\u00b2", "every=" + "9" * 400 + "s",
        "every=" + "9" * 5000,
    ],
)  # fmt: skip
def test_any_other_word_is_refused_with_the_ones_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="--snapshots cannot be") as e:
        parse_snapshots(text)
    assert "every=100ms" in e.value.hint
    assert e.value.exit_code == 2
