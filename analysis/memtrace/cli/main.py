# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `memtrace`: its verbs, each in a file of its own that is imported when it is used."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import click

from memtrace.cli.exits import Debug, exit_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem

#: Verb -> (module, its line in --help). The module's `command` is the click command.
VERBS = {
    "run": ("memtrace.cli.run", "Run a program and record its address space."),
    "attach": ("memtrace.cli.attach", "Record a running process, then let it run on."),
    "report": ("memtrace.cli.report", "What a trace shows: heap, regions, threshold."),
    "maps": ("memtrace.cli.maps", "The map of a process at a moment."),
    "diff": ("memtrace.cli.diff", "What changed between two moments, or two traces."),
    "events": ("memtrace.cli.events", "Every recorded call, decoded, one line each."),
    "verify": ("memtrace.cli.verify", "Hold the replayed maps against the kernel's."),
    "check": ("memtrace.cli.check", "Hold a trace against a budget: a gate for CI."),
    "export": ("memtrace.cli.export", "A trace for other programs: Perfetto, tables."),
    "import": ("memtrace.cli.importing", "A strace log as a trace."),
    "explain": ("memtrace.cli.explain", "What a finding, a kind, a verdict or a reason means."),
    "doctor": ("memtrace.cli.doctor", "Whether tracing works here, and what to do if not."),
    "completion": ("memtrace.cli.completion", "What the shell needs to complete memtrace's words."),
}


def version() -> str:
    """This memtrace's version; uninstalled checkouts say so."""
    from importlib import metadata

    try:
        return metadata.version("memtrace-linux")
    except metadata.PackageNotFoundError:
        return "0 (not installed)"


class Verbs(click.Group):
    """The group: names and help lines are known without importing any verb."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The verbs, in the order of their use."""
        return list(VERBS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(VERBS[cmd_name][0]).command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """The verbs' names and lines, or the options."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        from click.shell_completion import CompletionItem

        return [
            CompletionItem(name, help=line)
            for name, (_, line) in VERBS.items()
            if name.startswith(incomplete)
        ]

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs' lines of --help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


def _version(ctx: click.Context, _p: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click
    if value and not ctx.resilient_parsing:
        click.echo(f"memtrace {version()}")
        ctx.exit()


def _debug(_c: click.Context, _p: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click
    Debug.wanted = Debug.wanted or value


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    no_args_is_help=False,
    epilog="First steps: memtrace run ./prog, then memtrace report trace.json",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Version."
)
@click.option(
    "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_debug, help="Tracebacks."
)
def cli() -> None:
    """Record every change a program makes to its address space, and explain it."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit status."""
    Debug.wanted = False

    def command() -> object:
        with cli.make_context("memtrace", list(arguments)) as context:
            return cli.invoke(context)

    # A pass over a trace makes millions of values that die young, and no cycles.
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)
    try:
        return exit_status(command)
    finally:
        gc.set_threshold(*before)


def _standard_streams() -> None:
    """Take descriptors 0 to 2 where they are closed, lest a trace gets such a number. A program
    that is run still finds them closed; what is written to stdout still fails.
    """
    while (fd := os.open(os.devnull, os.O_RDONLY)) <= 2:  # close-on-exec
        pass
    os.close(fd)
    # The interpreter has None where it found a descriptor closed.
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def main() -> NoReturn:
    """Entry point of the command."""
    _standard_streams()
    if "_MEMTRACE_COMPLETE" in os.environ:  # click's shell completion, and nothing else
        from memtrace.cli.completion import serve

        sys.exit(serve(os.environ["_MEMTRACE_COMPLETE"]))
    sys.exit(run(sys.argv[1:]))
