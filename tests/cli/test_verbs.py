# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands as a shell sees them: stdout, stderr, exit status."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests import hostile

import memtrace.cli.main
from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.records import (
    Attach,
    Call,
    Exec,
    Exit,
    Ext,
    FileId,
    Footer,
    Fork,
    Gone,
    Header,
    Life,
    Site,
    Snap,
)

STACK = "7ff0000-8000000 rw-p 00000000 00:00 0 [stack]"
TEXT = "400000-401000 r-xp 00000000 fe:00 7 /bin/a"
HEAP = "600000-610000 rw-p 00000000 00:00 0 [heap]"
FILE = "700000-702000 r--p 00001000 fe:00 9 /lib/b c"
LIBC = FileId(1, "fe:00", 3, "/libc.so.6")
WHO: dict[str, Any] = {"pid": 5, "tid": 5, "mm": 1}
RECORDS: list[Call | Life] = [
    Exec(t=10, **WHO, exe="/bin/a", argv=["a"], start_brk=0x600000, start_stack=0x7FFFF00,
         maps=[TEXT, STACK]),
    Call(10, 1, 5, 1, 0, [0x610000], 0x610000, Site(1, (LIBC, 16), (1, 0x2A)), 33, 3),
    Call(10, 1, 5, 1, 1, [0, 0x22000, 3, 0x22, -1, 0], 0x800000, 1, 67, 3),
    Fork(t=40, **WHO, child=6, child_mm=2),
    Call(10, 1, 6, 2, 1, [0, 0x1800, 1, 2, 3, 0x1000], 0x700000, None, 69, 1,
         Ext(f=FileId(2, "fe:00", 9, "/lib/b c"))),
    Call(10, 1, 5, 1, 2, [0x800000, 0x22000], 0, None, 33, 3, Ext(h=[(3, 0x22002)])),
    Call(10, 1, 5, 1, 2, [0x800000, 0], -22, None, 33, 3),
    Snap(t=80, **WHO, why="exit", maps=[TEXT, HEAP, STACK]),
    Exit(t=90, **WHO, code=0),
    Gone(t=95, mm=1),
]  # fmt: skip
COMPLETE = Footer(stop=1_000_000, complete=True)


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*arguments: object) -> Ran:
        status = memtrace.cli.main.run([str(a) for a in arguments])
        return Ran(status, *capsys.readouterr())

    return go


def write(path: Path, records: Sequence[Call | Life], footer: Footer | None = COMPLETE) -> Path:
    data = encode_header(Header(calls=["brk", "mmap", "munmap"], engine="ptrace"))
    data += b"".join(encode(r) for r in records)
    if footer:
        footer = msgspec.structs.replace(footer, counts={"records": len(records)})
    path.write_bytes(data + (encode_footer(footer) if footer else b""))
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write(tmp_path / "t.json", RECORDS)


def two_lines(err: str) -> bool:
    """Whether stderr is one sentence and one line to type."""
    lines = err.splitlines()
    return len(lines) == 2 and lines[0].startswith("memtrace: ") and lines[1].startswith("  try: ")


# -- maps -------------------------------------------------------------------------------------


def line(text: str) -> str:
    """A line as the kernel prints it: eight digits, the path in column 73."""
    a, perms, offset, dev, ino, *path = text.split(" ", 5)
    start, end = (f"{int(x, 16):08x}" for x in a.split("-"))
    head = f"{start}-{end} {perms} {offset} {dev} {ino} "
    return head.ljust(73) + path[0] if path else head


CHUNK = "800000-822000 rw-p 00000000 00:00 0"


