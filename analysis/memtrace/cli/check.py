# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace check`: a trace held against a budget and a baseline, as a gate for CI."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from memtrace.cli.options import coloured, common, trace_argument, warn
from memtrace.cli.output import same_file, write_file
from memtrace.cli.progress import reading
from memtrace.trace.errors import TraceFormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memtrace.check.amounts import Tolerance
    from memtrace.check.budget import Limit
    from memtrace.check.judge import Verdict
    from memtrace.check.result import Result
    from memtrace.report.model import Report

FORMATS = ("text", "json", "junit", "github", "gitlab", "sarif", "md")
#: Those that point to files of a repository.
_POINTING = ("github", "gitlab", "sarif")


def _tolerance(_c: click.Context, _p: click.Parameter, value: str) -> Tolerance:
    from memtrace.check.amounts import Tolerance, parse_percent

    return Tolerance(relative=parse_percent(value, "--tolerance"))


@click.command(
    short_help="Hold a trace against a budget: a gate for CI.",
    epilog="Exit status: 0 within budget, 1 over it, 2 usage, 3 the trace is unreadable, "
    "incomplete, drifted or unverified, or does not tell what is limited.",
)
@trace_argument
@click.option("--budget", metavar="FILE",
              help="The budget. Default: memtrace.toml, or [tool.memtrace.budget] of "
              "pyproject.toml, from the working directory upwards.")  # fmt: skip
@click.option("--baseline", metavar="FILE",
              help="Numbers not to exceed: a trace, or what --update-baseline wrote.")  # fmt: skip
@click.option("--update-baseline", metavar="FILE", help="Write this trace's numbers to FILE.")
@click.option("--tolerance", default="5%", show_default=True, metavar="PERCENT",
              callback=_tolerance,
              help="By how much a baseline's number may be exceeded, where the budget does not "
              "say; sizes always by 16 KiB.",
              )  # fmt: skip
@click.option("--force", is_flag=True, help="Compare although program, malloc or settings differ.")
@click.option("--allow-incomplete", is_flag=True,
              help="Judge what the trace tells, although it is not to be trusted.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True,
              help="To read, or for a CI system.")  # fmt: skip
@click.option("-o", "--output", metavar="FILE", help="Write it to FILE.")
@common
def command(  # noqa: PLR0913 - one for each option
    *,
    trace: str,
    budget: str | None,
    baseline: str | None,
    update_baseline: str | None,
    tolerance: Tolerance,
    force: bool,
    allow_incomplete: bool,
    form: str,
    output: str | None,
) -> int:
    """Hold TRACE against a budget, a baseline, or both.

    A budget limits metrics of the report, one a line; a baseline is an earlier run.
    """
    import msgspec

    from memtrace.cli.baseline import Loose, against
    from memtrace.report.build import read

    named = _budget(budget, needed=baseline is None and update_baseline is None)
    read_too = None if named is None else os.path.relpath(named)
    _spare(trace, (trace, read_too, baseline), output)
    _spare(trace, (trace, read_too), update_baseline)
    if output and update_baseline and os.path.realpath(output) == os.path.realpath(update_baseline):
        raise UsageError(
            f"-o and --update-baseline would both write {output}",
            hint=f"memtrace check {quote(trace)} --update-baseline {quote(update_baseline)}",
        )
    limits = _limits(named, shown=budget, alone=baseline is None and update_baseline is None)
    with reading(trace):
        report = read(trace)
        rows = list(report.processes)  # not made anew each time they are asked for
        report = msgspec.structs.replace(report, processes=rows)
    verdicts: list[Verdict] = []
    notes: list[str] = []
    if baseline is not None:
        loose = Loose(force=force, incomplete=allow_incomplete)
        verdicts, notes = against(report, trace, baseline, limits, tolerance, loose)
    result = judged(report, trace, limits, verdicts, notes, lenient=allow_incomplete)
    if update_baseline is not None:
        _update(report, result, trace, update_baseline)
    if verdicts or limits:
        _write(result, form, output)
    return result.status


