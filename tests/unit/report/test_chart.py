# SPDX-License-Identifier: GPL-2.0-or-later
"""The block chart of what malloc held."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memtrace.malloc.series import Moment, Series
from memtrace.report.chart import chart

KIB = 1024


def series(rows: list[tuple[int, int, int]], step: int = 10, *, timed: bool = True) -> Series:
    """Rows of heap, chunk and opened arena bytes, `step` ns apart."""
    moments = [
        Moment(i + 1, i * step if timed else None, [0, h, c], o, None)
        for i, (h, c, o) in enumerate(rows)
    ]
    return Series(["arena", "heap", "malloc-chunk"], moments, False, 3, (
        len(rows), (len(rows) - 1) * step if timed else None,
    ))  # fmt: skip


def shown(s: Series, width: int = 40, height: int = 4, clock: str = "ns") -> list[str]:
    made = chart(s, clock, width, height)
    assert made is not None
    return ["".join(text for _, text in line) for line in made.lines]


def test_heap_chunks_and_arenas_are_stacked_and_the_peak_is_marked() -> None:
    s = series([(0, 0, 0), (4096, 0, 0), (4096, 4096, 0), (4096, 4096, 8192), (4096, 0, 0)])
    assert shown(s, width=19) == [
        "peak 16 KiB at #4 ▼",
        "16 KiB │        ░░░",
        "12 KiB │        ░░░",
        " 8 KiB │     ▓▓▓▓▓▓",
        " 4 KiB │   ████████",
        "     0 └───────────",
        "        0 ns  40 ns",
    ]


def test_nothing_is_no_chart() -> None:
    assert chart(series([(0, 0, 0), (0, 0, 0)]), "ns", 40) is None
    assert chart(Series([], [], False, 0, (1, None)), "ns", 40) is None


def test_one_moment_fills_the_chart() -> None:
    lines = shown(series([(4096, 0, 0)]))
    assert all(line.endswith("█" * 30) for line in lines[1:5])


def test_without_times_columns_go_by_records() -> None:
    lines = shown(series([(0, 0, 0), (4096, 0, 0)], timed=False), clock="none")
    assert lines[-1].split() == ["#1", "#2"]


def test_a_short_peak_among_many_moments_is_seen() -> None:
    rows = [(KIB, 0, 0)] * 5000
    rows[2500] = (1 << 20, 0, 0)
    lines = shown(series(rows), width=60)
    assert sum("█" in line for line in lines[1:5]) == 4
    assert lines[1].count("█") == 1
    assert "1 MiB at #2501" in lines[0]


@given(
    st.lists(st.tuples(*[st.integers(0, 1 << 40)] * 3), min_size=1, max_size=60),
    st.integers(30, 90),
    st.integers(1, 9),
)
def test_every_chart_has_its_size_and_reaches_the_top_once_at_least(
    rows: list[tuple[int, int, int]], width: int, height: int
) -> None:
    made = chart(series(rows), "ns", width, height)
    top = max(map(sum, rows))
    assert (made is None) is (top == 0)
    if made is None:
        return
    lines = ["".join(text for _, text in line) for line in made.lines]
    assert len(lines) == height + 3
    assert all(len(line) == width for line in lines[1 : height + 1])
    assert any(c in "█▓░" for c in lines[1])
    assert len(lines[0].rstrip()) <= width or len(lines[0]) < 50


def test_of_moments_of_one_time_the_highest_is_seen() -> None:
    """A clock of seconds (`strace -t`): all of it in one second, or the peak among others."""
    s = series([(0, 0, 0), (1 << 20, 0, 0), (4096, 0, 0), (4096, 0, 0)], step=0)
    assert "peak 1 MiB at #2" in shown(s)[0]
    again = Series(s.kinds, s.moments, False, 3, (9, 10**9))
    assert "peak 1 MiB at #2" in shown(again)[0]
    assert shown(again)[-1].split()[-2:] == ["1.00", "s"]


def test_times_that_go_back_are_no_axis() -> None:
    s = series([(0, 0, 0), (4096, 0, 0), (8192, 0, 0), (4096, 0, 0)], step=-10)
    lines = shown(s)
    assert lines[-1].split() == ["#1", "#4"]
    assert "peak 8 KiB at #3" in lines[0]


def test_the_axis_goes_to_the_end_of_the_life() -> None:
    s = series([(0, 0, 0), (4096, 0, 0)])
    lines = shown(Series(s.kinds, s.moments, False, 3, (5, 3_000_000_000)))
    assert lines[-1].split()[-2:] == ["3.00", "s"]


def test_only_the_heap_has_the_sign_of_the_heap() -> None:
    lines = shown(series([(0, 7 * 1000 + i * 60, 0) for i in range(100)]), height=3)
    assert "█" not in "".join(lines)
