# SPDX-License-Identifier: GPL-2.0-or-later
"""A raw call as the trace names it: canonical name, used arguments, signed result."""

from __future__ import annotations

from memtrace.collect import wire
from memtrace.collect.abi import ABIS, CALLS, NATIVE, X32_BIT
from memtrace.trace.records import Ext

_MREMAP_NEEDS_ADDRESS = 6  # MREMAP_FIXED | MREMAP_DONTUNMAP


def decode(m: wire.CallMessage) -> tuple[str, list[int], int | None, Ext | None]:
    """(name, used arguments, result, what the row says besides) of a CALL message.

    The result is None when the call never returned. mmap2, old_mmap and ipc come with their
    native form in `extra`.
    """
    entry, extra = m.entry, m.extra
    ret = None if m.flags & wire.UNFINISHED else m.ret
    args = list(entry[4:10])
    ext: Ext | None = None
    if entry[0] >> 32 == NATIVE.audit:
        number = entry[3]
        if number & X32_BIT:
            number &= ~X32_BIT
            ext = Ext(abi="x32")
        name = NATIVE.names[number]
    else:
        abi = ABIS[entry[0] >> 32]
        name = abi.names[entry[3]]
        ext = Ext(abi=abi.name)
        if ret is not None and ret < -4095:
            ret &= 0xFFFFFFFF
    if extra is not None:
        ext = ext or Ext()
        ext.name = extra.get("name")
        if "call" in extra:
            name, args, ext.raw = extra["call"], extra["args"], extra["raw"]
    count = CALLS[name]
    if name == "mremap" and not args[3] & _MREMAP_NEEDS_ADDRESS:
        count = 4
    return name, args[:count], ret, ext
