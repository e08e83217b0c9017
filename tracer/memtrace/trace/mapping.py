# SPDX-License-Identifier: GPL-2.0-or-later
"""One line of /proc/PID/maps as a value, and the text both ways.

Source of the line's shape: `show_map_vma` in the kernel's fs/proc/task_mmu.c. Ranges are half open.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

#: The device of memory without a file.
ANON_DEV = "00:00"


class Mapping(msgspec.Struct, frozen=True, gc=False):
    """A line of /proc/PID/maps.

    `start`, `end` and `offset` are bytes; `perms` is the kernel's four letters (`rw-p`); `dev` its
    `major:minor` in hex; `path` is the last column as printed ("" when absent).
    """

    start: int
    end: int
    perms: str
    offset: int
    dev: str
    ino: int
    path: str

    @property
    def is_file(self) -> bool:
        """Whether the kernel backs it with an inode (memfd, shmem and aio rings included). The
        inode of the first System V segment since boot has number 0 (`newseg`: its shmid).
        """
        return self.ino != 0 or self.dev != ANON_DEV


def parse_line(line: str) -> Mapping:
    """Read one line of maps text.

    Raises:
        ValueError: the line is not one.

    >>> parse_line("7f00-8f00 rw-p 00001000 fe:00 12 /a b (deleted)").path
    '/a b (deleted)'
    """
    fields = line.split(None, 5)
    if len(fields) < 5:
        raise ValueError(f"not a line of /proc/PID/maps: {line[:80]!r}")
    start, dash, end = fields[0].partition("-")
    if not dash or len(fields[1]) != 4:
        raise ValueError(f"not a line of /proc/PID/maps: {line[:80]!r}")
    low, high = int(start, 16), int(end, 16)
    if not 0 <= low < high:
        raise ValueError(f"no range of addresses: {line[:80]!r}")
    return Mapping(
        low, high, fields[1], int(fields[2], 16), fields[3], int(fields[4]),
        fields[5].rstrip("\n") if len(fields) == 6 else "",
    )  # fmt: skip


def decode_maps(raw: bytes) -> list[str]:
    r"""Raw text of /proc/PID/maps as single-spaced lines, the form a trace stores.

    A path's bytes that are not UTF-8 become `\xNN`; `[vsyscall]`, which belongs to no process, is
    left out.

    >>> decode_maps(b"10-20 rw-p 00000000 00:00 0      [heap]\n20-30 r--p 00000000 00:00 0 \n")
    ['10-20 rw-p 00000000 00:00 0 [heap]', '20-30 r--p 00000000 00:00 0']
    """
    lines = []
    for line in raw.decode("utf-8", "backslashreplace").split("\n"):
        fields = line.split(None, 5)
        if len(fields) >= 5 and (len(fields) == 5 or fields[5] != "[vsyscall]"):
            lines.append(" ".join(fields))
    return lines


def parse_maps(lines: Iterable[str]) -> list[Mapping]:
    """Stored lines as values.

    Raises:
        ValueError: a line is not one of maps.
    """
    return [parse_line(line) for line in lines]


def format_mapping(m: Mapping) -> str:
    """The line as the kernel prints it: `show_map_vma` pads the path to column 73.

    >>> format_mapping(Mapping(0x1000, 0x2000, "rw-p", 0, "00:00", 0, ""))
    '00001000-00002000 rw-p 00000000 00:00 0 '
    """
    head = f"{m.start:08x}-{m.end:08x} {m.perms} {m.offset:08x} {m.dev} {m.ino} "
    return f"{head:<73}{m.path}" if m.path else head
