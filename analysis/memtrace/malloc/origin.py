# SPDX-License-Identifier: GPL-2.0-or-later
"""What a region is for: its kind, and what proves it.

The ladder of evidence: `header` (a malloc chunk's size word, read in the mapping itself), `caller`
(the text that made the call), `sequence` (the calls around it), `shape` (the call's own arguments),
`none`. Shape proves what the arguments say (a file, shared memory); it never proves a malloc chunk:
that stays `unknown` with candidates. A guess is never a kind.
"""

from __future__ import annotations

from typing import NamedTuple

from memtrace.malloc.caller import (
    ALLOCATOR,
    LIBC,
    LIBRARY,
    LOADER,
    PROGRAM,
    STATIC,
    UNKNOWN,
    Caller,
)
from memtrace.malloc.glibc import FALLBACK, HEAP_MAX
from memtrace.space.calls import MAP_ANONYMOUS, MAP_STACK, MAP_TYPE, PROT_EXEC
from memtrace.space.canonical import Attr

MAP_DENYWRITE = 0x800
MAP_NORESERVE = 0x4000
PROT_RW = 3
PLAIN = 0x22  # MAP_PRIVATE | MAP_ANONYMOUS

#: Kinds that malloc's rule says nothing about: the program or the system mapped them itself.
NO_RULE = frozenset({
    "stack", "thread-stack", "guard", "tls", "library", "file", "shared-file", "shared-anon",
    "anon", "loader", "vdso", "jit", "runtime-heap",
})  # fmt: skip


#: What libc's malloc maps where it may be either.
FALLBACKS = ("malloc-chunk", "main-arena")


class Decision(NamedTuple):
    """A kind with its evidence.

    `wait`: what may still prove more: "header", "library", "stack", "reserve", "runtime" or "".
    """

    kind: str
    evidence: str
    owner: str | None = None
    candidates: tuple[str, ...] = ()
    wait: str = ""


class Scene(NamedTuple):
    """What else is known when a region is born.

    `brk_failed`: the same thread's call just before was a refused growth of the break, by malloc
    ("malloc") or by whoever ("any"). `one_libc`: only one glibc is mapped. `old_stdio`: a glibc
    before 2.23, whose stdio maps its buffers itself. `hugetlb`: tunable of that name. `heap_max`:
    what a thread arena reserves for a heap. `other`: the process's malloc is known, and no glibc is
    there.
    """

    brk_failed: str = ""
    one_libc: bool = True
    old_stdio: bool = False
    hugetlb: int = 0
    page: int = 4096
    heap_max: int = HEAP_MAX
    other: bool = False


def special(attr: Attr, *, heap: bool) -> Decision | None:
    """Pages the kernel names itself."""
    if heap:
        return Decision("heap", "sequence")
    if attr.name.startswith(("[vdso", "[vvar", "[vectors", "[sigpage")):
        return Decision("vdso", "shape")
    return None


def is_chunk_shape(args: list[int], page: int) -> bool:
    """Whether mmap was called exactly as `sysmalloc_mmap` calls it."""
    return (
        len(args) >= 4
        and args[0] == 0
        and args[2] == PROT_RW
        and args[3] == PLAIN
        and args[1] > 0
        and args[1] % page == 0
    )


def is_group_shape(args: list[int]) -> bool:
    """Whether mmap was called as musl's malloc calls it: that leaves the rounding to the kernel."""
    return len(args) >= 4 and args[0] == 0 and args[2] == PROT_RW and args[3] == PLAIN


def is_reserve(args: list[int], heap_max: int = HEAP_MAX) -> bool:
    """Whether mmap was called as `alloc_new_heap` does: 128 MiB anywhere, or 64 MiB at a hint (of
    an i386 program 2 MiB and 1 MiB).
    """
    if len(args) < 4 or args[2] != 0 or args[3] & ~MAP_NORESERVE != PLAIN:
        return False
    return args[1] == 2 * heap_max or (args[1] == heap_max and args[0] != 0)


