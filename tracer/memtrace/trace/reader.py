# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a trace file: streaming, tolerant of every way a recording can be cut short.

Rules. A torn last line is dropped. A line inside that is not a record ends what can be trusted:
it and its number are kept in `Trace.problems`, reading goes on, and the trace counts as incomplete.
Completeness is stated by the footer and nothing else. Only a file without a readable header is
refused. Compression is recognised by content, never by name.
"""

from __future__ import annotations

import gzip
import io
import os
import shlex
import zlib
from collections.abc import Generator, Iterator
from typing import IO, Any, NamedTuple, Self

from memtrace.trace import zstd
from memtrace.trace.codec import Decoder, decode_footer, decode_header
from memtrace.trace.errors import TraceFormatError
from memtrace.trace.records import Call, Footer, Life, Record

MAX_LINE = 256 << 20
_BLOCK = 1 << 17
_ZSTD = b"\x28\xb5\x2f\xfd"
_RERECORD = "memtrace run -o trace.json -- PROG ARGS..."


class Mark(NamedTuple):
    """A place between two records: `offset` in the file's (decompressed) bytes, `seq` and `t` of
    the record before it.
    """

    offset: int
    seq: int
    t: int


#: Before the first line.
START = Mark(0, 0, 0)


class Trace:
    """An opened trace: its header at once, its records in one pass of `records()`.

    After the pass, `footer` (None when there is none) and `problems` ([(line number, sentence)], at
    most 20 kept, `problems_total` counts all) are final. `mark` is where the block of lines begins
    that the last record came from. `opened` is what the file was when it was opened.

    Raises:
        TraceFormatError: no readable header.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.footer: Footer | None = None
        self.problems: list[tuple[int, str]] = []
        self.problems_total = 0
        self.mark = START
        self._file: IO[bytes] | None = None
        try:
            self._file = _open(self.path)
            self.opened = os.fstat(self._file.fileno())
            self._blocks = _blocks(self, self._file)
            _, lines = next(self._blocks, (0, [b""]))
            if not lines[0].strip():
                raise TraceFormatError("it is empty")
            self.header = decode_header(lines[0])
            self._first = lines[1:], len(lines[0]) + 1
            self.decoder = Decoder(self.header)
        except TraceFormatError as e:
            self.close()
            raise TraceFormatError(
                f"cannot read {self.path}: {e.message}", hint=e.hint or _RERECORD
            ) from e

    @property
    def complete(self) -> bool:
        """Whether the recording says that nothing is missing; final after the pass."""
        return self.footer is not None and self.footer.complete and not self.problems_total

    def problem(self, line: int, text: str) -> None:
        """Note a line that could not be used."""
        self.problems_total += 1
        if len(self.problems) < 20:
            self.problems.append((line, text))

    def records(self) -> Iterator[tuple[int, int, Record]]:
        """Yield (sequence number, time in ns since the start, record), in order of application.

        Sequence numbers are line numbers: the header is 0, the first record 1. All times are 0 in a
        trace whose header says that it has none (`clock`). The `h` of a record,
        which counts records back in the file, comes with sequence numbers.
        """
        decode = self.decoder.decode
        t, seq = self.mark.t, self.mark.seq
        pending_error: tuple[int, str] | None = None
        odd = False  # there was a line that is no record
        for offset, lines in self.blocks():
            self.mark = Mark(offset, seq, t)
            for line in lines:
                seq += 1
                try:
                    record = decode(line)
                except (ValueError, RecursionError) as e:
                    odd = True
                    if pending_error is not None:
                        self.problem(*pending_error)
                        pending_error = None
                    footer = decode_footer(line)
                    if footer is not None:
                        self.footer = footer
                        seq -= 1
                    elif line[:1] == b"]":
                        self.close()
                        return
                    elif line.strip():
                        # The last line may be torn: that is only known when no other follows.
                        pending_error = (seq + 1, str(e)[:200])
                    continue
                if odd:
                    if pending_error is not None:
                        self.problem(*pending_error)
                        pending_error = None
                    if self.footer is not None:
                        self.problem(seq + 1, "a record after the footer")
                if isinstance(record, Call):
                    if record.dt is not None:
                        t += record.dt
                    ext = record.ext
                    if ext is not None and ext.h is not None:
                        if len(ext.h) == 1:  # nearly always; a comprehension costs a call
                            back, word = ext.h[0]
                            ext.h[0] = seq - back, word
                        else:
                            ext.h = [(seq - back, word) for back, word in ext.h]
                else:
                    if record.t is not None:
                        t = record.t
                    if isinstance(record, Life) and record.h is not None:
                        record.h = [(seq - back, word) for back, word in record.h]
                yield seq, t, record
        self.close()  # a pending error was the torn last line: dropped

    def seek(self, mark: Mark) -> None:
        """Go on reading at a mark, as if all before it had been read; `decoder` is the caller's.

        It is the opened file that is read, whatever has its name by now.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        self._blocks.close()
        self._file.seek(0)
        self._blocks = _blocks(self, self._file, mark.offset)
        self._first = [], mark.offset
        self.mark = mark

    def blocks(self) -> Iterator[tuple[int, list[bytes]]]:
        """The lines after the header, without their newlines, some at a time, each time with the
        offset of the first; the trace is consumed.
        """
        lines, offset = self._first
        self._first = [], offset
        if lines:
            yield offset, lines
        yield from self._blocks

    def close(self) -> None:
        """Release the file; harmless when already done."""
        if self._file is not None:
            self._blocks.close()
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open(path: str) -> IO[bytes]:
    try:
        f = open(path, "rb", buffering=1 << 18)  # noqa: SIM115 - `Trace.close`
    except FileNotFoundError as e:
        raise TraceFormatError("no such file", hint=_RERECORD) from e
    except OSError as e:
        what = (e.strerror or str(e)).lower()
        raise TraceFormatError(what, hint=f"ls -ld {shlex.quote(path)}") from e
    return f


def _blocks(trace: Trace, raw: IO[bytes], begin: int = 0) -> Generator[tuple[int, list[bytes]]]:
    """The file's lines without their newlines, decompressed, some at a time, each time with the
    offset of the first; damage ends the stream with a note, never an error.

    Args:
        trace: to note it in.
        raw: the file, at its beginning.
        begin: offset of the line to begin with.
    """
    head = raw.peek(4)[:4] if isinstance(raw, io.BufferedReader) else b""
    f: Any = raw
    if head[:2] == b"\x1f\x8b":
        f = gzip.GzipFile(fileobj=raw)
    elif head == _ZSTD:
        f = zstd.ZstdFile(raw)
    parts: list[bytes] = []
    offset, size = begin, 0
    damage: Exception | None = None
    while damage is None:
        try:
            if begin:
                f.seek(begin)
                begin = 0
            data = f.read1(_BLOCK)
        except (OSError, EOFError, zlib.error, zstd.ZstdError) as e:
            data, damage = b"", e
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            block = b"".join([*parts, whole])
            yield offset, block.split(b"\n")
            offset += len(block) + 1
            parts, size = [], 0
        elif not data:
            break
        parts.append(rest)
        size += len(rest)
        if size >= MAX_LINE:
            raise TraceFormatError(f"a line is longer than {MAX_LINE >> 20} MiB")
    if size:
        yield offset, [b"".join(parts)]
    # A compressed file cut short: every whole block before the cut has been read, and the
    # footer is missing. Damage behind the footer is damage all the same.
    if not (damage is None or isinstance(damage, EOFError) or trace.footer is None):
        trace.problem(0, f"damaged compression: {damage}")
