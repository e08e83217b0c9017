# SPDX-License-Identifier: GPL-2.0-or-later
"""A call that the tracer's interrupt broke off is made again, unless a handler of the program runs:
then it fails with EINTR, however late the signal came.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from tests.live.tracing import PATIENCE, until

from memtrace.collect import procfs, ptrace
from memtrace.collect.ptrace import CONT, INTERRUPT, WALL, registers, request

_EPOLL_WAIT, _SENDTO = 232, 44

_SLEEPER = """
import ctypes, signal, socket, struct, sys, threading
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, True)
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[1] == "epoll_wait":
    epoll = libc.epoll_create1(0)
    libc.epoll_ctl(epoll, 1, 0, struct.pack("=IQ", 1, 0))  # stdin
    result = libc.epoll_wait(epoll, ctypes.create_string_buffer(12), 1, -1)
else:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", 1000, 0))
    try:
        while True:
            ours.send(bytes(4096), socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    threading.Thread(target=lambda: (sys.stdin.read(1), theirs.recv(1 << 24)), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    result = libc.send(ours.fileno(), bytes(4096), 4096, 0)
print(result if result >= 0 else -ctypes.get_errno())
"""


@pytest.mark.parametrize(("call", "number", "signalled", "told"), [
    ("epoll_wait", _EPOLL_WAIT, False, b"1\n"),
    ("epoll_wait", _EPOLL_WAIT, True, b"-4\n"),
    ("send", _SENDTO, False, b"4096\n"),
    ("send", _SENDTO, True, b"-4\n"),
])  # fmt: skip
def test_after_an_interrupt(call: str, number: int, *, signalled: bool, told: bytes) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SLEEPER, call], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        pid = process.pid
        until(lambda: [1] if procfs.syscall_of(pid) == number else [])
        ptrace.seize(pid, 0)
        request(INTERRUPT, pid, 0, 0)
        os.waitpid(pid, WALL)
        assert ptrace.rewind(pid, registers(pid))
        if signalled:
            process.send_signal(signal.SIGUSR1)
        request(CONT, pid, 0, 0)
        if signalled:
            _, status = os.waitpid(pid, WALL)
            assert os.WSTOPSIG(status) == signal.SIGUSR1
            request(ptrace.DETACH, pid, 0, signal.SIGUSR1)
        else:
            until(lambda: [1] if procfs.syscall_of(pid) == number else [])
            request(INTERRUPT, pid, 0, 0)
            os.waitpid(pid, WALL)
            assert ptrace.rewind(pid, registers(pid))
            request(ptrace.DETACH, pid, 0, 0)
        out, _ = process.communicate(b"x", timeout=PATIENCE)
    assert out == told
