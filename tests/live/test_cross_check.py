# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracers that have nothing in common say the same of the same program: the same calls in the same
order, with the same arguments, results and errors, and the same beginning and end.

`log` is strace's own text, read by the parser alone.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import asdict
from tests.live.cross_check import Step, difference, fixed, relative, steps, steps_of_log, strace
from tests.live.test_samples import SAMPLES
from tests.live.tracing import cli, trace

from memtrace.collect.abi import CALLS
from memtrace.trace.reader import Trace
from memtrace.trace.records import Exec, Snap

#: Of an exec record, what address space randomisation changes.
MOVES = ("maps", "start_brk", "start_stack")
ENGINES = ("ptrace", "strace", "python-ptrace")

#: By design of several threads or processes, which the python-ptrace engine does not follow.
OF_SEVERAL_TASKS = {
    "thread-arenas", "fork-tree", "threads-fight", "exec-from-thread", "clone-vm",
}  # fmt: skip
ALONE = {**SAMPLES, "exit-codes": ("code", 7)}
for name in OF_SEVERAL_TASKS:
    del ALONE[name]

#: What a program decides by chance, or by what is left of an earlier run, decided.
SETTLED = {
    "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PERL_HASH_SEED": "0",
    "PERL_PERTURB_KEYS": "0",
}  # fmt: skip

BASH = """
declare -A seen
for ((i = 0; i < 3000; i++)); do seen[key$i]=$((i * i)); done
printf -v text '%s ' "${seen[@]}"
text=${text//1/one}
unset seen
[[ $text =~ o.*e ]] && echo ${#text}
"""
PYTHON = """
import json, decimal, collections
rows = [{"n": i, "text": "x" * (i % 97)} for i in range(4000)]
text = json.dumps(rows)
assert json.loads(text) == rows
big = bytearray(3 << 20)
del rows, big
print(len(text), decimal.Decimal(2).sqrt())
"""
C = """
int printf(const char *, ...);
static int f(int n) { return n < 2 ? n : f(n - 1) + f(n - 2); }
int main(int argc, char **argv) { printf("%d\\n", f(argc + 5)); return 0; }
"""
PERL = """
my %seen; $seen{"key$_"} = "x" x ($_ % 200) for 1 .. 5000;
my $text = join ",", map { "$_=$seen{$_}" } sort keys %seen;
undef %seen; $text =~ s/x+/y/g; print length($text), "\\n";
"""
SQL = """
create table t (n integer primary key, text text);
with recursive c(n) as (select 1 union all select n + 1 from c where n < 4000)
  insert into t select n, hex(zeroblob(n % 100)) from c;
create index i on t (text);
select count(*), sum(length(text)) from t;
delete from t where n % 3;
vacuum;
"""


def witnessed(
    folder: Path, argv: tuple[str, ...], code: int, env: Mapping[str, str] | None = None
) -> dict[str, list[Step]]:
    """What each witness says of one program, which all of them must have seen end that way; every
    kernel map that one of them read is the replayed one.
    """
    env = {**SETTLED, **(env or {})}
    streams = {}
    for engine in ENGINES:
        done = trace(folder / f"{engine}.json", argv, "--engine", engine, env=env, before=fixed())
        assert done.returncode == code, f"{engine}: {done.returncode}: {done.stderr}"
        if engine == "strace" and code == -signal.SIGKILL:
            # There is no stop at its end at which it can be held; on the way there may be one.
            assert not done.calls("snap", why="exit")
            assert done.exactness == ("exact" if done.calls("snap") else "unverified")
        else:
            done.assert_exact()
        streams[engine] = steps(done)
    streams["log"] = steps_of_log(strace(folder / "strace.log", argv, env))
    return streams if fixed() else {name: relative(found) for name, found in streams.items()}


def agree(streams: Mapping[str, list[Step]], least: int) -> list[Step]:
    """They are equal, and no shorter than a witness that sees anything would be."""
    assert (first := difference(streams)) is None, f"they differ at >\n{first}"
    (found, *_) = streams.values()
    assert found[0].what == "exec"
    assert found[-1].what == "exit"
    assert len(found) >= least
    return found


