# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a check as SARIF 2.1.0: a rule per limit, a result for each that is not kept."""

from __future__ import annotations

import hashlib
import json
import os
from urllib.parse import quote

from memtrace.check.judge import Verdict
from memtrace.check.result import Result, identities, rule
from memtrace.report.lines import clean

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_TRUST = "trust"


def render(r: Result, version: str) -> str:
    """One log with one run.

    Args:
        r: the result.
        version: of memtrace.
    """
    rules: dict[str, dict[str, object]] = {}
    for v in r.verdicts:
        text = clean(v.limit.metric.meaning)
        rules.setdefault(rule(v), {
            "id": clean(rule(v)), "shortDescription": {"text": f"{clean(v.limit.name)}: {text}"},
            "defaultConfiguration": {"level": "error" if v.limit.gate else "note"},
        })  # fmt: skip
    rules[_TRUST] = {
        "id": _TRUST, "shortDescription": {"text": "the replayed map equals the kernel's"},
        "defaultConfiguration": {"level": "error"},
    }  # fmt: skip
    index = {name: i for i, name in enumerate(rules)}
    results = [
        _result(v, r, index, name)
        for v, name in zip(r.verdicts, identities(r.verdicts), strict=True)
        if v.ok is not True
    ]
    if not r.trusted:
        results.insert(0, {
            "ruleId": _TRUST, "ruleIndex": index[_TRUST], "level": "note" if r.lenient else "error",
            "message": {"text": clean(r.trust)}, "locations": _locations(r.trace, 0),
            "partialFingerprints": {"memtrace/v1": _print(_TRUST)},
        })  # fmt: skip
    driver = {
        "name": "memtrace", "version": version, "semanticVersion": version,
        "rules": list(rules.values()),
    }  # fmt: skip
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, ensure_ascii=True) + "\n"


def _result(v: Verdict, r: Result, index: dict[str, int], own: str) -> dict[str, object]:
    name = rule(v)
    level = "error" if v.limit.gate and not (r.lenient and v.ok is None) else "note"
    return {
        "ruleId": clean(name),
        "ruleIndex": index[name],
        "level": level,
        "message": {"text": clean(v.text)},
        "locations": _locations(v.limit.file, v.limit.line),
        "partialFingerprints": {"memtrace/v1": _print(own)},
    }


def _locations(file: str, line: int) -> list[dict[str, object]]:
    uri = quote(os.fsencode(file).replace(os.sep.encode(), b"/"))
    if uri.startswith("/"):
        uri = f"file://{uri}"
    where: dict[str, object] = {"artifactLocation": {"uri": uri}}
    if line:
        where["region"] = {"startLine": line}
    return [{"physicalLocation": where}]


def _print(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
