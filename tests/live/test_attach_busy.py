# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace attach` to threads that never pause: every one of them gets on."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from tests.live.attaching import assert_detached, attaching, built
from tests.live.tracing import PATIENCE, until

THREADS = 6


def counts(path: Path) -> list[int]:
    """Calls of each thread so far."""
    size = 8 * THREADS
    data = path.read_bytes()[:size] if path.exists() else b""
    return list(struct.unpack(f"={THREADS}q", data)) if len(data) == size else [0] * THREADS


def test_no_thread_starves(tmp_path: Path) -> None:
    """waitpid searches its tracees from one end: the same two could stop in turns for ever."""
    path = tmp_path / "counts"
    with subprocess.Popen(
        [built("attach_busy"), path, str(THREADS)], stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        until(lambda: [1] if all(counts(path)) else [])
        with attaching(tmp_path / "t.json", process.pid) as a:
            a.begun()
            before = counts(path)

            def made() -> list[int]:
                return [now - then for now, then in zip(counts(path), before, strict=True)]

            until(lambda: [1] if max(made()) > 20_000 else [])
            calls = made()
            assert_detached(a.left())
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert min(calls) * 20 > max(calls), calls
