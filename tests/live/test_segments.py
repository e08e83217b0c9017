# SPDX-License-Identifier: GPL-2.0-or-later
"""shmdt takes the pieces of one attachment. What lies where a piece of it would, and is another's,
stays: only `struct file` tells them apart (`ksys_shmdt`), and no map shows it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.tracing import Traced

SOURCE = """
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <sys/shm.h>
enum { PAGE = 4096, PAGES = 8 };
static int again(char *of, int pages, char *at) {
    return mremap(of, 0, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at;
}
int main(void) {
    int id = shmget(IPC_PRIVATE, PAGES * PAGE, 0600);
    char *one = shmat(id, 0, 0), *other = shmat(id, 0, 0);
    char *room = mmap(0, 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    shmctl(id, IPC_RMID, 0);
    munmap(room, 64 * PAGE);
    if (shmat(id, room, 0) != room) return 2;
    munmap(room + 3 * PAGE, 5 * PAGE);
    /* The fourth page of another attachment, where this one's fourth was. */
    if (!again(other + 3 * PAGE, 1, room + 3 * PAGE)) return 3;
    /* This one's last page again, at its offset, but longer than the segment. */
    if (!again(one + 7 * PAGE, 3, room + 7 * PAGE)) return 4;
    mprotect(room + PAGE, PAGE, PROT_READ);
    if (shmdt(room)) return 5;
    printf("%p\\n", room);
    return shmdt(one) || shmdt(other);
}
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    made = tmp_path / "segments"
    subprocess.run(
        ["gcc", "-O1", "-w", "-x", "c", "-o", made, "-"], input=SOURCE, text=True, check=True
    )
    return made


def test_what_is_anothers_stays(run: Callable[..., Traced], program: Path) -> None:
    done = run(program, options=("--snapshots", "every=1"))
    assert done.returncode == 0
    done.assert_exact()
    room = int(done.stdout, 16)
    (first, *_) = done.calls("shmdt")
    left = [
        ((r.start - room) // 4096, (r.end - room) // 4096)
        for r in done.maps([first["seq"]])[first["seq"]]
        if room <= r.start < room + 64 * 4096 and r.ino
    ]
    assert left == [(3, 4), (7, 10)]