@pytest.mark.parametrize(
    ("when", "more", "expected"),
    [
        ("start", [], [TEXT, STACK]),
        ("1", [], [TEXT, STACK]),
        ("2", [], [TEXT, HEAP, STACK]),
        ("20ns", [], [TEXT, HEAP, STACK]),
        ("29ns", [], [TEXT, HEAP, STACK]),
        ("30ns", [], [TEXT, HEAP, STACK, CHUNK]),
        ("peak", [], [TEXT, HEAP, STACK, CHUNK]),
        ("end", [], [TEXT, HEAP, STACK]),
        ("9", ["--pid", "5"], [TEXT, HEAP, STACK]),
        ("#9", [], [TEXT, HEAP, STACK]),
        ("0.000000030S", [], [TEXT, HEAP, STACK, CHUNK]),
        ("20 NS", [], [TEXT, HEAP, STACK]),
        ("Start", [], [TEXT, STACK]),
        ("start", ["--pid", "6"], [TEXT, HEAP, STACK, CHUNK]),
        ("5", ["--pid", "6"], [TEXT, HEAP, FILE, STACK, CHUNK]),
        ("end", ["--pid", "6"], [TEXT, HEAP, FILE, STACK, CHUNK]),
        ("1ms", ["--pid", "6"], [TEXT, HEAP, FILE, STACK, CHUNK]),
    ],
)
def test_maps(run: Run, trace: Path, when: str, more: list[str], expected: list[str]) -> None:
    ran = run("maps", trace, "--at", when, *more)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        line(m) for m in sorted(expected, key=lambda m: int(m.split("-")[0], 16))
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--at", "11"], "its last is 10"),
        (["--at", "2s"], "ends at 0.001s, before 2s"),
        (["--at", "10"], "from event 1 to event 9\n"),
        (["--at", "500ns"], "from event 1 to event 9 (0.00000001s to 0.000000095s)\n"),
        (["--at", "5ns", "--pid", "6"], "from event 4 to the end (0.00000004s to 0.001s)\n"),
        (["--at", "2", "--pid", "6"], "from event 4 to the end"),
        (["--at", "start", "--pid", "77"], "no process 77"),
        (["--at", "3", "--pid", "77"], "it has 5, 6"),
        (["--at", "noon"], "'noon' names no moment"),
        (["--at", "0.015148"], " --at 0.015148s\n"),
        (["--at", "##3"], "'##3' names no moment"),
        (["--at", "5\u017f"], "names no moment"),
        (["--at", "-1"], "'-1' names no moment"),
        (["--at", "9" * 5000], "names no moment"),
        ([], "missing option '--at'"),
    ],
)
def test_maps_of_no_moment(run: Run, trace: Path, arguments: list[str], says: str) -> None:
    ran = run("maps", trace, *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert two_lines(ran.err)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--at", "noon"], "--at peak"),
        (["--at", "11"], "--at end"),
        (["--at", "11", "--pid", "6"], "--at end --pid 6"),
        (["--at", "10"], "--at 9 --pid 5"),
        (["--at", "3", "--pid", "6"], "--at 4 --pid 6"),
        (["--at", "end", "--pid", "77"], "--at end --pid 5"),
    ],
)
def test_what_to_type_is_of_the_same_command_and_works(
    run: Run, trace: Path, arguments: list[str], hint: str
) -> None:
    for verb, also in (("maps", ""), ("diff", " --at start")):
        ran = run(verb, trace, *arguments, *also.split())
        assert ran.err.splitlines()[1] == f"  try: memtrace {verb} {trace}{also} {hint}"
        assert run(*shlex.split(ran.err.splitlines()[1])[2:]).status == 0


def test_how_to_see_every_region_is_what_to_type(run: Run, tmp_path: Path) -> None:
    calls = [Call(10, 1, 5, 1, 1, [0, 4096, 1 + i % 2, 0x22, -1, 0], 0x1000000 + i * 8192)
             for i in range(23)]  # fmt: skip
    path = write(tmp_path / "a b.json", [*RECORDS[:1], *calls])
    ran = run("diff", path, "--at", "#1", "--at", "end", "--pid", "5")
    last = ran.out.splitlines()[-1]
    more, _, command = last.partition(": ")
    assert more == "  and 3 more"
    assert command == f"memtrace diff '{path}' --at '#1' --at end --pid 5 --all"
    every = run(*shlex.split(command)[1:])
    assert every.status == 0
    assert every.out.splitlines()[:-3] == ran.out.splitlines()[:-1]
    assert "more" not in every.out


