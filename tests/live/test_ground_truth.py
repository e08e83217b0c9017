# SPDX-License-Identifier: GPL-2.0-or-later
"""Thousands of random requests of malloc, known one by one (`random_mallocs.c`), and every
statement of the report held against them (`truth.py`): none may be false, and of the mapped chunks
95 % at least must be proven.

With MEMTRACE_LIBC=FOLDER the driver runs with the glibc in there, through its own loader.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.live.driving import Driven, driver, needs_32_bit
from tests.live.tracing import ROOT, Traced
from tests.live.truth import DEFAULT, I386, Env, Found, check

#: Requests of each thread in a run.
REQUESTS = 3000
#: Of what is mapped this much must be proven by header or caller.
PROVEN = 0.95


@dataclass(frozen=True)
class Setting:
    """An environment for the driver, and what it does there.

    Attributes:
        env: given to it.
        means: that, as malloc takes it.
        threads: that ask at the same time.
        tunes: calls of mallopt.
        forks: children that go on by themselves.
        most: bytes of the largest requests.
        aligned: of 100 requests are memalign's.
        form: of the driver (`driving.FORMS`).
    """

    env: dict[str, str] = field(default_factory=dict)
    means: Env = field(default_factory=Env)
    threads: int = 1
    tunes: int = 0
    forks: int = 0
    most: int = 4 << 20
    aligned: int = 0
    form: str = ""


def _environ(name: str, value: int, **means: Any) -> Setting:
    """A setting of the environment that freezes the threshold."""
    known = Env(source="environ", **means)
    return Setting({name: str(value)}, known, most=1 << 20, aligned=5, forks=1)


def _tunable(text: str, **means: Any) -> Setting:
    return Setting({"GLIBC_TUNABLES": text}, Env(**means), forks=1)


SETTINGS = {
    "plain": Setting(most=1 << 20),
    "large": Setting(most=40 << 20),
    "aligned": Setting(aligned=6, forks=1),
    "forks": Setting(forks=3, most=2 << 20),
    "threads": Setting(threads=4, most=1 << 20),
    "threads that fork": Setting(threads=2, forks=2),
    "mallopt": Setting(tunes=6, most=1 << 20, forks=1),
    "mallopt and threads": Setting(tunes=3, threads=3, aligned=3),
    "top pad 0": _environ("MALLOC_TOP_PAD_", 0, top_pad=0),
    "top pad 1 MiB": _environ("MALLOC_TOP_PAD_", 1 << 20, top_pad=1 << 20),
    "trim": _environ("MALLOC_TRIM_THRESHOLD_", 1 << 20),
    "never trims": _environ("MALLOC_TRIM_THRESHOLD_", (1 << 64) - 1),
    "threshold 64 KiB": _environ("MALLOC_MMAP_THRESHOLD_", 65536, threshold=65536),
    "threshold 1 MiB": _environ("MALLOC_MMAP_THRESHOLD_", 1 << 20, threshold=1 << 20),
    "no maps": _environ("MALLOC_MMAP_MAX_", 0, mmap_max=0),
    "few maps": _environ("MALLOC_MMAP_MAX_", 4, mmap_max=4),
    "threads, frozen": Setting(
        {"MALLOC_TOP_PAD_": str(DEFAULT)}, Env(source="environ"), threads=4, aligned=5
    ),
    "one arena": Setting({"MALLOC_ARENA_MAX": "1"}, threads=4, most=1 << 20),
    "perturb": Setting({"MALLOC_PERTURB_": "85"}, most=1 << 20, aligned=4),
    "tunable threshold": _tunable(
        "glibc.malloc.mmap_threshold=0x20000", source="tunable", threshold=131072
    ),
    "tunable trim": _tunable("glibc.malloc.trim_threshold=65536", source="tunable"),
    "no tcache": _tunable("glibc.malloc.tcache_count=0"),
    "i386": Setting(means=Env(abi=I386), most=1 << 20, aligned=3, forks=1, form="i386"),
    "i386, threads": Setting(means=Env(abi=I386), threads=3, most=600 << 10, form="i386"),
}


def words(seed: int, setting: Setting) -> list[str]:
    s = setting
    return [str(n) for n in (seed, REQUESTS, s.threads, s.tunes, s.forks, s.most, s.aligned)]


def drive(run: Callable[..., Traced], seed: int, setting: Setting) -> Driven:
    """A traced run of the driver."""
    folder = os.environ.get("MEMTRACE_LIBC")
    if setting.form == "i386":
        needs_32_bit()
        folder = None
    argv: list[str | Path] = [driver("portable" if folder else setting.form, "random_mallocs")]
    if folder:
        argv[:0] = [f"{folder}/ld-linux-x86-64.so.2", "--library-path", folder]
    done = run(*argv, *words(seed, setting), env=setting.env)
    assert done.returncode == 0, f"{done.stderr}{done.account[-2:]}"
    assert done.exactness == "exact", done.sentence
    return Driven(done)


def judge(d: Driven, setting: Setting) -> Found:
    """Everything that is said of it."""
    return check(d.rows, d.traced.account, d.traced.events, setting.means)


def assert_true(found: Found) -> None:
    """Nothing is false, much is proven, and much was looked at."""
    assert not found.falsehoods, "\n".join([f"{len(found.falsehoods)}:", *found.falsehoods[:5]])
    n = found.counts
    assert n["requests"] > REQUESTS / 2
    assert n["statements"] > 100
    assert n["proven"] >= PROVEN * n["mapped"]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_statement_is_true(run: Callable[..., Traced], name: str) -> None:
    setting = SETTINGS[name]
    seed = list(SETTINGS).index(name)
    assert_true(judge(drive(run, seed, setting), setting))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SETTINGS)
def test_so_it_is_over_a_million_requests(run: Callable[..., Traced], name: str) -> None:
    total = Found()
    setting = SETTINGS[name]
    for seed in range(1000, 1000 + int(os.environ.get("MEMTRACE_SEEDS", "20"))):
        d = drive(run, seed, setting)
        found = judge(d, setting)
        found.falsehoods = [f"seed {seed}: {falsehood}" for falsehood in found.falsehoods]
        total.add(found)
        if not found.falsehoods:
            d.traced.path.unlink()
    folder = ROOT / "build" / "ground-truth"
    folder.mkdir(parents=True, exist_ok=True)
    counts = json.dumps(dict(sorted(total.counts.items())), indent=1)
    (folder / f"{name}.json").write_text(counts + "\n")
    assert_true(total)


# -- that the check can fail ------------------------------------------------------------------


def _shifted(row: dict[str, Any]) -> None:
    for r in row["regions"]:
        if r["request"]:
            r["request"]["min"] += 8192
            r["request"]["max"] += 8192
            return


def _anon(row: dict[str, Any]) -> None:
    next(r for r in row["regions"] if r["kind"] == "malloc-chunk")["kind"] = "anon"


def _one_more(row: dict[str, Any]) -> None:
    next(r for r in row["regions"] if r["kind"] == "stack")["kind"] = "malloc-chunk"


def _contradiction(row: dict[str, Any]) -> None:
    r = next(r for r in row["regions"] if r["kind"] == "malloc-chunk")
    r["verdict"], r["reason"] = "contradiction", None


def _reason(row: dict[str, Any]) -> None:
    r = next(r for r in row["regions"] if r["kind"] == "malloc-chunk" and not r["moves"])
    r["verdict"], r["reason"] = "explained", "mremap-shrink"


def _length(row: dict[str, Any]) -> None:
    r = next(r for r in row["regions"] if r["kind"] == "malloc-chunk" and not r["moves"])
    r["bytes"] += 4096


def _threshold(row: dict[str, Any]) -> None:
    for m in row["threshold"]["history"]:
        m["low"] += 4096
        m["high"] += 4096


def _no_move(row: dict[str, Any]) -> None:
    row["threshold"]["history"].clear()


def _step_dynamic(row: dict[str, Any]) -> None:
    s = row["heap"]["steps"][0]
    s["verdict"], s["reason"] = "explained", "dynamic-threshold"


def _step_contradiction(row: dict[str, Any]) -> None:
    s = next(s for s in reversed(row["heap"]["steps"]) if s["delta"] > 0)
    s["verdict"], s["reason"] = "contradiction", None


def _step_shrink(row: dict[str, Any]) -> None:
    s = next(s for s in row["heap"]["steps"] if s["delta"] < 0)
    s["verdict"], s["reason"] = "explained", "foreign-sbrk"


def _fixed(row: dict[str, Any]) -> None:
    row["threshold"]["fixed_by"] = "environ"


def _alive(row: dict[str, Any]) -> None:
    row["metrics"]["chunks.alive_at_exit"] += 1


def _arena(row: dict[str, Any]) -> None:
    next(r for r in row["regions"] if r["kind"] == "heap")["kind"] = "arena"


def _bounds(row: dict[str, Any]) -> None:
    s = next(s for s in row["heap"]["steps"] if s["role"] == "growth" and s["chunk"])
    s["chunk"]["min"] = s["chunk"]["max"] = 16


def _role(row: dict[str, Any]) -> None:
    s = next(s for s in row["heap"]["steps"] if s["role"] == "growth")
    s["role"] = "first-heap"


def _trimmed(row: dict[str, Any]) -> None:
    for s in row["heap"]["steps"]:
        if s["delta"] < 0:
            s["role"] = "malloc-trim"


MUTATIONS = (
    _bounds, _role, _trimmed,
    _shifted, _anon, _one_more, _contradiction, _reason, _length, _threshold, _no_move,
    _step_dynamic, _step_contradiction, _step_shrink, _fixed, _alive, _arena,
)  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.__name__.strip("_"))
def test_a_false_statement_is_found(
    run: Callable[..., Traced], mutation: Callable[[dict[str, Any]], None]
) -> None:
    setting = Setting(most=1 << 20)
    d = drive(run, 7, setting)
    assert not judge(d, setting).falsehoods
    rows = copy.deepcopy(d.rows)
    mutation(rows[0])
    assert check(rows, d.traced.account, d.traced.events, setting.means).falsehoods


def test_a_lie_of_the_account_is_found(run: Callable[..., Traced]) -> None:
    setting = Setting(most=1 << 20)
    d = drive(run, 7, setting)
    account = copy.deepcopy(d.traced.account)
    line = next(o for o in account if o.get("mapped") and o["op"] == "m")
    line["request"] += 8192
    assert check(d.rows, account, d.traced.events, setting.means).falsehoods
