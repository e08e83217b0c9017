# SPDX-License-Identifier: GPL-2.0-or-later
"""What the doctor tells, from what was found."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from memtrace.collect.doctor import (
    LATER_ENGINES,
    Answer,
    Machine,
    Row,
    Target,
    decision,
    engine_rows,
    fact_rows,
    machine_decision,
    machine_rows,
    reach_rows,
    run_refusal,
    target_rows,
)
from memtrace.collect.facts import ALL_CAPABILITIES, CAP_SYS_PTRACE, Caller, Facts, Host
from memtrace.collect.trial import Trial

USER = Caller(pid=50, uids=(1000,) * 4, gids=(1000,) * 4, ancestors=(40, 1))
ROOT = Caller(pid=50, cap_eff=ALL_CAPABILITIES, cap_prm=ALL_CAPABILITIES, ancestors=(40, 1))
MINE = Facts(
    pid=77, asked=77, name="redis", uids=(1000,) * 4, gids=(1000,) * 4, user="me", mem_uid=1000,
    readable=True, access=True, caller=USER,
)  # fmt: skip
PLAIN = Machine(caller=USER)
NOTHING_TRACED: dict[str, Any] = {"filtered": False, "told": False}


def answers(rows: list[Row]) -> dict[str, Answer]:
    assert len({r.name for r in rows}) == len(rows)
    for row in rows:
        assert row.text.isprintable()
        assert row.answer != "no" or row.remedy or row.name == "ptrace", row
    return {r.name: r.answer for r in rows}


# -- the machine ----------------------------------------------------------------------------------


def test_a_machine_where_all_is_well() -> None:
    assert set(answers(machine_rows(PLAIN)).values()) == {"ok"}
    assert run_refusal(PLAIN) is None
    answer, text, remedy = machine_decision(PLAIN)
    assert (answer, remedy) == ("ok", "sudo memtrace attach PID")
    assert text == "memtrace run works here, memtrace attach on processes of this user"
    answer, text, remedy = machine_decision(replace(PLAIN, caller=ROOT))
    assert (answer, remedy) == ("ok", "")
    assert text == "memtrace run works here, memtrace attach on every process"


@pytest.mark.parametrize(
    ("trial", "row", "message", "hint"),
    [
        pytest.param(
            Trial(seize=errno.EPERM, tracer=80, tracer_name="strace", **NOTHING_TRACED), "ptrace",
            "this shell is already under a tracer: strace (pid 80)",
            "memtrace run -- PROG, outside of strace", id="strace",
        ),
        pytest.param(
            Trial(seize=errno.ENOSYS, **NOTHING_TRACED), "ptrace",
            "there is no PTRACE_SEIZE here: function not implemented", "uname -a", id="no ptrace",
        ),
        pytest.param(
            Trial(ended=False, **NOTHING_TRACED), "ptrace",
            "a trial on a child of our own did not end", "dmesg | tail", id="hangs",
        ),
        pytest.param(
            Trial(install=errno.EINVAL, **NOTHING_TRACED), "seccomp filter",
            "the kernel refuses the seccomp filter: invalid argument",
            "memtrace run --no-seccomp -- PROG", id="no filter",
        ),
        pytest.param(
            Trial(**NOTHING_TRACED), "seccomp filter", "the seccomp filter does not stop a call",
            "memtrace run --no-seccomp -- PROG", id="a filter without effect",
        ),
        pytest.param(
            Trial(told=False), "system calls",
            "PTRACE_GET_SYSCALL_INFO does not tell what was called", "uname -a", id="no info",
        ),
    ],
)  # fmt: skip
def test_a_trial_that_fails_is_the_answer(trial: Trial, row: str, message: str, hint: str) -> None:
    machine = replace(PLAIN, trial=trial)
    rows = answers(machine_rows(machine))
    assert [name for name, answer in rows.items() if answer == "no"] == [row]
    refused = run_refusal(machine)
    assert refused is not None
    assert (refused.message, refused.hint) == (message, hint)
    assert machine_decision(machine) == ("no", f"memtrace run would not work: {message}", hint)
    assert answers(engine_rows(machine))["ptrace"] == "no"


def test_an_old_kernel_is_the_answer_whatever_the_trial_says() -> None:
    machine = replace(PLAIN, host=Host(kernel="4.19.0"), trial=Trial(told=False))
    assert machine_decision(machine)[1].startswith("memtrace run would not work: kernel 4.19.0 is")
    assert decision(machine, Target(replace(MINE, host=machine.host)))[0] == "no"


def test_what_is_only_slower_or_later_refuses_nothing() -> None:
    machine = replace(PLAIN, maps_query=False, kcmp=False, pipe_bytes=65536)
    rows = answers(machine_rows(machine))
    assert [n for n, answer in rows.items() if answer == "note"] == ["maps", "kcmp", "pipe"]
    assert machine_decision(machine)[0] == "ok"
    rows = answers(engine_rows(machine))
    assert {name: rows[name] for name in LATER_ENGINES} == dict.fromkeys(LATER_ENGINES, "note")


def test_docker_which_forbids_kcmp_is_told_how_not_to() -> None:
    machine = replace(PLAIN, kcmp=False, host=Host(container="docker"))
    (row,) = [r for r in machine_rows(machine) if r.name == "kcmp"]
    assert row.remedy == "docker run --cap-add=SYS_PTRACE ..."


@pytest.mark.parametrize(
    ("strace", "text"),
    [
        ("", "run and attach; strace is not installed"),
        ("strace -- version 6.1", "run and attach, by strace -- version 6.1"),
    ],
)
def test_whether_there_is_a_strace(strace: str, text: str) -> None:
    (row,) = [r for r in engine_rows(replace(PLAIN, strace=strace)) if r.name == "strace"]
    assert row.text == text


@pytest.mark.parametrize(
    ("scope", "caller", "answer", "reach"),
    [
        (None, USER, "ok", "attach on processes of this user"),
        (0, USER, "ok", "attach on processes of this user"),
        (1, USER, "no", "attach does not"),
        (2, USER, "no", "attach does not"),
        (3, USER, "no", "attach does not"),
        (None, ROOT, "ok", "attach on every process"),
        (2, ROOT, "ok", "attach on every process"),
        (3, ROOT, "no", "attach does not"),
    ],
)
def test_yama_and_privilege_say_which_processes(
    scope: int | None, caller: Caller, answer: Answer, reach: str
) -> None:
    machine = replace(PLAIN, host=Host(yama=scope), caller=caller)
    rows = answers(reach_rows(machine))
    assert rows == {"Yama": answer, "CAP_SYS_PTRACE": "ok" if caller is ROOT else "note"}
    _, text, remedy = machine_decision(machine)
    assert text.endswith(reach)
    assert bool(remedy) == ("every" not in reach)
    assert not remedy or "ptrace_scope" in remedy or remedy == "sudo memtrace attach PID"


# -- the process ----------------------------------------------------------------------------------


def test_a_process_where_all_is_well() -> None:
    assert set(answers(target_rows(Target(MINE))).values()) == {"ok"}
    assert decision(PLAIN, Target(MINE)) == ("ok", "memtrace attach 77 would work", "")


def test_a_refused_process_has_one_remedy() -> None:
    facts = replace(
        MINE, uids=(0,) * 4, user="root", mem_uid=0, readable=False, access=None, user_ns=None
    )
    rows = target_rows(Target(facts))
    assert answers(rows)["user"] == "no"
    assert [r.name for r in rows if r.remedy] == ["user"]
    assert decision(PLAIN, Target(facts)) == (
        "no",
        "memtrace attach 77 would not work: process 77 (redis) belongs to another user, root",
        "sudo memtrace attach 77",
    )


def test_what_cannot_be_told_before_is_a_doubt_with_its_remedy() -> None:
    facts = replace(MINE, access=None, host=Host(yama=1))
    answer, text, remedy = decision(replace(PLAIN, host=facts.host), Target(facts))
    assert answer == "unknown"
    assert text.startswith("memtrace attach 77 may not work: Yama's ptrace_scope is 1")
    assert remedy.startswith("sudo memtrace attach 77")
    rows = target_rows(Target(facts))
    assert answers(rows) | {"Yama": "unknown", "access": "unknown"} == answers(rows)
    assert all(r.remedy for r in rows if r.answer == "unknown")


def test_what_forbids_all_tracing_forbids_this_one() -> None:
    machine = replace(PLAIN, trial=Trial(seize=errno.ENOSYS, **NOTHING_TRACED))
    answer, text, _ = decision(machine, Target(MINE))
    assert answer == "no"
    assert text.startswith("memtrace attach 77 would not work: there is no PTRACE_SEIZE here")


def test_a_tracer_of_our_own_children_does_not_forbid_this_one() -> None:
    trial = Trial(seize=errno.EPERM, tracer=80, tracer_name="strace", **NOTHING_TRACED)
    assert decision(replace(PLAIN, trial=trial), Target(MINE))[0] == "ok"
    # Neither does a filter that cannot be installed: attach has none.
    trial = Trial(install=errno.EINVAL, **NOTHING_TRACED)
    assert decision(replace(PLAIN, trial=trial), Target(MINE))[0] == "ok"


@pytest.mark.parametrize(
    ("facts", "rest", "name", "text"),
    [
        ({"threads": 1200, "alive": 1200}, {}, "threads", "1,200"),
        ({"threads": 3, "alive": 2}, {}, "threads", "3, 1 of them ended"),
        ({"uninterruptible": (78,)}, {}, "waiting",
         "thread 78 in uninterruptible sleep: it comes under control when that ends"),
        ({"uninterruptible": (1, 2, 3, 4, 5)}, {}, "waiting",
         ("thread 1, 2, 3 and 2 more in uninterruptible sleep: it comes under control when that "
          "ends")),
        ({}, {"waits": {"epoll_wait": 8, "semop": 1}}, "asleep",
         ("8 in epoll_wait, 1 in semop: an attach breaks these calls off and puts them back"
         " (signal(7), EINTR)")),
        ({}, {"elf32": True}, "abi", "a 32-bit (i386) program"),
        ({"seccomp": 2}, {}, "seccomp", "it has a filter of its own, which attach leaves alone"),
        ({"ns_pids": (77, 1)}, {}, "pid namespace",
         "in a container: it calls itself 1, the trace 77"),
        ({"state": "T"}, {}, "note",
         "process 77 (redis) is stopped, and stays so until it gets SIGCONT"),
    ],
)  # fmt: skip
def test_what_else_matters_of_a_process(
    facts: dict[str, Any], rest: dict[str, Any], name: str, text: str
) -> None:
    plain = {r.name: r.text for r in fact_rows(Target(MINE, {}))}
    assert plain == {"threads": "1"}
    rows = fact_rows(Target(replace(MINE, **facts), **rest))
    assert {r.name: r.text for r in rows if r.text != plain.get(r.name)} == {name: text}
    assert {r.answer for r in rows} == {"note"}


@pytest.mark.parametrize(
    "facts",
    [
        Facts(77, 77, exists=False),
        Facts(77, 77, hidden=True),
        replace(MINE, kernel_thread=True),
        replace(MINE, state="Z", alive=0),
    ],
)
def test_there_is_nothing_more_to_say_of_what_is_no_process(facts: Facts) -> None:
    assert fact_rows(Target(facts)) == []
    assert decision(PLAIN, Target(facts))[0] == "no"


def test_the_bounding_set_decides_whether_sudo_is_a_remedy() -> None:
    bounded = replace(USER, cap_bnd=ALL_CAPABILITIES & ~(1 << CAP_SYS_PTRACE))
    machine = Machine(caller=bounded, host=Host(container="docker"))
    assert machine_decision(machine)[2] == "docker run --cap-add=SYS_PTRACE ..."
