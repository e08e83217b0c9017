# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of another program, or of one that is set otherwise, are not compared."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from memtrace.check.baseline import Baseline, Ran
from memtrace.check.comparable import differences

ENV = Ran(program="env", exe="env", argv=["env", "A=1", "./words"], abi="", allocator="glibc 2.36",
          environment={"GLIBC_TUNABLES": "a"})  # fmt: skip
WORDS = Ran(program="words", exe="words", argv=["./words", "x y"], abi="", allocator="glibc 2.36",
            environment={})  # fmt: skip
OLD = Baseline(programs=[ENV, WORDS], machine="x86_64", page_size=4096, metrics={"heap.growths": 1})


def last(**change: Any) -> Baseline:
    """The same with a change of the last program."""
    return msgspec.structs.replace(OLD, programs=[ENV, msgspec.structs.replace(WORDS, **change)])


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (OLD, []),
        (msgspec.structs.replace(OLD, metrics={"heap.growths": 9}), []),
        (last(argv=["./words", "z"]),
         ["of words the command is `./words z`, and was `./words 'x y'`"]),
        (last(argv=["other/words", "x y"]),
         ["of words the command is `other/words 'x y'`, and was `./words 'x y'`"]),
        (last(exe="words-2"), ["of words the file is words-2, and was words"]),
        (last(abi="i386"), ["of words the ABI is i386, and was native"]),
        (last(allocator="musl"), ["of words malloc is musl's, and was glibc 2.36's"]),
        (last(environment={"MALLOC_ARENA_MAX": "1"}),
         ["of words MALLOC_ARENA_MAX is '1', and was not set"]),
        (last(environment=None), ["of words the environment is not known of now"]),
        (last(program="a\n::error::"),
         [r"the program is env → a\n::error::, and was env → words"]),
        (msgspec.structs.replace(OLD, programs=[WORDS]),
         ["the program is words, and was env → words"]),
        (msgspec.structs.replace(OLD, machine="aarch64", page_size=16384),
         ["the machine is aarch64, and was x86_64", "a page has 16384 bytes, and had 4096"]),
        (msgspec.structs.replace(OLD, machine=""),
         ["the machine is not known, and was x86_64"]),
    ],
)  # fmt: skip
def test_what_is_different_is_said(new: Baseline, said: list[str]) -> None:
    assert differences(OLD, new) == said


def test_of_one_program_its_name_is_not_said() -> None:
    old = msgspec.structs.replace(OLD, programs=[WORDS])
    new = msgspec.structs.replace(old, programs=[msgspec.structs.replace(WORDS, abi="x32")])
    assert differences(old, new) == ["the ABI is x32, and was native"]