def _budget(budget: str | None, *, needed: bool) -> Path | None:
    """The file that holds the budget; None: there is none."""
    from memtrace.check.locate import NAME, find

    path = find(Path.cwd()) if budget is None else Path(budget)
    if path is not None or not needed:
        return path
    raise UsageError(
        "there is no budget: no memtrace.toml and no [tool.memtrace.budget] of a pyproject.toml "
        "here or above",
        hint=f"printf '[budget]\\nheap.peak = \"2 MiB\"\\n' > {NAME}",
    )


def _spare(trace: str, read: Sequence[str | None], written: str | None) -> None:
    """What is read is not written over."""
    for name in read:
        if name is not None and written is not None and same_file(written, name):
            raise UsageError(
                f"the result would overwrite {name}", hint=f"memtrace check {quote(trace)}"
            )


def _limits(path: Path | None, *, shown: str | None, alone: bool) -> list[Limit]:
    from memtrace.check.locate import read

    return [] if path is None else read(path, shown or os.path.relpath(path), alone=alone)


def judged(
    report: Report,
    trace: str,
    limits: Sequence[Limit],
    more: Sequence[Verdict] = (),
    notes: Sequence[str] = (),
    *,
    lenient: bool,
) -> Result:
    """A report held against limits; `more` verdicts come after theirs."""
    from memtrace.check.judge import judge
    from memtrace.check.measure import first_process
    from memtrace.check.result import Result
    from memtrace.report.lines import program

    first = tuple(p.program for p in first_process(list(report.processes)))
    return Result(
        trace=trace,
        programs=first or tuple(program(name) for name in report.argv[:1]),
        trust=report.trust,
        trusted=report.exactness == "exact",
        lenient=lenient,
        verdicts=(*judge(report, limits), *more),
        notes=tuple(notes),
    )


def _update(report: Report, result: Result, trace: str, path: str) -> None:
    from memtrace.check.baseline import of_report, untold
    from memtrace.check.stored import encode

    if not result.trusted and not result.lenient:
        raise TraceFormatError(
            f"{trace} is not to be trusted and makes no baseline: {result.trust}",
            hint=f"memtrace verify {quote(trace)}",
        )
    made = of_report(report)
    write_file(path, [encode(made).encode()])
    if None in made.metrics.values():
        warn(f"{path} does not hold what the trace does not tell: {untold(made)}")
    if not result.trusted:
        warn(f"{path} now holds numbers of a trace that is not to be trusted")
    if result.failed:
        limits = "a limit" if len(result.failed) == 1 else f"{len(result.failed)} limits"
        warn(f"{path} now holds numbers that exceed {limits}")


def _write(result: Result, form: str, output: str | None) -> None:
    color = coloured(sys.stdout if output is None else None)
    data = rendered(result, form, color=color).encode("utf-8", "replace")
    if output is None:
        click.echo(data, nl=False)
    else:
        write_file(output, [data])
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if form == "github" and summary:
        try:
            with open(summary, "ab") as f:
                f.write(rendered(result, "md").encode("utf-8", "replace"))
        except OSError as e:
            warn(f"no summary of the job: cannot write {summary}: {(e.strerror or str(e)).lower()}")


def rendered(result: Result, form: str, *, color: bool = False) -> str:
    """The result in one of `FORMATS`; text may have ANSI colours."""
    if form == "text":
        from memtrace.check.formats import text

        return text.render(result, color=color)
    from memtrace.check.formats import github, gitlab, json, junit, md, sarif
    from memtrace.check.repository import placed
    from memtrace.cli.main import version

    if form in _POINTING:
        result = placed(result, os.environ)
    if form == "sarif":
        return sarif.render(result, version())
    renders = {
        "json": json.render, "junit": junit.render, "github": github.render,
        "gitlab": gitlab.render, "md": md.render,
    }  # fmt: skip
    return renders[form](result)
