# SPDX-License-Identifier: GPL-2.0-or-later
"""The reader: whatever the file holds, it is read as far as it goes or refused with a sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from memtrace.replay.engine import replay
from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.errors import TraceFormatError
from memtrace.trace.reader import START, Mark, Trace
from memtrace.trace.records import Call, Exec, Footer, Gone, Header, Record, Unknown
from memtrace.trace.stream import Output

HEADER = encode_header(Header(calls=["brk", "mmap"]))
BODY = [
    encode(Exec(t=5, pid=7, tid=7, mm=1, start_brk=0x10000, maps=["1000-2000 r-xp 0 fe:00 3 /a"])),
    encode(Call(10, 2, 7, 1, 0, [0], 0x10000, None, 1, 1)),
    encode(Call(10, 2, 7, 1, 1, [0, 4096, 3, 34, -1, 0], 0x20000, None, 2, 1)),
    encode(Gone(t=40, mm=1)),
]
FOOTER = encode_footer(Footer(stop=50, complete=True, reason="done"))
WHOLE = HEADER + b"".join(BODY) + FOOTER


def read(path: Path, data: bytes) -> tuple[Trace, list[tuple[int, int, Record]]]:
    path.write_bytes(data)
    trace = Trace(path)
    return trace, list(trace.records())


def test_a_whole_trace_is_json_and_numbers_its_records_by_line(tmp_path: Path) -> None:
    assert len(json.loads(WHOLE)) == 6
    trace, records = read(tmp_path / "t", WHOLE)
    assert [(seq, t) for seq, t, _ in records] == [(1, 5), (2, 15), (3, 25), (4, 40)]
    assert trace.complete
    assert trace.footer == Footer(stop=50, complete=True, reason="done")


def test_cut_at_every_byte_the_whole_lines_before_the_cut_are_read(tmp_path: Path) -> None:
    ends = [len(HEADER)]
    for line in BODY:
        ends.append(ends[-1] + len(line))
    for cut in range(len(WHOLE)):
        data = WHOLE[:cut]
        # A header without its newline is whole already; so is a record without `,` and newline.
        if cut < len(HEADER) - 2:
            with pytest.raises(TraceFormatError):
                read(tmp_path / "t", data)
            continue
        trace, records = read(tmp_path / "t", data)
        assert len(records) == sum(1 for end in ends[1:] if cut >= end - 2), cut
        footer_read = cut >= len(WHOLE) - 3  # all of the footer but `\n]\n`
        assert trace.complete is footer_read, cut
        assert not trace.problems_total, cut


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_and_cut_gives_every_whole_block(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    out = Output(str(path))
    sizes = []
    for block in (HEADER, *BODY, FOOTER):
        out.write(block)
        sizes.append(out.bytes_written)
    out.close()
    data = path.read_bytes()
    assert len(read(path, data)[1]) == 4
    for cut in range(sizes[0], len(data)):
        trace, records = read(path, data[:cut])
        whole_blocks = sum(1 for size in sizes[1:5] if cut >= size)
        assert len(records) >= whole_blocks, cut
        assert len(records) <= 4
        assert not trace.problems_total


def test_gzip_with_damage_inside_is_incomplete(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(HEADER + BODY[0] * 2000 + FOOTER))
    data[len(data) // 2] ^= 0xFF
    trace, _ = read(tmp_path / "t", bytes(data))
    assert not trace.complete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"[",
        b"[]",
        b"{}",
        b"null",
        b"\x7fELF\x02\x01\x01" + bytes(200),
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        b'{"traceEvents": [{"name": "x"}]}',
        b'[{"pid": 1, "ts": 2}]\n',
        b'[{"memtrace": "report", "format": 1}]\n',
        WHOLE.decode().encode("utf-16"),
        b"\x1f\x8b",
        b"\x1f\x8b" + b"garbage" * 9,
        b"\x28\xb5\x2f\xfd",
        b"\x28\xb5\x2f\xfd" + b"garbage" * 9,
        gzip.compress(b"hello"),
        b"[" * 100_000,
        b"\x00" * 5000,
    ],
    ids=range(19),
)
def test_a_foreign_file_is_refused_with_a_sentence_and_a_remedy(
    tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(TraceFormatError) as e:
        read(tmp_path / "t", data)
    assert str(tmp_path / "t") in e.value.message
    assert e.value.hint.startswith("memtrace run")
    assert e.value.exit_code == 3


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="no such file"):
        Trace(tmp_path / "absent")
    with pytest.raises(TraceFormatError, match="is a directory"):
        Trace(tmp_path)


def test_a_newer_format_is_refused_with_the_upgrade(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="format 2") as e:
        read(tmp_path / "t", HEADER.replace(b'"format":1', b'"format":2'))
    assert e.value.hint.startswith("pip install")


HOSTILE = [
    b"[1,1,7,1,1,[0,1" + b"0" * 5000 + b",3,34,-1,0],4096],\n",
    b"[1,1,7,1,99,[0],0],\n",  # no such call
    b"[1,1,7,1,-1,[0],0],\n",
    b"[1,1,7,1],\n",
    b'[1,1,7,1,1,"x",0],\n',
    b"[" * 50_000 + b"]" * 50_000 + b",\n",
    b'{"rec":"exec"},\n',
    b'{"rec":"snap","t":"now","mm":1,"pid":7,"tid":7,"why":"x"},\n',
    b'{"rec":5},\n',
    b'{"a":1},\n',
    b"\xff\xfe\x00,\n",
    b'"text",\n',
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_line_that_is_no_record_is_named_and_the_rest_is_read(
    tmp_path: Path, line: bytes
) -> None:
    data = HEADER + BODY[0] + line + b"".join(BODY[1:]) + FOOTER
    trace, records = read(tmp_path / "t", data)
    assert [seq for seq, _, _ in records] == [1, 3, 4, 5]
    assert trace.problems[0][0] == 3  # its line, counted from 1
    assert not trace.complete


ODD = [
    b"[1,1,7,1,1,[0,18446744073709551616,3,34,-1,0],4096],\n",  # beyond 64 bits
    b"[1,1,7,1,1,[0,18446744073709551615,3,34,-1,0],4096],\n",
    b"[1,1,7,1,1,[0,-4096,3,34,-1,0],4096],\n",
    b"[1,1,7,1,1,[0,4096,3,34,-1,0],-9223372036854775808],\n",
    b"[1,1,7,1,1,[0,9223372036854775807,3,50,-1,0],9223372036854775807],\n",
    b"[1,1,7,1,1,[],4096],\n",
    b"[1,1,7,1,0,[],4096],\n",
    b"[1,1,7,1,0,[1],18446744073709551615],\n",
    b"[-9223372036854775808,1,7,1,0,[1],5,999],\n",
    b'[1,1,7,1,1,[0,4096,3,1,3,0],8192,null,1,1,{"f":12345}],\n',
    b'[1,1,7,1,1,[0,4096,3,1,3,0],8192,null,1,1,{"x":[0,99999,["no map"]]}],\n',
    b'[1,1,7,1,1,[0,4096,3,1,3,0],8192,null,1,1,{"x":[9,1,["9-1 rw-p 0 0:0 0"]]}],\n',
    b'[1,1,7,1,1,[0,4096,3,1,3,0],8192,null,-5,-5,{"h":[[-1,7],[99,1],[0,0]]}],\n',
    b"[1,1,7,99,1,[0,4096,3,34,-1,0],8192],\n",
    b'{"rec":"gone","t":0,"mm":77},\n',
    b'{"rec":"gone","t":0,"mm":1},\n',
    b'{"rec":"fork","t":0,"pid":7,"tid":7,"mm":1,"child":7,"child_mm":1},\n',
    b'{"rec":"fork","t":0,"pid":7,"tid":7,"mm":55,"child":8,"child_mm":56},\n',
    b'{"rec":"clone","t":0,"pid":7,"tid":7,"mm":55,"child":8,"child_pid":9},\n',
    b'{"rec":"exec","t":0,"pid":7,"tid":7,"mm":1},\n',
    b'{"rec":"exec","t":0,"pid":7,"tid":7,"mm":2,"maps":["x","y"]},\n',
    b'{"rec":"exec","t":0,"pid":7,"tid":7,"mm":2,"maps":["5-9 rw-p 0 0:0 0","1-7"]},\n',
    b'{"rec":"snap","t":0,"mm":1,"pid":7,"tid":7,"why":"x","maps":["?"]},\n',
    b'{"rec":"snap","t":0,"mm":1,"pid":7,"tid":7,"why":"x","maps":["-9-zz rw-p 0 0:0 0"]},\n',
    b'{"rec":"snap","t":0,"mm":44,"pid":7,"tid":7,"why":"x"},\n',
    b'{"rec":"lost","t":0,"why":"x","count":-3},\n',
    b'{"rec":"later","t":"?","deep":' + b"[" * 500 + b"]" * 500 + b"},\n",
    FOOTER[:-3] + b"\n",
]


@pytest.mark.parametrize("line", ODD, ids=range(len(ODD)))
def test_a_record_with_odd_values_neither_crashes_nor_ends_the_replay(
    tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "t"
    path.write_bytes(HEADER + BODY[0] + line + b"".join(BODY[1:]) + FOOTER)
    with Trace(path) as trace:
        result = replay(trace)
    assert result.last_seq >= 4
    assert result.processes[0].mm == 1


def test_an_unknown_record_is_kept_and_an_unknown_field_ignored(tmp_path: Path) -> None:
    later = b'{"rec":"later","t":9,"what":[1]},\n'
    gone = b'{"rec":"gone","t":40,"mm":1,"new":true},\n'
    _, records = read(tmp_path / "t", HEADER + later + gone + FOOTER)
    assert records[0][2] == Unknown("later", 9, {"rec": "later", "t": 9, "what": [1]})
    assert records[1][2] == Gone(t=40, mm=1)


def test_columns_go_by_name(tmp_path: Path) -> None:
    columns = ["ret", "args", "call", "mm", "tid", "dur", "dt", "vm", "colour"]
    header = encode_header(Header(calls=["brk"], columns=columns))
    trace, records = read(tmp_path / "t", header + b'[4096,[1],0,2,3,4,5,6,"red"],\n' + FOOTER)
    assert records == [(1, 5, Call(5, 4, 3, 2, 0, [1], 4096, vm=6))]
    assert trace.complete


def test_a_record_behind_the_footer_makes_the_trace_incomplete(tmp_path: Path) -> None:
    footer = FOOTER.splitlines()[0] + b",\n"
    trace, records = read(tmp_path / "t", HEADER + BODY[0] + footer + BODY[3])
    assert len(records) == 2
    assert not trace.complete


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_seeking_goes_on_in_the_file_that_was_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.json{suffix}"
    output = Output(str(path))
    output.write(WHOLE)
    output.close()
    with Trace(path) as trace:
        (tmp_path / "another").write_bytes(HEADER + FOOTER)
        (tmp_path / "another").rename(path)
        trace.seek(Mark(len(HEADER) + len(BODY[0]), 1, 5))
        assert [(seq, t) for seq, t, _ in trace.records()] == [(2, 15), (3, 25), (4, 40)]
        with pytest.raises(ValueError, match="closed"):
            trace.seek(START)
