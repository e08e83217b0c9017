# SPDX-License-Identifier: GPL-2.0-or-later
"""The one pass over a trace: every record applied to the address space it belongs to, and checked.

Keyed by mm, never by pid. Every kernel map in the trace is compared with the replayed one, and so
is the statm total of every call. A trace may be damaged or hostile: what contradicts itself is a
`problem` with its sequence number, never an exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace.replay.lives import Lives, short
from memtrace.replay.observer import Observer
from memtrace.replay.process import Process
from memtrace.replay.result import Replay
from memtrace.space.address_space import AddressSpace
from memtrace.space.calls import apply, most_calls
from memtrace.trace.records import Call, Exec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memtrace.replay.checkpoint import Keeper, Restored
    from memtrace.space.calls import Change
    from memtrace.trace.reader import Trace

_U64 = (1 << 64) - 1
_NEVER = 1 << 63
#: Engines whose times are one clock's, in the order of the records. strace tells when each call
#: began and how long it took.
_ONE_CLOCK = ("ptrace", "python-ptrace")
#: The footer's reason when memtrace detached and the processes run on.
DETACHED = "detached"


def replay(
    trace: Trace,
    observers: Iterable[Observer] = (),
    *,
    until_seq: int | None = None,
    until_t: int | None = None,
    start: Restored | None = None,
    keeper: Keeper | None = None,
) -> Replay:
    """Apply a trace's records in order, telling `observers`.

    A call has failed when it returned an errno. brk never does: it was refused when it asked for a
    break at or above start_brk and got another one. Below that, brk(0) included, it only asks where
    the break is (`SYSCALL_DEFINE1(brk)`: `if (brk < min_brk) goto out`).

    With a limit given, the processes keep their `space` and neither `died` is called for the living
    nor `end`, even when the trace ends first.

    Args:
        trace: freshly opened; it is consumed.
        observers: told of every record, in the order given.
        until_seq: stop after this record.
        until_t: stop before the first record later than this, ns since the trace's start.
        start: go on from this checkpoint. What was before it is not in the result, and what is
            missing there (who wrapped a chunk's header, an exec's arguments) is no problem of the
            trace's.
        keeper: keeps checkpoints on the way.
    """
    one = _Pass(trace, tuple(observers))
    if start is not None:
        one.restore(start)
    return one.run(until_seq, until_t, keeper)


class _Pass(Lives):
    """One pass."""

    def restore(self, start: Restored) -> None:
        """Begin where a checkpoint was kept."""
        self.trace.seek(start.mark)
        self.trace.decoder.files.update((f.id, f) for f in start.files)
        self.result.tasks = start.tasks
        self.result.last_seq, self.result.last_t = start.mark.seq, start.mark.t
        for known, space in start.live:
            unknown = Exec(t=None, pid=known.pid, tid=known.pid, mm=known.mm, argv=known.argv)
            p = Process(
                known.mm, known.pid, known.ppid, unknown, None, known.born_seq, known.born_t, space
            )
            p.inherited = known.inherited
            p.index = len(self.result.processes)
            self.result.processes.append(p)
            self.result.by_mm[p.mm] = self.live[p.mm] = p

    def run(self, until_seq: int | None, until_t: int | None, keeper: Keeper | None) -> Replay:
        r, live, callers, cache = self.result, self.live, self.callers, self.cache
        on_call: list[Callable[[int, int, Call, str, Change | None], None]] = []
        names, files = self.trace.header.calls, self.trace.decoder.file
        brk = names.index("brk") if "brk" in names else -1
        page = self.trace.header.page_size
        limited = until_seq is not None or until_t is not None
        last_seq = _NEVER if until_seq is None else until_seq
        last_t = _NEVER if until_t is None else until_t
        mm: int | None = None
        p: Process = None  # type: ignore[assignment]  # of the mm of the call before
        space: AddressSpace = None  # type: ignore[assignment]  # of `p`
        made: dict[int, int] = {}  # of `p`
        most = vm_most = rss_most = offset = 0  # of `p`
        began = 0  # the first of the calls of `p` without another record between
        seq, t, homeless = r.last_seq, r.last_t, 0
        trace, mark, touched = self.trace, self.trace.mark, self.touched
        try:
            for now, when, record in trace.records():
                if limited and (now > last_seq or when > last_t):
                    r.stopped = True
                    break
                if trace.mark is not mark:
                    mark = trace.mark
                    if keeper is not None:
                        keeper.passing(mark, live, touched, r.tasks, len(trace.decoder.files))
                        mm = None
                if when < t:
                    r.ordered = False
                    self._back_in_time(now, t - when)
                seq, t = now, when
                if not isinstance(record, Call):
                    self.apply(seq, t, record)
                    mm = None
                    continue
                call = record
                if call.mm != mm:
                    if call.mm not in live:
                        homeless += 1
                        self._homeless(seq, call)
                        continue
                    other = live[call.mm]
                    first = other.inherited and not other.made
                    if first and not self.room(seq, other, len(other.space)):
                        self.die(call.mm, seq, t)
                        continue
                    mm, p = call.mm, other
                    space, made = p.space, p.made
                    on_call = [of(p) for of in callers]
                    offset, most = p.statm_offset, p.mapped_peak
                    vm_most, rss_most = p.vm_peak, p.rss_peak
                    touched.add(mm)
                    began = seq
                    self.owners.begins(seq, p.index)
                number, args, ret, ext = call.call, call.args, call.ret, call.ext
                name = names[number]
                file = None
                if ext is not None:
                    if ext.f is not None:
                        file = files(ext.f)
                    headers = ext.h
                    if headers is None:
                        pass
                    elif len(headers) == 1 and began <= headers[0][0] < seq:
                        for tell in self.on_headers:
                            tell(p, seq, headers)
                    else:
                        self.headers(seq, headers)
                change = None
                try:
                    if ext is None and ret is not None:
                        change = most_calls(space, name, args, ret)
                    if change is None:
                        change = apply(space, name, args, ret, ext, file, cache)
                    elif not change.removed and not change.added:
                        change = None
                    if change is not None and change.conflict:
                        p.conflict(seq)
                except (ValueError, OverflowError) as e:
                    r.problem(seq, f"{name} carries no maps text: {short(e)}")
                try:
                    made[number] += 1
                except KeyError:
                    made[number] = 1
                if ret is None:
                    pass
                elif -4096 < ret < 0 or (number == brk and brk_refused(space, args, ret)):
                    p.failed[number] = p.failed.get(number, 0) + 1
                total = space.total
                if total > most:
                    most = p.mapped_peak = total
                    p.mapped_peak_seq = seq
                vm, rss = call.vm, call.rss
                if vm is None:
                    p.unread += 1
                else:
                    if vm * page != total + offset:
                        p.checksum_differs(seq, vm * page - total)
                    if vm > vm_most:
                        vm_most = p.vm_peak = vm
                    if rss is not None and rss > rss_most:
                        rss_most = p.rss_peak = rss
                for hook in on_call:
                    hook(seq, t, call, name, change)
        finally:
            r.events = homeless + sum(p.events for p in r.processes)
            r.last_seq, r.last_t = seq, t
            r.duration_ns = t
        if keeper is not None:
            keeper.finish(trace.decoder, reused=self.reused)
        if until_seq is None and until_t is None:
            for p in live.values():
                self.farewell(p, seq, t)
            for hook in self.on_end:
                hook()
        if not r.stopped:
            self._finish(t)
        return r

    def _back_in_time(self, seq: int, by: int) -> None:
        if self.trace.header.engine in _ONE_CLOCK:
            self.result.problem(seq, f"its time is {by:,} ns before that of the record before")

    def _homeless(self, seq: int, call: Call) -> None:
        dead = call.mm in self.result.by_mm
        what = "has ended" if dead else "no exec, attach or fork began"
        self.result.problem(seq, f"a call in address space {call.mm}, which {what}")

    def _finish(self, t: int) -> None:
        r, footer = self.result, self.trace.footer
        if footer is not None:
            r.duration_ns = max(t, footer.stop or 0)
            if footer.complete and footer.reason == DETACHED:
                for p in self.live.values():
                    p.left = True
        r.reason = _incomplete(self.trace, r)
        r.complete = not r.reason
        r.counted = r.complete and footer is not None and "records" in footer.counts


def _incomplete(trace: Trace, r: Replay) -> str:
    """Why the trace is not complete, "" if it is."""
    if trace.footer is None:
        return "the recording was cut short"
    if not trace.footer.complete:
        return trace.footer.reason or "the recording says so"
    if trace.problems_total:
        line, text = trace.problems[0]
        where = f"line {line} is damaged: " if line else ""
        return f"{where}{text}"
    if r.first_lost is not None:
        return f"{r.lost:,} events were lost, the first at event {r.first_lost}"
    counts = trace.footer.counts
    if counts.get("lost"):
        return f"its writer counted {counts['lost']:,} lost events, of which no record tells"
    for name, here in (("records", r.last_seq), ("calls", r.events)):
        written = counts.get(name, here)
        if written != here:
            return f"its writer counted {written:,} {name}, and {here:,} are here"
    return ""


def brk_refused(space: AddressSpace, args: list[int], ret: int) -> bool:
    """Whether this brk asked for a break and did not get it."""
    asked = args[0] & _U64 if args else 0
    return asked != ret & _U64 and asked >= (space.start_brk or 1)
