# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of two traces as values: field for field the JSON that docs/diff.md describes."""

from __future__ import annotations

import msgspec

FORMAT = "memtrace-diff/1"
#: The value of a setting that no record tells.
UNKNOWN = "not known"

Number = int | float


class Setting(msgspec.Struct, frozen=True):
    """Something that is not the same before anything has run; None: not set. `UNKNOWN`: no record
    tells.
    """

    name: str
    before: str | None
    after: str | None


class Change(msgspec.Struct, frozen=True):
    """A number on both sides.

    Attributes:
        group, name: what is counted, of what.
        unit: `bytes` or `count`.
        before, after: None: not known.
        advisory: it depends on the machine or on when memtrace looked.
        least: whether each is a lower bound.
        comparable: a difference is the program's; not that of how it was recorded.
    """

    group: str
    name: str
    unit: str
    before: Number | None
    after: Number | None
    advisory: bool = False
    least: tuple[bool, bool] = (False, False)
    comparable: bool = True


class Stand(msgspec.Struct, frozen=True):
    """Where the threshold stood from a record on, None: from the start. In bytes; `high` None:
    there is none; both None: not known.
    """

    seq: int | None
    low: int | None
    high: int | None
    cause: str


class Told(msgspec.Struct, frozen=True):
    """A finding of one side."""

    rule: str
    severity: str
    title: str


class Alone(msgspec.Struct, frozen=True):
    """The findings of a process without a partner; `side`: `before` or `after`."""

    side: str
    name: str
    pid: int
    findings: list[Told]


class Turned(msgspec.Struct, frozen=True):
    """A finding of both sides whose severity or cause is not the same; `messages` in full."""

    rule: str
    severities: tuple[str, str]
    titles: tuple[str, str]
    messages: tuple[str, str]


class Unseen(msgspec.Struct, frozen=True):
    """A finding of which nobody can say that it appeared, went or changed.

    Attributes:
        side: `before` or `after`: who has it.
        why: what is not alike, words of `Pair.limits`.
    """

    rule: str
    severity: str
    title: str
    side: str
    why: list[str]


class Reach(msgspec.Struct, frozen=True):
    """How far a trace reaches.

    Attributes:
        complete: nothing is missing; if not, `reason` says why.
        last_seq, duration_ns: the last record and the time that the trace covers.
    """

    complete: bool
    reason: str
    last_seq: int
    duration_ns: int | None


class Pair(msgspec.Struct, frozen=True):
    """One process of each trace.

    Attributes:
        name: the program's, in the later trace; `was` in the earlier one.
        before, after: their pids.
        by: why they are a pair: `arguments` (the same program and arguments), `program`, `order`
            (names say nothing), `first` (other programs, each the first of its trace).
        limits: what each record cannot tell, see docs/diff.md.
        notes: of these what is to be known first, in sentences.
        settings: what differs between their programs.
        changes: every number that either knows.
        threshold: how it moved, in each.
        appeared, went, changed: findings that only the later has, only the earlier, both in another
            way, by rule; `unseen`: of which that cannot be said.
        logged: whether each is of an imported log, which proves but a few findings.
    """

    name: str
    was: str
    before: int
    after: int
    by: str
    limits: tuple[list[str], list[str]]
    notes: list[str]
    settings: list[Setting]
    changes: list[Change]
    threshold: tuple[list[Stand], list[Stand]]
    appeared: list[Told]
    went: list[Told]
    changed: list[Turned]
    unseen: list[Unseen]
    logged: tuple[bool, bool]


class Comparison(msgspec.Struct, frozen=True):
    """Two traces.

    Attributes:
        reach: how far each reaches.
        notes: what cannot be compared, and why, in sentences.
        recorded: settings of the recording.
        settings: of the machine.
        trust: how far each can be trusted, a sentence.
        trusted: whether it can.
        pairs: processes of both, in the later's order of birth.
        only_before, only_after: programs of one side alone, and how many processes of each.
        alone: those of them that have findings.
    """

    reach: tuple[Reach, Reach]
    notes: list[str]
    recorded: list[Setting]
    settings: list[Setting]
    trust: tuple[str, str]
    trusted: tuple[bool, bool]
    pairs: list[Pair]
    only_before: dict[str, int]
    only_after: dict[str, int]
    alone: list[Alone]
    format: str = FORMAT
