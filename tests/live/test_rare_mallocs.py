# SPDX-License-Identifier: GPL-2.0-or-later
"""What malloc does only rarely, and libc beside it: nothing of it moves the threshold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.live.driving import Driven, driver
from tests.live.tracing import Traced

from memtrace.report.model import ProcessRow

Do = Callable[[str], ProcessRow]
NEEDED = 60016  # the chunk of malloc(60000)


@pytest.fixture
def do(run: Callable[..., Traced]) -> Do:
    """The report on one run of `rare_mallocs`; the threshold stands where it stood."""

    def go(what: str) -> ProcessRow:
        p = Driven(run(driver("", "rare_mallocs"), what)).process
        assert (p.threshold.low, p.threshold.high, p.threshold.history) == (131072, 131072, [])
        verdicts = {s.verdict for s in p.heap.steps} | {r.verdict for r in p.regions}
        assert "contradiction" not in verdicts
        return p

    return go


@pytest.mark.parametrize("end", ["assert", "free"])
def test_last_words_are_no_chunk(do: Do, end: str) -> None:
    # __assert_fail_base and __libc_message keep the message in a mapping of a page.
    assert "malloc-chunk" not in {r.kind for r in do(end).regions}


def test_chunks_are_mapped_where_no_arena_can_be_opened(do: Do) -> None:
    chunks = [r for r in do("no-arena").regions if r.kind == "malloc-chunk"]
    assert chunks
    assert {(r.verdict, r.reason) for r in chunks} == {("explained", "no-arena")}


def test_what_malloc_gave_up_explains_no_later_growth(do: Do) -> None:
    steps = do("gives-up").heap.steps
    assert "refused" in {s.role for s in steps}
    for s in steps:
        if s.role == "growth":
            assert (s.verdict, s.reason) == ("holds", None)
            assert s.chunk is not None
            assert s.chunk.min <= NEEDED <= (s.chunk.max or NEEDED)


def test_a_heap_that_a_mapping_began_has_no_first_growth(do: Do) -> None:
    p = do("wall")
    assert [s.role for s in p.heap.steps][:2] == ["refused", "growth"]
    assert {s.role for s in p.heap.steps[1:]} == {"growth"}
    assert "main-arena" in {r.kind for r in p.regions}
