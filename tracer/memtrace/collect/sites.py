# SPDX-License-Identifier: GPL-2.0-or-later
"""Where calls were made from: what the stack at their entries tells, as places in files."""

from __future__ import annotations

from memtrace.collect import vsyscall, wire
from memtrace.collect.abi import I386
from memtrace.collect.frames import Frame, Frames
from memtrace.collect.libc import calls_directly
from memtrace.space.address_space import AddressSpace
from memtrace.space.calls import Change
from memtrace.trace.codec import Interner
from memtrace.trace.records import Site

_MAX_SITES = 65536
_MREMAP_CALLER = 88  # bytes from the stack pointer

#: (dev, inode, path, offset in the file), or the bare address.
Place = tuple[str, int, str, int] | int
#: A frame, and (dev, inode) of the file that tells it.
InFile = tuple[Frame, tuple[str, int]]


class Known:
    """What was found out about one address space.

    `twice`, by (dev, inode): whether the file's text is mapped at more than one place, once asked.
    """

    __slots__ = ("frames", "pid", "sites", "space", "twice")

    def __init__(self, pid: int, space: AddressSpace) -> None:
        self.pid = pid
        self.space = space
        self.sites: dict[tuple[int, int, int], int] = {}
        self.frames: dict[tuple[int, int], InFile | None] = {}
        self.twice: dict[tuple[str, int], bool] = {}

    def code_changed(self, change: Change) -> None:
        """Code has come or gone: addresses mean something else."""
        self.sites.clear()
        self.frames.clear()
        for piece in (*change.removed, *change.added):
            self.twice.pop((piece[2].dev, piece[2].ino), None)

    def forget(self) -> None:
        """Nothing that was found out need be so any more."""
        self.sites.clear()
        self.frames.clear()
        self.twice.clear()

    def mapped_twice(self, file: tuple[str, int]) -> bool:
        """Whether the text of a file is mapped at more than one place. All of the map is looked
        through for it, but only when the file's own text has come or gone: programs that make code
        map none.
        """
        known = self.twice.get(file)
        if known is None:
            pieces = (a for _, _, a, _ in self.space.pieces() if a.perms[2] == "x")
            places = {a.delta for a in pieces if (a.dev, a.ino) == file}
            known = self.twice[file] = len(places) > 1
        return known


class Sites:
    """Gives each place that calls are made from a number; and its definition, the first time."""

    def __init__(self, interner: Interner) -> None:
        self._interner = interner
        self._frames = Frames()

    def of(self, known: Known, m: wire.CallMessage, name: str) -> int | Site | None:
        """The site of a call; None if nothing was read at its entry."""
        if not m.stack:
            return None
        if m.entry[0] >> 32 == I386.audit:
            key = self._of_i386(known, m, name)
        else:
            key = self._of_x86_64(known, m, name)
        number = known.sites.get(key)
        if number is not None:
            return number
        ip, ret, outer = key
        space = known.space
        places = (
            _place(space, ip) or ip,
            _place(space, ret) if ret else None,
            _place(space, outer) if outer else None,
        )
        direct = base = None
        if name == "mmap":
            direct = _is_direct(known.pid, places[0], places[1])
        elif name == "brk":
            direct = _is_direct(known.pid, places[1], places[2])
            if direct and _is_direct(known.pid, places[0], places[1]) is False:
                direct = False
        inside = places[0]
        if isinstance(inside, tuple) and known.mapped_twice(inside[:2]):
            base = ip - inside[3]
        number, definition = self._interner.site(*places, direct=direct, base=base)
        if len(known.sites) > _MAX_SITES:
            known.sites.clear()
        known.sites[key] = number
        return definition or number

    def _of_i386(self, known: Known, m: wire.CallMessage, name: str) -> tuple[int, int, int]:
        at = vsyscall.unwind(m.stack, m.entry[1], m.entry[3], lambda a: self._frame(known, a, 4))
        return at.ip, at.ret, at.outer if name == "brk" else 0

    def _of_x86_64(self, known: Known, m: wire.CallMessage, name: str) -> tuple[int, int, int]:
        ip, stack = m.entry[1], m.stack
        at = self._back(known, ip) or 0
        ret = int.from_bytes(stack[at : at + 8], "little")
        outer = b""
        if name == "brk":
            frame = self._back(known, ret)
            if frame is not None:
                outer = stack[at + 8 + frame : at + 16 + frame]
        elif name == "mremap":
            outer = stack[_MREMAP_CALLER : _MREMAP_CALLER + 8]
        return ip, ret, int.from_bytes(outer, "little")

    def _back(self, known: Known, address: int) -> int | None:
        """Bytes from the stack pointer to the return address, in code that goes on at `address`."""
        found = self._frame(known, address, 8)
        return None if found is None else found[0].back

    def _frame(self, known: Known, address: int, word: int) -> InFile | None:
        """The frame of code that goes on at `address`; None for code of no file."""
        key = address, word
        if key in known.frames:
            return known.frames[key]
        place, found = _place(known.space, address), None
        if isinstance(place, tuple):
            found = self._frames.at(known.pid, *place, word), place[:2]
        if len(known.frames) > _MAX_SITES:
            known.frames.clear()
        known.frames[key] = found
        return found


def _is_direct(pid: int, ip: Place | None, ret: Place | None) -> bool | None:
    """`Site.direct`: asked where both places are in one file, once per site and address space."""
    if not isinstance(ip, tuple) or not isinstance(ret, tuple) or ip[:2] != ret[:2]:
        return None
    return calls_directly(pid, ret[1], ret[2], ret[3], ip[3])


def _place(space: AddressSpace, address: int) -> Place | None:
    """A code address as (dev, inode, path, file offset); the bare address in code without a file;
    None when it points to no code.
    """
    piece = space.at(address)
    if piece is None or piece[2].perms[2] != "x":
        return None
    attr = piece[2]
    if not attr.is_file:
        return address
    return attr.dev, attr.ino, space.paths.get((attr.dev, attr.ino), ""), address + attr.delta
