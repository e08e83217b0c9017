# SPDX-License-Identifier: GPL-2.0-or-later
"""One address space's life, as a replay knows it: an entry of the report's `processes`.

A process here is one mm: fork begins a new one, exec ends one and begins the next, vfork and
CLONE_VM children share their parent's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from memtrace.trace.records import Attach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memtrace.space.address_space import AddressSpace
    from memtrace.space.compare import Comparison, Drift
    from memtrace.trace.records import Libc, Snap, Start

#: Drifts and conflicts kept per process; the rest is only counted.
KEEP = 20
#: Doubts kept per process; of more, the last is about all the rest.
_DOUBTS = 4096


class Doubt(msgspec.Struct, frozen=True, array_like=True):
    """A part of an address space's life in which a check failed.

    After the record `after` the replayed map was the kernel's, or what there was of it in the
    beginning; after the record `before` (None: never again) it was the kernel's once more. Where
    between the two it ceased to be nothing tells. `seq` is the first check that failed, `what` says
    which.
    """

    after: int
    before: int | None
    seq: int
    what: str

    def covers(self, seq: int) -> bool:
        """Whether the map after that record is not proven."""
        return self.after < seq and (self.before is None or seq < self.before)


@dataclass(slots=True)
class _Excess:
    """What statm counted more than the replayed map since the last snapshot, in bytes.

    `first`: the record it began with, which was checksum number `begun`; `count` calls of those
    since had an excess, `least` to `most`; `fell`: one had less than the one before.
    """

    first: int
    begun: int
    least: int
    most: int
    last: int
    count: int = 1
    fell: bool = False

    def add(self, excess: int) -> None:
        """Another one."""
        self.count += 1
        self.fell = self.fell or excess < self.last
        self.least, self.most = min(self.least, excess), max(self.most, excess)
        self.last = excess


@dataclass(slots=True, eq=False)
class Process:
    """One mm from its birth to its death; filled while the pass goes on.

    Attributes:
        mm: the trace's number of the address space.
        pid: the process it was born for.
        pids: every process that used it, in order (vfork and CLONE_VM children).
        start: the exec or attach it began with; for a forked child its nearest ancestor's.
        index: its place in `Replay.processes`.
        inherited: born by fork, as a copy of `parent`'s.
        born_seq: the record it began with; `born_t` in ns since the trace's start.
        died_seq: the record that ended it (gone, or the exec of its last user); None if alive at
            the end of the trace.
        left: memtrace detached from it: at the end of the trace the process runs on.
        exit_code, exit_signal: of `pid`'s leader, both None if not seen to exit.
        space: the map, current during the pass; emptied after `Observer.died`, so that thousands of
            dead processes cost nothing.
        names: of the calls; by their number in these `made` of each, `failed` of those.
        snapshots: kernel maps compared, `exact` of them reproduced.
        unread: calls without a statm total. Of the others (`checksums`) `checksum_mismatches`
            disagreed; `checksum_growth` of these are explained by stack growth that the next
            snapshot showed.
        first_mismatch: seq of the first disagreement that nothing explains.
        conflicts: calls whose result contradicts the map, first of them at `first_conflict`.
        drift: the first snapshots not reproduced (at most `KEEP`, `drifts` counts all).
        statm_offset: bytes that statm counts beyond the kernel's own map, as the last snapshot says
            (0 on a kernel without accounting bugs).
        first_checked: seq of the first snapshot.
        vm_peak, rss_peak: pages, the largest seen; 0 if never read.
        hwm: pages, the kernel's own peak of resident memory (VmHWM); None if never read. `rss_peak`
            includes it, unless the process was attached to: it counts from the exec on.
        mapped_peak: bytes, the largest `space.total`; first reached at `mapped_peak_seq`.
        maps_peak, maps_last: lines of maps as the kernel counted them, in snapshots; the first
            with the most is record `maps_peak_seq`.
        canonical_peak: maximal runs at snapshots, a lower bound of the kernel's count.
        minflt, majflt: page faults of `pid`, at the last snapshot that carried them.
        overlaps, lost: records of that name for this mm.
        copied: pieces that its map has, or keeps, beside its parent's; `lent`: the `store` that its
            last child was given.
    """

    mm: int
    pid: int
    ppid: int | None
    start: Start
    parent: Process | None
    born_seq: int
    born_t: int
    space: AddressSpace
    index: int = 0
    inherited: bool = False
    pids: list[int] = field(default_factory=list)
    died_seq: int | None = None
    died_t: int | None = None
    left: bool = False
    exit_code: int | None = None
    exit_signal: int | None = None
    names: Sequence[str] = ()
    made: dict[int, int] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    libcs: list[Libc] = field(default_factory=list)
    snapshots: int = 0
    exact: int = 0
    unread: int = 0
    checksum_mismatches: int = 0
    checksum_growth: int = 0
    first_mismatch: int | None = None
    stack_growth_bytes: int = 0
    statm_offset: int = 0
    conflicts: int = 0
    first_conflict: int | None = None
    drifts: int = 0
    drift: list[Drift] = field(default_factory=list)
    vm_peak: int = 0
    rss_peak: int = 0
    hwm: int | None = None
    mapped_peak: int = 0
    mapped_peak_seq: int = 0
    maps_peak: int = 0
    maps_peak_seq: int | None = None
    maps_last: int | None = None
    canonical_peak: int = 0
    minflt: int | None = None
    majflt: int | None = None
    overlaps: int = 0
    lost: int = 0
    copied: int = 0
    lent: int = 0
    first_checked: int | None = None
    _pending: _Excess | None = None
    _checked: int | None = None
    _failed: tuple[int, str] | None = None
    _doubts: list[Doubt] = field(default_factory=list)

    @property
    def exe(self) -> str:
        """Path of the program."""
        return self.start.exe

    @property
    def argv(self) -> list[str]:
        """Its arguments, as of the exec or attach it descends from."""
        return self.start.argv

    @property
    def attached(self) -> bool:
        """Whether it is older than the trace: it was attached to, not seen from its exec on."""
        return not self.inherited and isinstance(self.start, Attach)

    @property
    def alive(self) -> bool:
        """Whether its end has not been seen."""
        return self.died_seq is None

    @property
    def calls(self) -> dict[str, tuple[int, int]]:
        """By name: how often it was made, and failed."""
        return {self.names[i]: (n, self.failed.get(i, 0)) for i, n in self.made.items()}

    @property
    def events(self) -> int:
        """Calls replayed."""
        return sum(self.made.values())

    @property
    def checksums(self) -> int:
        """Calls whose statm total was compared."""
        return self.events - self.unread

    @property
    def unexplained(self) -> int:
        """Checksums that disagreed although no snapshot showed stack growth behind it."""
        return self.checksum_mismatches - self.checksum_growth

    @property
    def drifted(self) -> bool:
        """Whether the replayed map was wrong at any checked moment."""
        return bool(self.drifts or self.conflicts or self.unexplained)

    @property
    def verified(self) -> bool:
        """Whether the kernel's word about this map was there to compare: a snapshot at least."""
        return self.snapshots > 0

    @property
    def doubts(self) -> list[Doubt]:
        """Where in its life its map is not proven, in order."""
        return self._doubts if self._failed is None else [*self._doubts, self._doubt(None)]

    # -- what the pass notes --------------------------------------------------------------------

    def checksum_differs(self, seq: int, excess: int) -> None:
        """Note that statm counted `excess` bytes more (or less) than the replayed map."""
        self.checksum_mismatches += 1
        if self._pending is None:
            self._pending = _Excess(seq, self.checksums, excess, excess, excess)
        else:
            self._pending.add(excess)

    def settle(self, grown: int, offset: int, *, drifted: bool) -> None:
        """Judge the disagreeing checksums since the last snapshot by what this one showed.

        Stack growth explains them if none missed more than it brought, none less than the one
        before it, and none after the first agreed: a stack never shrinks.
        If the snapshot is reproduced and statm still counts the same bytes more than that map has,
        then it is statm that is wrong (`mm->total_vm` is only an account), and nothing disagreed.
        """
        x, self._pending = self._pending, None
        if x is None:
            return
        lasting = not x.fell and x.count == self.checksums - x.begun + 1
        if not drifted and x.least > 0 and x.most <= grown and lasting:
            self.checksum_growth += x.count
        elif not drifted and x.least == x.most == offset:
            self.checksum_mismatches -= x.count
        else:
            self._fails(x.first, "statm counts another size")
            if self.first_mismatch is None:
                self.first_mismatch = x.first

    def conflict(self, seq: int) -> None:
        """Note a call whose result contradicts the map."""
        self.conflicts += 1
        self._fails(seq, "a call's result contradicts the map")
        if self.first_conflict is None:
            self.first_conflict = seq

    def compared(self, seq: int, snap: Snap, comparison: Comparison, page: int) -> None:
        """Count a snapshot's outcome; on a drift the map has been made the kernel's."""
        self.snapshots += 1
        self.stack_growth_bytes += comparison.grown
        drift = comparison.drift
        if drift is None:
            self.exact += 1
        else:
            self.drifts += 1
            if len(self.drift) < KEEP:
                self.drift.append(drift)
        if snap.vm is not None:
            self.statm_offset = snap.vm * page - self.space.total
        self.settle(comparison.grown, self.statm_offset, drifted=drift is not None)
        if drift is not None:
            self._fails(seq, "a snapshot is not reproduced")
        if self._failed is not None:
            self._note(self._doubt(seq))
        self._checked, self._failed = seq, None
        if self.first_checked is None:
            self.first_checked = seq
        if snap.minflt is not None:
            self.minflt = snap.minflt
        if snap.majflt is not None:
            self.majflt = snap.majflt
        if snap.hwm is not None:
            self.hwm = max(self.hwm or 0, snap.hwm)
            if not self.attached:
                self.rss_peak = max(self.rss_peak, snap.hwm)

    def _fails(self, seq: int, what: str) -> None:
        """A check has failed."""
        if self._failed is None or seq < self._failed[0]:
            self._failed = seq, what

    def _doubt(self, before: int | None) -> Doubt:
        """What the failed check says of the time since the last snapshot."""
        seq, what = self._failed or (self.born_seq, "")
        after = self._checked
        if after is None:
            # An exec and an attach read the kernel's map; a fork copies what there is.
            given = self.inherited or self.start.assumed
            after = self.born_seq - 1 if given else self.born_seq
        return Doubt(after, before, seq, what)

    def _note(self, doubt: Doubt) -> None:
        if len(self._doubts) < _DOUBTS:
            self._doubts.append(doubt)
        else:
            last = self._doubts[-1]
            self._doubts[-1] = Doubt(last.after, doubt.before, last.seq, last.what)

    def counted(self, vm: int | None, rss: int | None) -> None:
        """Take a reading of statm, in pages."""
        if vm is not None and vm > self.vm_peak:
            self.vm_peak = vm
        if rss is not None and rss > self.rss_peak:
            self.rss_peak = rss

    def lines(self, count: int, seq: int) -> None:
        """Take the kernel's count of maps lines, read at record `seq`."""
        self.maps_last = count
        if count > self.maps_peak:
            self.maps_peak, self.maps_peak_seq = count, seq
