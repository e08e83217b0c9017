# SPDX-License-Identifier: GPL-2.0-or-later
"""Records to lines and back. Pure: values and bytes, no files.

Interning. A site and a file appear in full at their first use and as their number afterwards, so
that no record is needed to define them. The `Encoder` numbers them, the `Decoder` keeps the tables.
"""

from __future__ import annotations

from typing import Any

import msgspec

from memtrace.trace.errors import TraceFormatError
from memtrace.trace.records import (
    CLOCKS,
    COLUMNS,
    FORMAT,
    MMAP_TAIL,
    PAGE_SIZES,
    Call,
    FileId,
    Footer,
    Header,
    Life,
    LifeRecord,
    Place,
    Record,
    Site,
    Unknown,
)

_json = msgspec.json.Encoder()
_decode_row = msgspec.json.Decoder(Call).decode
_COMMA, _BRACE = b",{"
_life = msgspec.json.Decoder(LifeRecord)
_header = msgspec.json.Decoder(Header)
_footer = msgspec.json.Decoder(Footer)
_any = msgspec.json.Decoder()


def encode_header(header: Header) -> bytes:
    """The first line: `[` and the header object."""
    return b"[" + _json.encode(header) + b",\n"


def encode_footer(footer: Footer) -> bytes:
    """The last two lines: the footer object and `]`."""
    return _json.encode(footer) + b"\n]\n"


def encode(record: Call | Life) -> bytes:
    """One record as its line."""
    if record.__class__ is Call:
        line = _json.encode(record)
        # An array row cannot omit its trailing column by itself.
        return line[:-6] + b"],\n" if record.ext is None else line + b",\n"
    return _json.encode(record) + b",\n"


def decode_header(line: bytes) -> Header:
    """Read a trace's first line.

    Raises:
        TraceFormatError: the line is not a trace's header, or of a newer format.
    """
    body = line.strip().removeprefix(b"[").rstrip().removesuffix(b",")
    try:
        header = _header.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:  # ValueError: not UTF-8
        raise TraceFormatError("it does not begin with a memtrace header") from e
    if header.memtrace != "trace" or b'"memtrace"' not in body:
        raise TraceFormatError("it does not begin with a memtrace header")
    if header.format > FORMAT:
        raise TraceFormatError(
            f"it has trace format {header.format}, this memtrace reads up to {FORMAT}",
            hint="pip install --upgrade memtrace-linux",
        )
    if header.page_size not in PAGE_SIZES:
        raise TraceFormatError(f"its page size is {header.page_size}, which no machine has")
    if header.clock not in CLOCKS:
        header.clock = "ns"
    return header


def decode_footer(line: bytes) -> Footer | None:
    """Read a footer object; None when the line is something else."""
    if not line.lstrip().startswith(b'{"stop"'):
        return None
    try:
        return _footer.decode(line.strip().removesuffix(b","))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


