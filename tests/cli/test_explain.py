# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace explain`: everything that a report can say is explained, in words that fit."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any, get_args

import pytest

import memtrace.cli.main
from memtrace.check.locate import read
from memtrace.findings import pages
from memtrace.findings.catalogue import RULES
from memtrace.findings.finding import SEVERITIES
from memtrace.replay.trust import Exactness
from memtrace.report.json import schema
from memtrace.report.metrics import METRICS, names
from memtrace.report.metrics import explained as explained_metric

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "report-json.md").read_text()
SOURCE = "\n".join(p.read_text() for p in (ROOT / "analysis" / "memtrace" / "malloc").glob("*.py"))


def explained(capsys: pytest.CaptureFixture[str], *name: str) -> tuple[int, str, str]:
    status = memtrace.cli.main.run(["explain", *name])
    return (status, *capsys.readouterr())


def enums(name: str, node: Any) -> set[str]:
    """What the report's schema allows for a key of that name, wherever it stands."""
    found: set[str] = set()
    if isinstance(node, list):
        for each in node:
            found |= enums(name, each)
    elif isinstance(node, dict):
        value = node.get("properties", {}).get(name, {})
        reference = value.get("$ref", "").rpartition("/")[2]
        value = schema()["$defs"].get(reference, value)
        value = value.get("items", value)
        found |= {x for x in value.get("enum", []) if x is not None}
        for each in node.values():
            found |= enums(name, each)
    return found


@pytest.mark.parametrize(
    "key", ["kind", "evidence", "verdict", "reason", "cause", "role", "candidates"]
)
def test_every_word_that_the_schema_knows_is_explained(key: str) -> None:
    words = {word.lower() for word in enums(key, schema())} - {"main"}  # the kind of a walked heap
    assert words <= set(pages.words())


def group_of(name: str) -> list[str]:
    """The words of one group, each as often as it is explained."""
    return [w.name for some in pages.words().values() for w in some if w.group == name]


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("kinds", enums("kind", schema()) - {"main"}),
        ("verdicts", enums("verdict", schema())),
        ("evidence", enums("evidence", schema())),
        ("severities", set(SEVERITIES)),
        ("trust", set(get_args(Exactness))),
    ],
)
def test_a_group_explains_what_a_report_can_say_and_nothing_else(
    group: str, words: set[str]
) -> None:
    assert len(words) >= 3
    assert set(group_of(group)) == words


@pytest.mark.parametrize("group", pages.GROUPS)
def test_no_word_is_explained_twice_in_its_group(group: str) -> None:
    assert sorted(group_of(group)) == sorted(set(group_of(group)))


def test_what_is_not_known_is_explained_for_each_group_that_says_it() -> None:
    said = {w.group for w in pages.words()["unknown"]}
    assert said >= {"kinds", "verdicts", "roles", "kept", "allocators"}


def test_no_sentence_of_an_explanation_is_said_twice() -> None:
    for rule in RULES:
        prose = [x for x in rule.explain.splitlines() if not x.startswith(" ")]
        sentences = [x for x in re.split(r"[.:] ", " ".join(prose)) if len(x) > 25]
        assert len(sentences) == len(set(sentences)), rule.id


def test_every_reason_and_cause_of_the_reference_is_explained() -> None:
    section = DOCS[DOCS.index("### Verdicts") : DOCS.index("## Findings")]
    reasons = set(re.findall(r"`([a-z-]+)`", section)) - {"reason"}
    assert len(reasons) > 15
    table = DOCS[DOCS.index("| `cause` of a move |") :].partition("\n\n")[0]
    moves = set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE))
    assert len(moves) >= 7
    assert (reasons | moves) <= set(pages.words())


def test_every_word_that_malloc_decides_by_is_explained() -> None:
    """Words of the account's own source that look like a reason."""
    returned = set(re.findall(r'"explained", "([a-z-]+)"', SOURCE))
    returned |= set(re.findall(r'"not-applicable", "([a-z-]+)"', SOURCE))
    returned |= set(re.findall(r'cause = "([a-z-]+)"', SOURCE))
    assert len(returned) > 5
    assert returned <= set(pages.words())


