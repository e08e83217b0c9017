# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache beside a trace: used only if it was made of this very trace by this very program."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import memtrace
from memtrace.trace import sidecar
from memtrace.trace.beside import SUFFIX
from memtrace.trace.sidecar import Memory, Sidecar, SidecarWriter, Source, is_file, is_large

BLOBS = {"one": b"first" * 100, "two": b"", "three": bytes(range(256))}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.json"
    path.write_bytes(b"what the trace holds\n" * 50)
    return path


def cache_of(trace: Path) -> Path:
    return Path(f"{trace}{SUFFIX}")


def made(trace: Path) -> bytes:
    writer = SidecarWriter(str(trace))
    for name, data in BLOBS.items():
        writer.add(name, data)
    writer.finish()
    return cache_of(trace).read_bytes()


def found(trace: Path) -> dict[str, bytes | None] | None:
    beside = Sidecar.of(str(trace))
    if beside is None:
        return None
    blobs = {name: beside.get(name) for name in BLOBS}
    assert beside.get("another") is None
    beside.close()
    return blobs


def test_what_was_kept_is_found_again(trace: Path) -> None:
    assert found(trace) is None
    made(trace)
    assert found(trace) == BLOBS
    assert set(trace.parent.iterdir()) == {cache_of(trace), trace}
    assert cache_of(trace).stat().st_mode & 0o777 == 0o600


