# SPDX-License-Identifier: GPL-2.0-or-later
"""Seccomp filters of the program's own, and what they do to a call that is recorded."""

from __future__ import annotations

import signal

from memtrace.collect import procfs


def kept_out(tid: int, number: int, ret: int, exit_code: int = 0) -> bool:
    """Whether a filter has kept a call from being made (SECCOMP_RET_TRAP, _KILL).

    Then rax is the call's number (`syscall_rollback`), but that may be a result too: personality(2)
    answers what it was, process_madvise(2) how many bytes. So SIGSYS must be there as well
    (`__seccomp_filter`), which waits at the exit stop, and has done its work at the exit event.

    Args:
        tid: it is stopped at the call's exit, or at its own exit event.
        number: of the call, as it stood in rax at its entry.
        ret: what stands in rax now.
        exit_code: at the exit event, its message.
    """
    if ret != number:
        return False
    return exit_code & 0x7F == signal.SIGSYS or bool(
        procfs.own_pending(tid) >> (signal.SIGSYS - 1) & 1
    )
