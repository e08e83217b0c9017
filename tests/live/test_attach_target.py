# SPDX-License-Identifier: GPL-2.0-or-later
"""The target of an attach cannot tell: its data, its forks, its sleeps are what they were."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.live.attaching import assert_detached, assert_free, attaching, target


@pytest.mark.parametrize("mode", [("work", 4), ("forks",), ("idle", 1000)])
def test_three_times(tmp_path: Path, mode: tuple[object, ...]) -> None:
    with target(tmp_path, "attach_worker", *mode) as t:
        rounds = 0 if mode[0] == "idle" else 3
        t.goes_on(rounds)
        for i, number in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            with attaching(tmp_path / f"t{i}.json", t.pid) as a:
                a.begun()
                t.goes_on(rounds)
                done = a.left(number)
            assert_free(t.pid)
            t.goes_on(rounds)
            assert_detached(done)
        t.ends_well()
