# SPDX-License-Identifier: GPL-2.0-or-later
"""What a driver told of malloc (`mallocs.h`), held against everything that a report says of it.

The account and the trace are joined thread by thread: an operation that mapped, moved or unmapped
a chunk is the thread's next call with that address and length. Of what happened in between glibc's
own rules tell the rest: the threshold is followed from the driver's own frees (`__libc_free`).

A statement that is not true of what the driver knows is a *falsehood*; there must be none. What the
report leaves open ("unknown") is never one, but it is counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.live.tracing import Event

Json = dict[str, Any]
DEFAULT = 128 * 1024


@dataclass(frozen=True)
class Abi:
    """What differs in 32-bit programs.

    Attributes:
        word: bytes of a size field.
        minsize: of the smallest chunk.
        most: DEFAULT_MMAP_THRESHOLD_MAX.
        tcache: the chunk of a thread's tcache (tcache_perthread_struct): the first that malloc
            asks for, up to 2.42.
    """

    word: int
    minsize: int
    most: int
    tcache: int

    def chunk_size(self, request: int) -> int:
        """`request2size`.

        >>> [X86_64.chunk_size(n) for n in (0, 24, 25, 131049)]
        [32, 32, 48, 131072]
        >>> [I386.chunk_size(n) for n in (0, 12, 13, 131053)]
        [16, 16, 32, 131072]
        """
        return max(self.minsize, (request + self.word + 15) & ~15)


X86_64, I386 = Abi(8, 32, 32 << 20, 0x290), Abi(4, 16, 512 << 10, 0x190)
MINSIZE, TCACHE, chunk_size = X86_64.minsize, X86_64.tcache, X86_64.chunk_size


@dataclass(frozen=True)
class Env:
    """What the environment that a driver was given means, as the test knows that gave it.

    Attributes:
        abi: of the driver.
        source: None, or where a setting came from that freezes the threshold.
        tcache: whether malloc's first request is its own, for the thread's cache.
        keeps: whether that cache may keep mapped chunks.
    """

    threshold: int = DEFAULT
    source: str | None = None
    top_pad: int = DEFAULT
    mmap_max: int = 65536
    tcache: bool = True
    keeps: bool = False
    abi: Abi = X86_64


@dataclass(slots=True)
class Op:
    """A line of the account. `at`: the record of its call, or a half after the one before."""

    line: Event
    abi: Abi = X86_64
    at: float = 0.0
    born: int | None = None  # the mmap of the chunk that it got
    moved: tuple[int, int] | None = None  # an mremap: its record, and where the chunk was
    gone: int | None = None  # the munmap of the chunk that it gave

    @property
    def asked(self) -> int:
        """The chunk that malloc was asked for (`_int_memalign` asks for more)."""
        chunk_size, minsize = self.abi.chunk_size, self.abi.minsize
        size = chunk_size(self.line["request"])
        align = self.line.get("align", 0)
        if align > 16:
            align = max(minsize, 1 << (align - 1).bit_length())
            return chunk_size(size + align + minsize)
        return size


@dataclass(frozen=True)
class State:
    """What is so in a process at some moment.

    Attributes:
        threshold: T, as glibc has it.
        aligned: whether the free of an aligned chunk has raised it, to less than its mapping's.
        rises: how often a free raised T, in this process.
        moved: whether it ever rose, in this process or before the fork.
        alive: the mapped chunks: start -> (record of the mmap, length).
        tuned: mallopt was called.
        grown: malloc has grown the heap.
    """

    threshold: int
    aligned: bool = False
    rises: int = 0
    moved: bool = False
    tuned: bool = False
    grown: bool = False
    alive: dict[int, tuple[int | None, int]] = field(default_factory=dict)


@dataclass
class Found:
    """What a check found."""

    falsehoods: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def must(self, true: object, what: str, where: object = "") -> None:
        """A statement of the report."""
        self.counts["statements"] += 1
        if not true:
            self.falsehoods.append(f"{what}: {where}")

    def add(self, other: Found) -> None:
        """Of one more run."""
        self.falsehoods += other.falsehoods
        self.counts += other.counts


def check(
    rows: list[Json], account: list[Event], events: list[Event], env: Env | None = None
) -> Found:
    """Hold a report's processes (`Driven.rows`) against the account of the driver.

    Args:
        rows: of the report.
        account: what the driver told.
        events: the trace's, as `memtrace events` gives them.
        env: what its environment meant.
    """
    found = Found()
    ends: dict[int, _Process] = {}
    of_pid: dict[int, list[list[Event]]] = defaultdict(list)
    for line in account:
        told = of_pid[line["pid"]]
        if not told or line["what"] == "begin":
            told.append([])
        if line["what"] == "op":
            told[-1].append(line)
    calls: dict[int, dict[int, list[Event]]] = defaultdict(lambda: defaultdict(list))
    forks: dict[int, int] = {}
    for e in events:
        if e["args"]:
            calls[e["mm"]][e["tid"]].append(e)
        elif e["call"] == "fork":
            forks[e["child"]] = e["mm"]
    for row in rows:
        told = of_pid.get(row["pid"], [])
        ops = told.pop(0) if told else []
        parent = ends.get(forks.get(row["pid"], -1)) if row["inherited"] else None
        p = _Process(row, ops, calls[row["mm"]], env or Env(), parent, found)
        ends[row["mm"]] = p
        p.check()
    return found


class _Process:
    """One address space: its row of the report, and what the driver told of it."""

    def __init__(
        self, row: Json, lines: list[Event], calls: dict[int, list[Event]], env: Env,
        parent: _Process | None, found: Found,
    ) -> None:  # fmt: skip
        self.row, self.env, self.found = row, env, found
        self.lines = lines
        self.by_tid: dict[int, list[Op]] = defaultdict(list)
        for line in lines:
            self.by_tid[line["tid"]].append(Op(line, env.abi))
        #: ld.so has a malloc of its own until the program runs (elf/dl-minimal.c).
        self.loaders = {
            e["seq"] for made in calls.values() for e in made
            if e["call"] == "brk" and "/ld-" in e.get("caller", "")
        }  # fmt: skip
        for tid, ops in self.by_tid.items():
            self._join(ops, calls.get(tid, []), row["born_seq"])
        self.ops = sorted((op for ops in self.by_tid.values() for op in ops), key=lambda o: o.at)
        self.threads = len(self.by_tid)
        if parent is None:
            self.first = State(env.threshold)
            self.inherited = False
        else:
            before = parent.state(row["born_seq"])
            self.first = replace(before, rises=0, grown=parent.grown)
            self.inherited = True
        self.grown: bool = self.first.grown
        self._timeline: list[tuple[float, int]] = []
        self._states: list[tuple[State, Op]] | None = None
        self.last = self.first
        self.states()
        self.regions = {r["born_seq"]: r for r in row["regions"] if not r["inherited"]}

    # -- the join -------------------------------------------------------------------------------

    def _join(self, ops: list[Op], calls: list[Event], born: int) -> None:
        """Find the calls of each operation of one thread."""
        i, last = 0, float(born)
        for op in ops:
            op.at = last + 0.25
            for name, key in _expected(op.line, keeps=self.env.keeps):
                j = next((j for j in range(i, len(calls)) if key(calls[j])), None)
                if j is None:
                    where = f"{self.row['pid']}: {op.line}"
                    assert name.endswith("?"), f"the account's {name} is not in the trace: {where}"
                    continue
                seq = calls[j]["seq"]
                i, last, op.at = j + 1, float(seq), float(seq)
                if name.startswith("mremap"):
                    op.moved = seq, op.line["old_map_start"]
                    break  # the other way is not taken
                if name.startswith("mmap"):
                    op.born = seq
                else:
                    op.gone = seq

    def state(self, at: float) -> State:
        """Before what has happened at record `at`."""
        i = bisect_left(self.ops, at, key=lambda op: op.at)
        return self.states()[i][0] if i < len(self.ops) else self.last

    def states(self) -> list[tuple[State, Op]]:
        """Each operation, and how things stood before it."""
        if self._states is None:
            self._states, state = [], self.first
            for op in self.ops:
                self._states.append((state, op))
                state = _after(state, op, self.env)
            self.last = state
        return self._states

    # -- the check ------------------------------------------------------------------------------

    def check(self) -> None:
        """Hold everything that the row says against the operations."""
        self._settings()
        told = set()
        last = self.first
        for state, op in self.states():
            self.found.counts["requests"] += op.line["op"] in "mcafr"
            if op.born is not None:
                told.add(op.born)
                self._mapped(op, state)
            last = _after(state, op, self.env)
            if op.born is not None or op.gone is not None or op.moved is not None:
                self._threshold(op.at, last)
        for r in self.row["regions"]:
            if r["kind"] == "malloc-chunk" and not r["inherited"]:
                self.found.must(r["born_seq"] in told, "a region called malloc-chunk is none", r)
        self._heap()
        self._end(last)

    def _settings(self) -> None:
        t = self.row["threshold"]
        if not self.inherited:
            self.found.must(t["initial"] in (None, self.env.threshold), "initial threshold", t)
        elif t["initial"] is not None and not self.first.tuned:
            self.found.must(t["initial"] == self.first.threshold, "inherited threshold", t)
        self.found.must(t["fixed_by"] == self.env.source, "what froze the threshold", t)

    def _mapped(self, op: Op, state: State) -> None:
        """The region that an operation bore."""
        found, line = self.found, op.line
        found.counts["mapped"] += 1
        r = self.regions.get(op.born or -1)
        if r is None:
            found.must(self.row["regions_total"] > len(self.row["regions"]), "no region", line)
            return
        where = (line, r)
        found.must(r["kind"] in ("malloc-chunk", "unknown"), "kind of a mapped chunk", where)
        if r["kind"] != "malloc-chunk":
            return
        found.counts["proven"] += r["evidence"] in ("header", "caller")
        found.must(r["evidence"] in ("header", "caller"), "evidence of a chunk", where)
        found.must(r["tid"] == line["tid"], "the thread", where)
        found.must(r["peak_bytes"] >= line["map_length"], "peak", where)
        if not r["moves"]:
            extent = line["map_start"], line["map_length"]
            found.must((r["start"], r["bytes"]) == extent, "extent", where)
        if r["request"] is not None:
            low, high = r["request"]["min"], r["request"]["max"]
            found.counts["intervals"] += 1
            asked = line["request"]
            if line.get("align", 0) > 16:  # it bounds what the aligned function asks for
                abi = self.env.abi
                asked = op.asked - abi.word
                low, high = (abi.chunk_size(n) - abi.word for n in (low, high))
            found.must(low <= asked <= high, "interval of the request", where)
        self._verdict(op, state, r)

    def _verdict(self, op: Op, state: State, r: Json) -> None:
        found, verdict, reason, env = self.found, r["verdict"], r["reason"], self.env
        where = (op.line, r, state.threshold)
        found.counts[f"chunk {verdict} {reason}"] += 1
        over = state.tuned or op.asked >= self._seen(op)
        match verdict, reason:
            case "unknown", None:
                pass
            case "unknown", "aligned-or-mallopt":
                found.must(state.tuned or state.aligned, "evidence against the rule", where)
            case "contradiction", None:
                found.must(state.tuned, "evidence against the rule", where)
            case "holds", None:
                found.must(over, "a chunk below the threshold holds", where)
            case "explained", ("environ" | "tunable"):
                found.must(over and reason == env.source, "what explains a chunk", where)
            case "explained", "mremap-shrink":
                found.must(r["moves"] > 0 and over, "what explains a chunk", where)
            case _:
                found.must(False, "a verdict that cannot be", where)

    def _seen(self, op: Op) -> int:
        """The lowest threshold that the operation may have seen: as it was at its thread's last
        call. Another thread may have raised it before this one came to its mmap.
        """
        if self.threads == 1:
            return self._at(op.at)
        anchors = [o.at for o in self.by_tid[op.line["tid"]] if o.at < op.at and o.at == int(o.at)]
        return self._at(max(anchors, default=0.0))

    def _after_trim(self, op: Op) -> bool:
        """Whether malloc_trim was called since the thread's last call for a chunk."""
        ops = self.by_tid[op.line["tid"]]
        for before in reversed(ops[: next(i for i, o in enumerate(ops) if o is op)]):
            if before.line["op"] == "t":
                return True
            if before.at == int(before.at):
                return False
        return False

    def _soon(self, seq: int, now: int) -> int:
        """The highest threshold that there may have been at `seq`: of other threads each may have
        raised it by a free whose munmap is its next call.
        """
        if self.threads == 1 or self.env.source is not None:
            return now
        for ops in self.by_tid.values():
            after = next((o for o in ops if o.at > seq and o.at == int(o.at)), None)
            if after is not None and after.gone is not None and after.line["op"] == "f":
                size = after.line["old_chunk"]
                now = max(now, size if size <= self.env.abi.most else 0)
        return now

    def _at(self, at: float) -> int:
        """The threshold before what has happened at a moment."""
        if not self._timeline:
            last = None
            for state, op in self.states():
                if state.threshold != last:
                    self._timeline.append((op.at, state.threshold))
                    last = state.threshold
        found = [t for when, t in self._timeline if when <= at]
        return found[-1] if found else self.first.threshold

    def _threshold(self, at: float, state: State) -> None:
        """The interval as it stood after a record."""
        if state.tuned:
            return
        t = self.row["threshold"]
        low = high = t["initial"]
        for m in t["history"]:
            if m["seq"] <= at:
                low, high = m["low"], m["high"]
        if low is None:
            return
        self.found.counts["threshold moments"] += 1
        self.found.counts["threshold exact"] += low == high

        def within(value: int) -> bool:
            return bool(low <= value and (high is None or value <= high))

        true = within(state.threshold)
        self.found.must(true, "interval of the threshold", (at, low, high, state))

    # -- the heap -------------------------------------------------------------------------------

    def _heap(self) -> None:
        """Each step of the heap, with the operations that may have made it."""
        makers = self._makers() if self.threads == 1 else self._candidates()
        before: Json | None = None
        grown = self.first.grown
        for s, tries in zip(self.row["heap"]["steps"], makers, strict=True):
            best: Found | None = None
            for state, op in tries:
                now = state if self.threads == 1 else self.state(s["seq"])
                checked = self._step(s, replace(now, grown=grown), op, before)
                if best is None or len(checked.falsehoods) < len(best.falsehoods):
                    best = checked
                if not best.falsehoods:
                    break
            if best is None:
                self.found.counts["steps of nobody"] += 1
            else:
                self.found.add(best)
            foreign = any(op.line["op"] in "sb" for _, op in tries)
            grown |= s["delta"] > 0 and not foreign and s["seq"] not in self.loaders
            before = s
        self.grown = grown

    def _makers(self) -> list[list[tuple[State, Op]]]:
        """Of each step the operation that made it: the breaks that it told follow each other."""
        states = [(state, op) for state, op in self.states() if op.line["break_after"] is not None]
        made: list[list[tuple[State, Op]]] = []
        k, within = 0, False
        at: int | None = None
        for s in self.row["heap"]["steps"]:
            while not within and k < len(states) and _still(states[k][1].line):
                k += 1
            line = states[k][1].line if k < len(states) else None
            mine = line is not None and (within or line["break_before"] in (None, at))
            made.append([states[k]] if mine and s["delta"] else [])
            if s["delta"]:
                at = s["end"]
            if mine and line is not None:
                within = line["break_after"] != at
                k += not within
        return made

    def _candidates(self) -> list[list[tuple[State, Op]]]:
        """Of each step the operations of its thread that may have made it, of those between the
        calls before and after: while one thread asks, others move the break as well.
        """
        of_tid: dict[int, list[tuple[State, Op]]] = defaultdict(list)
        for state, op in self.states():
            of_tid[op.line["tid"]].append((state, op))
        made = []
        for s in self.row["heap"]["steps"]:
            ops, seq = of_tid[s["tid"]], s["seq"]
            anchors = [op.at for _, op in ops if op.at == int(op.at)]
            first = max((at for at in anchors if at < seq), default=0.0)
            last = min((at for at in anchors if at > seq), default=seq + 1.0)
            made.append([
                (state, op) for state, op in ops
                if first <= op.at <= last and _may_move(op.line, s["delta"])
            ])  # fmt: skip
        return made

    def _step(self, s: Json, state: State, op: Op, before: Json | None) -> Found:
        found = Found()
        name, verdict, reason, env = op.line["op"], s["verdict"], s["reason"], self.env
        where = (s, op.line, state.threshold)
        role = s.get("role")
        found.counts[f"step {role} {verdict} {reason}"] += 1
        if s["delta"] < 0:
            not_free = "malloc-trim-or-mallopt"
            said = {("explained", "trim"), ("explained", not_free), ("unknown", None)}
            found.must((verdict, reason) in said, "verdict of a shrink", where)
            found.must(role == ("unknown" if reason is None else "shrink"), "its role", where)
            found.must(reason != "trim" or name in "frat", "a trim", where)
            found.must(reason != not_free or name == "t" or state.tuned, "not free's", where)
            seen = name == "t" or self._after_trim(op)
            found.must(seen or not s["after_malloc_trim"], "a malloc_trim", where)
            return found
        if s["delta"] == 0:
            found.must(role in (None, "refused"), "role of a refused growth", where)
            return found
        if name == "s":
            found.must(verdict in ("not-applicable", "unknown"), "somebody else's sbrk", where)
            found.must(role in (None, "foreign-sbrk", "unknown"), "role of an sbrk", where)
            return found
        found.must(role in (None, "first-heap", "growth", "alignment", "unknown"), "role", where)
        found.must(role != "first-heap" or not state.grown, "a first heap", where)
        sizes = [op.asked] if name in "mcar" else []
        if not state.grown and env.tcache:
            sizes.append(env.abi.tcache)
        if role in ("first-heap", "growth") and s.get("chunk") is not None:
            found.counts["bounds"] += 1
            low, high = s["chunk"]["min"], s["chunk"]["max"]
            fits = any(low <= size and (high is None or size <= high) for size in sizes)
            found.must(fits or (state.tuned and s["chunk"] is not None), "chunk's bounds", where)
        soon = self._soon(s["seq"], state.threshold)
        under = state.tuned or any(size < soon for size in sizes)
        match verdict, reason:
            case "unknown", None:
                pass
            case "unknown", "aligned-or-mallopt":
                found.must(state.tuned or state.aligned, "evidence against the rule", where)
            case "contradiction", None:
                found.must(state.tuned, "evidence against the rule", where)
            case "holds", None:
                found.must(under, "a growth of a chunk over the threshold holds", where)
            case "explained", "dynamic-threshold":
                moved = state.rises > 0 or state.tuned
                found.must(under and moved, "what explains a growth", where)
            case "explained", "inherited":
                moved = self.inherited and (state.moved or state.tuned)
                found.must(under and moved, "what explains a growth", where)
            case "explained", "mmap-max":
                full = len(state.alive) >= env.mmap_max
                found.must(full or state.tuned or self.threads > 1, "what explains a growth", where)
            case "explained", "top-pad":
                found.must(under and env.top_pad > DEFAULT, "what explains a growth", where)
            case "explained", ("environ" | "tunable"):
                found.must(under and reason == env.source, "what explains a growth", where)
            case "explained", "alignment":
                pair = before is not None and before["tid"] == s["tid"] and before["delta"] > 0
                found.must(pair, "the second of two growths", where)
            case _:
                found.must(False, "a verdict that cannot be", where)
        return found

    # -- the end --------------------------------------------------------------------------------

    def _end(self, last: State) -> None:
        """What is there when the process ends."""
        found, row, metrics = self.found, self.row, self.row["metrics"]
        rows = [r for r in row["regions"] if r["died_seq"] is None]
        complete = row["regions_total"] == len(row["regions"])
        if complete:
            unknown = sum(r["kind"] == "unknown" for r in rows)
            alive, size = metrics["chunks.alive_at_exit"], metrics["chunks.final_bytes"]
            found.must(alive <= len(last.alive) <= alive + unknown, "chunks alive", last.alive)
            lengths = sum(length for _, length in last.alive.values())
            found.must(unknown > 0 or size == lengths, "bytes of chunks alive", (size, lengths))
        t = row["threshold"]
        if t["low"] is not None and not last.tuned:
            # Proven are those whose chunk's size was read, or follows; never more than there were.
            proven, possible = metrics["threshold.rises"], {m["cause"] for m in t["history"]}
            found.must(proven <= last.rises, "more rises than there were", (t, last))
            exact = t["low"] == t["high"] and "possible-rise" not in possible
            found.must(not exact or proven == last.rises, "rises", (t, last))
        for line in self._blocks():
            at = [r for r in rows if r["start"] <= line["ptr"] < r["end"]]
            kinds = {r["kind"] for r in at}
            field_ = line["size_field"]
            if line["mapped"]:
                allowed = {"malloc-chunk", "unknown"}
            elif field_ & 4:
                allowed = {"arena", "unknown"}
            else:
                allowed = {"heap", "main-arena", "unknown"}
            found.must(
                not complete or (bool(kinds) and kinds <= allowed), "block's kind", (line, at)
            )

    def _blocks(self) -> list[Event]:
        """The last line of each block that was not given back, of those this process asked for."""
        alive: dict[int, int] = Counter()
        lines: dict[int, Event] = {}
        for line in self.lines:
            if line["op"] in ("f", "r") and line.get("given", True):
                alive[line["old_ptr"]] -= 1
            if "request" in line and line["ptr"] and line.get("given", True):
                alive[line["ptr"]] += 1
                lines[line["ptr"]] = line
        return [line for ptr, line in lines.items() if alive[ptr] > 0]


