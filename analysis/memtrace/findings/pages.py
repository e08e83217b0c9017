# SPDX-License-Identifier: GPL-2.0-or-later
"""What memtrace's words mean: the texts behind `memtrace explain`, one place for all of them.

A word of the report has a section in one of the pages of `explain/`, a finding its own `explain`
text, and `malloc-and-the-kernel` is a page of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from textwrap import wrap

from memtrace.findings.catalogue import RULES
from memtrace.malloc.allocator import OWN_RULES
from memtrace.malloc.roles import ROLES

_WIDTH = 80
#: The page about the rule, claim by claim.
ARTICLE = "malloc-and-the-kernel"
#: Groups of words: name of the page in `explain/` -> what the words are.
GROUPS = {
    "kinds": "kind of a region",
    "evidence": "evidence for a kind",
    "verdicts": "verdict",
    "reasons": "reason of a verdict",
    "roles": "role of a step of the heap",
    "moves": "cause of a move of the threshold",
    "refusals": "cause of a refused growth",
    "kept": "reason why the heap kept what it had",
    "limits": "reason of the arena limit",
    "terms": "word of the report",
    "allocators": "allocator",
    "severities": "severity of a finding",
    "trust": "trust in a trace",
}


@dataclass(frozen=True, slots=True)
class Word:
    """One word of the report: in which `group`, and what it means."""

    name: str
    group: str
    text: str


@cache
def words() -> dict[str, tuple[Word, ...]]:
    """Every word that has a section, by name; a few are words of more than one group."""
    found: dict[str, list[Word]] = {}
    for group in GROUPS:
        if group == "roles":
            continue
        for name, text in _sections(_read(group)):
            rule = OWN_RULES.get(name, "") if group == "allocators" else ""
            rule = f"{rule[:1].upper()}{rule[1:]}.\n" if rule else ""
            found.setdefault(name.lower(), []).append(Word(name, group, rule + text))
    for name, text in ROLES.items():
        meaning = f"{text[:1].upper()}{text[1:]}."
        found.setdefault(name, []).append(Word(name, "roles", meaning))
    return {name: tuple(some) for name, some in found.items()}


def article() -> str:
    """The page malloc-and-the-kernel, as Markdown."""
    return _read(ARTICLE)


def explain(name: str) -> str | None:
    """What a finding's id, a word, or the page's name means; None if nothing is known of it."""
    wanted = name.strip()
    if wanted.lower().removesuffix(".md") == ARTICLE:
        return article()
    for rule in RULES:
        if rule.id == wanted.upper():
            return f"{rule.id}: {rule.title}\n\n{filled(rule.explain)}"
    found = words().get(wanted.lower(), ())
    parts = [f"{w.name} ({GROUPS[w.group]})\n\n{filled(w.text)}" for w in found]
    return "\n".join(parts) or None


def filled(text: str) -> str:
    """Paragraphs in 80 columns; lines that begin with spaces, which are commands, as they are."""
    out: list[str] = []
    paragraph: list[str] = []
    for line in [*text.strip().split("\n"), ""]:
        if line and not line.startswith(" "):
            paragraph.append(line)
            continue
        if paragraph:
            joined = " ".join(paragraph)
            out += wrap(joined, _WIDTH, break_on_hyphens=False, break_long_words=False)
            paragraph = []
        out.append(line)
    return "\n".join(out)


def nearest(name: str, also: Iterable[str] = ()) -> list[str]:
    """Names that are spelled nearly alike, the nearest first; `also` are names of others."""
    every = {n.lower(): n for n in [ARTICLE, *(r.id for r in RULES), *words(), *also]}
    return [every[n] for n in get_close_matches(name.strip().lower(), every, 3, 0.6)]


def index() -> list[tuple[str, list[str]]]:
    """Everything that can be explained: (heading, names)."""
    groups = [("findings", [f"{r.id}  {r.title}" for r in RULES])]
    groups += [
        (what, [w.name for some in words().values() for w in some if w.group == group])
        for group, what in GROUPS.items()
    ]
    return [*groups, ("the page", [ARTICLE])]


def _read(name: str) -> str:
    text = files("memtrace.findings").joinpath(f"explain/{name}.md").read_text("utf-8")
    return text.partition("-->\n")[2] if text.startswith("<!--") else text


def _sections(text: str) -> list[tuple[str, str]]:
    parts = f"\n{text}".split("\n## ")[1:]
    pairs = [part.partition("\n") for part in parts]
    return [(name.strip(), body.strip()) for name, _, body in pairs]
