# SPDX-License-Identifier: GPL-2.0-or-later
"""The entries of a report, each made when its process has died and kept as bytes.

A trace may hold hundreds of thousands of processes, and thousands with thousands of regions each:
as values they would be many times as large. What only the end of the trace tells is kept beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import msgspec

from memtrace.report.model import ProcessRow


class Late(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a process only when the trace has been read whole: fields of its row, `lost`
    one of its metrics.
    """

    exit: dict[str, int] | None
    running: bool
    replaced: bool
    exactness: str
    lost: int


#: A row as it was at its process's death: bytes, or a value if it has numbers that no kernel has.
Kept = bytes | msgspec.Raw | ProcessRow


def keep(row: ProcessRow) -> Kept:
    """The row, as small as it goes."""
    try:
        return _encode(row)
    except OverflowError:
        return row


class Rows(Sequence[ProcessRow]):
    """Rows that are made anew whenever they are asked for.

    Args:
        kept: each row, in the report's order.
        late: of each row.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, kept: Sequence[Kept], late: Sequence[Late]) -> None:
        self.kept = kept
        self.late = late

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, i: int) -> ProcessRow: ...
    @overload
    def __getitem__(self, i: slice) -> Rows: ...
    def __getitem__(self, i: int | slice) -> ProcessRow | Rows:
        if isinstance(i, slice):
            return Rows(self.kept[i], self.late[i])
        kept, late = self.kept[i], self.late[i]
        row = kept if isinstance(kept, ProcessRow) else _decode(kept)
        if "trust.lost" in row.metrics:
            row.metrics["trust.lost"] = late.lost
        findings = row.findings
        if late.exactness in _DOUBTFUL:
            findings = [
                msgspec.structs.replace(x, message=f"{x.message} {_DOUBTFUL[late.exactness]}")
                for x in findings
            ]
        return msgspec.structs.replace(
            row,
            findings=findings,
            exit=late.exit,
            running=late.running,
            replaced=late.replaced,
            exactness=late.exactness,
        )

    def __iter__(self) -> Iterator[ProcessRow]:
        return (self[i] for i in range(len(self.kept)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def only(self, chosen: Iterable[int]) -> Rows:
        """Those at these places."""
        places = list(chosen)
        return Rows([self.kept[i] for i in places], [self.late[i] for i in places])


#: What is to be added to every finding of such a trace: what it lacks may speak against it.
_DOUBTFUL = {
    "incomplete": "As far as recorded: this trace is incomplete.",
    "drift": "As far as recorded: the replayed map was wrong at a checked moment.",
}
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ProcessRow).decode
