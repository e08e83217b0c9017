# SPDX-License-Identifier: GPL-2.0-or-later
"""From the tracer's end of the pipe to the file: through the real pipe, process and disk."""

from __future__ import annotations

import errno
import gzip
import io
import mmap
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.collect.messages import call, encoded

from memtrace.collect import wire
from memtrace.collect.abi import NAMES
from memtrace.collect.channel import BLOCK, Channel, Wishes, wish_slot
from memtrace.collect.writing import Result, Writer
from memtrace.trace import zstd
from memtrace.trace.codec import encode_header
from memtrace.trace.errors import TraceFormatError
from memtrace.trace.reader import Trace
from memtrace.trace.records import Call, Exec, Header
from memtrace.trace.stream import Output

PAGE, ANON = 4096, 0x7F1000000000
MAPS = b"400000-402000 r--p 00001000 fe:00 11 /bin/prog\n"
HEADER = encode_header(Header(engine="test", calls=list(NAMES)))


# -- the tracer's end ---------------------------------------------------------------------------


def drained(fd: int) -> bytes:
    """What is in a pipe whose writing end is closed."""
    with open(fd, "rb") as f:
        return f.read()


def test_messages_arrive_whole_and_in_order() -> None:
    read, write = os.pipe()
    channel = Channel(write, Wishes())
    out = channel.out
    channel.send(b"one")
    channel.send(b"two")
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):  # gathered: one system call for many messages
        os.read(read, 1)
    channel.send(b"x" * BLOCK)
    assert os.read(read, 6) == b"onetwo"
    channel.send(b"last")
    channel.close()
    os.set_blocking(read, True)
    assert drained(read) == b"x" * BLOCK + b"last"
    assert channel.out is out  # the loop keeps a reference to it
    assert not channel.broken


def test_a_dead_writer_ends_the_recording_only() -> None:
    read, write = os.pipe()
    channel = Channel(write, Wishes())
    assert not channel.in_vain()
    os.close(read)
    assert channel.in_vain()  # before anything is written
    channel.send(b"x" * (BLOCK + 1))
    assert channel.broken
    assert not channel.out
    for _ in range(3):
        channel.send(b"y" * BLOCK)
        channel.flush()
        assert not channel.out  # nothing is hoarded either
    channel.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write)


def test_a_broken_channel_no_longer_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def write(fd: int, data: bytes) -> int:
        written.append(len(data))
        if len(written) == 2:
            raise OSError(errno.EPIPE, "Broken pipe")
        return 1

    channel = Channel(99, Wishes())
    channel.send(b"abc")
    monkeypatch.setattr(os, "write", write)
    channel.flush()
    assert (written, channel.broken) == ([3, 2], True)  # a short write is carried on
    channel.send(b"abc")
    channel.flush()
    assert len(written) == 2


def test_a_wish_reaches_the_tracer_from_another_process() -> None:
    wishes = Wishes()
    channel = Channel(-1, wishes)
    child = os.posix_spawn("/bin/true", ["true"], {})  # the page is not for whoever comes by
    os.waitpid(child, 0)
    wishes.ask(5)
    wishes.ask(mmap.PAGESIZE + 6)
    assert [i for i in range(mmap.PAGESIZE) if channel.wishes[i]] == [5, 6]
    assert wish_slot(mmap.PAGESIZE + 6) == 6


# -- the writer process -------------------------------------------------------------------------


def begin(path: Path) -> Writer:
    output = Output(str(path))
    output.write(HEADER)
    return Writer(output)


def send(writer: Writer, calls: int = 3) -> None:
    """An exec and some mmaps of one page each, one under the other."""
    channel = writer.channel
    fields = {"rec": "exec", "t": 0, "mm": 1, "pid": 100, "tid": 100}
    channel.send(wire.life(fields, MAPS))
    for i in range(calls):
        t = channel.start_ns + 1000 * (i + 1)
        args = [0, PAGE, 3, 0x22, 0xFFFFFFFF, 0]
        low = ANON - i * PAGE
        statm = b"%d 1 1 1 0 1 0\n" % (2 + i + 1)
        channel.send(encoded(call("mmap", args, low, t=(t - 10, t), statm=statm)))