def of_mmap(
    args: list[int], attr: Attr, caller: Caller, scene: Scene, *, is_library: bool
) -> Decision:
    """The kind of a new mmap; `attr` is what it became.

    `is_library`: executable pages of the same file are mapped.
    """
    if len(args) < 4:
        return Decision("unknown", "none")
    flags = args[3]
    anonymous = bool(flags & MAP_ANONYMOUS)
    if flags & MAP_TYPE in (1, 3):
        return Decision("shared-anon" if anonymous else "shared-file", "shape")
    if not anonymous:
        if attr.perms[2] == "x":
            return Decision("library", "sequence")
        if caller.who in (PROGRAM, LIBRARY):
            return Decision("file", "caller")  # a library's file, read as data
        if is_library:
            return Decision("library", "sequence")
        if caller.who == LOADER and flags & MAP_DENYWRITE:
            return Decision("library", "caller")  # _dl_map_segments; ld.so.cache comes without it
        if caller.who in (UNKNOWN, STATIC):
            return Decision("file", "shape", wait="library")  # its text may be mapped next
        return Decision("file", "shape")
    if caller.who == LOADER:
        return Decision("loader", "caller")
    if flags & MAP_STACK:
        if caller.who == LIBC:
            return Decision("thread-stack", "caller", wait="stack")
        if caller.who in (PROGRAM, LIBRARY):
            return Decision("anon", "caller", wait="stack")
        return Decision("unknown", "none", None, ("thread-stack", "anon"), "stack")
    if caller.who == ALLOCATOR:
        return _of_owner(args, caller.owner or "")
    if caller.owner is not None and caller.owner != "glibc":
        # One text holds an allocator and more: which of them called is not told.
        wait = "header" if caller.owner == "musl" and is_group_shape(args) else ""
        return Decision("unknown", "none", None, ("runtime-heap", "anon"), wait)
    if caller.who == LIBC:
        return _of_libc(args, scene)
    if caller.who == PROGRAM or caller.who == LIBRARY:
        if caller.direct:  # a system call without the C library: a runtime's, or the program's own
            return Decision("unknown", "none", None, ("anon", "runtime-heap"))
        return Decision("anon", "caller")
    return _untold(args, scene)


def _of_libc(args: list[int], scene: Scene) -> Decision:
    if is_reserve(args, scene.heap_max):
        return Decision("arena", "caller")
    if not is_chunk_shape(args, scene.page) or scene.old_stdio:
        return Decision("unknown", "none")
    fallback = args[1] >= FALLBACK and (not scene.one_libc or scene.hugetlb >= 2)
    if scene.brk_failed == "malloc":
        return Decision("main-arena", "sequence")  # sysmalloc_mmap_fallback
    if scene.brk_failed or fallback or scene.hugetlb >= 2:
        return Decision("unknown", "none", None, FALLBACKS, "header")
    return Decision("malloc-chunk", "caller", wait="header")


def _of_owner(args: list[int], owner: str) -> Decision:
    if owner == "pymalloc":
        # _PyObject_Arena maps 1 MiB (256 KiB before 3.10); anything else is Python mapping for its
        # user.
        if args[1] in (1 << 20, 256 << 10) and args[3] == PLAIN and args[2] == PROT_RW:
            return Decision("runtime-heap", "caller", owner)
        return Decision("anon", "caller")
    if owner in ("jvm", "v8"):
        if args[2] & PROT_EXEC:
            return Decision("jit", "caller", owner)
        if owner == "v8" and args[2] == PROT_RW and args[0] == 0:
            return Decision("anon", "caller")
    return Decision("runtime-heap", "caller", owner)


def _untold(args: list[int], scene: Scene) -> Decision:
    if is_reserve(args, scene.heap_max) and not scene.other:
        return Decision("unknown", "none", None, ("arena", "anon"), "reserve")
    wait = "header" if is_group_shape(args) else ""
    if scene.other:
        return Decision("unknown", "none", None, ("runtime-heap", "anon"), wait)
    if not is_chunk_shape(args, scene.page):
        return Decision("unknown", "none", wait=wait)
    if scene.brk_failed:
        return Decision("unknown", "none", None, ("malloc-chunk", "main-arena", "anon"), "header")
    return Decision("unknown", "none", None, ("malloc-chunk", "anon"), "header")


def of_other(name: str, attr: Attr) -> Decision:
    """The kind of pages that came by another call than mmap, or by a snapshot."""
    if name == "shmat":
        return Decision("shared-anon", "shape")
    if attr.is_file:
        if attr.perms[3:] == "s":
            return Decision("shared-file", "shape")
        return Decision("library" if attr.perms[2] == "x" else "file", "shape")
    return Decision("unknown", "none")
