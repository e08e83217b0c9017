# SPDX-License-Identifier: GPL-2.0-or-later
"""What a move of the break was: the role of a step of the heap's ledger."""

from __future__ import annotations

FIRST, GROWTH, ALIGNMENT, FOREIGN, OTHER, SHRINK, REFUSED, UNKNOWN = (
    "first-heap", "growth", "alignment", "foreign-sbrk", "other-allocator", "shrink", "refused",
    "unknown",
)  # fmt: skip

#: Every role, and what it means.
ROLES = {
    FIRST: "malloc's first growth: its main arena was empty",
    GROWTH: "malloc needed more for one request",
    ALIGNMENT: "the second of two growths: it aligns what the first got",
    FOREIGN: "not malloc: the program or a library called sbrk or brk",
    OTHER: "another allocator's",
    SHRINK: "malloc gave the free end back: a free did, or malloc_trim",
    REFUSED: "the kernel refused it",
    UNKNOWN: "whose it was, or which of these, is not proven",
}
