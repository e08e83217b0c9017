# SPDX-License-Identifier: GPL-2.0-or-later
"""The lines of a TOML file's keys."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from memtrace.check.where import Where, lines_of

HARD = '''# [budget]
title = """
[budget]
heap.peak = 1
"""
list = [
  "a = 1",
  "]",
]

  [ tool . "memtrace" . budget ]  # ours
heap . "peak" = { max = 1, min = 0 }
'calls.mmap' = 3
[tool.memtrace.budget.process."a]b#c"]
heap.growths = 1
[[things]]
heap.peak = 2
'''


def test_only_real_keys_have_lines() -> None:
    lines = lines_of(HARD)
    budget = ("tool", "memtrace", "budget")
    assert lines[budget] == 11
    assert lines[*budget, "heap", "peak"] == 12
    assert lines[*budget, "calls.mmap"] == 13
    assert lines[*budget, "process", "a]b#c", "heap", "growths"] == 15
    assert ("budget",) not in lines
    assert lines["title",] == 2
    assert lines["list",] == 6


def test_the_nearest_table_stands_for_a_key_without_a_line() -> None:
    where = Where("x.toml", ("budget",), {("budget",): 3, ("budget", "heap"): 5})
    assert where.text(("heap", "peak")) == "x.toml:5"
    assert where.text(("calls",)) == "x.toml:3"
    assert Where("the marker").text(("heap",)) == "the marker"


KEYS = st.sampled_from(["a", "b", '"c.d"', "'e f'", '"[g]"', '"#"'])
VALUES = st.sampled_from(
    ["1", '"# x"', "'''\n[a]\nb = 1\n'''", '"""\n"""', "[\n1,\n2]", "{ x = 1 }", "1 # [a]"]
)


@given(
    st.lists(st.tuples(st.booleans(), st.lists(KEYS, min_size=1, max_size=3), VALUES), max_size=12)
)
def test_every_key_of_a_document_has_the_line_that_it_was_written_on(
    statements: list[tuple[bool, list[str], str]],
) -> None:
    text = ""
    expected: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for header, keys, value in statements:
        names = tuple(k.strip("\"'") for k in keys)
        line = f"[{'.'.join(keys)}]\n" if header else f"{'.'.join(keys)} = {value}\n"
        try:
            tomllib.loads(text + line)
        except tomllib.TOMLDecodeError:
            continue  # defined before
        number = text.count("\n") + 1
        table = names if header else table
        path = names if header else table + names
        for n in range(1, len(path) + 1):
            expected.setdefault(path[:n], number)
        text += line
    lines = lines_of(text)
    assert {path: lines[path] for path in expected} == expected
