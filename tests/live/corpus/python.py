# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads, a pool of forks, a child that executes, mappings of its own; waits in the middle."""

import ctypes
import mmap
import multiprocessing
import subprocess
import sys
import threading


def work(n: int) -> int:
    kept = [bytearray(n * 1000 + i) for i in range(60)]
    with mmap.mmap(-1, n * 4096 + 4096) as m:
        m[0] = 1
        if n % 3 == 0:
            m.resize(n * 8192 + 8192)
    return sum(map(len, kept))


def several(n: int) -> None:
    for i in range(3):
        work(n + i)


def both() -> None:
    threads = [threading.Thread(target=several, args=(n,)) for n in range(1, 7)]
    for t in threads:
        t.start()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.map(work, range(20), 5)
    for t in threads:
        t.join()
    subprocess.run([sys.executable, "-S", "-c", ""], check=True, stdin=subprocess.DEVNULL)
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    both()
    sys.stdout.write("half\n")
    sys.stdout.flush()
    sys.stdin.readline()
    both()
