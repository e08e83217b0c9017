# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that the kernel refused, and whether the number of mappings alone refuses them.

ENOMEM has many causes. One can be proven afterwards: the kernel lets a process have
vm.max_map_count mappings. It refuses every mmap when there are more already (`do_mmap` looks at
that first), and when there are as many the mprotect or munmap that would have to split one
(`split_vma`, `do_vmi_align_munmap`). How many there are only the kernel's own map tells, read
before any other call: it may keep apart what could be one line. The replayed map's maximal runs are
a lower bound of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memtrace.space.address_space import AddressSpace

ENOMEM = 12
#: Refusals kept per process, the first.
KEEP = 16
#: Calls that a full map refuses with ENOMEM, and how many arguments are looked at.
_LIMITED = {"mmap": 2, "mprotect": 3, "pkey_mprotect": 3, "munmap": 2}
_VSYSCALL = "[vsyscall]"  # a line of maps that is no mapping of the process


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that failed with ENOMEM.

    `maps`: the process's mappings at that moment as the kernel counts them; None when no snapshot
    tells. `least`: at least so many, by the replayed map; None when not looked at. `splits`:
    whether it would have had to split a mapping (an mmap needs not), None when nothing tells.
    """

    seq: int
    call: str
    maps: int | None = None
    least: int | None = None
    splits: bool | None = None

    def full(self, limit: int | None) -> bool:
        """Whether there were so many mappings that no call could add one."""
        count = self.maps if self.maps is not None else self.least
        return limit is not None and count is not None and count >= limit + (self.call == "mmap")

    def proven(self, limit: int | None) -> bool:
        """Whether the number of mappings alone refuses the call."""
        return self.full(limit) and (self.call == "mmap" or bool(self.splits))


class Refusals:
    """The failed calls of one address space.

    Attributes:
        first: (call, errno) -> how often, and the first of them.
        enomem: the first of those with ENOMEM that a full map may have refused.
        limit: vm.max_map_count, None if not known.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.first: dict[tuple[str, int], tuple[int, int]] = {}
        self.enomem: list[Refusal] = []
        self._calls = -1  # of all calls, at the last of `enomem`
        self._args: Sequence[int] = ()

    def failed(
        self, seq: int, calls: int, name: str, args: Sequence[int], errno: int, space: AddressSpace
    ) -> None:
        """A call failed, number `calls` of its address space; the map is as it was."""
        count, first = self.first.get((name, errno), (0, seq))
        self.first[name, errno] = count + 1, first
        if errno != ENOMEM or len(self.enomem) >= KEEP or len(args) < _LIMITED.get(name, 7):
            return
        limit = self.limit
        least = None
        if limit is not None and len(space) >= limit:  # else there are fewer runs than that, too
            least = sum(r.name != _VSYSCALL for r in space.canonical())
        self.enomem.append(Refusal(seq, name, least=least))
        self._calls, self._args = calls, args

    def counted(self, calls: int, lines: Sequence[str]) -> None:
        """The kernel's own map; it is that of the last refusal if no call came between."""
        if not self.enomem or calls != self._calls or self.enomem[-1].maps is not None:
            return
        last = self.enomem[-1]
        own = [line for line in lines if not line.endswith(_VSYSCALL)]
        splits = None if last.call == "mmap" else _splits(own, last.call, self._args)
        self.enomem[-1] = replace(last, maps=len(own), splits=splits)


def _splits(lines: Sequence[str], call: str, args: Sequence[int]) -> bool:
    """Whether a munmap or mprotect within one mapping has to split it.

    What may be merged with a neighbour instead (`vma_merge`) only moves a border; and the first of
    an mprotect's two splits may have been done when the second was refused, its border is there.
    """
    low, high = args[0], args[0] + -(-args[1] // 4096) * 4096
    before = None
    spans = [(*_span(line), line) for line in lines]
    for i, (s, e, _) in enumerate(spans):
        if not s <= low < high <= e:
            before = s, e, spans[i][2]
            continue
        if call == "munmap":
            return s < low and high < e
        perms = "".join(c if args[2] & bit else "-" for c, bit in (("r", 1), ("w", 2), ("x", 4)))
        after = spans[i + 1] if i + 1 < len(spans) else None
        left = s == low and before is not None and before[1] == s and _perms(before[2]) == perms
        right = e == high and after is not None and after[0] == e and _perms(after[2]) == perms
        return (s < low or high < e) and not left and not right
    return False


def _span(line: str) -> tuple[int, int]:
    low, _, rest = line.partition("-")
    return int(low, 16), int(rest.partition(" ")[0], 16)


def _perms(line: str) -> str:
    return line.partition(" ")[2][:3]
