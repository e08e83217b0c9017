# SPDX-License-Identifier: GPL-2.0-or-later
"""A redacted trace holds not one character of what a program was called, told or named, and its
replay and its report give the same numbers.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.conftest import LD, MAPS, Scene

from memtrace.collect.redact import Redaction
from memtrace.malloc.caller import OWNERS
from memtrace.replay.engine import replay
from memtrace.replay.trust import sentence
from memtrace.report.build import build
from memtrace.report.rows import Rows
from memtrace.trace.codec import encode, encode_footer, encode_header
from memtrace.trace.reader import Trace
from memtrace.trace.records import Ext, Footer, Libc, Snap

#: Characters that no trace has of its own: what a JSON string must escape is among them.
SECRET = st.text('QZ密é"\\', min_size=1, max_size=6)
LIBRARIES = st.sampled_from([b for b, _ in OWNERS] + ["libc.so.6", "libc-2.31.so", "node", "lib"])
ENDING = st.sampled_from(["", ".so", ".so.2", "3.11"])
NAME = SECRET | st.builds("{}{}{}".format, LIBRARIES, ENDING, st.just("") | SECRET)
GONE = st.sampled_from(["", " (deleted)"])
PATH = st.builds(
    "{}{}/{}{}".format, st.sampled_from(["/", "/memfd:", "/SYSV"]), SECRET, NAME, GONE
) | st.sampled_from(["/dev/zero (deleted)", "anon_inode:[io_uring]"])
ENVIRONMENT = st.dictionaries(
    st.sampled_from(["MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD", "GLIBC_TUNABLES"])
    | SECRET.map("MALLOC_{}".format),
    st.builds(
        "{}{}".format,
        st.sampled_from(["", "131072", "64", "glibc.malloc.hugetlb=2:", "glibc.malloc.top_pad="]),
        st.just("") | SECRET,
    ),
    max_size=3,
)
POOL, PAGES = 0x20000000, 8
STEP = st.one_of(
    st.tuples(st.just("library"), PATH),
    st.tuples(st.just("file"), PATH, st.sampled_from(["malloc", "program", "loader"])),
    st.tuples(st.just("mmap"), st.integers(1, 300), PATH | st.just("malloc")),
    st.tuples(st.just("raw"), st.integers(1, 300), PATH),
    st.tuples(st.just("brk"), st.integers(1, 80)),
    st.tuples(st.just("name"), st.integers(0, PAGES), st.integers(0, PAGES), SECRET | st.just("")),
    st.tuples(st.just("snap"), st.booleans(), SECRET),
)
Step = tuple[Any, ...]


class Story:
    """Steps as records of a scene; the names of the pool's pages as the kernel has them."""

    def __init__(self, scene: Scene, exe: str, argv: list[str], env: dict[str, str]) -> None:
        self.scene = scene
        self.pool = [""] * PAGES
        self.begin = [line.replace("/bin/prog", exe) for line in MAPS]
        scene.header.argv = argv
        scene.exec(maps=self.maps(), exe=exe, argv=argv, env=env)

    def maps(self) -> list[str]:
        """What the exec began with, and the pool."""
        pool = [
            f"{POOL + i * 4096:x}-{POOL + i * 4096 + 4096:x} rw-p 00000000 00:00 0"
            + (f" [anon:{name}]" if name else "")
            for i, name in enumerate(self.pool)
        ]
        return sorted(self.begin + pool, key=lambda line: int(line.split("-")[0], 16))

    def take(self, what: str, *how: Any) -> None:
        scene = self.scene
        if what == "library":
            scene.library(how[0])
            if "libc" in how[0]:
                scene.life(Libc(t=1000 * scene.seq, mm=1, path=how[0], version="2.36"))
        elif what == "file":
            scene.mmap(4096, how[1], prot=1, flags=2, file=how[0])
        elif what == "mmap":
            length = how[0] * 4096
            scene.mmap(length, how[1])
            if how[0] % 2:
                scene.seen(scene.seq, length | 2)
        elif what == "raw":
            scene.mmap(how[0] * 4096, f"raw {how[1]}")
        elif what == "brk":
            scene.brk(how[0] * 4096)
        elif what == "name":
            low, high = sorted(how[:2])
            if low < high:
                args = [0x53564D41, 0, POOL + low * 4096, (high - low) * 4096, 0]
                scene.call("prctl", args, 0, by="program", ext=Ext(name=how[2]))
                self.pool[low:high] = [how[2]] * (high - low)
        else:
            if not how[0]:
                self.pool[0] = how[1]  # a name that no call gave: drift, unless it has it
            # Whatever was mapped since the exec is drift, too.
            maps = self.maps()
            scene.life(Snap(t=1000 * scene.seq, mm=1, pid=1, tid=1, why="periodic", maps=maps))


