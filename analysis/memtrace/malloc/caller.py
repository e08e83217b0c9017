# SPDX-License-Identifier: GPL-2.0-or-later
"""Who made a call: the text a return address lies in, as far as it tells the allocator.

glibc's mmap, munmap and brk wrappers push nothing, so the word at the stack pointer is their
caller's return address. In a static program the C library and the program are one file and nothing
is told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from memtrace.trace.records import FileId, Place, Site

LOADER, LIBC, PROGRAM, LIBRARY, ALLOCATOR, STATIC, UNKNOWN = (
    "loader", "libc", "program", "library", "allocator", "static", "unknown",
)  # fmt: skip

#: Beginnings of file names, and the allocator or runtime whose text they are.
OWNERS = (
    ("libjemalloc", "jemalloc"),
    ("libtcmalloc", "tcmalloc"),
    ("libmimalloc", "mimalloc"),
    ("libjvm.so", "jvm"),
    ("libpython", "pymalloc"),
    ("libnode.so", "v8"),
    ("libasan", "asan"),
    ("liblsan", "lsan"),
    ("libtsan", "tsan"),
)
#: Replacements of malloc, when mapped before the program runs.
MALLOCS = frozenset({"jemalloc", "tcmalloc", "mimalloc", "asan", "lsan", "tsan"})


def base_name(path: str) -> str:
    """The last component, without the kernel's " (deleted)".

    >>> base_name("/usr/lib/libc.so.6 (deleted)")
    'libc.so.6'
    """
    return path.removesuffix(" (deleted)").rpartition("/")[2]


def owner_of(path: str) -> str | None:
    """The known allocator or runtime that lives in the file."""
    name = base_name(path)
    for prefix, owner in OWNERS:
        if name.startswith(prefix):
            return owner
    if name == "node":
        return "v8"
    if name.startswith("python") and name[6:7].isdigit():
        return "pymalloc"
    return None


def is_loader(path: str) -> bool:
    """Whether a file is a program interpreter by its name: glibc's, or musl's."""
    return _is_loader_only(path) or base_name(path).startswith("ld-musl-")


def _is_loader_only(path: str) -> bool:
    """Whether a program interpreter's name says that the C library is another file.

    musl's loader is its libc, malloc included, and is called ld-musl-ARCH.so.1 or libc.so: that
    text tells nothing.
    """
    return base_name(path).startswith(("ld-linux", "ld-2.", "ld.so", "ld64.so"))


class Caller(NamedTuple):
    """Who called: one of the constants above, with the known `owner` of the text if any.

    The text of an allocator is `who` ALLOCATOR only if the file is nothing else; a program or
    library that holds one among its own code is that, with an `owner`: which of the two called is
    not told. musl's text is UNKNOWN, for its wrappers keep no caller, with `owner` "musl".
    `outer` is the same for the caller's caller where the trace has it (sbrk's caller, for brk).
    `framed`: `outer` is sbrk's return address by call frame information.
    `direct`: the system call instruction itself stands in that text, not in the C library's.
    `mallocs`: the file of that text, or of `outer`, defines a malloc that no name tells.
    """

    who: str
    owner: str | None = None
    outer: str = UNKNOWN
    outer_owner: str | None = None
    direct: bool = False
    framed: bool = False
    mallocs: bool = False


NOBODY = Caller(UNKNOWN)

Resolve = Callable[[Place | None], "tuple[FileId | None, int] | None"]


class Callers:
    """Resolves the sites of one address space; remembers each.

    `libc` holds the paths of mapped shared C libraries with glibc's calling habits; `malloc` the
    places in them whose mmaps bore a chunk header. `owners`: whose code files hold, by path; None
    where nobody looked into them, and their names must tell. `mixed`: those of them that hold a
    runtime and a malloc besides.
    """

    __slots__ = (
        "_known", "defining", "exe", "framed", "libc", "loader", "malloc", "mixed", "musl",
        "owners", "pymalloc", "resolve", "sites", "static",
    )  # fmt: skip

    def __init__(
        self, sites: dict[int, Site], resolve: Resolve, exe: str, loader: str, *,
        code: bool = False, framed: bool = False,
    ) -> None:  # fmt: skip
        self.sites = sites
        self.resolve = resolve
        self.exe = exe
        self.loader = loader
        self.libc: set[str] = set()
        self.malloc: set[tuple[str, int]] = set()
        self.static = not loader
        self.musl: set[str] = set()
        self.framed = framed
        self.owners: dict[str, str] | None = {} if code else None
        self.mixed: set[str] = set()
        self.defining: set[str] = set()  # files that define malloc, or may
        self.pymalloc: tuple[str, int] | None = None  # where its arenas are mapped
        self._known: dict[int, Caller] = {}

    def maps_arenas(self, site: int | Site | None) -> bool:
        """Whether this is where CPython's object allocator maps its arenas: the interpreter's first
        are made before any of the program's own code runs (`_PyObject_ArenaMmap`), and all in one
        place. The module mmap may be of the same file, and maps what the program wants.
        """
        at = self.place(site)
        if at is not None and self.pymalloc is None:
            self.pymalloc = at
        return at == self.pymalloc

    def add_malloc(self, path: str) -> None:
        """A file defines malloc, or may."""
        self.defining.add(path)
        self._known.clear()

    def add_libc(self, path: str) -> None:
        """A shared glibc was mapped."""
        if path and path not in (self.exe, self.loader):
            self.libc.add(path)
            self._known.clear()

    def add_musl(self, path: str) -> None:
        """A shared musl is mapped: loader, C library and malloc in one. Its name may not have told
        that it is the loader: it may be libc.so, or the program that was executed.
        """
        self.musl.add(path)
        self.static = False
        self._known.clear()

    def add_owner(self, path: str, name: str, *, mixed: bool = False) -> None:
        """A file holds an allocator's code; `mixed`: a runtime's, and a malloc besides."""
        if self.owners is not None and name:
            self.owners[path] = name
            if mixed:
                self.mixed.add(path)
            self._known.clear()

    def is_static(self) -> None:
        """The program has no loader; one that is mapped came with a dlopen."""
        self.static = True
        self._known.clear()

    def owner(self, path: str) -> str | None:
        """Whose code a file holds."""
        return owner_of(path) if self.owners is None else self.owners.get(path)

    def fork(self) -> Callers:
        """The child's copy."""
        child = Callers(self.sites, self.resolve, self.exe, self.loader, framed=self.framed)
        child.libc, child.malloc, child.musl = set(self.libc), set(self.malloc), set(self.musl)
        child.pymalloc = self.pymalloc
        child.defining = set(self.defining)
        child.owners = None if self.owners is None else dict(self.owners)
        child.static, child.mixed = self.static, set(self.mixed)
        return child

    def of(self, site: int | Site | None) -> Caller:
        """Who called from this site."""
        if site is None:
            return NOBODY
        number = site if isinstance(site, int) else site.id
        known = self._known.get(number)
        if known is None:
            found = self.sites.get(site) if isinstance(site, int) else site
            known = self._known[number] = NOBODY if found is None else self._judge(found)
        return known

    def place(self, site: int | Site | None) -> tuple[str, int] | None:
        """Where the call's wrapper returns to: file and offset."""
        found = self.sites.get(site) if isinstance(site, int) else site
        at = None if found is None else self.resolve(found.ret)
        return None if at is None or at[0] is None else (at[0].path, at[1])

    def copy(self, site: int | Site | None) -> tuple[str, int | None] | None:
        """The C library that made the call, and its base where the file is mapped twice; of a
        static program that one's own file.
        """
        found = self.sites.get(site) if isinstance(site, int) else site
        at = None if found is None else self.resolve(found.ip)
        if found is None or at is None or at[0] is None:
            return None
        own = self.static and at[0].path == self.exe
        return (at[0].path, found.base) if own or at[0].path in self.libc else None

    def instruction(self, site: int | Site | None) -> tuple[str, int] | None:
        """The system call instruction: file and offset."""
        found = self.sites.get(site) if isinstance(site, int) else site
        at = None if found is None else self.resolve(found.ip)
        return None if at is None or at[0] is None else (at[0].path, at[1])

    def text(self, site: int | Site | None) -> tuple[str, int] | None:
        """The place in a file with Go's runtime that the call was made from, as far as known."""
        found = self.sites.get(site) if isinstance(site, int) else site
        for place in () if found is None else (found.ip, found.ret):
            at = self.resolve(place)
            if at is not None and at[0] is not None and self.owner(at[0].path) == "go":
                return at[0].path, at[1]
        return None

    def _judge(self, site: Site) -> Caller:
        who, owner = self._text(site.ip)
        if who != LIBC:
            return Caller(who, owner, direct=True, mallocs=self._mallocs(site.ip))
        who, owner = self._text(site.ret)
        if who != LIBC:
            return Caller(who, owner, mallocs=self._mallocs(site.ret))
        if site.direct is False:
            return NOBODY  # a function of the program may have ended in a jump to mmap
        mallocs = self._mallocs(site.outer)
        return Caller(who, owner, *self._text(site.outer), framed=self.framed, mallocs=mallocs)

    def _mallocs(self, place: Place | None) -> bool:
        found = self.resolve(place)
        return found is not None and found[0] is not None and found[0].path in self.defining

    def _text(self, place: Place | None) -> tuple[str, str | None]:
        found = self.resolve(place)
        if found is None or found[0] is None:
            return UNKNOWN, None
        path = found[0].path
        if path in self.libc:
            return LIBC, None
        if path in self.musl:
            return UNKNOWN, "musl"
        if path == self.loader:
            return (LOADER if self.libc or _is_loader_only(path) else UNKNOWN), None
        owner = self.owner(path)
        if path == self.exe and self.static:
            return STATIC, owner
        if owner is not None and owner == owner_of(path) and path not in self.mixed:
            return ALLOCATOR, owner
        if path == self.exe:
            return PROGRAM, owner
        name = base_name(path)
        if owner is None and name.startswith(("libc.so", "libc-", "ld-musl", "ld-linux", "ld.so")):
            return UNKNOWN, None  # a C library that the trace has not identified
        return LIBRARY, owner
