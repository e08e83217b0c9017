# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue: every finding there is, and what they say of one address space."""

from __future__ import annotations

from memtrace.findings.arenas import BLOW_UP
from memtrace.findings.churn import CHURN
from memtrace.findings.facts import Facts
from memtrace.findings.finding import SEVERITIES, Finding, Rule
from memtrace.findings.heap import FOREIGN, NEVER_SHRANK, REFUSED
from memtrace.findings.maps import MAP_LIMIT, NEAR_LIMIT
from memtrace.findings.others import ALIVE_AT_EXIT, FAILED_CALLS, WITHOUT_THE_RULE
from memtrace.findings.threshold import CONTRADICTED, DYNAMIC, LARGE_GROWTH

RULES: tuple[Rule, ...] = (
    DYNAMIC,
    LARGE_GROWTH,
    NEVER_SHRANK,
    BLOW_UP,
    CHURN,
    NEAR_LIMIT,
    MAP_LIMIT,
    ALIVE_AT_EXIT,
    REFUSED,
    FOREIGN,
    CONTRADICTED,
    WITHOUT_THE_RULE,
    FAILED_CALLS,
)


def findings(facts: Facts) -> list[Finding]:
    """What is to be said, the gravest first, then by number."""
    found = [finding for rule in RULES if (finding := rule.find(facts)) is not None]
    return sorted(found, key=lambda x: (SEVERITIES.index(x.severity), x.rule))