def test_every_finding_is_explained_and_named_in_the_reference() -> None:
    for rule in RULES:
        text = pages.explain(rule.id)
        assert text is not None
        assert text.startswith(f"{rule.id}: {rule.title}")
        assert [
            p for p in ("How it is decided.", "What to do.", "See it live.") if p not in text
        ] == []
        assert f"| `{rule.id}` | " in DOCS


def test_commands_in_explanations_name_samples_that_exist() -> None:
    texts = [pages.explain(name) or "" for name in [*(r.id for r in RULES), *pages.words()]]
    named = set(re.findall(r"build/samples/([a-z-]+)", "\n".join([*texts, pages.article()])))
    assert len(named) > 8
    assert {n for n in named if not (ROOT / "samples" / f"{n}.c").is_file()} == set()


def test_every_explanation_fits_the_terminal() -> None:
    for name in [*(r.id for r in RULES), *pages.words()]:
        text = pages.explain(name)
        assert text is not None
        assert text.isascii()
        assert max(map(len, text.splitlines())) <= 80, name
        prose = [line for line in text.splitlines() if not line.startswith("  ")]
        assert max(map(len, prose)) <= 80, name


def test_names_in_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys, "mt101") == explained(capsys, "MT101")
    assert explained(capsys, "HEAP")[0] == 0
    assert explained(capsys, "malloc-and-the-kernel.md")[1] == pages.article()


def test_a_word_of_two_groups_is_explained_for_both(capsys: pytest.CaptureFixture[str]) -> None:
    out = explained(capsys, "contradiction")[1]
    assert "(verdict)" in out
    assert "(cause of a move of the threshold)" in out


def test_alone_it_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = explained(capsys)
    assert (status, err) == (0, "")
    listed = {word.lower() for word in out.split()} | set(out.split())
    assert {rule.id for rule in RULES} | set(pages.words()) | {pages.ARTICLE} <= listed
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("malloc-chunks", "malloc-chunk"),
        ("dynamic-treshold", "dynamic-threshold"),
        ("malloc-kernel", pages.ARTICLE),
    ],
)
def test_a_name_spelled_nearly_right(
    capsys: pytest.CaptureFixture[str], asked: str, near: str
) -> None:
    status, out, err = explained(capsys, asked)
    assert (status, out) == (2, "")
    assert near in err


@pytest.mark.parametrize("asked", ["", "xyzzy", "\x1b[31m", "x" * 500])
def test_a_name_unlike_any(capsys: pytest.CaptureFixture[str], asked: str) -> None:
    status, out, err = explained(capsys, asked)
    assert (status, out) == (2, "")
    assert "did you mean" not in err
    assert "\x1b" not in err
    assert len(err) < 200
    assert "try: memtrace explain" in err


# ---- metrics ----


def test_every_metric_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for name, metric in METRICS.items():
        for asked in (name, name.removesuffix("_bytes"), name.upper()):
            status, out, err = explained(capsys, asked)
            assert (status, err) == (0, ""), asked
            assert out.lower().startswith(name.removesuffix("_bytes") + " (metric)\n")
            flat = " ".join(out.split())
            assert metric.meaning[1:] in flat
            assert f"Unit: {metric.unit}; " in flat
            assert ("It is advisory" in flat) == metric.advisory
            assert max(map(len, out.splitlines())) <= 80


def test_the_budget_of_an_explanation_can_be_meant(tmp_path: Path) -> None:
    for name in names():
        text = explained_metric(name)
        assert text is not None
        path = tmp_path / "memtrace.toml"
        path.write_text(textwrap.dedent(text.partition("In memtrace.toml:\n\n")[2]))
        (limit,) = read(path, "memtrace.toml")
        assert limit.metric.name in (name, f"{name}_bytes", "calls.mmap")
        assert limit.gate is not False


def test_metrics_are_listed_completed_and_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(names()) <= set(explained(capsys)[1].split())
    assert explained(capsys, "calls.munmap")[1].startswith("calls.munmap (metric)\n")
    assert explained(capsys, "calls.NAME")[1].startswith("calls.NAME (metric)\n")
    assert "heap.peak" in explained(capsys, "heap.peek")[2]
