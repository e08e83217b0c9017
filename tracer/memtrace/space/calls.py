# SPDX-License-Identifier: GPL-2.0-or-later
"""What each memory syscall does to an address space.

Rules. Deterministic effects are derived from arguments and result; what is not deterministic
(a shared mapping's inode, a range after a failed call) was read back by the tracer and stands in
`ext.x`, which replaces its range whatever else was derived. A failed call has no derived effect: if
the kernel had changed something before it failed (mprotect up to a hole), `ext.x` shows it. The one
exception is madvise's ENOMEM: it has met a hole and given its advice to all the rest
(`madvise_walk_vmas`), and the flag it sets shows in no map.

Each effect is one function (space, args, ret, change, file) -> None that fills a `Change`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from memtrace.space.address_space import ANON_RW, ANON_RWX, READ_IMPLIES_EXEC, AddressSpace, Piece
from memtrace.space.canonical import ASSUMED, DONTFORK, GROWSDOWN, PLAIN, Attr, MapsCache
from memtrace.space.seed import disjoint
from memtrace.trace.mapping import ANON_DEV
from memtrace.trace.records import FileId
from memtrace.trace.sizes import round_up

MAP_PRIVATE, MAP_TYPE, MAP_FIXED, MAP_ANONYMOUS = 2, 0xF, 0x10, 0x20
MAP_GROWSDOWN, MAP_STACK = 0x100, 0x20000
_TYPE_OR_GROWING = MAP_TYPE | MAP_GROWSDOWN
PROT_READ, PROT_EXEC, PROT_GROWSDOWN = 1, 4, 0x01000000
MREMAP_FIXED, MREMAP_DONTUNMAP = 2, 4
MADV_DONTFORK, MADV_DOFORK = 10, 11
ENOMEM, EINVAL = -12, -22
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
PR_SET_MM, PR_SET_MM_START_STACK, PR_SET_MM_START_BRK, PR_SET_MM_BRK = 35, 5, 6, 7
PR_SET_MM_MAP = 14

_PERMS = tuple(
    ("r" if p & 1 else "-") + ("w" if p & 2 else "-") + ("x" if p & 4 else "-") for p in range(8)
)
#: Private memory without a file, by protection; and where READ_IMPLIES_EXEC stands.
_PLAIN = tuple(PLAIN[perms + "p"] for perms in _PERMS)
_PLAIN_EXEC = tuple(_PLAIN[p | PROT_EXEC if p & PROT_READ else p] for p in range(8))
#: Of an argument that is an int to the kernel (`SYSCALL_DEFINE`), the upper half is nobody's.
INT = (1 << 32) - 1
_U64 = (1 << 64) - 1
#: Top of what a user address can be: the sizes of a hostile trace are clamped to it.
TASK_MAX = 1 << 57


#: Pages that were mapped before anybody saw it, moved or grown by an mremap that succeeded.
_UNSEEN = Attr("????", ANON_DEV, 0, 0, ASSUMED)


class Change(msgspec.Struct, gc=False):
    """What one call changed: pieces that went and pieces that came (re-protected ones are in both).

    `conflict` is set when the call's result contradicts the model: a non-FIXED mmap that lands on
    mapped pages. `brk_from`: the end of the page in which the break was before, if no call had told
    it and the pages that came or went now do.
    """

    removed: list[Piece] = []
    added: list[Piece] = []
    conflict: bool = False
    brk_from: int | None = None


class Evidence(Protocol):
    """The part of `records.Ext` that has an effect on the map."""

    f: int | FileId | None
    x: tuple[int, int, list[str]] | None
    name: str | None
    personality: int | None
    layout: tuple[int, int, int] | None
    dontfork: tuple[int, int, list[tuple[int, int]]] | None


#: Calls that go through a range piece by piece and may fail on the way with part of it changed.
_PART_WAY = ("mprotect", "pkey_mprotect")

#: Of a kernel map, as `MapsCache` parses it.
Line = tuple[int, int, Attr, str]
Effect = Callable[[AddressSpace, list[int], int, Change, "FileId | None", "str | None"], None]


def apply(
    space: AddressSpace,
    call: str,
    args: list[int],
    ret: int | None,
    ext: Evidence | None,
    file: FileId | None,
    cache: MapsCache,
) -> Change | None:
    """Apply one call; None when it changed nothing.

    Args:
        space: changed in place.
        call: the canonical name.
        args: the used arguments, signed.
        ret: the kernel's signed return, None when the call never returned (no derived effect).
        ext: what was read back.
        file: `ext.f` resolved.
        cache: parser of `ext.x`.
    """
    if (
        ret is not None
        and file is None
        and (
            ext is None
            or (
                ext.x is None
                and ext.personality is None
                and ext.layout is None
                and ext.dontfork is None
            )
        )
    ):  # nothing was read back: most calls
        change = most_calls(space, call, args, ret)
        if change is not None:
            return change if change.removed or change.added else None
    change = None
    if ext is not None and ext.personality is not None:
        space.personality = ext.personality
    effect = EFFECTS.get(call)
    told = ext is not None and ext.x is not None and _tell_too_much(space, call, args, ret)
    if effect is None or ret is None or told:
        pass
    elif ret >= 0 or ret < -4095 or (call == "madvise" and ret == ENOMEM):
        change = Change()
        try:
            effect(space, args, ret, change, file, ext.name if ext is not None else None)
        except (IndexError, NoRangeError):  # a damaged row with too few arguments, or a hostile one
            change.conflict = True
    elif space.assumed and ret != EINVAL and call in _PART_WAY:
        change = _part_way(space, args)
    if ext is not None and ext.x is not None:
        low, high, lines = ext.x
        change = change or Change()
        if told and call == "brk" and ret is not None:
            _first_brk(space, ret, low, high, cache.parse(lines), change)
        if call == "shmat" and ret is not None and ret >= 0:
            # do_shmat maps anew, with SHM_REMAP over what was there: nothing of that stays.
            change.removed += space.cut(low, high)
        if 0 <= low < high <= TASK_MAX:
            removed, added = space.set_range(low, high, cache.parse(lines))
            change.removed += removed
            change.added += added
        else:
            change.conflict = True
    if ext is not None:
        if ext.layout is not None:
            space.start_brk, space.brk, space.start_stack = ext.layout
            space.brk_by_label = False
        if ext.dontfork is not None:
            _dontfork(space, *ext.dontfork)
    if change is not None and (change.removed or change.added or change.conflict):
        return change
    return None


def most_calls(space: AddressSpace, call: str, args: list[int], ret: int) -> Change | None:
    """What `apply` does of a munmap and of an mmap of private memory without a file, of which
    nothing was read back: nearly every call of a trace. An empty change: nothing was there; None:
    it is none of these.
    """
    if call == "munmap":
        if ret == 0 and len(args) > 1:
            low = args[0]
            high = low + (args[1] + 4095 & -4096)
            if 0 <= low < high <= TASK_MAX:
                return Change(space.cut(low, high))
    elif call == "mmap" and len(args) > 3:
        high, flags = ret + (args[1] + 4095 & -4096), args[3]
        if 0 <= ret < high <= TASK_MAX and flags & _TYPE_OR_GROWING == MAP_PRIVATE:
            plain = _PLAIN_EXEC if space.personality & READ_IMPLIES_EXEC else _PLAIN
            attr, tag = plain[args[2] & 7], space.next_tag
            space.next_tag = tag + 1
            removed = space.place(ret, high, attr, tag)
            added = [(ret, high, attr, tag)]
            return Change(removed, added, bool(removed) and not flags & MAP_FIXED)
    return None


def _range(address: int, length: int) -> tuple[int, int]:
    """[start, end) of a page range as the kernel takes it; empty when it is no user range."""
    if address < 0 or length <= 0 or address >= TASK_MAX:
        return 0, 0
    return address, address + min(round_up(length), TASK_MAX)


def _tell_too_much(space: AddressSpace, call: str, args: list[int], ret: int | None) -> bool:
    """Whether a call may have done less than its arguments tell: then only what was read back is
    true of it. PROT_GROWSDOWN begins at the VMA's start (`do_mprotect_pkey`), and no map shows all
    that divides one VMA from the next. Nor does any show the break that the first brk begins from.
    """
    if call == "brk":
        return space.brk_by_label and args[:1] == [ret]
    return call in _PART_WAY and len(args) > 2 and bool(args[2] & PROT_GROWSDOWN)


class NoRangeError(ValueError):
    """A call that succeeded on a range that no process can have."""


def _user_range(address: int, length: int) -> tuple[int, int]:
    """The same where the kernel refuses what is no user range, so that no success can be true.

    Raises:
        NoRangeError: it is none.
    """
    if 0 <= address < TASK_MAX and 0 < length <= TASK_MAX:
        return address, address + (length + 4095 & -4096)
    if length:
        raise NoRangeError
    return 0, 0


def _place(space: AddressSpace, low: int, high: int, attr: Attr, tag: int, change: Change) -> None:
    """Map [low, high) over whatever is there."""
    if high > low:
        change.removed += space.place(low, high, attr, tag)
        change.added.append((low, high, attr, tag))


def prot_perms(space: AddressSpace, prot: int, shared: str) -> str:
    """The four letters for a protection, with READ_IMPLIES_EXEC applied as `do_mmap` does."""
    if prot & PROT_READ and space.personality & READ_IMPLIES_EXEC:
        prot |= PROT_EXEC
    return _PERMS[prot & 7] + shared


def _mmap(
    space: AddressSpace, a: list[int], ret: int, change: Change, file: FileId | None, _: str | None
) -> None:
    low, high = _user_range(ret, a[1])
    flags = a[3]
    if high <= low:
        return
    perms = prot_perms(space, a[2], "s" if flags & MAP_TYPE in (1, 3) else "p")
    if file is not None:
        # Shared memory without a file has an inode of its own (`shmem_zero_setup`), from its start.
        offset = 0 if flags & MAP_ANONYMOUS else a[5]
        attr = Attr(perms, file.dev, file.ino, offset - low, "")
        space.paths[file.dev, file.ino] = file.path
    else:
        attr = Attr(perms, ANON_DEV, 0, 0, "", GROWSDOWN if flags & MAP_GROWSDOWN else 0)
    tag = space.new_tag()
    removed = space.place(low, high, attr, tag)
    if removed:
        change.removed = removed
        change.conflict = not flags & MAP_FIXED
    change.added = [(low, high, attr, tag)]


def _munmap(
    space: AddressSpace, a: list[int], ret: int, change: Change, file: FileId | None, _: str | None
) -> None:
    change.removed = space.cut(*_user_range(a[0], a[1]))


def _brk(
    space: AddressSpace, a: list[int], ret: int, change: Change, file: FileId | None, _: str | None
) -> None:
    # Success is ret == asked, byte exact; anything else answers the current break.
    old, new = space.brk, ret
    if not 0 <= new < TASK_MAX:
        change.conflict = True
        return
    by_label, space.brk_by_label = space.brk_by_label, False
    space.brk = new
    if by_label and new != a[0] & _U64:
        _end_the_heap(space, change)
        return
    if old is None or new == old:
        return
    low, high = round_up(old), round_up(new)
    if by_label and high != low:
        change.brk_from = low
    if high > low:
        if space.heap_tag == 0 or space.is_free(low - 1, low) or old == space.start_brk:
            space.heap_tag = space.new_tag()
        attr = ANON_RWX if space.personality & READ_IMPLIES_EXEC else ANON_RW
        _place(space, low, high, attr, space.heap_tag, change)
        change.conflict = bool(change.removed)
    elif high < low:
        change.removed = space.cut(high, low)


def _first_brk(
    space: AddressSpace, ret: int, low: int, high: int, lines: list[Line], change: Change
) -> None:
    """The first brk after an attach that may have moved the break: from where, the map tells. If
    down, nothing is left of what lay above, up to `high`; if up, it has filled a hole below, from
    `low` on, as `lines` show.
    """
    end = round_up(ret)
    if not 0 <= low <= end <= high <= TASK_MAX:
        change.conflict = True
        return
    space.brk, space.brk_by_label = ret, False
    change.removed = space.cut(end, high)
    if change.removed:
        change.brk_from = change.removed[-1][1]
    space.heap_tag = space.heap_tag or space.new_tag()
    for start, stop, attr, _ in lines:
        for s, e in _holes(space, max(start, low), min(stop, end)):
            change.brk_from = change.brk_from or s
            _place(space, s, e, attr, space.heap_tag, change)
    _end_the_heap(space, change)


def _holes(space: AddressSpace, low: int, high: int) -> list[tuple[int, int]]:
    """What of [low, high) is not mapped."""
    holes, position = [], low
    for s, e, _, _ in space.pieces(low, high):
        if position < s:
            holes.append((position, s))
        position = e
    if position < high:
        holes.append((position, high))
    return holes


def _end_the_heap(space: AddressSpace, change: Change) -> None:
    """A call has told the break: what was labelled [heap] above it is no part of the heap."""
    end, heap = round_up(space.brk or 0), space.heap_tag
    foreign = [(s, e) for s, e, _, tag in space.pieces(end) if tag == heap]
    if not foreign:
        return
    tag = space.new_tag()
    for s, e in foreign:
        change.removed += space.retag(s, e, tag)
        change.added += space.pieces(s, e)


def _mremap(
    space: AddressSpace, a: list[int], ret: int, change: Change, file: FileId | None, _: str | None
) -> None:
    old, old_end = _user_range(a[0], a[1])
    new, new_end = _user_range(ret, a[2])
    flags = a[3] if len(a) > 3 else 0
    if new_end <= new:
        change.conflict = True  # EINVAL
        return
    if old_end <= old:  # old_size 0: a second mapping of a shared one
        source = space.at(a[0])
        if source is None:
            if space.assumed:
                _place(space, new, new_end, _UNSEEN, space.new_tag(), change)
            else:
                change.conflict = True
            return
        attr = _moved(source[2], new - a[0])
        _place(space, new, new_end, attr, space.new_tag(), change)
        return
    if new == old:
        _resize_in_place(space, old, old_end, new_end, change)
        return
    if flags & MREMAP_DONTUNMAP:
        moved = [(s, e, t, space.new_tag()) for s, e, t, _tag in space.pieces(old, old_end)]
    else:
        moved = space.cut(old, old_end)
        change.removed += moved
    if not moved:
        if not space.assumed:
            change.conflict = True
            return
        moved = [(old, old_end, _UNSEEN, space.new_tag())]
    # mremap_to: a shrinking move drops the tail first; a growing one extends the (then only) piece.
    limit, grown = old + (new_end - new), new_end - new > old_end - old
    for i, (s, end, attr, tag) in enumerate(moved):
        e = limit if grown and i == len(moved) - 1 else min(end, limit)
        # Since 6.17 several pieces move at once: what lies under their gaps at the target stays.
        _place(space, new + s - old, new + e - old, _moved(attr, new - old), tag, change)


def _resize_in_place(space: AddressSpace, old: int, old_end: int, end: int, change: Change) -> None:
    if end < old_end:
        change.removed = space.cut(end, old_end)
    elif end > old_end:
        last = space.at(old_end - 1)
        if last is None:
            if not space.assumed:
                change.conflict = True
                return
            last = (old, old_end, _UNSEEN, space.new_tag())
            _place(space, *last, change)
        _place(space, old_end, end, last[2], last[3], change)


def _moved(attr: Attr, distance: int) -> Attr:
    """The attribute of pages moved up by `distance`: the file offset moves along."""
    if attr.is_file:
        return attr._replace(delta=attr.delta - distance)
    return attr


def _mprotect(
    space: AddressSpace, a: list[int], ret: int, change: Change, file: FileId | None, _: str | None
) -> None:
    low, high = _user_range(a[0], a[1])
    prot = a[2]
    if prot & PROT_GROWSDOWN:
        piece = space.at(low)
        while piece is not None and piece[2].flags & GROWSDOWN:
            low, attr = piece[0], piece[2]
            # Nothing was read back (an imported log): pieces that are alike are taken for one VMA.
            piece = space.at(low - 1)
            piece = piece if piece is not None and piece[2] == attr else None
    rwx = prot_perms(space, prot, "")

    def protected(attr: Attr) -> Attr:
        return attr if attr.perms[:3] == rwx else attr._replace(perms=rwx + attr.perms[3])

    change.removed, change.added = space.alter(low, high, protected)


def _part_way(space: AddressSpace, a: list[int]) -> Change:
    """A failed mprotect that nobody looked behind: it may have changed the pages before the one
    that it failed at (`do_mprotect_pkey`), so that their permissions are not known any more.
    """
    change = Change()
    if len(a) > 1:
        change.removed, change.added = space.alter(
            *_range(a[0], a[1]), lambda attr: attr._replace(perms="???" + attr.perms[3])
        )
    return change


def _madvise(
    space: AddressSpace, a: list[int], ret: int, change: Change, file: FileId | None, _: str | None
) -> None:
    advice = a[2] & INT
    if advice not in (MADV_DONTFORK, MADV_DOFORK):
        return
    flag = DONTFORK if advice == MADV_DONTFORK else 0
    low, high = _range(a[0], a[1])
    space.alter(low, high, lambda attr: attr._replace(flags=attr.flags & ~DONTFORK | flag))


def _dontfork(space: AddressSpace, low: int, high: int, ranges: list[tuple[int, int]]) -> None:
    """Of [low, high) a child does not get exactly these ranges."""
    space.alter(low, high, lambda attr: attr._replace(flags=attr.flags & ~DONTFORK))
    for start, end in disjoint(ranges):
        space.flag(max(start, low), min(end, high), DONTFORK)


def _shmdt(
    space: AddressSpace, a: list[int], ret: int, change: Change, file: FileId | None, _: str | None
) -> None:
    # ksys_shmdt: every piece of the segment whose offset says it was attached at this address. Some
    # other file may lie there with such an offset: only a segment's is named /SYSV (`newseg`).
    base: Attr | None = None
    doomed = []
    for s, e, attr, _tag in space.begun_at(a[0]):
        if not attr.is_file or (base is not None and attr[1:3] != base[1:3]):
            continue
        if base is None and not space.paths.get(attr[1:3], "").startswith("/SYSV"):
            continue
        base = base or attr
        doomed.append((s, e))
    for s, e in doomed:
        change.removed += space.cut(s, e)


def _remap_file_pages(
    space: AddressSpace, a: list[int], ret: int, change: Change, file: FileId | None, _: str | None
) -> None:
    # Both are rounded down (`SYSCALL_DEFINE5(remap_file_pages)`).
    low, high = _user_range(a[0] & -4096, a[1] & -4096)
    # do_mmap makes it anew, without VM_DONTCOPY.
    change.removed, change.added = space.alter(
        low, high, lambda attr: attr._replace(delta=a[3] * 4096 - low, flags=0)
    )
    # What is private it refuses (`if (!vma || !(vma->vm_flags & VM_SHARED))`).
    private = any(attr.perms[3] == "p" for _, _, attr, _ in change.removed)
    change.conflict = private or not (change.removed or space.assumed)


def _io_destroy(
    space: AddressSpace, a: list[int], ret: int, change: Change, file: FileId | None, _: str | None
) -> None:
    # kill_ioctx unmaps the whole ring, into however many pieces an mprotect has cut it.
    piece = space.at(a[0])
    if piece is None or piece[2].delta != -a[0] or not piece[2].is_file:
        return
    backing, end = piece[2][1:4], a[0]
    for _start, e, attr, _tag in space.pieces(a[0]):
        if attr[1:4] == backing:
            end = e
    change.removed = space.cut(a[0], end)


def _prctl(
    space: AddressSpace,
    a: list[int],
    ret: int,
    change: Change,
    file: FileId | None,
    name: str | None,
) -> None:
    option, field = a[0] & INT, a[1] & INT
    if option == PR_SET_MM and field == PR_SET_MM_BRK:
        space.brk, space.brk_by_label = a[2], False
    elif option == PR_SET_MM and field == PR_SET_MM_START_BRK:
        space.start_brk = a[2]
    elif option == PR_SET_MM and field == PR_SET_MM_START_STACK:
        space.start_stack = a[2]
    elif option == PR_SET_VMA and a[1] == PR_SET_VMA_ANON_NAME:
        text = f"[anon:{name}]" if name else ""
        change.removed = space.cut(*_user_range(a[2], a[3]))
        for s, e, attr, tag in change.removed:
            new = attr if attr.is_file else attr._replace(name=text)
            space.put(s, e, new, tag)
            change.added.append((s, e, new, tag))


EFFECTS: dict[str, Effect] = {
    "brk": _brk,
    "mmap": _mmap,
    "munmap": _munmap,
    "mremap": _mremap,
    "mprotect": _mprotect,
    "pkey_mprotect": _mprotect,
    "madvise": _madvise,
    "shmdt": _shmdt,
    "remap_file_pages": _remap_file_pages,
    "io_destroy": _io_destroy,
    "prctl": _prctl,
}
