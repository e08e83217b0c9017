# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages from the tracer to the writer: raw, because every microsecond the tracer spends, the
target waits.

    CALL    one memory call: the entry's register block as the kernel wrote it, and what was read
    beside it LIFE    a life-cycle record as JSON, with a blob (raw maps text) HEADER  the two words
    at a fresh mapping FREED   the size words of a chunk, before the munmap that gives it back

Both sides are on one machine and of one version: the layout is private.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

CALL, LIFE, HEADER, FREED = 1, 2, 3, 4

#: kind, flags, statm bytes, stack bytes, extra bytes, tid, mm, entry ns, exit ns, return value
CALL_HEAD = struct.Struct("<BBBBIIIQQq")
#: op_arch, ip, sp, nr, six arguments; seccomp data
CALL_ENTRY = struct.Struct("<4Q6qQ")
LIFE_HEAD = struct.Struct("<BxxxII")
HEADER_MESSAGE = struct.Struct("<BxxxIQQQ")
FREED_MESSAGE = struct.Struct("<BxxxIQQQ")

UNFINISHED = 1

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class CallMessage(NamedTuple):
    """A decoded CALL. `stack` holds words from the stack pointer on; `extra` what was read back."""

    flags: int
    tid: int
    mm: int
    t0: int
    t1: int
    ret: int
    entry: tuple[int, ...]
    stack: bytes
    statm: bytes
    extra: dict[str, Any] | None


class LifeMessage(NamedTuple):
    """A decoded LIFE: the record's fields and its blob."""

    fields: dict[str, Any]
    blob: bytes


class HeaderMessage(NamedTuple):
    """The mapping made by call number `call` of the mm: the word that it begins with, and the size
    word of its chunk, or the address of its meta (`mallocng`), or 0.
    """

    mm: int
    call: int
    word0: int
    word1: int


class FreedMessage(NamedTuple):
    """The size words of the mapped chunk at `address`, see `freed.freed_chunk`; its munmap is the
    next of the mm that begins there.
    """

    mm: int
    address: int
    first: int
    inner: int


Message = CallMessage | LifeMessage | HeaderMessage | FreedMessage


def life(fields: dict[str, Any], blob: bytes = b"") -> bytes:
    """Encode a LIFE message."""
    text = _encode(fields)
    return LIFE_HEAD.pack(LIFE, len(text), len(blob)) + text + blob


def extra(fields: dict[str, Any]) -> bytes:
    """Encode the read-backs of a CALL message."""
    return _encode(fields)


class Parser:
    """Bytes in, whole messages out; keeps the rest (sans-IO)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield every message that is complete now."""
        buffer = self._buffer
        buffer += data
        view = bytes(buffer)
        position, end = 0, len(view)
        head_size, entry_size = CALL_HEAD.size, CALL_ENTRY.size
        unpack_head, unpack_entry = CALL_HEAD.unpack_from, CALL_ENTRY.unpack_from
        while position < end:
            kind = view[position]
            if kind == CALL:
                if end - position < head_size:
                    break
                (_, flags, n_statm, n_stack, n_extra, tid, mm, t0, t1, ret) = unpack_head(
                    view, position
                )
                p = position + head_size + entry_size
                total = p + n_stack + n_statm + n_extra
                if total > end:
                    break
                entry = unpack_entry(view, position + head_size)
                q = p + n_stack
                r = q + n_statm
                ext = _decode(view[r:total]) if n_extra else None
                yield CallMessage(flags, tid, mm, t0, t1, ret, entry, view[p:q], view[q:r], ext)
                position = total
            elif kind == LIFE:
                if end - position < LIFE_HEAD.size:
                    break
                _, n_text, n_blob = LIFE_HEAD.unpack_from(view, position)
                p = position + LIFE_HEAD.size
                if p + n_text + n_blob > end:
                    break
                yield LifeMessage(
                    _decode(view[p : p + n_text]), view[p + n_text : p + n_text + n_blob]
                )
                position = p + n_text + n_blob
            elif kind == HEADER:
                if end - position < HEADER_MESSAGE.size:
                    break
                yield HeaderMessage(*HEADER_MESSAGE.unpack_from(view, position)[1:])
                position += HEADER_MESSAGE.size
            elif kind == FREED:
                if end - position < FREED_MESSAGE.size:
                    break
                yield FreedMessage(*FREED_MESSAGE.unpack_from(view, position)[1:])
                position += FREED_MESSAGE.size
            else:
                raise ValueError(f"message of kind {kind}")
        del buffer[:position]
