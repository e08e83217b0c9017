# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls written in any of strace's forms and read again: whole, in pieces, the short way or not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.collect.strace.told import LOGS

from memtrace.collect.strace import plain
from memtrace.collect.strace.events import Called, Entered, Event, Execed, Forked, Named, Unreadable
from memtrace.collect.strace.parser import Parser

# What strace prints, written anew: names in the order of its tables.
_PROT = {1: "PROT_READ", 2: "PROT_WRITE", 4: "PROT_EXEC", 8: "PROT_SEM"}
_MAP = {0x10: "MAP_FIXED", 0x20: "MAP_ANONYMOUS", 0x4000: "MAP_NORESERVE", 0x20000: "MAP_STACK"}
_TYPE = {1: "MAP_SHARED", 2: "MAP_PRIVATE", 3: "MAP_SHARED_VALIDATE"}
_MREMAP = {1: "MREMAP_MAYMOVE", 2: "MREMAP_FIXED", 4: "MREMAP_DONTUNMAP"}
_ADVICE = {0: "MADV_NORMAL", 4: "MADV_DONTNEED", 10: "MADV_DONTFORK", 14: "MADV_HUGEPAGE"}
_ERRORS = {12: "ENOMEM (Cannot allocate memory)", 22: "EINVAL (Invalid argument)"}
_INTERRUPTED = "ERESTARTSYS (To be restarted if SA_RESTART is set)"

_address = st.integers(0, (1 << 47) - 1).map(lambda n: n << 0)
_length = st.integers(0, 1 << 44)
_path = st.text(st.characters(blacklist_categories=["Cs"], min_codepoint=1), min_size=1).map(
    lambda s: "/" + s
)


@dataclass(frozen=True)
class Form:
    """Options of strace."""

    style: str  # -X
    prefix: str
    clock: str
    took: bool  # -T
    names: bool  # -N
    cut: bool  # another thread writes in between


