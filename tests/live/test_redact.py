# SPDX-License-Identifier: GPL-2.0-or-later
"""With `--redact` the file holds none of the program's secrets, and shows the same."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.live.attaching import attaching
from tests.live.tracing import ROOT, Traced, cli, target, until

from memtrace.trace.reader import Trace
from memtrace.trace.records import Exec
from memtrace.trace.zstd import ZstdFile

#: Printable, as all kernels take it for anonymous memory; and what must be escaped in JSON, by the
#: kernel in maps, or because it is not UTF-8.
PLAIN, ODD = b"hunter2-Geheim", b'hunter2 "\\\n\xff-Geheim'
PARTS = (b"hunter2", b"unter2", b"Geheim", b"5ec2e7")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in a folder and under a name that are secrets, too."""
    folder = tmp_path_factory.mktemp("hunter2")
    source = Path(__file__).with_name("secrets.c")
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'samples'}"]
    subprocess.run(["gcc", *flags, source, "-o", folder / "Geheim"], check=True)
    # It defines what jemalloc defines, and passes all on.
    stub = Path(__file__).with_name("passing_on.c")
    subprocess.run(["gcc", "-shared", "-fPIC", stub, "-o", folder / "libjemalloc.so.2"], check=True)
    return folder / "Geheim"


def words(program: Path, word: bytes) -> list[bytes]:
    return [bytes(program), word, bytes(program.parent) + b"/file-" + word]


