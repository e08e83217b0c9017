# SPDX-License-Identifier: GPL-2.0-or-later
"""What kind each region was, by its tag, for the whole of a trace.

A map at a moment knows which region a page belongs to (its tag), but only a pass to the trace's end
knows what that region was: a chunk's header may be read after its birth. One byte a region.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from memtrace.malloc import older
from memtrace.malloc.glibc import Layout
from memtrace.replay.observer import Observer
from memtrace.trace.records import Attach

if TYPE_CHECKING:
    from memtrace.replay.checkpoint import Blobs
    from memtrace.replay.process import Process
    from memtrace.trace.records import Fork, Start

#: Set in the tag of the guard that is cut out of a thread's stack: the rest is the mapping's own.
CARVED = 1 << 40
_KINDS = (
    "unknown", "heap", "malloc-chunk", "main-arena", "arena", "stack", "thread-stack", "guard",
    "tls", "library", "file", "shared-file", "shared-anon", "anon", "loader", "vdso", "jit",
    "runtime-heap",
)  # fmt: skip
_NUMBERS = {kind: i for i, kind in enumerate(_KINDS)}


class _Saved(msgspec.Struct, array_like=True):
    base: int
    own: bytes
    inherited: dict[int, int]


class Tags:
    """The kinds of one address space's regions.

    Args:
        base: the first tag that is not inherited from a parent.
    """

    __slots__ = ("_base", "_inherited", "_own")

    def __init__(self, base: int) -> None:
        self._base = base
        self._own = bytearray()
        self._inherited: dict[int, int] = {}

    def note(self, tag: int, kind: str) -> None:
        """The kind of a region that will not change any more."""
        i, own = tag - self._base, self._own
        if 0 <= i < len(own):
            own[i] = _NUMBERS[kind]
        elif i < 0:
            self._inherited[tag] = _NUMBERS[kind]
        elif i < CARVED // 2:
            own.extend(bytes(i + 4096 - len(own)))
            own[i] = _NUMBERS[kind]

    def save(self) -> bytes:
        """As bytes, for `load`."""
        return msgspec.msgpack.encode(_Saved(self._base, bytes(self._own), self._inherited))


class Kinds:
    """The kinds of all regions, as `Tags` have saved them."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._known: dict[int, _Saved | None] = {}

    def holds(self, mm: int) -> bool:
        """Whether those of an address space are here, and whole."""
        return self._saved(mm) is not None

    def of(self, mm: int, tag: int) -> str:
        """The kind of the region; "unknown" also if it was never accounted for."""
        saved = self._saved(mm)
        if saved is None:
            return "unknown"
        tag &= CARVED - 1
        number, i = saved.inherited.get(tag, 0), tag - saved.base
        if 0 <= i < len(saved.own):
            number = saved.own[i]
        return _KINDS[number] if number < len(_KINDS) else "unknown"

    def _saved(self, mm: int) -> _Saved | None:
        if mm not in self._known:
            saved = None
            with suppress(msgspec.MsgspecError, ValueError):
                saved = msgspec.msgpack.decode(self._blobs.get(blob_of(mm)) or b"", type=_Saved)
            self._known[mm] = saved
        return self._known[mm]


class Cuts(Observer):
    """Cuts the lines that an attach found into regions as an `Account` does, so that tags are
    alike.

    Args:
        page: the page size in bytes.
    """

    def __init__(self, page: int) -> None:
        self._page = page

    def born(self, p: Process, _seq: int, _t: int, record: Start | Fork) -> None:
        """See `Observer`."""
        if isinstance(record, Attach):
            older.regions(p.space, record, Layout(None, record.abi, self._page))


def blob_of(mm: int) -> str:
    """The name under which an address space's tags are kept."""
    return f"kinds{mm}"
