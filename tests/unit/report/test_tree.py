# SPDX-License-Identifier: GPL-2.0-or-later
"""Who started whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.report.lines import columns
from memtrace.report.tree import Space, rows


def space(  # one address space
    pid: int,
    born: int,
    ppid: int | None = None,
    *,
    died: int | None = None,
    replaced: bool = False,
    forked: bool = False,
    program: str = "prog",
    weight: int = 1,
) -> Space:
    return Space(
        born, (pid,), ppid, born, died, replaced, forked, "", 4096, None, None, 1, "exit 0",
        program, weight,
    )  # fmt: skip


def programs(*spaces: Space, room: int = 80) -> list[str]:
    return [row.program(room) for row in rows(spaces, [])[0]]


def test_children_stand_below_who_forked_them() -> None:
    assert programs(
        space(1, 1, program="make"),
        space(2, 10, 1, forked=True, program="sh"),
        space(3, 20, 2, forked=True, program="cc"),
        space(4, 30, 1, forked=True, program="ld"),
    ) == ["make", "├ sh", "│ └ cc", "└ ld"]


def test_an_exec_is_in_the_line_of_its_process() -> None:
    found, hidden = rows(
        [
            space(1, 1, program="sh"),
            space(2, 10, 1, died=12, replaced=True, forked=True, program="sh -c x"),
            space(2, 12, 1, program="ls -l"),
        ],
        [12],
    )
    assert [(r.cells[0], r.cells[1], r.cells[4], r.program(80)) for r in found] == [
        (" 1", "#1", "1", "sh"),
        ("*2", "#10", "2", "└ sh → ls -l"),
    ]
    assert hidden == 0


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["env", "python3 x.py"], "env → python3 x.py"),
        # of those between, the later ones stay
        (["env", "nice", "setpriv", "bash", "python3 x.py"], "env → … → bash → python3 x.py"),
        (["env", "timeout", "setpriv-long", "python3 x.py"], "env → … → python3 x.py"),
        # then the last one's arguments go
        (["env", "timeout", "python3 a/long/path/x.py"], "env → … → python3 a/long/path/x…"),
        (["timeout", "python3 a/long/path/x.py 1"], "timeout → python3 a/long/path/x…"),
        # then the first one
        (["a-program-with-a-long-name", "python3 x.py"], "… → python3 x.py"),
        (["a-program-with-a-long-name", "b" * 40], "… → " + "b" * 27 + "…"),
        (["sh", "b" * 40], "… → " + "b" * 27 + "…"),
        (["漢字漢字漢字漢字漢字", "sh", "漢字漢字漢字 x"], "… → 漢字漢字漢字 x"),
    ],
)
def test_of_a_chain_of_execs_the_end_stays(names: list[str], shown: str) -> None:
    chain = [
        space(1, n, died=n + 1 if n < len(names) else None, replaced=n < len(names), program=name)
        for n, name in enumerate(names, 1)
    ]
    assert programs(*chain) == [shown]


@pytest.mark.parametrize(
    ("room", "shown"),
    [
        (17, "env → python3 x.…"),
        (13, "… → python3 …"),
        (12, "… → python3…"),
        (11, "python3 x.…"),
        (9, "python3 …"),
        (1, "pyt…"),
    ],
)
def test_a_chain_is_cut_to_what_room_there_is(room: int, shown: str) -> None:
    chain = [
        space(1, 1, died=2, replaced=True, program="env"),
        space(1, 2, program="python3 x.py"),
    ]
    assert programs(*chain, room=room) == [shown]


@given(st.lists(st.text("ab 漢→…", min_size=1, max_size=40), min_size=1, max_size=6))
def test_every_chain_fits(names: list[str]) -> None:
    chain = [
        space(1, n, died=n + 1 if n < len(names) else None, replaced=n < len(names), program=name)
        for n, name in enumerate(names, 1)
    ]
    (shown,) = programs(*chain)
    assert columns(shown) <= 32


def test_a_number_used_again_is_another_process() -> None:
    assert programs(
        space(1, 1, program="init"),
        space(2, 2, 1, died=5, forked=True, program="a"),
        space(2, 8, 1, died=20, forked=True, program="b"),
        space(3, 9, 2, forked=True, program="child of b"),
    ) == ["init", "├ a", "└ b", "  └ child of b"]


def test_of_too_many_the_largest_stay_below_whom_they_descend_from() -> None:
    many = [space(1, 1, program="sh", weight=99)]
    many += [space(n, n, 1, forked=True, weight=n) for n in range(2, 60)]
    many.append(space(100, 100, 2, forked=True, program="grandchild", weight=100))
    found, hidden = rows(many, [])
    assert (len(found), hidden) == (30, 30)
    assert found[-1].program(80) == "└ grandchild"  # of 2, which has no line


def test_a_long_chain_of_forks_fits() -> None:
    many = [space(n, n, n - 1, forked=True) for n in range(1, 3000)]
    found, _ = rows(many, [2999])
    assert all(len(r.program(80)) <= 34 for r in found)
