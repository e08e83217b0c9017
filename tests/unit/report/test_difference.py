# SPDX-License-Identifier: GPL-2.0-or-later
"""`memtrace diff`: what it says, and that it says it however the moments were found."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.conftest import MAPS, Scene

from memtrace.cli.diff import command
from memtrace.replay import book as books
from memtrace.replay.checkpoint import Keeper
from memtrace.trace import reader, sidecar
from memtrace.trace.beside import SUFFIX
from memtrace.trace.records import Exec, Snap
from memtrace.trace.sidecar import Sidecar, Store


def said(path: str, one: int, two: int) -> list[str]:
    done = CliRunner().invoke(
        command, [path, "--at", str(one), "--at", str(two), "--all"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_a_thread_stack_that_went_with_an_exec_is_one_region_by_a_checkpoint_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.glibc()
    stack = scene.mmap(8 << 20, prot=0, flags=0x20022)
    scene.call("mprotect", [stack + 0x1000, (8 << 20) - 0x1000, 3], 0)
    scene.clone(2, stack + (8 << 20) - 0x1000)
    for _ in range(8):
        scene.mmap(0x1000)
    before = scene.seq
    scene.life(Exec(t=0, pid=1, tid=1, mm=2, exe="/bin/b", argv=["b"], maps=[]))
    path = str(scene.write())
    straight = said(path, before, before + 1)
    kinds = next(line for line in straight if "thread-stack" in line)
    assert kinds.split()[:4] == ["thread-stack", "-", "1", "8"]

    class Often(Keeper):
        def __init__(self, store: Store) -> None:
            super().__init__(store, every=1)
            self.costly = True

    monkeypatch.setattr(reader, "_BLOCK", 200)
    monkeypatch.setattr(books, "Keeper", Often)
    assert said(path, before, before + 1) == straight


def test_what_was_mapped_before_a_log_begins_is_not_known(scene: Scene) -> None:
    scene.exec(assumed=True, maps=[])
    scene.call("mremap", [0x7F0000200000, 8192, 16384, 1], 0x7F0000200000)
    lines = said(str(scene.write()), 1, 2)
    assert lines[1] == "mapped   at least 0 B to at least 16 KiB: +16 KiB"
    assert lines[2] == "what was mapped before the log begins counts from the call that proves it"
    scene.records.clear()
    scene.exec()
    scene.mmap(0x1000)
    assert "at least" not in "".join(said(str(scene.write()), 1, 2))


def damage(path: str, name: str) -> bytes:
    """Change a byte of a blob in the cache beside a trace; returns the whole before that."""
    beside = Sidecar.of(path)
    assert beside is not None
    data = beside.get(name)
    assert data
    beside.close()
    cache = Path(path + SUFFIX)
    whole = cache.read_bytes()
    assert whole.count(data) == 1
    cache.write_bytes(whole.replace(data, bytes([data[0] ^ 0xFF]) + data[1:]))
    return whole


def test_a_cache_whose_kinds_are_damaged_is_made_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "LARGE", 1)
    scene.glibc()
    scene.brk(0x21000)
    scene.mmap(0x30000)
    scene.fork(2)
    scene.as_(2, 2).mmap(0x40000)
    path = str(scene.write())
    wanted = said(path, 1, scene.seq - 2)
    assert not any(line.split()[:1] == ["unknown"] for line in wanted)
    whole = damage(path, "kinds1")
    assert said(path, 1, scene.seq - 2) == wanted
    assert Path(path + SUFFIX).read_bytes() == whole
    damage(path, "kinds2")  # of another process: not wanted
    damaged = Path(path + SUFFIX).read_bytes()
    assert said(path, 1, scene.seq - 2) == wanted
    assert Path(path + SUFFIX).read_bytes() == damaged


def test_each_moment_whose_map_is_not_proven_is_told_of(scene: Scene) -> None:
    scene.exec()
    scene.mmap(0x1000)
    scene.life(Snap(t=50_000, mm=1, pid=1, tid=1, why="every", maps=MAPS))
    scene.mmap(0x1000)
    scene.mmap(0x1000)
    scene.life(Snap(t=90_000, mm=1, pid=1, tid=1, why="every", maps=MAPS))
    path = str(scene.write())
    warned = {
        (one, two): CliRunner().invoke(command, [path, "--at", one, "--at", two]).stderr
        for one, two in (("5", "2"), ("1", "4"), ("3", "6"))
    }
    sentence = "memtrace: warning: the map at #{} is not proven: a snapshot is not reproduced "
    assert warned == {
        ("5", "2"): f"{sentence.format(2)}(event 3)\n{sentence.format(5)}(event 6)\n",
        ("1", "4"): f"{sentence.format(4)}(event 6)\n",
        ("3", "6"): "",
    }


def test_of_a_path_that_has_no_room_the_name_is_there(scene: Scene) -> None:
    path = "/usr/lib/x86_64-linux-gnu/a-directory-with-a-long-name/libexample.so.6"
    scene.exec()
    at = scene.mmap(0x9000, by="loader", flags=2, file=path)
    scene.mmap(0x5000, by="loader", flags=2, file="/opt/ünïcode/" + "libex" * 9 + ".so")
    to = at - 0x100000
    scene.call("mremap", [at, 0x9000, 0x4000, 3, to], to)
    scene.call("mprotect", [to, 0x1000, 1], 0)
    lines = said(str(scene.write()), 2, scene.seq)
    (line,) = [line for line in lines if "moved from" in line]
    assert line.endswith("re-protected  …libexample.so.6")
    (line,) = [line for line in said(str(scene.write()), 1, 2) if "libexample" in line]
    assert line.endswith("born  …ectory-with-a-long-name/libexample.so.6")
    assert len(line) <= 100
    (line,) = [line for line in said(str(scene.write()), 2, 3) if "libex" in line]
    assert line.endswith("born  …" + ("libex" * 9 + ".so")[-39:])
