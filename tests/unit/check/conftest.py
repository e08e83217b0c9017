# SPDX-License-Identifier: GPL-2.0-or-later
"""A process to be judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.conftest import Scene


@pytest.fixture
def grown(scene: Scene) -> Scene:
    """The heap grew twice, to 200 KiB; nobody called mremap."""
    scene.glibc().query()
    scene.brk(132 << 10)
    scene.brk(68 << 10)
    return scene.exit()
