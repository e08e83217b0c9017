# SPDX-License-Identifier: GPL-2.0-or-later
"""An mremap of several mappings that fails at the second has moved the first (`remap_move`, since
6.17), with what no map shows: that children do not inherit it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.live.tracing import ROOT, Traced

SOURCE = """
#define _GNU_SOURCE
#include "account.h"
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
static void lacks(const char *call) {
    struct account a;
    int error = errno;
    account_open(&a, "lacks");
    account_text(&a, "call", call);
    account_int(&a, "errno", error);
    account_close(&a);
}
enum { PAGE = 4096, FIXED = MREMAP_MAYMOVE | MREMAP_FIXED };
int main(void) {
    int id = shmget(IPC_PRIVATE, 2 * PAGE, 0600), anon = MAP_PRIVATE | MAP_ANONYMOUS;
    char *p = mmap(0, 64 * PAGE, PROT_NONE, anon, -1, 0), *from = p + 8 * PAGE, *to = p + 40 * PAGE;
    mmap(from, 2 * PAGE, PROT_READ | PROT_WRITE, anon | MAP_FIXED, -1, 0);
    shmat(id, from + 2 * PAGE, SHM_REMAP); /* has a get_unmapped_area: not moved with others */
    shmctl(id, IPC_RMID, 0);
    madvise(from, 2 * PAGE, MADV_DONTFORK);
    if (mremap(from, 4 * PAGE, 4 * PAGE, FIXED, to) != MAP_FAILED) return 2;
    int error = errno;
    unsigned char in[2];
    if (mincore(from, 2 * PAGE, in) == 0) { /* else there is a hole now */
        errno = error;
        lacks("mremap that moves one of several");
    }
    if (!fork()) _exit(0);
    return wait(0) < 0;
}
"""


def test_what_moved_before_the_failure_kept_its_flags(
    run: Callable[..., Traced], tmp_path: Path
) -> None:
    program = tmp_path / "program"
    subprocess.run(
        ["gcc", "-O1", "-w", f"-I{ROOT / 'samples'}", "-x", "c", "-o", program, "-"],
        input=SOURCE, text=True, check=True,
    )  # fmt: skip
    done = run(program, options=("--snapshots", "every=1"))
    assert done.returncode == 0
    done.assert_exact()
    (moved,) = done.calls("mremap")
    assert moved["ret"] == -14
    first = range(moved["args"][4], moved["args"][4] + 2 * 4096)
    then = [r for r in done.maps([moved["seq"]])[moved["seq"]] if r.start in first]
    assert [(r.end - r.start, r.perms) for r in then] == (
        [] if done.told("lacks") else [(8192, "rw-p")]
    )
