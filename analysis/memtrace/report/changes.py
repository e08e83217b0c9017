# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of two processes side by side, each no more than its record proves. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from memtrace.report.compared import Change
from memtrace.report.model import ProcessRow
from memtrace.report.sight import Sight


class Known(NamedTuple):
    """A number, or at least so much; None: not known."""

    value: int | None
    least: bool = False


NOTHING = Known(None)


class Side(NamedTuple):
    """A process and what its record cannot tell."""

    row: ProcessRow
    sight: Sight

    def most(self, value: int | None) -> Known:
        """A count or a peak, which only grows over a life."""
        if not self.sight.part:
            return Known(value)
        return Known(value, least=True) if value else NOTHING

    def last(self, value: int | None) -> Known:
        """How it stood at the end."""
        return Known(value) if self.sight.end else NOTHING

    def kind(self, name: str, field: str) -> Known:
        """A number of all regions of a kind."""
        found = self.row.kinds.get(name)
        if not self.sight.tells(name) or (found is None and self.row.assumed):
            return NOTHING
        value = 0 if found is None else getattr(found, field)
        if "attached" in self.sight.own and (
            name == "unknown" or (field == "count" and found is not None and found.older)
        ):
            return NOTHING  # what is older is a line of maps, and seldom shows whose it is
        if field != "final_bytes":
            return self.most(value)
        if "attached" in self.sight.own and not self.sight.plain(name):
            # What is older than the trace has a kind only where its pages prove one.
            return Known(value, least=True) if value and self.sight.end else NOTHING
        return self.last(value)

    def heap(self, field: str) -> Known:
        """A number of the break's."""
        value = getattr(self.row.heap, field)
        return self.last(value) if field == "final_bytes" else self.most(value)

    def calls(self, name: str, field: str) -> Known:
        """How often a call was made, or failed."""
        found = self.row.calls.get(name)
        return self.most(0 if found is None else getattr(found, field))

    def arenas(self) -> Known:
        """Heaps of thread arenas."""
        n = len(self.row.arenas)
        if not self.sight.callers or (not n and self.row.assumed):
            return NOTHING
        return self.most(n)

    def maps(self) -> Known:
        """The most lines of maps, of those moments at which it was read."""
        found = self.most(self.row.maps.peak)
        unlike = "snapshots" in self.sight.differ and found.value is not None
        return Known(found.value, least=True) if unlike else found

    def memory(self, field: str) -> Known:
        """A peak of the whole address space."""
        return self.most(getattr(self.row.memory, field))


def changes(a: Side, b: Side) -> Iterable[Change]:
    """Every number that either knows."""
    for field, word in (
        ("peak_bytes", "peak"), ("final_bytes", "at the end"), ("growths", "growths"),
        ("shrinks", "shrinks"),
    ):  # fmt: skip
        unit = "bytes" if field.endswith("_bytes") else "count"
        yield _change("heap", word, unit, a.heap(field), b.heap(field))
    for kind in sorted(a.row.kinds.keys() | b.row.kinds.keys()):
        if kind == "heap":
            continue
        for field, word, unit in (
            ("peak_bytes", "peak", "bytes"), ("final_bytes", "at the end", "bytes"),
            ("count", "regions", "count"),
        ):  # fmt: skip
            yield _change(kind, word, unit, a.kind(kind, field), b.kind(kind, field))
    for name in sorted(a.row.calls.keys() | b.row.calls.keys()):
        for field, word in (("count", name), ("failed", f"{name} failed")):
            yield _change("calls", word, "count", a.calls(name, field), b.calls(name, field))
    yield _change("arenas", "heaps", "count", a.arenas(), b.arenas())
    yield _change("maps", "peak", "count", a.maps(), b.maps(), advisory=True)
    for field, word in (("vm_peak_bytes", "mapped peak"), ("rss_peak_bytes", "resident peak")):
        advisory = field.startswith("rss")
        yield _change(
            "memory", word, "bytes", a.memory(field), b.memory(field), advisory=advisory
        )  # fmt: skip


def _change(
    group: str, name: str, unit: str, one: Known, two: Known, *, advisory: bool = False
) -> Change:
    known = one.value is not None and two.value is not None
    return Change(
        group, name, unit, one.value, two.value, advisory=advisory,
        least=(one.least, two.least), comparable=known and not (one.least or two.least),
    )  # fmt: skip
