# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace explain`: what a word of the report means."""

from __future__ import annotations

import click

from memtrace.cli.options import common
from memtrace.findings import pages
from memtrace.report import metrics
from memtrace.report.lines import clean, fit, paragraph
from memtrace.trace.errors import UsageError

_WIDTH = 80


@click.command(short_help="What a finding, a kind, a verdict or a reason means.")
@click.argument("name", required=False, metavar="[NAME]")
@common
def command(name: str | None) -> None:
    """Say what NAME means: a finding (MT101), a kind, an evidence, a verdict, a reason, a cause, an
    allocator, a metric of budgets (heap.peak), or the page malloc-and-the-kernel. Without NAME:
    everything there is.
    """
    if name is None:
        click.echo(_everything(), nl=False)
        return
    text = pages.explain(name) or metrics.explained(name)
    if text is None:
        near = pages.nearest(name, metrics.names())
        hint = f"memtrace explain {near[0]}" if near else "memtrace explain"
        also = f" (did you mean {', '.join(near)}?)" if near else ""
        raise UsageError(f"nothing is known of {fit(name, 40)!r}{also}", hint=hint)
    click.echo(text.rstrip("\n"))


def _everything() -> str:
    out = ["What can be explained: memtrace explain NAME", ""]
    *groups, article = pages.index()
    for heading, names in (*groups, ("metric, for budgets", [*metrics.names()]), article):
        out.append(heading)
        if heading == "findings":
            out += [f"  {clean(n)}" for n in names]
        else:
            out += paragraph("  ".join(names), _WIDTH, "  ")
        out.append("")
    return "\n".join(out[:-1]) + "\n"