def _expected(line: Event, *, keeps: bool) -> list[tuple[str, Callable[[Event], bool]]]:
    """The calls that an operation made, as (name, which call it is); "?" if it may be otherwise."""
    op = line["op"]
    expected: list[tuple[str, Callable[[Event], bool]]] = []
    mapped = line.get("mapped", False) and line.get("given", True)
    start, length = line.get("map_start"), line.get("map_length")
    old, old_length = line.get("old_map_start"), line.get("old_map_length")
    if op == "f" and old_length:
        name = "munmap?" if keeps else "munmap"
        expected.append((name, _is("munmap", None, old, old_length)))
    elif op == "r" and line["given"] and old_length:
        if mapped and (old, old_length) == (start, length):
            return []
        if mapped:
            expected.append(("mremap?", _is("mremap", start, old, old_length, length)))
            expected.append(("mmap?", _is("mmap", start, 0, length)))
        expected.append(("munmap?", _is("munmap", None, old, old_length)))
    elif mapped:
        expected.append(("mmap", _is("mmap", start, 0, length)))
    return expected


def _is(name: str, ret: int | None, *args: int | None) -> Callable[[Event], bool]:
    def same(e: Event) -> bool:
        return bool(
            e["call"] == name and (ret is None or e["ret"] == ret)
            and tuple(e["args"][: len(args)]) == args
        )  # fmt: skip

    return same


