# SPDX-License-Identifier: GPL-2.0-or-later
"""Regions held against the threshold rule: their verdict, and its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace.malloc import origin

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from memtrace.malloc.glibc import Layout
    from memtrace.malloc.mallocs import Mallocs
    from memtrace.malloc.regions import Region

_DEFAULT = 128 * 1024  # DEFAULT_MMAP_THRESHOLD_MIN
_NOT_MALLOCS = {"anon": "direct-call", "runtime-heap": "other-allocator"}


def hold(r: Region, mallocs: Mallocs) -> None:
    """A mapped chunk: hold it against the threshold as it stood at its birth."""
    it = mallocs.of(r.libc)
    most = it.layout.chunk(r.length)[1]
    if r.t_low is None or not it.layout.known:
        r.verdict, r.reason = "unknown", None
    elif r.t_high is not None and r.t_low <= most < r.t_high:
        r.verdict, r.reason = "unknown", None  # it only tells where the threshold was
    elif most >= r.t_low:
        r.verdict, r.reason = "holds", None
        if most < _DEFAULT:
            r.verdict, r.reason = "explained", it.threshold.fixed_by
            if r.reason is None:
                r.verdict = "unknown"
    elif r.no_arena:
        r.verdict, r.reason = "explained", "no-arena"
    elif most >= it.layout.heap_max // 2 or (r.libc is None and not mallocs.one_glibc):
        # An arena maps what no heap of it can hold, whatever T is; which arena served is not known.
        # Nor is it whose chunk it is, if two copies of libc are not told apart: each has its own T.
        r.verdict, r.reason = "unknown", None
    else:
        cause = it.threshold.at_most(r.born_seq, r.born_t, most)
        r.verdict = {"fits": "holds", "contradiction": "contradiction"}.get(cause, "unknown")
        r.reason = cause if cause == "aligned-or-mallopt" else None


def excluded(r: Region, mallocs: Mallocs) -> bool:
    """Whether the threshold as it stood at its birth excludes a mapped chunk of that length."""
    layout = mallocs.of(r.libc).layout
    if r.t_low is None or r.no_arena or not layout.known:
        return False
    return layout.chunk(r.length)[1] < r.t_low


def rule_on(r: Region) -> None:
    """The verdict of a region that is no mapped chunk."""
    if r.kind in origin.NO_RULE:
        r.verdict, r.reason = "not-applicable", _NOT_MALLOCS.get(r.kind)
    elif r.kind == "main-arena":
        r.verdict, r.reason = "explained", "brk-failed"
    elif r.kind == "arena":
        r.verdict, r.reason = "holds", None
    else:
        r.verdict, r.reason = "unknown", None


def last_word(r: Region, steps: AbstractSet[str], layout: Layout, *, other: bool = False) -> None:
    """What is said in the end.

    Args:
        r: the region.
        steps: the verdicts of the heap's steps.
        layout: of mapped chunks.
        other: the process's malloc is another one, and no glibc is there.
    """
    if other and r.verdict == "unknown" and (r.kind == "unknown" or not steps):
        r.verdict = "not-applicable"  # whatever it is
        return
    if r.kind == "heap":
        for verdict in ("contradiction", "unknown"):
            if verdict in steps:
                r.verdict = verdict
                return
        if steps & {"holds", "explained"}:
            r.verdict = "holds"
        elif steps:
            r.verdict = "not-applicable"
        return
    if r.kind != "malloc-chunk" or not r.moves or r.verdict != "holds" or r.t_low is None:
        return
    if layout.chunk(r.bytes)[1] < r.t_low:
        r.verdict, r.reason = "explained", "mremap-shrink"