@pytest.mark.parametrize("suffix", ["json", "json.gz", "json.zst"])
def test_a_recording_from_end_to_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    writer = begin(path)
    send(writer)
    result = writer.finish("the last process ended")
    assert result == Result(
        error=None, reason="the last process ended",
        counts={"records": 4, "calls": 3, "snapshots": 0, "exact": 0, "lost": 0, "overlaps": 0},
        bytes_written=path.stat().st_size, heap_peak=None, vm_peak=5, rss_peak=1, grown=0, drift=[],
    )  # fmt: skip
    trace = Trace(path)
    assert [type(r) for _, _, r in trace.records()] == [Exec, Call, Call, Call]
    assert trace.complete
    assert trace.footer is not None
    assert trace.footer.counts == result.counts
    assert trace.footer.reason == "the last process ended"
    assert trace.footer.stop  # the time of the end itself


def wait_for(writer: Writer) -> None:
    """Until the writer process has said its last word."""
    while os.read(writer._status, 65536):
        pass
    os.close(writer._status)


def test_a_killed_tracer_leaves_a_footer_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    writer = begin(path)
    send(writer)
    # In the middle of a message: that one is lost, nothing else is.
    writer.channel.send(encoded(call("munmap", [ANON, PAGE], 0))[:50])
    writer.channel.close()
    wait_for(writer)
    trace = Trace(path)
    assert len(list(trace.records())) == 4
    assert not trace.complete
    assert trace.footer is not None
    assert trace.footer.complete is False
    assert trace.footer.reason == "the tracer was killed"
    assert trace.footer.stop == 3000  # the last record's time
    assert not trace.problems