def _after(state: State, op: Op, env: Env) -> State:
    """How things stand after an operation."""
    line = op.line
    name = line["op"]
    if name == "o":
        return replace(state, tuned=True)
    changes: Json = {}
    if op.gone is not None or op.moved is not None or op.born is not None:
        alive = changes["alive"] = dict(state.alive)
        if op.moved is not None:
            seq, _ = alive.pop(op.moved[1], (None, 0))
            alive[line["map_start"]] = seq, line["map_length"]
        if op.gone is not None:
            alive.pop(line["old_map_start"], None)
        if op.born is not None:
            alive[line["map_start"]] = op.born, line["map_length"]
    if name == "f" and op.gone is not None and env.source is None:
        raw, size = line["old_size_field"], line["old_chunk"]
        if state.threshold < raw <= env.abi.most:
            rose = size > state.threshold  # flags count: a chunk as large as T "raises" it, too
            changes |= {"threshold": size, "rises": state.rises + rose, "moved": True}
            changes["aligned"] = state.aligned or line["old_ptr"] - line["old_map_start"] != 16
    return replace(state, **changes) if changes else state


def _still(line: Event) -> bool:
    """Whether the break is where it was after an operation."""
    return bool(line["break_before"] == line["break_after"])


def _may_move(line: Event, delta: int) -> bool:
    """Whether an operation may have moved the break that way. What it told of the break others may
    have moved as well.
    """
    return bool(line["op"] in ("mcars" if delta >= 0 else "frat"))
