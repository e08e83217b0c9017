# SPDX-License-Identifier: GPL-2.0-or-later
"""Logs of strace's versions and options give the events that stand beside them."""

from pathlib import Path

import pytest
from tests.unit.collect.strace.told import LOGS, page

pytestmark = pytest.mark.skipif(not LOGS, reason="no stored logs")


@pytest.mark.parametrize("log", LOGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_stored_log_gives_the_events_beside_it(log: Path) -> None:
    assert page(log.read_bytes()) == log.with_suffix(".events").read_text()
