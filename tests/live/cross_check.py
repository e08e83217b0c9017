# SPDX-License-Identifier: GPL-2.0-or-later
"""What several tracers say of one program, step by step, and where they first differ.

With address space randomisation off (`setarch -R`) a program of one thread makes the same calls at
the same addresses each time, and nothing is masked. Where that is forbidden (a container's seccomp
filter) addresses are told as (region, offset): regions are numbered as the program was given them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.live.tracing import ACCOUNT_FD, PATIENCE, Event, Traced, environment

from memtrace.collect.abi import CALLS
from memtrace.collect.strace.events import Called, Ended, Execed, Unreadable
from memtrace.collect.strace.events import Event as Said
from memtrace.collect.strace.parser import Parser
from memtrace.trace.sizes import PAGE, round_up

Value = int | str | tuple[str, int] | None

#: Arguments that the kernel takes as int, of whose register strace shows the lower half: mmap's fd.
_INTS = {("mmap", 4)}
_MASK = (1 << 64) - 1
TASK_SIZE = 1 << 47
_NEW_ADDRESS = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_NAMES_OF_ITS_OWN = re.compile(r"(?<=/memtrace-sample-)\w{6}")  # mkstemp
#: Bytes from the first break on that are taken for the heap's.
_BREAK_REACH = 1 << 30
#: Which arguments are addresses (else the first), which results are, and how long what is there is.
_ADDRESSES = {"mremap": (0, 4), "shmat": (1,), "prctl": (2,), "arch_prctl": (), "mlockall": ()}
_GIVES_ADDRESS = frozenset(("brk", "mmap", "mremap", "shmat"))
_SIZE_OF_NEW = {"mmap": 1, "mremap": 2}
_AROUND = 3


class Step(NamedTuple):
    """A call that ended, an exec (`args` are its argv) or the end (`result`: code or -signal)."""

    what: str
    args: tuple[Value, ...]
    result: Value
    path: str | None = None

    def __str__(self) -> str:
        args = ", ".join(map(_text, self.args))
        path = f" {self.path}" if self.path else ""
        return f"{self.what}({args}) = {_text(self.result)}{path}"


def steps(done: Traced) -> list[Step]:
    """Of a trace."""
    found = [_step(e) for e in done.events]
    return [step for step in found if step is not None]


def _step(e: Event) -> Step | None:
    what = e["call"]
    if what in CALLS and what not in {"fork", "vfork", "clone"}:
        return _call(what, e["args"], e["ret"], e.get("path"))
    if what == "exec":
        return Step(what, tuple(e["argv"]), None, e["path"])
    if what == "exit":
        return Step(what, (), e["code"] if e.get("signal") is None else -e["signal"])
    return None


def steps_of_log(log: bytes) -> list[Step]:
    """Of strace's own text, without anything of what memtrace makes of it later."""
    parser = Parser()
    events: list[Said] = [*parser.feed(log), *parser.close()]
    found: list[Step] = []
    for e in events:
        assert not isinstance(e, Unreadable), e
        if isinstance(e, Called):
            found.append(_call(e.call, [a & _MASK for a in e.args], e.ret, e.path))
        elif isinstance(e, Execed) and e.ret == 0:
            found.append(Step("exec", tuple(e.argv or ()), None, os.path.realpath(e.path)))
        elif isinstance(e, Execed):
            found.append(Step("execve", (), e.ret))
        elif isinstance(e, Ended):
            found.append(Step("exit", (), e.code if e.signal is None else -e.signal))
    return found


def _call(name: str, args: Sequence[int], ret: int | None, path: str | None) -> Step:
    if name.startswith("execve"):
        return Step(name, (), ret)  # its pointers are the caller's business
    if name == "mremap" and args[3] & _NEW_ADDRESS != _NEW_ADDRESS:
        args = args[:4]  # strace shows no fifth, as the kernel takes none
    seen = [a & 0xFFFFFFFF if (name, i) in _INTS else a for i, a in enumerate(args)]
    if path is not None:
        path = _NAMES_OF_ITS_OWN.sub("XXXXXX", path).removesuffix(" (deleted)")
    return Step(name, tuple(seen), ret, path)


# -- running ------------------------------------------------------------------------------------


