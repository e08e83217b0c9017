# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the numbers of two runs can be compared: of the same programs, set alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import join

from memtrace.check.baseline import Baseline, Ran
from memtrace.report.lines import clean


def differences(old: Baseline, new: Baseline) -> list[str]:
    """What makes the numbers of both incomparable, one sentence each."""
    return list(_differences(old, new))


def _differences(old: Baseline, new: Baseline) -> Iterator[str]:
    if old.machine != new.machine:
        yield f"the machine is {_named(new.machine)}, and was {_named(old.machine)}"
    if old.page_size != new.page_size:
        yield f"a page has {new.page_size} bytes, and had {old.page_size}"
    if old.redacted or new.redacted:
        which = "both are" if old.redacted and new.redacted else (
            "it is" if old.redacted else "this trace is"
        )  # fmt: skip
        yield f"{which} redacted, so that nothing tells whether it is the same program"
        return
    if [x.program for x in old.programs] != [x.program for x in new.programs]:
        yield f"the program is {_chain(new.programs)}, and was {_chain(old.programs)}"
        return
    for before, now in zip(old.programs, new.programs, strict=True):
        name = "" if len(new.programs) == 1 else f"of {clean(now.program)} "
        yield from (name + text for text in _of_program(before, now))


def _chain(programs: Sequence[Ran]) -> str:
    return " → ".join(clean(x.program) for x in programs) or "none"


def _named(machine: str) -> str:
    return clean(machine) or "not known"


def _of_program(old: Ran, new: Ran) -> Iterator[str]:
    if old.exe != new.exe:
        yield f"the file is {clean(new.exe)}, and was {clean(old.exe)}"
    if old.argv != new.argv:
        yield f"the command is `{_command(new)}`, and was `{_command(old)}`"
    if old.abi != new.abi:
        yield f"the ABI is {new.abi or 'native'}, and was {old.abi or 'native'}"
    if old.allocator != new.allocator:
        yield f"malloc is {clean(new.allocator)}'s, and was {clean(old.allocator)}'s"
    if old.environment is None or new.environment is None:
        if old.environment is not new.environment:
            yield f"the environment is not known of {'now' if new.environment is None else 'then'}"
        return
    for name in sorted(old.environment.keys() | new.environment.keys()):
        before, now = old.environment.get(name), new.environment.get(name)
        if before != now:
            yield f"{clean(name)} is {_shown(now)}, and was {_shown(before)}"


def _command(x: Ran) -> str:
    text = clean(join(x.argv))
    return text if len(text) <= 200 else f"{text[:199]}…"


def _shown(value: str | None) -> str:
    return "not set" if value is None else f"'{clean(value)}'"
