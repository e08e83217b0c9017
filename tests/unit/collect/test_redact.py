# SPDX-License-Identifier: GPL-2.0-or-later
"""What `--redact` takes out of records, what it leaves, and that an analysis sees the same."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.collect.messages import call, words

from memtrace.collect import wire
from memtrace.collect.abi import NAMES
from memtrace.collect.redact import REDACTED, Redaction
from memtrace.collect.scribe import Scribe
from memtrace.malloc.allocator import of_older
from memtrace.malloc.caller import LOADER, OWNERS, Caller, Callers, base_name, owner_of
from memtrace.malloc.glibc import settings
from memtrace.trace.codec import Decoder, encode
from memtrace.trace.mapping import decode_maps
from memtrace.trace.records import (
    Allocator,
    Call,
    Exec,
    Ext,
    FileId,
    Footer,
    Header,
    Libc,
    LifeRecord,
    Record,
    Site,
    Snap,
    WalkedHeap,
)

SECRET = "hunter2"


@pytest.fixture
def redaction() -> Redaction:
    return Redaction()


# -- names --------------------------------------------------------------------------------------


def test_one_name_is_one_number_and_another_is_another(redaction: Redaction) -> None:
    names = ["/a/x", "/a/y", "/b/x", "/a/x (deleted)", "/a/x", "/redacted/file-1"]
    shown = [redaction.name(n) for n in names]
    assert shown == [
        "/redacted/file-1", "/redacted/file-2", "/redacted/file-3", "/redacted/file-1 (deleted)",
        "/redacted/file-1", "/redacted/file-4",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [
    "", "[heap]", "[stack]", "[stack:77]", "[vdso]", "[vvar]", "[vvar_vclock]", "[uprobes]",
    "/dev/zero", "/dev/zero (deleted)", "/anon_hugepage (deleted)", "/[aio] (deleted)",
    "anon_inode:[io_uring]", "anon_inode:bpf-map", "anon_inode:kvm-vcpu:3", "socket:[1234]",
])  # fmt: skip
def test_the_kernels_own_names_stay(redaction: Redaction, name: str) -> None:
    assert redaction.name(name) == name


@pytest.mark.parametrize(("name", "shown"), [
    ("/memfd:hunter2 (deleted)", "/memfd:redacted-1 (deleted)"),
    ("/SYSV00facade (deleted)", "/SYSVredacted-1 (deleted)"),
    ("/dmabuf:hunter2", "/dmabuf:redacted-1"),
    ("[anon:hunter2]", "[anon:redacted-1]"),
    ("[anon_shmem:hun]ter2]", "[anon_shmem:redacted-1]"),
    ("[hunter2]", "/redacted/file-1"),
    ("hunter2", "/redacted/file-1"),
    ("/home/hunter2/[heap]", "/redacted/file-1"),
    ("/dev/zero/hunter2", "/redacted/file-1"),
    ("/hunter2/libc.so.6", "/redacted/1/libc.so.6"),
    ("/hunter2/libc-2.31.so (deleted)", "/redacted/1/libc-2.31.so (deleted)"),
    ("/hunter2/ld-linux-x86-64.so.2", "/redacted/1/ld-linux-x86-64.so.2"),
    ("/etc/ld.so.cache", "/redacted/1/ld.so.cache"),
    ("/hunter2/libjemalloc.so.2", "/redacted/1/libjemalloc.so.2"),
    ("/hunter2/libtcmalloc_minimal.so.4.5.16", "/redacted/1/libtcmalloc_minimal.so.4.5.16"),
    ("/hunter2/libpython3.11.so.1.0", "/redacted/1/libpython3.11.so.1.0"),
    ("/hunter2/python3.11", "/redacted/1/python3.11"),
    ("/hunter2/node", "/redacted/1/node"),
    ("/hunter2/node2", "/redacted/file-1"),
    # Of a name that only begins like a known one, the beginning.
    ("/hunter2/libc.so.hunter2", "/redacted/1/libc.so"),
    ("/lib/libjemalloc-of-hunter2.so", "/redacted/1/libjemalloc"),
    ("/opt/python3-hunter2", "/redacted/1/python3"),
    ("/memfd:/hunter2/libjemalloc.so.2 (deleted)",
     "/memfd:redacted-1/libjemalloc.so.2 (deleted)"),
])  # fmt: skip
def test_a_programs_names_do_not(redaction: Redaction, name: str, shown: str) -> None:
    assert redaction.name(name) == shown


def test_a_label_in_a_call_is_the_one_that_the_kernel_shows(redaction: Redaction) -> None:
    shown = redaction.label("my pool")
    assert redaction.maps(["0-1000 rw-p 00000000 00:00 0 [anon:my pool]"]) == [
        f"0-1000 rw-p 00000000 00:00 0 [anon:{shown}]"
    ]
    assert redaction.label("") == ""


def test_a_line_of_maps_keeps_all_but_its_last_column(redaction: Redaction) -> None:
    raw = (
        b"55d0-55d1 r-xp 00001000 fe:00 11                      /home/hunter2/a b\xff\n"
        b"55d2-55d3 rw-p 00000000 00:00 0 \n"
        b"55d4-55d5 rw-p 00000000 00:00 0                       [heap]\n"
    )
    assert redaction.maps(decode_maps(raw)) == [
        "55d0-55d1 r-xp 00001000 fe:00 11 /redacted/file-1",
        "55d2-55d3 rw-p 00000000 00:00 0",
        "55d4-55d5 rw-p 00000000 00:00 0 [heap]",
    ]


def test_arguments_leave_their_number_only(redaction: Redaction) -> None:
    shown = redaction.argv(["./prog", "--password", SECRET, ""])
    assert shown == ["/redacted/file-1", REDACTED, REDACTED, REDACTED]
    assert redaction.argv([]) == []
    # What a process calls itself is no name of the kernel's, whatever it looks like.
    assert redaction.argv(["[hunter]"]) == ["/redacted/file-2"]


# -- environment --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value", "shown"), [
    ("MALLOC_ARENA_MAX", "2", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "0x20000", "0x20000"),
    ("MALLOC_TOP_PAD_", " -1", " -1"),
    ("MALLOC_TOP_PAD_", "64k", "64<redacted>"),
    ("MALLOC_TOP_PAD_", "hunter2", REDACTED),
    ("MALLOC_CHECK_", "4" * 40, "18446744073709551616"),
    ("MALLOC_CHECK_", "-0x" + "f" * 40, "-18446744073709551616"),
    ("MALLOC_CONF", "prof_prefix:/home/hunter2", REDACTED),
    ("MALLOC_TRACE", "/home/hunter2/log", REDACTED),
    ("LD_PRELOAD", "/home/hunter2/libjemalloc.so.2", "/redacted/1/libjemalloc.so.2"),
    ("LD_PRELOAD", "hunter2.so /hunter2:libjemalloc.so.2:",
     "/redacted/file-1 /redacted/file-2:/redacted/3/libjemalloc.so.2:"),
    ("LD_LIBRARY_PATH", "/home/hunter2", REDACTED),
    ("LD_LIBRARY_PATH", "", ""),
    ("PYTHONMALLOC", "pymalloc_debug", "pymalloc_debug"),
    ("PYTHONMALLOC", "hunter2", REDACTED),
    ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072:glibc.malloc.hugetlb=2",
     "glibc.malloc.mmap_threshold=131072:glibc.malloc.hugetlb=2"),
    ("GLIBC_TUNABLES", "glibc.malloc.check=hunter2:glibc.cpu.hunter2=hunter2:hunter2::=x",
     "glibc.malloc.check=<redacted>:<redacted>=:<redacted>::<redacted>="),
    ("GLIBC_TUNABLES", "glibc.malloc.hunter2=1", "<redacted>="),
])  # fmt: skip
def test_the_settings_of_malloc_are_all_that_stays_of_the_environment(
    redaction: Redaction, name: str, value: str, shown: str
) -> None:
    assert redaction.environment({name: value}) == {name: shown}


def test_the_malloc_of_an_attached_process_stays_known(redaction: Redaction) -> None:
    preload = redaction.environment({"LD_PRELOAD": "/home/ann/libjemalloc.so"})["LD_PRELOAD"]
    found = of_older(redaction.name("/usr/lib/libjemalloc.so.2"), 1, preload)
    assert found is not None
    assert (found[0].name, found[1]) == ("jemalloc", True)


def test_a_variable_that_is_no_allocators_loses_its_name_too(redaction: Redaction) -> None:
    shown = redaction.environment({"MALLOC_hunter2": SECRET, "MALLOC_other": "1"})
    assert shown == {"MALLOC_redacted-1": REDACTED, "MALLOC_redacted-2": REDACTED}


SOMEHOW_A_NUMBER = st.one_of(
    st.integers(-1, 1 << 70).map(str),
    st.integers(0, 1 << 70).map(hex),
    st.integers(0, 1 << 70).map(lambda n: f"0{n:o}"),
    st.text("0123456789abcdefxXkKMG -+\t", max_size=12),
    st.text(max_size=6),
)
TUNABLE = st.builds(
    "{}{}{}".format,
    st.sampled_from([
        "glibc.malloc.mmap_threshold", "glibc.malloc.top_pad", "glibc.malloc.hugetlb",
        "glibc.malloc.mmap_max", "glibc.malloc.trim_threshold", "glibc.malloc.other", "x", "",
    ]),
    st.sampled_from(["=", "", "=="]),
    SOMEHOW_A_NUMBER,
)  # fmt: skip
ENVIRONMENT = st.fixed_dictionaries(
    {},
    optional={
        "GLIBC_TUNABLES": st.lists(TUNABLE, max_size=3).map(":".join),
        "MALLOC_MMAP_THRESHOLD_": SOMEHOW_A_NUMBER,
        "MALLOC_MMAP_MAX_": SOMEHOW_A_NUMBER,
        "MALLOC_TOP_PAD_": SOMEHOW_A_NUMBER,
        "MALLOC_TRIM_THRESHOLD_": SOMEHOW_A_NUMBER,
        "MALLOC_ARENA_MAX": SOMEHOW_A_NUMBER,
        "MALLOC_X": st.text(max_size=3),
        "LD_PRELOAD": st.text(max_size=3),
    },
)


@given(
    env=ENVIRONMENT,
    version=st.sampled_from([None, (2, 23), (2, 36), (2, 41)]),
    at_secure=st.sampled_from([None, False, True]),
)
@example(env={"MALLOC_TOP_PAD_": "0" * 30 + "7"}, version=(2, 36), at_secure=False)
@example(env={"MALLOC_TOP_PAD_": "9" * 5000}, version=(2, 36), at_secure=False)
@example(env={"MALLOC_TOP_PAD_": "²"}, version=(2, 36), at_secure=False)
@example(env={"MALLOC_TOP_PAD_": "9" * 5000}, version=(2, 41), at_secure=False)
@example(env={"GLIBC_TUNABLES": "glibc.malloc.top_pad=1:a=b=c"}, version=(2, 41), at_secure=False)
@example(env={"GLIBC_TUNABLES": "glibc.malloc.top_pad=1=2:a=b"}, version=(2, 41), at_secure=False)
@example(
    env={"GLIBC_TUNABLES": "glibc.malloc.top_pad=1:glibc.rtld.enable_secure=1"},
    version=(2, 41), at_secure=False,
)  # fmt: skip
def test_what_stays_means_the_same_to_glibc(
    *, env: dict[str, str], version: tuple[int, int] | None, at_secure: bool | None
) -> None:
    shown = Redaction().environment(env)
    assert len(shown) == len(env)
    assert settings(shown, at_secure=at_secure, version=version) == settings(
        env, at_secure=at_secure, version=version
    )


# -- the analysis sees the same -----------------------------------------------------------------

BEGINNINGS = [
    *(beginning for beginning, _ in OWNERS), "libc.so", "libc-", "ld-musl", "ld-linux", "ld.so",
    "ld-2.", "ld64.so", "node", "python", "python3", "libc.musl-",
]  # fmt: skip
ENDINGS = st.sampled_from(["", ".so", ".so.2", ".so.6", "31.so", "-x86-64.so.2", "3.11", "²"])
FILE = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["/", "/lib/", "", "/memfd:", "/memfd:a/", "/a (deleted)/", "[anon:"]),
    st.sampled_from(["", *BEGINNINGS, "x"]),
    st.text(max_size=3) | ENDINGS,
    st.text("/x", max_size=1) | ENDINGS,
    st.sampled_from(["", " (deleted)", " (deleted) (deleted)"]),
)


@given(FILE)
def test_whose_code_a_file_is_stays_known(path: str) -> None:
    shown = Redaction().name(path)
    assert owner_of(shown) == owner_of(path)
    assert caller_in(shown, loader="/ld") == caller_in(path, loader="/ld")
    assert caller_in(shown, loader=shown) == caller_in(path, loader=path)


def caller_in(path: str, *, loader: str) -> Caller:
    """Who an analysis takes for the caller of a call from this file."""
    file = FileId(1, "fe:00", 1, path)
    return Callers({}, lambda place: (file, 0), "/exe", loader).of(Site(1, (1, 0)))


def test_the_names_of_loaders_are_among_those_tried() -> None:
    # Else the test above would hold for want of cases.
    assert caller_in("/lib/ld-2.31.so", loader="/lib/ld-2.31.so").who == LOADER
    assert base_name(Redaction().name("/lib/ld-2.31.so")) == "ld-2.31.so"


# -- nothing is forgotten -----------------------------------------------------------------------

#: Text that memtrace or the kernel wrote, whatever the program is called or told.
OURS = {
    ("Header", f)
    for f in ("memtrace", "version", "engine", "machine", "kernel", "thp", "started", "columns",
              "calls", "clock")
} | {
    ("Exec", "abi"), ("Exec", "rlimits"), ("Exec", "withheld"), ("Attach", "abi"),
    ("Attach", "rlimits"), ("Attach", "why"), ("Snap", "why"), ("Libc", "name"),
    ("Libc", "version"),
    ("Libc", "build_id"), ("Allocator", "name"), ("Allocator", "how"), ("Allocator", "version"),
    ("Allocator", "build_id"), ("Walk", "why"), ("WalkedHeap", "kind"),
    ("WalkedHeap", "problem"), ("Lost", "why"), ("Ext", "abi"), ("Ext", "raw"), ("FileId", "dev"),
    ("Footer", "reason"), ("Footer", "counts"),
}  # fmt: skip


def texts(kind: type[msgspec.Struct]) -> Iterator[str]:
    """The fields of a record that can hold text of its own."""
    for field in msgspec.structs.fields(kind):
        if "str" in str(field.type) or field.type is typing.Any:
            yield field.name


def test_every_text_of_a_trace_is_redacted_or_memtraces_own() -> None:
    kinds = [
        *typing.get_args(LifeRecord), WalkedHeap, Call, Ext, Site, FileId, Header, Footer
    ]  # fmt: skip
    found = {(kind.__name__, name) for kind in kinds for name in texts(kind)}
    assert found - OURS == {
        ("Header", "argv"), ("Header", "log"),
        ("Exec", "exe"), ("Exec", "argv"), ("Exec", "env"), ("Exec", "maps"),
        ("Attach", "exe"), ("Attach", "argv"), ("Attach", "env"), ("Attach", "maps"),
        ("Snap", "maps"), ("Libc", "path"), ("Allocator", "path"), ("Ext", "x"), ("Ext", "name"),
        ("FileId", "path"),
    }  # fmt: skip


def test_a_record_is_never_changed_in_place(redaction: Redaction) -> None:
    file = FileId(1, "fe:00", 3, "/a")
    before: list[typing.Any] = [
        Exec(t=1, pid=1, tid=1, mm=1, exe="/a", argv=["a"], env={"LD_PRELOAD": "x"}, maps=["m"]),
        Call(1, 1, 1, 1, 0, [0], 0, Site(1, (file, 3), (file, 4)), None, None,
             Ext(f=file, x=(0, 1, ["0-1 r--p 0 fe:00 3 /a"]), name="n")),
        Snap(t=1, mm=1, pid=1, tid=1, why="exit", maps=["0-1 r--p 0 fe:00 3 /a"]),
        Libc(t=1, mm=1, path="/a"),
        Allocator(t=1, mm=1, path="/a", malloc=True),
    ]  # fmt: skip
    lines = [encode(r) for r in before]
    after = [encode(redaction.record(r)) for r in before]
    assert [encode(r) for r in before] == lines
    assert all(a != b for a, b in zip(after, lines, strict=True))


def test_all_three_places_of_a_site_are_redacted(redaction: Redaction) -> None:
    file, again = FileId(1, "fe:00", 3, "/hunter2/a"), FileId(2, "fe:00", 4, "/hunter2/b")
    row = Call(1, 1, 1, 1, 0, [0], 0, Site(1, (file, 1), (again, 2), (again, 3), direct=True))
    site = redaction.record(row).site
    assert isinstance(site, Site)
    shown = [FileId(f.id, "fe:00", f.ino, f"/redacted/file-{f.id}") for f in (file, again)]
    assert (site.ip, site.ret, site.outer) == ((shown[0], 1), (shown[1], 2), (shown[1], 3))
    assert (site.id, site.direct) == (1, True)


def test_a_call_without_names_is_left_as_it_is(redaction: Redaction) -> None:
    row = Call(1, 1, 1, 1, 0, [0], 0, 7)
    assert redaction.record(row) is row


# -- in the scribe ------------------------------------------------------------------------------

EXE, LIB = "/home/hunter2/prog", "/opt/hunter2/libc.so.6"
TEXT, POOL, FILE_AT = 0x400000, 0x600000, 0x7F0000200000
MAPS = [
    f"400000-402000 r-xp 00000000 fe:00 11 {EXE}",
    "600000-604000 rw-p 00000000 00:00 0",
    f"7f0000000000-7f0000010000 r-xp 00000000 fe:00 12 {LIB}",
    "7ffff0000000-7ffff0002000 rw-p 00000000 00:00 0 [stack]",
]


def told(redaction: Redaction | None) -> tuple[Scribe, list[Record]]:
    """One story full of secrets, as the scribe writes it."""
    scribe = Scribe(lambda mm: None, redaction=redaction)

    def life(rec: str, blob: list[str] | None = None, **fields: object) -> None:
        who = {"rec": rec, "t": 1, "mm": 1, "pid": 1, "tid": 1} | fields
        scribe.feed(wire.LifeMessage(who, "\n".join(blob or []).encode()))

    env = {"LD_PRELOAD": SECRET, "MALLOC_ARENA_MAX": "1"}
    life("exec", MAPS, exe=EXE, argv=[EXE, SECRET], env=env)
    new = f"7f0000200000-7f0000201000 r--p 00000000 fe:00 13 /srv/{SECRET}.db"
    scribe.feed(
        call("mmap", [0, 4096, 1, 2, 3, 0], FILE_AT, extra={"b": [FILE_AT, FILE_AT + 4096, [new]]},
             ip=0x7F0000000100, stack=words(TEXT + 64))
    )  # fmt: skip
    memfd = f"7f0000200000-7f0000201000 rw-s 00000000 00:01 9 /memfd:{SECRET} (deleted)"
    scribe.feed(
        call("mmap", [FILE_AT, 4096, 3, 17, 3, 0], FILE_AT, ip=0x7F0000000100,
             extra={"x": [FILE_AT, FILE_AT + 4096, [memfd]]}, stack=words(TEXT + 80))
    )  # fmt: skip
    named = [0x53564D41, 0, POOL, 8192, 0, 0]
    scribe.feed(call(157, named, 0, extra={"name": f"pool of {SECRET}"}))
    life("snap", [
        MAPS[0], f"600000-602000 rw-p 00000000 00:00 0 [anon:pool of {SECRET}]",
        "602000-604000 rw-p 00000000 00:00 0", MAPS[2], memfd, MAPS[3],
    ], why="exit")  # fmt: skip
    decoder = Decoder(Header(calls=list(NAMES)))
    return scribe, [decoder.decode(line) for line in scribe.lines]


def test_the_scribe_writes_no_name_and_its_model_is_as_exact() -> None:
    plain, before = told(None)
    shown, after = told(Redaction())
    assert SECRET.encode() in b"".join(plain.lines)
    assert SECRET.encode() not in b"".join(shown.lines)
    assert plain.counts == shown.counts
    assert shown.counts["exact"] == 1
    assert len(before) == len(after) == 7  # with two files that cannot be read
    exec_, _, _, mapped, memfd, named, snap = after
    assert isinstance(exec_, Exec)
    assert isinstance(snap, Snap)
    assert isinstance(mapped, Call)
    assert isinstance(memfd, Call)
    assert isinstance(named, Call)
    assert exec_.exe == exec_.argv[0] == exec_.maps[0].split()[-1]
    assert exec_.env == {"LD_PRELOAD": "/redacted/file-2", "MALLOC_ARENA_MAX": "1"}
    assert isinstance(mapped.site, Site)
    assert mapped.ext is not None
    assert isinstance(mapped.ext.f, FileId)
    assert isinstance(mapped.site.ip[0], FileId)
    assert mapped.site.ip[0].path == exec_.maps[2].split()[-1]
    assert memfd.ext is not None
    assert memfd.ext.x is not None
    assert memfd.ext.x[2][0] == snap.maps[4]
    assert named.ext is not None
    assert f"[anon:{named.ext.name}]" == snap.maps[1].split(None, 5)[-1]


def test_a_build_id_stays_only_of_what_may_be_named() -> None:
    shown = Redaction()
    own = Allocator(t=1, mm=1, path="/home/ann/secret-server", name="go", build_id="abcd")
    theirs = Allocator(t=1, mm=1, path="/home/ann/libjemalloc.so.2", name="jemalloc", build_id="ef")
    assert shown.record(own) == msgspec.structs.replace(own, path="/redacted/file-1", build_id=None)
    assert shown.record(theirs).build_id == "ef"
