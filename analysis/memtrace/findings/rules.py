# SPDX-License-Identifier: GPL-2.0-or-later
"""What each allocator does instead of glibc's rule, in a sentence or two."""

from __future__ import annotations

_RULES = {
    "musl": (
        "musl's mallocng maps each request of 131,052 bytes or more by itself and serves smaller "
        "ones from groups of slots, which it maps too; brk holds its metadata only. Before 1.2.1 "
        "musl used brk, and mapped from 229,377 bytes on."
    ),
    "jemalloc": (
        "jemalloc maps large extents and cuts its size classes from them, without a threshold and "
        "without brk; it gives pages back by madvise and rarely unmaps."
    ),
    "tcmalloc": (
        "gperftools' tcmalloc serves requests of any size from spans that it gets by brk, 1 MiB "
        "or more at a time, and by mmap where brk is refused; it gives pages back by madvise."
    ),
    "mimalloc": (
        "mimalloc reserves address space in large pieces by mmap and opens it as needed, without "
        "brk and without a threshold at 128 KiB."
    ),
    "go": (
        "Go's runtime reserves its heap by mmap (64 MiB at a time), opens it in steps of 4 MiB or "
        "more, never uses brk, and gives pages back by madvise."
    ),
    "jvm": (
        "The JVM reserves its Java heap once and commits parts of it by mmap; when it gives "
        "memory back is the collector's decision. Its native part uses the process's malloc."
    ),
    "v8": (
        "V8 reserves address ranges and maps its pages inside them; buffers outside its heap come "
        "from the process's malloc."
    ),
    "pymalloc": (
        "CPython serves objects of up to 512 bytes from arenas that it maps (256 KiB before 3.10, "
        "1 MiB since); larger ones come from the process's malloc."
    ),
    "asan": "AddressSanitizer brings an allocator of its own, which maps everything.",
    "lsan": "LeakSanitizer brings an allocator of its own, which maps everything.",
    "tsan": "ThreadSanitizer brings an allocator of its own, which maps everything.",
    "valgrind": "valgrind replaces malloc by one of its own, which maps everything.",
}


def rule_of(name: str) -> str:
    """The allocator's own rule, "" if none is known."""
    return _RULES.get(name, "")


def names() -> tuple[str, ...]:
    """The allocators that have one."""
    return tuple(_RULES)
