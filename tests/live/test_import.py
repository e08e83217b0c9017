# SPDX-License-Identifier: GPL-2.0-or-later
"""Real programs under the real strace, its logs imported: calls, maps, what is said of them."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.live.tracing import ACCOUNT_FD, PATIENCE, Event, Traced, account_of, cli, normal

from memtrace.collect.strace.importing import import_log
from memtrace.replay.engine import replay
from memtrace.report import json as report_json
from memtrace.space.canonical import canonical
from memtrace.trace import zstd
from memtrace.trace.reader import Trace

CALLS = "trace=%memory,%process"
#: Ways to record; "-o" is added but where stderr is the log.
FORMS = {
    "plain": ["-f"],
    "best": ["-f", "-ttt", "-T", "-y", "-e", CALLS],
    "raw": ["-f", "-X", "raw", "-tt", "-y", "-e", CALLS],
    "verbose": ["-f", "-v", "-X", "verbose", "-s", "4096", "-r", "-T"],
    "odd": ["-f", "-t", "-i", "-n", "-yy", "-e", f"{CALLS},openat,close"],
    "seccomp": ["-f", "--seccomp-bpf", "-ttt", "-e", CALLS],
}

Record = Callable[..., Traced]


def strace(log: Path, options: list[str], argv: list[str | Path], **kw: Any) -> list[Event]:
    """Run under strace; the log is `log`; the program's account."""
    told = log.with_name(log.name + ".account")
    with told.open("wb") as account:
        move = f"{ACCOUNT_FD}>&{account.fileno()} {account.fileno()}>&-"
        inner = ["bash", "-c", f'exec "$@" {move}', "sh", "strace", *options, *map(str, argv)]
        subprocess.run(
            inner, pass_fds=[account.fileno()], stdin=subprocess.DEVNULL, timeout=PATIENCE,
            check=False, **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **kw},
        )  # fmt: skip
    return account_of(told)


@pytest.fixture(scope="module")
def reuse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Threads that are given what others free."""
    program = tmp_path_factory.mktemp("reuse") / "reuse"
    source = Path(__file__).with_name("reuse.c")
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["gcc", *flags, source, "-o", program], check=True)
    return program


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A program under strace with these options; its log, imported."""

    def go(*argv: str | Path, form: str = "best", suffix: str = ".json", **kw: Any) -> Traced:
        log = tmp_path / f"{form}.log"
        account = strace(log, [*FORMS[form], "-o", str(log)], list(argv), **kw)
        return imported(log, tmp_path / f"{form}{suffix}", account)

    return go


def imported(log: Path, path: Path, account: list[Event] | None = None) -> Traced:
    done = cli("import", log, "-o", path)
    assert done.returncode == 0, done.stderr
    assert "unverified: no kernel snapshots in this log" in done.stderr
    return Traced(path, done.returncode, b"", done.stderr, account or [])


def whole(done: Traced) -> None:
    """Nothing is missing and nothing contradicts itself."""
    assert done.exactness == "unverified", done.sentence
    r = done.replayed
    assert not r.problems_total, r.problems
    assert [p.conflicts for p in r.processes] == [0] * len(r.processes)


def shapes(done: Traced, pid: int | None = None) -> list[tuple[object, ...]]:
    """The calls without what differs from run to run: addresses and descriptors."""
    keep = {
        "mmap": (1, 2, 3, 5), "munmap": (1,), "mprotect": (1, 2), "mremap": (1, 2, 3),
        "madvise": (1, 2),
    }  # fmt: skip
    return [
        (e["call"], *(e["args"][i] for i in keep.get(e["call"], ())), e["errno"])
        for e in done.calls(**({} if pid is None else {"pid": pid}))
    ]


def breaks(done: Traced) -> list[tuple[int, int]]:
    """(break before, break after) of each move, from the trace."""
    found = []
    now = 0
    for e in done.calls("brk"):
        if now and e["ret"] != now:
            found.append((now, e["ret"]))
        now = e["ret"]
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["heap-grow", "heap-shrink"])
def test_the_heap_moves_as_the_program_tells(
    record: Record, samples: Path, name: str, form: str
) -> None:
    done = record(samples / name, form=form)
    whole(done)
    assert breaks(done) == [(b["before"], b["after"]) for b in done.told("break")]
    (p,) = done.replayed.processes
    assert done.account[0]["pid"] == p.pid


