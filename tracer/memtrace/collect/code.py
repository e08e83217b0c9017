# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose allocator's code a mapped file holds, read from the file itself.

Two things are told apart: that a file *defines* malloc for others, so that the loader may choose
it, and that it *holds* an allocator's or a runtime's code, as symbols or texts of its own prove.
Neither says that the code ever runs: that the trace's calls tell.
"""

from __future__ import annotations

import os
import re
from typing import Any

from memtrace.collect.elf import Elf, NotElfError
from memtrace.collect.mapped import open_mapped

#: Allocators and runtimes, and dynamic symbols that they alone define. Of two in one file the first
#: counts: a sanitizer defines what it wraps.
_SYMBOLS = (
    ("asan", ("__asan_init",)),
    ("tsan", ("__tsan_init",)),
    ("msan", ("__msan_init",)),
    ("lsan", ("__lsan_init",)),
    ("lsan", ("__lsan_do_leak_check",)),
    ("jemalloc", ("mallocx", "mallctl")),
    ("jemalloc", ("je_mallocx", "je_mallctl")),
    ("tcmalloc", ("tc_malloc", "tc_version")),
    ("google-tcmalloc", ("MallocExtension_Internal_GetStats",)),
    ("mimalloc", ("mi_malloc", "mi_version")),
    ("jvm", ("JNI_CreateJavaVM", "JVM_StartThread")),
    ("jvm", ("JNI_CreateJavaVM", "JNI_GetDefaultJavaVMInitArgs")),
    ("v8", ("_ZN2v87Isolate10GetCurrentEv",)),
    ("pymalloc", ("PyObject_Malloc",)),
)
#: Messages of allocators that may be linked into a program under any names.
_MESSAGES = (
    ("jemalloc", b"<jemalloc>: "),
    ("mimalloc", b"mimalloc: error: "),
    ("tcmalloc", b"gperftools 2."),
    ("google-tcmalloc", b"tcmalloc/internal/"),
)
#: Without which symbols are somebody else's: a file that defines malloc and such names beside is
#: believed to be that allocator.
_TEXTS = dict(_MESSAGES) | {
    "asan": b"AddressSanitizer",
    "tsan": b"ThreadSanitizer",
    "msan": b"MemorySanitizer",
    "lsan": b"LeakSanitizer",
}
#: What glibc's malloc.c says when it finds a heap broken: all of it is there if malloc.o is.
_GLIBC = (
    b"malloc(): corrupted top size",
    b"munmap_chunk(): invalid pointer",
    b"free(): invalid next size (fast)",
)
#: Names in the symbol table of a static program that was not stripped.
_MUSL = (
    ("mallocng", b"\0__malloc_alloc_meta\0"),
    ("oldmalloc", b"\0__expand_heap\0"),
    ("bump", b"\0__simple_malloc\0"),
)
_VALGRIND = b"VALGRIND_LAUNCHER"  # m_main.c asks the environment for it
_GO = b"\xff Go buildinf:"
_VERSIONS = {
    "jemalloc": re.compile(rb"\0(\d+\.\d+\.\d+)-\d+-g[0-9a-f]{40}\0"),
    "tcmalloc": re.compile(rb"\0gperftools (\d+\.\d+(?:\.\d+)?)\0"),
}


def read(fd: int, *, main: bool) -> dict[str, Any]:
    """What a file holds; nothing when it is no ELF file.

    Args:
        fd: open for reading; it stays the caller's.
        main: it is the program itself, whose texts are looked through as well.

    Returns:
        The fields `name`, `malloc`, `how`, `version` and `build_id` of an `allocator` record, as
        far as known; `libc` (bool): it may be a C library, whatever its name.
    """
    try:
        return _facts(Elf(fd), main=main)
    except NotElfError:
        return {}


def _facts(elf: Elf, *, main: bool) -> dict[str, Any]:
    if elf.defines("_rtld_global"):
        return {}  # the loader: the malloc that it may define is its own
    malloc = elf.defines("malloc")
    name, how = _by_symbols(elf)
    if not name and main:
        name, how = _by_texts(elf)
    elif not name and (b"Go\0\0", 4) in (note[:2] for note in elf.notes()):
        name, how = "go", "has a Go build ID"
    facts: dict[str, Any] = {}
    if malloc:
        facts["malloc"] = True
        if not name:
            facts["libc"] = elf.defines("__libc_start_main")
    if name:
        facts |= {"name": name, "how": how}
        version = _version(elf, name)
        if version:
            facts["version"] = version
    if facts:
        build_id = elf.build_id()
        if build_id:
            facts["build_id"] = build_id
    return facts


def _by_symbols(elf: Elf) -> tuple[str, str]:
    if elf.dynamic:
        for name, symbols in _SYMBOLS:
            if not all(elf.defines(symbol) for symbol in symbols):
                continue
            text = _TEXTS.get(name)
            if text is None or elf.search((text,), constants=True):
                return name, f"defines {' and '.join(symbols)}"
    return "", ""


def _by_texts(elf: Elf) -> tuple[str, str]:
    if _GO in elf.writable(65536):
        return "go", "holds Go's build information"
    messages = dict(_MESSAGES)
    # A static program may be a PIE, which has dynamic symbols; a C library runs as a program, too.
    if elf.interpreted or elf.defines("__libc_start_main"):
        found = elf.search(messages.values(), constants=True)
    else:  # a static program: its symbols' names may be there as well
        names = dict(_MUSL)
        found = elf.search(
            (*messages.values(), *_GLIBC, *names.values(), _VALGRIND), constants=False
        )
        if _VALGRIND in found:
            return "valgrind", "is static and asks for VALGRIND_LAUNCHER"
        for kind, symbol in _MUSL:
            if symbol in found:
                return "musl", f"has musl's {symbol.strip(bytes(1)).decode()} ({kind})"
    for name, text in _MESSAGES:
        if text in found:
            return name, f'holds the text "{text.decode().strip()}"'
    if found.issuperset(_GLIBC):
        return "glibc", f'holds the text "{_GLIBC[0].decode()}"'
    return "", ""


def _version(elf: Elf, name: str) -> str | None:
    if name == "go":
        # runtime.buildVersion: in the block since 1.18, a pointer to it before.
        data = elf.writable(65536)
        found = re.search(rb"go(1\.\d+(?:\.\d+)?)", data[data.find(_GO) :][:256])
    elif name in _VERSIONS:
        found = _VERSIONS[name].search(elf.constants(4 << 20))
    else:
        return None
    return found[1].decode() if found else None


class CodeFinder:
    """Answers once per file, for as long as that is what it was (ctime)."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, bool], dict[str, Any]] = {}

    def look(
        self, pid: int, dev: str, ino: int, path: str, *, main: bool = False, at: int | None = None
    ) -> dict[str, Any] | None:
        """What the mapped file holds (`read`); None, if it cannot be read, or is no more what was
        mapped at `at` (`open_mapped`).
        """
        fd = open_mapped(pid, ino, path, at=at)
        if fd is None:
            return None
        try:
            key = dev, ino, os.fstat(fd).st_ctime_ns, main
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = read(fd, main=main)
            return known
        finally:
            os.close(fd)
