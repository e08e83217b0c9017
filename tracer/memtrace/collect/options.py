# SPDX-License-Identifier: GPL-2.0-or-later
"""How to record: the values behind `memtrace run`'s options."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.trace.errors import UsageError
from memtrace.trace.sizes import parse_time

#: Snapshots by default: at most ten a second and one in 256 calls, so that they stay a small part
#: of the trace.
DEFAULT_EVERY_NS = 100_000_000
DEFAULT_MIN_CALLS = 256
NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Options:
    """`every_ns`, `min_calls`, `every_calls`: periodic snapshots by time and by number of calls.
    `evidence`: also record callers and chunk headers. `seccomp`: stop for memory calls only."""

    every_ns: int = DEFAULT_EVERY_NS
    min_calls: int = DEFAULT_MIN_CALLS
    every_calls: int = 0
    evidence: bool = True
    seccomp: bool = True


def parse_snapshots(text: str | None) -> dict[str, int]:
    """The Options fields for `--snapshots every=100ms|every=N|off`.

    Raises:
        UsageError: the text is none of these.

    >>> parse_snapshots("every=100ms"), parse_snapshots("every=64")
    ({'every_ns': 100000000, 'min_calls': 1}, {'every_calls': 64})
    """
    if text is None:
        return {}
    if text == "off":
        return {"every_ns": NEVER}
    what, _, value = text.partition("=")
    if what == "every":
        try:
            if value.isdigit() and int(value) > 0:
                return {"every_calls": int(value)}
            ns = parse_time(value)
        except ValueError:
            ns = 0
        if ns > 0:
            return {"every_ns": ns, "min_calls": 1}
    raise UsageError(
        f"--snapshots cannot be {text!r}",
        hint="--snapshots every=100ms, --snapshots every=1000 (calls) or --snapshots off",
    )
