# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver `drv` (drv.c), which does to malloc what it is told and tells the truth about it,
under `memtrace run`; and the report beside that truth.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.live.attaching import BUILT, HEADERS, outdated
from tests.live.tracing import Event, Traced

from memtrace.report.build import build
from memtrace.report.model import ProcessRow, RegionRow, Report, StepRow
from memtrace.trace.reader import Trace

HERE = Path(__file__).parent
_FLAGS = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{HEADERS}", f"-I{HERE}"]
#: How each form of a program is built. `portable`: runs with glibc's from 2.17 on, whatever it was
#: built with.
FORMS: Mapping[str, tuple[str, ...]] = {
    "": ("gcc", "-pthread"),
    "static": ("gcc", "-pthread", "-static"),
    "i386": ("gcc", "-pthread", "-m32"),
    "i386-static": ("gcc", "-pthread", "-m32", "-static"),
    "musl": ("musl-gcc", "-pthread"),
    "musl-static": ("musl-gcc", "-pthread", "-static"),
    "portable": ("gcc", "-DPORTABLE", "-nostartfiles"),
}
#: The version of this machine's glibc, as a report has it.
GLIBC = (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")
_LAST = {"portable": ("-Wl,--no-as-needed", "-l:libpthread.so.0")}


@functools.cache
def lacking(form: str) -> str:
    """What is not installed of what builds programs of this form, or ""."""
    if form in ("", "portable"):
        return ""  # the C compiler is there (`make test` needs it)
    compiler, *flags = FORMS[form]
    if shutil.which(compiler) is None:
        return f"{compiler} is not installed"
    words = [
        compiler,
        *(f for f in flags if f in ("-m32", "-static")),
        "-x",
        "c",
        "-o",
        "/dev/null",
    ]
    text = b"#include <stdlib.h>\nint main(void) { return 0; }"
    made = subprocess.run([*words, "-"], input=text, capture_output=True, check=False)
    return f"{' '.join(FORMS[form])} makes no programs here" if made.returncode else ""


def driver(form: str = "", name: str = "drv") -> Path:
    """The program of tests/live/NAME.c in one of its forms; built by one worker, others wait. Skips
    the test where the compiler cannot do it.
    """
    if reason := lacking(form):
        pytest.skip(reason)
    source, made = HERE / f"{name}.c", BUILT / (f"{name}-{form}" if form else name)
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if outdated(made, source, HERE / "mallocs.h", *HEADERS.glob("*.h")):
            compiler, *flags = FORMS[form]
            words = [compiler, *_FLAGS, *flags, source, "-o", made, *_LAST.get(form, ())]
            subprocess.run(words, check=True)
    return made


def needs_32_bit() -> None:
    """Skip where 32-bit programs cannot be built."""
    made = subprocess.run(
        ["gcc", "-m32", "-x", "c", "-o", "/dev/null", "-"], input=b"int main(void){return 0;}",
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("gcc makes no 32-bit programs here (gcc-multilib)")


@dataclass(frozen=True)
class Driven:
    """A traced run of the driver, its account and the report on it."""

    traced: Traced

    @cached_property
    def report(self) -> Report:
        """What memtrace says."""
        with Trace(str(self.traced.path)) as trace:
            return build(trace)

    @cached_property
    def processes(self) -> list[ProcessRow]:
        """Of the report, in order of birth."""
        return list(self.report.processes)

    @property
    def process(self) -> ProcessRow:
        """The only one there may be."""
        (only,) = self.processes
        return only

    @property
    def ops(self) -> list[Event]:
        """What the driver did."""
        return self.traced.told("op")

    def block(self, index: int) -> Event:
        """What the driver was told of block `index` when it was first asked for."""
        return next(o for o in self.ops if o.get("index") == index and "request" in o)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The report's processes as plain values, with what only the text shows."""
        return [_plain(p) for p in self.processes]


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(v) for name, v in msgspec.structs.asdict(value).items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


Drive = Callable[..., Driven]


def steps(p: ProcessRow) -> list[tuple[int, str, str | None]]:
    """(delta, verdict, reason) of each step of the heap."""
    return [(s.delta, s.verdict, s.reason) for s in p.heap.steps]


def moves(p: ProcessRow) -> list[tuple[int | None, int | None, str]]:
    """(low, high, cause) of each move of the threshold."""
    return [(m.low, m.high, m.cause) for m in p.threshold.history]


def of_kind(p: ProcessRow, *kinds: str) -> list[RegionRow]:
    """Regions of these kinds that were born in this process, in order of birth."""
    found = [r for r in p.regions if r.kind in kinds and not r.inherited]
    return sorted(found, key=lambda r: (r.born_seq, r.start))


def chunks(p: ProcessRow) -> list[RegionRow]:
    """The regions called mapped chunks, in order of birth."""
    return of_kind(p, "malloc-chunk")


def region_at(p: ProcessRow, address: int, seq: int | None = None) -> RegionRow:
    """The region that holds an address, of those alive after record `seq` (None: at the end)."""

    def alive(r: RegionRow) -> bool:
        if seq is None:
            return r.died_seq is None
        return r.born_seq <= seq and (r.died_seq is None or r.died_seq > seq)

    (only,) = [r for r in p.regions if r.start <= address < r.end and alive(r)]
    return only


#: What the kernel and the loader map.
_BEFORE = frozenset({"library", "file", "loader", "vdso", "stack"})


def kinds(p: ProcessRow) -> set[str]:
    """The kinds of what was mapped, without the loader's and the kernel's."""
    return {r.kind for r in p.regions if not r.inherited} - _BEFORE


def grown(p: ProcessRow) -> list[StepRow]:
    """The growths of the heap."""
    return [s for s in p.heap.steps if s.delta > 0]
