# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process's file descriptors stand for, as the calls before have said (open, dup, close)."""

from __future__ import annotations


class Descriptors:
    """One table of file descriptors (`files_struct`): threads share it, fork copies it."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[int, tuple[str, bool]] = {}

    def copy(self) -> Descriptors:
        """The forked child's."""
        child = Descriptors()
        child._open = dict(self._open)
        return child

    def path(self, fd: int) -> str | None:
        """What was opened, None if no call told."""
        known = self._open.get(fd)
        return None if known is None else known[0]

    def opened(self, fd: int, path: str | None, *, cloexec: bool) -> None:
        """A call returned `fd`; `path` None: what it stands for is not known."""
        if path is None:
            self._open.pop(fd, None)
        else:
            self._open[fd] = path, cloexec

    def duplicated(self, old: int, new: int, *, cloexec: bool) -> None:
        """`new` stands for what `old` does."""
        known = self._open.get(old)
        if known is None:
            self._open.pop(new, None)
        else:
            self._open[new] = known[0], cloexec

    def closed(self, first: int, last: int) -> None:
        """Those from `first` to `last`, both included, are closed."""
        if last - first < len(self._open):
            for fd in range(first, last + 1):
                self._open.pop(fd, None)
        else:
            for fd in [fd for fd in self._open if first <= fd <= last]:
                del self._open[fd]

    def executed(self) -> None:
        """An exec closes those marked so (`do_close_on_exec`)."""
        for fd in [fd for fd, (_, cloexec) in self._open.items() if cloexec]:
            del self._open[fd]
