# SPDX-License-Identifier: GPL-2.0-or-later
"""What a finding is, and what a rule is that makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memtrace.findings.facts import Facts

INFO, WARNING, ERROR = "info", "warning", "error"
#: The gravest first.
SEVERITIES = (ERROR, WARNING, INFO)
#: Records named as evidence of one finding, at most.
EVIDENCE = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """A statement about one address space, proven by the records that it names.

    `headline` says it in a few words, `message` in sentences; `evidence` are sequence numbers in
    order, at most `EVIDENCE`; `remedy` is what to type or to set.
    """

    rule: str
    severity: str
    headline: str
    message: str
    evidence: tuple[int, ...]
    remedy: str


@dataclass(frozen=True, slots=True)
class Rule:
    """An entry of the catalogue.

    `find` is pure: of the same facts it makes the same finding, or None where the facts do not
    prove it. `explain` tells a person what it means, how it is decided, what to do, and how to see
    it live.
    """

    id: str
    title: str
    find: Callable[[Facts], Finding | None]
    explain: str


def seqs(numbers: list[int]) -> tuple[int, ...]:
    """The first `EVIDENCE` of some sequence numbers, in order, each once."""
    return tuple(sorted(set(numbers))[:EVIDENCE])
