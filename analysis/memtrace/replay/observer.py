# SPDX-License-Identifier: GPL-2.0-or-later
"""What a replay tells those who watch it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memtrace.replay.process import Process
    from memtrace.replay.result import Replay
    from memtrace.space.calls import Change
    from memtrace.space.compare import Comparison
    from memtrace.trace.records import Call, Fork, LifeRecord, Snap, Start, Unknown


class Observer:
    """Hooks of one pass; override what is needed, a hook left alone costs nothing.

    Each is called after its record was applied, so that `p.space` is the state *after* `seq`; only
    `headers` comes before, because the words were read before the record's own effect. Then `died`
    (of the mm that an exec ends), then `born`, `call` or `compared`, then `life`. `t` is ns since
    the trace's start.
    """

    def begin(self, replay: Replay) -> None:
        """The pass begins; `replay` is filled while it goes on."""

    def born(self, p: Process, seq: int, t: int, record: Start | Fork) -> None:
        """A new address space: begun by an exec, found by an attach, or copied from `p.parent`'s by
        a fork.
        """

    def call(
        self, p: Process, seq: int, t: int, call: Call, name: str, change: Change | None
    ) -> None:
        """One memory call; `change` is None when it left the map as it was."""

    def calls_of(self, p: Process) -> Callable[[int, int, Call, str, Change | None], None]:
        """What is to be told of the calls of one process: `call`, unless there is something more
        direct.
        """
        return partial(self.call, p)

    def compared(self, p: Process, seq: int, t: int, snap: Snap, comparison: Comparison) -> None:
        """A snapshot was compared; on a drift the map has been made the kernel's."""

    def life(self, p: Process | None, seq: int, t: int, record: LifeRecord | Unknown) -> None:
        """Any other record than a call; `p` is the mm it names: of an exec, attach or fork the new
        one.
        """

    def headers(self, p: Process, seq: int, headers: Sequence[tuple[int, int]]) -> None:
        """Words peeked where malloc would have put a header: (seq of the mmap, size word of a chunk
        or address of a meta of musl's; 0: neither).

        `p` is the process whose mmaps these were; `seq` the record that carried them.
        """

    def died(self, p: Process, seq: int, t: int) -> None:
        """The last moment of `p.space`: it is as before the death, and is emptied afterwards.

        Called once for every process; for those alive when the trace ends (`p.died_seq` None), with
        the last record's `seq`, before `end`.
        """

    def end(self) -> None:
        """The pass is over. If it was stopped on the way: not called, nor `died` for the living."""
