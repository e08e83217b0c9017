# SPDX-License-Identifier: GPL-2.0-or-later
"""What `run` and `attach` have in common: how to record, and what was recorded."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, TypeVar

import click

from memtrace.trace.errors import TargetError, UsageError
from memtrace.trace.sizes import PAGE, format_size
from memtrace.trace.stream import REMOVED

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from memtrace.collect.writing import Result

_F = TypeVar("_F", bound="Callable[..., Any]")

#: The engines, and the verbs that have them; `auto` is the first.
_ENGINES = {
    "ptrace": ("run", "attach"),
    "strace": ("run", "attach"),
    "python-ptrace": ("run",),
}
_LATER_ENGINES = ("bpf", "perf", "poll")
_NAME = 40  # columns


def later(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """Refuse an option that has its place, but not in this version."""
    if value:
        raise UsageError(
            f"{param.opts[0]} is not in this version", hint=f"{ctx.command_path} --help"
        )


def _engine(ctx: click.Context, _: click.Parameter, value: str) -> str:
    """The engine's name; that of the one that `auto` stands for."""
    verb = ctx.info_name or ""
    hint = f"{ctx.command_path} --engine ptrace ..."
    if value == "auto":
        return next(iter(_ENGINES))
    if value in _LATER_ENGINES:
        raise UsageError(f"the {value} engine is not in this version", hint=hint)
    if value not in _ENGINES:
        raise UsageError(f"there is no engine {value!r}", hint=hint)
    if verb not in _ENGINES[value]:
        raise UsageError(f"the {value} engine cannot {verb}", hint=hint)
    return value


def can_walk(verb: str, engine: str) -> bool:
    """True for `--heap-walk` under an engine that can.

    Raises:
        UsageError: it cannot.
    """
    if engine != "ptrace":
        raise UsageError(
            f"the {engine} engine cannot walk heaps: only ptrace reads the memory of what it stops",
            hint=f"memtrace {verb} --engine ptrace --heap-walk ...",
        )
    return True


_OPTIONS = (
    click.option("-o", "--output", "path", default="trace.json", show_default=True, metavar="FILE",
                 help="The trace; .gz and .zst compress. An old one is kept as FILE.old."),
    click.option("--engine", default="auto", callback=_engine, metavar="auto|ptrace|strace",
                 help="How to trace; auto is ptrace, which needs no privilege. strace has the "
                 "strace that is installed do it."),
    click.option("--snapshots", metavar="every=100ms|every=N|off",
                 help="How often to read the kernel's own map for verification (always at exec, "
                 "fork and exit). Default: every 100 ms with at least 256 calls between."),
    click.option("--evidence", type=click.Choice(("full", "none")), default="full",
                 show_default=True, help="Whether to record callers and chunk headers."),
    click.option("--redact", is_flag=True,
                 help="Keep arguments, environment, paths and other names out of the trace."),
    click.option("--low-overhead", is_flag=True, hidden=True, expose_value=False, callback=later),
    click.option("--heap-walk", is_flag=True,
                 help="Also read what is in malloc's heaps (glibc): used, free, what keeps the top "
                 "from going down. Stops the program while it reads, 2 s at most each time."),
    click.option("--faults", is_flag=False, flag_value="1", hidden=True, expose_value=False,
                 callback=later),
)  # fmt: skip


def recording(f: _F) -> _F:
    """Give a verb the options of recording: path, engine, snapshots, evidence, redact and
    heap_walk.
    """
    for option in reversed(_OPTIONS):
        f = option(f)
    return f


def printable(name: str) -> str:
    """A program's name for one line of a terminal: the end of a long path, else the beginning."""
    text = click.unstyle(name).encode("ascii", "backslashreplace").decode()
    if len(text) <= _NAME:
        return text
    return f"...{text[3 - _NAME :]}" if "/" in text[-_NAME:] else f"{text[: _NAME - 3]}..."


def recorded(r: Result, path: str, *, color: bool = False) -> list[str]:
    """The lines on what was recorded: how much, can I trust it, what next. [] if it failed.

    Args:
        r: what was recorded.
        path: of the trace.
        color: use ANSI colours.
    """
    if r.error is not None:
        return []
    total, exact = r.counts["snapshots"], r.counts["exact"]
    word, shade = ("exact", "green") if total else ("unverified", "yellow")
    if exact < total or r.counts["lost"]:
        word, shade = "NOT exact", "red"
    following = f"memtrace report {shlex.quote(path)}"
    peaks = (("heap", r.heap_peak), ("mapped", r.vm_peak * PAGE), ("resident", r.rss_peak * PAGE))
    return [
        "  "
        + ", ".join(
            f"{w} peak {styled(format_size(size), color=color, bold=True)}"
            for w, size in peaks
            if size is not None
        ),
        f"  {styled(word, color=color, fg=shade)}: {exact} of {total} kernel snapshots reproduced",
        f"  wrote {path} ({format_size(r.bytes_written)})    next: {following}",
    ]


def styled(text: str, *, color: bool, **style: Any) -> str:
    """Text in a style of click's, if colours are wanted."""
    return click.style(text, **style) if color else text


def incomplete(path: str, error: str) -> TargetError:
    """The recording failed although the program ran: the disk, or (killed?) the writer."""
    full = error.startswith("cannot write")
    folder = os.path.dirname(os.path.abspath(path))
    hint = f"df -h {shlex.quote(folder)}" if full else "dmesg | tail"
    if error.endswith(REMOVED):
        hint = f"ls -ld {shlex.quote(os.path.dirname(folder))}"
    return TargetError(f"the trace is incomplete: {error}", hint=hint)