class Decoder:
    """Lines to records, with the tables that interned numbers point to.

    `files` and `sites` grow as definitions appear; `redefined`: a file's number was used again for
    another, which no writer does. A line is a record or raises ValueError.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.files: dict[int, FileId] = {}
        self.redefined = False
        self.sites: dict[int, Site] = {}
        self._order: list[int] | None = None
        self._calls = len(header.calls)
        self._mmap = header.calls.index("mmap") if "mmap" in header.calls else -1
        if tuple(header.columns[: len(COLUMNS)]) != COLUMNS:
            # Another order of columns: a row is put into ours by name.
            missing = [c for c in COLUMNS[:7] if c not in header.columns]
            if missing:
                raise TraceFormatError(f"its rows have no column {missing[0]!r}")
            self._order = [header.columns.index(c) if c in header.columns else -1 for c in COLUMNS]

    def decode(self, line: bytes) -> Record:
        """One record's line, with or without the trailing comma and newline.

        Raises:
            ValueError: the line is no record.
        """
        try:
            if line[:1] != b"[":
                return self._object(line.rstrip(b",\r\n \t"))
            if self._order is not None:
                row = self._reordered(line.rstrip(b",\r\n \t"))
            elif line[-1] == _COMMA:
                row = _decode_row(line[:-1])
            else:
                row = _decode_row(line.rstrip(b",\r\n \t"))
        except msgspec.MsgspecError as e:
            raise ValueError(str(e)) from e
        if _BRACE in line:  # most rows define nothing, and say nothing besides
            if row.site.__class__ is Site:
                self._define_site(row.site)
            ext = row.ext
            if ext is not None and ext.f.__class__ is FileId:
                self._define_file(ext.f)
        call = row.call
        if call == self._mmap:
            if len(row.args) == 4:
                row.args += MMAP_TAIL
        elif not 0 <= call < self._calls:
            raise ValueError(f"call {call} is not in the header's list")
        return row

    def _object(self, body: bytes) -> Record:
        try:
            record: Record = _life.decode(body)
            return record
        except msgspec.ValidationError:
            data = _any.decode(body)
            known = isinstance(data, dict) and isinstance(data.get("rec"), str)
            if not known or data["rec"] in _TAGS:
                raise
            t = data.get("t")
            return Unknown(data["rec"], t if isinstance(t, int) else 0, data)

    def _reordered(self, body: bytes) -> Call:
        values: list[Any] = _any.decode(body)
        row = [values[i] if 0 <= i < len(values) else None for i in self._order or ()]
        return msgspec.convert(row, Call)

    def _define_site(self, site: Site) -> None:
        self.sites[site.id] = site
        for place in (site.ip, site.ret, site.outer):
            if place is not None and place[0].__class__ is FileId:
                self._define_file(place[0])

    def _define_file(self, file: FileId) -> None:
        if self.files.setdefault(file.id, file) != file:
            self.files[file.id] = file
            self.redefined = True

    def site(self, call: Call) -> Site | None:
        """The call's site, resolved."""
        s = call.site
        return self.sites.get(s) if s.__class__ is int else s  # type: ignore[return-value]

    def file(self, f: int | FileId | None) -> FileId | None:
        """A file reference, resolved; None when absent or never defined."""
        return self.files.get(f) if f.__class__ is int else f  # type: ignore[return-value]

    def place(self, p: Place | None) -> tuple[FileId | None, int] | None:
        """A code address as (file, offset in the file), or (None, address)."""
        return None if p is None else (self.file(p[0]), p[1])


_TAGS = {c.__struct_config__.tag for c in LifeRecord.__args__}


class Interner:
    """Numbers sites and files; gives the definition at the first use and the number afterwards."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int, str], int] = {}
        self._sites: dict[tuple[Any, ...], int] = {}

    def file(self, dev: str, ino: int, path: str) -> int | FileId:
        """The reference for a file; the same (dev, ino) under a new path is a new number."""
        key = (dev, ino, path)
        known = self._files.get(key)
        if known is not None:
            return known
        self._files[key] = n = len(self._files) + 1
        return FileId(n, dev, ino, path)

    def site(
        self,
        *places: tuple[str, int, str, int] | int | None,
        direct: bool | None = None,
        base: int | None = None,
    ) -> tuple[int, Site | None]:
        """The number of a site (ip, ret, outer), and its definition when this is the first use.

        A place is (dev, ino, path, file offset), a bare address, or None.
        """
        key = (*places, direct, base)
        known = self._sites.get(key)
        if known is not None:
            return known, None
        self._sites[key] = n = len(self._sites) + 1
        refs: list[Place | None] = []
        for p in places:
            if isinstance(p, tuple):
                refs.append((self.file(*p[:3]), p[3]))
            else:
                refs.append(None if p is None else (None, p))
        ip, ret, outer = [*refs, None, None][:3]
        return n, Site(n, ip or (None, 0), ret, outer, direct, base)
