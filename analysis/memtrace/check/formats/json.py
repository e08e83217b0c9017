# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a check for programs."""

from __future__ import annotations

import json

from memtrace.check.amounts import Tolerance
from memtrace.check.judge import Verdict
from memtrace.check.result import Result

FORMAT = "memtrace-check/1"


def render(r: Result) -> str:
    """One object; absent knowledge is null."""
    value = {
        "format": FORMAT,
        "trace": r.trace,
        "program": r.programs[0] if r.programs else None,
        "programs": list(r.programs),
        "status": r.status,
        "summary": r.summary,
        "trust": {"trusted": r.trusted, "text": r.trust},
        "notes": list(r.notes),
        "limits": [_limit(v) for v in r.verdicts],
    }
    return json.dumps(value, indent=2, ensure_ascii=True) + "\n"


def _limit(v: Verdict) -> dict[str, object]:
    x, allowed = v.limit, v.limit.tolerance or Tolerance()
    return {
        "metric": x.metric.name,
        "counts_only": x.metric.only or None,
        "unit": x.metric.unit,
        "scope": x.scope,
        "process": x.glob or None,
        "who": v.who or None,
        "measured": v.measured,
        "max": x.max,
        "min": x.min,
        "tolerance": {
            "relative": float(allowed.relative),
            "absolute": allowed.absolute,
        },
        "baseline": v.baseline,
        "ok": v.ok,
        "gate": x.gate,
        "evidence": list(v.evidence),
        "file": x.file,
        "line": x.line or None,
        "text": v.text,
    }