@pytest.mark.parametrize("name", ALONE)
def test_samples(samples: Path, tmp_path: Path, name: str) -> None:
    argv = (str(samples / name), *map(str, ALONE[name]))
    agree(witnessed(tmp_path, argv, 7 if name == "exit-codes" else 0), 15)


def test_bash(tmp_path: Path) -> None:
    agree(witnessed(tmp_path, ("bash", "--norc", "-c", BASH), 0), 40)


def test_python(tmp_path: Path) -> None:
    agree(witnessed(tmp_path, (sys.executable, "-c", PYTHON), 0), 60)


def test_the_compiler_proper(tmp_path: Path) -> None:
    if not fixed():
        pytest.skip("cc1's heap depends on its addresses, and setarch -R is forbidden here")
    asked = ["gcc", "-print-prog-name=cc1"]
    cc1 = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "f.c").write_text(C)
    argv = (cc1, "-quiet", "-O2", str(tmp_path / "f.c"), "-o", str(tmp_path / "f.s"))
    agree(witnessed(tmp_path, argv, 0), 80)


def test_perl(tmp_path: Path) -> None:
    agree(witnessed(tmp_path, ("perl", "-e", PERL), 0), 40)


def test_sqlite(tmp_path: Path) -> None:
    agree(witnessed(tmp_path, ("sqlite3", ":memory:", SQL), 0), 40)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("refused") / "refused"
    source = Path(__file__).with_name("refused.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", program], check=True)
    return str(program)


def test_calls_that_fail(refused: str, tmp_path: Path) -> None:
    found = agree(witnessed(tmp_path, (refused,), 0), 40)
    errors = {
        (s.what, -s.result) for s in found if isinstance(s.result, int) and -4096 < s.result < 0
    }
    assert {
        ("mmap", errno.EEXIST), ("mmap", errno.EINVAL), ("mmap", errno.ENOMEM),
        ("mmap", errno.EBADF), ("munmap", errno.EINVAL), ("mprotect", errno.ENOMEM),
        ("mprotect", errno.EINVAL), ("madvise", errno.ENOMEM), ("madvise", errno.EINVAL),
        ("mremap", errno.EFAULT), ("mremap", errno.EINVAL), ("mlock", errno.ENOMEM),
        ("mlock2", errno.EINVAL), ("mlockall", errno.EINVAL), ("shmat", errno.EINVAL),
        ("shmdt", errno.EINVAL), ("pkey_mprotect", errno.EINVAL),
    } == errors  # fmt: skip
    breaks = [s for s in found if s.what == "brk"]
    assert breaks[-1].result == breaks[-2].result != breaks[-1].args[0]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL])
def test_killed_by_a_signal(refused: str, tmp_path: Path, number: signal.Signals) -> None:
    found = agree(witnessed(tmp_path, (refused, str(int(number))), -number), 40)
    assert found[-1].result == -number


def test_an_exec_and_one_that_fails(tmp_path: Path) -> None:
    argv = ("sh", "-c", "exec env PATH=/nonexistent:/usr/bin:/bin sh -c 'exec true'")
    found = agree(witnessed(tmp_path, argv, 0), 60)
    assert [s.path for s in found if s.what == "exec"][1:] == [
        os.path.realpath(shutil.which(name) or name) for name in ("env", "sh", "true")
    ]
    assert {s.result for s in found if s.what == "execve"} == {-errno.ENOENT}


