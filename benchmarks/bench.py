# SPDX-License-Identifier: GPL-2.0-or-later
"""What memtrace costs its target, beside strace, in one interleaved run. See README.md here."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHURN = ROOT / "build" / "samples" / "syscall-churn"
MEMTRACE = [sys.executable, "-m", "memtrace", "run", "-q", "-o"]
STRACE = ["strace", "-f", "--seccomp-bpf", "-e", "trace=memory", "-o"]

#: Other engines of memtrace, for their cost per call only.
ENGINES = ("strace", "python-ptrace")

#: mode of syscall-churn -> (batches, calls per batch)
MODES = {"mmap": (15, 2000), "malloc-churn": (15, 2000), "getppid": (15, 20000)}


def tracers(folder: Path) -> dict[str, list[str]]:
    """What stands in front of the target's command line."""
    return {
        "native": [],
        "strace": [*STRACE, str(folder / "strace.log")],
        "memtrace": [*MEMTRACE, str(folder / "trace.json")],
    }


def engines(folder: Path) -> dict[str, list[str]]:
    """The same for memtrace's other engines."""
    return {
        f"--engine {name}": [*MEMTRACE, str(folder / "trace.json"), "--engine", name]
        for name in ENGINES
    }


def per_call(prefix: list[str], mode: str, part: int = 1) -> tuple[float, float]:
    """(best, median) ns per call as the target itself measures them, in a part of the batches."""
    batches, calls = MODES[mode]
    batches //= part
    run = subprocess.run(
        [*prefix, str(CHURN), mode, str(batches), str(calls)],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    told = json.loads(run.stdout)
    return told["best_ns_per_call"], told["median_ns_per_call"]


def call_costs(rounds: int, folder: Path) -> None:
    """Per-call cost of each mode under each tracer; ratios are taken within a round."""
    others = engines(folder)  # several times as slow
    names = tracers(folder) | others
    for mode in MODES:
        rows: list[dict[str, tuple[float, float]]] = []
        for _ in range(rounds):
            order = list(names)
            random.shuffle(order)
            rows.append({n: per_call(names[n], mode, 5 if n in others else 1) for n in order})
        print(f"\n{mode}: ns per call, as the target measures itself")
        for n in names:
            best = statistics.median(r[n][0] for r in rows)
            middle = statistics.median(r[n][1] for r in rows)
            print(f"  {n:22} best batch {best:10.0f}   median batch {middle:10.0f}")
        for a, b, bound in (("memtrace", "strace", 2.0), ("memtrace", "native", 1.3)):
            if (mode == "getppid") == (b == "native"):
                print(f"{ratio(rows, a, b)}; target {bound:.1f}")
        for a in others:
            print(ratio(rows, a, "memtrace"))


def ratio(rows: list[dict[str, tuple[float, float]]], a: str, b: str) -> str:
    """What a call costs under one tracer in terms of another."""
    best = [r[a][0] / r[b][0] for r in rows]
    middle = [r[a][1] / r[b][1] for r in rows]
    return (
        f"  {a} / {b}: best {statistics.median(best):.2f}, median "
        f"{statistics.median(middle):.2f} ({min(middle):.2f}-{max(middle):.2f})"
    )


def start_up(rounds: int, folder: Path) -> None:
    """How much later `true` ends."""
    command = [shutil.which("true") or "/bin/true"]
    late, strace = [], []
    for _ in range(rounds):
        plain = wall(command)
        late.append(wall([*MEMTRACE, str(folder / "true.json"), *command]) - plain)
        strace.append(wall([*STRACE, str(folder / "true.log"), *command]) - plain)
    print("\nstart-up: seconds that `true` ends later")
    print(f"  strace     median {statistics.median(strace):.3f}")
    print(f"  memtrace   median {statistics.median(late):.3f}; target 0.300")


def bytes_per_event(folder: Path) -> None:
    """Size of a malloc-churn trace, evidence and snapshots included."""
    print("\ntrace size: bytes per call, evidence and snapshots included")
    for suffix, bound in (("json", 80), ("json.gz", 20), ("json.zst", 20)):
        path = folder / f"churn.{suffix}"
        per_call([*MEMTRACE, str(path)], "malloc-churn")
        batches, calls = MODES["malloc-churn"]
        size = path.stat().st_size / ((batches + 1) * calls)
        print(f"  .{suffix:9} {size:5.1f}; target {bound}")


def reading(folder: Path, calls: int) -> None:
    """Calls per second of what reads a trace of so many calls and 500 mappings."""
    path = folder / f"synthetic-{calls}.json"
    make = [sys.executable, str(ROOT / "benchmarks" / "synthetic.py"), "-n", str(calls)]
    subprocess.run([*make, "--mappings", "500", "-o", str(path)], check=True)
    print(f"\nreading {calls:,} calls, 500 mappings, {path.stat().st_size >> 20} MiB:", end=" ")
    print("calls per second, seconds, peak MiB")
    out = str(folder / "out.json")
    verbs: list[tuple[str, list[str], int]] = [
        ("verify", ["verify", "-q", str(path)], 0),
        ("report json, first", ["report", "--format", "json", "-o", out, str(path)], 120_000),
        ("report json, second", ["report", "--format", "json", "-o", out, str(path)], 250_000),
        ("verify, again", ["verify", "-q", str(path)], 250_000),
        ("report text", ["report", "-o", out, str(path)], 0),
    ]
    for name, words, bound in verbs:
        seconds, peak = measured([sys.executable, "-m", "memtrace", *words])
        target = f"; target {bound:,}" if bound else ""
        print(f"  {name:22} {calls / seconds:12,.0f} {seconds:8.2f} {peak:6.0f}{target}")
    moments = ("1", str(calls // 3), str(calls), "peak", "end")
    late = [measured([*MEMTRACE[:3], "maps", "--at", at, str(path)])[0] for at in moments]
    print(f"  maps at five moments   {max(late):.2f} s at most; target 0.5 for a million calls")
    words = ["diff", "--at", str(calls // 4), "--at", str(calls // 2), str(path)]
    print(f"  diff                   {measured([*MEMTRACE[:3], *words])[0]:.2f} s")


def measured(command: list[str]) -> tuple[float, float]:
    """(seconds from start to end, peak resident MiB)."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def wall(command: list[str]) -> float:
    """Seconds from start to end."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--read", type=int, nargs="*", metavar="CALLS",
        help="only what reads traces, of so many calls each (default 1000000)",
    )  # fmt: skip
    chosen = parser.parse_args()
    rounds = chosen.rounds
    kernel = os.uname()
    print(
        f"{kernel.sysname} {kernel.release}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for calls in chosen.read or [1_000_000]:
            reading(folder, calls)
        if chosen.read is not None:
            return
        call_costs(rounds, folder)
        start_up(rounds * 3, folder)
        bytes_per_event(folder)


if __name__ == "__main__":
    main()
