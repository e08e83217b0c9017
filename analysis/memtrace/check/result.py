# SPDX-License-Identifier: GPL-2.0-or-later
"""What a check has found, as every format tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from memtrace.check.budget import PROCESS
from memtrace.check.judge import Verdict

OVER, UNTRUSTWORTHY = 1, 3


@dataclass(frozen=True, slots=True)
class Result:
    """All of one check.

    Attributes:
        trace: the trace's name.
        programs: those of its first process, one after the other.
        trust: whether the trace can be trusted, a sentence; `trusted` if it can.
        lenient: what cannot be trusted or is not known fails nothing.
        verdicts: of every limit.
        notes: what else is to be said, a sentence each.
    """

    trace: str
    programs: tuple[str, ...]
    trust: str
    trusted: bool
    lenient: bool
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Verdict]:
        """Over budget."""
        return [v for v in self.verdicts if v.fails]

    @property
    def unknown(self) -> list[Verdict]:
        """Not known, where that counts."""
        return [] if self.lenient else [v for v in self.verdicts if v.unknown]

    @property
    def status(self) -> int:
        """The exit status: 3 if it cannot be told, else 1 if over budget, else 0."""
        if (not self.trusted and not self.lenient) or self.unknown:
            return UNTRUSTWORTHY
        return OVER if self.failed else 0

    @property
    def program(self) -> str:
        """`env → words`: what the first process has been."""
        return " → ".join(self.programs) or "no program"

    @property
    def summary(self) -> str:
        """How it ends, in a line."""
        what = _counted(self.verdicts)
        if not self.trusted:
            what += "; the trace is not to be trusted"
        return f"{what}, exit {self.status}"


def _counted(verdicts: Sequence[Verdict]) -> str:
    """How many limits are kept, passed and not known; those that only inform by themselves."""
    n = len(verdicts)
    found = Counter((v.ok, v.limit.gate) for v in verdicts)
    kept = found[True, True] + found[True, False]
    over = found[False, True]
    if kept == n:
        return f"all {n} limits kept" if n > 1 else "the limit is kept" if n else "no limits"
    if kept + over == n:
        return f"{over} of {n} {'limit' if n == 1 else 'limits'} exceeded"
    parts = (
        (over, "exceeded"),
        (found[None, True], "not known"),
        (kept, "kept"),
        (found[False, False], "exceeded (shown only)"),
        (found[None, False], "not known (shown only)"),
    )
    return ", ".join(f"{number} {text}" for number, text in parts if number)


def word(v: Verdict) -> str:
    """`ok`, `FAIL`, `unknown`; in brackets where it only informs."""
    text = {True: "ok", False: "FAIL", None: "unknown"}[v.ok]
    return text if v.limit.gate else f"({text.lower()})"


def rule(v: Verdict) -> str:
    """What a limit is known by from run to run: never by an address or a line."""
    x = v.limit
    kind = "budget" if v.baseline is None else "baseline"
    return "/".join(p for p in (kind, x.scope, x.glob, x.metric.name) if p)


def identities(verdicts: Sequence[Verdict]) -> list[str]:
    """What each verdict is known by from run to run, no two the same: its rule, of a process also
    the program's name, and which of that name it is.
    """
    seen: Counter[str] = Counter()
    found = []
    for v in verdicts:
        name = rule(v)
        if v.limit.scope == PROCESS and v.who:
            name += f"/{v.who.partition(' (pid')[0]}"
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found


def place(v: Verdict) -> str:
    """`memtrace.toml:7`."""
    return f"{v.limit.file}:{v.limit.line}" if v.limit.line else v.limit.file
