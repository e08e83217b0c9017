# SPDX-License-Identifier: GPL-2.0-or-later
"""What a ptrace loop has to get right, and the test that shows it.

 1  A seized task is not stopped; a child's first stop   test_families::test_children_of_four_threads
    is its own, and nothing else                         test_attach::test_threads_that_are_born_and_die_meanwhile
 2  Every event is asked for; the last map of an mm is   test_families::test_a_chain_of_execs
    read at its exit event                               test_programs::test_a_pipeline
 3  A child may stop before its parent tells of it       test_storms::test_forks_amid_mapping_threads
                                                         test_families::test_orphans_outlive_the_first_process
 4  Who shares memory with whom is asked, not guessed    test_families::test_children_that_borrow_the_memory_until_they_exec
                                                         test_storms::test_page_counts_after_one_user_of_an_mm_has_execed
                                                         test_hard_programs::test_children_made_with_clone_untraced_are_traced
 5  An exec by a thread ends all others                  test_storms::test_a_thread_execs_while_others_are_in_calls
                                                         test_attach::test_exec_from_a_thread
 6  Entry or exit is asked, not toggled                  test_odd_calls::test_each_leaves_the_map_that_the_program_reads
                                                         test_hard_programs::test_a_filter_that_traps
 7  A call that was seen to begin is seen to end         test_hard_programs::test_signals_at_any_moment_of_a_call
 8  Signals arrive as they were sent, and once           test_hard_programs::test_signals_that_are_blocked_and_waited_for
                                                         test_terminal::test_a_signal_to_the_job_comes_once
                                                         test_attach::test_signals_arrive_as_they_would
 9  A group stop is one, until SIGCONT                   test_surroundings::test_a_program_of_many_threads_is_stopped_and_continued
                                                         test_attach::test_a_stopped_process_stays_stopped
10  SIGKILL ends any stop, and any call                  test_hard_programs::test_killed_in_the_middle_of_a_call
                                                         test_crashes::test_threads_are_killed_in_the_middle_of_calls
11  The tracer is killed: a run ends, an attached        test_crashes::test_a_tree_whose_tracer_or_writer_is_killed
    process goes on                                      test_attach_crashes::test_some_crashes
12  A call that is restarted is one call                 test_hard_programs::test_signals_at_any_moment_of_a_call
                                                         test_terminal::test_stop_and_continue_in_the_foreground
13  An attach breaks off no call                         test_attach_target::test_calls_that_wait
                                                         test_attach_target::test_calls_that_wait_for_a_signal
14  i386 and x32 numbers                                 test_hard_programs::test_a_program_of_32_bits
                                                         test_hard_programs::test_32_bit_calls_of_a_64_bit_program
                                                         test_hard_programs::test_x32_calls
                                                         test_attach::test_a_32_bit_program
15  The first thread ends before the others              test_hard_programs::test_a_process_that_outlives_its_first_thread
                                                         test_attach::test_a_zombie_leader
16  A thread that does not stop is not waited for        test_attach::test_a_parent_that_waits_for_a_vfork_child
                                                         test_attach::test_left_while_the_parent_waits
17  A refusal is explained from facts                    test_access::test_another_tracer_is_named
                                                         test_access::test_another_users_process
                                                         test_access::test_where_ptrace_is_forbidden
18  An interrupt reaches the program; a third one kills; test_terminal::test_each_key_is_one_signal
    one detaches                                         test_terminal::test_the_third_interrupt_kills_what_does_not_answer
                                                         test_attach_target::test_pressed_twice
19  Terminal and job control                             test_terminal::test_less_sees_the_window_change_and_suspends
                                                         test_terminal::test_a_shell_with_jobs_of_its_own
                                                         test_terminal::test_the_terminal_is_hung_up
20  The exit status is the program's                     test_leaving::test_the_exit_code_is_the_programs
                                                         test_leaving::test_a_death_by_signal_is_died_again
21  Only tracees are waited for                          test_storms::test_a_child_that_is_no_tracee_is_not_waited_for
22  What changes a map without a memory call             test_odd_calls::test_each_did_what_it_is_there_for
                                                         test_odd_calls::test_after_a_personality_of_executable_reads
"""  # noqa: E501 - a table

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest


def table() -> dict[str, list[tuple[str, str]]]:
    """The points of the table above, by number."""
    points: dict[str, list[tuple[str, str]]] = {}
    number = ""
    for line in (__doc__ or "").splitlines()[2:]:
        number = line[:2].strip() or number
        points.setdefault(number, []).extend(re.findall(r"(test_\w+)::(test_\w+)", line))
    return points


def test_the_table_has_all_points() -> None:
    assert list(table()) == [str(n) for n in range(1, 23)]
    assert all(table().values())


@pytest.mark.parametrize("number", list(table()))
def test_the_tests_of_a_point_are_there(number: str) -> None:
    for module, name in table()[number]:
        tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text())
        assert name in {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}, module