@pytest.mark.parametrize(
    "arguments",
    [["maps", "--at", "end"], ["maps", "--at", "3"], ["diff", "--at", "1", "--at", "end"],
     ["report"], ["events"], ["verify"]],
)  # fmt: skip
def test_a_folder_is_no_trace(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    ran = run(arguments[0], tmp_path, *arguments[1:])
    assert (ran.status, ran.out) == (3, "")
    assert ran.err == (
        f"memtrace: cannot read {tmp_path}: is a directory\n  try: ls -ld {tmp_path}\n"
    )


# -- verify -----------------------------------------------------------------------------------


def test_verify_exact(run: Run, trace: Path) -> None:
    ran = run("verify", trace)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "exact: 1 of 1 kernel snapshots reproduced, 5 of 5 checksums, no gaps",
        "  pid 5 mm 1 (a, exec at 1): 1 of 1 snapshots, 4 of 4 checksums",
        "  pid 6 mm 2 (a, fork at 4): 0 of 0 snapshots, 1 of 1 checksums",
    ]


def test_verify_shows_a_drift_side_by_side(run: Run, tmp_path: Path) -> None:
    lost = [r for r in RECORDS if not (isinstance(r, Call) and r.args == [0x800000, 0x22000])]
    ran = run("verify", write(tmp_path / "t", lost))
    assert ran.status == 1
    assert ran.out.startswith("drift: 0 of 1 kernel snapshots")
    assert "first mismatch: snapshot (exit) at event 7 of pid 5 mm 1" in ran.out
    assert "  800000-822000 rw-p                     -" in ran.out


def many(*pages: int, perms: str = "r--p") -> list[str]:
    """Lines of maps, one for each page."""
    return [f"{n:x}000-{n + 1:x}000 {perms} 00000000 00:00 0" for n in pages]


def drifted(path: Path, ours: list[str], *theirs: list[str]) -> Path:
    """A trace that begins with a map and has others at snapshots."""
    begun = Exec(t=10, **WHO, exe="/bin/a", argv=["a"], maps=ours)
    snaps = [Snap(t=20 + i, **WHO, why="periodic", maps=maps) for i, maps in enumerate(theirs)]
    return write(path, [begun, *snaps])


def table(out: str) -> list[str]:
    """The rows under `replayed  kernel`."""
    lines = out.splitlines()
    begin = lines.index(f"  {'replayed':<38} kernel") + 1
    return [line for line in lines[begin:] if line.startswith("  ")]


@pytest.mark.parametrize("order", [1, -1])
def test_verify_pairs_what_begins_at_one_address(run: Run, tmp_path: Path, order: int) -> None:
    """What only one side has does not shift the others, not even in a trace of no kernel's."""
    ours = [*many(0x10, 0x20, 0x30), *many(0x50, perms="rw-p")]
    theirs = [*many(0x20, 0x40), *many(0x50, perms="r-xp"), *many(0x60)]
    ran = run("verify", drifted(tmp_path / "t", ours, theirs[::order]))
    assert table(ran.out) == [
        f"  {'10000-11000 r--p':<38} -",
        f"  {'30000-31000 r--p':<38} -",
        f"  {'-':<38} 40000-41000 r--p",
        f"  {'50000-51000 rw-p':<38} 50000-51000 r-xp",
        f"  {'-':<38} 60000-61000 r--p",
    ]
    assert "resynchronised 1 times" in ran.out.splitlines()


def test_verify_counts_the_rows_that_it_does_not_show(run: Run, tmp_path: Path) -> None:
    """Of the model's pages none is the kernel's: 9 and 60 rows, of which it shows 12."""
    ours, theirs = many(*range(0x10, 0x22, 2)), many(*range(0x30, 0xA8, 2))
    rows = table(run("verify", drifted(tmp_path / "t", ours, theirs)).out)
    assert len(rows) == 13
    assert rows[-2:] == [f"  {'-':<38} 34000-35000 r--p", "  ... and 57 more"]