def test_records_reach_the_file_while_the_target_runs(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    writer = begin(path)
    send(writer)
    writer.channel.flush()
    patience = time.monotonic() + 30
    while path.read_bytes().count(b"\n") < 5 and time.monotonic() < patience:
        time.sleep(0.01)
    trace = Trace(path)
    assert len(list(trace.records())) == 4  # the writer is still waiting for more
    assert trace.footer is None
    writer.finish("done")


def test_a_full_disk_is_said_and_never_blocks() -> None:
    output = Output("/dev/full")
    writer = Writer(output)
    assert not writer.channel.in_vain()
    send(writer, 20_000)  # far more than the pipe holds
    assert writer.channel.in_vain()
    assert not writer.channel.broken
    result = writer.finish("done")
    assert result.error == "cannot write /dev/full: no space left on device"
    assert result.counts["calls"] == 20_000
    assert result.bytes_written == 0


def test_a_disk_that_fills_up_leaves_no_footer(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "t.json"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        writer = begin(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    send(writer, 20_000)
    result = writer.finish("done")
    assert result.error == f"cannot write {path}: file too large"
    trace = Trace(path)
    read = len(list(trace.records()))
    assert 100 < read < 20_000
    assert trace.footer is None
    assert not trace.complete


class OnceFull(Output):
    """A disk that has room again after one block was lost."""

    lost = False

    def write(self, block: bytes) -> None:
        if not self.lost and block != HEADER:
            self.lost = True
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(block)


def test_after_a_lost_block_nothing_more_is_written(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    output = OnceFull(str(path))
    output.write(HEADER)
    writer = Writer(output)
    send(writer)
    assert writer.finish("done").error == f"cannot write {path}: no space left on device"
    assert path.read_bytes() == HEADER


def test_a_writer_that_fails_says_so_and_goes_on_reading(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    writer = begin(path)
    send(writer)
    writer.channel.send(b"\xff" * 100)  # no message
    for _ in range(100):
        writer.channel.send(b"z" * BLOCK)
    result = writer.finish("done")
    assert not writer.channel.broken
    assert result.error == "the writer failed: ValueError: message of kind 255"
    trace = Trace(path)
    list(trace.records())
    assert trace.footer is None


def test_a_writer_that_is_killed_is_said(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    writer = begin(path)
    send(writer)
    writer.channel.flush()
    os.kill(writer_pid(writer), signal.SIGKILL)
    result = writer.finish("done")
    assert result.error == "the writer process died"
    trace = Trace(path)
    list(trace.records())
    assert not trace.complete


def writer_pid(writer: Writer) -> int:
    """The process that has the other end of the pipe open; it is nobody's child any more."""
    pipe = os.readlink(f"/proc/self/fd/{writer.channel.fd}")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if pipe in links and int(pid) != os.getpid():
            return int(pid)
    raise AssertionError("no writer process")


def test_the_writer_is_no_child_and_holds_none_of_our_files(tmp_path: Path) -> None:
    writer = begin(tmp_path / "t.json")
    pid = writer_pid(writer)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    patience = time.monotonic() + 30
    standard: set[str] = set()
    while standard != {"/dev/null"} and time.monotonic() < patience:
        standard = {os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)}
    assert standard == {"/dev/null"}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a terminal sends to all
        os.kill(pid, number)
    assert writer.finish("done").error is None


# -- the file -----------------------------------------------------------------------------------


def test_an_existing_trace_is_kept(tmp_path: Path) -> None:
    path, old = tmp_path / "t.json", tmp_path / "t.json.old"
    path.write_text("first")
    output = Output(str(path))
    output.write(b"second")
    output.close()
    assert (path.read_text(), old.read_text(), output.kept_old) == ("second", "first", True)
    Output(str(path)).close()
    assert old.read_text() == "second"
    assert path.stat().st_mode & 0o777 == 0o600


def test_discarding_puts_back_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("first")
    output = Output(str(path))
    output.write(b"second")
    output.close()
    output.discard()
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["t.json"]


def test_discarding_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    (tmp_path / "t.json.old").write_text("somebody's")
    output = Output(str(path))
    output.close()
    output.discard()
    output.discard()
    assert not path.exists()
    assert (tmp_path / "t.json.old").read_text() == "somebody's"


def test_a_special_file_is_written_to_and_not_moved(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = Output(str(path))
    output.write(b"hello")
    assert os.read(reader, 10) == b"hello"
    output.close()
    output.discard()
    assert os.listdir(tmp_path) == ["fifo"]
    os.close(reader)


def test_an_output_that_cannot_be_created(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Output(str(tmp_path / "missing" / "t.json"))
    with pytest.raises(IsADirectoryError):
        Output(str(tmp_path))


BLOCKS = [HEADER, *(bytes([65 + i]) * 3000 + b"\n" for i in range(5))]


def blocks_of(path: Path) -> list[int]:
    """Write BLOCKS; where each ends in the file."""
    output = Output(str(path))
    ends = []
    for block in BLOCKS:
        output.write(block)
        ends.append(output.bytes_written)
    output.close()
    return ends


@pytest.mark.parametrize("suffix", ["json", "json.gz", "json.zst"])
def test_the_whole_file_is_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    blocks_of(path)
    raw = path.read_bytes()
    if suffix.endswith("gz"):
        raw = gzip.decompress(raw)
    elif suffix.endswith("zst"):
        raw = zstd.ZstdFile(io.BytesIO(raw)).read()
    assert raw == b"".join(BLOCKS)


@pytest.mark.parametrize("suffix", ["json", "json.gz", "json.zst"])
def test_a_cut_file_gives_every_whole_block_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    ends = blocks_of(folder / f"t.{suffix}")
    whole = (folder / f"t.{suffix}").read_bytes()
    short = folder / "short"

    @given(st.sampled_from(ends) | st.integers(1, len(whole)))
    def cut(size: int) -> None:
        short.write_bytes(whole[:size])
        expected = sum(end <= size for end in ends)
        try:
            trace = Trace(short)
        except TraceFormatError:
            assert expected == 0
            return
        lines = [line + b"\n" for _, lines in trace.blocks() for line in lines]
        trace.close()
        assert [BLOCKS[0], *lines][:expected] == BLOCKS[:expected]

    cut()


def test_a_writer_that_does_not_get_on_is_given_up_by_the_impatient() -> None:
    """Nobody reads, and the end that reads is open: as when it is stopped, or its disk hangs."""
    reader, into = os.pipe()
    channel = Channel(into, Wishes())
    channel.be_impatient(20)
    channel.send(bytes(10))
    channel.flush()
    assert not channel.stuck
    channel.send(bytes(1 << 21))
    assert channel.stuck
    assert channel.in_vain()
    channel.send(bytes(1 << 21))  # at once
    channel.close()
    os.close(reader)
