# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a check as workflow commands of GitHub Actions: annotations at the budget's lines.

GitHub shows at most 10 annotations of a level for a step and drops the rest.
"""

from __future__ import annotations

from memtrace.check.judge import Verdict
from memtrace.check.result import Result
from memtrace.report.lines import clean

#: Of each level.
MOST = 10


def render(r: Result) -> str:
    """The lines that the runner reads from stdout; what it does not show is in the job summary."""
    errors = [_command("error", v) for v in [*r.failed, *r.unknown]]
    if not r.trusted and not r.lenient:
        errors.insert(0, f"::error title=memtrace::{_data(f'not to be trusted: {r.trust}')}")
    told = {id(v) for v in [*r.failed, *r.unknown]}
    warnings = [
        _command("warning", v) for v in r.verdicts if v.ok is not True and id(v) not in told
    ]
    if not r.trusted and r.lenient:
        warnings.insert(0, f"::warning title=memtrace::{_data(f'not to be trusted: {r.trust}')}")
    lines = _capped(errors, "error") + _capped(warnings, "warning")
    lines += [f"::notice title=memtrace::{_data(note)}" for note in r.notes]
    lines += [f"::notice title=memtrace::{_data(f'{r.program}: {r.summary}')}"]
    return "\n".join(lines) + "\n"


def _capped(commands: list[str], level: str) -> list[str]:
    if len(commands) <= MOST:
        return commands
    more = len(commands) - MOST + 1
    last = f"::{level} title=memtrace::and {more} more: see the job summary"
    return [*commands[: MOST - 1], last]


def _command(level: str, v: Verdict) -> str:
    properties = {"title": f"memtrace {v.limit.name}"}
    if v.limit.line:
        properties = {"file": v.limit.file, "line": str(v.limit.line), **properties}
    text = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    records = "".join(f" #{seq}" for seq in v.evidence[:5])
    return f"::{level} {text}::{_data(v.text + (f' (records{records})' if records else ''))}"


def _data(text: str) -> str:
    """As the runner's toolkit escapes a message (`escapeData`)."""
    return clean(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """And a property (`escapeProperty`)."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