def test_verify_says_how_often_it_went_on_from_the_kernels_map(run: Run, tmp_path: Path) -> None:
    maps = [many(0x10), many(0x20), many(0x20), many(0x30)]
    ran = run("verify", drifted(tmp_path / "t", *maps))
    assert ran.out.startswith("drift: 1 of 3 kernel snapshots")
    assert ran.out.splitlines()[-1] == "resynchronised 2 times"


def test_verify_says_what_the_stack_grew_by_itself(run: Run, tmp_path: Path) -> None:
    """Two calls count it before the snapshot that shows it; it is no drift."""
    begun = RECORDS[0]
    grown = "7fec000-8000000 rw-p 00000000 00:00 0 [stack]"
    pages = (0x1000 + 0x14000) >> 12
    asks = Call(10, 1, 5, 1, 0, [0], 0x600000, None, pages, 3)
    ran = run("verify", write(tmp_path / "t", [
        begun, asks, asks, Snap(t=80, **WHO, why="exit", maps=[TEXT, grown]),
    ]))  # fmt: skip
    assert (ran.status, ran.out.splitlines()[0].partition(":")[0]) == (0, "exact")
    assert ran.out.splitlines()[2:] == [
        "    stack grew 16 KiB by page faults, without a call; 2 checksums differ by it"
    ]


def test_verify_statuses(run: Run, tmp_path: Path) -> None:
    drifted = [r for r in RECORDS if not isinstance(r, Call)]
    assert run("verify", write(tmp_path / "a", RECORDS, None)).status == 3
    assert run("verify", write(tmp_path / "b", drifted, None)).status == 3
    assert run("verify", write(tmp_path / "c", drifted)).status == 1
    unverified = run("verify", write(tmp_path / "d", []))
    assert (unverified.status, unverified.out.split(":")[0]) == (0, "unverified")


# -- events -----------------------------------------------------------------------------------


def test_events_as_jsonl(run: Run, trace: Path) -> None:
    ran = run("events", trace, "--format", "jsonl")
    rows = [json.loads(text) for text in ran.out.splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, 11))
    assert all(
        {"seq", "t_ns", "pid", "tid", "mm", "call", "args", "ret", "errno"} <= row.keys()
        for row in rows
    )
    assert rows[2] == {
        "seq": 3, "t_ns": 30, "pid": 5, "tid": 5, "mm": 1, "call": "mmap",
        "args": [0, 0x22000, 3, 0x22, 2**64 - 1, 0], "ret": 0x800000, "errno": None,
        "caller": "/libc.so.6+0x2a", "rss": 3 * 4096, "vm": 67 * 4096, "header": 0x22002,
    }  # fmt: skip
    assert (rows[4]["path"], rows[4]["pid"], rows[4]["mm"]) == ("/lib/b c", 6, 2)
    assert (rows[6]["ret"], rows[6]["errno"]) == (-22, "EINVAL")
    assert [row["call"] for row in rows if not row["args"]] == [
        "exec", "fork", "snap", "exit", "gone"
    ]  # fmt: skip
    assert rows[0]["pid"] == 5
    assert rows[9] == {"seq": 10, "t_ns": 95, "pid": 5, "tid": None, "mm": 1, "call": "gone",
                       "args": [], "ret": None, "errno": None}  # fmt: skip


def test_events_as_text(run: Run, trace: Path) -> None:
    lines = run("events", trace, "--pid", "6").out.splitlines()
    call = "mmap(NULL, 6144, PROT_READ, MAP_PRIVATE, 3, 0x1000) = 0x700000 path=/lib/b c"
    assert lines == ["      5 0.000000       6 " + call]
    failed = run("events", trace, "--call", "munmap").out.splitlines()[-1]
    assert failed.endswith("munmap(0x800000, 0) = -1 EINVAL")