def redacted(scene: Scene, path: Path) -> Path:
    """The same records, redacted."""
    redaction = Redaction()
    body = b"".join(encode(redaction.record(r)) for r in scene.records)
    foot = encode_footer(Footer(stop=scene.seq + 1, complete=True))
    path.write_bytes(encode_header(redaction.header(scene.header)) + body + foot)
    return path


def numbers(path: Path) -> Any:
    """Everything a report says but names."""

    def without(value: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            value = msgspec.structs.asdict(value)
        if isinstance(value, dict):
            # `kernel` and `model` are a drift's lines; an allocator's evidence names its file; and
            # of one of both it says that it was redacted.
            left = {"argv", "exe", "environment", "path", "kernel", "model", "redacted"} | (
                {"evidence"} if "rule" in value else set()
            )
            return {k: without(v) for k, v in value.items() if k not in left}
        return [without(v) for v in value] if isinstance(value, list | Rows) else value

    return without(build(Trace(str(path))))


@settings(max_examples=150, deadline=None)
@given(
    exe=SECRET.map("/home/{}/prog".format) | PATH,
    argv=st.lists(SECRET, max_size=3),
    env=ENVIRONMENT,
    steps=st.lists(STEP, max_size=14),
)
def test_no_secret_is_left_and_every_number_is(
    exe: str, argv: list[str], env: dict[str, str], steps: list[Step]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder) / "plain.json")
        story = Story(scene, exe, argv, env)
        for step in steps:
            story.take(*step)
        plain = scene.write()
        shown = redacted(scene, Path(folder) / "redacted.json")
        text = shown.read_bytes()
        assert not set("QZ密é\\") & set(text.decode())
        strings = list(map(str, all_strings(json.loads(text))))
        assert not any('"' in s for s in strings)
        assert numbers(plain) == numbers(shown)
        assert trusted(plain) == trusted(shown)


def trusted(path: Path) -> str:
    with Trace(str(path)) as trace:
        return sentence(replay(trace))


def all_strings(value: Any) -> list[str]:
    """The strings of a JSON document, keys included."""
    if isinstance(value, dict):
        return [s for k, v in value.items() for s in [k, *all_strings(v)]]
    if isinstance(value, list):
        return [s for v in value for s in all_strings(v)]
    return [value] if isinstance(value, str) else []


def test_the_stories_have_exact_and_drifted_snapshots(tmp_path: Path) -> None:
    # Else the property would hold for want of cases.
    scene = Scene(tmp_path / "t.json")
    story = Story(scene, "/home/Q/prog", ["Q"], {})
    story.take("name", 1, 3, "Q")
    story.take("snap", True, "")
    story.take("snap", False, "Z")
    scene.write()
    with Trace(str(redacted(scene, tmp_path / "r.json"))) as trace:
        (process,) = replay(trace).processes
    assert (process.exact, len(process.drift)) == (1, 1)
    assert LD.rpartition("/")[2] in (tmp_path / "r.json").read_text()
