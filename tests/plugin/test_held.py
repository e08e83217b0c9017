# SPDX-License-Identifier: GPL-2.0-or-later
"""What a marker's limits are held against, whenever it was added, and what a failing test says."""

from __future__ import annotations

import re

import pytest
from tests.plugin.projects import marked, outcomes

pytestmark = pytest.mark.live


def test_a_minimum_has_to_be_reached_by_one_process(project: pytest.Pytester, words: str) -> None:
    body = f"subprocess.run({words!r} + '; true', shell=True, check=True)"
    test = marked("chunks_mapped=dict(min=20, max=20)", body)
    test += marked("chunks_mapped=dict(min=21)", body, "b")
    found, ran = outcomes(project, test)
    assert found == {"passed": 1, "failed": 1}, ran.stdout.str()
    line = r"^memtrace: chunks\.mapped 20 in words \(pid \d+\), at least 21, in "
    assert re.search(line, ran.stdout.str(), re.MULTILINE)


ADDED = """
MARK = pytest.mark.memtrace(chunks_mapped=19)

@pytest.fixture
def before(request):
    request.node.add_marker(MARK)

@pytest.fixture
def after(request):
    yield
    request.node.add_marker(MARK)

def test_before(before):
    subprocess.run([{words!r}])

@pytest.mark.memtrace(calls_mremap=0)
def test_more(request):
    subprocess.run([{words!r}])
    request.node.add_marker(MARK)

def test_while(request):
    subprocess.run([{words!r}])
    request.node.add_marker(MARK)

def test_after(after):
    subprocess.run([{words!r}])

def test_skipped(after):
    pytest.skip("not today")

def test_by_name(request):
    assert request.getfixturevalue("memtrace").run([{words!r}]).processes
"""


def test_a_marker_that_is_added_is_judged_or_said_not_to_be(
    project: pytest.Pytester, words: str
) -> None:
    found, ran = outcomes(project, ADDED.format(words=words))
    assert found == {"failed": 3, "passed": 2, "errors": 1, "skipped": 1}, ran.stdout.str()
    shown = ran.stdout.str()
    assert "OVER BUDGET test_it.py::test_before - memtrace: chunks.mapped 20" in shown
    assert "OVER BUDGET test_it.py::test_more - memtrace: chunks.mapped 20" in shown
    assert "NOT MEASURED test_it.py::test_while - memtrace: the marker was added" in shown
    assert "ERROR test_it.py::test_after - Failed: memtrace: the marker was added" in shown
    off, ran = outcomes(project, ADDED.format(words=words), "--memtrace=off")
    assert off == {"passed": 4, "skipped": 2}, ran.stdout.str()
    assert "memtrace: off, 2 tests were not held to a budget" in ran.stdout.str()


UNITTEST = """
import unittest

@pytest.mark.memtrace(chunks_mapped=19)
class TestU(unittest.TestCase):
    def test_own(self):
        subprocess.run([{words!r}])
        self.assertEqual("mine", "other")

    def test_nothing(self):
        self.assertEqual("early", "other")

    def test_skipped(self):
        self.skipTest("not today")

    @unittest.expectedFailure
    def test_expected(self):
        self.fail("expected")

    def test_over(self):
        subprocess.run([{words!r}])
"""


def test_a_unittest_keeps_its_own_failure(project: pytest.Pytester, words: str) -> None:
    found, ran = outcomes(project, UNITTEST.format(words=words))
    assert found == {"failed": 3, "skipped": 1, "xfailed": 1}, ran.stdout.str()
    shown = ran.stdout.str()
    assert "AssertionError: 'mine' != 'other'" in shown
    assert "AssertionError: 'early' != 'other'" in shown
    own = shown.split("_ TestU.test_own _")[1].split("_ TestU.")[0]
    assert re.search(r"^FAIL +\S+: chunks\.mapped 20, at most 19", own, re.MULTILINE)
    assert shown.count("OVER BUDGET test_it.py::TestU::test_over") == 1
    assert shown.count("OVER BUDGET") == 1
    assert "NOT MEASURED" not in shown
