# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace doctor`: can this machine trace, can this process be traced, and what to do if not."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from memtrace.cli.options import coloured, common, quiet
from memtrace.report.lines import clean, paragraph

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memtrace.collect.doctor import Answer, Row

_REFUSED = 1
_MARKS: dict[Answer, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "no": ("no", "red"),
    "unknown": ("?", "yellow"),
    "note": ("-", ""),
}
_NAME = 16
_INDENT = " " * (6 + _NAME)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 it works, as far as can be told before; 1 it would be refused; 2 usage.",
)
@click.argument("pid", metavar="[PID]", required=False)
@common
def command(pid: str | None) -> int:
    """Tell whether programs can be traced here, or the process PID, and what to do if not.

    Without PID: whether `run` works, by tracing a child of its own for one system call, and which
    processes `attach` may have. With PID: whether `attach` would work on that process, check by
    check, and what else matters about it. The process is only looked at, never stopped. With -q
    the last word alone.
    """
    from memtrace.collect import doctor
    from memtrace.collect.options import parse_pid

    number = None if pid is None else parse_pid(pid)
    machine = doctor.examine()
    parts = [("this machine", doctor.machine_rows(machine))]
    if number is None:
        parts.append(("which processes", doctor.reach_rows(machine)))
        parts.append(("engines", doctor.engine_rows(machine)))
        answer, sentence, remedy = doctor.machine_decision(machine)
    else:
        target = doctor.look_at(number)
        parts.append((f"process {target.facts.pid}", doctor.target_rows(target)))
        parts.append(("about it", doctor.fact_rows(target)))
        answer, sentence, remedy = doctor.decision(machine, target)
    if quiet():
        parts.clear()
    width = min(shutil.get_terminal_size().columns, 80)
    for line in render(parts, (answer, sentence, remedy), max(width, 60)):
        click.echo(line, color=coloured(sys.stdout))
    return _REFUSED if answer == "no" else 0


def render(
    parts: Sequence[tuple[str, Sequence[Row]]], decision: tuple[Answer, str, str], width: int
) -> Iterator[str]:
    """The lines, styled: each part's rows with the remedy below, then the decision."""
    for title, rows in parts:
        if not rows:
            continue
        yield click.style(title, bold=True)
        for row in rows:
            mark, color = _MARKS[row.answer]
            head = f"  {mark:<4}{clean(row.name):<{_NAME}}"
            first, *rest = paragraph(row.text, width, head, _INDENT)
            yield first.replace(mark, click.style(mark, fg=color or None), 1)
            yield from rest
            if row.remedy:
                yield from _try(row.remedy, _INDENT)
        yield ""
    answer, sentence, remedy = decision
    color = _MARKS[answer][1]
    for line in paragraph(sentence, width):
        yield click.style(line, fg=color or None)
    if remedy:
        yield from _try(remedy, "  ")


def _try(remedy: str, indent: str) -> Iterator[str]:
    # Never wrapped: it is to be copied.
    yield f"{indent}try: {clean(remedy)}"
