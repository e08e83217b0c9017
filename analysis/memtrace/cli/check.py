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
from memtrace.trace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memtrace.check.budget import Limit
    from memtrace.check.judge import Verdict
    from memtrace.check.result import Result
    from memtrace.report.model import Report

FORMATS = ("text", "json", "junit", "github", "gitlab", "sarif", "md")


def _tolerance(_c: click.Context, _p: click.Parameter, value: str) -> float:
    from memtrace.check.budget import parse_percent

    return parse_percent(value, "--tolerance")


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
              help="By how much a baseline's number may be exceeded; sizes always by 16 KiB.",
              )  # fmt: skip
@click.option("--force", is_flag=True, help="Compare although malloc or its settings differ.")
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
    tolerance: float,
    force: bool,
    allow_incomplete: bool,
    form: str,
    output: str | None,
) -> int:
    """Hold TRACE against a budget, a baseline, or both.

    A budget limits metrics of the report, one a line; a baseline is an earlier run.
    """
    from memtrace.report.build import read

    for name in (output, update_baseline):
        if name is not None and same_file(name, trace):
            raise UsageError(
                f"the result would overwrite {trace}", hint=f"memtrace check {quote(trace)}"
            )
    limits = _limits(budget, needed=baseline is None and update_baseline is None)
    with reading(trace):
        report = read(trace)
    verdicts: list[Verdict] = []
    notes: list[str] = []
    if baseline is not None:
        verdicts, notes = _against(report, trace, baseline, limits, tolerance, force=force)
    result = judged(report, trace, limits, verdicts, notes, lenient=allow_incomplete)
    if update_baseline is not None:
        _update(report, result, trace, update_baseline)
    if verdicts or limits:
        _write(result, form, output)
    return result.status


def _limits(budget: str | None, *, needed: bool) -> list[Limit]:
    from memtrace.check.locate import NAME, find, read

    if budget is not None:
        return read(Path(budget), budget, alone=needed)
    path = find(Path.cwd())
    if path is not None:
        return read(path, os.path.relpath(path), alone=needed)
    if not needed:
        return []
    raise UsageError(
        "there is no budget: no memtrace.toml and no [tool.memtrace.budget] of a pyproject.toml "
        "here or above",
        hint=f"printf '[budget]\\nheap.peak = \"2 MiB\"\\n' > {NAME}",
    )


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
    from memtrace.check.result import Result
    from memtrace.report.lines import program

    first = next(iter(report.processes), None)
    argv = first.argv if first is not None else report.argv
    return Result(
        trace=trace,
        program=program(argv[0]) if argv else "no program",
        trust=report.trust,
        trusted=report.exactness == "exact",
        lenient=lenient,
        verdicts=(*judge(report, limits), *more),
        notes=tuple(notes),
    )


def _against(
    report: Report, trace: str, path: str, limits: list[Limit], tolerance: float, *, force: bool
) -> tuple[list[Verdict], list[str]]:
    """What became of a baseline's numbers, and what makes them hard to compare."""
    from memtrace.check import baseline as base
    from memtrace.report.build import read

    lines: dict[tuple[str, str], int] = {}
    try:
        data = Path(path).read_bytes() if base.looks_like(_head(path)) else None
    except OSError as e:
        raise UsageError(
            f"cannot read the baseline {path}: {(e.strerror or str(e)).lower()}",
            hint=f"memtrace check {quote(trace)} --update-baseline {quote(path)}",
        ) from None
    if data is None:
        earlier = read(path)
        if earlier.exactness != "exact":
            warn(f"the baseline {path} is not to be trusted: {earlier.trust}")
        old = base.of_report(earlier)
    else:
        old, lines = base.decode(data, path)
    apart = base.differences(old, base.of_report(report))
    if apart and not force:
        raise UsageError(
            f"{path} is no baseline of this trace: {'; '.join(apart)}",
            hint=f"memtrace check {quote(trace)} --baseline {quote(path)} --force",
        )
    return base.compare(report, old, limits, tolerance, (path, lines)), apart


def _head(path: str) -> bytes:
    with open(path, "rb") as f:
        return f.read(64)


def _update(report: Report, result: Result, trace: str, path: str) -> None:
    from memtrace.check import baseline as base

    if not result.trusted and not result.lenient:
        raise UsageError(
            f"{trace} is not to be trusted and makes no baseline: {result.trust}",
            hint=f"memtrace verify {quote(trace)}",
        )
    write_file(path, [base.encode(base.of_report(report)).encode()])


def _write(result: Result, form: str, output: str | None) -> None:
    color = coloured(sys.stdout if output is None else None)
    data = rendered(result, form, color=color).encode("utf-8", "replace")
    if output is None:
        click.echo(data, nl=False)
    else:
        write_file(output, [data])
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if form == "github" and summary:
        with open(summary, "ab") as f:
            f.write(rendered(result, "md").encode("utf-8", "replace"))


def rendered(result: Result, form: str, *, color: bool = False) -> str:
    """The result in one of `FORMATS`; text may have ANSI colours."""
    if form == "text":
        from memtrace.check.formats import text

        return text.render(result, color=color)
    from memtrace.check.formats import github, gitlab, json, junit, md, sarif
    from memtrace.cli.main import version

    if form == "sarif":
        return sarif.render(result, version())
    renders = {
        "json": json.render, "junit": junit.render, "github": github.render,
        "gitlab": gitlab.render, "md": md.render,
    }  # fmt: skip
    return renders[form](result)
