# SPDX-License-Identifier: GPL-2.0-or-later
"""What the record of a process cannot tell, so that nothing of it passes for the program's doing.

Limits, by their words: `log` (imported: no callers, no headers, no map of the kernel's), `attached`
(what was before is not known), `running` (memtrace left it), `cut` (the end is missing), `gaps`
(something in between is), `drift` (the replayed map was wrong). And how the two were recorded:
`evidence`, `snapshots`, `heap-walk`, where that is not the same for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memtrace.report.model import ProcessRow
from memtrace.report.recording import Recording

#: Of the kinds, those that a call's own arguments and the kernel's labels prove, without a caller.
PLAIN = frozenset({"file", "library", "shared-anon", "shared-file", "stack", "vdso"})
#: Of which a log shows only what was mapped by a call: not what exec mapped.
_BY_EXEC = frozenset({"file", "library", "loader", "stack", "vdso"})
_EVIDENCE, _SNAPSHOTS, _WALK = "evidence", "snapshots", "heap-walk"
OPTIONS = (_EVIDENCE, _SNAPSHOTS, _WALK)
#: What findings rest on; one that is not here may rest on all.
_NEEDS = {
    "MT101": {_EVIDENCE}, "MT102": {_EVIDENCE}, "MT103": {_EVIDENCE, _WALK},
    "MT104": {_EVIDENCE, _WALK}, "MT105": {_EVIDENCE}, "MT106": {_SNAPSHOTS},
    "MT107": {_SNAPSHOTS}, "MT108": {_EVIDENCE}, "MT109": {_EVIDENCE}, "MT110": {_EVIDENCE},
    "MT111": {_EVIDENCE}, "MT112": {_EVIDENCE}, "MT113": {_SNAPSHOTS},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sight:
    """The limits of one side of a pair, and of the other; `differ`: options that are not alike.

    `evidence`: whether this side has it, None: not known.
    """

    own: frozenset[str]
    other: frozenset[str]
    differ: frozenset[str]
    evidence: bool | None

    @property
    def words(self) -> list[str]:
        """All of them."""
        return sorted(self.own | self.differ)

    @property
    def doubtful(self) -> bool:
        """Whether the map that sums are made of may have been wrong."""
        return bool(self.own & {"gaps", "drift"})

    @property
    def part(self) -> bool:
        """Whether there is more to the process's life than the record has."""
        return bool(self.own & {"attached", "cut", "gaps"}) or self._left

    @property
    def _left(self) -> bool:
        return "running" in self.own and "running" not in self.other

    @property
    def end(self) -> bool:
        """Whether the last state is known, and of the same kind as the other side's."""
        return not (self.own & {"cut", "gaps", "drift"} or self._left)

    def tells(self, kind: str) -> bool:
        """Whether numbers of that kind are known at all."""
        if self.doubtful:
            return False
        if "log" in self.own:
            if kind in _BY_EXEC:
                return False
            return "log" in self.other or kind in PLAIN
        return kind in PLAIN or _EVIDENCE not in self.differ or self.evidence is True

    def plain(self, kind: str) -> bool:
        """Whether a region's kind is proven without the call that made it."""
        return kind in PLAIN

    @property
    def callers(self) -> bool:
        """Whether what rests on callers and headers is known, and by the same means."""
        if "log" in self.own and "log" not in self.other:
            return False
        return _EVIDENCE not in self.differ or self.evidence is True


def sights(
    a: ProcessRow, b: ProcessRow, recordings: tuple[Recording, Recording]
) -> tuple[Sight, Sight]:
    """Of both sides of a pair."""
    one, two = (frozenset(_limits(p, r)) for p, r in zip((a, b), recordings, strict=True))
    differ = unlike(*recordings)
    return (
        Sight(one, two, differ, recordings[0].evidence),
        Sight(two, one, differ, recordings[1].evidence),
    )


def unlike(one: Recording, two: Recording) -> frozenset[str]:
    """Options of recording that are not the same for both."""
    pairs = zip(OPTIONS, _options(one), _options(two), strict=True)
    return frozenset(name for name, a, b in pairs if a != b)


def _options(r: Recording) -> tuple[bool | None, str | None, bool | None]:
    return r.evidence, r.snapshots, r.heap_walk


def _limits(p: ProcessRow, r: Recording) -> Iterable[str]:
    if p.assumed:
        yield "log"
    if p.attached is not None:
        yield "attached"
    if p.running:
        yield "running"
    if r.reason and not r.cut:
        yield "gaps"
    elif r.cut and p.died_seq is None:
        yield "cut"
    if p.exactness == "drift":
        yield "drift"


def obstacles(rule: str, sight: Sight) -> list[str]:
    """Why a finding of one side that the other does not have says nothing of the program."""
    found = (sight.own | sight.other) - {"log", "running"}
    found |= (sight.own ^ sight.other) & {"log", "running"}
    return sorted(found | (sight.differ & _NEEDS.get(rule, set(OPTIONS))))
