# SPDX-License-Identifier: GPL-2.0-or-later
"""More of the live corpus, for `make verify-all`: the programs of a day's work, each with a kernel
map after each call, and with the maps that it reads itself.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.live.selfmaps import assert_marks
from tests.live.test_corpus import EVERY_CALL, assert_reproduced
from tests.live.test_self_maps_anywhere import with_marks
from tests.live.tracing import ROOT, Traced

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Run = Callable[..., Traced]


@dataclass(frozen=True)
class Job:
    """A shell script that has a program work, in an empty folder.

    Attributes:
        least: kernel maps of the program itself.
        quiet: it reads no maps of its own: it does not use the C library.
    """

    script: str
    least: int
    quiet: bool = False


JOBS = {
    "git": Job(
        """export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
        git init -q r && cd r && git config user.name n && git config user.email e@x
        for i in 1 2 3; do seq $((i * 5000)) >f$i; git add . && git commit -qm $i; done
        git log -p >/dev/null; git gc -q; git fsck; git blame f1 >/dev/null""",
        500,
    ),
    "tar": Job(f"tar cf t.tar -C {ROOT} samples tests && mkdir o && tar xf t.tar -C o", 50),
    "gzip": Job("seq 500000 >n; gzip n; gzip -dc n.gz | wc -l", 30),
    "bzip2": Job("seq 200000 >n; bzip2 n; bzip2 -dc n.bz2 | wc -l", 30),
    "xz": Job("seq 200000 >n; xz -T2 -6 n; xz -dc n.xz | wc -l", 60),
    "zstd": Job("seq 500000 >n; zstd -q -T2 -9 n; zstd -dc n.zst | wc -l", 60),
    "sort": Job("seq 300000 | shuf >n; sort -n -S 20M --parallel=4 n | tail -n 1", 40),
    "make": Job(f"make -s -j3 -C {ROOT}/samples OUT=$PWD", 50),
    "ld": Job(f"make -s -C {ROOT}/samples OUT=$PWD", 500),
    "awk": Job("seq 200000 | awk '{ k = $1 % 999; a[k] = a[k] $1 } END { print a[7] }' >o", 40),
    "sed": Job("seq 100000 | sed -E ':a;N;$!ba;s/([0-9])\\n/\\1,/g' | wc -c", 40),
    "grep": Job(
        f"""grep -rnE '[a-z]+_[a-z]+\\(' {ROOT}/tracer | wc -l
        seq 200000 | grep -P '(.)\\1$' | wc -l""",
        60,
    ),
    "find": Job(
        f"""find {ROOT}/tracer /usr/include -name '*.h' -newer /etc/hostname | wc -l
        find {ROOT}/samples -name '*.c' -exec wc -l {{}} ';'""",
        60,
    ),
    "diff": Job(
        """seq 100000 >a; seq 1 3 100000 >b; diff a b | wc -l
        diff -u a b >p; cp a c; patch -s c p""",
        40,
    ),
    "openssl": Job(
        """openssl genrsa 2048 >k 2>e; openssl req -x509 -key k -subj /CN=x -out c
        openssl x509 -in c -noout -text | wc -l; head -c 3000000 /dev/zero | openssl sha256""",
        200,
    ),
    "ssh-keygen": Job("ssh-keygen -q -t rsa -b 2048 -N '' -f k; ssh-keygen -l -f k", 80),
    "ssh": Job("ssh -V; ssh -G -F /dev/null localhost | wc -l", 60),
    "psql": Job("psql --version; psql --help | wc -l", 60),
    "gdb": Job(
        "gdb -nx -batch -ex 'info functions main' -ex 'disassemble main' /proc/self/exe | wc -l",
        300,
    ),
    "objdump": Job("objdump -d /bin/bash | wc -l; nm -D /bin/bash | wc -l; strip -o s /bin/ls", 30),
    "vim": Job("seq 30000 >n; vim -Nu NONE -es -c '%s/1/one/g' -c sort -c wq n; wc n", 60),
    "less": Job("seq 10000 | less | tail -n 1", 30),
    "jq": Job("seq 20000 | jq -cs 'map({a: ., b: tostring}) | group_by(.a % 10) | length'", 60),
    "curl": Job("seq 100000 >n; curl -s file://$PWD/n | wc -l", 100),
    "bc": Job("echo 'scale=600; 4*a(1); 2^4000' | bc -l | wc -c", 30),
    "tclsh": Job(
        """echo 'for {set i 0} {$i < 20000} {incr i} {lappend l [string repeat x [expr $i % 200]]}
        puts [llength $l]' | tclsh""",
        60,
    ),
    "cmake": Job(
        """echo 'foreach(i RANGE 2000)
            list(APPEND l "${i}${i}")
        endforeach()
        list(LENGTH l n)
        message(${n})' >s.cmake; cmake -P s.cmake""",
        100,
    ),
    "gpg": Job(
        """export GNUPGHOME=$PWD; chmod 700 .
        seq 30000 | gpg --batch --quiet --no-autostart --print-md sha256""",
        60,
    ),
    "ps": Job("ps axuww | wc -l; ps -eLf | wc -l", 60),
    "apt-cache": Job("apt-cache show bash | head -n 3", 60),
    "dpkg-query": Job("dpkg-query -W | wc -l", 60),
    "rustc": Job(
        """echo 'fn main() { let v: Vec<u8> = (0..9).collect(); println!("{:?}", v); }' >m.rs
        rustc -O m.rs && ./m""",
        300,
    ),
    "go": Job("go version; go env | wc -l", 30, quiet=True),
    "lsof": Job("lsof -p $$ | wc -l", 40),
    "python3": Job(
        f"""{sys.executable} -c '
import pandas, numpy
a = pandas.DataFrame(numpy.random.default_rng(1).random((100000, 8)))
b = a.groupby(a[0].round(2)).agg(["mean", "std"]).sort_values((1, "mean"))
c = (a.to_numpy().T @ a.to_numpy()).sum()
a.to_csv("a.csv"); print(len(pandas.read_csv("a.csv")), len(b))'""",
        500,
    ),
}  # fmt: skip


def names(program: str) -> set[str]:
    """The names that the file of a command may have: links are followed."""
    command = sys.executable if program == "python3" else program
    path = shutil.which(command)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return {program, Path(path).resolve().name}


@pytest.mark.parametrize("name", JOBS)
def test_a_days_work(run: Run, tmp_path: Path, name: str) -> None:
    job, files = JOBS[name], names(name)
    shell = ("bash", "-c", job.script)
    done = run(*with_marks(tmp_path / "dumps", 1000, 10, shell), options=EVERY_CALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_reproduced(done, job.least)
    own = [p for p in done.replayed.processes if Path(p.exe).name in files]
    assert sum(p.snapshots for p in own) >= job.least, {p.exe for p in done.replayed.processes}
    marks = assert_marks(done, tmp_path / "dumps", 1)
    if not job.quiet:
        assert {p.pid for p in own} & {pid for pid, _ in marks.equal}