_forms = st.builds(
    Form,
    st.sampled_from(["raw", "abbrev", "verbose"]),
    st.sampled_from(["", "number", "pid", "comm"]),
    st.sampled_from(["", "-t", "-tt", "-ttt", "ns", "-r"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


def _flags(value: int, names: dict[int, str], style: str, zero: str = "0") -> str:
    if style == "raw":
        return f"{value:#x}" if value else "0"
    left, shown = value, []
    for bit, name in names.items():
        if left & bit == bit:
            shown.append(name)
            left &= ~bit
    if left and shown:
        shown.append(f"{left:#x}")
    if not shown:
        return zero if not value else f"{value:#x} /* ???_??? */"
    text = "|".join(shown)
    return f"{value:#x} /* {text} */" if style == "verbose" else text


def _map_flags(value: int, style: str) -> str:
    kind, rest = value & 0xF, value & ~0xF
    text = _TYPE.get(kind, f"{kind:#x} /* MAP_??? */")
    huge = rest >> 26 & 0x3F
    rest &= ~(0x3F << 26)
    if rest:
        text += "|" + _flags(rest, _MAP, "abbrev").partition(" /*")[0]
    if huge:
        text += f"|{huge}<<MAP_HUGE_SHIFT"
    if style == "raw":
        return f"{value:#x}"
    return f"{value:#x} /* {text} */" if style == "verbose" else text


def _quote(path: str) -> str:
    """string_quote with the brackets of -y escaped."""
    out = []
    for byte in path.encode():
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        elif 32 <= byte < 127 and char not in "<>":
            out.append(char)
        else:
            out.append(
                {10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v", 12: "\\f"}.get(byte, f"\\{byte:03o}")
            )
    return "".join(out)


def _shown_address(value: int) -> str:
    return f"{value:#x}" if value else "NULL"


@st.composite
def _calls(draw: st.DrawFn) -> tuple[Called, Callable[[str], list[tuple[str, str]]]]:
    d = draw
    call = d(st.sampled_from(["brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "mlock"]))
    address, length = d(_address), d(_length)
    path: str | None = None
    shown: Callable[[str], list[tuple[str, str]]]
    start = [("addr", _shown_address(address)), ("length", str(length))]
    if call == "brk":
        args, shown = [address], lambda _: start[:1]
    elif call == "mmap":
        prot, fd = d(st.integers(0, 31)), d(st.integers(-1, 100))
        flags, offset = d(st.integers(0, (1 << 32) - 1)), d(st.integers(0, 1 << 40))
        path = d(st.none() | _path) if fd >= 0 else None
        deleted = bool(path) and d(st.booleans())
        where = "" if path is None else f"<{_quote(path)}>" + ("(deleted)" if deleted else "")
        args = [address, length, prot, flags, fd, offset]
        shown = lambda style: [  # noqa: E731
            *start,
            ("prot", _flags(prot, _PROT, style, "PROT_NONE" if style == "abbrev" else "0")),
            ("flags", _map_flags(flags, style)),
            ("fd", f"{fd}{where}"),
            ("offset", f"{offset:#x}" if offset else "0"),
        ]
        path = None if path is None else path + (" (deleted)" if deleted else "")
    elif call == "mremap":
        size, flags = d(_length), d(st.integers(0, 7))
        new = d(_address) if flags & 6 and flags & 1 else 0
        args = [address, length, size, flags, new]
        shown = lambda style: [  # noqa: E731
            ("old_address", start[0][1]),
            ("old_size", start[1][1]),
            ("new_size", str(size)),
            ("flags", _flags(flags, _MREMAP, style)),
            *([("new_address", _shown_address(new))] if flags & 6 and flags & 1 else []),
        ]
    elif call in {"mprotect", "madvise"}:
        last = d(st.integers(0, 127))
        args = [address, length, last]
        names = _PROT if call == "mprotect" else _ADVICE
        shown = lambda style: [*start, ("what", _one(last, names, style, single=call == "madvise"))]  # noqa: E731
    else:
        args, shown = [address, length], lambda _: start
    ret = d(st.one_of(st.just(0), _address, st.sampled_from([-12, -22, -512]), st.none()))
    called = Called(1, 1, 0, None, None, call, args, ret, path)
    return called, shown


def _one(value: int, names: dict[int, str], style: str, *, single: bool) -> str:
    if not single:
        return _flags(value, names, style, "PROT_NONE" if style == "abbrev" else "0")
    if style == "raw" or value not in names:
        return (f"{value:#x}" if value else "0") + ("" if style == "raw" else " /* MADV_??? */")
    return f"{value:#x} /* {names[value]} */" if style == "verbose" else names[value]


def _result(ret: int | None) -> str:
    if ret is None:
        return "?"
    if ret == -512:
        return f"? {_INTERRUPTED}"
    if ret < 0:
        return f"-1 {_ERRORS[-ret]}"
    return f"{ret:#x}" if ret else "0"


def _lead(form: Form, tid: int, seconds: int) -> str:
    prefix = {
        "": "", "number": f"{tid:<5} ", "pid": f"[pid {tid:5}] ", "comm": f'{tid}<a \\"b {{c(> ',
    }[form.prefix]  # fmt: skip
    day = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return prefix + {
        "": "", "-t": f"{day} ", "-tt": f"{day}.000007 ", "-ttt": f"{1700000000 + seconds}.000007 ",
        "ns": f"{1700000000 + seconds}.000007001 ", "-r": f"{seconds:6}.000007 ",
    }[form.clock]  # fmt: skip


def _ns(form: Form, seconds: int) -> int | None:
    second = 1_000_000_000
    return {
        "": None, "-t": seconds * second, "-tt": seconds * second + 7000,
        "-ttt": (1700000000 + seconds) * second + 7000,
        "ns": (1700000000 + seconds) * second + 7001,
        "-r": seconds * second + 7000,
    }[form.clock]  # fmt: skip


@given(_calls(), _forms)
@settings(max_examples=400, deadline=None)
def test_a_call_in_any_form_is_read_as_it_was(
    made: tuple[Called, Callable[[str], list[tuple[str, str]]]], form: Form
) -> None:
    called, shown = made
    tid = 0 if not form.prefix else 4711
    args = ", ".join(f"{n}={v}" if form.names else v for n, v in shown(form.style))
    cut = form.cut and bool(form.prefix)
    took = " <0.000123>" if form.took else ""
    head = f"{_lead(form, 4711, 100)}{called.call}({args}"
    tail = f") = {_result(called.ret)}{took}\n"
    if cut:
        text = (
            f"{head} <unfinished ...>\n{_lead(form, 4712, 0)}getpid() = 9\n"
            f"{_lead(form, 4711, 1)}<... {called.call} resumed>{tail}"
        )
    else:
        text = head + tail
    parser = Parser()
    events = parser.feed(text.encode()) + parser.close()
    if cut:
        entered = events.pop(0)
        assert isinstance(entered, Entered)
        assert (entered.call, entered.args, entered.tid) == (called.call, called.args, tid)
        assert isinstance(events.pop(0), Named)
    t0 = _ns(form, 100)
    t1 = None
    if t0 is not None and form.took:
        t1 = t0 + 123_000
    elif cut and form.clock:
        t1 = _ns(form, 101 if form.clock == "-r" else 1)
    if cut and form.clock in {"-t", "-tt"} and not form.took:
        t1 = _ns(form, 1)
    if cut and form.clock == "-r" and not form.took:
        t1 = 101_000_000_000 + 21_000
    called.line, called.since, called.tid, called.t0, called.t1 = 3 if cut else 1, 1, tid, t0, t1
    assert events == [called]


def _long_way(data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Event], list[object]]:
    with monkeypatch.context() as patch:
        for way in ("PLAIN", "BEGUN", "RESUMED"):
            patch.setattr(plain, way, re.compile(rb"(?!)"))
        return _read(data)


def _read(data: bytes) -> tuple[list[Event], list[object]]:
    parser = Parser()
    events = parser.feed(data) + parser.close()
    counts = [parser.lines, parser.ignored, parser.held, parser.unreadable]
    return events, [*counts, parser.clock, parser.epoch, parser.prefix]


_LINES = [line for log in LOGS for line in log.read_bytes().split(b"\n")]
_PLAIN = [line for line in _LINES if plain.PLAIN.fullmatch(line)]
_VALUES = [b"0", b"NULL", b"0x", b"00", b"08", b"-1", b"-0", b"0x7f3bc1a2f000", b"8192", b"1_0",
    b"PROT_READ", b"PROT_READ|PROT_WRITE", b"PROT_REED", b"0x3", b"MAP_PRIVATE|MAP_ANONYMOUS",
    b"MADV_DONTNEED", b"3</lib/x, y.so>", b"3</lib/\\74x>", b"0xffffffffffffffff", b"?", b"",
    b"99999999999999999999", b"0xFF", b" 1"]  # fmt: skip


@st.composite
def _nearly_plain(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from([b"brk", b"mmap", b"munmap", b"mprotect", b"madvise", b"mremap",
        b"close", b"openat", b"read", b"mmap2", b"syscall_0x9"]))  # fmt: skip
    args = draw(st.lists(st.sampled_from(_VALUES), max_size=7))
    lead = draw(st.sampled_from([b"", b"12 ", b"[pid 12] ", b"12 1700000000.000001 ", b"0012 ",
        b"12    12:00:00.000002 ", b"12 12:00:00 ", b"12345678 "]))  # fmt: skip
    end = draw(st.sampled_from([b"", b" <0.000001>", b" <1>", b" (DELAYED)", b"</x>", b" x"]))
    ret = draw(st.sampled_from(_VALUES))
    whole = lead + name + b"(" + b", ".join(args)
    return draw(
        st.sampled_from(
            [
                whole + b") = " + ret + end,
                whole + b" <unfinished ...>",
                whole + b", <... brk resumed> <unfinished ...>",
                lead + b"<... " + name + b" resumed>) = " + ret + end,
                lead + b"<... " + name + b" resumed> ) = " + ret + end,
            ]
        )
    )


@given(st.lists(_nearly_plain() | st.sampled_from(_LINES), min_size=1, max_size=12))
@settings(max_examples=600, deadline=None)
def test_the_short_way_reads_nothing_differently(lines: list[bytes]) -> None:
    data = b"\n".join([*lines, *lines])
    with pytest.MonkeyPatch.context() as patch:
        assert _read(data) == _long_way(data, patch)


def test_the_short_way_reads_the_plain_lines_of_stored_logs() -> None:
    """Else the comparison above would compare the long way with itself."""
    assert len(_PLAIN) > len(_LINES) // 4
    with pytest.MonkeyPatch.context() as patch:
        data = b"\n".join(_PLAIN * 3)
        assert _read(data) == _long_way(data, patch)


@given(st.sampled_from(LOGS), st.lists(st.integers(1, 400), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_split_gives_the_same_events(log: Path, sizes: list[int]) -> None:
    data = log.read_bytes()
    parser = Parser()
    events: list[Event] = []
    at = turn = 0
    while at < len(data):
        events += parser.feed(data[at : at + sizes[turn % len(sizes)]])
        at += sizes[turn % len(sizes)]
        turn += 1
    assert (events + parser.close(), parser.lines) == (_read(data)[0], _read(data)[1][0])


def test_a_call_in_flight_is_read_from_the_beginning_of_its_line() -> None:
    """Of each whole call of a log, up to its closing bracket: the arguments are those it has."""
    seen = 0
    for log in LOGS:
        if log.parent.name != "6.1":
            continue
        for line in log.read_bytes().split(b"\n"):
            events = Parser().feed(line + b"\n")
            if (
                len(events) != 1
                or not isinstance(events[0], Called)
                or events[0].call == "io_setup"
            ):
                continue
            piece = line[: line.rindex(b")", 0, line.rindex(b" = "))]
            entered = Parser().entry(piece)
            assert entered is not None, line
            assert (entered.tid, entered.t0) == (events[0].tid, events[0].t0)
            assert (entered.call, entered.args) == (events[0].call, events[0].args)
            seen += 1
    assert seen > 200


@given(st.sampled_from(LOGS), st.data())
@settings(max_examples=200, deadline=None)
def test_a_log_that_is_cut_off_says_nothing_that_the_whole_one_does_not(
    log: Path, data: st.DataObject
) -> None:
    """Not even where the cut shortens a number."""
    text = log.read_bytes()
    at = data.draw(st.integers(0, len(text)))
    whole = [repr(e) for e in _read(text)[0] if not isinstance(e, Unreadable)]
    line = text.count(b"\n", 0, at) + 1
    for event in _read(text[:at])[0]:
        ended = not isinstance(event, Called | Forked | Execed) or event.ret is not None
        if event.line == line and ended and not isinstance(event, Unreadable):
            assert repr(event) in whole


def test_a_line_of_many_megabytes_is_one_unreadable_line() -> None:
    long = b"7 mmap(" + b"0, " * (4 << 20) + b") = 0"
    for size in (1 << 16, 1 << 18, len(long) * 2):
        parser = Parser()
        events: list[Event] = []
        data = b"7 brk(NULL) = 0x1000\n" + long + b"\n7 brk(NULL) = 0x2000\n"
        for at in range(0, len(data), size):
            events += parser.feed(data[at : at + size])
        assert [type(e) for e in events] == [Called, Unreadable, Called]
        assert isinstance(events[1], Unreadable)
        assert (events[1].line, events[1].text, events[1].lost) == (2, long[:200], True)
        assert parser.lines == 3
