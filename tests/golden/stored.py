# SPDX-License-Identifier: GPL-2.0-or-later
"""What is stored, and how its golden file is made: for the test and for `make golden-accept`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from memtrace.cli.diff import FORMATS, rendered
from memtrace.collect.strace.importing import import_log
from memtrace.report import json
from memtrace.report.build import read
from memtrace.report.comparison import compare

HERE = Path(__file__).parent
GOLDEN = HERE / "reports"
DATA = HERE.parent / "data"

#: Stored traces, by the name of their golden file.
TRACES = {
    path.name.removesuffix(".json.gz") if folder == HERE / "traces"
    else f"glibc-{path.name.removesuffix('.json.gz')}": path
    for folder in (HERE / "traces", DATA / "glibc")
    for path in sorted(folder.glob("*.json.gz"))
}  # fmt: skip
#: Stored logs of strace, likewise; each is imported first.
LOGS = {
    f"strace-{path.parent.name}-{path.stem}": path
    for path in sorted((DATA / "strace").glob("*/*.log"))
}
#: What is compared with what.
PAIRS = [
    ("glibc-2.31-threshold", "glibc-2.43-threshold"),  # another malloc
    ("glibc-2.41-first", "glibc-2.41-high"),  # another setting
    ("fork-tree", "thread-arenas"),  # processes that one side alone has
    ("threshold-moves", "cut"),  # one that is not to be trusted
    ("strace-6.1-plain", "threshold-moves"),  # one that lacks much
    ("header-only", "no-calls"),  # nothing, and next to nothing
    ("attached", "attached"),  # no difference
]


def golden_files(scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each golden file, as this version makes it."""
    for name in [*TRACES, *LOGS]:
        yield f"{name}.json", report_of(name, scratch)
    for pair in PAIRS:
        for form in FORMATS:
            yield diff_name(pair, form), diff_of(pair, form, scratch)


def names() -> list[str]:
    """The names of all golden files."""
    reports = [f"{name}.json" for name in [*TRACES, *LOGS]]
    return reports + [diff_name(pair, form) for pair in PAIRS for form in FORMATS]


def diff_name(pair: tuple[str, str], form: str) -> str:
    ending = "txt" if form == "text" else form
    return f"diff-{pair[0]}-to-{pair[1]}.{ending}"


def trace_of(name: str, scratch: Path) -> str:
    """Where the trace is; a log is imported to `scratch`."""
    if name in TRACES:
        return str(TRACES[name])
    path = scratch / f"{name}.json"
    if not path.exists():
        import_log([str(LOGS[name])], str(path))
    return str(path)


def report_of(name: str, scratch: Path) -> bytes:
    """What `memtrace report --format json` prints."""
    return json.render(read(trace_of(name, scratch)))


def diff_of(pair: tuple[str, str], form: str, scratch: Path) -> bytes:
    """What `memtrace diff` prints of two, called by their names here."""
    before, after = (read(trace_of(name, scratch)) for name in pair)
    return rendered(compare(before, after), pair, form).encode()