@pytest.mark.parametrize("name", [
    "heap-grow", "heap-shrink", "threshold-moves", "threshold-edge", "direct-mmap",
    "lazy-population",
])  # fmt: skip
def test_the_calls_are_those_that_run_records(
    record: Record, sample: Callable[..., Traced], samples: Path, name: str
) -> None:
    done = record(samples / name)
    whole(done)
    assert shapes(done) == shapes(sample(name))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_known_of_the_map_is_as_the_program_reads_it(
    record: Record, samples: Path, form: str
) -> None:
    done = record(samples / "self-maps", form=form)
    whole(done)
    told = {(m["pid"], m["mark"]): m["maps"] for m in done.told("mark")}
    at = {
        (e["pid"], e["args"][0] >> 12): e["seq"]
        for e in done.calls("munmap", ret=-22)
        if e["args"][1] == 0
    }
    assert set(told) <= set(at)
    maps = done.maps(at.values())
    compared = 0
    for key, lines in told.items():
        theirs = canonical(normal(lines))
        for run in maps[at[key]]:
            inside = [t for t in theirs if t.start < run.end and run.start < t.end]
            covered = sum(min(t.end, run.end) - max(t.start, run.start) for t in inside)
            assert covered == run.end - run.start, f"{run} is not all mapped at {key}"
            for t in inside:
                known = [(a, b) for a, b in zip(run.perms, t.perms, strict=True) if a != "?"]
                assert all(a == b for a, b in known), (run, t)
                if run.dev == "??:??":
                    assert t.ino
                    if run.perms[3] == t.perms[3] and run.ino:
                        assert run.delta == t.delta
            compared += 1
    assert compared > 100


@pytest.mark.parametrize("name", [
    "fork-tree", "clone-vm", "exec-from-thread", "thread-arenas", "exit-codes", "mapping-kinds",
])  # fmt: skip
@pytest.mark.parametrize("form", ["plain", "best"])
def test_families(record: Record, samples: Path, name: str, form: str) -> None:
    done = record(samples / name, form=form)
    whole(done)
    pids = {pid for p in done.replayed.processes for pid in p.pids}
    assert {e["pid"] for e in done.account} <= pids


@pytest.mark.parametrize("form", ["plain", "best", "raw"])
def test_threads_that_reuse_addresses(
    tmp_path: Path, record: Record, reuse: Path, form: str
) -> None:
    whole(record(reuse, form=form))
    # In the order of the lines the same log contradicts itself.
    other = tmp_path / "unordered.json"
    import_log(str(tmp_path / f"{form}.log"), str(other), reorder=False)
    with Trace(other) as trace:
        assert sum(p.conflicts for p in replay(trace).processes) > 0


@pytest.mark.parametrize("argv", [
    ("bash", "-c", "ls / | cat; (exec true); for i in 1 2 3; do /bin/true & done; wait"),
    ("/usr/bin/env", "perl", "-e", 'my @a = (1) x 300000; system("true") for 1 .. 3'),
])  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_programs(record: Record, argv: tuple[str, ...], form: str) -> None:
    done = record(*argv, form=form)
    whole(done)
    assert all(p.exit_code == 0 or p.died_seq for p in done.replayed.processes)


