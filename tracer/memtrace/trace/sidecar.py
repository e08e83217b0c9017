# SPDX-License-Identifier: GPL-2.0-or-later
"""A file beside a trace with what was made of it, so that it need not be made again.

`trace.json.cache` holds named blobs. It is a cache and nothing else: it may be deleted at any time,
and it is used only if it says of itself that it was made of this very content (size and SHA-256 of
the whole trace) by this very program (a digest of memtrace's own source), if it is the user's own
file, and if the digest of every blob that is read is right. Whatever else is found is as if nothing
were there. Writing one never fails: what cannot be written is not kept on disk. Until it is whole
it has no name, so that nothing is left behind whatever ends memtrace (open(2), O_TMPFILE).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

import memtrace
from memtrace.trace.beside import MAGIC, SUFFIX

#: Bytes from which on a trace gets a cache: replaying less takes a tenth of a second.
LARGE = 1 << 20
#: The packages whose source makes what is kept.
PARTS = ("trace", "space", "replay", "malloc", "findings", "report")
#: Of a cache: it holds what the trace does.
MODE = 0o600
_TAIL = 8 + 16  # where the index begins, and its digest


class Store(Protocol):
    """Where blobs are kept while a trace is read."""

    def add(self, name: str, data: bytes) -> None:
        """Keep a blob."""


class Memory:
    """Blobs kept in memory, for a trace too small to be worth a file."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def add(self, name: str, data: bytes) -> None:
        """Keep a blob."""
        self._blobs[name] = data

    def get(self, name: str) -> bytes | None:
        """A blob; None if there is none of the name."""
        return self._blobs.get(name)


@dataclass(frozen=True, slots=True)
class Source:
    """The file that a trace was read from, as it was before that."""

    dev: int
    ino: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, st: os.stat_result) -> Source:
        """Of an opened file."""
        return cls(st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns)

    def holds(self, now: Source, *, whole: bool) -> bool:
        """Whether what was read is in the file still, as far as can be told without reading it.

        Args:
            now: the file that has the name now.
            whole: the trace had its end. If it had not, a recorder may have gone on writing it.
        """
        if (now.dev, now.ino) != (self.dev, self.ino):
            return False
        if whole or now.size == self.size:
            return now == self
        return now.size > self.size


class _Index(msgspec.Struct, array_like=True):
    """What stands at the end: `blobs` are [offset, length, digest] by name."""

    code: bytes
    size: int
    digest: bytes
    blobs: dict[str, tuple[int, int, bytes]]


class Sidecar:
    """An opened cache that belongs to its trace, which was read from `source`."""

    def __init__(self, fd: int, blobs: dict[str, tuple[int, int, bytes]], source: Source) -> None:
        self.source = source
        self._fd = fd
        self._blobs = blobs

    @classmethod
    def of(cls, path: str) -> Sidecar | None:
        """The cache of a trace; None if there is none that can be used."""
        try:
            fd = os.open(path + SUFFIX, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        beside = None
        try:
            with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
                index = _index(fd)
                if index is not None and _ours(os.fstat(fd)):
                    source = _made_of(index, path)
                    beside = None if source is None else cls(fd, index.blobs, source)
        finally:
            if beside is None:
                os.close(fd)
        return beside

    def get(self, name: str) -> bytes | None:
        """A blob; None if there is none of the name, or it is damaged."""
        where = self._blobs.get(name)
        if where is None:
            return None
        try:
            data = os.pread(self._fd, where[1], where[0])
        except (OSError, OverflowError, ValueError):
            return None
        return data if _short(data) == where[2] else None

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)


class SidecarWriter:
    """Writes the cache of a trace while the trace is read: `add`, then `finish` or `abandon`.

    The file gets its name at the end, and only if the trace is still what it was at the beginning.
    Blobs can be read as long as it is open; those that cannot be written are kept in memory.

    Args:
        path: the trace.
        opened: what the file was when reading it began; None: what it is now.
    """

    def __init__(self, path: str, opened: os.stat_result | None = None) -> None:
        self.path = path
        self._new = f"{path}{SUFFIX}.{os.getpid()}.new"
        self._named = False
        self._blobs: dict[str, tuple[int, int, bytes]] = {}
        self._unwritten: dict[str, bytes] = {}
        self._whole = False
        self._offset = len(MAGIC)
        self._fd = -1
        try:
            self._before = _identity(opened or os.stat(path))
            _may_replace(path + SUFFIX)
            self._fd = self._open()
            _write(self._fd, MAGIC)
            self._whole = True
        except OSError:
            self.drop()

    def _open(self) -> int:
        flags, folder = os.O_RDWR | os.O_CLOEXEC, os.path.dirname(self.path) or "."
        with contextlib.suppress(OSError):  # a file system without
            return os.open(folder, flags | os.O_TMPFILE, MODE)
        fd = os.open(self._new, flags | os.O_CREAT | os.O_EXCL, MODE)
        self._named = True
        return fd

    def add(self, name: str, data: bytes) -> None:
        """Keep a blob."""
        if self._whole:
            try:
                _write(self._fd, data)
            except OSError:
                self.drop()
            else:
                self._blobs[name] = self._offset, len(data), _short(data)
                self._offset += len(data)
                return
        self._unwritten[name] = data

    def get(self, name: str) -> bytes | None:
        """A blob that was kept; None if there is none of the name."""
        where = self._blobs.get(name)
        if where is None:
            return self._unwritten.get(name)
        return None if self._fd < 0 else os.pread(self._fd, where[1], where[0])

    def finish(self) -> None:
        """The pass is over: the file is whole, and gets its name."""
        if self._whole:
            with contextlib.suppress(OSError, OverflowError, msgspec.MsgspecError):
                with open(self.path, "rb") as f:
                    index = _Index(code_digest(), *_content(f), self._blobs)
                data = msgspec.msgpack.encode(index)
                _write(self._fd, data + self._offset.to_bytes(8, "little") + _short(data))
                if _identity(os.stat(self.path)) == self._before:
                    self._name()
        self.drop()

    def _name(self) -> None:
        if not self._named:
            # Only with a folder's descriptor is the link followed (linkat(2), AT_SYMLINK_FOLLOW).
            os.link(f"/proc/self/fd/{self._fd}", self._new, src_dir_fd=self._fd)
            self._named = True
        os.replace(self._new, self.path + SUFFIX)
        self._named = False

    def drop(self) -> None:
        """Nothing is to stay on disk; what was kept can be read."""
        self._whole = False
        if self._named:
            self._named = False
            with contextlib.suppress(OSError):
                os.unlink(self._new)

    def abandon(self) -> None:
        """Leave nothing behind, not even for oneself."""
        self.drop()
        self._blobs.clear()
        self._unwritten.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@cache
