# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a check as JUnit XML: one case per limit."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from memtrace.check.judge import Verdict
from memtrace.check.result import Result, place
from memtrace.report.lines import clean

#: Characters that XML 1.0 does not allow, beside those that `clean` spells out.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(r: Result) -> str:
    """A `testsuites` document; advisory limits that are passed are `skipped`."""
    cases = [_case(v, r) for v in r.verdicts]
    if not r.trusted:
        case = ET.Element("testcase", classname="memtrace", name="trust")
        kind = "skipped" if r.lenient else "error"
        ET.SubElement(case, kind, message=_text(r.trust))
        cases.append(case)
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(c.find("failure") is not None for c in cases)),
        "errors": str(sum(c.find("error") is not None for c in cases)),
        "skipped": str(sum(c.find("skipped") is not None for c in cases)),
    }
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": _text(f"memtrace {r.program}"), **counts})
    suite.extend(cases)
    ET.indent(suites)
    text = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _case(v: Verdict, r: Result) -> ET.Element:
    name = v.title
    if v.baseline is not None:
        name += " against the baseline"
    case = ET.Element("testcase", classname="memtrace", name=_text(name))
    if v.limit.line:
        case.set("file", _text(v.limit.file))
        case.set("line", str(v.limit.line))
    if v.ok is True:
        return case
    known = v.ok is False
    kind = "failure" if known else "error"
    if not v.limit.gate or (r.lenient and not known):
        kind = "skipped"
    below = ET.SubElement(case, kind, message=_text(v.text))
    if kind != "skipped":
        below.set("type", "budget" if v.baseline is None else "baseline")
        records = " ".join(f"#{seq}" for seq in v.evidence)
        below.text = _text(f"{place(v)}  {records}".strip())
    return case


def _text(text: str) -> str:
    return _ILLEGAL.sub("?", clean(text))
