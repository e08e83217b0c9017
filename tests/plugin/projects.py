# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of somebody's project, and what becomes of them."""

from __future__ import annotations

import pytest

OPTIONS = ("-W", "error", "-p", "no:cacheprovider")


def outcomes(
    project: pytest.Pytester, test: str, *options: str
) -> tuple[dict[str, int], pytest.RunResult]:
    """Run a file of tests; no warning is let pass."""
    project.makepyfile(
        test_it="import asyncio, os, subprocess, sys, threading, pytest\n"
        "import analysis, tracer\n" + test
    )
    ran = project.runpytest_subprocess(*OPTIONS, *options)
    return ran.parseoutcomes(), ran


def marked(budget: str, body: str, name: str = "a", args: str = "") -> str:
    """A test with a budget."""
    return f"@pytest.mark.memtrace({budget})\ndef test_{name}({args}):\n    {body}\n"


def started(words: str) -> str:
    """A line that starts it."""
    return f"subprocess.run([{words!r}], check=True)"