def test_events_as_csv(run: Run, trace: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("events", trace, "--format", "csv").out)))
    assert len(rows) == 10
    assert (rows[1]["call"], rows[1]["args"], rows[1]["ret"]) == ("brk", "6356992", "6356992")


@pytest.mark.parametrize("arguments", [["--pid", "77"], ["--call", "frob"], ["--format", "xml"]])
def test_events_of_nothing(run: Run, trace: Path, arguments: list[str]) -> None:
    ran = run("events", trace, *arguments)
    assert ran.status == 2
    assert two_lines(ran.err)


# -- report, and all of them -----------------------------------------------------------------


def test_report_to_a_file_is_whole_or_not_there(run: Run, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert run("report", trace, "--format", "json", "-o", out) == (0, "", "")
    assert json.loads(out.read_text())["format"] == "memtrace-report/1"
    before = trace.read_bytes()
    assert run("report", trace, "-o", trace).status == 2
    assert trace.read_bytes() == before
    ran = run("report", trace, "-o", tmp_path / "absent" / "r")
    assert ran.status == 125
    assert two_lines(ran.err)


def test_report_of_an_incomplete_trace_is_given_with_a_warning(run: Run, tmp_path: Path) -> None:
    cut = write(tmp_path / "t", RECORDS, None)
    ran = run("report", cut)
    assert ran.status == 0
    assert ran.out
    assert ran.err.startswith("memtrace: warning: incomplete: ")
    assert run("report", cut, "-q").err == ""
    only_a_header = run("report", write(tmp_path / "h", [], None), "--format", "json")
    assert json.loads(only_a_header.out)["processes"] == []


@pytest.mark.parametrize("form", ["xml", "pdf"])
def test_report_forms_that_are_not_there(run: Run, trace: Path, form: str) -> None:
    ran = run("report", trace, "--format", form)
    assert ran.status == 2
    assert two_lines(ran.err)


VERBS = (("verify",), ("events",), ("report",), ("maps", "--at", "end"))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("content", [None, b"", b"\x7fELF", b"{}", b"[[[["])
def test_a_file_that_is_no_trace(
    run: Run, tmp_path: Path, verb: tuple[str, ...], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "t").write_bytes(content)
    ran = run(*verb, tmp_path / "t")
    assert (ran.status, ran.out) == (3, "")
    assert two_lines(ran.err)


HOSTILE = [
    b"[1,1,5,1,1,[0,18446744073709551616,3,34,-1,0],4096],\n",
    b"[1,1,5,1,0,[1],340282366920938463463374607431768211456],\n",
    b"[1,1,5,1,1,[0,9223372036854775807,3,50,-1,0],9223372036854775807,null,5,5],\n",
    b'[1,1,5,1,1,[],4096,12345,1,1,{"f":5,"x":[1,2,["?"]],"h":[[-1,-7],[2,5]]}],\n',
    b'[-9223372036854775808,1,5,1,0,[1],5,{"id":1,"ip":[77,-5],"ret":[null,-1]},-1,-1],\n',
    b'{"rec":"exec","t":0,"pid":5,"tid":5,"mm":9,"start_brk":18446744073709551615,"maps":["x"]},\n',
    b'{"rec":"exec","t":0,"pid":-5,"tid":5,"mm":-9,"argv":["\\u001b[31m"],"exe":"\\n"},\n',
    b'{"rec":"snap","t":-5,"mm":1,"pid":5,"tid":5,"why":"\\u0007","maps":["-5-9 rw-p 0 0:0 0"]},\n',
    b'{"rec":"exit","t":5,"pid":5,"tid":5,"mm":1,"signal":99999},\n',
    b'{"rec":"later","t":5,"x":{"y":[]}},\n',
    b"\x00\xff\n",
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("bad", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_line_never_breaks_a_verb(
    run: Run, trace: Path, verb: tuple[str, ...], bad: bytes
) -> None:
    lines = trace.read_bytes().splitlines(keepends=True)
    trace.write_bytes(b"".join([*lines[:3], bad, *lines[3:]]))
    forms = {"events": ["text", "jsonl", "csv"], "report": ["text", "json"]}.get(verb[0], [None])
    for form in forms:
        ran = run(*verb, trace, *(["--format", form] if form else []))
        assert ran.status in ((0, 1, 3) if verb[0] == "verify" else (0,)), ran.err
        assert "\x1b" not in ran.out
        assert "fault of memtrace" not in ran.err


def test_help_lists_the_verbs(run: Run) -> None:
    ran = run("--help")
    assert ran.status == 0
    verbs = ("run", "attach", "report", "maps", "diff", "events", "verify", "import", "explain")
    for verb in (*verbs, "export", "doctor"):
        assert f"\n  {verb} " in ran.out


@pytest.mark.parametrize("line", [[], ["frob"], ["--frob"], ["verify"], ["verify", "a", "b"]])
def test_a_wrong_command_line(run: Run, line: list[str]) -> None:
    ran = run(*line)
    assert (ran.status, ran.out) == (2, "")
    assert two_lines(ran.err)


def test_a_traceback_only_with_debug(run: Run, tmp_path: Path) -> None:
    assert "Traceback" not in run("verify", tmp_path / "t").err
    assert "Traceback" in run("verify", "--debug", tmp_path / "t").err
    assert "Traceback" not in run("verify", tmp_path / "t").err


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "memtrace", *map(str, arguments)]


def test_heavy_packages_stay_away(trace: Path) -> None:
    code = (
        "import sys; from memtrace.cli.main import run\n"
        "import memtrace.cli.run, memtrace.cli.attach\n"
        "for verb in ('--help', 'verify', 'events', 'maps --at end', 'report --format json',\n"
        "             'report --format md', 'diff --format md TRACE', 'export --to csv'):\n"
        f"    words = ['{trace}' if word == 'TRACE' else word for word in verb.split()]\n"
        f"    assert run([*words, '{trace}']) == 0\n"
        "assert not {'pandas', 'rich', 'jinja2'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL
    )


def test_a_reader_that_goes_away_is_no_error(trace: Path, tmp_path: Path) -> None:
    calls = [RECORDS[0], *[Call(1, 1, 5, 1, 0, [0], 0x600000)] * 20_000]
    long = write(tmp_path / "long", calls)
    with subprocess.Popen(
        command("events", long), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_full_disk_is_said(trace: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            command("events", trace), env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert ran.returncode == 125
    assert "no space left on device" in ran.stderr
    assert two_lines(ran.stderr)


# -- attached to ------------------------------------------------------------------------------

ATTACHED: list[Call | Life] = [
    Attach(t=10, pid=5, mm=1, ppid=1, exe="/bin/a", argv=["a", "b"], start_brk=0x600000,
           start_stack=0x7FFFF00, maps=[TEXT, HEAP, STACK], tids=[5, 7], age_ns=10**9,
           rss=3, vm=33),
    Call(10, 1, 7, 1, 1, [0, 0x22000, 3, 0x22, -1, 0], 0x800000, None, 67, 3),
    Snap(t=80, **WHO, why="detach", maps=[TEXT, HEAP, CHUNK, STACK]),
]  # fmt: skip
DETACHED = Footer(stop=1_000_000, complete=True, reason="detached")


@pytest.fixture
def attached(tmp_path: Path) -> Path:
    return write(tmp_path / "a.json", ATTACHED, DETACHED)


def test_verbs_on_an_attached_process(run: Run, attached: Path) -> None:
    assert run("verify", attached).out.splitlines() == [
        "exact: 1 of 1 kernel snapshots reproduced, 1 of 1 checksums, no gaps",
        "  pid 5 mm 1 (a, attach at 1): 1 of 1 snapshots, 1 of 1 checksums",
    ]
    for when, maps in (("start", [TEXT, HEAP, STACK]), ("end", [TEXT, HEAP, CHUNK, STACK])):
        shown = run("maps", attached, "--at", when).out.splitlines()
        assert sorted(shown) == sorted(line(m) for m in maps)
    first = json.loads(run("events", attached, "--format", "jsonl").out.splitlines()[0])
    assert first == {
        "seq": 1, "t_ns": 10, "pid": 5, "tid": None, "mm": 1, "call": "attach", "args": [],
        "ret": None, "errno": None, "path": "/bin/a", "argv": ["a", "b"], "why": "attach",
        "tids": [5, 7], "age_ns": 10**9, "rss": 3 * 4096, "vm": 33 * 4096,
    }  # fmt: skip
    lines = run("events", attached, "--pid", "5").out.splitlines()
    assert [text.split()[2] for text in lines] == ["5", "7", "5"]
    assert "--- attach mm=1 path=/bin/a argv=a b why=attach tids=5 7 age_ns=1000000000" in lines[0]
    assert run("events", attached, "--call", "attach").out.count("\n") == 1
    rows = list(csv.DictReader(io.StringIO(run("events", attached, "--format", "csv").out)))
    assert (rows[0]["call"], rows[0]["path"]) == ("attach", "/bin/a")
    report = json.loads(run("report", attached, "--format", "json").out)
    assert report["processes"][0]["attached"]["regions"] == 3
    assert "pid 5, attached at #1, 1.00 s after its start" in run("report", attached).out


HOSTILE_ATTACH = [
    b'{"rec":"attach","t":1,"pid":5,"mm":1},\n',
    b'{"rec":"attach","t":1,"pid":-9,"mm":77,"tids":[-1,5,5],"age_ns":-5,"exe":"\\u001b[1m"},\n',
    (
        b'{"rec":"attach","t":1,"pid":9,"mm":77,"start_brk":18446744073709551615,"start_stack":-1,'
        b'"maps":["0-ffffffffffffffff rw-p 0 00:00 0 [heap]","1-0 ---p 0 00:00 0"],'
        b'"chunks":[[0,18446744073709551615],[-4096,4098]],"stacks":[[-1,-1]],'
        b'"dontfork":[[18446744073709551615,0]],"growsdown":[[0,18446744073709551615]]},\n'
    ),
    b'{"rec":"attach","t":1,"pid":9,"mm":77,"maps":["x"],"rlimits":{"STACK":-1},"rss":-4},\n',
    (
        b'{"rec":"attach","t":1,"pid":9,"mm":77,"maps":["1000-9000 rw-p 0 00:00 0 [heap]",'
        b'"2000-3000 rw-p 0 00:00 0 [heap]"],"start_brk":20480,"personality":4194304},\n'
    ),
]


@pytest.mark.parametrize("bad", HOSTILE_ATTACH, ids=range(len(HOSTILE_ATTACH)))
@pytest.mark.parametrize("verb", VERBS)
def test_a_hostile_attach_never_breaks_a_verb(
    run: Run, attached: Path, verb: tuple[str, ...], bad: bytes
) -> None:
    lines = attached.read_bytes().splitlines(keepends=True)
    own = b"[1,1,5,77,0,[4096],20480],\n[1,1,5,77,0,[40960],40960],\n[1,1,5,77,2,[0,%d],0],\n"
    for at in (1, 2):
        attached.write_bytes(b"".join([*lines[:at], bad, own % (1 << 56), *lines[at:]]))
        forms = {"events": ["text", "jsonl", "csv"], "report": ["text", "json"]}.get(
            verb[0], [None]
        )
        for form in forms:
            ran = run(*verb, attached, *(["--format", form] if form else []))
            assert ran.status in ((0, 1, 3) if verb[0] == "verify" else (0,)), ran.err
            if form != "csv":  # which is data, as it is
                assert "\x1b" not in ran.out
            assert "fault of memtrace" not in ran.err


# -- remedies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["events", "--pid", "99"], ["events", "--call", "foo"], ["maps", "--at", "noon"],
     ["maps", "--at", "999"], ["maps", "--at", "end", "--pid", "99"]],
)  # fmt: skip
def test_a_remedy_works_as_it_is_typed(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    verb, *rest = arguments
    refused = run(verb, write(tmp_path / "a trace's.json", RECORDS), *rest)
    assert refused.status == 2
    typed = shlex.split(refused.err.splitlines()[1].removeprefix("  try: "))
    assert typed[0] == "memtrace"
    assert run(*typed[1:]).status == 0


def test_a_remedy_for_a_missing_folder_shows_what_there_is(run: Run, trace: Path) -> None:
    refused = run("report", trace, "-o", trace.parent / "no" / "such" / "x")
    assert refused.status == 125
    assert two_lines(refused.err)
    assert refused.err.splitlines()[1] == f"  try: ls -ld {trace.parent}"


# -- diff of two traces -------------------------------------------------------------------------


def test_two_traces_are_compared(run: Run, trace: Path, tmp_path: Path) -> None:
    records = [r for r in RECORDS if not (isinstance(r, Call) and r.call == 0)]
    other = write(tmp_path / "other.json", records)
    ran = run("diff", trace, other)
    assert ran.status == 0
    assert [line.split()[0] for line in ran.out.splitlines()[:2]] == ["before", "after"]
    found = json.loads(run("diff", trace, other, "--format", "json").out)
    assert found["format"] == "memtrace-diff/1"
    calls = {
        (x["group"], x["name"]): (x["before"], x["after"]) for x in found["pairs"][0]["changes"]
    }
    assert calls["calls", "brk"] == (1, 0)


@pytest.mark.parametrize("more", [["--at", "end"], ["--pid", "5"], ["--all"]])
def test_two_traces_have_no_moments(run: Run, trace: Path, more: list[str]) -> None:
    ran = run("diff", trace, trace, *more)
    assert ran.status == 2
    assert two_lines(ran.err)


def test_a_trace_that_is_not_there_cannot_be_compared(run: Run, trace: Path) -> None:
    ran = run("diff", trace, "none.json")
    assert ran.status == 3
    assert two_lines(ran.err)


def test_an_incomplete_trace_is_compared_with_a_warning(
    run: Run, trace: Path, tmp_path: Path
) -> None:
    cut = write(tmp_path / "cut.json", RECORDS[:4], None)
    ran = run("diff", trace, cut)
    assert ran.status == 0
    assert "warning" in ran.err
    assert "NOT to be trusted" in ran.out


@pytest.mark.parametrize(("name", "ascii_only"), [("C", True), ("C.UTF-8", False)])
def test_a_locale_without_utf8_gets_ascii(trace: Path, name: str, *, ascii_only: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memtrace", "report", trace], capture_output=True,
        env={**ENVIRONMENT, "LC_ALL": name}, check=True,
    )  # fmt: skip
    assert done.stdout.isascii() is ascii_only
    assert b"can I trust it?" in done.stdout


def test_names_that_are_spelled_out_keep_the_columns(tmp_path: Path) -> None:
    name = "日本語の長い名前のプログラム" * 3
    records = [hostile.begun(exe=f"/bin/{name}", argv=[f"/bin/{name}", "é" * 40])]
    path = hostile.write(tmp_path / "t.json", [*records, hostile.mmap(hostile.LOW)])
    done = subprocess.run(
        [sys.executable, "-m", "memtrace", "report", path], capture_output=True,
        env={**ENVIRONMENT, "LC_ALL": "C"}, check=False,
    )  # fmt: skip
    assert b"\\u65e5" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_comparison_is_ascii_where_the_locale_is(trace: Path, tmp_path: Path) -> None:
    cut = write(tmp_path / "cut.json", RECORDS[:4], None)
    (tmp_path / "…").mkdir()
    named = write(tmp_path / "…" / "b.json", RECORDS[:4], None)
    for other, sign in ((cut, b">="), (named, b"\\u2026")):
        done = subprocess.run(
            [sys.executable, "-m", "memtrace", "diff", trace, other], capture_output=True,
            env={**ENVIRONMENT, "LC_ALL": "C"}, check=True,
        )  # fmt: skip
        assert done.stdout.isascii()
        assert sign in done.stdout or b"~" in done.stdout
