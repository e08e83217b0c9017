# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of the cache beside a trace when another trace gets the name."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.trace.sidecar import Sidecar, SidecarWriter
from memtrace.trace.stream import Output


def traced(path: Path, data: bytes) -> Output:
    output = Output(str(path))
    output.write(data)
    output.close()
    return output


def cached(path: Path, data: bytes) -> Path:
    """A trace and its cache."""
    traced(path, data)
    writer = SidecarWriter(str(path))
    writer.add("what", data)
    writer.finish()
    assert found(path) == data
    return path


def found(path: Path) -> bytes | None:
    beside = Sidecar.of(str(path))
    if beside is None:
        return None
    data = beside.get("what")
    beside.close()
    return data


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_a_trace_that_is_kept_keeps_its_cache(tmp_path: Path) -> None:
    path, old = cached(tmp_path / "t.json", b"first"), tmp_path / "t.json.old"
    traced(path, b"second")
    assert names(tmp_path) == {"t.json", "t.json.old", "t.json.old.cache"}
    assert found(old) == b"first"
    traced(path, b"third")  # it had none, and that of the first is of no trace any more
    assert names(tmp_path) == {"t.json", "t.json.old"}


def test_a_cache_without_a_trace_goes(tmp_path: Path) -> None:
    cached(tmp_path / "t.json", b"a secret of the first run").unlink()
    traced(tmp_path / "t.json", b"redacted")
    assert names(tmp_path) == {"t.json"}


def test_what_is_put_back_has_its_cache_again(tmp_path: Path) -> None:
    path = cached(tmp_path / "t.json", b"first")
    traced(path, b"nothing").discard()
    assert names(tmp_path) == {"t.json", "t.json.cache"}
    assert found(path) == b"first"


@pytest.mark.parametrize("whose", ["t.json.cache", "t.json.old.cache"])
@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_what_is_no_cache_stays(tmp_path: Path, whose: str, what: str) -> None:
    path, other = tmp_path / "t.json", tmp_path / whose
    if whose == "t.json.old.cache":
        cached(path, b"first")
    else:
        traced(path, b"first")
    if what == "file":
        other.write_bytes(b"somebody's")
    elif what == "link":
        other.symlink_to("elsewhere")
    else:
        other.mkdir()
    traced(path, b"second")
    assert names(tmp_path) == {"t.json", "t.json.old", whose}
    if what == "file":
        assert other.read_bytes() == b"somebody's"
    assert (tmp_path / "t.json.old").read_bytes() == b"first"