@cache
def fixed() -> tuple[str, ...]:
    """What to put before a command for it to have the same addresses each time; () if forbidden."""
    command = (shutil.which("setarch") or "setarch", "-R")
    try:
        done = subprocess.run([*command, "true"], check=False, capture_output=True)
    except OSError:
        return ()
    return () if done.returncode else command


def strace(path: Path, argv: Sequence[str], env: Mapping[str, str]) -> bytes:
    """What strace writes of a program, in its plainest form."""
    told = path.with_name(path.name + ".account")
    with told.open("wb") as account:
        move = f"{ACCOUNT_FD}>&{account.fileno()} {account.fileno()}>&-"
        words = ["bash", "-c", f'exec "$@" {move if account.fileno() != ACCOUNT_FD else ""}', "sh"]
        subprocess.run(
            [*words, *fixed(), "strace", "-f", "-y", "-X", "raw", "-s", "4096", "-o", path, *argv],
            pass_fds=[account.fileno()], env=environment(env), capture_output=True,
            stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
        )  # fmt: skip
    return path.read_bytes()


# -- comparing ----------------------------------------------------------------------------------


def relative(all_steps: Sequence[Step]) -> list[Step]:
    """The same with each address as (region, offset), and the same for each run of a program.

    A region is what a call has mapped, numbered in that order, or the break's. Of pages that no
    call has mapped, the program's own segments, only their order of appearance is told.
    """
    regions: list[tuple[int, int, str]] = []
    first: dict[int, str] = {}

    def place(value: Value) -> Value:
        if not isinstance(value, int) or not PAGE <= value < TASK_SIZE:
            return value
        for low, high, name in reversed(regions):
            if low <= value < high:
                return name, value - low
        page = value & -PAGE
        return first.setdefault(page, f"first{len(first)}"), value - page

    found = []
    for what, args, result, path in all_steps:
        if what == "exec":
            regions.clear()
            first.clear()
            found.append(Step(what, args, result, path))
            continue
        at = _ADDRESSES.get(what, (0,))
        told = tuple(place(value) if i in at else value for i, value in enumerate(args))
        if what in _GIVES_ADDRESS and isinstance(result, int) and result > 0:
            size = args[_SIZE_OF_NEW[what]] if what in _SIZE_OF_NEW else None
            if isinstance(size, int):
                regions.append((result, result + round_up(size), f"{what}{len(regions)}"))
            elif what == "brk" and all(name != "break" for _, _, name in regions):
                regions.append((result, result + _BREAK_REACH, "break"))
            result = place(result)  # noqa: PLW2901 - as it is told
        found.append(Step(what, told, result, path))
    return found


def difference(streams: Mapping[str, Sequence[Step]]) -> str | None:
    """Where they first differ, with what stands around it, each in its own words; None if nowhere.

    A path counts where each tells one: only some mappings have theirs in a trace.
    """
    length = max(map(len, streams.values()))
    for i in range(length):
        if not _same(_at(streams, i)):
            break
    else:
        return None
    lines = [", ".join(f"{name}: {len(steps)} steps" for name, steps in streams.items())]
    width = max(map(len, streams))
    for j in range(max(0, i - _AROUND), min(length, i + _AROUND + 1)):
        row = _at(streams, j)
        if _same(row):
            lines.append(f"{j:>6}  {'':{width}}  {next(iter(row.values()))}")
            continue
        for name, step in row.items():
            lines.append(f"{j:>6}{'>' if j == i else ' '} {name:{width}}  {step or '-'}")
    return "\n".join(lines)


def _at(streams: Mapping[str, Sequence[Step]], i: int) -> dict[str, Step | None]:
    return {name: steps[i] if i < len(steps) else None for name, steps in streams.items()}


def _same(row: Mapping[str, Step | None]) -> bool:
    paths = {step.path for step in row.values() if step is not None and step.path is not None}
    bare = {step and step._replace(path=None) for step in row.values()}
    return len(bare) == 1 and len(paths) <= 1


def _text(value: Value) -> str:
    if isinstance(value, tuple):
        return f"{value[0]}+{value[1]:#x}"
    if isinstance(value, int):
        return hex(value) if value > 9 else str(value)
    return repr(value) if isinstance(value, str) else "?"
