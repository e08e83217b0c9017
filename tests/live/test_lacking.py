# SPDX-License-Identifier: GPL-2.0-or-later
"""What programs may lack stands in a table, and what stands there may not always be lacking."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from tests.live import lacking
from tests.live.lacking import MAY_LACK, Lack, assert_may_lack

FOLDER = Path(__file__).parent


def test_what_may_be_lacking_is_what_programs_say_they_lack() -> None:
    said: set[str] = set()
    for file in (*FOLDER.glob("*.c"), FOLDER / "test_part_way.py"):
        said |= set(re.findall(r'\blacks\("([^"]+)"\)', file.read_text()))
    assert said == set(MAY_LACK)


def told(call: str, number: int) -> list[dict[str, object]]:
    return [{"what": "lacks", "call": call, "errno": number}]


def test_what_is_not_in_the_table_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="mmap may not be lacking: EINVAL"):
        assert_may_lack(told("mmap", errno.EINVAL))


def test_what_this_kernel_must_have_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lacking, "filtered", lambda: False)
    monkeypatch.setitem(MAY_LACK, "new", Lack(("ENOSYS",), since=(6, 10)))
    monkeypatch.setattr(lacking, "kernel", lambda: (6, 9))
    assert_may_lack(told("new", errno.ENOSYS))
    assert lacking.LACKED.pop("new") == "ENOSYS"
    with pytest.raises(AssertionError, match="not refused with EINVAL"):
        assert_may_lack(told("new", errno.EINVAL))
    for has in ((6, 10), (6, 18), (7, 0)):
        monkeypatch.setattr(lacking, "kernel", lambda has=has: has)
        with pytest.raises(AssertionError, match="new may not be lacking here"):
            assert_may_lack(told("new", errno.ENOSYS))
    monkeypatch.setitem(MAY_LACK, "new", Lack(("ENOSYS",), since=(6, 10), unless=lambda: True))
    assert_may_lack(told("new", errno.ENOSYS))
    assert lacking.LACKED.pop("new") == "ENOSYS"


def test_behind_a_filter_calls_may_be_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lacking, "filtered", lambda: True)
    monkeypatch.setitem(MAY_LACK, "new", Lack(("EINVAL",)))
    assert_may_lack(told("new", errno.EPERM))
    assert lacking.LACKED.pop("new") == "EPERM"
    with pytest.raises(AssertionError):
        assert_may_lack(told("new", errno.EINVAL))