def recorded(
    run: Callable[..., Traced], program: Path, word: bytes, *options: str, suffix: str = ".json",
    **env: str,
) -> Traced:  # fmt: skip
    done = run(
        "setarch", "-R", *words(program, word), options=options, suffix=suffix, data=b"xx",
        cwd=program.parent, env={"LD_LIBRARY_PATH": str(program.parent), **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done.assert_exact()
    return done


def assert_clean(path: Path) -> None:
    """No part of a secret, in the file's bytes and in what they decompress to."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        text = gzip.decompress(raw)
    elif path.suffix == ".zst":
        with path.open("rb") as f:
            text = ZstdFile(f).read()
    else:
        text = raw
    assert text.startswith(b"[{")
    found = {p for p in PARTS if p.lower() in raw.lower() or p.lower() in text.lower()}
    assert not found


def seen(path: Path) -> Any:
    """What a report says of every process but when it was and what it is called. Without the first,
    setarch, which turns off the randomness of addresses for those after it.
    """
    said = json.loads(cli("report", path, "--format", "json").stdout)
    shown = []
    for p in said["processes"][1:]:
        heap, threshold = p["heap"], p["threshold"]
        shown.append({
            "allocator": [p["allocator"][k] for k in ("name", "version", "rule")],
            "heap": [heap[k] for k in ("peak_bytes", "final_bytes", "grown_bytes", "growths")],
            "steps": [[s[k] for k in ("delta", "verdict", "reason")] for s in heap["steps"]],
            "threshold": [threshold[k] for k in ("initial", "low", "high", "fixed_by")],
            "moves": [[m[k] for k in ("low", "high", "cause")] for m in threshold["history"]],
            "kinds": {k: [v["count"], v["peak_bytes"]] for k, v in p["kinds"].items()},
            "regions": [
                [r[k] for k in ("start", "bytes", "kind", "owner", "evidence", "verdict")]
                for r in p["regions"]
            ],
            "calls": p["calls"],
            "exact": [p["verification"][k] for k in ("snapshots", "exact", "checksums", "drift")],
        })  # fmt: skip
    return shown


@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zst"])
@pytest.mark.parametrize("word", [PLAIN, ODD], ids=["plain", "odd"])
def test_not_a_byte_of_a_secret_is_in_the_file(
    run: Callable[..., Traced], program: Path, word: bytes, suffix: str
) -> None:
    secret = {"MALLOC_CONF": "hunter2", "MALLOC_Geheim": "x", "MALLOC_ARENA_MAX": "3"}
    done = recorded(run, program, word, "--redact", suffix=suffix, **secret)
    assert_clean(done.path)
    assert done.path.stat().st_mode & 0o777 == 0o600
    last = done.calls("exec")[-1]
    assert last["argv"][1:] == ["<redacted>"]
    with Trace(str(done.path)) as trace:
        env = next(r.env for _, _, r in trace.records() if isinstance(r, Exec))
    assert (env["MALLOC_ARENA_MAX"], env["MALLOC_CONF"]) == ("3", "<redacted>")


@pytest.mark.parametrize("word", [PLAIN, ODD], ids=["plain", "odd"])
def test_it_shows_what_the_whole_trace_shows(
    run: Callable[..., Traced], program: Path, word: bytes
) -> None:
    whole = recorded(run, program, word)
    short = recorded(run, program, word, "--redact")
    assert seen(short.path) == seen(whole.path)
    # And there was something to leave out, in every place where a name can be.
    text = whole.path.read_text()
    for place in ('"exe":"', '"argv":[', '"path":"', "/memfd:", "LD_LIBRARY_PATH"):
        assert any(
            "hunter2" in line.partition(place)[2] for line in text.splitlines() if place in line
        ), place
    assert "/SYSV005ec2e7" in text
    assert "Geheim (deleted)" in text
    for name in ("/memfd:redacted-", "/SYSVredacted-", "/libc.so.6", "/dev/zero (deleted)"):
        assert name in short.path.read_text()


def test_what_a_file_holds_stays_known(run: Callable[..., Traced], program: Path) -> None:
    preload = {"LD_PRELOAD": str(program.parent / "libjemalloc.so.2")}
    whole = recorded(run, program, PLAIN, **preload)
    short = recorded(run, program, PLAIN, "--redact", **preload)
    assert seen(short.path) == seen(whole.path)
    held = [line for line in short.path.read_text().splitlines() if '"rec":"allocator"' in line]
    assert held
    assert all('"path":"/redacted/' in line for line in held)
    assert all('/libjemalloc.so.2","name":"jemalloc","malloc":true' in line for line in held)
    assert_clean(short.path)


@pytest.mark.parametrize("suffix", [".json", ".json.zst"])
def test_nor_is_it_after_an_attach(tmp_path: Path, program: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    argv = [word.decode() for word in words(program, PLAIN)]
    with target(tmp_path / "told", argv, cwd=program.parent) as running:
        running.tells("begin")
        with attaching(path, running.pid, "--redact", told=running.told) as a:
            a.begun()
            running.step()
            arguments = Path(f"/proc/{running.pid}/cmdline")
            until(lambda: [1] if arguments.read_bytes().count(b"\0") == 2 else [])
            done = a.left(signal.SIGTERM)
        running.step()
        assert running.ended() == 0
    done.assert_exact()
    assert_clean(path)
    kinds = [e["call"] for e in done.calls("attach", "exec", "fork")]
    assert kinds == ["attach", "fork", "exec"]


def test_what_is_said_on_the_terminal_is_the_users_own(
    run: Callable[..., Traced], program: Path
) -> None:
    done = run(*words(program, PLAIN), options=("--redact",), data=b"xx")
    assert "Geheim  exit 0" in done.stderr
    refused = cli("run", "--redact", "-o", done.path, "--", program.parent / "hunter2")
    assert (refused.returncode, "hunter2" in refused.stderr) == (127, True)


def test_a_crash_leaves_nothing_either(tmp_path: Path, program: Path) -> None:
    # The first bytes that are on disk are the header's: long before the end.
    path = tmp_path / "t.json"
    argv = [word.decode() for word in words(program, PLAIN)]
    with target(tmp_path / "told", argv) as running:
        running.tells("begin")
        with attaching(path, running.pid, "--redact") as a:
            a.begun()
            assert_clean(path)
            running.step()
            until(lambda: [1] if b'"exec"' in path.read_bytes() else [])
            a.process.kill()
            a.process.wait()
        until(lambda: [1] if b"killed" in path.read_bytes() else [])
        running.step()
        assert running.ended() == 0
    assert_clean(path)