def test_another_content_of_the_same_size_is_another_trace(trace: Path) -> None:
    made(trace)
    before = trace.stat()
    data = bytearray(trace.read_bytes())
    data[500] ^= 1
    trace.write_bytes(data)
    os.utime(trace, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found(trace) is None
    data[500] ^= 1
    trace.write_bytes(data)
    assert found(trace) == BLOBS


def test_a_damaged_byte_anywhere_gives_nothing_wrong(trace: Path) -> None:
    whole = made(trace)
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 0x55
        cache_of(trace).write_bytes(damaged)
        blobs = found(trace)
        assert blobs is None or all(v is None or v == BLOBS[n] for n, v in blobs.items()), i
        assert blobs != BLOBS, i


def test_a_cut_cache_is_none(trace: Path) -> None:
    whole = made(trace)
    for size in range(len(whole)):
        cache_of(trace).write_bytes(whole[:size])
        assert found(trace) is None, size


def test_another_version_of_memtrace_makes_its_own(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(trace)
    monkeypatch.setattr(sidecar, "code_digest", lambda: b"another")
    assert found(trace) is None


def copied_source(to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """memtrace's own source once more, in `to`; returns the folder of `malloc`."""
    for i, root in enumerate(list(memtrace.__path__)):
        shutil.copytree(root, to / str(i))
    monkeypatch.setattr(memtrace, "__path__", [str(one) for one in to.iterdir()])
    return next(one for one in to.glob("*/malloc"))


def test_the_digest_of_the_program_covers_what_makes_the_blobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sidecar.code_digest()
    roots = [Path(folder) for folder in memtrace.__path__]
    assert all(any((root / part).is_dir() for root in roots) for part in sidecar.PARTS[:4])
    file = copied_source(tmp_path, monkeypatch) / "regions.py"
    sidecar.code_digest.cache_clear()
    try:
        assert sidecar.code_digest() == real
        file.write_text(file.read_text() + "\n")
        sidecar.code_digest.cache_clear()
        assert sidecar.code_digest() != real
    finally:
        sidecar.code_digest.cache_clear()


def test_an_editors_lock_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sidecar.code_digest()
    folder = copied_source(tmp_path, monkeypatch)
    (folder / ".#codec.py").symlink_to("ann@host.1234:1700000000")
    os.mkfifo(folder / "pipe.py")
    sidecar.code_digest.cache_clear()
    try:
        assert sidecar.code_digest() == real
    finally:
        sidecar.code_digest.cache_clear()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_cannot_be_checked_is_not_used(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(trace)
    before = open_files()

    def unreadable() -> bytes:
        raise PermissionError(13, "Permission denied")

    def interrupted() -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(sidecar, "code_digest", unreadable)
        assert found(trace) is None
    with monkeypatch.context() as m:
        m.setattr(sidecar, "code_digest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            found(trace)
    assert found(trace) == BLOBS
    trace.unlink()
    assert found(trace) is None
    assert open_files() == before


def test_what_others_may_have_written_is_not_used(trace: Path) -> None:
    made(trace)
    cache_of(trace).chmod(0o620)
    assert found(trace) is None
    cache_of(trace).chmod(0o600)
    assert found(trace) == BLOBS
    if os.geteuid() == 0:
        os.chown(cache_of(trace), 12345, 12345)
        assert found(trace) is None


def test_no_link_is_followed_and_nothing_else_replaced(trace: Path, tmp_path: Path) -> None:
    made(trace)
    elsewhere = tmp_path / "elsewhere"
    cache_of(trace).rename(elsewhere)
    cache_of(trace).symlink_to(elsewhere)
    assert found(trace) is None
    cache_of(trace).unlink()
    cache_of(trace).write_bytes(b"a file of the user's own")
    writer = SidecarWriter(str(trace))
    writer.add("one", b"x")
    writer.finish()
    assert cache_of(trace).read_bytes() == b"a file of the user's own"
    assert found(trace) is None


@pytest.mark.parametrize("size", [0, 8, 16, 17, 30, -1])
def test_a_torn_cache_is_replaced(trace: Path, size: int) -> None:
    whole = made(trace)
    cache_of(trace).write_bytes(whole[:size])
    assert found(trace) is None
    made(trace)
    assert found(trace) == BLOBS


@pytest.mark.parametrize("data", [b"m", b"memtrace\n", bytes(40)])
def test_what_only_looks_like_a_torn_one_stays(trace: Path, data: bytes) -> None:
    cache_of(trace).write_bytes(data)
    assert made(trace) == data


def test_another_users_empty_file_stays(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_of(trace).touch()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert made(trace) == b""


@pytest.mark.parametrize(
    ("mode", "links", "owner", "folder_mode", "folder_owner", "left"),
    [
        (0o100600, 1, 0, 0o40755, 7, True),
        (0o100600, 1, 7, 0o40755, 7, False),  # one's own, which one has locked oneself
        (0o100640, 1, 0, 0o40755, 7, False),  # not as memtrace makes them
        (0o100600, 2, 0, 0o40755, 7, False),  # somebody has a use of it elsewhere
        (0o40600, 1, 0, 0o40755, 7, False),
        (0o100600, 1, 0, 0o40777, 0, False),  # in another's folder
        (0o100600, 1, 0, 0o41777, 7, False),  # in one for everybody
    ],
)  # fmt: skip
def test_what_another_has_left_in_ones_own_folder(
    *, mode: int, links: int, owner: int, folder_mode: int, folder_owner: int, left: bool
) -> None:
    def status(mode: int, uid: int, links: int) -> os.stat_result:
        return os.stat_result((mode, 1, 1, links, uid, 0, 0, 0, 0, 0))

    entry, folder = status(mode, owner, links), status(folder_mode, folder_owner, 2)
    assert sidecar.is_left_by_another(entry, folder, 7) is left


@pytest.mark.parametrize("left", [True, False])
def test_a_cache_that_cannot_be_read_is_replaced_if_another_left_it(
    trace: Path, monkeypatch: pytest.MonkeyPatch, *, left: bool
) -> None:
    cache_of(trace).write_bytes(b"cannot be read")
    real = os.open

    def refused(path: str, flags: int, mode: int = 0o777) -> int:
        if path == str(cache_of(trace)):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode)

    with monkeypatch.context() as m:
        m.setattr(os, "open", refused)
        m.setattr(sidecar, "is_left_by_another", lambda *_: left)
        made(trace)
    assert found(trace) == (BLOBS if left else None)


def test_a_trace_that_changes_meanwhile_gets_none(trace: Path) -> None:
    writer = SidecarWriter(str(trace))
    writer.add("one", b"x")
    with trace.open("ab") as f:
        f.write(b"more")
    writer.finish()
    assert writer.get("one") == b"x"  # this one reading has its use of it
    assert list(trace.parent.iterdir()) == [trace]


def test_an_abandoned_one_leaves_nothing(trace: Path) -> None:
    writer = SidecarWriter(str(trace))
    writer.add("one", b"x")
    writer.abandon()
    writer.add("two", b"y")
    writer.finish()
    assert list(trace.parent.iterdir()) == [trace]
    assert writer.get("one") is None


def test_where_nothing_can_be_written_this_reading_has_its_use_of_it(tmp_path: Path) -> None:
    for path in ("/proc/self/maps", str(tmp_path / "none" / "t.json"), "/dev/null"):
        writer = SidecarWriter(path)
        writer.add("one", b"x")
        assert writer.get("one") == b"x"
        assert writer.get("two") is None
        writer.finish()
        assert Sidecar.of(path) is None


def test_a_full_disk_is_no_failure(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SidecarWriter(str(trace))
    writer.add("one", b"x")

    def full(_fd: int, _data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    writer.add("two", b"y")
    writer.finish()
    assert list(trace.parent.iterdir()) == [trace]
    assert (writer.get("one"), writer.get("two")) == (b"x", b"y")


def test_a_cache_that_is_not_whole_has_no_name(trace: Path) -> None:
    try:
        os.close(os.open(trace.parent, os.O_RDWR | os.O_TMPFILE, 0o600))
    except OSError:
        return  # a file system without: the next test's case
    writer = SidecarWriter(str(trace))
    writer.add("one", b"x")
    assert list(trace.parent.iterdir()) == [trace]
    writer.finish()
    assert set(trace.parent.iterdir()) == {cache_of(trace), trace}
    assert cache_of(trace).stat().st_mode & 0o777 == 0o600


def test_a_file_system_without_files_that_have_no_name(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def without(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", without)
    made(trace)
    assert found(trace) == BLOBS
    assert set(trace.parent.iterdir()) == {cache_of(trace), trace}
    writer = SidecarWriter(str(trace))
    writer.add("one", b"x")
    writer.drop()
    assert writer.get("one") == b"x"
    assert set(trace.parent.iterdir()) == {cache_of(trace), trace}


def test_what_was_opened_is_what_the_cache_is_of(trace: Path) -> None:
    opened = trace.stat()
    other = trace.with_name("other")
    other.write_bytes(bytes(len(trace.read_bytes())))
    os.utime(other, ns=(opened.st_atime_ns, opened.st_mtime_ns))
    other.rename(trace)
    writer = SidecarWriter(str(trace), opened)
    writer.finish()
    assert list(trace.parent.iterdir()) == [trace]


def test_a_change_whose_time_was_put_back_is_seen(trace: Path) -> None:
    before = trace.stat()
    writer = SidecarWriter(str(trace), before)
    while True:  # the clock of files has ticks
        trace.write_bytes(bytes(before.st_size))
        os.utime(trace, ns=(before.st_atime_ns, before.st_mtime_ns))
        if trace.stat().st_ctime_ns != before.st_ctime_ns:
            break
    writer.finish()
    assert list(trace.parent.iterdir()) == [trace]


def test_a_descriptor_is_no_place_for_a_file_beside_it(trace: Path) -> None:
    with trace.open("r+b") as f:
        f.truncate(sidecar.LARGE)
        for path in (f"/dev/fd/{f.fileno()}", f"/proc/self/fd/{f.fileno()}"):
            assert is_file(path)
            assert not is_large(path)


def test_which_traces_get_one(tmp_path: Path, trace: Path) -> None:
    assert is_file(str(trace))
    assert not is_large(str(trace))
    with trace.open("r+b") as f:
        f.truncate(sidecar.LARGE)
    assert is_large(str(trace))
    os.mkfifo(tmp_path / "pipe")
    assert not is_file(str(tmp_path / "pipe"))
    assert not is_file("/dev/null")
    assert is_file(str(tmp_path))
    assert not is_large(str(tmp_path / "pipe"))
    assert not is_large(str(tmp_path / "none"))
    memory = Memory()
    memory.add("a", b"b")
    assert (memory.get("a"), memory.get("c")) == (b"b", None)


@pytest.mark.parametrize(
    ("size", "mtime", "ino", "whole", "same"),
    [
        (10, 5, 2, True, True), (10, 5, 2, False, True), (11, 6, 2, False, True),
        (11, 6, 2, True, False), (9, 6, 2, False, False), (10, 6, 2, False, False),
        (10, 6, 2, True, False), (10, 5, 3, True, False), (11, 6, 3, False, False),
    ],
)  # fmt: skip
def test_which_file_still_holds_what_was_read(
    *, size: int, mtime: int, ino: int, whole: bool, same: bool
) -> None:
    assert Source(1, 2, 10, 5).holds(Source(1, ino, size, mtime), whole=whole) is same
