# SPDX-License-Identifier: GPL-2.0-or-later
"""Every format of a check tells the same, by the rules of who reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from tests.unit.check.test_budget import budget

from memtrace.check.formats import github, gitlab, junit, md, sarif, text
from memtrace.check.formats import json as as_json
from memtrace.check.judge import Verdict, verdict
from memtrace.check.result import Result

SCHEMAS = Path(__file__).resolve().parents[2] / "data/schemas"
EVIL = "a<b>|`x`\n::error::%0A\x1b[31m\u202e@root,]"


def result(*verdicts: Verdict, trusted: bool = True, lenient: bool = False) -> Result:
    return Result("t.json", ("env", EVIL), "exact: 3 of 3", trusted, lenient, verdicts, ("a note",))


def made(line: str, number: float | None, who: str = "", **more: Any) -> Verdict:
    (limit,) = budget(f"[budget]\n{line}\n")
    return verdict(limit, number, (7, 9), who, **more)


OK = made("heap.growths = 3", 3)
OVER = made('heap.peak = "2 MiB"', (2 << 20) + 1, EVIL)
UNKNOWN = made("threshold.rises = 0", None)
ADVISORY = made('memory.rss_peak = "1 MiB"', 2 << 20)
WORSE = made("calls.mmap = 3", 4, baseline=3)
ALL = (OK, OVER, UNKNOWN, ADVISORY, WORSE)


@pytest.mark.parametrize(
    ("made_of", "status"),
    [
        (result(OK), 0),
        (result(OK, ADVISORY), 0),
        (result(), 0),
        (result(OK, OVER), 1),
        (result(WORSE), 1),
        (result(OVER, UNKNOWN), 3),
        (result(OVER, UNKNOWN, lenient=True), 1),
        (result(UNKNOWN, lenient=True), 0),
        (result(OK, trusted=False), 3),
        (result(OVER, trusted=False), 3),
        (result(OVER, trusted=False, lenient=True), 1),
    ],
)
def test_the_exit_status(made_of: Result, status: int) -> None:
    assert made_of.status == status
    assert made_of.summary.endswith(f"exit {status}")


KEPT = made("heap.growths = { max = 3, gate = false }", 3)
SHOWN_UNKNOWN = made("threshold.rises = { max = 1, gate = false }", None)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ((), "no limits"),
        ((OK,), "the limit is kept"),
        ((OK, KEPT), "all 2 limits kept"),
        ((OVER,), "1 of 1 limit exceeded"),
        ((OK, OVER, OVER), "2 of 3 limits exceeded"),
        ((OK, ADVISORY), "1 kept, 1 exceeded (shown only)"),
        ((ADVISORY,), "1 exceeded (shown only)"),
        ((OK, UNKNOWN), "1 not known, 1 kept"),
        ((OK, KEPT, SHOWN_UNKNOWN), "2 kept, 1 not known (shown only)"),
        ((OVER, UNKNOWN, OK, ADVISORY),
         "1 exceeded, 1 not known, 1 kept, 1 exceeded (shown only)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("lenient", [False, True])
def test_all_are_kept_only_if_all_are(
    verdicts: tuple[Verdict, ...], said: str, *, lenient: bool
) -> None:
    found = result(*verdicts, lenient=lenient)
    assert found.summary == f"{said}, exit {found.status}"
    assert f"{found.summary}\n" in github.render(found)


def test_every_format_names_the_programs_and_whose_number_it_is() -> None:
    v = made("heap.growths = 3", 4, "words")
    found = Result("t.json", ("env", "words"), "exact", True, False, (v,))
    value = json.loads(as_json.render(found))
    assert value["programs"] == ["env", "words"]
    assert value["limits"][0]["who"] == "words"
    for shown in (text.render(found), md.render(found), junit.render(found), github.render(found)):
        assert "env → words" in shown
    assert "measured in words: heap.growths" in text.render(found)
    assert 'name="heap.growths (words)"' in junit.render(found)
    assert r"heap.growths \(words\)" in md.render(found)
    for shown in (github.render(found), gitlab.render(found), sarif.render(found, "1")):
        assert "heap.growths 4 in words, at most 3" in shown


def test_every_format_says_which_calls_are_counted() -> None:
    v = made("calls.arch_prctl = 0", 1)
    found = result(v)
    for shown in (
        text.render(found), as_json.render(found), junit.render(found), github.render(found),
        gitlab.render(found), sarif.render(found, "1"), md.render(found).replace("\\", ""),
    ):  # fmt: skip
        assert "counts only ARCH_MAP_VDSO_*" in shown


def test_text_has_80_columns_and_no_control_characters() -> None:
    shown = text.render(result(*ALL))
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    words = {line.split()[0]: line for line in shown.splitlines()[2:7]}
    assert " ok " in words["heap.growths"]
    assert " FAIL " in words["heap.peak"]
    assert "#7 #9" in words["heap.peak"]
    assert " unknown" in words["threshold.rises"]
    assert "(fail)" in words["memory.rss_peak"]
    assert "memtrace.toml:2" in shown.splitlines()[-1]


def test_a_byte_too_many_is_seen() -> None:
    assert "2,097,153 B" in OVER.text
    assert "2,097,152 B" in OVER.text


def test_json_has_every_limit() -> None:
    value = json.loads(as_json.render(result(*ALL)))
    assert [x["ok"] for x in value["limits"]] == [True, False, None, False, False]
    assert value["status"] == 3
    assert value["limits"][1]["measured"] == (2 << 20) + 1
    assert value["limits"][1]["evidence"] == [7, 9]
    assert value["limits"][2]["measured"] is None
    assert value["limits"][4]["baseline"] == 3


def test_junit_counts_what_it_has() -> None:
    root = ET.fromstring(junit.render(result(*ALL)))
    cases = root.findall("testsuite/testcase")
    kinds = [next((child.tag for child in case), "") for case in cases]
    assert kinds == ["", "failure", "error", "skipped", "failure"]
    for element in (root, *root.findall("testsuite")):
        assert element.attrib | {"name": ""} == {
            "name": "", "tests": "5", "failures": "2", "errors": "1", "skipped": "1",
        }  # fmt: skip
    assert all(case.get("name") and case.get("classname") for case in cases)


def test_junit_of_an_untrustworthy_trace_has_an_error() -> None:
    root = ET.fromstring(junit.render(result(OK, trusted=False)))
    assert root.get("errors") == "1"
    lenient = ET.fromstring(junit.render(result(OK, trusted=False, lenient=True)))
    assert (lenient.get("errors"), lenient.get("skipped")) == ("0", "1")


_COMMAND = re.compile(r"::(error|warning|notice) ([a-z]+=[^:,\n]*(?:,[a-z]+=[^:,\n]*)*)::(.*)")


def commands(made_of: Result) -> list[tuple[str, dict[str, str], str]]:
    found = []
    for line in github.render(made_of).splitlines():
        m = _COMMAND.fullmatch(line)
        assert m is not None, line
        properties = dict(p.split("=", 1) for p in m[2].split(","))
        found.append((m[1], properties, m[3]))
    return found


def test_github_points_at_the_budgets_lines() -> None:
    found = commands(result(*ALL))
    assert [level for level, _, _ in found] == [
        "error", "error", "error", "warning", "notice", "notice",
    ]  # fmt: skip
    assert found[4][2] == "a note"
    assert found[0][1]["file"] == "memtrace.toml"
    assert found[0][1]["line"] == "2"
    assert "%250A" in found[0][2]  # the name's own %0A is no line break


def test_github_shows_ten_of_a_level_and_says_so() -> None:
    for n, shown in ((10, 10), (11, 10), (30, 10)):
        errors = [c for c in commands(result(*[OVER] * n)) if c[0] == "error"]
        assert len(errors) == shown
        assert (f"and {n - 9} more" in errors[-1][2]) is (n > 10)


def test_gitlab_lists_what_is_not_kept() -> None:
    issues = json.loads(gitlab.render(result(*ALL)))
    assert [i["severity"] for i in issues] == ["major", "critical", "info", "major"]
    for issue in issues:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["location"]["path"] == "memtrace.toml"
        assert issue["location"]["lines"]["begin"] == 2
    assert len({i["fingerprint"] for i in issues}) == len(issues)
    assert json.loads(gitlab.render(result(OK))) == []
    assert json.loads(gitlab.render(result(trusted=False)))[0]["severity"] == "blocker"


def test_a_fingerprint_stays_when_numbers_and_pids_change() -> None:
    line = "process.gcc.heap.growths = 1"
    one, two = made(line, 2, "gcc (pid 7)"), made("\n\n" + line, 3, "gcc (pid 8)")
    prints = [json.loads(gitlab.render(result(v)))[0]["fingerprint"] for v in (one, two)]
    assert prints[0] == prints[1]
    other = made(line, 2, "gcc-12 (pid 7)")
    assert json.loads(gitlab.render(result(other)))[0]["fingerprint"] != prints[0]


def test_processes_of_one_name_have_fingerprints_of_their_own() -> None:
    line = "process.gcc.heap.growths = 1"
    several = [made(line, n, f"gcc (pid {n})") for n in (1, 2, 3)]
    prints = [i["fingerprint"] for i in json.loads(gitlab.render(result(*several)))]
    (run,) = json.loads(sarif.render(result(*several), "1"))["runs"]
    marks = [r["partialFingerprints"]["memtrace/v1"] for r in run["results"]]
    assert len(set(prints)) == len(set(marks)) == 2
    # The second is the second whether or not the first is kept.
    later = [made(line, 2, "gcc (pid 8)"), made(line, 9, "gcc (pid 9)")]
    again = [i["fingerprint"] for i in json.loads(gitlab.render(result(*later)))]
    assert again[1] == prints[0]


@pytest.mark.parametrize(
    "made_of",
    [result(), result(*ALL), result(*ALL, trusted=False), result(*ALL, lenient=True)],
    ids=["empty", "all", "untrusted", "lenient"],
)
def test_sarif_satisfies_its_schema(made_of: Result) -> None:
    value = json.loads(sarif.render(made_of, "1.2.3"))
    schema = json.loads((SCHEMAS / "sarif-2.1.0.json").read_text())
    jsonschema.validate(value, schema)
    (run,) = value["runs"]
    rules = [r["id"] for r in run["tool"]["driver"]["rules"]]
    assert all(rules[r["ruleIndex"]] == r["ruleId"] for r in run["results"])
    kept = [v for v in made_of.verdicts if v.ok is not True]
    assert len(run["results"]) == len(kept) + (not made_of.trusted)


def test_markdown_keeps_markup_text() -> None:
    shown = md.render(result(*ALL))
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(ALL)
    # Five cells each, whatever the names hold.
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
    outside = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", shown)  # of code spans
    assert not re.search(r"(?<!\\)[<`]", outside)
    assert "@root" not in outside


def test_every_format_renders_nothing_at_all() -> None:
    empty = Result("t.json", (), "unverified", False, False, ())
    for render in (text.render, as_json.render, junit.render, github.render, gitlab.render,
                   md.render):  # fmt: skip
        assert render(empty).endswith("\n")
