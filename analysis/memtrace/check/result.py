# SPDX-License-Identifier: GPL-2.0-or-later
"""What a check has found, as every format tells it."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.check.judge import Verdict

OVER, UNTRUSTWORTHY = 1, 3


@dataclass(frozen=True, slots=True)
class Result:
    """All of one check.

    Attributes:
        trace: the trace's name.
        program: that of its first process.
        trust: whether the trace can be trusted, a sentence; `trusted` if it can.
        lenient: what cannot be trusted or is not known fails nothing.
        verdicts: of every limit.
        notes: what else is to be said, a sentence each.
    """

    trace: str
    program: str
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
    def summary(self) -> str:
        """How it ends, in a line."""
        n = len(self.verdicts)
        what = f"{len(self.failed)} of {n} {'limit' if n == 1 else 'limits'} exceeded"
        if not self.failed:
            what = f"all {n} limits kept" if n > 1 else "the limit is kept" if n else "no limits"
        if self.unknown:
            what = (
                f"{len(self.unknown)} of {n} not known; {what if self.failed else 'none exceeded'}"
            )
        if not self.trusted:
            what += "; the trace is not to be trusted"
        return f"{what}, exit {self.status}"


def word(v: Verdict) -> str:
    """`ok`, `FAIL`, `unknown`; in brackets where it only informs."""
    text = {True: "ok", False: "FAIL", None: "unknown"}[v.ok]
    return text if v.limit.gate else f"({text.lower()})"


def rule(v: Verdict) -> str:
    """What a limit is known by from run to run: never by an address or a line."""
    x = v.limit
    kind = "budget" if v.baseline is None else "baseline"
    return "/".join(p for p in (kind, x.scope, x.glob, x.metric.name) if p)


def place(v: Verdict) -> str:
    """`memtrace.toml:7`."""
    return f"{v.limit.file}:{v.limit.line}" if v.limit.line else v.limit.file
