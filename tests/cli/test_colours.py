# SPDX-License-Identifier: GPL-2.0-or-later
"""When output is coloured: the same for every verb, and its text the same either way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests import hostile

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
for _name in ("NO_COLOR", "FORCE_COLOR"):
    ENVIRONMENT.pop(_name, None)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records: list[hostile.Record | bytes] = [
        hostile.begun(),
        hostile.mmap(hostile.LOW),
        hostile.mmap(hostile.LOW + 0x10000),
    ]
    folder = tmp_path_factory.mktemp("coloured")
    (folder / "memtrace.toml").write_text("[budget]\ncalls.total = 1\ncalls.failed = 1\n")
    return hostile.write(folder / "t.json", records)


VERBS = {
    "report": ["report", "t.json"],
    "diff of moments": ["diff", "t.json", "--at", "start", "--at", "end"],
    "diff of traces": ["diff", "t.json", "t.json"],
    "check": ["check", "t.json", "--allow-incomplete"],
    "doctor": ["doctor"],
}


def shown(
    verb: str, folder: Path, *options: str, terminal: bool = False, **environment: str
) -> tuple[str, bool]:
    """What a verb prints, without its colours, and whether it had some."""
    command = [sys.executable, "-m", "memtrace", *VERBS[verb], *options]
    env = {**ENVIRONMENT, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment}
    if not terminal:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
        text = done.stdout.decode()
    else:
        text = on_terminal(command, folder, env)
    return re.sub(r"\x1b\[[0-9;]*m", "", text), "\x1b[" in text


def on_terminal(command: list[str], folder: Path, env: dict[str, str]) -> str:
    """What a command writes to a terminal of 80 columns that is its stdout."""
    master, slave = os.openpty()
    started = subprocess.Popen(
        command, cwd=folder, env=env, stdout=slave, stderr=subprocess.DEVNULL, close_fds=True
    )
    os.close(slave)
    text = b""
    try:
        while data := os.read(master, 1 << 16):
            text += data
    except OSError:  # the other end is closed
        pass
    os.close(master)
    started.wait()
    return text.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("verb", VERBS)
def test_who_decides_about_colour(verb: str, trace: Path) -> None:
    folder = trace.parent
    plain, coloured = shown(verb, folder)
    assert plain
    assert not coloured
    for expected, options, terminal, environment in (
        (True, [], True, {}),
        (False, [], True, {"NO_COLOR": "1"}),
        (False, [], True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}),
        (True, [], False, {"FORCE_COLOR": "1"}),
        (True, ["--color", "always"], False, {"NO_COLOR": "1"}),
        (False, ["--color", "never"], True, {"FORCE_COLOR": "1"}),
    ):
        text, coloured = shown(verb, folder, *options, terminal=terminal, **environment)
        assert coloured is expected, (options, terminal, environment)
        if verb != "doctor":  # whose machine may change meanwhile
            assert text == plain


def test_a_file_is_coloured_only_if_that_is_asked_for(trace: Path) -> None:
    folder = trace.parent
    out = folder / "out"
    for verb in ("report", "check"):
        shown(verb, folder, "-o", "out", FORCE_COLOR="1")
        plain = out.read_text()
        assert "\x1b" not in plain
        shown(verb, folder, "-o", "out", "--color", "always")
        assert re.sub(r"\x1b\[[0-9;]*m", "", out.read_text()) == plain != out.read_text()
