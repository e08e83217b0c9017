# SPDX-License-Identifier: GPL-2.0-or-later
"""The writer process: reads the tracer's pipe, feeds the scribe, appends to the trace file.

It is detached from the tracer (two forks), because the tracer's waitpid(-1) must see tracees only.
It ends when the pipe does, whoever closed it: a killed tracer leaves a footer that says so. When
the disk is full it says so (an attach leaves then) and goes on reading, so that the target runs on,
and writes nothing more: the file has no footer and is incomplete by that.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from memtrace.collect import wire
from memtrace.collect.channel import Channel, Wishes
from memtrace.collect.redact import Redaction
from memtrace.collect.scribe import Scribe
from memtrace.trace.codec import encode_footer
from memtrace.trace.records import Footer
from memtrace.trace.stream import BLOCK, Output

FLUSH_NS = 150_000_000
KILLED = "the tracer was killed"
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031


@dataclass(frozen=True, slots=True)
class Result:
    """What the writer says at its end.

    `error` is why the trace could not be written whole (None: it was). `reason` is the footer's.
    `heap_peak`: None if no call told where a heap ends.
    """

    error: str | None
    reason: str
    counts: dict[str, int]
    bytes_written: int
    heap_peak: int | None
    vm_peak: int
    rss_peak: int
    grown: int
    drift: list[tuple[int, int]]


class Writer:
    """The tracer's handle on its writer process.

    Args:
        output: a trace with its header written; it is closed here.
        redaction: what the header was redacted with, None if it was not.
        heir: (reading, writing) end of a pipe: if the tracer is killed, the writer reads it to its
            end, for who writes to it has the target in hand.
    """

    def __init__(
        self,
        output: Output,
        redaction: Redaction | None = None,
        heir: tuple[int, int] | None = None,
    ) -> None:
        self.wishes = Wishes()
        read_end, write_end = os.pipe()
        self._status, status = os.pipe()
        try:
            import fcntl

            fcntl.fcntl(write_end, _F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            pass  # fs.pipe-max-size: the default holds 64 KiB, which only means more switches
        self.channel = Channel(write_end, self.wishes)
        middle = os.fork()
        if middle == 0:
            try:
                if os.fork() == 0:
                    os.close(write_end)
                    os.close(self._status)
                    scribe = Scribe(self.wishes.ask, redaction=redaction)
                    _main(
                        read_end, status, output, scribe, self.channel.start_ns, self.wishes, heir
                    )
            finally:
                os._exit(0)
        os.waitpid(middle, 0)
        os.close(read_end)
        os.close(status)
        os.close(output.fd)

    def finish(self, reason: str, meanwhile: Callable[[], object] | None = None) -> Result:
        """Say that the trace is whole, wait for the writer, return what it has to say.

        Args:
            reason: why the recording ended, for the footer.
            meanwhile: called again and again while waiting.
        """
        self.channel.send(wire.life({"rec": "end", "t": self.channel.now(), "reason": reason}))
        self.channel.close()
        parts = []
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        if self.channel.stuck:
            return Result("the writer did not get on", "", {}, 0, 0, 0, 0, 0, [])
        while True:
            while meanwhile is not None and not poll.poll(1):
                meanwhile()
            part = os.read(self._status, 65536)
            if not part:
                break
            parts.append(part)
        os.close(self._status)
        try:
            return msgspec.json.decode(b"".join(parts), type=Result)
        except msgspec.MsgspecError:
            return Result("the writer process died", "", {}, 0, 0, 0, 0, 0, [])


def _main(
    fd: int, status: int, output: Output, scribe: Scribe, start_ns: int, wishes: Wishes,
    heir: tuple[int, int] | None,
) -> None:  # fmt: skip
    """The body of the writer process. Never returns."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    if heir is not None:
        os.close(heir[1])
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):  # the target's pipes must see their end when the target closes them
        os.dup2(null, standard)
    try:
        result = _write_trace(fd, output, scribe, start_ns, wishes)
    except Exception as e:  # noqa: BLE001 - the last resort: said to the user, and the target runs on
        wishes.fail()
        result = Result(f"the writer failed: {type(e).__name__}: {e}", "", {}, 0, 0, 0, 0, 0, [])
        while os.read(fd, 1 << 20):
            pass
    with contextlib.suppress(OSError):
        os.write(status, msgspec.json.encode(result))
    if heir is not None and result.reason == KILLED:
        os.set_blocking(heir[0], True)
        while os.read(heir[0], 1 << 16):
            pass
    os._exit(0)


def _write_trace(fd: int, output: Output, scribe: Scribe, start_ns: int, wishes: Wishes) -> Result:
    scribe.start(start_ns)
    parser = wire.Parser()
    end: dict[str, Any] | None = None
    error: str | None = None
    lines, size, flushed = scribe.lines, 0, time.monotonic_ns()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        data = os.read(fd, 1 << 20) if poll.poll(100 if lines else None) else None
        if data:
            for message in parser.feed(data):
                if isinstance(message, wire.LifeMessage) and message.fields["rec"] == "end":
                    end = message.fields
                else:
                    scribe.feed(message)
        now = time.monotonic_ns()
        size = sum(map(len, lines)) if len(lines) < 64 else BLOCK
        if lines and (data is None or not data or size >= BLOCK or now - flushed > FLUSH_NS):
            block = b"".join(lines)
            lines.clear()
            flushed = now
            if error is None:
                error = _attempt(output, block)
                if error is not None:
                    wishes.fail()
        if data == b"":
            break
    reason = end["reason"] if end is not None else KILLED
    if error is None:
        counts = {**scribe.counts, "records": scribe.seq}
        stop = end["t"] if end is not None else scribe.now
        footer = Footer(stop=stop, complete=end is not None, reason=reason, counts=counts)
        error = _attempt(output, encode_footer(footer)) or _close(output)
    return Result(
        error, reason, {**scribe.counts, "records": scribe.seq}, output.bytes_written,
        scribe.heap_peak, scribe.vm_peak, scribe.rss_peak, scribe.grown, scribe.drift,
    )  # fmt: skip


def _attempt(output: Output, block: bytes) -> str | None:
    try:
        output.write(block)
    except OSError as e:
        return f"cannot write {output.path}: {(e.strerror or str(e)).lower()}"
    return None


def _close(output: Output) -> str | None:
    try:
        output.close()
    except OSError as e:
        return f"cannot write {output.path}: {(e.strerror or str(e)).lower()}"
    return None
