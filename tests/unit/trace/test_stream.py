# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose file a trace becomes: nobody else's to read, and nobody else's to choose."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from memtrace.trace.stream import Output, is_planted

SUFFIXES = ("json", "json.gz", "json.zst")


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def written(path: Path, data: bytes = b"x\n") -> Output:
    output = Output(str(path))
    output.write(data)
    output.close()
    return output


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.usefixtures("no_umask")
def test_a_trace_is_its_owners_alone(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    written(path)
    assert mode(path) == 0o600


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.usefixtures("no_umask")
def test_also_where_a_file_was_that_everybody_could_read(tmp_path: Path, suffix: str) -> None:
    path, old = tmp_path / f"t.{suffix}", tmp_path / f"t.{suffix}.old"
    path.write_text("first")
    path.chmod(0o644)
    with path.open() as reader:  # whoever has it open sees the old one only
        written(path)
        assert reader.read() == "first"
    assert (mode(path), mode(old)) == (0o600, 0o644)
    written(path)
    assert (mode(path), mode(old)) == (0o600, 0o600)


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_through_a_link(tmp_path: Path, *, there: bool) -> None:
    path, victim = tmp_path / "t.json", tmp_path / "victim"
    if there:
        victim.write_text("precious")
    path.symlink_to(victim)
    written(path)
    assert not path.is_symlink()
    assert path.read_bytes() == b"x\n"
    assert (tmp_path / "t.json.old").readlink() == victim
    assert victim.exists() == there
    assert not there or victim.read_text() == "precious"


def test_what_appears_meanwhile_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, victim = tmp_path / "t.json", tmp_path / "victim"
    path.write_text("first")
    really = os.replace

    def racing(old: str, new: str) -> None:
        really(old, new)
        path.symlink_to(victim)

    monkeypatch.setattr(os, "replace", racing)
    with pytest.raises(FileExistsError):
        Output(str(path))
    assert not victim.exists()


def test_an_old_one_that_is_a_link_is_replaced(tmp_path: Path) -> None:
    path, old, victim = tmp_path / "t.json", tmp_path / "t.json.old", tmp_path / "victim"
    victim.write_text("precious")
    path.write_text("first")
    old.symlink_to(victim)
    written(path)
    assert (old.read_text(), victim.read_text()) == ("first", "precious")
    assert not old.is_symlink()


def test_a_descriptor_is_written_to_and_its_name_stays(tmp_path: Path) -> None:
    # As /dev/stdout is a link: `memtrace run -o /dev/stdout ... > file`.
    link, file = tmp_path / "stdout", tmp_path / "file"
    with file.open("wb") as f:
        link.symlink_to(f"/proc/self/fd/{f.fileno()}")
        f.write(b"before\n")
        f.flush()
        for name in (link, Path(f"/dev/fd/{f.fileno()}")):
            written(name).discard()
        assert link.is_symlink()
    assert file.read_bytes() == b"before\nx\nx\n"
    assert {p.name for p in tmp_path.iterdir()} == {"stdout", "file"}


def test_a_link_to_a_device_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    written(link).discard()
    assert link.is_symlink()


def test_another_processs_descriptor_is_a_link_like_any(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "t.json"
    with (
        file.open("wb") as f,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=f) as other,
    ):
        link.symlink_to(f"/proc/{other.pid}/fd/1")
        written(link)
    assert file.read_bytes() == b""
    assert not link.is_symlink()


def test_discarding_leaves_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("first")
    output = written(path)
    other = tmp_path / "other"
    other.write_text("somebody's")
    other.replace(path)
    output.discard()
    assert path.read_text() == "somebody's"
    assert (tmp_path / "t.json.old").read_text() == "first"


@pytest.mark.parametrize(("owner", "folder_mode", "folder_owner", "me", "planted"), [
    (7, 0o41777, 0, 8, True),
    (7, 0o41777, 0, 0, True),
    (7, 0o41777, 0, 7, False),  # mine
    (0, 0o41777, 0, 8, False),  # the folder's owner's
    (7, 0o40777, 0, 8, False),  # anybody may remove it, the user knows
    (7, 0o41775, 0, 8, False),  # not for everybody
])  # fmt: skip
def test_what_others_put_into_tmp_is_told(
    *, owner: int, folder_mode: int, folder_owner: int, me: int, planted: bool
) -> None:
    def status(mode: int, uid: int) -> os.stat_result:
        return os.stat_result((mode, 1, 1, 1, uid, 0, 0, 0, 0, 0))

    entry, folder = status(0o10666, owner), status(folder_mode, folder_owner)
    assert is_planted(entry, folder, me) is planted
