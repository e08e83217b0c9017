# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a check for programs."""

from __future__ import annotations

import json

from memtrace.check.judge import Verdict
from memtrace.check.result import Result

FORMAT = "memtrace-check/1"


def render(r: Result) -> str:
    """One object; absent knowledge is null."""
    value = {
        "format": FORMAT,
        "trace": r.trace,
        "program": r.program,
        "status": r.status,
        "summary": r.summary,
        "trust": {"trusted": r.trusted, "text": r.trust},
        "notes": list(r.notes),
        "limits": [_limit(v) for v in r.verdicts],
    }
    return json.dumps(value, indent=2, ensure_ascii=True) + "\n"


def _limit(v: Verdict) -> dict[str, object]:
    x = v.limit
    return {
        "metric": x.metric.name,
        "unit": x.metric.unit,
        "scope": x.scope,
        "process": x.glob or None,
        "who": v.who or None,
        "measured": v.measured,
        "max": x.max,
        "min": x.min,
        "tolerance": {"relative": x.tolerance.relative, "absolute": x.tolerance.absolute},
        "baseline": v.baseline,
        "ok": v.ok,
        "gate": x.gate,
        "evidence": list(v.evidence),
        "file": x.file,
        "line": x.line or None,
        "text": v.text,
    }
