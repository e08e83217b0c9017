# SPDX-License-Identifier: GPL-2.0-or-later
"""One program, logged in many forms: the same calls, but for addresses and the order of threads."""

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from tests.unit.collect.strace.told import DATA, read

from memtrace.collect.strace.events import Called, Forked, Named, Unreadable

Said = dict[int, list[tuple[object, ...]]]

#: Pointers that strace prints as what they point to.
_NOT_PRINTED = {"prctl": 4, "io_setup": 1}


def said(data: bytes) -> Said:
    """By thread, numbered as they appear: name, arguments and result of its memory calls, with
    addresses numbered as they appear in the thread.
    """
    events, _ = read(data)
    named = next((e.own for e in events if isinstance(e, Named) and e.own), 0)
    threads: dict[int, int] = {}
    out: Said = defaultdict(list)
    seen: dict[int, dict[int, int]] = defaultdict(dict)
    for event in events:
        if isinstance(event, Forked) and event.child is not None:
            threads.setdefault(event.tid or named, len(threads))
            threads.setdefault(event.child, len(threads))
    for event in events:
        if not isinstance(event, Called):
            continue
        thread = threads.setdefault(event.tid or named, len(threads))
        places = seen[thread]

        def number(value: int | None, places: dict[int, int] = places) -> object:
            if value is None or abs(value) < 1 << 31:
                return value
            return f"#{places.setdefault(value, len(places))}"

        args = [a if a != 0xFFFFFFFF else -1 for a in event.args]
        if event.call == "brk":
            args = [1 << 40 if args[0] else 0]
            event.ret = 1 << 41
        if event.call in _NOT_PRINTED:
            args[_NOT_PRINTED[event.call]] = 0
        if event.call == "io_destroy":
            args = []
        out[thread].append((event.call, event.raw, [number(a) for a in args], number(event.ret)))
    return dict(out)


@pytest.mark.parametrize("form", ["terminal", "raw", "verbose", "relative", "names", "seccomp"])
def test_every_form_of_a_log_has_the_same_calls(form: str) -> None:
    plain = said((DATA / "6.1" / "plain.log").read_bytes())
    assert sum(len(calls) for calls in plain.values()) > 20
    if form == "seccomp":  # recorded with a choice of calls
        plain = {
            t: [c for c in calls if c[0] not in {"prctl", "mseal"}] for t, calls in plain.items()
        }
    assert said((DATA / "6.1" / f"{form}.log").read_bytes()) == plain


def test_bare_registers_have_the_same_calls_but_for_what_they_do_not_show() -> None:
    """clone3's arguments are in memory: which thread is whose child is not in such a log."""
    plain = said((DATA / "6.1" / "plain.log").read_bytes())
    bare = said((DATA / "6.1" / "registers.log").read_bytes())
    assert sorted(map(repr, bare.values())) == sorted(map(repr, plain.values()))


@pytest.mark.live
@pytest.mark.parametrize("program", [["true"], ["sh", "-c", "ls / | wc -l"]], ids=["true", "sh"])
def test_raw_and_decoded_values_of_a_real_program_agree(program: list[str], tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    logs = {}
    for style in ("raw", "abbrev", "verbose"):
        log = tmp_path / style
        subprocess.run(
            ["setarch", "-R", "strace", "-f", "-X", style, "-o", log, *program],
            check=True, stdout=subprocess.DEVNULL, timeout=100,
        )  # fmt: skip
        data = log.read_bytes()
        assert not [e for e in read(data)[0] if isinstance(e, Unreadable)]
        logs[style] = sorted(map(repr, said(data).values()))
    assert len("".join(logs["raw"])) > 500
    assert logs["raw"] == logs["abbrev"] == logs["verbose"]