def test_what_is_known_beside_the_calls(samples: Path, tmp_path: Path) -> None:
    """Arguments, environment, limits and map at the beginning, the map at the end, each call's
    caller, and which mappings are chunks of malloc's.
    """
    found = []
    for engine in ENGINES:
        argv = [samples / "threshold-moves"]
        done = trace(tmp_path / f"{engine}.json", argv, "--engine", engine, before=fixed())
        with Trace(str(done.path)) as t:
            records = [record for _, _, record in t.records()]
        (start,) = [asdict(r) for r in records if isinstance(r, Exec)]
        for changes in ("t", "pid", "tid", "ppid", "rss", *(() if fixed() else MOVES)):
            del start[changes]
        assert start["rlimits"]
        *_, last = [r for r in records if isinstance(r, Snap)]
        lines = map(json.loads, cli("events", done.path, "--format", "jsonl").stdout.splitlines())
        callers = [(e["call"], e.get("caller"), e.get("header")) for e in lines]
        callers = [told for told in callers if told[0] in CALLS]
        assert any(caller for _, caller, _ in callers)
        assert any(header for _, _, header in callers)
        found.append((engine, start, last.maps if fixed() else len(last.maps), callers))
    (_, *first), *others = found
    for engine, *other in others:
        assert other == first, engine


# -- the comparison itself ------------------------------------------------------------------------


def test_whatever_is_changed_is_noticed(samples: Path, tmp_path: Path) -> None:
    """One stream of a real program is damaged, in one place after the other."""
    streams = witnessed(tmp_path, (str(samples / "mapping-kinds"),), 0)
    found = agree(streams, 20)
    for i, step in enumerate(found):
        damaged = [found[:i] + found[i + 1 :], [*found[: i + 1], *found[i:]]]
        others = [step._replace(args=(*step.args, 0)), step._replace(what=step.what + "x")]
        if isinstance(step.result, int):
            others.append(step._replace(result=step.result ^ 0x1000))
        if step.path is not None:
            others.append(step._replace(path=step.path + "x"))
        for n, value in enumerate(step.args):
            if isinstance(value, int):
                args = [*step.args[:n], value ^ 1, *step.args[n + 1 :]]
                others.append(step._replace(args=tuple(args)))
        damaged += [[*found[:i], other, *found[i + 1 :]] for other in others]
        if step != found[i - 1] and i:
            damaged.append([*found[: i - 1], step, found[i - 1], *found[i + 1 :]])
        for stream in damaged:
            assert difference({**streams, "log": stream}) is not None, (i, step)


def test_the_first_difference_is_shown_with_what_is_around_it() -> None:
    one = [Step("munmap", (i << 12, 4096), 0) for i in range(20)]
    other = [*one[:9], one[9]._replace(result=-errno.EINVAL), *one[10:15]]
    shown = difference({"a": one, "bb": other})
    assert shown is not None
    assert shown.splitlines() == [
        "a: 20 steps, bb: 15 steps",
        *(f"{i:>6}      munmap({i << 12:#x}, 0x1000) = 0" for i in (6, 7, 8)),
        "     9> a   munmap(0x9000, 0x1000) = 0",
        "     9> bb  munmap(0x9000, 0x1000) = -22",
        *(f"{i:>6}      munmap({i << 12:#x}, 0x1000) = 0" for i in (10, 11, 12)),
    ]
    assert difference({"a": one, "bb": one[:15]}) is not None
    assert difference({"a": one, "bb": list(one)}) is None


def test_where_addresses_differ_each_time(samples: Path, tmp_path: Path) -> None:
    """What is compared where randomisation cannot be switched off."""
    argv = [samples / "mapping-kinds"]
    both = [
        steps(trace(tmp_path / f"{engine}.json", argv, "--engine", engine)) for engine in ENGINES
    ]
    assert both[0] != both[1]
    streams = dict(zip(ENGINES, map(relative, both), strict=True))
    found = agree(streams, 20)
    names = {value[0] for s in found for value in (*s.args, s.result) if isinstance(value, tuple)}
    assert {"break", "mmap1", "mmap2"} <= names
    mapped = next(i for i, s in enumerate(found) if s.what == "mprotect")
    args = found[mapped].args
    assert isinstance(args[0], tuple)
    moved = found[mapped]._replace(args=((args[0][0], args[0][1] + 4096), *args[1:]))
    assert difference({**streams, "x": [*found[:mapped], moved, *found[mapped + 1 :]]}) is not None
