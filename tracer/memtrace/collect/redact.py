# SPDX-License-Identifier: GPL-2.0-or-later
"""`--redact`: records without what a program's arguments, environment and names may give away.

Every name becomes a number, counted in the order of first use: the same text is the same number
throughout a trace, and another text another, so that replay and verification, which compare names,
come out the same. No hash, which a list of guesses would undo.

What stays: names that the kernel itself gives ([heap], /dev/zero, " (deleted)"); the file names of
C libraries, allocators and runtimes by which an analysis knows whose code it sees, and their build
ids; numbers in the
settings of glibc's malloc; everything that is no text: addresses, sizes, times, pids, and (dev,
inode), which is a mapping's identity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from memtrace.trace.records import (
    Allocator,
    Call,
    Ext,
    FileId,
    Header,
    Libc,
    Life,
    Place,
    Site,
    Snap,
    Start,
)

REDACTED = "<redacted>"

_DELETED = " (deleted)"

#: What the kernel calls things itself: show_map_vma, the d_dname of pseudo file systems, shmem and
#: hugetlb files without a user's name.
_KERNEL = re.compile(
    r"\[[a-z_]+\]|\[stack:[0-9]+\]|anon_inode:\[?[\w.:-]+\]?|(?:socket|pipe):\[[0-9]+\]"
    r"|/dev/zero|/anon_hugepage|/\[aio\]|/drm mm object",
    re.ASCII,
)
#: PR_SET_VMA_ANON_NAME, on private and on shared memory: [anon:NAME].
_NAMED = re.compile(r"\[(anon|anon_shmem):(.*)\]", re.DOTALL)
#: Files that have a name but no place: memfd_create, System V shared memory, dma-buf.
_PLACELESS = ("/memfd:", "/SYSV", "/dmabuf:")

#: Beginnings of file names that tell whose code a file is, and the names that may stay whole; of
#: another name with that beginning only the beginning stays.
_KNOWN = tuple(
    (beginning, re.compile(whole, re.ASCII))
    for beginning, whole in (
        ("libc.so", r"libc\.so(\.6)?"),
        ("libc-", r"libc-2\.\d{1,2}\.so"),
        ("libc.musl-", r"libc\.musl-(x86_64|x86|x32|aarch64)\.so\.1"),
        ("ld-linux", r"ld-linux(\.so\.2|-x86-64\.so\.2|-x32\.so\.2|-aarch64\.so\.1)"),
        ("ld-musl", r"ld-musl-(x86_64|i386|x32|aarch64)\.so\.1"),
        ("ld-2.", r"ld-2\.\d{1,2}\.so"),
        ("ld.so", r"ld\.so(\.\d|\.cache)?"),
        ("ld64.so", r"ld64\.so\.\d"),
        ("libjemalloc", r"libjemalloc\.so(\.\d)?"),
        (
            "libtcmalloc",
            r"libtcmalloc(_minimal)?(_and_profiler)?(_debug)?\.so(\.\d{1,2}(\.\d{1,2}){0,2})?",
        ),
        ("libmimalloc", r"libmimalloc(-secure|-debug)?\.so(\.\d(\.\d{1,2})?)?"),
        ("libjvm.so", r"libjvm\.so"),
        ("libpython", r"libpython[23]\.\d{1,2}[dmt]?\.so(\.\d(\.\d)?)?"),
        ("libnode.so", r"libnode\.so(\.\d{1,3})?"),
        ("libasan", r"libasan\.so(\.\d{1,2}(\.\d\.\d)?)?"),
        ("liblsan", r"liblsan\.so(\.\d{1,2}(\.\d\.\d)?)?"),
        ("libtsan", r"libtsan\.so(\.\d{1,2}(\.\d\.\d)?)?"),
    )
)
_PYTHON = re.compile(r"python[23](\.\d{1,2}[dmt]?)?", re.ASCII)

_NUMERIC = frozenset(
    f"MALLOC_{name}"
    for name in (
        "ARENA_MAX", "ARENA_TEST", "CHECK_", "MMAP_MAX_", "MMAP_THRESHOLD_", "PERTURB_", "TOP_PAD_",
        "TRIM_THRESHOLD_",
    )
)  # fmt: skip
_NAMES = _NUMERIC | {
    "GLIBC_TUNABLES", "LD_LIBRARY_PATH", "LD_PRELOAD", "MALLOC_CONF", "MALLOC_TRACE",
    "PYTHONMALLOC",
}  # fmt: skip
_TUNABLES = frozenset(
    f"glibc.malloc.{name}"
    for name in (
        "arena_max", "arena_test", "check", "hugetlb", "mmap_max", "mmap_threshold", "mxfast",
        "perturb", "tcache_count", "tcache_max", "tcache_unsorted_limit", "top_pad",
        "trim_threshold",
    )
) | {"glibc.rtld.enable_secure"}  # fmt: skip
_PYTHONMALLOC = frozenset(
    ("", "debug", "default", "malloc", "malloc_debug", "mimalloc", "mimalloc_debug", "pymalloc",
     "pymalloc_debug")
)  # fmt: skip
#: What _dl_strtoul reads of a text: blanks, a sign, digits of base 16, 8 or 10.
_NUMBER = re.compile(
    r"([ \t]*[-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]*)|(?P<oct>0[0-7]*)|(?P<dec>[1-9][0-9]*)|)", re.ASCII
)
_TOO_MUCH = 1 << 64

_R = TypeVar("_R", bound=Call | Life)


class Redaction:
    """The names of one trace and their numbers; values in, new values out."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._shown: dict[str, str] = {}

    def header(self, header: Header) -> Header:
        """A header without the command line and the name of a log."""
        log = None if header.log is None else self.path(header.log)
        return msgspec.structs.replace(header, argv=self.argv(header.argv), log=log)

    def record(self, record: _R) -> _R:
        """A record without names and texts of the program's own."""
        if isinstance(record, Call):
            if record.ext is None and not isinstance(record.site, Site):
                return record
            return msgspec.structs.replace(
                record, site=self._site(record.site), ext=self._ext(record.ext)
            )
        if isinstance(record, Start):
            return msgspec.structs.replace(
                record,
                exe=self.name(record.exe),
                argv=self.argv(record.argv),
                env=self.environment(record.env),
                maps=self.maps(record.maps),
            )
        if isinstance(record, Snap):
            return msgspec.structs.replace(record, maps=self.maps(record.maps))
        if isinstance(record, Libc):
            return msgspec.structs.replace(record, path=self.name(record.path))
        if isinstance(record, Allocator):
            # The build id of a program of the user's own is a name of it.
            known = _known_name(record.path.removesuffix(_DELETED))
            return msgspec.structs.replace(
                record, path=self.name(record.path), build_id=record.build_id if known else None
            )
        return record

    # -- names --------------------------------------------------------------------------------

    def argv(self, argv: list[str]) -> list[str]:
        """As many arguments; the first, the program's name, as a path."""
        return [self.path(a) if i == 0 else REDACTED for i, a in enumerate(argv)]

    def maps(self, lines: Iterable[str]) -> list[str]:
        """Lines of maps with their last column redacted."""
        out = []
        for line in lines:
            columns = line.split(None, 5)
            if len(columns) == 6:
                columns[5] = self.name(columns[5])
            out.append(" ".join(columns))
        return out

    def name(self, text: str) -> str:
        """The last column of a line of maps.

        >>> r = Redaction()
        >>> r.name("/home/ann/x.db (deleted)"), r.name("/home/ann/x.db"), r.name("[heap]")
        ('/redacted/file-1 (deleted)', '/redacted/file-1', '[heap]')
        >>> r.name("[anon:ann's pool]"), r.name("/home/ann/lib/libc.so.6")
        ('[anon:redacted-2]', '/redacted/3/libc.so.6')
        """
        shown = self._shown.get(text)
        if shown is None:
            shown = self._shown[text] = self._name(text)
        return shown

    def _name(self, text: str) -> str:
        if _KERNEL.fullmatch(text.removesuffix(_DELETED)):
            return text
        named = _NAMED.fullmatch(text)
        if named:
            return f"[{named[1]}:{self.label(named[2])}]"
        return self.path(text)

    def path(self, text: str) -> str:
        """A path; "" stays."""
        file = text.removesuffix(_DELETED)
        if not file:
            return text
        deleted = text[len(file) :]
        known = _known_name(file)
        for beginning in _PLACELESS:
            if file.startswith(beginning):
                return f"{beginning}{self.label(file)}{'/' if known else ''}{known}{deleted}"
        n = self._number(file)
        return (f"/redacted/{n}/{known}" if known else f"/redacted/file-{n}") + deleted

    def label(self, text: str) -> str:
        """The name a program gave to anonymous memory; "" stays."""
        return f"redacted-{self._number(text)}" if text else ""

    def environment(self, env: dict[str, str]) -> dict[str, str]:
        """Variables with the values that say how glibc's malloc and Python's were set up."""
        return {
            name if name in _NAMES else f"MALLOC_{self.label(name)}": self._setting(name, value)
            for name, value in env.items()
        }

    def _setting(self, name: str, value: str) -> str:
        if name == "LD_PRELOAD":  # as in ld.so(8): a library's name tells which malloc there is
            return "".join(
                part if part in " :" else self.path(part) for part in re.split("([ :])", value)
            )
        return _value(name, value)

    def _number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers) + 1)

    # -- parts of a call's row ------------------------------------------------------------------

    def _ext(self, ext: Ext | None) -> Ext | None:
        if ext is None:
            return None
        return msgspec.structs.replace(
            ext,
            f=self._file(ext.f),
            x=None if ext.x is None else (ext.x[0], ext.x[1], self.maps(ext.x[2])),
            name=None if ext.name is None else self.label(ext.name),
        )

    def _site(self, site: int | Site | None) -> int | Site | None:
        if not isinstance(site, Site):
            return site
        ip, ret, outer = site.ip, site.ret, site.outer
        return msgspec.structs.replace(
            site,
            ip=self._place(ip),
            ret=None if ret is None else self._place(ret),
            outer=None if outer is None else self._place(outer),
        )

    def _place(self, place: Place) -> Place:
        return self._file(place[0]), place[1]

    def _file(self, file: int | FileId | None) -> int | FileId | None:
        if not isinstance(file, FileId):
            return file
        return msgspec.structs.replace(file, path=self.name(file.path))


