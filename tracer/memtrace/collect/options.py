# SPDX-License-Identifier: GPL-2.0-or-later
"""How to record: the values behind `memtrace run`'s options."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from memtrace.trace.errors import UsageError
from memtrace.trace.records import Manner
from memtrace.trace.sizes import parse_time

#: Snapshots by default: at most ten a second and one in 256 calls, so that they stay a small part
#: of the trace.
DEFAULT_EVERY_NS = 100_000_000
DEFAULT_MIN_CALLS = 256
NEVER = 1 << 62

_PID_DIGITS = 10  # pid_t is an int


@dataclass(frozen=True, slots=True)
class Options:
    """`every_ns`, `min_calls`, `every_calls`: periodic snapshots by time and by number of calls.
    `evidence`: also record callers and chunk headers. `seccomp`: stop for memory calls only.
    `redact`: keep arguments, environment and names out of the trace (`redact.py`). `heap_walk`:
    also read what is in the heaps of glibc's malloc (`walking.py`).
    """

    every_ns: int = DEFAULT_EVERY_NS
    min_calls: int = DEFAULT_MIN_CALLS
    every_calls: int = 0
    evidence: bool = True
    seccomp: bool = True
    redact: bool = False
    heap_walk: bool = False

    def manner(self) -> Manner:
        """What the trace's header says of them.

        >>> Options(every_ns=50_000_000, min_calls=1).manner().snapshots
        'every=50ms'
        """
        return Manner(
            evidence=self.evidence,
            snapshots=self._snapshots(),
            heap_walk=self.heap_walk,
            redact=self.redact,
        )

    def _snapshots(self) -> str:
        if self.every_calls:
            return f"every={self.every_calls}"
        if self.every_ns >= NEVER:
            return "off"
        if (self.every_ns, self.min_calls) == (DEFAULT_EVERY_NS, DEFAULT_MIN_CALLS):
            return "default"
        return f"every={_time(self.every_ns)}"


def _time(ns: int) -> str:
    for unit, name in ((10**9, "s"), (10**6, "ms"), (1000, "us")):
        if ns % unit == 0:
            return f"{ns // unit}{name}"
    return f"{ns}ns"


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


def parse_for(text: str) -> int:
    """The nanoseconds of `--for 30s`.

    Raises:
        UsageError: no time, none at all, or longer than anybody can wait.

    >>> parse_for("30s"), parse_for("1.5m")
    (30000000000, 90000000000)
    """
    try:
        ns = parse_time(text)
    except ValueError:
        bare = text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0
        hint = f"--for {text}s" if bare else "--for 30s, or --for 10m"
        raise UsageError(f"--for cannot be {text[:40]!r}: it takes a time", hint=hint) from None
    if ns <= 0:
        raise UsageError(f"--for cannot be {text[:40]!r}: it is no time at all", hint="--for 30s")
    if ns >= NEVER:
        raise UsageError(
            f"--for cannot be {text[:40]!r}: that is longer than a century",
            hint="leave --for out, and end the recording with Ctrl-C",
        )
    return ns


def parse_pid(text: str) -> int:
    """The number on the command line that stands for a process or one of its threads.

    Raises:
        UsageError: no number that a process can have.

    >>> parse_pid("77")
    77
    """
    digits = text.isascii() and text.isdigit()
    if digits and len(text) <= _PID_DIGITS and int(text) > 0:
        return int(text)
    named = text.isprintable() and not digits and not text.startswith("-")
    hint = f"pgrep -a {shlex.quote(text[:40])}" if named else "ps -e"
    raise UsageError(f"{text[:40]!r} is no process id", hint=hint)
