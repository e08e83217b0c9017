# SPDX-License-Identifier: GPL-2.0-or-later
"""Who started whom."""

from __future__ import annotations

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


def programs(*spaces: Space) -> list[str]:
    return [row[-1] for row in rows(spaces, [])[0]]


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
    assert [(r[0], r[1], r[4], r[-1]) for r in found] == [
        (" 1", "#1", "1", "sh"),
        ("*2", "#10", "2", "└ sh → ls -l"),
    ]
    assert hidden == 0


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
    assert found[-1][-1] == "└ grandchild"  # of 2, which has no line


def test_a_long_chain_of_forks_fits() -> None:
    many = [space(n, n, n - 1, forked=True) for n in range(1, 3000)]
    found, _ = rows(many, [2999])
    assert all(len(r[-1]) <= 34 for r in found)
