# SPDX-License-Identifier: GPL-2.0-or-later
"""Every record survives the way to a line and back."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from memtrace.trace.codec import Decoder, encode
from memtrace.trace.mapping import Mapping, format_mapping, parse_line
from memtrace.trace.records import (
    Attach,
    Call,
    Clone,
    Exec,
    Exit,
    Ext,
    FileId,
    Fork,
    Gone,
    Header,
    Libc,
    Lost,
    Overlap,
    Site,
    Snap,
)

signed = st.integers(-(2**63), 2**63 - 1)
unsigned = st.integers(0, 2**64 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
small = st.integers(0, 1 << 40)
optional = st.none() | small
file_ids = st.builds(FileId, small, text, small, text)
places = st.tuples(st.none() | small | file_ids, signed)
sites = st.builds(Site, small, places, st.none() | places, st.none() | places)
headers = st.none() | st.lists(st.tuples(small, unsigned), max_size=3)
lines = st.lists(text, max_size=3)
exts = st.builds(
    Ext,
    f=st.none() | small | file_ids,
    x=st.none() | st.tuples(unsigned, unsigned, lines),
    h=headers,
    abi=st.none() | text,
    raw=st.none() | text,
    name=st.none() | text,
)
calls = st.builds(
    Call,
    dt=signed, dur=small, tid=small, mm=small, call=st.integers(0, 4),
    args=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=6),
    ret=st.none() | signed, site=st.none() | small | sites, vm=optional, rss=optional,
    ext=st.none() | exts,
)  # fmt: skip
who = {"t": small, "h": headers, "pid": small, "tid": small, "mm": small}
begun = {
    "ppid": optional, "exe": text, "argv": lines, "env": st.dictionaries(text, text, max_size=2),
    "at_secure": st.none() | st.booleans(), "personality": small, "abi": text, "start_brk": small,
    "start_stack": small, "rlimits": st.dictionaries(text, optional, max_size=2), "vm": optional,
    "rss": optional, "maps": lines,
}  # fmt: skip
ranges = st.lists(st.tuples(unsigned, unsigned), max_size=3)
lives = st.one_of(
    st.builds(Exec, **who, **begun, old_mm=optional),
    st.builds(Attach, t=small, h=headers, pid=small, mm=small, **begun,
              tids=st.lists(small, max_size=3), stacks=ranges, dontfork=ranges, growsdown=ranges,
              chunks=ranges, groups=st.lists(st.tuples(unsigned, unsigned, unsigned), max_size=3),
              age_ns=optional, env_lost=st.booleans(), why=text),
    st.builds(Fork, **who, child=small, child_mm=small),
    st.builds(Clone, **who, child=small, child_pid=small, flags=optional, stack=optional),
    st.builds(Exit, **who, code=st.none() | signed, signal=optional),
    st.builds(Gone, t=small, h=headers, mm=small),
    st.builds(Snap, **who, why=text, vm=optional, rss=optional, minflt=optional, majflt=optional,
              hwm=optional, maps=lines),
    st.builds(Libc, t=small, h=headers, mm=small, path=text, name=text, version=st.none() | text),
    st.builds(Overlap, t=small, h=headers, mm=small, tids=st.lists(small, max_size=3)),
    st.builds(Lost, t=small, h=headers, why=text, mm=optional, count=optional),
)  # fmt: skip


@given(st.one_of(calls, lives))
def test_a_record_is_read_back_as_it_was_written(record: Call) -> None:
    line = encode(record)
    assert line.endswith(b",\n")
    assert line.count(b"\n") == 1
    assert Decoder(Header(calls=list("abcde"))).decode(line) == record


@given(st.one_of(calls, lives))
def test_a_line_without_its_comma_is_json_and_the_same_record(record: Call) -> None:
    line = encode(record)[:-2]
    json.loads(line)
    assert Decoder(Header(calls=list("abcde"))).decode(line) == record


@given(st.lists(sites, min_size=1, max_size=4))
def test_what_a_site_defines_is_found_under_its_number(defined: list[Site]) -> None:
    decoder = Decoder(Header(calls=["brk"]))
    for site in defined:
        decoder.decode(encode(Call(0, 0, 1, 1, 0, [0], 0, site)))
        later = decoder.decode(encode(Call(0, 0, 1, 1, 0, [0], 0, site.id)))
        assert isinstance(later, Call)
        assert decoder.site(later) == site


paths = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=20)


@given(
    st.builds(
        Mapping,
        start=st.integers(0, 2**63),
        end=st.integers(2**63 + 1, 2**64 - 1),
        perms=st.from_regex(r"[r-][w-][x-][ps]", fullmatch=True),
        offset=unsigned,
        dev=st.from_regex(r"[0-9a-f]{2}:[0-9a-f]{2}", fullmatch=True),
        ino=small,
        path=st.just("") | paths,
    )
)
def test_a_line_of_maps_survives(mapping: Mapping) -> None:
    line = format_mapping(mapping)
    assert parse_line(line) == mapping
    assert parse_line(" ".join(line.split(None, 5))) == mapping