def test_the_compiler(record: Record, tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text("int main(void) { return 0; }\n")
    done = record("gcc", "-O2", source, "-o", tmp_path / "x")
    whole(done)
    assert {"cc1", "as", "ld"} <= {Path(p.exe).name for p in done.replayed.processes}


def test_a_log_from_stderr(tmp_path: Path) -> None:
    log = tmp_path / "stderr.log"
    with log.open("wb") as f:
        strace(log, ["-f", "-e", CALLS], ["bash", "-c", "(/bin/true); ls /; true"], stderr=f)
    done = imported(log, tmp_path / "t.json")
    whole(done)
    assert len(done.replayed.processes) == 5
    # A line says whose it is only while there are several: the shell's number is known if it made a
    # call while a child of its lived, which load may prevent.
    named = {int(n) for n in re.findall(rb"^\[pid +(\d+)\]", log.read_bytes(), re.MULTILINE)}
    assert len(named) in (2, 3)
    assert {p.pid for p in done.replayed.processes} == named | ({0} if len(named) == 2 else set())


@pytest.mark.parametrize("name", [
    "fork-tree", "clone-vm", "exec-from-thread", "thread-arenas", "heap-grow",
])  # fmt: skip
def test_a_file_per_thread(tmp_path: Path, samples: Path, name: str) -> None:
    log = tmp_path / "set"
    account = strace(
        log, ["-ff", "-ttt", "-T", "-y", "-e", CALLS, "-o", str(log)], [samples / name]
    )
    done = imported(log, tmp_path / "t.json", account)
    whole(done)
    assert {e["pid"] for e in done.account} <= {
        pid for p in done.replayed.processes for pid in p.pids
    }
    if name == "heap-grow":
        assert breaks(done) == [(b["before"], b["after"]) for b in done.told("break")]
    files = sorted(tmp_path.glob("set.[0-9]*"))
    again = cli("import", *files, "-o", tmp_path / "again.json")
    assert again.returncode == 0, again.stderr
    twin = Traced(tmp_path / "again.json", 0, b"", "", [])
    if len(files) > 1:
        assert twin.events == done.events


def test_a_file_per_thread_of_threads_that_reuse_addresses(tmp_path: Path, reuse: Path) -> None:
    log = tmp_path / "set"
    strace(log, ["-ff", "-ttt", "-T", "-e", CALLS, "-o", str(log)], [reuse])
    timed = imported(log, tmp_path / "t.json")
    # As exact as strace's clock: calls that end within a microsecond or two may change places, and
    # where that shows the replay says so.
    assert timed.exactness in ("unverified", "drift"), timed.sentence
    # Without -T it is not known when a call ended, and without times nothing is.
    for file in tmp_path.glob("set.[0-9]*"):
        file.write_bytes(re.sub(rb" <[0-9.]+>$", b"", file.read_bytes(), flags=re.MULTILINE))
    rough = imported(log, tmp_path / "t.json")
    assert rough.exactness == "incomplete"
    assert "without -T" in rough.stderr
    for file in tmp_path.glob("set.[0-9]*"):
        file.write_bytes(re.sub(rb"^[0-9.]+ ", b"", file.read_bytes(), flags=re.MULTILINE))
    refused = cli("import", log, "-o", tmp_path / "t.json")
    assert refused.returncode == 3
    assert "no times" in refused.stderr
    assert "strace -ff -ttt -T" in refused.stderr


def test_every_verb_says_that_it_is_unverified(record: Record, samples: Path) -> None:
    done = record(samples / "threshold-moves")
    verified = cli("verify", done.path)
    assert verified.returncode == 0
    assert verified.stdout.startswith("unverified: no kernel snapshots in this log")
    text = cli("report", done.path)
    assert text.returncode == 0
    assert "unverified: no kernel snapshots in this log" in text.stdout
    told = json.loads(cli("report", done.path, "--format", "json").stdout)
    jsonschema.validate(told, report_json.schema())
    (p,) = told["processes"]
    assert told["trace"]["log"] == "best.log"
    assert p["assumed"]
    assert p["memory"]["vm_peak_bytes"] is None
    # What only the environment, callers or headers would tell.
    assert p["threshold"]["low"] is None
    assert {s["verdict"] for s in p["heap"]["steps"]} == {"unknown"}
    assert {r["verdict"] for r in p["regions"]} <= {"unknown", "not-applicable"}
    assert "malloc-chunk" not in p["kinds"]
    assert "chunks.mapped" not in p["metrics"]
    assert "[assumed]" in cli("maps", done.path, "--at", "end").stdout


def test_the_environment_of_a_verbose_log(record: Record, samples: Path) -> None:
    done = record("env", "MALLOC_MMAP_THRESHOLD_=65536", samples / "heap-grow", form="verbose")
    told = json.loads(cli("report", done.path, "--format", "json").stdout)
    assert [e["call"] for e in done.events].count("exec") == 2
    assert "MALLOC_MMAP_THRESHOLD_" in json.dumps(done.path.read_text())
    # What AT_SECURE is no log tells, and with it the variable would not count.
    assert told["processes"][-1]["threshold"]["low"] is None


def test_a_log_without_times_has_none(record: Record, samples: Path) -> None:
    done = record(samples / "heap-grow", form="plain")
    assert {e["t_ns"] for e in done.events} == {None}
    told = json.loads(cli("report", done.path, "--format", "json").stdout)
    assert told["trace"]["duration_ns"] is None
    assert {s["t_ns"] for s in told["processes"][0]["heap"]["steps"]} == {None}
    assert "unknown" in cli("events", done.path).stdout.splitlines()[0]
    refused = cli("maps", done.path, "--at", "1ms")
    assert refused.returncode == 2
    assert "no times" in refused.stderr


@pytest.mark.parametrize("suffix", [".json.gz", ".json.zst"])
def test_compressed_both_ways(record: Record, samples: Path, tmp_path: Path, suffix: str) -> None:
    done = record(samples / "heap-grow")
    pack = gzip.compress if suffix.endswith("gz") else zstd.compress
    packed = tmp_path / "packed"
    packed.write_bytes(pack((tmp_path / "best.log").read_bytes()))
    with packed.open("rb") as f:
        again = cli("import", "-", "-o", tmp_path / f"again{suffix}", stdin=f)
    assert again.returncode == 0, again.stderr
    twin = Traced(tmp_path / f"again{suffix}", 0, b"", "", [])
    assert twin.events == done.events


def test_a_log_cut_anywhere_is_incomplete_and_says_so(
    record: Record, samples: Path, tmp_path: Path
) -> None:
    record(samples / "fork-tree")
    data = (tmp_path / "best.log").read_bytes()
    for part in (3, 5, 9):
        cut = tmp_path / "cut.log"
        cut.write_bytes(data[: len(data) * part // 10])
        done = imported(cut, tmp_path / "cut.json")
        assert done.exactness == "incomplete"
        assert "incomplete: " in done.stderr
        assert not any(p.conflicts for p in done.replayed.processes)
        for verb in ("report", "events"):
            assert cli(verb, done.path).returncode == 0


def test_a_log_of_a_process_that_was_running(tmp_path: Path, samples: Path) -> None:
    log = tmp_path / "attached.log"
    code = "import sys; sys.stdin.read(1); x = [bytearray(1 << 18) for _ in range(9)]"
    program = [sys.executable, "-c", code]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as target, log.open("wb") as f:
        assert target.stdin is not None
        with subprocess.Popen(["strace", "-f", "-p", str(target.pid)], stderr=f) as tracer:
            while b"attached" not in log.read_bytes():
                assert tracer.poll() is None
            target.stdin.write(b"x")
            target.stdin.close()
            target.wait(PATIENCE)
            tracer.wait(PATIENCE)
        pid = target.pid
    done = imported(log, tmp_path / "t.json")
    whole(done)
    (p,) = done.replayed.processes
    assert (p.pid, p.attached) == (pid, True)
    told = json.loads(cli("report", done.path, "--format", "json").stdout)["processes"][0]
    assert told["attached"]["mapped_bytes"] is None
    assert "was there before the log begins" in cli("report", done.path).stdout.replace("\n  ", " ")


def test_a_log_that_does_not_follow_children(tmp_path: Path) -> None:
    log = tmp_path / "alone.log"
    strace(log, ["-o", str(log)], ["bash", "-c", "(true); ls /"])
    done = cli("import", log, "-o", tmp_path / "t.json")
    assert done.returncode == 0
    assert "recorded without -f?" in done.stderr
    assert "strace -f" in done.stderr


@pytest.mark.parametrize("shown", ["abbrev", "raw", "verbose"])
def test_a_log_of_memory_calls_alone_that_does_not_follow_children(
    tmp_path: Path, shown: str
) -> None:
    log = tmp_path / "alone.log"
    strace(log, ["-X", shown, "-e", "trace=%memory", "-o", str(log)], ["bash", "-c", "(true); :"])
    done = cli("import", log, "-o", tmp_path / "t.json")
    assert "incomplete: a child process has ended" in done.stderr


def test_a_redacted_trace_holds_no_name(record: Record, samples: Path, tmp_path: Path) -> None:
    record(samples / "mapping-kinds")
    path = tmp_path / "redacted.json"
    done = cli("import", tmp_path / "best.log", "-o", path, "--redact")
    assert done.returncode == 0
    text = path.read_text()
    assert "mapping-kinds" not in text
    assert "best.log" not in text
    assert "libc.so.6" in text


def test_the_trace_before_is_kept(record: Record, samples: Path, tmp_path: Path) -> None:
    first = record(samples / "heap-grow").path.read_bytes()
    record(samples / "heap-shrink")
    assert (tmp_path / "best.json.old").read_bytes() == first
    # A log that is none leaves everything as it is.
    bad = tmp_path / "bad.log"
    bad.write_text("no log\n" * 1000)
    kept = (tmp_path / "best.json").read_bytes()
    refused = cli("import", bad, "-o", tmp_path / "best.json")
    assert refused.returncode == 3
    assert (tmp_path / "best.json").read_bytes() == kept
    assert (tmp_path / "best.json.old").read_bytes() == first


def test_what_cannot_be_imported_says_what_to_type(tmp_path: Path) -> None:
    log = tmp_path / "trace.json"
    log.write_bytes(b"7 brk(NULL) = 0x5000\n7 +++ exited with 0 +++\n")
    refused = cli("import", "trace.json", cwd=tmp_path)
    assert refused.returncode == 2
    remedy = refused.stderr.split("try: memtrace ")[1].split()
    assert cli(*remedy, cwd=tmp_path).returncode == 0


def test_a_closed_standard_input(tmp_path: Path) -> None:
    closed = cli("import", "-", cwd=tmp_path, preexec_fn=lambda: os.close(0))
    assert closed.returncode == 3
    assert "closed" in closed.stderr


def test_a_file_that_is_named_twice_counts_once(samples: Path, tmp_path: Path) -> None:
    strace(tmp_path / "log", ["-ff", "-ttt", "-T", "-o", str(tmp_path / "log")],
           [samples / "fork-tree"])  # fmt: skip
    files = sorted(tmp_path.glob("log.[0-9]*"))
    once, twice = tmp_path / "once.json", tmp_path / "a b.json"
    import_log([str(f) for f in files], str(once))
    done = cli("import", "-o", twice, tmp_path / "log", *files)
    footers = [json.loads(path.read_bytes())[-1] for path in (once, twice)]
    assert footers[0] == footers[1]
    assert f"next: memtrace report '{twice}'" in done.stderr
