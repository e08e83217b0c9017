# SPDX-License-Identifier: GPL-2.0-or-later
"""An address space as bytes and back: what a checkpoint keeps of one; and a copy of one."""

from __future__ import annotations

from array import array

import msgspec

from memtrace.space.address_space import AddressSpace
from memtrace.space.canonical import PLAIN, Attr


class _Saved(msgspec.Struct, array_like=True):
    """`bounds`: start and end of every piece in address order, 64-bit; `tags` theirs; `kinds` their
    attributes, as numbers of `attrs`, 32-bit. `scalars`: in the order of `AddressSpace.SCALARS`.
    """

    scalars: list[int | bool | None]
    paths: list[tuple[str, int, str]]
    attrs: list[tuple[str, str, int, int, str, int]]
    bounds: bytes
    tags: bytes
    kinds: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Saved).decode


def save(space: AddressSpace) -> bytes:
    """The bytes.

    Raises:
        OverflowError: a number of a hostile trace has more than 64 bits.
    """
    bounds, tags, kinds = array("Q"), array("Q"), array("I")
    numbers: dict[Attr, int] = {}
    for start, end, attr, tag in space.pieces():
        bounds.append(start)
        bounds.append(end)
        tags.append(tag)
        kinds.append(numbers.setdefault(attr, len(numbers)))
    return _encode(
        _Saved(
            [getattr(space, name) for name in AddressSpace.SCALARS],
            [(dev, ino, path) for (dev, ino), path in space.paths.items()],
            [tuple(attr) for attr in numbers],  # type: ignore[misc]
            bounds.tobytes(),
            tags.tobytes(),
            kinds.tobytes(),
        )
    )


def load(data: bytes) -> AddressSpace:
    """The address space.

    Raises:
        ValueError: the bytes are none.
    """
    try:
        saved = _decode(data)
    except msgspec.MsgspecError as e:
        raise ValueError(str(e)) from e
    bounds, tags, kinds = array("Q"), array("Q"), array("I")
    bounds.frombytes(saved.bounds)
    tags.frombytes(saved.tags)
    kinds.frombytes(saved.kinds)
    attrs = [_known(Attr(*a)) for a in saved.attrs]
    space = AddressSpace()
    if len(saved.scalars) != len(AddressSpace.SCALARS) or len(bounds) != 2 * len(tags):
        raise ValueError("a saved address space of another shape")
    for name, value in zip(AddressSpace.SCALARS, saved.scalars, strict=True):
        setattr(space, name, value)
    space.paths = {(dev, ino): path for dev, ino, path in saved.paths}
    position = 0
    for i, (tag, kind) in enumerate(zip(tags, kinds, strict=True)):
        start, end = bounds[2 * i], bounds[2 * i + 1]
        if not position <= start < end or kind >= len(attrs):
            raise ValueError("a saved address space with overlapping pieces")
        space.put(start, end, attrs[kind], tag)
        position = end
    return space


def copy(space: AddressSpace) -> AddressSpace:
    """The same once more, whatever becomes of the first; not what a fork makes of it."""
    other = AddressSpace()
    for name in AddressSpace.SCALARS:
        setattr(other, name, getattr(space, name))
    other.paths = dict(space.paths)
    for piece in space.pieces():
        other.put(*piece)
    return other


def _known(attr: Attr) -> Attr:
    """The one value that plain memory of these permissions has."""
    plain = PLAIN.get(attr.perms)
    return plain if plain is not None and plain == attr else attr
