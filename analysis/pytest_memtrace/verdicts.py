# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of a test's budget: a line, and a section of at most ten rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memtrace.check.budget import Limit
    from memtrace.report.model import Report
    from pytest_memtrace.programs import Program

ROWS = 10
OVER, UNMEASURED = "over budget", "not measured"
LATE = (
    "memtrace: the marker was added while the test ran: what had been started before was not "
    "measured; add it in a fixture, or write it above the test"
)
NOTHING = (
    "memtrace: the test started no program, so nothing was measured; only programs started with "
    "subprocess or memtrace.run are, not the test process"
)


@dataclass(frozen=True)
class Outcome:
    """Of one test.

    Attributes:
        word: `over budget` or `not measured`; "" if it passes.
        line: why it fails.
        rows: of its section, the worst first.
        kept: whether the traces that rows name stay.
    """

    word: str = ""
    line: str = ""
    rows: tuple[str, ...] = ()
    kept: bool = True

    def beside(self) -> Outcome:
        """The same for a test that has failed by itself: its rows only."""
        return replace(self, word="", line="")

    @property
    def section(self) -> str:
        """The rows, ten at most, and how many more there are."""
        more = len(self.rows) - ROWS
        last = [f"and {more} more"] if more > 0 else []
        if self.word == OVER and not self.kept:
            last.append("--memtrace-dir=DIR keeps the traces")
        return "\n".join([*self.rows[:ROWS], *last])


def outcome(
    programs: Sequence[Program], limits: Sequence[Limit], *, lenient: bool, kept: bool
) -> Outcome:
    """Hold each program's trace against the limits.

    Args:
        programs: what the test has started.
        limits: of its markers.
        lenient: judge what a trace tells although it is not to be trusted.
        kept: whether the traces stay.
    """
    from memtrace.check.judge import judge
    from memtrace.check.result import word
    from memtrace.report.lines import clean
    from memtrace.trace.errors import MemtraceError

    if not programs:
        return Outcome(UNMEASURED, NOTHING)
    unmeasured: list[str] = []
    over: list[str] = []
    rows: list[tuple[int, str]] = []
    for program in programs:
        try:
            report = program.report
        except MemtraceError as e:
            unmeasured.append(e.message)
            rows.append((0, e.message))
            continue
        if report.exactness != "exact" and not lenient:
            text = f"the trace of {program.name} is not to be trusted: {report.trust}"
            if not report.trace.complete:
                text += "; if it was still running when the test ended: wait for it"
            unmeasured.append(text)
            rows.append((0, unmeasured[-1]))
        for v in judge(report, limits, every=True):
            if v.fails:
                over.append(f"{clean(v.text)}, in {program.name}")
            elif v.unknown and (not lenient or _absent(report, v.limit.glob)):
                unmeasured.append(f"{clean(v.text)}, in {program.name}")
            records = "".join(f" #{seq}" for seq in v.evidence[:4]) if v.ok is False else ""
            where = f"   {clean(str(program.trace))}" if v.ok is False and kept else ""
            rank = 2 if v.ok else 1
            rows.append((rank, f"{word(v):<7} {program.name}: {clean(v.text)}{records}{where}"))
    rows.sort(key=lambda row: row[0])
    texts = tuple(text for _, text in rows)
    # What was not measured may be over budget as well: that goes first.
    bad = unmeasured + over
    if not bad:
        return Outcome(rows=texts, kept=kept)
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return Outcome(UNMEASURED if unmeasured else OVER, f"memtrace: {bad[0]}{more}", texts, kept)


def _absent(report: Report, glob: str) -> bool:
    """Whether no process has that name, of a trace that has them all."""
    names = (p.program for p in report.processes)
    return bool(glob) and report.trace.complete and not any(fnmatchcase(n, glob) for n in names)
