# SPDX-License-Identifier: GPL-2.0-or-later
"""The threshold's interval over time."""

from __future__ import annotations

from memtrace.malloc.glibc import Layout, Settings
from memtrace.malloc.threshold import Threshold


def test_a_pinned_threshold_is_doubted_once_and_never_said_to_rise_again() -> None:
    """mallopt(M_MMAP_THRESHOLD) makes no call: equal chunks mapped and freed in turn show it."""
    t = Threshold()
    t.configure(Settings())
    layout = Layout((2, 36))
    for seq in range(10, 30, 2):
        assert t.at_most(seq, 0, 266240 - 16) in {"fits", "aligned-or-mallopt"}
        t.freed(seq + 1, 0, 266240, layout)
    assert [(m.seq, m.cause) for m in t.history] == [
        (11, "freed-chunk"), (12, "aligned-or-mallopt"), (13, "possible-rise"),
    ]  # fmt: skip
    assert (t.low, t.high, t.rises) == (131072, 266240, 1)
