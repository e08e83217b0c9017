# SPDX-License-Identifier: GPL-2.0-or-later
"""What the python-ptrace engine takes from python-ptrace's tables."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ptrace.func_call import FunctionCallOptions
from ptrace.syscall import PtraceSyscall

from memtrace.collect.abi import NATIVE
from memtrace.collect.debugger import name_of

SIX = ("rdi", "rsi", "rdx", "r10", "r8", "r9")


def decoded(number: int) -> PtraceSyscall:
    regs = SimpleNamespace(orig_rax=number, **{name: i for i, name in enumerate(SIX)})
    return PtraceSyscall(None, FunctionCallOptions(), regs)


@pytest.mark.parametrize("number", NATIVE.names)
def test_each_recorded_call_has_the_same_name_there(number: int) -> None:
    assert name_of(decoded(number)) == NATIVE.names[number]


def test_it_knows_most_of_them_itself() -> None:
    unknown = {n for n in NATIVE.names if decoded(n).name == f"syscall<{n}>"}
    assert unknown == {453, 462}


def test_a_number_that_nobody_knows_is_no_call_of_ours() -> None:
    assert not name_of(decoded(9999))
