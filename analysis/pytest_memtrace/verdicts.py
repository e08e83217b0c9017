# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of a test's budget: a line, and a section of at most ten rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memtrace.check.budget import Limit
    from pytest_memtrace.programs import Program

ROWS = 10
NOTHING = (
    "memtrace: the test started no program, so nothing was measured; only programs started with "
    "subprocess or memtrace.run are, not the test process"
)


@dataclass(frozen=True)
class Outcome:
    """Of one test.

    Attributes:
        line: why it fails; "" if it does not.
        rows: of its section, the worst first.
    """

    line: str
    rows: tuple[str, ...]

    @property
    def section(self) -> str:
        """The rows, ten at most, and how many more there are."""
        more = len(self.rows) - ROWS
        last = [f"and {more} more"] if more > 0 else []
        return "\n".join([*self.rows[:ROWS], *last])


def outcome(programs: Sequence[Program], limits: Sequence[Limit], *, lenient: bool) -> Outcome:
    """Hold each program's trace against the limits.

    Args:
        programs: what the test has started.
        limits: of its marker.
        lenient: judge what a trace tells although it is not to be trusted.
    """
    from memtrace.check.judge import judge
    from memtrace.check.result import word
    from memtrace.trace.errors import MemtraceError

    if not programs:
        return Outcome(NOTHING, ())
    bad: list[str] = []
    rows: list[tuple[int, str]] = []
    for program in programs:
        try:
            report = program.report
        except MemtraceError as e:
            bad.append(e.message)
            rows.append((0, e.message))
            continue
        if report.exactness != "exact" and not lenient:
            bad.append(f"the trace of {program.name} is not to be trusted: {report.trust}")
            rows.append((0, bad[-1]))
        for v in judge(report, limits):
            if v.fails or (v.unknown and not lenient):
                bad.append(f"{v.text}, in {program.name}")
            records = "".join(f" #{seq}" for seq in v.evidence[:4]) if v.ok is False else ""
            where = f"   {program.trace}" if v.ok is False else ""
            rank = 2 if v.ok else 1
            rows.append((rank, f"{word(v):<7} {program.name}: {v.text}{records}{where}"))
    rows.sort(key=lambda row: row[0])
    line = ""
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        line = f"memtrace: {bad[0]}{more}"
    return Outcome(line, tuple(text for _, text in rows))