def code_digest() -> bytes:
    """A digest of memtrace's own source: what another version has made is not used."""
    sources: dict[str, Path] = {}
    for root in memtrace.__path__:  # two in a checkout, one where it is installed
        for part in PARTS:
            for file in (Path(root) / part).glob("*.py"):
                if file.is_file():  # not an editor's lock, a link to nowhere (Emacs, `.#x.py`)
                    sources.setdefault(f"{part}/{file.name}", file)
    found = hashlib.sha256()
    for name, file in sorted(sources.items()):
        found.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return found.digest()


def _index(fd: int) -> _Index | None:
    size = os.fstat(fd).st_size
    if size < len(MAGIC) + _TAIL or os.pread(fd, len(MAGIC), 0) != MAGIC:
        return None
    tail = os.pread(fd, _TAIL, size - _TAIL)
    begin = int.from_bytes(tail[:8], "little")
    if not len(MAGIC) <= begin <= size - _TAIL:
        return None
    data = os.pread(fd, size - _TAIL - begin, begin)
    if _short(data) != tail[8:]:
        return None
    return msgspec.msgpack.decode(data, type=_Index)


def _made_of(index: _Index, path: str) -> Source | None:
    """The trace, if an index speaks of it and of this program; the cheap questions first."""
    if index.code != code_digest():
        return None
    with open(path, "rb") as f:
        source = Source.of(os.fstat(f.fileno()))
        if index.size != source.size or (index.size, index.digest) != _content(f):
            return None
    return source


def _content(f: BinaryIO) -> tuple[int, bytes]:
    """Size and digest of an opened file."""
    digest = hashlib.file_digest(f, "sha256").digest()  # type: ignore[arg-type,unused-ignore]
    return f.tell(), digest


def _identity(st: os.stat_result) -> tuple[Any, ...]:
    """What changes when a file does; OSError if it is no file that can be read twice."""
    if not stat.S_ISREG(st.st_mode):
        raise OSError
    return st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns


def _may_replace(path: str) -> None:
    """OSError if the name is taken by something that is no cache."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except PermissionError:
        folder = os.stat(os.path.dirname(path) or ".")
        if is_left_by_another(os.lstat(path), folder, os.geteuid()):
            return
        raise
    try:
        head, st = os.read(fd, len(MAGIC)), os.fstat(fd)
        # One's own that was torn: its data had not reached the disk when its name had (rename(2)
        # without fsync(2)), or there was no more room.
        torn = not head or (head.startswith(b"memtrace") and MAGIC.startswith(head))
        if head != MAGIC and not (torn and st.st_uid == os.geteuid()):
            raise OSError
    finally:
        os.close(fd)


def is_left_by_another(entry: os.stat_result, folder: os.stat_result, user: int) -> bool:
    """Whether a cache that cannot be read is what another user's memtrace has left in one's own
    folder (root's, most often): a file with the mode that caches have. It is nobody's loss.
    """
    return (
        stat.S_ISREG(entry.st_mode)
        and stat.S_IMODE(entry.st_mode) == MODE
        and entry.st_uid != user
        and entry.st_nlink == 1
        and folder.st_uid == user
        and not folder.st_mode & stat.S_ISVTX
    )


def _ours(st: os.stat_result) -> bool:
    """Whether nobody else can have written it."""
    return stat.S_ISREG(st.st_mode) and st.st_uid == os.geteuid() and not st.st_mode & 0o022


def _short(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def is_file(path: str) -> bool:
    """Whether a trace can be read twice: it is no pipe, socket or terminal. Neither is a folder, or
    what is not there: reading tells what is wrong with it.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return True
    return not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode))


def is_large(path: str) -> bool:
    """Whether a trace is so large that a file beside it saves time, and has a place for one:
    /dev/stdin and /dev/fd/3 name a file that lies elsewhere.
    """
    try:
        st = os.stat(path)
    except OSError:
        return False
    folder = os.path.realpath(os.path.dirname(path) or ".") + "/"
    elsewhere = folder == "/dev/" or folder.startswith("/proc/")
    return stat.S_ISREG(st.st_mode) and st.st_size >= LARGE and not elsewhere