def _known_name(file: str) -> str:
    """What may stay of a path: its last component if that is a well-known library's, else as much
    of its beginning as tells whose code it is; "" for all others.
    """
    name = file.rpartition("/")[2]
    for beginning, whole in _KNOWN:
        if name.startswith(beginning):
            return name if whole.fullmatch(name) else beginning
    if name == "node" or _PYTHON.fullmatch(name):
        return name
    return name[:7] if name.startswith("python") and name[6:7].isdigit() else ""


def _value(name: str, value: str) -> str:
    if name in _NUMERIC:
        return _number(value)
    if name == "GLIBC_TUNABLES":
        return ":".join(map(_tunable, value.split(":")))
    if not value or (name == "PYTHONMALLOC" and value in _PYTHONMALLOC):
        return value
    return REDACTED


def _tunable(item: str) -> str:
    """One NAME=VALUE of GLIBC_TUNABLES."""
    name, equals, value = item.partition("=")
    more = "=" if "=" in value else ""  # of what is so ill-formed the C library may take nothing
    if name in _TUNABLES:
        return name + equals + _number(value) + more
    return f"{REDACTED}{equals}{more}" if item else ""


def _number(text: str) -> str:
    """The number that the C library reads from a text, and whether it is all of the text.

    >>> _number("131072"), _number("64k"), _number("/home/ann"), _number("9" * 50)
    ('131072', '64<redacted>', '<redacted>', '18446744073709551616')
    """
    found = _NUMBER.match(text)
    if found is None:  # pragma: no cover - it matches nothing, too
        return REDACTED
    number = found[0]
    digits = found["hex"] or found["oct"] or found["dec"] or ""
    # More than 64 bits are too much: what the digits are is kept back.
    if len(digits.lstrip("0")) > (16 if found["hex"] else 22 if found["oct"] else 20):
        number = f"{found[1]}{_TOO_MUCH}"
    return number if found.end() == len(text) else number + REDACTED
