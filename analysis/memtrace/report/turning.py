# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings of two processes: which appeared, went or changed, and of which nobody can say. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from memtrace.report.compared import Told, Turned, Unseen
from memtrace.report.model import Finding, ProcessRow
from memtrace.report.sight import Sight, obstacles

_HEX = re.compile(r"0x[0-9a-f]+")
_NUMBER = re.compile(r"#?\d[\d,.]*(?: (?:[KMGTPE]iB|B|%|[num]?s|min|h)\b)?")
_ENDING = re.compile(r"\b(\w{3,}?)s\b")
#: Words that follow a number.
_PLURAL = {"are": "is", "were": "was", "have": "has", "them": "it", "they": "it", "these": "this"}
_WORD = re.compile(r"\b(" + "|".join(_PLURAL) + r")\b")


class Turns(NamedTuple):
    """As in `Pair`."""

    appeared: list[Told]
    went: list[Told]
    changed: list[Turned]
    unseen: list[Unseen]


def turns(
    a: ProcessRow, b: ProcessRow, sight: Sight, *, named: bool = True, order: bool = False
) -> Turns:
    """What became of the findings of `a`.

    Args:
        a: the earlier.
        b: the later.
        sight: what the record of `a` cannot tell.
        named: names are the programs' own in both, so that messages can be compared.
        order: it is that alone which pairs the two; they may be different programs.
    """
    found = Turns([], [], [], [])
    old, new = ({x.rule: x for x in p.findings} for p in (a, b))
    for rule in dict.fromkeys((*new, *old)):
        one, two = old.get(rule), new.get(rule)
        if one is not None and two is not None and _same(one, two, named=named):
            continue
        why = ["redacted"] if order else obstacles(rule, sight)
        if why:
            for x, side in ((one, "before"), (two, "after")):
                if x is not None:
                    found.unseen.append(Unseen(x.rule, x.severity, x.title, side, why))
        elif one is None and two is not None:
            found.appeared.append(told(two))
        elif two is None and one is not None:
            found.went.append(told(one))
        elif one is not None and two is not None:
            found.changed.append(
                Turned(
                    rule,
                    (one.severity, two.severity),
                    (one.title, two.title),
                    (one.message, two.message),
                )
            )
    return found


def told(x: Finding) -> Told:
    """A finding, as a comparison tells it."""
    return Told(x.rule, x.severity, x.title)


def _same(one: Finding, two: Finding, *, named: bool) -> bool:
    if one.severity != two.severity:
        return False
    return not named or gist(one.message) == gist(two.message)


def gist(message: str) -> str:
    """What a message says, whatever the numbers in it: these are compared as numbers.

    >>> gist("3 growths of 1.5 MiB at 0x7f00 are") == gist("1 growth of 12 B at 0x66 is")
    True
    >>> gist("the heap never shrank") == gist("the heap shrank once")
    False
    """
    text = _NUMBER.sub("N", _HEX.sub("N", message))
    text = _ENDING.sub(r"\1", _WORD.sub(lambda m: _PLURAL[m[0]], text))
    return re.sub(r"N(?:(?:,| and|, and)? N)+", "N", text)
