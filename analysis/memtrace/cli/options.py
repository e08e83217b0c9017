# SPDX-License-Identifier: GPL-2.0-or-later
"""What every verb understands, and how it says things on stderr."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import click

from memtrace.cli.exits import Debug, one_line, to_stderr

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

_F = TypeVar("_F", bound="Callable[..., Any]")
_QUIET = "memtrace.quiet"


def _debug(_c: click.Context, _p: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click
    Debug.wanted = Debug.wanted or value


def _quiet(c: click.Context, _p: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click
    c.meta[_QUIET] = value


def _color(c: click.Context, _p: click.Parameter, value: str) -> None:
    c.color = {"always": True, "never": False}.get(value)


def common(f: _F) -> _F:
    """Give a verb `--debug`, `-q` and `--color`.

    The verb does not see them: it asks `quiet()` and `coloured()`.
    """
    for option in (
        click.option(
            "--color",
            type=click.Choice(("auto", "always", "never")),
            default="auto",
            show_default=True,
            help="Colour.",
            expose_value=False,
            callback=_color,
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            help="No warnings and no progress on stderr.",
            expose_value=False,
            callback=_quiet,
        ),
        click.option(
            "--debug",
            is_flag=True,
            is_eager=True,
            help="Tracebacks.",
            expose_value=False,
            callback=_debug,
        ),
    ):
        f = option(f)
    return f


def quiet() -> bool:
    """Whether `-q` was given."""
    return bool(click.get_current_context().meta.get(_QUIET))


def coloured(stream: TextIO | None) -> bool:
    """Whether to colour what goes to a stream, None: to a file. A terminal's is, and with
    FORCE_COLOR any stream's; not with NO_COLOR; --color has the last word.
    """
    wanted = click.get_current_context().color
    if wanted is not None:
        return wanted
    if stream is None or os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def warn(text: str) -> None:
    """A sentence on stderr, unless quiet."""
    if not quiet():
        to_stderr(f"memtrace: warning: {one_line(text)}\n")


trace_argument = click.argument("trace", type=click.Path(allow_dash=False))
