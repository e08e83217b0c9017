# SPDX-License-Identifier: GPL-2.0-or-later
"""The series of a trace's address spaces, as the text report asks for them."""

from __future__ import annotations

from collections.abc import Iterable

from memtrace.malloc.series import Series
from memtrace.report.build import read, read_book, series_of


def read_series(path: str, mms: Iterable[int] | None = None) -> dict[int, Series]:
    """By address space; `mms`: those wanted, all if None."""
    found = read_book(path)
    assert found is not None
    return series_of(*found, [p.mm for p in read(path).processes] if mms is None else mms)
