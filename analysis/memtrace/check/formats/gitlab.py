# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a check as a Code Quality report of GitLab: what is not kept, nothing else."""

from __future__ import annotations

import hashlib
import json

from memtrace.check.judge import Verdict
from memtrace.check.result import Result, identities, rule
from memtrace.report.lines import clean


def render(r: Result) -> str:
    """A list of issues; GitLab tells new ones from old by `fingerprint`."""
    names = identities(r.verdicts)
    issues = [
        _issue(v, r, name) for v, name in zip(r.verdicts, names, strict=True) if v.ok is not True
    ]
    if not r.trusted:
        severity = "info" if r.lenient else "blocker"
        issues.insert(0, _entry(r.trust, ("trust", "trust"), severity, (r.trace, 1)))
    return json.dumps(issues, indent=2, ensure_ascii=True) + "\n"


def _issue(v: Verdict, r: Result, name: str) -> dict[str, object]:
    severity = "major" if v.ok is False else "critical"
    if not v.limit.gate or (r.lenient and v.ok is None):
        severity = "info"
    return _entry(v.text, (rule(v), name), severity, (v.limit.file, v.limit.line or 1))


def _entry(
    text: str, names: tuple[str, str], severity: str, at: tuple[str, int]
) -> dict[str, object]:
    """An issue; `names`: of its rule, and its own."""
    check, own = names
    return {
        "description": f"memtrace: {clean(text)}",
        "check_name": f"memtrace/{clean(check)}",
        "fingerprint": hashlib.sha256(own.encode("utf-8", "surrogateescape")).hexdigest(),
        "severity": severity,
        "location": {"path": clean(at[0]), "lines": {"begin": at[1]}},
    }
