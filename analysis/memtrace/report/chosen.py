# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pairs of processes are shown: those that differ, findings first; no finding is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from memtrace.report.cells import threshold
from memtrace.report.compared import Change, Pair
from memtrace.report.lines import plural

#: Pairs that are shown with all their numbers.
SHOWN = 3


class Chosen(NamedTuple):
    """Pairs shown in full, those of which findings alone are, how many more differ by numbers or
    settings, and how many do not differ.
    """

    full: list[Pair]
    findings: list[Pair]
    more: int
    same: int


def chosen(pairs: Sequence[Pair]) -> Chosen:
    """What is shown of so many pairs; the one pair that there is, at any rate."""
    differing = [p for p in pairs if len(pairs) == 1 or differs(p)]
    ordered = sorted(differing, key=lambda p: (-_news(p), -_largest(p)))
    full, others = ordered[:SHOWN], ordered[SHOWN:]
    told = [p for p in others if _news(p)]
    return Chosen(full, told, len(others) - len(told), len(pairs) - len(differing))


def rest(shown: Chosen) -> list[str]:
    """Sentences on the pairs that are not shown, or not in full."""
    out = []
    if shown.findings:
        out.append(
            f"of {plural(len(shown.findings), 'pair')} of processes only the findings are shown: "
            f"--format json has the numbers"
        )
    if shown.more:
        out.append(
            f"and {plural(shown.more, 'more pair')} of processes that differ, by no finding: "
            f"--format json has them"
        )
    if shown.same:
        out.append(f"{plural(shown.same, 'pair')} of processes without a difference")
    return out


def differs(pair: Pair) -> bool:
    """Whether there is anything to show."""
    found = _news(pair) or pair.settings or threshold(pair) is not None
    return bool(found) or any(changed(x) for x in pair.changes)


def changed(x: Change) -> bool:
    """Whether a number is worth a line: what only one side knows is, unless it is nothing."""
    return x.before != x.after and (x.comparable or bool(x.before or x.after))


def _news(pair: Pair) -> int:
    """2: a finding appeared, went or changed; 1: of one nobody can say; 0: of none."""
    if pair.appeared or pair.went or pair.changed:
        return 2
    return 1 if pair.unseen else 0


def _largest(pair: Pair) -> float:
    """The most bytes that a number changed by."""
    return max(
        (
            abs(x.after - x.before)
            for x in pair.changes
            if x.comparable and x.unit == "bytes" and x.before is not None and x.after is not None
        ),
        default=0,
    )
